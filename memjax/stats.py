"""Intervals and tests for scores of questions that come in documents.

Knows arrays, no agents. Questions about one text are answered from one reading
of it, so their scores hang together: what is drawn independently is the
document. Every error here is between documents. With the mean m of n scores,
n_g of which are about document g,

  e_g = sum of (score - m) over the questions of document g,   w_g = n_g / n
  V   = sum_g e_g^2 / (1 - w_g) / n^2             variance of m
  df  = 1 / sum_g w_g^2 - 1                       documents that count, less 1

For G documents of one size that is G / (G - 1) sum_g e_g^2 / n^2 and G - 1; the
division by 1 - w_g is the leverage correction of Bell and McCaffrey (Survey
Methodology 28, 2002). No interval is narrower than one that takes all questions
as independent: with few documents V is small by luck now and then.

Which interval keeps its 95 %, and where none does, was found by simulation:
experiments/04_statistics/README.md. There the percentile bootstrap of documents
holds the truth 87 to 94 % of the time with ten documents and half of the
answers right, and the studentised one as seldom as 17 % where few are, so
neither is used.

Dimension key: N questions, G documents.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.special

from memjax import significance

POWER = 0.8
Z = 1.959964
UPPER = 0.975  # quantile of a 95 % interval


@dataclasses.dataclass(frozen=True)
class Interval:
  """A value with its 95 % interval."""

  value: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Difference(Interval):
  """A difference of two systems.

  Attributes:
    p: two-sided p-value of no difference.
    detectable: the true difference that a sample of this size and spread finds
      with a power of 80 % at a level of 5 %; infinite where none can be found.
  """

  p: float
  detectable: float


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
  """Computes the Wilson score interval of a proportion, 95 % by default.

    (p + z^2/2n  +-  z sqrt(p (1 - p)/n + z^2/4n^2)) / (1 + z^2/n),  p = s/n

  Unlike p +- z sqrt(p (1 - p)/n) it stays inside [0, 1] and has a width at
  p = 0 and p = 1. E. B. Wilson, "Probable inference, the law of succession, and
  statistical inference", JASA 22, 1927; recommended by Brown, Cai and DasGupta,
  "Interval estimation for a binomial proportion", Statistical Science 16, 2001.

  Worked example: 50 of 100 is 0.5 [0.404, 0.596]; 0 of 10 is 0 [0, 0.278].

  Args:
    successes: how many of n were right. A sum of scores in [0, 1], such as F1,
      may be given: a score's variance is at most p (1 - p), so the interval is
      then at least as wide as it has to be.
    n: number of independent trials, which may be an effective one; with 0 the
      interval is (0, 1).
    z: normal quantile of the two-sided level.

  Returns:
    (low, high).

  Raises:
    ValueError: successes is not in [0, n].
  """
  if not 0 <= successes <= n:
    raise ValueError(f"successes must be in [0, n={n}], got {successes}")
  if n == 0:
    return 0.0, 1.0
  p = successes / n
  center = p + z * z / (2 * n)
  half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
  scale = 1 + z * z / n
  # Rounding must not put the ends a hair outside of [0, 1], or off p itself.
  low = min(p, max(0.0, (center - half) / scale))
  high = max(p, min(1.0, (center + half) / scale))
  return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Documents:
  """Which question is about which document.

  Attributes:
    index_N: document of each question, 0 to G - 1.
    size_G: questions about each.
  """

  index_N: np.ndarray
  size_G: np.ndarray

  @property
  def alone(self) -> bool:
    """Whether each question has a document of its own."""
    return bool((self.size_G == 1).all())

  @property
  def df(self) -> float:
    """Degrees of freedom of a variance between documents."""
    return self.size_G.sum() ** 2 / (self.size_G**2).sum() - 1

  def sums(self, value_N: np.ndarray) -> np.ndarray:
    """The sum over each document's questions, [G]."""
    return np.bincount(self.index_N, value_N, len(self.size_G))

  def products(self, one_N: np.ndarray, other_N: np.ndarray) -> float:
    """sum_g e_g e'_g / (1 - w_g), of two scores; at least two documents."""
    one_G = self.sums(one_N - one_N.mean())
    other_G = self.sums(other_N - other_N.mean())
    return float(
      (one_G * other_G / (1 - self.size_G / self.size_G.sum())).sum()
    )


def documents(document_N: Sequence[int] | None, n: int) -> Documents:
  """Numbers the documents of n questions; None gives each its own.

  Raises:
    ValueError: there is not one document for each question.
  """
  names = np.arange(n) if document_N is None else np.asarray(document_N)
  if names.shape != (n,):
    raise ValueError(
      f"{n} scores, but documents of shape {names.shape}: expected one for "
      "each score"
    )
  index_N, size_G = np.unique(names, return_inverse=True, return_counts=True)[
    1:
  ]
  return Documents(index_N, size_G)


def check(score_N: Sequence[float]) -> np.ndarray:
  """Scores as float64 [N].

  Raises:
    ValueError: there is none, or one is not in [0, 1].
  """
  score_N = np.asarray(score_N, np.float64)
  if score_N.ndim != 1 or not len(score_N):
    raise ValueError(
      f"scores of shape {score_N.shape}: expected one for each question"
    )
  if not ((score_N >= 0) & (score_N <= 1)).all():
    worst = score_N[~((score_N >= 0) & (score_N <= 1))][0]
    raise ValueError(f"a score is {worst}: expected numbers from 0 to 1")
  return score_N


def quantile(probability: float, df: float) -> float:
  """Student's t quantile."""
  return float(scipy.special.stdtrit(df, probability))


def mean(
  score_N: Sequence[float], document_N: Sequence[int] | None = None
) -> Interval:
  """Mean score with the interval of what other documents would give.

  Wilson's interval of m with an effective number of trials, and Student's t
  in place of z:

    n_eff = m (1 - m) / V,   z -> t(df)

  It stays in [0, 1] and has a width where all answers were right. Scores of 0
  and 1 with a document each have n_eff = n and z, which is Wilson's own; scores
  in between (F1) have a smaller V. Where all scores are the same they do not
  say how documents differ: n_eff = G. One document alone says nothing of
  others: [0, 1].

  Raises:
    ValueError: a score is not in [0, 1], or documents do not fit.
  """
  score_N = check(score_N)
  found = documents(document_N, len(score_N))
  value, n = float(score_N.mean()), len(score_N)
  if found.alone and np.isin(score_N, (0.0, 1.0)).all():
    return Interval(value, *wilson(score_N.sum(), n))
  if len(found.size_G) < 2:
    return Interval(value, 0.0, 1.0)
  t = quantile(UPPER, found.df)
  between = found.products(score_N, score_N) / n**2
  squared = max(t**2 * between, Z**2 * float(score_N.var()) / n)
  if np.ptp(score_N) == 0:
    squared = t**2 / len(found.size_G) * value * (1 - value)
  return around(value, squared, t**2 / len(found.size_G))


def around(value: float, squared: float, constant: float) -> Interval:
  """Wilson's interval around a mean score whose squared half-width is known.

  Args:
    value: the mean, in [0, 1].
    squared: t^2 V.
    constant: t^2 / n_eff where the mean is 0 or 1, and V therefore 0.
  """
  # Rounding: a mean of 1 may come out a hair above.
  value = min(value, 1.0)
  per_trial = squared / (value * (1 - value)) if 0 < value < 1 else constant
  if per_trial == 0:
    return Interval(value, value, value)
  return Interval(value, *wilson(value / per_trial, 1 / per_trial, 1.0))


def average(parts: Sequence[Interval], documents: int) -> Interval:
  """The mean of means of sets that are fixed and drawn apart, each counts once.

  Its half-width is h = sqrt(sum_k h_k^2) / K: other documents, the same sets.

  Args:
    parts: of each of K sets.
    documents: in all sets.
  """
  value = sum(x.value for x in parts) / len(parts)
  half = math.hypot(*((x.high - x.low) / 2 for x in parts)) / len(parts)
  return around(value, half**2, Z**2 / documents)


def half_width(
  difference_N: np.ndarray, found: Documents, probability: float
) -> float:
  """What is added to a mean difference for one end of an interval.

    max(t^2 V', z^2 U),   V' = (sum_g e_g^2 / (1 - w_g) + 1) / (n + 2)^2
                          U  = (sum_i d_i^2 + 1 - (sum_i d_i)^2 / (n + 2))
                               / (n + 2)^2

  both of which count two questions more than there are, on which one system is
  right and the other wrong, half a question for each way and each agreement
  (Agresti and Min, Statistics in Medicine 24, 2005): two systems that never
  differed on 50 questions are not known to be the same.

  Args:
    difference_N: differences, in [-1, 1].
    found: their documents, at least two.
    probability: of the quantiles, 0.975 for a 95 % interval.
  """
  n = len(difference_N)
  t, z = quantile(probability, found.df), scipy.special.ndtri(probability)
  between = found.products(difference_N, difference_N) + 1
  apart = (difference_N**2).sum() + 1 - difference_N.sum() ** 2 / (n + 2)
  return math.sqrt(max(t**2 * between, z**2 * apart)) / (n + 2)


def difference(
  one_N: Sequence[float],
  other_N: Sequence[float],
  document_N: Sequence[int] | None = None,
) -> Difference:
  """How much better one system is than another on the same questions.

  The mean of one - other with `half_width`. The p-value is McNemar's exact one
  for scores of 0 and 1 with a document each, otherwise that of sign flips of
  documents, of which the first is a case.

  Raises:
    ValueError: the scores are not of the same questions.
  """
  one_N, other_N = check(one_N), check(other_N)
  if len(one_N) != len(other_N):
    raise ValueError(
      f"{len(one_N)} and {len(other_N)} scores: a paired difference needs the "
      "same questions"
    )
  found, apart_N = documents(document_N, len(one_N)), one_N - other_N
  value, count = float(apart_N.mean()), len(found.size_G)
  if count < 2:
    return unknown(value)
  half = half_width(apart_N, found, UPPER)
  binary = np.isin(apart_N, (-1.0, 0.0, 1.0)).all()
  p = (
    significance.mcnemar(one_N, other_N)
    if found.alone and binary
    else significance.sign_flip(found.sums(apart_N))
  )
  # As planned by `stats_power`, with the spread that was seen.
  detectable = half + half_width(apart_N, found, POWER) + 2 / len(apart_N)
  return Difference(
    value,
    max(-1.0, value - half),
    min(1.0, value + half),
    p,
    detectable if significance.can_tell(count) and detectable < 1 else math.inf,
  )


def unknown(value: float) -> Difference:
  """A difference of which one document alone says no more."""
  return Difference(value, -1.0, 1.0, 1.0, math.inf)


def memory_gain(
  system_N: Sequence[float],
  none_N: Sequence[float],
  oracle_N: Sequence[float],
  document_N: Sequence[int] | None = None,
) -> tuple[Interval | None, str]:
  """How much of what memory can give a system has: 0 none, 1 all of it.

    gain = a / b,   a = system - none,   b = oracle - none

  on the same questions, with Fieller's interval: all r for which a - r b is not
  told apart from 0,

    (a - r b)^2 <= t(df)^2 (V_aa - 2 r V_ab + r^2 V_bb)

  It is finite where b is told apart from 0. In simulation it holds the truth 93
  to 97 % of the time, the delta method, which takes b as known well, 93 to 98.

  Returns:
    (interval, ""), or (None, why not) where b is not above 0 for certain.
  """
  system_N, none_N, oracle_N = map(check, (system_N, none_N, oracle_N))
  room = difference(oracle_N, none_N, document_N)
  if room.low <= 0:
    return None, (
      f"oracle - none is {room.value:+.3f} [{room.low:+.3f}, "
      f"{room.high:+.3f}], not surely above 0: memory has nothing to give here "
      "that could be seen"
    )
  found, n = documents(document_N, len(none_N)), len(none_N)
  a_N, b_N = system_N - none_N, oracle_N - none_N
  a, b = float(a_N.mean()), float(b_N.mean())
  # Two questions more, as in `half_width`: so it is finite where room is > 0.
  scale = quantile(UPPER, found.df) ** 2 / (n + 2) ** 2
  aa = scale * (found.products(a_N, a_N) + 1)
  bb = scale * (found.products(b_N, b_N) + 1)
  ab = scale * found.products(a_N, b_N)
  # r^2 (b^2 - bb) - 2 r (a b - ab) + (a^2 - aa) <= 0
  square, middle = b * b - bb, a * b - ab
  root = math.sqrt(max(0.0, middle**2 - square * (a * a - aa)))
  return Interval(a / b, (middle - root) / square, (middle + root) / square), ""
