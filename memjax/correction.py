"""What a judge's score would be without the judge's errors.

Numbers only: an accuracy, how often the judge errs, and what follows.
"""

import math
from collections.abc import Mapping
from typing import Any

from memjax import stats


def corrected(
  cell: Mapping[str, Any], rates: Mapping[str, Any]
) -> dict[str, Any] | None:
  """A judge's accuracy, corrected for the judge's errors.

  With a = rate of accepted answers, f = false accepts, r = false rejects, the
  share p of answers that are right solves a = p (1 - r) + (1 - p) f:

    p = (a - f) / (1 - f - r)         (W. J. Rogan and B. Gladen, "Estimating
                                      prevalence from the results of a screening
                                      test", Am. J. Epidemiology 107, 1978)

  cut to [0, 1]. The interval knows that f and r are estimates, too: with z =
  1.96, and a', f', r' of n', m', k' trials, where z^2/2 of z^2 made-up answers
  are accepted, and one of two made-up cases is an error,

    p' +- z sqrt(V) + d,  V = (a'(1-a')/n' + (1-p')^2 f'(1-f')/m'
                               + p'^2 r'(1-r')/k') / (1 - f' - r')^2
    d = 2 z^2 (p' r'(1-r')/k' - (1-p') f'(1-f')/m')

  (Z. Lang and J. Reiczigel, "Confidence limits for prevalence of disease
  adjusted for estimated sensitivity and specificity", Preventive Veterinary
  Medicine 113, 2014), widened to hold p. Where the cell's own interval is wider
  than that of n independent answers, as questions about one document hang
  together, n is the number of independent ones with an interval as wide.

  Worked example: a = .5, f = .1, r = .2 give p = .4 / .7 = .571.

  Args:
    cell: {"accuracy", "n"} of answers that were judged.
    rates: from `calibration.measure`.

  Returns:
    {"accuracy", "low", "high", "n"}; None where f + r >= 1, with which no
    accuracy can be told from another.
  """
  return pooled(cell, {"": cell}, {"": rates})


def pooled(
  cell: Mapping[str, Any],
  parts: Mapping[str, Mapping[str, Any]],
  rates: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any] | None:
  """The same where questions are judged by several prompts.

  Each prompt errs in its own way, so each part of the questions is corrected by
  the rates of its prompt, and weighs as many questions as it has. With p_j and
  its limits l_j, u_j of part j as in `corrected`, neither of them cut, and the
  shares w_j = n_j / n of the questions, which are taken as fixed,

    p = sum_j w_j p_j
    l = p - sqrt(sum_j w_j^2 (p_j - l_j)^2),  u = p + sqrt(sum_j w_j^2
                                                           (u_j - p_j)^2)

  (G. Y. Zou and A. Donner, "Construction of confidence limits about effect
  measures: a general approach", Statistics in Medicine 27, 2008), all cut to
  [0, 1] in the end: were each p_j cut, the errors of many small parts would all
  point inwards. Where questions hang together, each n_j is smaller by the
  factor by which n is in `corrected`.

  Worked example: 75 questions with a = .5, f = .1, r = .2, p_j = .571, and 25
  with a = .5, f = 0, r = .5, p_j = 1, give p = .679.

  Args:
    cell: of all questions.
    parts: {prompt: {"accuracy", "n"}} of those that it judged.
    rates: {prompt: from `calibration.measure`}.

  Returns:
    As `corrected`; None where one of the prompts tells nothing apart.
  """
  total = sum(part["n"] for part in parts.values())
  share = _independent(cell) / cell["n"]
  value = below = above = 0.0
  for name, part in parts.items():
    found = _uncut(part["accuracy"], part["n"] * share, rates[name])
    if found is None:
      return None
    p, low, high = found
    weight = part["n"] / total
    value += weight * p
    below = math.hypot(below, weight * max(p - low, 0.0))
    above = math.hypot(above, weight * max(high - p, 0.0))
  cut = lambda x: min(1.0, max(0.0, x))
  return {
    "accuracy": cut(value),
    "low": cut(value - below),
    "high": cut(value + above),
    "n": cell["n"],
  }


def _uncut(
  a: float, n: float, rates: Mapping[str, Any]
) -> tuple[float, float, float] | None:
  """(p, low, high) of `corrected`, any of which can be outside of [0, 1]."""
  (f, m), (r, k) = (
    (rates[name]["rate"], rates[name]["n"])
    for name in ("false_accept", "false_reject")
  )
  more = (n + stats.Z**2, m + 2, k + 2)
  a_more = (n * a + stats.Z**2 / 2) / more[0]
  f_more, r_more = (m * f + 1) / more[1], (k * r + 1) / more[2]
  apart = 1 - f_more - r_more
  if f + r >= 1 or apart <= 0:
    return None
  p_more = (a_more - f_more) / apart
  of_f = f_more * (1 - f_more) / more[1]
  of_r = r_more * (1 - r_more) / more[2]
  variance = (
    a_more * (1 - a_more) / more[0]
    + (1 - p_more) ** 2 * of_f
    + p_more**2 * of_r
  ) / apart**2
  middle = p_more + 2 * stats.Z**2 * (p_more * of_r - (1 - p_more) * of_f)
  half = stats.Z * variance**0.5
  return (a - f) / (1 - f - r), middle - half, middle + half


def _independent(cell: Mapping[str, Any]) -> float:
  """How many independent answers have an interval as wide as a cell's."""
  a, n = cell["accuracy"], cell["n"]
  if "low" not in cell:
    return n
  # Wilson's half-width h at n answers: h^2 (n + z^2)^2 = z^2 (n a (1 - a) +
  # z^2 / 4), a quadratic in n.
  half = (cell["high"] - cell["low"]) / 2
  if half <= 0:
    return n
  z = stats.Z**2
  b = 2 * z - z * a * (1 - a) / half**2
  c = z**2 - z**2 / (4 * half**2)
  root = max(b * b - 4 * c, 0.0) ** 0.5
  return min(n, max((root - b) / 2, 0.0))
