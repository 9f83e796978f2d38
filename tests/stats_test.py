"""Intervals against hand-worked numbers, their defining equations, simulation.

What keeps its 95 % is in stats_coverage_test.py.
"""

import math

import numpy as np
import pytest
import scipy.stats
from absl.testing import parameterized

from memjax import stats

# Three documents of four questions: 3, 1 and 4 are right.
_SCORE = np.array([1.0, 1, 0, 1, 0, 0, 1, 0, 1, 1, 1, 1])
_DOCUMENT = np.repeat([7, 3, 5], 4)
_T2 = 4.302653  # t quantile, 2 degrees of freedom


class WilsonTest(parameterized.TestCase):
  # 0/10: high is z^2 / (n + z^2) = 3.841459 / 13.841459 = 0.277533.
  # 50/100: center 1/2, half z sqrt(1/400 + z^2/40000) / (1 + z^2/100)
  #   = 1.959964 * 0.0509512 / 1.0384146 = 0.096168.
  # 81/263 is the example of Newcombe (1998), Statistics in Medicine 17, table I
  #   (method 3): 0.2553 to 0.3662; 15/148: 0.0624 to 0.1605; 1/29: 0.0061 to
  #   0.1718.
  @parameterized.parameters(
    (0, 10, 0.0, 0.277533),
    (10, 10, 0.722467, 1.0),
    (50, 100, 0.403832, 0.596168),
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (1, 29, 0.0061, 0.1718),
  )
  def test_by_hand_and_by_newcombe(self, successes, n, low, high):
    tolerance = 6e-5 if n in (263, 148, 29) else 1e-6
    np.testing.assert_allclose(
      stats.wilson(successes, n), (low, high), rtol=0, atol=tolerance
    )

  def test_ends_solve_the_score_equation(self):
    # |p - x| = z sqrt(x (1 - x) / n) at both ends, by definition.
    for x in stats.wilson(7.5, 20):
      self.assertAlmostEqual(
        abs(7.5 / 20 - x), 1.959964 * math.sqrt(x * (1 - x) / 20)
      )

  def test_holds_the_estimate_and_stays_a_proportion(self):
    for n in range(1, 60):
      for successes in range(n + 1):
        low, high = stats.wilson(successes, n)
        assert 0 <= low <= successes / n <= high <= 1
        assert low < high

  def test_no_trials_and_bad_counts(self):
    assert stats.wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="got 11"):
      stats.wilson(11, 10)
    with pytest.raises(ValueError, match="got nan"):
      stats.wilson(math.nan, 10)


def test_mean_between_documents():
  # m = 2/3, e = 1/3, -5/3, 4/3, squares 14/3, V = 3/2 14/3 / 144 = 7/144,
  # n_eff = (2/9) / (7/144) = 32/7; the ends solve Wilson's score equation.
  found = stats.mean(_SCORE, _DOCUMENT)
  assert found.value == pytest.approx(2 / 3)
  for x in (found.low, found.high):
    half = _T2 * math.sqrt(x * (1 - x) * 7 / 32)
    assert abs(2 / 3 - x) == pytest.approx(half, rel=1e-5)


def test_mean_of_documents_of_other_sizes():
  # Sizes 1, 2, 3; right 1, 1, 0: m = 1/3, e = 2/3, 1/3, -1, divided by 5/6,
  # 4/6, 3/6: 8/15 + 1/6 + 2 = 2.7, V = 2.7 / 36 = .075; df = 36/14 - 1.
  score_N = [1.0, 1, 0, 0, 0, 0]
  found = stats.mean(score_N, [0, 1, 1, 2, 2, 2])
  t = scipy.stats.t.ppf(0.975, 36 / 14 - 1)
  for x in (found.low, found.high):
    half = t * math.sqrt(x * (1 - x) * 0.075 * 9 / 2)
    assert abs(1 / 3 - x) == pytest.approx(half, rel=1e-6)


def test_mean_without_documents_is_wilson_for_right_and_wrong():
  for right in (0, 3, 40):
    score_N = np.arange(40) < right
    want = stats.wilson(right, 40)
    for document_N in (None, np.arange(40)[::-1]):
      found = stats.mean(score_N, document_N)
      assert (found.low, found.high) == want


def test_scores_in_between_are_surer_than_right_and_wrong():
  rng = np.random.default_rng(0)
  parts = rng.beta(5, 5, 200)
  found, coins = stats.mean(parts), stats.wilson(parts.sum(), 200)
  assert found.high - found.low < 0.5 * (coins[1] - coins[0])
  error = parts.std(ddof=1) / math.sqrt(200)
  t = scipy.stats.t.ppf(0.975, 199)
  assert found.high - found.low == pytest.approx(2 * t * error, rel=2e-3)


def test_the_same_question_asked_again_says_nothing_new():
  rng = np.random.default_rng(1)
  score_N = (rng.random(60) < 0.4).astype(float)
  other_N = (rng.random(60) < 0.5).astype(float)
  few, many = np.arange(60), np.repeat(np.arange(60), 8)
  one = stats.mean(np.repeat(score_N, 8), many)
  alone = stats.wilson(score_N.sum(), 60)
  # A t quantile and G - 1 in place of z and G.
  assert alone[1] - alone[0] < one.high - one.low < 1.05 * (alone[1] - alone[0])
  one = stats.difference(score_N, other_N, few)
  eight = stats.difference(np.repeat(score_N, 8), np.repeat(other_N, 8), many)
  width = (one.high - one.low) / (eight.high - eight.low)
  assert width == pytest.approx(1, abs=0.02)
  assert eight.p == pytest.approx(one.p)


def test_order_and_names_of_documents_do_not_matter():
  rng = np.random.default_rng(2)
  other_N, order = rng.random(12).round(), rng.permutation(12)
  shuffled = _SCORE[order], other_N[order], 100 - _DOCUMENT[order]
  one = stats.difference(_SCORE, other_N, _DOCUMENT)
  two = stats.difference(*shuffled)
  assert one.low == pytest.approx(two.low) and one.p == two.p
  assert stats.mean(_SCORE, _DOCUMENT).low == pytest.approx(
    stats.mean(shuffled[0], shuffled[2]).low
  )


def test_never_narrower_than_independent_questions():
  # Documents that happen to be alike: the variance between them is 0.
  score_N = np.tile([1.0, 0.0], 20)
  found = stats.mean(score_N, np.repeat(np.arange(4), 10))
  low, high = stats.wilson(20, 40)
  assert found.low == pytest.approx(low) and found.high == pytest.approx(high)
  apart = stats.difference(score_N, 1 - score_N, np.repeat(np.arange(4), 10))
  independent = stats.difference(score_N, 1 - score_N)
  width = apart.high - apart.low
  assert width == pytest.approx(independent.high - independent.low, rel=0.05)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_equal_scores_count_documents(value):
  found = stats.mean(np.full(200, value), np.repeat(np.arange(10), 20))
  t = scipy.stats.t.ppf(0.975, 9)
  want = stats.wilson(value * 10, 10, t)
  assert (found.low, found.high) == pytest.approx(want)


def test_one_document_says_nothing_of_others():
  found = stats.mean(_SCORE, np.zeros(12))
  assert (found.low, found.high) == (0.0, 1.0)
  apart = stats.difference(_SCORE, 1 - _SCORE, np.zeros(12))
  assert (apart.low, apart.high, apart.p) == (-1.0, 1.0, 1.0)
  assert apart.detectable == math.inf


def test_difference_between_documents():
  # Differences 1 0, 1 1, 0 -1: D = 1/3, e = 1/3, 4/3, -5/3, squares 14/3, of
  # documents with a third each 7; with one more of eight questions 8 / 64.
  one, other = [1.0, 0, 1, 1, 0, 0], [0.0, 0, 0, 0, 0, 1]
  found = stats.difference(one, other, [0, 0, 1, 1, 2, 2])
  assert found.value == pytest.approx(1 / 3)
  half = _T2 * math.sqrt(8) / 8
  assert half > 1 and (found.low, found.high) == (-1.0, 1.0)
  apart_N = np.subtract(one, other)
  documents = stats.documents([0, 0, 1, 1, 2, 2], 6)
  assert stats.half_width(apart_N, documents, 0.975) == pytest.approx(half)
  # +-1 +-2 +-1 is at least 2 away from 0 in six cases of eight.
  assert found.p == 0.75
  assert found.detectable == math.inf  # three signs: no p below 1/4


def test_difference_of_independent_questions():
  # 30 won, 10 lost, 60 alike: D = .2, U = (41 - 400 / 102) / 102^2, which the
  # larger V' exceeds: (40 - 4) 100 / 99 + 1 over 102^2.
  apart_N = np.repeat([1.0, -1.0, 0.0], [30, 10, 60])
  one = np.maximum(apart_N, 0)
  found = stats.difference(one, one - apart_N)
  t = scipy.stats.t.ppf(0.975, 99)
  half = t * math.sqrt(36 * 100 / 99 + 1) / 102
  assert (found.low, found.high) == pytest.approx((0.2 - half, 0.2 + half))
  assert found.p == pytest.approx(scipy.stats.binomtest(30, 40).pvalue)
  half_power = scipy.stats.t.ppf(0.8, 99) * math.sqrt(36 * 100 / 99 + 1) / 102
  assert found.detectable == pytest.approx(half + half_power + 0.02, rel=1e-3)
  swapped = stats.difference(one - apart_N, one)
  assert (swapped.low, swapped.high) == (-found.high, -found.low)


def test_five_documents_detect_nothing():
  one, other = np.tile([1.0, 0, 1, 1], 60), np.tile([0.0, 1, 1, 1], 60)
  found = [
    stats.difference(one, other, np.arange(240) * count // 240)
    for count in (5, 6)
  ]
  assert found[0].detectable == math.inf and found[1].detectable < 0.5


def test_systems_that_never_differed_are_not_known_to_be_the_same():
  score_N = np.ones(50)
  found = stats.difference(score_N, score_N)
  assert found.p == 1.0 and found.low < -0.03 and found.high > 0.03


def test_memory_gain_solves_fiellers_equation():
  rng = np.random.default_rng(3)
  document_N = np.repeat(np.arange(20), 5)
  system_N, none_N, oracle_N = (
    (rng.random(100) < p).astype(float) for p in (0.6, 0.2, 0.9)
  )
  found, reason = stats.memory_gain(system_N, none_N, oracle_N, document_N)
  a_N, b_N = system_N - none_N, oracle_N - none_N
  assert reason == "" and found.value == a_N.mean() / b_N.mean()
  t = scipy.stats.t.ppf(0.975, 19)
  for r in (found.low, found.high):
    # Documents are of one size: the plain covariance of their sums.
    sum_G = (a_N - r * b_N).reshape(20, 5).sum(axis=1)
    squared = (20 * sum_G.var(ddof=1) + 1 + r**2) / 102**2
    assert (a_N - r * b_N).mean() ** 2 == pytest.approx(t**2 * squared)
  same, _ = stats.memory_gain(oracle_N, none_N, oracle_N, document_N)
  assert same.low < same.value == 1.0 < same.high


@pytest.mark.parametrize(
  "oracle, document_N",
  [
    (0.22, np.repeat(np.arange(20), 5)),  # hardly better than none
    (0.0, np.repeat(np.arange(20), 5)),  # worse
    (1.0, np.zeros(100)),  # one document
  ],
)
def test_no_memory_gain_where_memory_has_nothing_to_give(oracle, document_N):
  none_N = (np.arange(100) % 5 == 0).astype(float)
  oracle_N = (np.arange(100) % 100 < 100 * oracle).astype(float)
  found, reason = stats.memory_gain(none_N, none_N, oracle_N, document_N)
  assert found is None and "oracle - none is " in reason


@pytest.mark.parametrize(
  "score_N, document_N, message",
  [
    ([0.5, 1.5], None, "a score is 1.5"),
    ([0.5, math.nan], None, "a score is nan"),
    ([], None, "expected one for each question"),
    ([0.5, 0.5], [1], "2 scores, but documents of shape"),
  ],
)
def test_what_is_no_score_is_refused(score_N, document_N, message):
  with pytest.raises(ValueError, match=message):
    stats.mean(score_N, document_N)
  with pytest.raises(ValueError, match=message):
    stats.difference(score_N, score_N, document_N)


def test_differences_need_the_same_questions():
  with pytest.raises(ValueError, match="2 and 3 scores"):
    stats.difference([1.0, 0.0], [1.0, 0.0, 1.0])
