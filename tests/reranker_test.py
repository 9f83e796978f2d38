"""Training what reranks: rewards, gradients, and something to learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.scipy.special import logsumexp

from memjax import agents
from memjax import qwen3
from memjax import reranker
from memjax import retriever as retriever_lib
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import demos
from memjax.envs import homes
from memjax.memory import bank as bank_lib
from memjax.memory import rerank
from memjax.memory import retrieve

_N, _K, _M, _D, _TAU = 7, 4, 3, 16, 0.5

_TOKENIZER = tokenizer_lib.from_words(demos.words())
_EMBEDDER = qwen3.Config(
  _TOKENIZER.vocab_size, _D, 1, 2, 1, 8, 16, scan_layers=False
)
_RETRIEVER = retriever_lib.Retriever(
  "embedding",
  retrieve.make_lexicon(_TOKENIZER),
  _EMBEDDER,
  _TOKENIZER.stop_ids[0],
  candidates=2,
  fetched=_K,
  retrieved=_M,
  reranks=True,
  explores=True,
  tau=_TAU,
)
_TRAINER = reranker.Trainer(
  _RETRIEVER, "map", "plackett_luce", 0.5, _N, optax.sgd(1.0)
)


def _normal(rng, *shape, size=1.0):
  return jnp.asarray(rng.normal(0, size, shape), jnp.float32)


@functools.cache
def _policies():
  rng = np.random.default_rng(1)
  weights = {name: _normal(rng, _D, _D, size=0.3) for name in rerank.init(1)}
  embedder = qwen3.init(jax.random.key(0), _EMBEDDER)
  return agents.Policies({"x": jnp.ones(3)}, None, embedder, weights)


def _state(trainer):
  params = jax.tree.map(jnp.array, trainer.params(_policies()))
  return reranker.State(params, trainer.tx.init(params))


def _segment(choice, used, malformed):
  return agents.Segment(
    None, None, None, malformed, None, used=used, choice=choice
  )


@functools.cache
def _choices():
  """Random draws: rows with few candidates and none, malformed answers."""
  rng = np.random.default_rng(0)
  there = rng.random((_N, _K)) < 0.7
  there[2], there[3], there[4] = False, [0, 1, 0, 0], True
  words = rng.integers(20, _TOKENIZER.vocab_size, (_N, _K, 2))
  entries = token_lib.Tokens(jnp.asarray(words), jnp.where(there, 2, 0))
  question = token_lib.Tokens(
    jnp.asarray(words[:, 0]), jnp.full((_N,), 1, jnp.int32)
  )
  unit = lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True)
  query, memory = unit(_normal(rng, _N, _D)), unit(_normal(rng, _N, _K, _D))
  noise = rerank.gumbel(jax.random.split(jax.random.key(0), _N), _K)
  score = rerank.scores(_policies().reranker, query, memory)
  picked = rerank.pick(score, jnp.asarray(there), noise, _TAU, _M)
  draw = rerank.Draw(query, memory, jnp.asarray(there), noise, picked)
  choice = retriever_lib.Choice(draw, question, entries)
  used = rng.random((_N, _M)) < 0.4
  malformed = np.arange(_N) == 5
  return reranker.choices(_segment(choice, used, malformed), (1, _N, 1))


def _cut(found, sizes):
  """The same in several waves."""
  stops = np.cumsum(sizes)
  return [
    jax.tree.map(lambda x, a=a, b=b: x[a:b], found)
    for a, b in zip([0, *stops], stops)
  ]


def _plain(found, score, reading, baseline):
  """The mean objective, question by question and pick by pick."""
  found, total, count = jax.device_get(found), 0.0, 0
  draw = found.choice.draw
  for n in np.flatnonzero(found.weight):
    count += 1
    able = np.flatnonzero(draw.there[n]).tolist()
    picked = [k for k in draw.picked[n].tolist() if k >= 0]
    reward = found.reward[n, : len(picked)]
    if not picked:
      continue
    if reading == "plackett_luce":
      left, logp = list(able), 0.0
      for k in picked:
        rest = jnp.stack([score(n, i) / _TAU for i in left])
        logp += score(n, k) / _TAU - logsumexp(rest)
        left.remove(k)
      total += (reward.mean() - baseline) * logp
    else:
      noisy = {k: score(n, k) / _TAU + draw.noise[n, k] for k in able}
      norm = logsumexp(jnp.stack(list(noisy.values())))
      total += sum(
        (r - baseline) * (noisy[k] - norm) for r, k in zip(reward, picked)
      )
  return total / count


def _score(weights, query_ND, memory_NKD):
  adapt = lambda name, x: x + weights[name] @ x
  return lambda n, k: (
    adapt("query", query_ND[n]) @ adapt("memory", memory_NKD[n, k])
  )


@functools.cache
def _expected(reading, baseline=0.5):
  """Gradient of the plain objective with respect to the map."""
  found = _choices()
  draw = found.choice.draw
  return jax.grad(
    lambda weights: _plain(
      found, _score(weights, draw.query, draw.memory), reading, baseline
    )
  )(_policies().reranker)


def _gradient(waves, trainer):
  """What an update goes along: sgd with a rate of 1 ascends by it."""
  before = jax.device_get(trainer.params(_policies()))
  state, metrics = reranker.update(_state(trainer), _policies(), waves, trainer)
  return jax.tree.map(lambda a, b: a - b, state.params, before), metrics


def _close(a, b):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-6), a, b)


def _same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  jax.tree.map(np.testing.assert_array_equal, a, b)


# What was chosen, and what it was worth.


def test_cited_is_right_and_the_rest_wrong():
  picked = jnp.array([[2, 0, 1], [1, -1, -1], [0, 3, -1]])
  draw = dataclasses.replace(
    jax.tree.map(lambda x: x[:3], _choices().choice.draw), picked=picked
  )
  choice = retriever_lib.Choice(draw, None, None)
  used = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 1]], bool)
  found = reranker.choices(
    _segment(choice, used, np.array([False, True, False])), (1, 3, 1)
  )
  assert found.reward.tolist() == [[1, -1, 1], [-1, 0, 0], [-1, 1, 0]]
  assert found.weight.tolist() == [True, False, True]
  assert found.choice is choice


def test_shuffled_rewards_stay_with_their_question():
  """How many were used, and whether it counts; not which, nor by whom."""
  W, G, q, M = 3, 5, 2, 5
  N = W * G * q
  w, g, i = np.unravel_index(np.arange(N), (W, G, q))
  count = (g + w + 2 * i) % (M + 1)
  picked = np.tile(np.arange(M), (N, 1))
  draw = rerank.Draw(None, None, None, None, picked)
  choice = retriever_lib.Choice(draw, None, None)
  segment = _segment(choice, np.arange(M) < count[:, None], g == 2)
  found = reranker.choices(segment, (W, G, q), np.random.default_rng(0))
  again = (found.reward > 0).sum(1)
  assert ((found.reward == 1) | (found.reward == -1)).all()
  pairs = lambda x, y: {
    key: sorted(zip(x[rows], y[rows]))
    for key in np.ndindex(W, q)
    if (rows := (w == key[0]) & (i == key[1])).any()
  }
  assert (again != count).mean() > 0.5
  assert pairs(again, ~found.weight) == pairs(count, g == 2)
  # Of each question another order, and all places alike.
  orders = (again - w - 2 * i).reshape(W, G, q) % (M + 1)
  assert (orders[:, :, 0] != orders[:, :, 1]).any()
  cited = [
    (reranker.choices(segment, (W, G, q), np.random.default_rng(s)).reward > 0)
    for s in range(40)
  ]
  share = np.concatenate(cited).mean(0)
  assert np.abs(share - share.mean()).max() < 0.1  # 1,200 rows: 5 sigma are .07


def test_shuffled_rewards_stay_where_something_was_shown():
  picked = np.tile(np.array([3, 1, -1, -1]), (8, 1))
  draw = rerank.Draw(None, None, None, None, picked)
  segment = _segment(
    retriever_lib.Choice(draw, None, None),
    np.tile([True, False, False, False], (8, 1)),
    np.zeros(8, bool),
  )
  reward = reranker.choices(segment, (1, 8, 1), np.random.default_rng(1)).reward
  assert not reward[:, 2:].any() and (reward[:, :2].sum(1) == 0).all()
  assert len(np.unique(reward, axis=0)) == 2


# The update.


@pytest.mark.parametrize(
  "micro_batch, sizes",
  [(_N, [7]), (3, [7]), (1, [7]), (64, [7]), (2, [3, 4]), (3, [1, 5, 1])],
)
@pytest.mark.parametrize("reading", rerank.READINGS)
def test_the_gradient_is_that_of_all_questions(reading, micro_batch, sizes):
  trainer = dataclasses.replace(
    _TRAINER, reading=reading, micro_batch=micro_batch
  )
  got, metrics = _gradient(_cut(_choices(), sizes), trainer)
  want = _expected(reading)
  _close(got, want)
  assert float(optax.tree.norm(want)) > 0.05
  np.testing.assert_allclose(
    metrics["grad_norm"], optax.tree.norm(want), rtol=1e-4
  )
  # Of the questions that count: row 5 does not.
  found = _choices()
  shown = (np.asarray(found.choice.draw.picked) >= 0) & found.weight[:, None]
  cited = (shown & (found.reward > 0)).sum() / shown.sum()
  np.testing.assert_allclose(metrics["cited"], cited, rtol=1e-6)
  assert bool(metrics["finite"])


def test_the_mean_baseline_is_what_was_shown_on_average():
  found = _choices()
  counts = (np.asarray(found.choice.draw.picked) >= 0) & found.weight[:, None]
  mean = float(found.reward[counts].mean())
  assert abs(mean) > 0.05 and (counts.sum(1) < _M).any()
  trainer = dataclasses.replace(_TRAINER, baseline=None)
  for sizes in ([7], [3, 4]):
    _close(
      _gradient(_cut(found, sizes), trainer)[0],
      _expected("plackett_luce", mean),
    )


def test_the_encoder_alone_is_tuned():
  """Texts are embedded again; its gradient is that of all questions too."""
  trainer = dataclasses.replace(_TRAINER, tunes="encoder", micro_batch=3)
  got, _ = _gradient([_choices()], trainer)
  found, policies = _choices(), _policies()
  draw, end = found.choice, _TOKENIZER.stop_ids[0]

  embed = jax.jit(lambda *args: retrieve.embed(args[0], _EMBEDDER, *args[1:]))
  flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draw.entries)

  def objective(params):
    memory = embed(params, flat, end).reshape(_N, _K, _D)
    query = embed(params, draw.question, end)
    score = _score(policies.reranker, query, memory)
    return _plain(found, score, "plackett_luce", 0.5)

  want = jax.grad(objective)(policies.embedder)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), got, want
  )
  assert float(optax.tree.norm(want)) > 0.05


@pytest.mark.parametrize("tunes", ["map", "encoder"])
def test_one_part_is_trained(tunes):
  trainer = dataclasses.replace(_TRAINER, tunes=tunes)
  policies = _policies()
  before = jax.tree.map(np.array, policies)
  state, _ = reranker.update(_state(trainer), policies, [_choices()], trainer)
  _same(policies, before)
  new = trainer.policies(policies, state.params)
  for name in ("policy", "embedder", "reranker"):
    tuned = name == ("reranker" if tunes == "map" else "embedder")
    old = getattr(before, name)
    changed = [
      (np.asarray(a) != b).any()
      for a, b in zip(jax.tree.leaves(getattr(new, name)), jax.tree.leaves(old))
    ]
    assert all(changed) if tuned else not any(changed), name
  shapes = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shapes(trainer.abstract_params()) == shapes(state.params)


def _adam(trainer=_TRAINER):
  trainer = dataclasses.replace(trainer, tx=optax.adam(0.1))
  state, _ = reranker.update(
    _state(trainer), _policies(), [_choices()], trainer
  )
  return trainer, state


def test_what_is_not_finite_changes_nothing():
  trainer, state = _adam()
  before = jax.tree.map(np.array, state)
  found = _choices()
  memory = found.choice.draw.memory.at[0, 0, 0].set(jnp.inf)
  draw = dataclasses.replace(found.choice.draw, memory=memory)
  assert draw.there[0, 0] and found.weight[0]
  bad = dataclasses.replace(
    found, choice=dataclasses.replace(found.choice, draw=draw)
  )
  state, metrics = reranker.update(state, _policies(), [bad], trainer)
  assert not bool(metrics["finite"]) and not np.isfinite(metrics["grad_norm"])
  _same(state, before)


def test_without_an_answer_that_counts_nothing_moves():
  """Not by momentum either."""
  trainer, state = _adam()
  before = jax.tree.map(np.array, state)
  nothing = dataclasses.replace(_choices(), weight=np.zeros(_N, bool))
  for one in (trainer, dataclasses.replace(trainer, baseline=None)):
    state, metrics = reranker.update(state, _policies(), [nothing], one)
    assert bool(metrics["finite"]) and float(metrics["cited"]) == 0
    _same(state, before)


# "softmax" needs a wide draw: with tau = 0.2 it stays at 3 of 4 for good.
@pytest.mark.parametrize(
  "reading, tau, rate", [("plackett_luce", 0.2, 0.02), ("softmax", 1.0, 0.005)]
)
def test_it_learns_what_is_cited(reading, tau, rate):
  """Half of the entries are cited whenever they are shown."""
  N, E = 64, 16
  facts = [f"{name}={city}" for name in homes.NAMES for city in homes.CITIES]
  texts = token_lib.from_nested([_TOKENIZER.encode_batch(facts[:E])] * N)
  asked = [f"{homes.NAMES[n % 4]}?" for n in range(N)]
  query = tasks.Query(
    token_lib.from_lists(_TOKENIZER.encode_batch(asked), 1),
    token_lib.from_nested([[]] * N),
  )
  retriever = dataclasses.replace(_RETRIEVER, fetched=E, retrieved=4, tau=tau)
  trainer = dataclasses.replace(
    _TRAINER,
    retriever=retriever,
    reading=reading,
    baseline=None,
    micro_batch=N,
    tx=optax.adam(rate),
  )
  policies = dataclasses.replace(_policies(), reranker=rerank.init(_D))
  texts = jax.tree.map(jnp.asarray, texts)
  bank = dataclasses.replace(
    bank_lib.init(N, E, 1, _D),
    text=texts,
    valid=jnp.ones((N, E), bool),
    id=jnp.tile(jnp.arange(E)[None], (N, 1)),
    embedding=retriever.embed(policies, texts),
  )
  relevant = jax.jit(retriever.relevant)
  state = reranker.State(policies.reranker, trainer.tx.init(policies.reranker))
  state, shares = jax.tree.map(jnp.array, state), []
  for step in range(300):
    now = trainer.policies(policies, state.params)
    keys = jax.random.split(jax.random.key(step), N)
    slot, choice = relevant(now, bank, query, keys, 1.0)
    used = np.asarray(slot) % 2 == 0
    found = reranker.choices(
      _segment(choice, used, np.zeros(N, bool)), (8, 8, 1)
    )
    state, metrics = reranker.update(state, policies, [found], trainer)
    assert float(metrics["cited"]) == pytest.approx(used.mean())
    shares.append(used.mean())
  assert 0.35 < np.mean(shares[:3]) < 0.65
  assert np.mean(shares[-10:]) > 0.9, shares[::20]


# Files.


def test_a_map_is_read_as_it_was_written(tmp_path):
  weights = _policies().reranker
  reranker.save(tmp_path, weights)
  _same(reranker.load(tmp_path, _D), weights)
  with pytest.raises(ValueError, match=f"path={tmp_path}: no map .* width 8"):
    reranker.load(tmp_path, 8)
  with pytest.raises(ValueError, match="path=.*nowhere: no rer.*mode=export"):
    reranker.load(tmp_path / "nowhere", _D)
