"""What a judge is tried on, and what its errors do to a score."""

import collections

import numpy as np
import pytest

from memjax import calibration
from memjax import judge
from memjax import judge_cache
from memjax import rewards
from memjax import stats


class _Backend:
  """Says of each item what a function of it says."""

  name, settings = "fake", {}

  def __init__(self, verdict):
    self.verdict, self.counts = verdict, judge.Counts()

  def ask(self, prompts):
    for i, prompt in enumerate(prompts):
      yield i, judge_cache.Verdict(self.verdict(prompt), "said", "fake")


def _measure(verdict, n=400, seed=0):
  by = judge.Judge(_Backend(verdict), judge_cache.Cache(":memory:"))
  return calibration.measure(by, n, seed)


def test_cases_are_half_right_and_all_different():
  cases = calibration.cases(400, 3)
  assert cases == calibration.cases(400, 3) != calibration.cases(400, 4)
  assert len({case.item for case in cases}) == 400
  assert sum(case.truth for case in cases) == 200
  counts = collections.Counter((case.kind, case.truth) for case in cases)
  assert counts == {
    ("verbatim", True): 50,
    ("paraphrase", True): 150,
    ("other value", False): 80,
    ("vague", False): 50,
    ("hedged", False): 40,
    ("incomplete", False): 30,
  }
  assert len(calibration.cases(10_000, 0)) == 10_000


@pytest.mark.parametrize("n", [0, 38, 41, 10_002])
def test_so_few_or_so_many_are_refused(n):
  with pytest.raises(ValueError, match=f"config.judge.examples={n}: expected"):
    calibration.cases(n, 0)


def test_what_is_wrong_is_wrong():
  """No case that is called wrong holds the reference and nothing else."""
  for case in calibration.cases(2000, 1):
    item = case.item
    assert "{" not in item.question + item.given
    equal = rewards.exact_match(item.given, item.answers)
    held = rewards.ruler_any(item.given, item.answers)
    if case.kind == "verbatim":
      assert item.given == item.answers[0]
    elif case.kind == "paraphrase":
      assert item.given != item.answers[0]
    elif case.kind == "hedged":
      assert held and not equal
    else:
      assert not held, item


def test_paraphrases_are_beyond_word_matching():
  """Verifiers do not tell right from wrong here, or no judge were needed."""
  cases = calibration.cases(1000, 0)
  score = lambda case: rewards.exact_match(case.item.given, case.item.answers)
  of_kind = lambda kind: [score(case) for case in cases if case.kind == kind]
  assert np.mean(of_kind("paraphrase")) < 0.05


def test_rates_of_judges_that_are_known():
  truth = {case.item.given: case.truth for case in calibration.cases(400, 0)}
  assert set(truth.values()) == {True, False}
  always = _measure(lambda prompt: True)
  assert always["false_accept"]["rate"] == 1.0
  assert always["false_reject"]["rate"] == 0.0
  assert always["examples"]["false_accept"]["given"]
  assert always["examples"]["false_reject"] is None
  never = _measure(lambda prompt: False)
  assert (never["false_accept"]["rate"], never["false_reject"]["rate"]) == (
    0,
    1,
  )
  # Who looks for the reference alone accepts what is hedged, no paraphrase
  # in other forms, and nothing else.
  found = _measure(
    lambda prompt: (
      prompt.split('["')[1].split('"]')[0].lower()
      in prompt.split("given answer: ")[1].lower()
    )
  )
  assert found["kinds"]["hedged"] == {"accepted": 40, "n": 40}
  assert found["kinds"]["vague"]["accepted"] == 0
  assert found["kinds"]["verbatim"]["accepted"] == 50
  accept = found["false_accept"]
  assert (accept["rate"], accept["n"]) == (40 / 200, 200)
  assert accept["low"] == pytest.approx(0.1505, abs=1e-4)  # Wilson
  assert accept["high"] == pytest.approx(0.2609, abs=1e-4)


def _rates(f, r, m=200, k=200):
  return {
    "false_accept": {"rate": f, "n": m},
    "false_reject": {"rate": r, "n": k},
  }


def _corrected(a, n, *rates):
  return calibration.corrected({"accuracy": a, "n": n}, _rates(*rates))


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
  assert calibration.corrected(cell, _rates(0.1, 0.2)) == pytest.approx(alone)
  # As wide as that of 20 answers.
  few = stats.mean(np.repeat([1.0, 0.0], 10))
  cell |= {"low": few.low, "high": few.high}
  wide = calibration.corrected(cell, _rates(0.1, 0.2))
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
