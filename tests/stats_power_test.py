"""Sizes of samples, against published figures and simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from memjax import stats
from memjax import stats_power


def test_by_hand():
  # Unpaired, 128 questions each at .8: error sqrt(2 .16 / 128) = .05, times
  # 1.969 + .843, the t quantiles.
  found = stats_power.detectable(128, paired=False, accuracy=0.8)
  assert found == pytest.approx(0.05 * 2.812, abs=2e-4)
  # Paired with correlation .5 the variance is halved; 2/n is nothing here.
  large = stats_power.detectable(10**6, paired=False)
  halved = stats_power.detectable(10**6, correlation=0.5)
  assert large / halved == pytest.approx(math.sqrt(2), rel=2e-3)
  # 20 questions a document, c = .05: 1 + 19 .05 = 1.95 times the variance.
  many = stats_power.detectable(20 * 10**5, 10**5)
  none = stats_power.detectable(20 * 10**5, 10**5, within=0.0)
  assert many / none == pytest.approx(math.sqrt(1.95), rel=2e-3)


@pytest.mark.parametrize("df", [1, 2, 5, 30, 4000, 10**6])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.99])
def test_noncentrality_has_the_power(df, power):
  shift = stats_power._noncentrality(df, 0.05, power)
  rng = np.random.default_rng(0)
  t = (rng.normal(size=40_000) + shift) / np.sqrt(
    rng.chisquare(df, 40_000) / df
  )
  found = (t > scipy.stats.t.ppf(0.975, df)).mean()
  assert found == pytest.approx(power, abs=0.01)


def _found(rng, n, effect, paired, repetitions=400):
  """How often a true effect is found; correlation .5, accuracy .5."""
  count = 0
  for _ in range(repetitions):
    # Half of the questions are answered by a common coin: correlation .5.
    common_N, same_N = rng.random(n), rng.random(n) < 0.5
    one_N, other_N = (
      np.where(same_N & paired, common_N, rng.random(n)) < 0.5 + x
      for x in (effect, 0.0)
    )
    if paired:
      count += stats.difference(one_N, other_N).p <= 0.05
    else:
      test = scipy.stats.ttest_ind(one_N.astype(float), other_N.astype(float))
      count += test.pvalue <= 0.05
  return count / repetitions


@pytest.mark.parametrize("paired", [True, False])
def test_the_power_is_that_of_the_tests(paired):
  effect = stats_power.detectable(200, paired=paired)
  found = _found(np.random.default_rng(1), 200, effect, paired)
  assert 0.72 < found < 0.88


def test_what_a_run_could_have_detected_is_what_was_planned():
  rng = np.random.default_rng(2)
  same_N, common_N = rng.random(4000) < 0.5, rng.random(4000)
  one_N, other_N = (
    np.where(same_N, common_N, rng.random(4000)) < 0.5 for _ in range(2)
  )
  found = stats.difference(one_N, other_N).detectable
  assert found == pytest.approx(stats_power.detectable(4000), rel=0.05)


def test_more_is_better_and_documents_are_what_counts():
  sizes = [stats_power.detectable(n) for n in (10, 100, 1000)]
  assert sizes == sorted(sizes, reverse=True)
  few, many = (stats_power.detectable(1000, g, within=0.5) for g in (10, 500))
  assert few > 3 * many
  assert stats_power.detectable(100, correlation=1.0) == 2 / 100


@pytest.mark.parametrize("documents", [1, 5])
def test_too_few_documents_show_nothing(documents):
  assert stats_power.detectable(1000, documents) == math.inf
  assert stats_power.detectable(1000, 6) < 1


def test_a_textbook_sample_size():
  # Two proportions around .6, 3 points apart, independent: 2 p (1 - p)
  # (1.96 + .8416)^2 / d^2 = 4186.2 each by the normal approximation.
  found = stats_power.detectable(4187, paired=False, accuracy=0.6)
  # To two questions.
  assert found == pytest.approx(0.03, rel=2.4e-4)


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: stats_power.detectable(5, 6), "6 documents of 5 questions"),
    (lambda: stats_power.detectable(5, accuracy=1.0), "accuracy=1.0"),
    (lambda: stats_power.detectable(5, correlation=1.1), "correlation=1.1"),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_power_over_seeds_is_that_of_a_t_test(seeds):
  effect = stats_power.detectable_by_seeds(500, seeds, alpha=0.05 / 3)
  error = math.sqrt(2 * 0.25 * 0.5 / 500)  # of one seed's difference
  rng = np.random.default_rng(0)
  drawn = effect + error * rng.normal(size=(20_000, seeds))
  p = scipy.stats.ttest_1samp(drawn, 0.0, axis=1).pvalue
  assert (p <= 0.05 / 3).mean() == pytest.approx(0.8, abs=0.015)
  with pytest.raises(ValueError, match="1 seeds: expected at least two"):
    stats_power.detectable_by_seeds(500, 1)
