"""Retrieval: equal to plain Python, whatever stands in free slots."""

import functools
import json
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import hf
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib
from memjax.memory import retrieve

_E, _M, _T, _V = 5, 4, 3, 9
# Words of each id: none, one, two, and two ids with the same word.
_WORDS = [(), (0,), (1,), (2,), (0,), (1, 2), (3, 3), (4,), ()]

_MODEL = qwen3.Config(
  vocab_size=_V + 1,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_dim=32,
  rope_theta=100.0,
)


def _lexicon() -> retrieve.Lexicon:
  table = np.full((_V + 1, 2), -1, np.int32)
  for i, words in enumerate(_WORDS):
    table[i, : len(words)] = words
  return retrieve.Lexicon(token_lib.Table(table))


def _bank(texts, ids=None, updated=None, embedding=None) -> bank_lib.Bank:
  """One bank; a text that is None is a free slot, which holds rubbish."""
  E = len(texts)
  ids = range(E) if ids is None else ids
  updated = [0] * E if updated is None else updated
  valid = np.array([text is not None for text in texts])
  rows = [[1] * _M if text is None else text for text in texts]
  packed = token_lib.from_lists(rows, _M, pad_id=7)  # the pad has a word
  one = lambda x: jnp.asarray(np.array(x)[None])
  if embedding is None:
    embedding = np.zeros((E, 0), np.float32)
  return bank_lib.Bank(
    jax.tree.map(one, packed),
    one(valid),
    one(np.where(valid, np.array(ids), -1)),
    one([0] * E),
    one(np.array(updated)),
    one([0] * E),
    one(embedding),
    jnp.array([max(ids) + 1]),
    token_lib.Tokens(jnp.zeros((1, E, 0), jnp.int32), one([0] * E)),
  )


def _plain_bm25(query, texts, k1, b):
  """The formula of the docstring, in plain Python."""
  words = lambda text: [w for i in text for w in _WORDS[i]]
  docs = {e: words(text) for e, text in enumerate(texts) if text is not None}
  mean = sum(map(len, docs.values())) / max(len(docs), 1)
  scores = {}
  for e, doc in docs.items():
    scores[e] = 0.0
    for word in words(query):
      df = sum(word in other for other in docs.values())
      tf = doc.count(word)
      idf = math.log(1 + (len(docs) - df + 0.5) / (df + 0.5))
      if tf:
        norm = k1 * (1 - b + b * len(doc) / mean)
        scores[e] += idf * tf * (k1 + 1) / (tf + norm)
  return scores


@functools.partial(jax.jit, static_argnames=("lexicon", "k1", "b"))
def _bm25(lexicon, query, bank, k1=1.2, b=0.75):
  return retrieve.bm25(lexicon, query, bank, k1, b)


_TEXT = st.lists(st.integers(0, _V - 1), min_size=1, max_size=_M)


@pytest.mark.parametrize("k1, b", [(1.2, 0.75), (0.5, 0.0)])
@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
  texts=st.lists(st.none() | _TEXT, min_size=_E, max_size=_E),
  query=st.lists(st.integers(0, _V - 1), max_size=_T),
)
def test_bm25_equals_the_formula(k1, b, texts, query):
  asked = token_lib.from_lists([query], _T, pad_id=7)
  score = _bm25(_lexicon(), asked, _bank(texts), k1=k1, b=b)
  assert score.shape == (1, _E) and score.dtype == jnp.float32
  expected = _plain_bm25(query, texts, k1, b)
  for e, value in expected.items():
    assert float(score[0, e]) == pytest.approx(value, rel=1e-5, abs=1e-6)
  # A free slot matches nothing, whatever its buffer holds.
  for e in set(range(_E)) - set(expected):
    assert float(score[0, e]) == 0.0


def test_bm25_by_hand():
  # Two entries of two words; the query's word stands once in the first.
  bank = _bank([[1, 2], [3, 7], None])
  score = retrieve.bm25(_lexicon(), token_lib.from_lists([[1]], 1), bank)
  # idf = log(1 + 1.5 / 1.5), the length is the mean: gain 2.2 / 2.2.
  np.testing.assert_allclose(score[0], [math.log(2), 0, 0], atol=1e-6)


def test_bm25_of_nothing():
  query = token_lib.from_lists([[1, 2]], 2)
  for bank in (_bank([None, None]), _bank([[0], [8]])):
    assert (np.asarray(retrieve.bm25(_lexicon(), query, bank)) == 0).all()
  empty = token_lib.from_lists([[]], 2)
  score = retrieve.bm25(_lexicon(), empty, _bank([[1], [2]]))
  assert (np.asarray(score) == 0).all()


def test_rows_do_not_share_statistics():
  lexicon, query = _lexicon(), token_lib.from_lists([[1, 2]], 2)
  banks = [_bank([[1], [2]]), _bank([[1], [1]])]
  join = lambda *x: jnp.concatenate(x)
  both = retrieve.bm25(
    lexicon,
    jax.tree.map(join, query, query),
    jax.tree.map(join, *banks),
  )
  alone = [retrieve.bm25(lexicon, query, bank)[0] for bank in banks]
  np.testing.assert_array_equal(both, np.stack(alone))


@pytest.fixture(scope="module")
def real(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  return tokenizer, retrieve.make_lexicon(tokenizer)


def test_the_case_of_a_word_does_not_matter(real):
  tokenizer, lexicon = real
  texts = [[tokenizer.encode(x)[0]] for x in (" Paris", "Paris", " paris")]
  assert len({ids[0] for ids in texts}) == 3
  other = tokenizer.encode(" Rome")
  bank = _bank([*texts, other])
  bm25 = jax.jit(lambda query: retrieve.bm25(lexicon, query, bank)[0])
  scores = []
  for word in (" Paris", "Paris", " paris", " PARIS", "paris"):
    ids = tokenizer.encode(word)
    if len(ids) > 1:  # another cut of the word, which counts as its pieces
      continue
    query = token_lib.from_lists([ids], 1)
    scores.append(np.asarray(bm25(query)))
  assert len(scores) >= 3
  for score in scores:
    np.testing.assert_array_equal(score, scores[0])
    assert score[0] == score[1] == score[2] > 0 == score[3]


def test_punctuation_counts_nowhere(real):
  tokenizer, lexicon = real
  words = lexicon.words.array
  for text in (".", ", ", "?\n", " -", "\n\n"):
    assert (words[tokenizer.encode(text)] == -1).all()
  assert (words[list(tokenizer.stop_ids)] == -1).all()
  assert (words[-1] == -1).all()


def test_words_inside_of_a_word_level_token():
  tokenizer = tokenizer_lib.from_words(["kim=bern", "kim?", "Bern", "<nl>"])
  words = retrieve.make_lexicon(tokenizer).words.array
  fact, asked, city, _ = words[2:6]
  assert fact.tolist() == [asked[0], city[0]] and asked[1] == city[1] == -1
  assert len({int(asked[0]), int(city[0])}) == 2


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
  score=st.lists(st.integers(0, 2), min_size=_E, max_size=_E),
  valid=st.lists(st.booleans(), min_size=_E, max_size=_E),
  ids=st.permutations(range(_E)),
  least=st.sampled_from([-np.inf, 0.0, 1.0]),
)
def test_top_equals_sorting(score, valid, ids, least):
  bank = _bank([[1] if there else None for there in valid], ids)
  k = _E + 2  # more than there are
  slot = _top(jnp.array([score], jnp.float32), bank, k, least)
  able = [e for e in range(_E) if valid[e] and score[e] > least]
  expected = sorted(able, key=lambda e: (-score[e], ids[e]))
  assert slot.tolist() == [expected + [-1] * (k - len(expected))]
  few = _top(jnp.array([score], jnp.float32), bank, 2, least)
  assert few.tolist() == [slot[0, :2].tolist()]


@functools.partial(jax.jit, static_argnames=("k", "least"))
def _top(score, bank, k, least):
  return retrieve.top(score, bank, k, least)


def test_an_entry_that_scores_least_is_not_picked():
  bank = _bank([[1], [2]])
  slot = retrieve.top(jnp.array([[0.0, 0.5]]), bank, 2, least=0.0)
  assert slot.tolist() == [[1, -1]]


def test_recency_is_last_changed_then_last_added():
  bank = _bank([[1]] * 4 + [None], ids=[7, 3, 9, 4, 0], updated=[2, 5, 2, 0, 9])
  slot = retrieve.top(retrieve.recency(bank), bank, 5)
  assert slot.tolist() == [[1, 2, 0, 3, -1]]


# Speaker 1 is the word 0, speaker 2 the word 1; id 5 names 2 alone.
_SPEAKERS = token_lib.from_nested([[[1], [2]]])


def test_halves_are_the_best_of_each_speaker():
  texts = [[1], [2], [4, 7], [5, 7], [3], None, [1, 2]]
  bank = _bank(texts)
  score = jnp.array([[1.0, 6.0, 3.0, 2.0, 9.0, 9.0, 5.0]])
  slot = retrieve.halves(_lexicon(), score, bank, _SPEAKERS, 4)
  # Entry 6 names both: the first speaker's, and not the second's again.
  assert slot.tolist() == [[6, 2, 1, 3]]


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  texts=st.lists(st.none() | _TEXT, min_size=_E, max_size=_E),
  order=st.permutations(range(_E)),
)
def test_halves_equal_two_plain_lists(texts, order):
  texts = [x and (x + [8] * _M)[:_M] for x in texts]
  bank = _bank(texts)
  slot = _halves(jnp.array([order], jnp.float32), bank)[0].tolist()
  expected = []
  for word in (0, 1):
    named = [
      e
      for e in range(_E)
      if texts[e]
      and word in [w for i in texts[e] for w in _WORDS[i]]
      and e not in expected
    ]
    expected += sorted(named, key=lambda e: -order[e])[:2]
  assert slot == expected + [-1] * (4 - len(expected))


@jax.jit
def _halves(score, bank):
  return retrieve.halves(_lexicon(), score, bank, _SPEAKERS, 4)


def test_a_name_of_two_words_needs_both():
  speakers = token_lib.from_nested([[[1, 3]]])
  bank = _bank([[1, 7], [3, 4], [3, 7]])
  score = jnp.array([[3.0, 2.0, 1.0]])
  slot = retrieve.halves(_lexicon(), score, bank, speakers, 2)
  assert slot.tolist() == [[1, -1]]


def test_nobody_is_named_by_an_empty_name():
  speakers = token_lib.Tokens(jnp.ones((1, 2, 1), int), jnp.array([[1, 0]]))
  bank = _bank([[1], [2]])
  slot = retrieve.halves(_lexicon(), jnp.ones((1, 2)), bank, speakers, 4)
  assert slot.tolist() == [[0, -1, -1, -1]]


@pytest.fixture(scope="module")
def params():
  shapes = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), _MODEL))
  rng = np.random.default_rng(0)
  draw = lambda x: jnp.asarray(rng.normal(0.3, 0.3, x.shape), x.dtype)
  return jax.tree.map(draw, shapes)


_TEXTS = [[3], [1, 2, 4], [], [8, 0, 5, 6]]


@jax.jit
def _embed(params, rows):
  return retrieve.embed(params, _MODEL, rows, end_id=_V)


@jax.jit
def _forward(params, ids):
  return qwen3.forward(params, _MODEL, ids)


@pytest.mark.parametrize("pad_id", [0, 7])
def test_embeddings_do_not_see_padding(params, pad_id):
  rows = token_lib.from_lists(_TEXTS, 6, pad_id)
  found = _embed(params, rows)
  assert found.shape == (4, _MODEL.width) and found.dtype == jnp.float32
  for text, unit in zip(_TEXTS, np.asarray(found)):
    if not text:
      assert (unit == 0).all()
      continue
    hidden = _forward(params, jnp.array([[*text, _V]]))
    last = np.asarray(hidden[0, -1])
    np.testing.assert_allclose(unit, last / np.linalg.norm(last), atol=1e-5)
    assert np.linalg.norm(unit) == pytest.approx(1.0, abs=1e-5)


def test_embeddings_equal_those_of_transformers(params, tmp_path):
  torch = pytest.importorskip("torch")
  transformers = pytest.importorskip("transformers")
  hf.save(tmp_path / "embedder", _MODEL, params)
  written = json.loads((tmp_path / "embedder" / "config.json").read_text())
  assert written["architectures"] == ["Qwen3ForCausalLM"]
  model = transformers.AutoModelForCausalLM.from_pretrained(
    str(tmp_path / "embedder"), dtype=torch.float32
  ).eval()
  rows = token_lib.from_lists(_TEXTS, 6)
  found = np.asarray(_embed(params, rows))
  for text, unit in zip(_TEXTS, found):
    if not text:
      continue
    with torch.no_grad():
      out = model(torch.tensor([[*text, _V]]), output_hidden_states=True)
    last = out.hidden_states[-1][0, -1]
    expected = torch.nn.functional.normalize(last, dim=0).numpy()
    np.testing.assert_allclose(unit, expected, atol=1e-5)


def test_cosine_ranks_a_text_closest_to_itself(params):
  unit = np.array(_embed(params, token_lib.from_lists(_TEXTS, 6)))
  unit[2] = 100.0  # a free slot's rubbish
  bank = _bank([x or None for x in _TEXTS], embedding=unit)
  for e in (0, 1, 3):
    score = retrieve.cosine(unit[e : e + 1], bank)
    expected = unit @ unit[e]
    np.testing.assert_allclose(score[0], expected, rtol=1e-5, atol=1e-5)
    assert expected[e] == pytest.approx(1, abs=1e-5)
    order = retrieve.top(score, bank, 4)[0].tolist()
    assert order[0] == e
    best = sorted((0, 1, 3), key=lambda i: -expected[i])
    assert order == [*best, -1]
