"""What a comparison of arms will take and can show, said before and between.

Keys are (arm, seed); an outcome is what `compare.outcome` says of a run.
"""

import datetime
import math
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from memjax import significance
from memjax import stats_power
from memjax.envs import example as example_lib

# (arm, seed)
Key = tuple[str, int]
Outcomes = Mapping[Key, Mapping[str, Any]]
Sets = Mapping[str, Sequence[example_lib.Example]]


def describe(
  runs: Iterable[Key],
  reference: str,
  outcomes: Outcomes,
  sets: Sequence[Sets],
) -> str:
  """How many runs there are, what is left, which difference they can show.

  Args:
    runs: all there are to be.
    reference: the arm that others are compared with.
    outcomes: of all, {} where a run has not ended.
    sets: held-out examples of each run; the first set is compared.
  """
  names = dict.fromkeys(name for name, _ in runs)
  seeds = dict.fromkeys(seed for _, seed in runs)
  head = (
    f"{len(names)} arms x {len(seeds)} seeds: {len(outcomes)} runs, the "
    f"reference is {reference}"
  )
  if any(outcomes.values()):
    head += f"; going on where it stopped, {left(outcomes)}"
  else:
    head += "; the first will show how long they take"
  return f"{head}; {_power(len(names) - 1, len(seeds), sets)}"


def left(outcomes: Outcomes) -> str:
  """How many runs have ended, and what the others will take."""
  ended = [x for x in outcomes.values() if x]
  diverged = sum("step" in x for x in ended)
  text = f"{len(ended)} of {len(outcomes)} runs are done"
  if diverged:
    text += f" ({diverged} diverged)"
  count = len(outcomes) - len(ended)
  seconds = [x["seconds"] for x in ended if "seconds" in x]
  if count and seconds:
    mean = sum(seconds) / len(seconds)
    needed = datetime.timedelta(seconds=round(mean * count))
    text += f", {count} to go: about {needed} at {mean:.0f} s each"
  elif count:
    text += f", {count} to go"
  return text


def _power(
  others: int,
  seeds: int,
  sets: Sequence[Sets],
) -> str:
  """The difference that the table can show, at the least."""
  if not others:
    return "one arm: nothing to compare"
  name, examples = next(iter(sets[0].items()))
  alpha = significance.ALPHA / others
  # A file has the same questions for all seeds, a generator other ones.
  asked = {tuple(x.question for x in next(iter(s.values()))) for s in sets}
  if seeds > 1 and len(asked) > 1:
    found = stats_power.detectable_by_seeds(len(examples), seeds, alpha=alpha)
  else:
    documents = len(set(example_lib.documents(examples)))
    found = stats_power.detectable(len(examples), documents, alpha=alpha)
  least = f"{found:.3f}" if math.isfinite(found) else "none"
  return (
    f"smallest difference from the reference in {name} that is found four "
    f"times in five, corrected for {others} "
    f"comparison{'s' * (others > 1)}: {least}, more if "
    "seeds differ"
  )
