"""Intervals hold the truth as often as they say; no difference is seldom one.

Scores of 0 and 1 whose truth is known, drawn as
experiments/04_statistics/coverage.py draws them; README.md there has more
settings, those where no interval is right among them. The quick tests repeat
300 times, which finds an error of several points; the slow ones 4,000 times.
"""

import math

import numpy as np
import pytest
import scipy.stats

from memjax import significance
from memjax import stats
from memjax import stats_seeds

# (documents, questions each, correlation within a document, accuracy)
_MEANS = [
  (50, 1, 0.0, 0.8),
  (2048, 1, 0.0, 0.95),
  (50, 4, 0.2, 0.1),
  (50, 20, 0.8, 0.5),
  (10, 20, 0.05, 0.8),
  (10, 150, 0.05, 0.6),
  (10, 150, 0.2, 0.5),
]
# (documents, questions each, share of documents x systems, accuracy, effect)
_DIFFERENCES = [
  (200, 1, 0.0, 0.5, 0.0),
  (200, 1, 0.0, 0.9, 0.05),
  (50, 4, 0.1, 0.5, 0.0),
  (50, 4, 0.1, 0.5, 0.1),
  (10, 20, 0.1, 0.2, 0.0),
  (10, 150, 0.02, 0.5, 0.0),
]
# (seeds, documents, questions each, spread of the accuracy over seeds)
_SEEDS = [(5, 50, 4, 0.0), (5, 50, 4, 0.05), (3, 10, 20, 0.03)]


def _holds(count, repetitions, low, high):
  """Whether a share in [low, high] explains a count, but for one in 10,000."""
  at_least, at_most = (
    scipy.stats.binom.ppf(q, repetitions, p)
    for q, p in ((1e-4, low), (1 - 1e-4, high))
  )
  return at_least <= count <= at_most


def _clustered(rng, documents, each, within, p):
  """Right and wrong answers, beta-binomial; and their documents."""
  chance = np.full(documents, p)
  if within:
    scale = (1 - within) / within
    chance = rng.beta(p * scale, (1 - p) * scale, documents)
  document_N = np.repeat(np.arange(documents), each)
  return (rng.random(documents * each) < chance[document_N]) * 1.0, document_N


def _answers(rng, documents, each, own, p_AS):
  """Scores [A, S, N] of systems' seeds, which share documents and questions."""
  document_N = np.repeat(np.arange(documents), each)
  N, systems = len(document_N), len(p_AS)
  shape = (*np.shape(p_AS), N)
  z_ASN = (
    math.sqrt(0.1) * rng.normal(size=documents)[document_N]
    + math.sqrt(own) * rng.normal(size=(systems, 1, documents))[..., document_N]
    + math.sqrt(0.4) * rng.normal(size=N)
    + math.sqrt(0.5 - own) * rng.normal(size=shape)
  )
  limit = scipy.stats.norm.ppf(np.clip(p_AS, 0.01, 0.99))
  return (z_ASN < limit[..., None]) * 1.0, document_N


def _means(setting, repetitions):
  rng, p, kept = np.random.default_rng(0), setting[-1], 0
  for _ in range(repetitions):
    found = stats.mean(*_clustered(rng, *setting))
    kept += found.low <= p <= found.high
  return kept


def _differences(setting, repetitions):
  documents, each, own, p, effect = setting
  rng, kept, called = np.random.default_rng(1), 0, 0
  for _ in range(repetitions):
    score, document_N = _answers(rng, documents, each, own, [[p + effect], [p]])
    found = stats.difference(score[0, 0], score[1, 0], document_N)
    kept += found.low <= effect <= found.high
    said = significance.verdict(found.low, found.high, found.p)
    called += said != "not told apart"
  return kept, called


def _seeds(setting, repetitions):
  seeds, documents, each, spread = setting
  rng, kept = np.random.default_rng(2), np.zeros(3)
  for _ in range(repetitions):
    p_AS = 0.6 + spread * rng.normal(size=(2, seeds))
    score, document_N = _answers(rng, documents, each, 0.05, p_AS)
    own = [
      _answers(rng, documents, each, 0.05, p_AS[:, [s]])[0][:, 0]
      for s in range(seeds)
    ]
    found = [
      stats_seeds.difference(*score, document_N, paired=False),
      stats_seeds.difference(*score, document_N, paired=True),
      stats_seeds.nested_difference(
        [x[0] for x in own], [x[1] for x in own], [document_N] * seeds
      ),
    ]
    kept += [x.low <= 0 <= x.high for x in found]
  return kept


@pytest.mark.parametrize("setting", _MEANS)
def test_means(setting):
  assert _holds(_means(setting, 300), 300, 0.93, 0.97)


@pytest.mark.parametrize("setting", _DIFFERENCES)
def test_differences(setting):
  kept, called = _differences(setting, 300)
  assert _holds(kept, 300, 0.93, 0.97)
  if not setting[-1]:
    assert called <= scipy.stats.binom.ppf(1 - 1e-4, 300, 0.05)


def test_seeds():
  for count in _seeds(_SEEDS[1], 150):
    assert _holds(count, 150, 0.93, 1.0)


def test_documents_must_not_be_left_out():
  """The simulation shows what happens without: it can fail."""
  rng, kept = np.random.default_rng(0), 0
  for _ in range(300):
    score_N, _ = _clustered(rng, 10, 150, 0.2, 0.5)
    found = stats.mean(score_N)
    kept += found.low <= 0.5 <= found.high
  assert kept < 150


@pytest.mark.slow
@pytest.mark.parametrize("setting", _MEANS)
def test_means_closely(setting):
  assert _holds(_means(setting, 4000), 4000, 0.93, 0.97)


@pytest.mark.slow
@pytest.mark.parametrize("setting", _DIFFERENCES)
def test_differences_closely(setting):
  kept, called = _differences(setting, 4000)
  assert _holds(kept, 4000, 0.93, 0.97)
  if not setting[-1]:
    assert called <= scipy.stats.binom.ppf(1 - 1e-4, 4000, 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("setting", _SEEDS)
def test_seeds_closely(setting):
  """Not below; above it may be, as few seeds say little."""
  for count in _seeds(setting, 1500):
    assert _holds(count, 1500, 0.94, 0.995)


@pytest.mark.parametrize("n", [32, 128])
def test_average_of_sets(n):
  """Also where some are never and some are always answered; 1,000 times."""
  p_K = np.array([0.0, 0.02, 0.1, 0.5, 0.5, 0.8, 0.97, 1.0])
  rng, kept = np.random.default_rng(0), 0
  for _ in range(1000):
    right_KN = rng.random((len(p_K), n)) < p_K[:, None]
    parts = [stats.mean(right_N * 1.0) for right_N in right_KN]
    found = stats.average(parts, right_KN.size)
    assert found.value == pytest.approx(right_KN.mean())
    kept += found.low <= p_K.mean() <= found.high
  # Sets that are always answered have a width of their own: never too narrow.
  assert _holds(kept, 1000, 0.95, 0.99)
