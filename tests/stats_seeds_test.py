"""Seeds apart from questions: equations by hand, and against simulation."""

import math

import numpy as np
import pytest
import scipy.stats

from memjax import stats
from memjax import stats_seeds

# Two seeds, four questions.
_SCORE = np.array([[1.0, 1, 0, 1], [1, 0, 0, 0]])


def test_decomposition_by_hand():
  # Means of seeds 3/4, 1/4: V_s = (1/8) / 2 = 1/16. Of questions 1, 1/2, 0,
  # 1/2: squares from 1/2 are 1/2, times 4/3 over 16 is V_q = 1/24. Rests are
  # +-(-1/4, 1/4, -1/4, 1/4): squares 1/4 a seed, times 4/3, two seeds 2/3, over
  # 2 1 16 is V_r = 1/48.
  found = stats_seeds.decompose(_SCORE)
  parts = {"seeds": 1 / 24, "questions": 1 / 48, "rest": 1 / 48}
  for name, part in parts.items():
    assert found.shares[name] == pytest.approx(part / sum(parts.values()))
  t_s, t_q = scipy.stats.t.ppf(0.975, [1, 3])
  squared = t_s**2 / 16 + t_q**2 / 48
  # Wilson's form: the ends are as far as the error at the ends is.
  for x in (found.both.low, found.both.high):
    assert (x - 0.5) ** 2 == pytest.approx(squared * 4 * x * (1 - x))
  for x in (found.other_seeds.low, found.other_seeds.high):
    assert (x - 0.5) ** 2 == pytest.approx(t_s**2 / 16 * 4 * x * (1 - x))
  assert found.other_questions == stats.mean([1, 0.5, 0, 0.5], range(4))
  assert found.seed_sd.value == pytest.approx(math.sqrt(1 / 8))
  low, high = scipy.stats.chi2.ppf([0.025, 0.975], 1)
  assert found.seed_sd.low == pytest.approx(math.sqrt(1 / 8 / high))
  assert found.seed_sd.high == pytest.approx(math.sqrt(1 / 8 / low))


def test_difference_by_hand():
  # One of two seeds is always right: its differences are 1 - score.
  found = stats_seeds.difference(1 - _SCORE * 0, _SCORE, paired=False)
  assert found.value == 0.5
  # V_s = 0 + 1/16, V_r = 0 + 1/48, and the questions' part has its two
  # questions more: (2/3 + 1) / 36 and not 1/24.
  squared = {
    x: scipy.stats.t.ppf(x, 1) ** 2 / 16
    + scipy.stats.t.ppf(x, 3) ** 2 * (5 / 108 - 1 / 48)
    for x in (0.975, 0.8)
  }
  # So far out that both ends are cut.
  assert squared[0.975] > 1.5**2
  assert (found.low, found.high) == (-1.0, 1.0)
  assert found.detectable == math.inf
  # The p-value is the level at which the interval ends at 0.
  upper = 1 - found.p / 2
  at = scipy.stats.t.ppf(upper, [1, 3])
  half = math.sqrt(at[0] ** 2 / 16 + at[1] ** 2 * (5 / 108 - 1 / 48))
  assert half == pytest.approx(0.5, rel=1e-6)


def _draw(rng, seeds, documents, each, spread):
  """Scores [S, N] around .5: seeds, documents and questions, rests."""
  N = documents * each
  score_SN = (
    0.5
    + spread * rng.normal(size=(seeds, 1))
    + 0.05 * np.repeat(rng.normal(size=documents), each)
    + 0.05 * rng.normal(size=N)
    + 0.05 * rng.normal(size=(seeds, N))
    + 0.03 * np.repeat(rng.normal(size=(seeds, documents)), each, axis=1)
  )
  return score_SN.clip(0, 1), np.repeat(np.arange(documents), each)


def test_shares_are_those_of_the_simulation():
  rng = np.random.default_rng(0)
  parts = []
  for _ in range(300):
    score_SN, document_N = _draw(rng, 4, 12, 3, 0.03)
    found = stats.documents(document_N, 36)
    mean_N = score_SN.mean(axis=0)
    question = found.products(mean_N, mean_N) / 36**2
    rest = stats_seeds._rest(score_SN, found)
    parts.append([stats_seeds._seeds(score_SN), question, rest])
  seed, question, rest = np.mean(parts, axis=0)
  # var(r) over documents and seeds: (.03^2 / 12 + .05^2 / 36) / 4.
  alone = (0.03**2 / 12 + 0.05**2 / 36) / 4
  assert rest == pytest.approx(alone, rel=0.1)
  assert seed == pytest.approx(0.03**2 / 4 + alone, rel=0.15)
  assert question == pytest.approx(
    0.05**2 / 12 + 0.05**2 / 36 + alone, rel=0.15
  )


def test_seeds_that_differ_widen_and_pairs_narrow():
  rng = np.random.default_rng(1)
  score_SN, document_N = _draw(rng, 3, 20, 2, 0.0)
  offset_S1 = np.array([[-0.1], [0.0], [0.1]])
  other_SN = (score_SN + offset_S1 - 0.02).clip(0, 1)
  one_SN = (score_SN + offset_S1 + rng.normal(0, 0.01, score_SN.shape)).clip(
    0, 1
  )
  width = lambda found: found.high - found.low
  apart = stats_seeds.difference(one_SN, other_SN, document_N, paired=False)
  paired = stats_seeds.difference(one_SN, other_SN, document_N, paired=True)
  alone = stats.difference(one_SN.mean(0), other_SN.mean(0), document_N)
  assert width(apart) > 5 * width(paired) > width(paired) >= width(alone)
  assert apart.p > paired.p
  for found in (apart, paired):
    assert found.value == pytest.approx(alone.value)
    assert (found.low > 0 or found.high < 0) == (found.p < 0.05)


def test_seeds_with_questions_of_their_own():
  rng = np.random.default_rng(2)
  one = [rng.random(30).round() for _ in range(3)]
  other = [rng.random(30).round() for _ in range(3)]
  found = stats_seeds.nested_difference(one, other, [None] * 3)
  mean_S = np.array([(a - b).mean() for a, b in zip(one, other)])
  widths = [
    stats.half_width(a - b, stats.documents(None, 30), 0.975)
    for a, b in zip(one, other)
  ]
  between = scipy.stats.t.ppf(0.975, 2) * mean_S.std(ddof=1) / math.sqrt(3)
  half = max(between, math.hypot(*widths) / 3)
  assert found.value == pytest.approx(mean_S.mean())
  assert found.high == pytest.approx(min(1, mean_S.mean() + half))
  # Seeds that agree by luck are not surer than their questions are.
  alike = stats_seeds.nested_difference(
    [one[0]] * 3, [other[0]] * 3, [None] * 3
  )
  assert alike.high - alike.value == pytest.approx(widths[0] / math.sqrt(3))
  mean = stats_seeds.nested_mean(one, [None] * 3)
  assert mean.low < np.mean(one) < mean.high
  single = stats.mean(one[0])
  together = stats_seeds.nested_mean([one[0]] * 3, [None] * 3)
  ratio = (together.high - together.low) / (single.high - single.low)
  assert ratio == pytest.approx(1 / math.sqrt(3), rel=0.05)
  # All right: as many questions as all seeds have.
  sure = stats_seeds.nested_mean([np.ones(30)] * 3, [None] * 3)
  assert (sure.low, sure.high) == pytest.approx(stats.wilson(90, 90))


def test_spread_of_seeds_with_questions_of_their_own():
  # Means 3/4 and 1/4: variance 1/8. Each seed's questions are a Bernoulli's
  # with squares 3/4, so a mean's variance is 3/4 / 4 * 4/3 / 4 = 1/16.
  rows = list(_SCORE)
  sd, share = stats_seeds.nested_spread(rows, [None] * 2)
  assert sd == stats_seeds.decompose(_SCORE).seed_sd
  assert share == pytest.approx(1 - (1 / 16) / (1 / 8))
  # Questions in pairs about a document: {1, 1 | 0, 1} and {1, 0 | 0, 0} are
  # off their means by +-1/2, squares 1/2, times 2 over 16 is 1/16 as well.
  _, share = stats_seeds.nested_spread(rows, [[0, 0, 1, 1]] * 2)
  assert share == pytest.approx(1 / 2)
  assert stats_seeds.nested_spread(rows, [np.zeros(4)] * 2) == (sd, None)
  alike, share = stats_seeds.nested_spread([rows[0], rows[0]], [None] * 2)
  assert (alike.value, share) == (0, None)
  # Seeds that do not differ have a small share, those that do a large one.
  rng = np.random.default_rng(5)
  shares = {}
  for spread in (0.0, 0.2):
    p_S = 0.5 + spread * rng.choice([-1, 1], 40)
    _, shares[spread] = stats_seeds.nested_spread(
      [(rng.random(200) < p).astype(float) for p in p_S], [None] * 40
    )
  assert shares[0.0] < 0.4 and shares[0.2] > 0.95


def test_one_document_says_only_what_seeds_change():
  found = stats_seeds.decompose(_SCORE, np.zeros(4))
  assert (found.both.low, found.both.high) == (0.0, 1.0)
  assert found.other_seeds == stats_seeds.decompose(_SCORE).other_seeds
  assert found.shares == {}
  one = [row for row in _SCORE]
  for apart in (
    stats_seeds.difference(_SCORE, 1 - _SCORE, np.zeros(4), paired=True),
    stats_seeds.nested_difference(one, one[::-1], [np.zeros(4)] * 2),
  ):
    assert (apart.low, apart.high, apart.p) == (-1.0, 1.0, 1.0)


def test_sameness_and_certainty():
  found = stats_seeds.difference(_SCORE, _SCORE, paired=True)
  assert found.value == 0 and found.p == 1.0
  # No seed and hardly a question differs: the p-value is as small as it gets.
  ones, zeros = np.ones((9, 400)), np.zeros((9, 400))
  assert stats_seeds.difference(ones, zeros, paired=True).p < 1e-9


@pytest.mark.parametrize(
  "call, message",
  [
    (lambda: stats_seeds.decompose(_SCORE[:1]), "1 seed: "),
    (
      lambda: stats_seeds.difference(_SCORE, _SCORE[:, :3], paired=False),
      "expected the same questions",
    ),
    (
      lambda: stats_seeds.difference(
        _SCORE, np.repeat(_SCORE, 2, axis=0), paired=True
      ),
      "as many seeds if they are paired",
    ),
    (
      lambda: stats_seeds.decompose([[1.0], [1.0, 0]]),
      "seeds with 1, 2 scores",
    ),
    (lambda: stats_seeds.nested_mean([_SCORE[0]], [None]), "1 seed: "),
  ],
)
def test_what_is_refused(call, message):
  with pytest.raises(ValueError, match=message):
    call()
