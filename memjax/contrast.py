"""Differences between arms: one run each, or several seeds of each.

An arm is a method, given by the results of its runs. Arms are compared on the
same questions. Several seeds of an arm were asked either all the same questions
or each its own, where questions are generated from the seed.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import results
from memjax import scores
from memjax import significance
from memjax import stats_seeds

Arm = Sequence[results.Result]


def accuracy(arm: Arm, name: str) -> dict[str, Any]:
  """The mean score of an arm in a set: a cell, with the number of seeds.

  Of several seeds the interval is for other seeds on other questions, and
  "between_seeds" says how far a rerun may be off: standard deviation "sd" of a
  run's accuracy, its interval "low" to "high", and "share", what seeds alone
  make up of the variance of the mean (of the same questions to all) or of a
  run's accuracy (where each seed has its own); None where that is not known.
  """
  return _accuracy(arm, name, [x.scores[name] for x in arm])


def behind(arm: Arm, name: str) -> dict[str, Any]:
  """What the same policies score from other memories in a set.

  Returns:
    {"controls": {control: cell as of `accuracy`} of those that all runs have,
    "memory_gain": as `scores.memory_gains` has it of a set, None if there is
    none}. The gain is that of these runs, its interval for other questions.
  """
  names = [
    control
    for control in arm[0].controls
    if all(name in x.controls.get(control, {}) for x in arm)
  ]
  found = {
    control: [x.controls[control][name] for x in arm] for control in names
  }
  together = {x: _together(arm, name, y) for x, y in found.items()}
  document_N = _together(arm, name, [x.documents[name] for x in arm], True)
  gains = scores.memory_gains(
    {name: _together(arm, name, [x.scores[name] for x in arm])},
    {control: {name: score_N} for control, score_N in together.items()},
    {name: document_N},
  )
  return {
    "controls": {x: _accuracy(arm, name, y) for x, y in found.items()},
    "memory_gain": gains.get(name),
  }


def _together(
  arm: Arm, name: str, values: Sequence[np.ndarray], names: bool = False
) -> np.ndarray:
  """One value for each question: the mean over seeds that were asked the same.

  Names of documents are made different where the questions are.
  """
  if _alike(arm, name):
    return values[0] if names else np.mean(values, axis=0)
  if names:
    start_S = np.cumsum([0, *(x.max() + 1 for x in values)])
    values = [x + start for x, start in zip(values, start_S)]
  return np.concatenate(values)


def _accuracy(
  arm: Arm, name: str, found: Sequence[np.ndarray]
) -> dict[str, Any]:
  """`accuracy` from the scores of each run."""
  documents = [x.documents[name] for x in arm]
  if len(arm) == 1:
    return {**scores.interval(found[0], documents[0]), "seeds": 1}
  if _alike(arm, name):
    parts = stats_seeds.decompose(np.array(found), documents[0])
    mean, sd, share = parts.both, parts.seed_sd, parts.shares.get("seeds")
    found, documents = found[:1], documents[:1]
  else:
    mean = stats_seeds.nested_mean(found, documents)
    sd, share = stats_seeds.nested_spread(found, documents)
  return {
    "accuracy": mean.value,
    "low": mean.low,
    "high": mean.high,
    "n": sum(map(len, found)),
    "documents": sum(len(set(x)) for x in documents),
    "seeds": len(arm),
    "between_seeds": {
      "sd": sd.value,
      "low": sd.low,
      "high": sd.high,
      "share": share,
    },
  }


def difference(arm: Arm, reference: Arm, name: str) -> dict[str, Any]:
  """How much better an arm is than another in a set.

  Returns:
    `scores.paired` for one run of each. For several, with an interval over
    seeds and questions; "seeds" is how many the arm has.

  Raises:
    ValueError: the runs were asked different questions; one arm has one run,
      the other several; an arm has a seed twice.
  """
  reference = _matched(arm, reference, name)
  one, other = ([x.scores[name] for x in runs] for runs in (arm, reference))
  documents = [x.documents[name] for x in arm]
  if len(arm) == 1:
    found = scores.paired(one[0], other[0], documents[0])
    return {**found, "seeds": 1}
  if _alike(arm, name):
    seeds = [[x.seed for x in runs] for runs in (arm, reference)]
    paired = seeds[0] == seeds[1] and None not in seeds[0]
    found = stats_seeds.difference(
      np.array(one), np.array(other), documents[0], paired=paired
    )
    one, documents = one[:1], documents[:1]
  else:
    found = stats_seeds.nested_difference(one, other, documents)
  return {
    **scores.difference(found),
    "n": sum(map(len, one)),
    "documents": sum(len(set(x)) for x in documents),
    "seeds": len(arm),
  }


def add_verdicts(rows: Sequence[dict[str, Any]]) -> None:
  """Adds "p_holm" and "verdict" to all differences of one table."""
  corrected = significance.holm([row["p"] for row in rows])
  for row, p in zip(rows, corrected):
    row["p_holm"] = p
    row["verdict"] = significance.verdict(row["low"], row["high"], p)


def text(cell: Mapping[str, Any], key: str) -> str:
  """A value with its interval, for people; differences with their sign."""
  sign = "+" if key == "difference" else ""
  low, high = cell["low"], cell["high"]
  return f"{cell[key]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _alike(arm: Arm, name: str) -> bool:
  """Whether all seeds of an arm were asked the same questions."""
  return len({x.hashes[name] for x in arm}) == 1


def _matched(arm: Arm, reference: Arm, name: str) -> Arm:
  """The reference's runs, each beside the run with the same questions."""
  if 1 in (len(arm), len(reference)) and len(arm) != len(reference):
    raise ValueError(
      f"{len(arm)} of one arm ({_names(arm)}), {len(reference)} of the other "
      f"({_names(reference)}): what another seed changes needs at least two "
      "runs of both, as in --runs=A1,A2 --runs=B1,B2"
    )
  for runs in (arm, reference):
    seeds = [(x.seed, x.hashes[name]) for x in runs if x.seed is not None]
    if len(set(seeds)) < len(seeds):
      raise ValueError(
        f"{_names(runs)}: a seed occurs twice: runs of an arm must differ in "
        "config.seed, or they say nothing of other seeds"
      )
  if _alike([*arm, *reference], name):
    for other in (*arm[1:], *reference):
      results.check_same(name, arm[0], other)
    return reference
  by_hash = {x.hashes[name]: x for x in reference}
  for place, one in enumerate(arm):
    if one.hashes[name] not in by_hash:
      results.check_same(name, reference[min(place, len(reference) - 1)], one)
    results.check_same(name, by_hash[one.hashes[name]], one)
  if (
    not len(arm)
    == len(reference)
    == len(by_hash)
    == len({x.hashes[name] for x in arm})
  ):
    raise ValueError(
      f"{_names(arm)} and {_names(reference)}: in set {name!r} some seeds "
      "share questions and others do not: name runs that were all asked the "
      "same, or one pair of runs for each seed"
    )
  return [by_hash[x.hashes[name]] for x in arm]


def _names(arm: Arm) -> str:
  return ", ".join(str(x.path) for x in arm)
