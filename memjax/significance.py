"""Tests of differences between two systems, and what a table may call better.

Dimension key: N questions, G documents.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats

ALPHA = 0.05

# Where the p-value of a permutation test is not exact: draws from
# np.random.default_rng(SEED), so that the same scores give the same number.
SEED = 0
DRAWS = 9_999
_ENUMERATED = 14  # documents: 2^14 sign vectors


def mcnemar(one_N: Sequence[float], other_N: Sequence[float]) -> float:
  """McNemar's exact p-value for scores of 0 and 1 of independent questions.

  Of the questions on which the systems differ, how many does one win?

  Raises:
    ValueError: a difference is not -1, 0 or 1.
  """
  apart_N = np.asarray(one_N, np.float64) - np.asarray(other_N, np.float64)
  if not np.isin(apart_N, (-1.0, 0.0, 1.0)).all():
    raise ValueError("McNemar's test is for scores of 0 and 1")
  won, lost = int((apart_N > 0).sum()), int((apart_N < 0).sum())
  if not won + lost:
    return 1.0
  return float(scipy.stats.binomtest(won, won + lost).pvalue)


def sign_flip(sum_G: Sequence[float]) -> float:
  """Two-sided p-value of a permutation test over documents.

  If the systems were the same, each document's summed difference might as well
  have the other sign:

    p = P(|sum_g s_g x_g| >= |sum_g x_g|),   s_g = +1 or -1, evenly

  Exact where sums are whole numbers (scores of 0 and 1), by convolution, and
  for up to 14 documents, by enumeration. Otherwise (1 + hits) / (1 + DRAWS) of
  random signs from default_rng(SEED).
  """
  sum_G = np.asarray(sum_G, np.float64)
  observed, size_G = abs(float(sum_G.sum())), np.abs(sum_G[sum_G != 0])
  if not len(size_G):
    return 1.0
  if (size_G == np.round(size_G)).all():
    return _convolved(size_G.astype(int), round(observed))
  # Sums of the same numbers in another order differ by rounding.
  reached = observed - 1e-9 * size_G.sum()
  if len(size_G) <= _ENUMERATED:
    total = np.zeros(1)
    for size in size_G:
      total = np.concatenate([total + size, total - size])
    return float((np.abs(total) >= reached).mean())
  rng, hits, block = np.random.default_rng(SEED), 0, 500
  for start in range(0, DRAWS, block):
    shape = (min(block, DRAWS - start), len(size_G))
    sign_BG = 2.0 * rng.integers(0, 2, shape, dtype=np.int8) - 1
    hits += int((np.abs(sign_BG @ size_G) >= reached).sum())
  return (1 + hits) / (1 + DRAWS)


def _convolved(size_G: np.ndarray, observed: int) -> float:
  """P(|sum of +-size| >= observed), from the whole distribution of the sum."""
  # chance[k]: the sum is k, where negative k count from the end.
  chance = np.zeros(2 * size_G.sum() + 1)
  chance[0] = 1.0
  for size in size_G:
    chance = (np.roll(chance, size) + np.roll(chance, -size)) / 2
  reach = np.minimum(
    np.arange(len(chance)), len(chance) - np.arange(len(chance))
  )
  return float(min(1.0, chance[reach >= observed].sum()))


def can_tell(count: int, alpha: float = ALPHA) -> bool:
  """Whether the signs of so many documents can come to a p-value of alpha."""
  return 2.0 ** (1 - count) <= alpha


def holm(p: Sequence[float]) -> list[float]:
  """P-values corrected for all of them having been looked at (Holm, 1979).

  The smallest of k is multiplied by k, the next by k - 1, and so on; none
  becomes smaller than one before it. What is at most .05 then: the chance of
  one or more false ones among them is at most 5 %.
  """
  corrected, highest = [0.0] * len(p), 0.0
  for rank, i in enumerate(np.argsort(p, kind="stable")):
    highest = max(highest, min(1.0, (len(p) - rank) * float(p[i])))
    corrected[i] = highest
  return corrected


def verdict(low: float, high: float, corrected: float) -> str:
  """ "better", "worse" or "not told apart".

  A difference counts where its interval leaves out 0 and its p-value, corrected
  for the whole table, is at most .05: both, so that a table never calls better
  what its own interval does not.
  """
  if corrected > ALPHA or low <= 0 <= high:
    return "not told apart"
  return "better" if low > 0 else "worse"
