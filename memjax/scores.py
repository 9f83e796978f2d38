"""From scores of questions to the entries of a table, with intervals.

Dimension key: N questions, K samples of each.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import metrics as metrics_lib
from memjax.envs import example as example_lib

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


def interval(score_N: np.ndarray) -> dict[str, Any]:
  """Mean of one score per question, its 95 % interval, and n.

  Wilson where all scores are 0 or 1; otherwise, for scores in between such as
  F1 or a mean over samples, mean +- 1.96 standard errors, cut to [0, 1].
  """
  n, mean = len(score_N), float(score_N.mean())
  if np.isin(score_N, (0.0, 1.0)).all():
    low, high = metrics_lib.wilson(float(score_N.sum()), n)
  else:
    # One score says nothing about the spread.
    spread = float(score_N.std(ddof=1)) if n > 1 else float("inf")
    half = 1.959964 * spread / n**0.5
    low, high = max(0.0, mean - half), min(1.0, mean + half)
  return {"accuracy": mean, "low": low, "high": high, "n": n}


def paired(one_N: np.ndarray, other_N: np.ndarray) -> dict[str, Any]:
  """Mean difference of two scores of the same questions, with 95 % interval.

  Mean +- 1.96 standard errors of the N differences.
  """
  difference_N = np.asarray(one_N, np.float64) - np.asarray(other_N)
  n, mean = len(difference_N), float(difference_N.mean())
  spread = float(difference_N.std(ddof=1)) if n > 1 else float("inf")
  half = 1.959964 * spread / n**0.5
  return {"difference": mean, "low": mean - half, "high": mean + half, "n": n}


def cell(
  greedy_N: np.ndarray, sampled_NK: np.ndarray | None = None
) -> dict[str, Any]:
  """A table's entry: greedy accuracy with interval, and avg@K if sampled."""
  entry = interval(greedy_N)
  if sampled_NK is not None:
    sampled = interval(sampled_NK.mean(axis=1))
    entry |= {
      "sampled": sampled["accuracy"],
      "sampled_low": sampled["low"],
      "sampled_high": sampled["high"],
      "sampled_n": sampled["n"],
      "samples": sampled_NK.shape[1],
    }
  return entry


def breakdown(
  answers: Answers,
  label: Callable[[example_lib.Example, str], Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
  """One entry for each label that an environment gives to some answers."""
  scores: dict[str, list[float]] = {}
  for example, texts in zip(answers.examples, answers.texts):
    for name, score in label(example, texts[0]).items():
      scores.setdefault(name, []).append(score)
  return {name: interval(np.array(x)) for name, x in sorted(scores.items())}


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
  found = [
    env.recall(example, listed)
    for example, listed in zip(answers.examples, answers.listed)
  ]
  found = [x for x in found if x is not None]
  return interval(np.array(found, np.float64)) if found else None


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
