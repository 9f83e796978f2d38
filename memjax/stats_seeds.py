"""Seeds apart from questions: what another run changes, what other questions.

A method is judged by a few runs, each of another seed, on some questions. Both
were drawn, so both make an error. With the same N questions to S seeds,

  y_si = m + s_s + q_i + r_si                                             (1)

where seeds s, questions q (by their documents) and rests r are independent.
From means over all, over a seed and over a question, with `stats` between
documents,

  V_s = variance over seeds of y_s. , / S         = var(s)/S + var(r)/SN  (2)
  V_q = variance of the mean of the N y_.i        = var(q)/N + var(r)/SN  (3)
  V_r = of the N means of y_si - y_s. - y_.i + y..           = var(r)/SN  (4)

so the variance of m is V_s + V_q - V_r. Two or three seeds say little about
var(s); each part has the t quantile of its own degrees of freedom,

  half^2 = t(S - 1)^2 V_s + t(df)^2 max(V_q - V_r, 0)                     (5)

or t(df)^2 V_q where that is more: not narrower than for these runs alone.
One quantile with Satterthwaite's degrees of freedom for the sum holds the truth
88 % of the time at two seeds that differ much, and 93 % at three; (5) 94 to
99 %, and more where seeds hardly differ (experiments/04_statistics).

A difference is (1) of the differences where seeds are paired (a seed gives both
methods the same data, say); otherwise V_s and V_r are the sums of both methods'
own, each V_s with its quantile. Where each seed has questions of its own, its
mean difference has both errors in it, and (2) is all that is needed.

Dimension key: N questions, S seeds, G documents.
"""

import dataclasses
import math
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np
import scipy.optimize
import scipy.stats

from memjax import stats


@dataclasses.dataclass(frozen=True)
class Decomposition:
  """Where the mean score of several seeds is uncertain, and by how much.

  Attributes:
    other_questions: interval for these runs on other questions.
    other_seeds: for other runs on these questions.
    both: for other runs on other questions.
    seed_sd: standard deviation over seeds of the mean score of one run on these
      questions, with its chi-squared interval: how far a rerun may be off.
    shares: of the variance of the mean: "seeds", "questions", "rest".
  """

  other_questions: stats.Interval
  other_seeds: stats.Interval
  both: stats.Interval
  seed_sd: stats.Interval
  shares: dict[str, float]


def decompose(
  score_SN: np.ndarray, document_N: Sequence[int] | None = None
) -> Decomposition:
  """Splits the error of a mean score into that of seeds and of questions.

  Of one document alone only what other seeds change is known; no shares.

  Raises:
    ValueError: fewer than two seeds, or documents that do not fit.
  """
  score_SN = _check(score_SN)
  S, N = score_SN.shape
  found = stats.documents(document_N, N)
  seed, t_s = _seeds(score_SN), stats.quantile(stats.UPPER, S - 1)
  mean_N = score_SN.mean(axis=0)
  value = float(mean_N.mean())
  seed_sd = _deviation(score_SN.mean(axis=1))
  other_seeds = stats.around(value, t_s**2 * seed, t_s**2 / S)
  if len(found.size_G) < 2:
    unknown = stats.mean(mean_N, found.index_N)
    return Decomposition(unknown, other_seeds, unknown, seed_sd, {})
  rest, t_q = _rest(score_SN, found), stats.quantile(stats.UPPER, found.df)
  question = found.products(mean_N, mean_N) / N**2
  both = t_s**2 * seed + t_q**2 * max(question - rest, 0.0)
  both = max(both, t_q**2 * question)
  parts = {
    "seeds": max(seed - rest, 0.0),
    "questions": max(question - rest, 0.0),
    "rest": rest,
  }
  total = sum(parts.values())
  return Decomposition(
    stats.mean(mean_N, found.index_N),
    other_seeds,
    stats.around(value, both, t_q**2 / len(found.size_G)),
    seed_sd,
    {name: part / total if total else 0.0 for name, part in parts.items()},
  )


def difference(
  one_SN: np.ndarray,
  other_SN: np.ndarray,
  document_N: Sequence[int] | None = None,
  *,
  paired: bool,
) -> stats.Difference:
  """How much better a method is than another, over seeds and questions.

  The p-value is the level at which the interval comes to touch 0.

  Args:
    one_SN: scores of each seed's run, all on the same questions.
    other_SN: of the other method; the number of seeds may differ if unpaired.
    document_N: documents of the questions.
    paired: whether row s of both is of one seed.

  Raises:
    ValueError: fewer than two seeds; other questions; pairs that are not.
  """
  one_SN, other_SN = _check(one_SN), _check(other_SN)
  N = one_SN.shape[1]
  if N != other_SN.shape[1] or (paired and len(one_SN) != len(other_SN)):
    raise ValueError(
      f"scores of {one_SN.shape} and {other_SN.shape} seeds and questions: "
      "expected the same questions, and as many seeds if they are paired"
    )
  found = stats.documents(document_N, N)
  parts = [one_SN - other_SN] if paired else [one_SN, other_SN]
  apart_N = one_SN.mean(axis=0) - other_SN.mean(axis=0)
  if len(found.size_G) < 2:
    return stats.unknown(float(apart_N.mean()))
  seeds = [(_seeds(x_SN), len(x_SN) - 1) for x_SN in parts]
  rest = sum(_rest(x_SN, found) for x_SN in parts)

  def half(probability: float) -> float:
    t = stats.quantile(probability, found.df)
    question = stats.half_width(apart_N, found, probability) ** 2
    seed = sum(stats.quantile(probability, df) ** 2 * v for v, df in seeds)
    return math.sqrt(max(seed + max(question - t**2 * rest, 0.0), question))

  return _difference(float(apart_N.mean()), half)


def nested_mean(
  scores: Sequence[np.ndarray], documents: Sequence[Sequence[int] | None]
) -> stats.Interval:
  """Mean over seeds that were asked questions of their own, over both.

  Args:
    scores: [N] of each seed.
    documents: of each seed's questions.

  Raises:
    ValueError: fewer than two seeds.
  """
  found = [stats.mean(*x) for x in zip(scores, documents, strict=True)]
  mean_S = _several(np.array([x.value for x in found]))
  within = math.hypot(*((x.high - x.low) / 2 for x in found)) / len(found)
  t = stats.quantile(stats.UPPER, len(found) - 1)
  count = sum(
    len(stats.documents(x, len(y)).size_G) for x, y in zip(documents, scores)
  )
  squared = max(t**2 * _seeds(mean_S), within**2)
  return stats.around(float(mean_S.mean()), squared, stats.Z**2 / count)


def nested_spread(
  scores: Sequence[np.ndarray], documents: Sequence[Sequence[int] | None]
) -> tuple[stats.Interval, float | None]:
  """How far a rerun with questions of its own may be off, and why.

  The variance of the seeds' means is var(s) and what other questions alone make
  of a mean; the latter is known from each seed's own questions, so

    share = 1 - (mean over seeds of the variance of a mean) / variance of means

  and 0 where that is negative.

  Returns:
    Standard deviation of one run's mean score with its chi-squared interval;
    the share of its square that is due to seeds, None where a seed's questions
    are of one document, or all means are the same.

  Raises:
    ValueError: fewer than two seeds.
  """
  mean_S = _several(np.array([np.mean(stats.check(x)) for x in scores]))
  found = [
    stats.documents(x, len(y)) for x, y in zip(documents, scores, strict=True)
  ]
  spread = _deviation(mean_S)
  if min(len(x.size_G) for x in found) < 2 or not spread.value:
    return spread, None
  within = [
    x.products(y, y) / len(y) ** 2
    for x, y in zip(found, map(stats.check, scores))
  ]
  return spread, max(0.0, 1 - float(np.mean(within)) / spread.value**2)


def nested_difference(
  one: Sequence[np.ndarray],
  other: Sequence[np.ndarray],
  documents: Sequence[Sequence[int] | None],
) -> stats.Difference:
  """`difference` where each seed asked both methods questions of its own.

  Never narrower than the error of the questions alone, which between few seeds
  seems small by luck now and then.

  Raises:
    ValueError: fewer than two seeds; scores that do not fit.
  """
  apart = [
    stats.check(a) - stats.check(b) for a, b in zip(one, other, strict=True)
  ]
  mean_S = _several(np.array([x.mean() for x in apart]))
  found = [
    stats.documents(x, len(y)) for x, y in zip(documents, apart, strict=True)
  ]
  if min(len(x.size_G) for x in found) < 2:
    return stats.unknown(float(mean_S.mean()))

  def half(probability: float) -> float:
    widths = (stats.half_width(*x, probability) for x in zip(apart, found))
    t = stats.quantile(probability, len(apart) - 1)
    within = math.hypot(*widths) / len(apart)
    return max(t * math.sqrt(_seeds(mean_S)), within)

  return _difference(float(mean_S.mean()), half)


def _check(score_SN: np.ndarray) -> np.ndarray:
  rows = [stats.check(row) for row in score_SN]
  if len({len(row) for row in rows}) > 1:
    raise ValueError(
      f"seeds with {', '.join(str(len(row)) for row in rows)} scores: expected "
      "the same questions to all of them"
    )
  return _several(np.array(rows))


def _several(value: np.ndarray) -> np.ndarray:
  if len(value) < 2:
    raise ValueError(
      f"{len(value)} seed: what another seed changes needs at least two"
    )
  return value


def _deviation(mean_S: np.ndarray) -> stats.Interval:
  """Standard deviation of seeds' means, with its chi-squared interval."""
  df = len(mean_S) - 1
  sd = float(mean_S.std(ddof=1))
  chi = scipy.stats.chi2.ppf([stats.UPPER, 1 - stats.UPPER], df)
  return stats.Interval(sd, *map(float, sd * np.sqrt(df / chi)))


def _seeds(score_SN: np.ndarray) -> float:
  """V_s of scores [S, N], or of seeds' means [S]."""
  mean_S = score_SN.reshape(len(score_SN), -1).mean(axis=1)
  return float(mean_S.var(ddof=1)) / len(mean_S)


def _rest(score_SN: np.ndarray, found: stats.Documents) -> float:
  """V_r."""
  S, N = score_SN.shape
  rest_SN = score_SN - score_SN.mean(axis=0)
  rest_SN = rest_SN - rest_SN.mean(axis=1, keepdims=True)
  total = sum(found.products(row_N, row_N) for row_N in rest_SN)
  return total / (S * (S - 1) * N**2)


def _difference(
  value: float, half: Callable[[float], float]
) -> stats.Difference:
  """From the half-width at each probability of a quantile."""
  width = half(stats.UPPER)
  detectable = width + half(stats.POWER)
  surest = 1 - 1e-12
  if half(surest) <= abs(value):
    p = 2 * (1 - surest)
  else:
    p = 2 - 2 * scipy.optimize.brentq(
      lambda x: half(x) - abs(value), 0.5, surest, xtol=1e-14
    )
  return stats.Difference(
    value,
    max(-1.0, value - width),
    min(1.0, value + width),
    float(p),
    detectable if detectable < 1 else math.inf,
  )
