"""Tests of differences against enumeration by hand."""

import itertools

import numpy as np
import pytest
import scipy.stats

from memjax import significance


def _enumerated(sum_G):
  """The p-value by trying all signs, one after the other."""
  observed = abs(sum(sum_G))
  signs = list(itertools.product((1, -1), repeat=len(sum_G)))
  totals = [abs(sum(s * x for s, x in zip(sign, sum_G))) for sign in signs]
  return np.mean([total >= observed - 1e-9 for total in totals])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("whole", [True, False])
def test_sign_flips_are_exact_for_few_documents(seed, whole):
  rng = np.random.default_rng(seed)
  sum_G = rng.normal(0.5, 3, 9)
  if whole:
    sum_G = sum_G.round()
    sum_G[2] = 0  # a document without a difference
  assert significance.sign_flip(sum_G) == pytest.approx(_enumerated(sum_G))


def test_sign_flips_of_many_documents():
  rng = np.random.default_rng(7)
  whole_G = rng.integers(-4, 6, 60)
  # Convolution is exact; thirds of the sums are drawn, and must be near it.
  exact = significance.sign_flip(whole_G)
  assert 0.001 < exact < 0.5
  drawn = significance.sign_flip(whole_G / 3)
  error = np.sqrt(exact * (1 - exact) / significance.DRAWS)
  assert abs(drawn - exact) < 4 * error and drawn != exact
  assert drawn == significance.sign_flip(whole_G / 3)  # the same again


def test_drawn_p_values_are_never_0():
  found = significance.sign_flip(np.full(40, 0.7))
  assert found == 1 / (1 + significance.DRAWS)


@pytest.mark.parametrize(
  "sum_G, p",
  [
    ([], 1.0),
    ([0.0, 0.0], 1.0),
    ([3.0], 1.0),  # one sign is as good as the other
    ([1.0] * 5, 2 / 32),
    ([0.3] * 5, 2 / 32),
    ([1.0] * 6, 2 / 64),
    ([0.1, 0.2, -0.3], 1.0),
  ],
)
def test_sign_flips_by_hand(sum_G, p):
  assert significance.sign_flip(sum_G) == pytest.approx(p)


def test_five_documents_cannot_tell():
  assert not significance.can_tell(5) and significance.can_tell(6)


@pytest.mark.parametrize("won, lost", [(0, 0), (5, 0), (12, 5), (30, 31)])
def test_mcnemar_is_sign_flips_of_single_questions(won, lost):
  apart_N = np.repeat([1.0, -1.0, 0.0], [won, lost, 20])
  one_N = (apart_N > 0).astype(float)
  found = significance.mcnemar(one_N, one_N - apart_N)
  assert found == pytest.approx(significance.sign_flip(apart_N))
  if won + lost:
    # Twice the smaller tail of a fair coin, by hand.
    tail = scipy.stats.binom.cdf(min(won, lost), won + lost, 0.5)
    assert found == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_refuses_parts():
  with pytest.raises(ValueError, match="0 and 1"):
    significance.mcnemar([0.5], [0.25])


def test_holm_by_hand():
  # 3 * .01, then 2 * .02, then .03, which must not fall below .04.
  assert significance.holm([0.03, 0.01, 0.02]) == pytest.approx(
    [0.04, 0.03, 0.04]
  )
  assert significance.holm([0.6, 0.5]) == [1.0, 1.0]
  assert significance.holm([]) == [] and significance.holm([0.05]) == [0.05]


def test_holm_is_between_nothing_and_bonferroni():
  rng = np.random.default_rng(0)
  for _ in range(20):
    p = rng.random(7) ** 3
    found = np.array(significance.holm(p))
    assert (found >= p).all() and (found <= np.minimum(1, 7 * p) + 1e-12).all()
    assert (np.diff(found[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize(
  "low, high, p, said",
  [
    (0.01, 0.2, 0.03, "better"),
    (-0.2, -0.01, 0.03, "worse"),
    (0.01, 0.2, 0.06, "not told apart"),  # after correction
    (-0.01, 0.2, 0.03, "not told apart"),  # its interval holds 0
    (0.0, 0.2, 0.03, "not told apart"),
    (0.01, 0.2, 0.05, "better"),
  ],
)
def test_verdicts(low, high, p, said):
  assert significance.verdict(low, high, p) == said
