"""What a judge's errors do to a score."""

import numpy as np
import pytest

from memjax import correction
from memjax import stats


def _rates(f, r, m=200, k=200):
  return {
    "false_accept": {"rate": f, "n": m},
    "false_reject": {"rate": r, "n": k},
  }


def _corrected(a, n, *rates):
  return correction.corrected({"accuracy": a, "n": n}, _rates(*rates))


def test_corrected_by_hand():
  got = _corrected(0.5, 1000, 0.1, 0.2)
  assert got["accuracy"] == pytest.approx(0.4 / 0.7)
  assert got["low"] < got["accuracy"] < got["high"] and got["n"] == 1000
  # A judge that never errs leaves the score as it is.
  assert _corrected(0.3, 1000, 0.0, 0.0)["accuracy"] == pytest.approx(0.3)
  # What no share of right answers explains is cut.
  assert _corrected(0.01, 1000, 0.1, 0.1)["accuracy"] == 0.0
  assert _corrected(0.99, 1000, 0.1, 0.1)["accuracy"] == 1.0


def test_answers_about_one_document_are_not_independent():
  """An interval that is wider than that of n answers stays so."""
  plain = stats.mean(np.repeat([1.0, 0.0], 500))
  cell = {"accuracy": 0.5, "n": 1000, "low": plain.low, "high": plain.high}
  alone = _corrected(0.5, 1000, 0.1, 0.2)
  assert correction.corrected(cell, _rates(0.1, 0.2)) == pytest.approx(alone)
  # As wide as that of 20 answers.
  few = stats.mean(np.repeat([1.0, 0.0], 10))
  cell |= {"low": few.low, "high": few.high}
  wide = correction.corrected(cell, _rates(0.1, 0.2))
  of_few = _corrected(0.5, 20, 0.1, 0.2)
  for end in ("low", "high"):
    assert wide[end] == pytest.approx(of_few[end])
  assert wide["n"] == 1000


def test_corrected_interval_of_the_paper():
  """Worked through by hand: a = 60/100, f = 5/50, r = 10/100.

  a' = (60 + 1.9207) / 103.8415 = .59630; f' = 6/52 = .11538;
  r' = 11/102 = .10784; p' = (a' - f') / .77677 = .61912;
  V = (.59630 * .40370 / 103.8415 + .38088^2 * .11538 * .88462 / 52
    + .61912^2 * .10784 * .89216 / 102) / .77677^2 = .0049132;
  d = 7.68293 * (.61912 * 9.4326e-4 - .38088 * 1.96287e-3) = -.0012571.
  """
  got = _corrected(0.6, 100, 0.1, 0.1, 50, 100)
  assert got["accuracy"] == pytest.approx(0.625)
  middle, half = 0.61912 - 0.0012571, 1.959964 * 0.0049132**0.5
  assert got["low"] == pytest.approx(middle - half, abs=2e-4)
  assert got["high"] == pytest.approx(middle + half, abs=2e-4)


@pytest.mark.parametrize("f, r", [(0.5, 0.5), (0.9, 0.3), (1.0, 0.0), (0, 1.0)])
def test_undefined_where_a_judge_cannot_tell(f, r):
  assert _corrected(0.5, 100, f, r) is None


@pytest.mark.parametrize(
  "p, f, r", [(0.5, 0.05, 0.1), (0.05, 0.0, 0.0), (0.9, 0.3, 0.1)]
)
def test_intervals_hold_the_truth_as_often_as_they_say(p, f, r):
  """Of 1,000 runs with 400 questions; the standard error is .007."""
  rng, held, plain = np.random.default_rng(0), 0, 0
  for _ in range(1000):
    a = rng.binomial(400, p * (1 - r) + (1 - p) * f) / 400
    got = _corrected(
      a, 400, rng.binomial(200, f) / 200, rng.binomial(200, r) / 200
    )
    held += got["low"] <= p <= got["high"]
    plain += abs(a - p) <= 1.96 * (a * (1 - a) / 400) ** 0.5
  assert 930 <= held <= 990
  if f > r:  # which the judge's own score does not
    assert plain < 800


def _pooled(parts, rates, **more):
  """Of {prompt: (accepted, n)} and {prompt: (f, r)}."""
  n = sum(count for _, count in parts.values())
  cell = {"accuracy": sum(x for x, _ in parts.values()) / n, "n": n, **more}
  return correction.pooled(
    cell,
    {x: {"accuracy": k / count, "n": count} for x, (k, count) in parts.items()},
    {x: _rates(*pair) for x, pair in rates.items()},
  )


def test_each_part_is_corrected_by_the_rates_of_its_prompt():
  """Worked through by hand: 75 at .4 / .7, 25 at .5 / .5."""
  parts, rates = {"x": (37.5, 75), "y": (12.5, 25)}, {"x": (0.1, 0.2)}
  got = _pooled(parts, rates | {"y": (0.0, 0.5)})
  assert got["accuracy"] == pytest.approx(0.75 * 4 / 7 + 0.25)
  assert got["low"] < got["accuracy"] < got["high"] and got["n"] == 100
  # Which mean rates of both would not give.
  mean = _corrected(0.5, 100, 0.075, 0.275)["accuracy"]
  assert abs(mean - got["accuracy"]) > 0.02
  # A prompt that nothing was judged by does not matter.
  more = {**rates, "y": (0.0, 0.5), "z": (0.9, 0.9)}
  assert _pooled(parts, more) == got
  # One that tells nothing apart leaves no score of all.
  assert _pooled(parts, rates | {"y": (0.6, 0.5)}) is None


def test_one_prompt_is_the_plain_case():
  for a, f, r in ((0.5, 0.1, 0.2), (0.99, 0.1, 0.1), (0.01, 0.1, 0.1)):
    one = _pooled({"x": (100 * a, 100)}, {"x": (f, r)})
    assert one == _corrected(a, 100, f, r)


def test_one_part_errs_in_the_middle_as_both_ends_say():
  """p +- sqrt of the squares, with two parts of which one is known well."""
  parts = {"x": (300, 600), "y": (200, 400)}
  rates = {"x": (0.1, 0.2), "y": (0.1, 0.1)}
  got = _pooled(parts, rates)
  one, other = _corrected(0.5, 600, 0.1, 0.2), _corrected(0.5, 400, 0.1, 0.1)
  for end in ("low", "high"):
    apart = [abs(x["accuracy"] - x[end]) for x in (one, other)]
    assert abs(got[end] - got["accuracy"]) == pytest.approx(
      np.hypot(0.6 * apart[0], 0.4 * apart[1])
    )


def test_parts_of_questions_that_hang_together_are_wider():
  parts = {"x": (30, 60), "y": (20, 40)}
  rates = {"x": (0.1, 0.2), "y": (0.1, 0.1)}
  few = stats.mean(np.repeat([1.0, 0.0], 10))  # as wide as 20 answers
  got = _pooled(parts, rates, low=few.low, high=few.high)
  fewer = _pooled({"x": (6, 12), "y": (4, 8)}, rates)
  for end in ("low", "high"):
    assert got[end] == pytest.approx(fewer[end])
  assert got["n"] == 100


@pytest.mark.parametrize("p", [0.0, 0.02, 0.6, 0.95, 1.0])
@pytest.mark.parametrize(
  "f, r", [((0, 0, 0), (0, 0, 0)), ((0.02, 0.3, 0.05), (0.05, 0.1, 0.3))]
)
def test_intervals_over_prompts_hold_the_truth(p, f, r):
  """Of 500 runs with three parts; the standard error is .010."""
  rng, held, sizes = np.random.default_rng(0), 0, (400, 70, 30)
  for _ in range(500):
    accepted = rng.binomial(
      sizes, p * (1 - np.array(r)) + (1 - p) * np.array(f)
    )
    found = rng.binomial(200, (f, r)) / 200
    got = _pooled(
      dict(enumerate(zip(accepted, sizes))), dict(enumerate(zip(*found)))
    )
    held += got["low"] <= p <= got["high"]
  assert 465 <= held
