"""Which entries are shown: first searches, and a reranker on top of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import qwen3
from memjax import retriever as retriever_lib
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import demos
from memjax.envs import homes
from memjax.memory import bank as bank_lib
from memjax.memory import rerank
from memjax.memory import retrieve

_N, _E, _K, _M, _D = 64, 9, 6, 3, 16

_TOKENIZER = tokenizer_lib.from_words(demos.words())
_EMBEDDER = qwen3.Config(
  _TOKENIZER.vocab_size, _D, 1, 2, 1, 8, 16, scan_layers=False
)
_PLAIN = retriever_lib.Retriever(
  "embedding",
  retrieve.make_lexicon(_TOKENIZER),
  _EMBEDDER,
  _TOKENIZER.stop_ids[0],
  candidates=2,
  fetched=_K,
  retrieved=_K,
)
_RERANKS = dataclasses.replace(
  _PLAIN, retrieved=_M, reranks=True, tau=0.1, explores=True
)


@functools.partial(jax.jit, static_argnames="retriever")
def _relevant(policies, bank, query, key_N, temperature, retriever):
  return retriever.relevant(policies, bank, query, key_N, temperature)


@functools.cache
def _policies(seed=None):
  """An embedder; a map of zeros, or a random one."""
  weights = rerank.init(_D)
  if seed is not None:
    rng = np.random.default_rng(seed)
    for name, x in weights.items():
      weights[name] = jnp.asarray(rng.normal(0, 0.5, x.shape), jnp.float32)
  embedder = qwen3.init(jax.random.key(0), _EMBEDDER)
  return agents.Policies(None, None, embedder, weights)


def _keys(seed=0, count=_N):
  return jax.random.split(jax.random.key(seed), count)


def _rows(tree, rows):
  return jax.tree.map(lambda x: x[np.asarray(rows)], tree)


def _encoded(texts):
  return jax.tree.map(
    jnp.asarray,
    token_lib.from_nested([_TOKENIZER.encode_batch(list(x)) for x in texts]),
  )


def _query(rng, speakers=()):
  asked = rng.choice([f"{name}?" for name in homes.NAMES], _N)
  return tasks.Query(
    jax.tree.map(lambda x: x[:, 0], _encoded([[x] for x in asked])),
    _encoded([speakers] * _N),
  )


def _texts(rng):
  """Lines of two speakers: who, then two things that are told."""
  names = rng.choice(homes.NAMES, (_N, _E, 2))
  cities = rng.choice(homes.CITIES, (_N, _E))
  return [
    [
      f"{homes.SPEAKERS[e % 2]} {a}={city} {b}?"
      for e, ((a, b), city) in enumerate(zip(names[n], cities[n]))
    ]
    for n in range(_N)
  ]


def _banks(rng, share=0.9, twins=False):
  """Random banks: slots free, ids shuffled, perhaps entries nearly equal."""
  text = _encoded(_texts(rng))
  unit = rng.normal(size=(_N, _E, _D))
  unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
  unit = unit.astype(np.float32)
  # As the slot before, or off by a last bit or two.
  for e in range(1, _E, 2) if twins else ():
    unit[:, e] = unit[:, e - 1]
    unit[:, e, : e // 2] *= 1 + 2**-23
  ids = np.argsort(rng.random((_N, _E)), axis=1)
  return dataclasses.replace(
    bank_lib.init(_N, _E, text.capacity, _D),
    text=text,
    valid=jnp.asarray(rng.random((_N, _E)) < share),
    id=jnp.asarray(ids, jnp.int32),
    updated=jnp.asarray(rng.integers(0, 3, (_N, _E)), jnp.int32),
    next_id=jnp.full((_N,), _E, jnp.int32),
    embedding=jnp.asarray(unit),
  )


def _mapped(policies, bank, query, slots):
  """Scores q' . m' of each row's slots, in plain NumPy, float64."""
  wide = lambda x: np.asarray(x, np.float64)
  asked_ND = wide(_PLAIN.embed(policies, query.question))
  weights = {name: wide(x) for name, x in policies.reranker.items()}
  found = []
  for n, row in enumerate(slots):
    q = asked_ND[n] + weights["query"] @ asked_ND[n]
    entries = wide(bank.embedding[n])[row]
    found.append((entries + entries @ weights["memory"].T) @ q)
  return found


def _reranked(policies, bank, query, fetched_NK):
  """The M best of those that were fetched."""
  slots = [[int(s) for s in row if s >= 0] for row in fetched_NK]
  shown = []
  for row, score in zip(slots, _mapped(policies, bank, query, slots)):
    order = np.argsort(-score)[:_M]
    shown.append([row[i] for i in order] + [-1] * (_M - len(order)))
  return np.array(shown)


# Greedy.


@pytest.mark.parametrize("tau", [0.1, 0.7])
def test_a_map_of_zeros_keeps_the_embeddings_ranking(tau):
  """The first M of the K, in many banks, equal and nearly equal entries too."""
  reranks, close, few = dataclasses.replace(_RERANKS, tau=tau), 0, 0
  for seed in range(12):
    rng = np.random.default_rng(seed)
    bank, query = _banks(rng, 0.9 if seed % 3 else 0.35, True), _query(rng)
    args = _policies(), bank, query, _keys(seed), 0.0
    plain, nothing = _relevant(*args, _PLAIN)
    shown, choice = _relevant(*args, reranks)
    assert nothing is None and plain.shape == (_N, _K)
    np.testing.assert_array_equal(shown, plain[:, :_M])
    assert not choice.draw.noise.any()
    score = np.asarray(_PLAIN.fetch(*args[:3])[1])
    ranked = np.sort(np.where(bank.valid, score, np.nan), axis=1)
    close += (np.abs(np.diff(ranked)) < 1e-6).sum()
    few += (bank.valid.sum(1) < _M).sum()
  assert close > 1000 and few > 20  # what this is about did occur


@pytest.mark.parametrize("first", ["embedding", "bm25", "recency", "given"])
def test_a_map_reorders_what_the_first_search_found(first):
  rng = np.random.default_rng(3)
  bank, query = _banks(rng, 0.7), _query(rng)
  search = dataclasses.replace(_PLAIN, first=first)
  args = _policies(1), bank, query, _keys(), 0.0
  fetched = np.asarray(_relevant(*args, search)[0])
  reranks = dataclasses.replace(_RERANKS, first=first)
  shown, _ = _relevant(*args, reranks)
  np.testing.assert_array_equal(shown, _reranked(*args[:3], fetched))
  assert (np.asarray(shown) != fetched[:, :_M]).any(1).mean() > 0.5
  # The first search decides which can be shown at all.
  valid, ids = np.asarray(bank.valid), np.asarray(bank.id)
  place = {
    "given": np.tile(np.arange(_E), (_N, 1)),
    "recency": -(np.asarray(bank.updated) * _E + ids),
    "bm25": -np.asarray(retrieve.bm25(_PLAIN.lexicon, query.question, bank)),
    "embedding": -np.asarray(_PLAIN.fetch(*args[:3])[1]),
  }[first]
  for n in range(_N):
    able = [e for e in range(_E) if valid[n, e]]
    best = sorted(able, key=lambda e: (place[n, e], ids[n, e]))[:_K]
    assert fetched[n].tolist() == best + [-1] * (_K - len(best))


def test_speakers_have_equal_shares_of_what_is_reranked():
  rng = np.random.default_rng(5)
  bank, query = _banks(rng, 0.8), _query(rng, homes.SPEAKERS)
  args = _policies(1), bank, query, _keys(), 0.0
  fetched = np.asarray(_relevant(*args, _PLAIN)[0])
  for n in range(_N):
    for parity in (0, 1):  # slot e is a line of speaker e % 2
      there = int(np.asarray(bank.valid)[n, parity::2].sum())
      found = [s for s in fetched[n] if s >= 0 and s % 2 == parity]
      assert len(found) == min(there, _K // 2)
  shown, _ = _relevant(*args, _RERANKS)
  np.testing.assert_array_equal(shown, _reranked(*args[:3], fetched))


def test_few_entries_are_all_shown():
  rng = np.random.default_rng(7)
  bank, query = _banks(rng), _query(rng)
  count = np.arange(_N) % (_M + 1)  # 0 to M entries
  valid = np.argsort(rng.random((_N, _E)), axis=1) < count[:, None]
  bank = dataclasses.replace(bank, valid=jnp.asarray(valid))
  for temperature in (0.0, 1.0):
    shown, choice = _relevant(
      _policies(1), bank, query, _keys(), temperature, _RERANKS
    )
    for n, row in enumerate(np.asarray(shown)):
      assert sorted(row[: count[n]]) == np.flatnonzero(valid[n]).tolist()
      assert (row[count[n] :] == -1).all()
    np.testing.assert_array_equal(choice.draw.there.sum(1), count)
    np.testing.assert_array_equal((choice.draw.picked >= 0).sum(1), count)


# Drawn.


def _alike(rng):
  """The same bank and question in all rows."""
  return _rows((_banks(rng, 1.0), _query(rng)), [0] * _N)


def test_with_a_temperature_it_draws():
  """By softmax(score / tau), not by the model's temperature."""
  bank, query = _alike(np.random.default_rng(0))
  policies = _policies()
  draw = lambda seed, temperature, tau=0.1: np.asarray(
    _relevant(
      policies,
      bank,
      query,
      _keys(seed),
      temperature,
      dataclasses.replace(_RERANKS, tau=tau),
    )[0]
  )
  one, other = draw(0, 1.0), draw(1, 1.0)
  assert len(np.unique(one, axis=0)) > 10
  assert (one != other).any(1).mean() > 0.5
  assert len(np.unique(draw(0, 0.0), axis=0)) == 1
  for n in range(_N):
    assert len(set(one[n])) == _M  # without replacement
  np.testing.assert_array_equal(one, draw(0, 1.0))
  np.testing.assert_array_equal(one, draw(0, 0.3))
  slot, score = jax.device_get(_PLAIN.fetch(policies, bank, query))
  for tau in (0.1, 1.0):
    p = np.exp(score[0, slot[0]] / tau)
    p /= p.sum()
    first = np.concatenate([draw(s, 1.0, tau)[:, 0] for s in range(20)])
    count = (first[:, None] == slot[0]).sum(0)
    # Within 5 sigma each; of one tau the other's counts are not.
    sigma = (len(first) * p * (1 - p)) ** 0.5
    assert (np.abs(count - len(first) * p) < 5 * sigma).all()


def test_a_frozen_reranker_shows_the_best_at_any_temperature():
  bank, query = _alike(np.random.default_rng(0))
  frozen = dataclasses.replace(_RERANKS, explores=False)
  args = _policies(1), bank, query, _keys()
  cold, _ = _relevant(*args, 0.0, frozen)
  warm, choice = _relevant(*args, 1.0, frozen)
  np.testing.assert_array_equal(cold, warm)
  assert not np.asarray(choice.draw.noise).any()


def test_its_noise_is_that_of_no_token():
  """Of the answer and of select, whose keys come from the same row key."""
  K, tokens = 20, 40
  row = jax.random.split(jax.random.key(3), 4)
  drawn = np.asarray(rerank.gumbel(agents.answer_keys(row, 2), K))
  for call in (0, 1, 2):
    keys = agents.answer_keys(row, call)
    # The first token of call 2 is what it takes; nothing else has that call.
    for step in range(call == 2, tokens):
      fold = jax.vmap(lambda key, step=step: jax.random.fold_in(key, step))
      token = jax.vmap(lambda key: jax.random.gumbel(key, (K,)))(fold(keys))
      assert (np.asarray(token) != drawn).mean() > 0.9


def test_a_row_draws_the_same_in_any_batch():
  rng = np.random.default_rng(2)
  bank, query = _banks(rng), _query(rng)
  whole, _ = _relevant(_policies(1), bank, query, _keys(), 1.0, _RERANKS)
  for rows in ([5, 2, 40], [7, 7, 0], [63, 1, 2]):
    part = _rows((bank, query, _keys()), rows)
    some, _ = _relevant(_policies(1), *part, 1.0, _RERANKS)
    np.testing.assert_array_equal(some, np.asarray(whole)[rows])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_choice_is_what_was_shown(temperature):
  """All that an update needs: embeddings, texts, noise, picks."""
  rng = np.random.default_rng(4)
  bank, query = _banks(rng, 0.6), _query(rng)
  args = _policies(1), bank, query, _keys(), temperature
  shown, choice = _relevant(*args, _RERANKS)
  fetched = np.asarray(_relevant(*args, _PLAIN)[0])
  draw, held = choice.draw, np.asarray(bank.text.ids)
  np.testing.assert_array_equal(draw.there, fetched >= 0)
  np.testing.assert_allclose(
    draw.query, _PLAIN.embed(_policies(), query.question), atol=1e-6
  )
  for n in range(_N):
    picked = np.asarray(draw.picked[n])
    expected = [fetched[n, k] if k >= 0 else -1 for k in picked]
    assert shown[n].tolist() == expected
    for k in np.flatnonzero(fetched[n] >= 0):
      slot = fetched[n, k]
      np.testing.assert_array_equal(draw.memory[n, k], bank.embedding[n, slot])
      np.testing.assert_array_equal(choice.entries.ids[n, k], held[n, slot])
    length = np.where(fetched[n] >= 0, bank.text.length[n, fetched[n]], 0)
    np.testing.assert_array_equal(choice.entries.length[n], length)
  np.testing.assert_array_equal(choice.question.ids, query.question.ids)
  again = rerank.pick(
    rerank.scores(_policies(1).reranker, draw.query, draw.memory),
    draw.there,
    draw.noise,
    _RERANKS.tau,
    _M,
  )
  np.testing.assert_array_equal(again, draw.picked)


# For updates.


def test_what_is_similar_to_any_of_several_facts():
  rng = np.random.default_rng(6)
  bank = _banks(rng, 0.8)
  facts = _encoded([["ada=bern", "bob?"], ["cat=rome"]] * (_N // 2))
  score = lambda retriever, f: np.where(
    np.asarray(facts.length)[:, f, None] > 0,
    retriever.scores(_policies(), bank, jax.tree.map(lambda x: x[:, f], facts)),
    -np.inf,
  )
  for first, least in (("bm25", 0.0), ("embedding", -np.inf)):
    retriever = dataclasses.replace(_PLAIN, first=first)
    slot = np.asarray(retriever.similar(_policies(), bank, facts))
    best = np.maximum(score(retriever, 0), score(retriever, 1))
    able = np.asarray(bank.valid) & (best > least)
    np.testing.assert_array_equal(
      (slot >= 0).sum(1), np.minimum(able.sum(1), retriever.candidates)
    )
    for n, row in enumerate(slot):
      row = row[row >= 0]
      assert able[n, row].all()
      rest = np.setdiff1d(np.flatnonzero(able[n]), row)
      if len(row) and len(rest):
        assert best[n, row].min() >= best[n, rest].max()
