"""What a judge is tried on."""

import collections

import numpy as np
import pytest

from memjax import calibration
from memjax import judge
from memjax import judge_cache
from memjax import rewards


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
