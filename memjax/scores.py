"""From scores of questions to the entries of a table, with intervals.

Dimension key: N questions, K samples of each.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import stats
from memjax import stats_power
from memjax.envs import example as example_lib

# More sets than these are only counted where a line is about all of them.
_NAMED = 4

Metric = Callable[[example_lib.Example, str], float]


@dataclasses.dataclass(frozen=True)
class Answers:
  """What an agent answered.

  Attributes:
    examples: N examples.
    texts: K answers to each of them, decoded.
    finals: the texts that the state of the first sample held in the end.
    listed: the entries that the answer of the first sample was shown, of agents
      that choose.
    traces: what happened in each turn of the first rows, as the report wants.
  """

  examples: Sequence[example_lib.Example]
  texts: list[list[str]]
  finals: list[list[str]]
  listed: list[list[str]]
  traces: list[dict[str, Any]]

  def scores(self, metric: Metric) -> np.ndarray:
    """The metric of every answer, float64 [N, K]."""
    return np.array(
      [
        [metric(example, text) for text in texts]
        for example, texts in zip(self.examples, self.texts)
      ],
      np.float64,
    )


def measure(env: Any, answers: Answers) -> np.ndarray:
  """An environment's metric of every answer, float64 [N, K].

  All at once by `metrics`, where it has that.
  """
  if not hasattr(env, "metrics"):
    return answers.scores(env.metric)
  N, K = len(answers.texts), len(answers.texts[0])
  asked = [example for example in answers.examples for _ in range(K)]
  texts = [text for row in answers.texts for text in row]
  return np.array(env.metrics(asked, texts), np.float64).reshape(N, K)


def interval(
  score_N: Sequence[float], document_N: Sequence[int] | None = None
) -> dict[str, Any]:
  """Mean of one score per question, its 95 % interval, n, and documents.

  `stats.mean`: what other documents would give. None is a document for each.
  """
  found = stats.mean(score_N, document_N)
  return {
    "accuracy": found.value,
    "low": found.low,
    "high": found.high,
    **_sizes(score_N, document_N),
  }


def paired(
  one_N: Sequence[float],
  other_N: Sequence[float],
  document_N: Sequence[int] | None = None,
) -> dict[str, Any]:
  """How much better one is than the other on the same questions.

  `stats.difference`; "detectable" is null where no difference could be found.
  """
  found = stats.difference(one_N, other_N, document_N)
  return {**difference(found), **_sizes(one_N, document_N)}


def difference(found: stats.Difference) -> dict[str, Any]:
  """A difference as JSON, which has no infinity."""
  detectable = found.detectable if math.isfinite(found.detectable) else None
  return {
    "difference": found.value,
    "low": found.low,
    "high": found.high,
    "p": found.p,
    "detectable": detectable,
  }


def _sizes(
  score_N: Sequence[float], document_N: Sequence[int] | None
) -> dict[str, int]:
  count = len(score_N) if document_N is None else len(set(document_N))
  return {"n": len(score_N), "documents": count}


def cell(
  greedy_N: np.ndarray,
  sampled_NK: np.ndarray | None = None,
  document_N: Sequence[int] | None = None,
) -> dict[str, Any]:
  """A table's entry: greedy accuracy with interval, and avg@K if sampled."""
  entry = interval(greedy_N, document_N)
  if sampled_NK is not None:
    sampled = interval(sampled_NK.mean(axis=1), document_N)
    entry |= {
      "sampled": sampled["accuracy"],
      "sampled_low": sampled["low"],
      "sampled_high": sampled["high"],
      "sampled_n": sampled["n"],
      "samples": sampled_NK.shape[1],
    }
  return entry


def memory_gains(
  scores: Mapping[str, Sequence[float]],
  controls: Mapping[str, Mapping[str, Sequence[float]]],
  documents: Mapping[str, Sequence[int]],
) -> dict[str, dict[str, Any]]:
  """What share of what memory can give an agent has, of each set.

  Args:
    scores: of the agent, of each question of each set.
    controls: the same with other memories; without "oracle" and
      "empty_memory" there is no gain.
    documents: of each question.

  Returns:
    {set: {"gain", "low", "high"}, or {"gain": None, "reason"}}.
  """
  gains = {}
  none = controls.get("empty_memory", {})
  for name, oracle_N in controls.get("oracle", {}).items():
    if name not in none:
      continue
    none_N = none[name]
    found, reason = stats.memory_gain(
      scores[name], none_N, oracle_N, documents[name]
    )
    gains[name] = {"gain": None, "reason": reason}
    if found:
      gains[name] = {
        "gain": found.value,
        "low": found.low,
        "high": found.high,
      }
  return gains


def averages(
  cells: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]
) -> dict[str, dict[str, Any]]:
  """Mean accuracy over the sets of each group that has all of its cells."""
  found = {}
  for group, names in groups.items():
    if not all(name in cells for name in names):
      continue
    parts = [cells[name] for name in names]
    documents = sum(x["documents"] for x in parts)
    mean = stats.average(
      [stats.Interval(x["accuracy"], x["low"], x["high"]) for x in parts],
      documents,
    )
    found[group] = {
      "accuracy": mean.value,
      "low": mean.low,
      "high": mean.high,
      "n": sum(x["n"] for x in parts),
      "documents": documents,
    }
  return found


def plan(sets: Mapping[str, Sequence[example_lib.Example]]) -> str:
  """One line: which differences the questions of held-out sets can show."""
  alike: dict[tuple[int, int], list[str]] = {}
  for name, examples in sets.items():
    count = len(set(example_lib.documents(examples)))
    alike.setdefault((len(examples), count), []).append(name)
  parts = []
  for (n, count), names in alike.items():
    found = stats_power.detectable(n, count)
    least = f"{found:.3f}" if math.isfinite(found) else "none"
    told = ", ".join(names) if len(names) <= _NAMED else f"{len(names)} sets"
    parts.append(f"{told} {least} ({n} questions of {count} documents)")
  return (
    f"smallest difference of two runs that is found with a power of "
    f"{stats.POWER:.0%}: {', '.join(parts)}; assumed are accuracy "
    f"{stats_power.ACCURACY}, correlation {stats_power.CORRELATION} of "
    f"two answers to a question, {stats_power.WITHIN} between questions of a "
    "document"
  )


def breakdown(
  answers: Answers,
  label: Callable[[example_lib.Example, str], Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
  """One entry for each label that an environment gives to some answers."""
  scores: dict[str, list[tuple[float, int]]] = {}
  document_N = example_lib.documents(answers.examples)
  for example, texts, document in zip(
    answers.examples, answers.texts, document_N
  ):
    for name, score in label(example, texts[0]).items():
      scores.setdefault(name, []).append((score, document))
  return {name: interval(*zip(*x)) for name, x in sorted(scores.items())}


def _plain_health(
  example: example_lib.Example, texts: Sequence[str]
) -> dict[str, float]:
  """What can be said of a state without knowing what is true."""
  del example
  found = {"size": float(len(texts))}
  if texts:
    found["duplicates"] = 1 - len({x.strip() for x in texts}) / len(texts)
  return found


def recall(env: Any, answers: Answers) -> dict[str, Any] | None:
  """Share of what an answer needs that it was shown, over the questions.

  None where agent or environment know nothing of it.
  """
  if not hasattr(env, "recall"):
    return None
  document_N = example_lib.documents(answers.examples)
  found = [
    (env.recall(example, listed), document)
    for example, listed, document in zip(
      answers.examples, answers.listed, document_N
    )
  ]
  found = [x for x in found if x[0] is not None]
  return interval(*zip(*found)) if found else None


def memory_health(env: Any, answers: Answers) -> dict[str, dict[str, float]]:
  """Means over final states of what an environment knows to say of them.

  A measure that does not apply to a state, such as precision of an empty bank,
  is left out of its mean; n says how many it applies to. Size and duplicates
  need no truth, and are told of any.
  """
  health = getattr(env, "health", _plain_health)
  found: dict[str, list[float]] = {}
  for example, held in zip(answers.examples, answers.finals):
    for name, value in health(example, held).items():
      found.setdefault(name, []).append(value)
  return {
    name: {"mean": float(np.mean(x)), "n": len(x)}
    for name, x in sorted(found.items())
  }
