"""Reranking: draws, probabilities and gradients equal to enumeration."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax.memory import bank as bank_lib
from memjax.memory import rerank
from memjax.memory import retrieve

_K, _M, _D = 4, 2, 3
_SCORE = (0.5, 0.1, -0.25, 0.2)
# exp(s / tau) of 1, 2, 5 with tau = 2.
_BY_HAND = 2 * np.log([[1.0, 2.0, 5.0]])
_TAU = 0.5

_objective = jax.jit(rerank.objective, static_argnames="reading")
_log_prob = jax.jit(rerank.log_prob)
_pick = jax.jit(rerank.pick, static_argnames="m")
_scores = jax.jit(rerank.scores)
_gumbel = jax.jit(rerank.gumbel, static_argnames="K")


def _enumerate(score, tau, m, there=None):
  """{ordered draw: Plackett-Luce probability}, in plain Python."""
  K = len(score)
  able = [i for i in range(K) if there is None or there[i]]
  draws = {}
  for order in itertools.permutations(able, min(m, len(able))):
    left, p = list(able), 1.0
    for i in order:
      p *= math.exp(score[i] / tau)
      p /= sum(math.exp(score[j] / tau) for j in left)
      left.remove(i)
    draws[order] = p
  return draws


def _draw(picked, there, noise=None, query=None, memory=None, width=_D):
  """A Draw of numpy arrays; what is not given is zero."""
  there = np.asarray(there)
  N, K = there.shape
  zeros = lambda *shape: jnp.zeros(shape, jnp.float32)
  return rerank.Draw(
    zeros(N, width) if query is None else query,
    zeros(N, K, width) if memory is None else memory,
    jnp.asarray(there),
    zeros(N, K) if noise is None else jnp.asarray(noise),
    jnp.asarray(picked, jnp.int32),
  )


def _random(shape, seed, dtype=np.float32):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def _weights(seed=0, dtype=np.float32, size=0.4):
  return {
    name: size * _random((_D, _D), seed + i, dtype)
    for i, name in enumerate(("query", "memory"))
  }


# Drawing.


_SAMPLES = 40_000


@functools.cache
def _counts(tau):
  """{ordered draw: how often} of pick with Gumbel noise."""
  key_N = jax.random.split(jax.random.key(7), _SAMPLES)
  score = jnp.tile(jnp.array([_SCORE], jnp.float32), (_SAMPLES, 1))
  noise = _gumbel(key_N, K=_K)
  picked = np.asarray(_pick(score, jnp.ones(score.shape, bool), noise, tau, _M))
  orders, count = np.unique(picked, axis=0, return_counts=True)
  return {tuple(o.tolist()): int(c) for o, c in zip(orders, count)}


def _sigmas(count, p):
  """How far a binomial count is from its mean."""
  return abs(count - _SAMPLES * p) / math.sqrt(_SAMPLES * p * (1 - p))


@pytest.mark.parametrize("tau", [0.25, 2.0])
def test_draws_are_plackett_luce(tau):
  # 12 ordered draws and 4 marginals, each within 5 sigma: a right sampler fails
  # once in 100,000 seeds. The rarest draw is expected over 150 times.
  expected, counts = _enumerate(_SCORE, tau, _M), _counts(tau)
  assert sum(counts.values()) == _SAMPLES and set(counts) == set(expected)
  assert min(expected.values()) * _SAMPLES > 150
  for order, p in expected.items():
    assert _sigmas(counts[order], p) < 5, (order, counts[order], _SAMPLES * p)
  for i in range(_K):
    p = sum(p for order, p in expected.items() if i in order)
    count = sum(c for order, c in counts.items() if i in order)
    assert _sigmas(count, p) < 5, (i, count, _SAMPLES * p)


def test_tau_shapes_the_draw():
  best = (0, 3)
  for tau, other in ((0.25, 2.0), (2.0, 0.25), (0.25, 1.0), (2.0, 1.0)):
    # Far from what another temperature would give, 1 among them: that is what
    # (s + noise) / tau has at any tau.
    wrong = _enumerate(_SCORE, other, _M)[best]
    assert _sigmas(_counts(tau)[best], wrong) > 10
  assert _counts(0.25)[best] > 2 * _counts(2.0)[best]


def test_noise_is_gumbel():
  noise = np.sort(
    np.asarray(_gumbel(jax.random.split(jax.random.key(1), 5000), K=4)).ravel()
  )
  assert noise.dtype == np.float32
  # Kolmogorov-Smirnov: 20,000 numbers are within 0.0138 at p = 0.001.
  above = np.arange(1, noise.size + 1) / noise.size
  assert np.abs(above - np.exp(-np.exp(-noise))).max() < 0.0138


def test_a_row_has_the_same_noise_in_any_batch():
  key_N = jax.random.split(jax.random.key(3), 6)
  noise = np.asarray(rerank.gumbel(key_N, 5))
  assert noise.shape == (6, 5) and len(np.unique(noise)) == 30
  for rows in ([2], [5, 2, 0], [2, 2, 2, 2]):
    some = rerank.gumbel(key_N[np.array(rows)], 5)
    np.testing.assert_array_equal(some, noise[rows])


@pytest.mark.parametrize("m", [1, 3, 5, 7])
def test_pick_equals_sorting(m):
  rng = np.random.default_rng(0)
  score = rng.integers(0, 3, (200, 5)).astype(np.float32)
  noise = rng.integers(0, 2, (200, 5)).astype(np.float32)
  there = rng.random((200, 5)) < 0.6
  there[0] = False
  # What stands where nothing is must not matter.
  rubbish = lambda x: np.where(
    there, x, rng.choice([np.nan, np.inf, 9], (200, 5))
  )
  picked = _pick(rubbish(score), there, rubbish(noise), 0.5, m)
  assert picked.shape == (200, m) and picked.dtype == jnp.int32
  for n in range(200):
    able = [i for i in range(5) if there[n, i]]
    order = sorted(able, key=lambda i: (-score[n, i] / 0.5 - noise[n, i], i))
    assert picked[n].tolist() == (order + [-1] * m)[:m]


# Scores.


def _bank(embedding):
  """One bank per row, all slots taken, ids in the order of the slots."""
  N, E, D = embedding.shape
  return dataclasses.replace(
    bank_lib.init(N, E, 1, D),
    valid=jnp.ones((N, E), bool),
    id=jnp.tile(jnp.arange(E)[None], (N, 1)),
    embedding=embedding,
  )


@pytest.mark.parametrize("compile_fn", [jax.jit, lambda f: f])
@pytest.mark.parametrize("N, K, D", [(1, 20, 384), (3, 7, 5), (4, 50, 768)])
def test_zero_weights_are_the_retriever(N, K, D, compile_fn):
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  query, memory = unit(_random((N, D), 1)), unit(_random((N, K, D), 2))
  # Equal entries: the earlier first.
  memory = memory.at[:, 4].set(memory[:, 1])
  bank, params = _bank(memory), rerank.init(D)
  assert {x.shape for x in params.values()} == {(D, D)}
  expected = compile_fn(retrieve.cosine)(query, bank)
  score = compile_fn(rerank.scores)(params, query, memory)
  assert score.dtype == expected.dtype == jnp.float32
  np.testing.assert_array_equal(
    np.asarray(score).view(np.int32), np.asarray(expected).view(np.int32)
  )
  for m in (5, K + 2):
    np.testing.assert_array_equal(
      _pick(score, bank.valid, jnp.zeros((N, K)), 0.5, m),
      retrieve.top(expected, bank, m),
    )


def test_scores_by_hand():
  params = {
    "query": jnp.array([[0.0, 1.0], [0.0, 0.0]]),  # the second to the first
    "memory": jnp.array([[0.0, 0.0], [3.0, 0.0]]),  # 3 x the first
  }
  query = jnp.array([[1.0, 2.0]])
  memory = jnp.array([[[1.0, 0.0], [0.0, 1.0]]])
  # q' = (3, 2); m' = (1, 3) and (0, 1).
  assert _scores(params, query, memory).tolist() == [[9.0, 2.0]]


# Probabilities.


@pytest.mark.parametrize("tau", [0.25, 2.0])
@pytest.mark.parametrize(
  "m, there",
  [(1, (1, 1, 1, 1)), (2, (1, 1, 1, 1)), (4, (1, 1, 1, 1))]
  + [(2, (0, 1, 1, 1)), (6, (0, 1, 1, 1)), (3, (1, 0, 0, 1))],
)
def test_log_prob_equals_enumeration(tau, m, there):
  expected = _enumerate(_SCORE, tau, m, there)
  picked = [list(o) + [-1] * (m - len(o)) for o in expected]
  N = len(picked)
  score = np.tile(np.where(there, _SCORE, np.nan), (N, 1)).astype(np.float32)
  logp = _log_prob(score, _draw(picked, np.tile(there, (N, 1)) > 0), tau)
  assert logp.dtype == jnp.float32
  np.testing.assert_allclose(np.exp(logp), [*expected.values()], rtol=1e-5)
  assert float(np.exp(logp).sum()) == pytest.approx(1, abs=1e-5)


def test_objective_by_hand():
  draw = _draw([[2, 1]], np.ones((1, 3), bool))
  reward = rerank.rewards(np.array([[True, False]]), draw.picked)
  value = _objective(_BY_HAND, draw, reward, 2.0, 0.5, "plackett_luce")
  # exp(s / tau) = 1, 2, 5: P = 5/8 * 2/3, and the mean reward is 0.
  assert value.tolist() == [pytest.approx(-0.5 * math.log(5 / 12), rel=1e-5)]
  # Noise that makes of 1, 2, 5 the weights 1, 6, 5; the clean ones are others.
  draw = _draw(
    [[1, 2]], np.ones((1, 3), bool), np.log([[1.0, 3.0, 1.0]], dtype=np.float32)
  )
  value = _objective(_BY_HAND, draw, reward, 2.0, 0.5, "softmax")
  by_hand = 0.5 * math.log(6 / 12) - 1.5 * math.log(5 / 12)
  assert value.tolist() == [pytest.approx(by_hand, rel=1e-5)]
  # The other reading does not see the noise: P = 2/8 * 5/6.
  value = _objective(_BY_HAND, draw, reward, 2.0, 0.5, "plackett_luce")
  assert value.tolist() == [pytest.approx(-0.5 * math.log(10 / 48), rel=1e-5)]


def test_rewards():
  cited = np.array([[True, False, True], [False, True, True]])
  picked = np.array([[3, 0, -1], [1, 2, 0]])
  reward = rerank.rewards(cited, picked)
  assert reward.dtype == jnp.float32
  assert reward.tolist() == [[1, -1, 0], [-1, 1, 1]]


def test_errors_name_the_choices():
  draw = _draw([[2, 1]], np.ones((1, 3), bool))
  with pytest.raises(ValueError, match="plackett_luce, softmax"):
    rerank.objective(_BY_HAND, draw, jnp.ones((1, 2)), 1.0, 0.5, "set")
  with pytest.raises(ValueError, match=r"\(1, 3\); expected .* \(1, 2\)"):
    rerank.objective(_BY_HAND, draw, jnp.ones((1, 3)), 1.0, 0.5, "softmax")


# Gradients.


def _case(dtype=np.float64):
  """Four questions: all candidates, two, one, and none; M = 3."""
  there = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0], [0] * 4]) > 0
  query, memory = _random((4, _D), 5, dtype), _random((4, _K, _D), 6, dtype)
  noise = _random((4, _K), 7, dtype)
  score = rerank.scores(_weights(dtype=dtype), query, memory)
  draw = _draw(
    rerank.pick(score, there, noise, _TAU, 3), there, noise, query, memory
  )
  assert (np.asarray(draw.picked) >= 0).sum(1).tolist() == [3, 2, 1, 0]
  return draw, _random((4, 3), 8, dtype)


@pytest.mark.parametrize("reading", rerank.READINGS)
def test_gradient_is_finite_difference(reading):
  with jax.enable_x64(True):
    draw, reward = _case()
    weight = jnp.array([1.0, -2.0, 0.7, 3.0])

    @jax.jit
    def value(params):
      score = rerank.scores(params, draw.query, draw.memory)
      each = rerank.objective(score, draw, reward, _TAU, 0.3, reading)
      return (weight * each).sum()

    params = _weights(dtype=np.float64)
    grad = jax.grad(value)(params)
    assert value(params).dtype == jnp.float64
    # Central differences: the error is about step^2 and rounding / step, both
    # below 1e-9 here.
    step = 1e-5
    for name in params:
      # All entries at once: [D * D, D, D], each with one step.
      step_SDD = step * jnp.eye(_D * _D).reshape(-1, _D, _D)
      moved = lambda x, name=name: value(params | {name: x})
      up = jax.vmap(moved)(params[name][None] + step_SDD)
      down = jax.vmap(moved)(params[name][None] - step_SDD)
      want = ((up - down) / (2 * step)).reshape(_D, _D)
      np.testing.assert_allclose(grad[name], want, rtol=0, atol=1e-8)
      assert np.abs(grad[name]).max() > 0.1


@pytest.mark.parametrize(
  "m, there",
  [(1, (1,) * 4), (2, (1,) * 4), (4, (1,) * 4)]
  + [(2, (1, 0, 1, 1)), (5, (1, 0, 1, 1))],
)
def test_plackett_luce_is_unbiased(m, there):
  """Expectations over all ordered draws, one row each; float64."""
  rng = np.random.default_rng(m)
  with jax.enable_x64(True):
    query, memory = _random((1, _D), 1, float), _random((1, _K, _D), 2, float)
    params = _weights(dtype=np.float64)
    score = rerank.scores(params, query, memory)[0].tolist()
    exact = _enumerate(score, _TAU, m, there)
    N = len(exact)
    picked = np.array([list(o) + [-1] * (m - len(o)) for o in exact])
    query, memory = jnp.tile(query, (N, 1)), jnp.tile(memory, (N, 1, 1))
    draw = _draw(picked, np.tile(there, (N, 1)) > 0, None, query, memory)
    p = jnp.array([*exact.values()])
    # Rewards of a set: each of its memories has one that depends on all.
    table = {}
    reward = np.full(picked.shape, np.nan)
    for n, order in enumerate(exact):
      for j, i in enumerate(order):
        of = (frozenset(order), i)
        reward[n, j] = table.setdefault(of, float(rng.normal()))
    reward = jnp.array(reward)

    def logp(params):
      score = rerank.scores(params, query, memory)
      return rerank.log_prob(score, draw, _TAU)

    def expected_reward(params):
      return (jnp.exp(logp(params)) * jnp.nanmean(reward, axis=1)).sum()

    np.testing.assert_allclose(np.exp(logp(params)), p, rtol=1e-10)
    # E[grad log P] = 0.
    zero = jax.jit(jax.grad(lambda x: (p * logp(x)).sum()))(params)
    for leaf in zero.values():
      assert np.abs(leaf).max() < 1e-12

    want = jax.jit(jax.grad(expected_reward))(params)

    def surrogate(params, baseline):
      score = rerank.scores(params, query, memory)
      each = rerank.objective(
        score, draw, reward, _TAU, baseline, "plackett_luce"
      )
      return (p * each).sum()

    for baseline in (0.0, 0.5, -3.0):
      got = jax.jit(jax.grad(surrogate))(params, baseline)
      for name in params:
        np.testing.assert_allclose(got[name], want[name], rtol=0, atol=1e-12)
    # Something is to be learned, unless the order is all that is drawn.
    for leaf in want.values():
      assert np.abs(leaf).max() > 1e-2 or m >= sum(there)


def test_softmax_drifts_where_nothing_is_to_be_learned():
  """Two candidates that score a and 0, both worth 1; one is picked."""
  a, N = 2.0, 100_000
  # The difference of two Gumbels is logistic: a grid of its quantiles.
  u = (np.arange(N) + 0.5) / N
  noise = np.stack([np.log(u / (1 - u)), np.zeros(N)], 1).astype(np.float32)
  score = jnp.tile(jnp.array([[a, 0.0]]), (N, 1))
  there = jnp.ones((N, 2), bool)
  picked = rerank.pick(score, there, noise, 1.0, 1)
  draw = _draw(picked, there, noise)
  reward = jnp.ones((N, 1))

  def drift(reading, baseline):
    f = lambda x: _objective(x, draw, reward, 1.0, baseline, reading).sum()
    return float(jax.grad(f)(score)[:, 0].mean())

  # E[1(a + L > 0) - sigmoid(a + L)] with L logistic, the sum of two of which is
  # below a with probability e^a (e^a - 1 - a) / (e^a - 1)^2.
  e = math.exp(a)
  by_hand = e / (1 + e) - e * (e - 1 - a) / (e - 1) ** 2
  assert by_hand == pytest.approx(0.0863, abs=1e-4)
  # The grid's error is below 1 / N; float32 sums add some.
  assert drift("softmax", 0.0) == pytest.approx(by_hand, abs=1e-4)
  assert drift("softmax", 0.5) == pytest.approx(by_hand / 2, abs=1e-4)
  assert drift("plackett_luce", 0.0) == pytest.approx(0, abs=1e-4)
  assert drift("plackett_luce", 0.5) == pytest.approx(0, abs=1e-4)


# Candidates that are not there.


def _value_and_grad(score, draw, reward, reading):
  """The objective [N] and the gradient [N, K] of its sum."""
  f = lambda x: rerank.objective(x, draw, reward, _TAU, 0.5, reading)
  value, back = jax.vjp(f, score)
  return value, back(jnp.ones_like(value))[0]


@pytest.mark.parametrize("reading", rerank.READINGS)
def test_what_is_not_there_does_not_matter(reading):
  run = jax.jit(functools.partial(_value_and_grad, reading=reading))
  draw, reward = _case(np.float32)
  score = _scores(_weights(), draw.query, draw.memory)
  value, grad = run(score, draw, reward)
  assert np.isfinite(value).all() and np.isfinite(grad).all()
  assert (np.asarray(grad)[~draw.there] == 0).all()
  # Row 3 has no candidate, the one of row 2 is certain: nothing to be learned.
  assert value[3] == 0 and (grad[2:] == 0).all() and (grad[:2] != 0).any()
  for bad in (7.0, np.nan, np.inf, -np.inf):
    put = lambda x, bad=bad: jnp.where(draw.there, x, bad)
    again = run(
      put(score),
      dataclasses.replace(draw, noise=put(draw.noise)),
      jnp.where(draw.picked >= 0, reward, bad),
    )
    np.testing.assert_array_equal(again[0], value)
    np.testing.assert_array_equal(again[1], grad)
  # The same as if the two candidates of row 1 were all that there is.
  alone = run(
    score[1:2, 1::2],
    _draw(
      (draw.picked[1:2, :2] - 1) // 2,
      np.ones((1, 2), bool),
      draw.noise[1:2, 1::2],
    ),
    reward[1:2, :2],
  )
  np.testing.assert_allclose(alone[0], value[1:2], rtol=1e-6)
  np.testing.assert_allclose(alone[1], grad[1:2, 1::2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("reading", rerank.READINGS)
def test_no_nan_on_the_way(reading):
  draw, reward = _case(np.float32)

  def value(params):
    score = rerank.scores(params, draw.query, draw.memory)
    return rerank.objective(score, draw, reward, _TAU, 0.5, reading).sum()

  # Operation by operation: also what a mask hides later would raise.
  with jax.debug_nans(True):
    grad = jax.grad(value)(_weights())
  for leaf in grad.values():
    assert np.isfinite(leaf).all()


@pytest.mark.parametrize("reading", rerank.READINGS)
def test_scores_far_apart_stay_finite(reading):
  score = jnp.array([[1e4, 0.0, -1e4, 3.0]])
  draw = _draw([[2, 0, 1]], np.ones((1, 4), bool))
  f = lambda x: _objective(x, draw, jnp.ones((1, 3)), 0.1, 0.5, reading).sum()
  value, grad = jax.value_and_grad(f)(score)
  assert np.isfinite(value) and np.isfinite(grad).all()
  assert float(value) < -1e4


@pytest.mark.parametrize("reading", rerank.READINGS)
def test_ascent_finds_the_cited_memory(reading):
  """Everything together under one jit: memory 2 is the one that is cited."""
  N, K = 64, 6
  memory = jnp.tile(_random((1, K, _D), 3), (N, 1, 1))
  query = jnp.tile(_random((1, _D), 4), (N, 1))
  there = jnp.ones((N, K), bool)

  def step(params, key):
    score = rerank.scores(params, query, memory)
    noise = rerank.gumbel(jax.random.split(key, N), K)
    picked = rerank.pick(score, there, noise, _TAU, _M)
    draw = rerank.Draw(query, memory, there, noise, picked)
    reward = rerank.rewards(picked == 2, picked)

    def value(params):
      score = rerank.scores(params, query, memory)
      each = rerank.objective(score, draw, reward, _TAU, 0.0, reading)
      return each.mean()

    grad = jax.grad(value)(params)
    params = jax.tree.map(lambda x, g: x + 0.01 * g, params, grad)
    return params, (picked == 2).any(1).mean()

  keys = jax.random.split(jax.random.key(0), 300)
  run = jax.jit(lambda params: jax.lax.scan(step, params, keys))
  _, share = run(rerank.init(_D))
  share = np.asarray(share)
  assert share[0] < 0.6 and share[-20:].mean() > 0.9
