"""From what happened in a group of rollouts to an advantage for each call.

Each operation (extract, update, select, answer) has its own reward, a weighted
sum of

  outcome   were the final answers right? Of the trajectory's own question for
            an answer, the mean over all questions of the context for the rest;
  format    the share of calls whose response kept to the grammar;
  citation  of a "select" call: the share of the M places whose entries the
            answer cited; 0 unless the answer is right (MemFactory, 2603.29493);
  truth     F1 between the changes made to the state and those that were right
            to make, where the environment knows them.

Advantages are relative to the group: G rollouts that read the same context
under one policy. The members share the context, the questions and the state
before the first turn; from then on each has its own state, so their later
prompts differ. The baseline is fair as an estimate all the same: it is the mean
return of the policy from the shared start, and does not depend on a member's
own choices but through its weight of 1/G. What it does not do is to tell a
member's luck in earlier turns from its skill in a later one (Memory-R2,
2605.21768, states this); per-turn truth lessens that where it is known. Answers
to one question are normalised among themselves.

Dimension key: W contexts, G rollouts of each, q questions of each.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from memjax import advantages


@dataclasses.dataclass(frozen=True)
class Weights:
  """What an operation is rewarded for."""

  outcome: float = 1.0
  format: float = 0.0
  truth: float = 0.0
  citation: float = 0.0


def f1(right: int, made: int, both: int) -> float:
  """2 both / (right + made); 1 where nothing was to be done, and was not."""
  return 2 * both / (right + made) if right + made else 1.0


def compare(
  rewards: Mapping[str, Mapping[str, np.ndarray]],
  groups: int,
  std_normalize: bool,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """Advantages within each of so many groups.

  Args:
    rewards: from `terms`.
    groups: W.
    std_normalize: divide by the group's standard deviation.

  Returns:
    (advantage by operation, [W * G], or [W * G * q] where each question takes
    a call; bool [W] where any of them is not zero).
  """
  found, live = {}, np.zeros(groups, bool)
  for op, part in rewards.items():
    reward = part["outcome"] + part["format"] + part["citation"]
    reward = reward + (part["penalty"] + part["truth"])
    if reward.ndim == 2:
      reward = reward[..., None]
    reward = np.moveaxis(reward.astype(np.float32), 1, -1)  # [W, ., G]
    W, n, G = reward.shape
    advantage = np.asarray(
      advantages.group_relative(reward.reshape(W * n, G), std_normalize)
    ).reshape(W, n, G)
    live |= (reward != reward[..., :1]).any((1, 2))
    found[op] = np.moveaxis(advantage, -1, 1).reshape(-1)
  return found, live


def terms(
  weights: Mapping[str, Weights],
  outcome_WGq: np.ndarray,
  formats: Mapping[str, np.ndarray],
  truth_WG: np.ndarray | None,
  penalty_WG: np.ndarray,
  shuffle: np.random.Generator | None = None,
  cited_WGq: np.ndarray | float = 0.0,
) -> dict[str, dict[str, np.ndarray]]:
  """What each term adds to an operation's reward, weighted.

  Args:
    weights: by operation; "answer" is one of them.
    outcome_WGq: what the verifier gave to each answer.
    formats: by operation, [W, G] shares of well-formed calls; of calls that
      each question takes, [W, G, q].
    truth_WG: mean F1 of changes, or None where it is not known.
    penalty_WG: added to every reward, at most 0.
    shuffle: permutes trajectories' rewards within each group: a control.
    cited_WGq: share of the places that an answer cited.

  Returns:
    By operation: "outcome", "format", "citation", "truth" and "penalty", each
    [W, G], or [W, G, q] where each question takes a call.
  """
  found = {}
  order_WG = np.broadcast_to(np.arange(outcome_WGq.shape[1]), penalty_WG.shape)
  if shuffle is not None:
    # One order for all operations: a trajectory gets another one's rewards.
    order_WG = shuffle.permuted(order_WG, axis=1)
  for op, weight in weights.items():
    each = formats[op].ndim == 3
    outcome = outcome_WGq if each else outcome_WGq.mean(-1)
    truth = weight.truth * truth_WG if weight.truth else np.float32(0.0)
    part = {
      "outcome": weight.outcome * outcome,
      "format": weight.format * formats[op],
      "citation": weight.citation * cited_WGq * outcome_WGq
      if each
      else np.float32(0.0),
      "truth": truth[..., None] if each and weight.truth else truth,
      "penalty": penalty_WG[..., None] if each else penalty_WG,
    }
    order = order_WG[..., None] if each else order_WG
    found[op] = {
      name: np.take_along_axis(np.broadcast_to(x, outcome.shape), order, axis=1)
      for name, x in part.items()
    }
  return found
