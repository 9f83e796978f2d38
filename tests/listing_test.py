"""Lists in prompts: equal to the same list made from strings."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import homes
from memjax.memory import listing

_K, _M = 3, 8
# What stands behind a row's length must never be read.
_RUBBISH = 5


@pytest.fixture(scope="module", params=["words", "text"])
def language(request):
  """(style, tokenizer, listing): word-level, and the real tokenizer."""
  style = request.param
  if style == "words":
    tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  else:
    path = request.getfixturevalue("data_dir") / "qwen3_tokenizer"
    tokenizer = tokenizer_lib.load(path)
  return style, tokenizer, listing.make_listing(tokenizer, style, _K)


@functools.partial(jax.jit, static_argnames=("op", "numbered"))
def _write(op, text_BK, numbered):
  return listing.write(op, text_BK, numbered)


def _pack(tokenizer, rows) -> token_lib.Tokens:
  """Lists of K texts, "" for none, in buffers full of rubbish."""
  ids = [tokenizer.encode_batch(row) for row in rows]
  packed = token_lib.from_nested(ids, _M)
  inside = packed.mask
  return token_lib.Tokens(
    jnp.where(inside, packed.ids, _RUBBISH), packed.length
  )


def _text(tokenizer, tokens) -> list[str]:
  """All that stands in each row, special tokens too."""
  return [tokenizer.backend.decode(x) for x in token_lib.to_lists(tokens)]


def _expected(style, row, numbered) -> str:
  """The same list, made from strings."""
  if style == "words":
    lines = [
      f"{n} {text} <nl>" if numbered else f"{text} <nl>"
      for n, text in enumerate(row, 1)
      if text
    ]
    return " ".join(lines) or "<none>"
  lines = [
    (f"{n}: {text}" if numbered else text).removesuffix("\n") + "\n"
    for n, text in enumerate(row, 1)
    if text
  ]
  return "".join(lines) or "(empty)\n"


_ROWS = {
  "words": [
    ["s1 ada=bern", "s2 bob@ada", "s3 cat!"],
    ["s1 ada=bern", "", "s3 cat!"],  # a hole keeps the others' numbers
    ["", "bob@ada", ""],
    ["", "", ""],
  ],
  "text": [
    ["Kim lives in Bern", "Leo has 3 dogs.", "2023: Ada's leaving"],
    ["Kim lives in Bern", "", "Leo has 3 dogs.\n"],
    ["", " Kim left.\n", ""],
    ["", "", ""],
  ],
}


@pytest.mark.parametrize("numbered", [True, False])
def test_a_list_equals_its_string(language, numbered):
  style, tokenizer, op = language
  rows = _ROWS[style]
  found = _write(op, _pack(tokenizer, rows), numbered)
  expected = [_expected(style, row, numbered) for row in rows]
  assert _text(tokenizer, found) == expected
  if style == "words":
    assert token_lib.to_lists(found) == tokenizer.encode_batch(expected)


def test_ids_are_those_of_the_string_where_words_do_not_merge(language):
  style, tokenizer, op = language
  if style == "words":
    rows = [["ada=bern", "bob!", "cat=rome"]]
  else:
    rows = [["Kim lives in Bern", "Leo left", "(nobody"]]
  found = _write(op, _pack(tokenizer, rows), False)
  string = _expected(style, rows[0], False)
  assert token_lib.to_lists(found) == [tokenizer.encode(string)]


def test_a_text_that_ends_its_line_gets_no_second_newline(language):
  style, tokenizer, op = language
  if style == "words":
    closed, plain = "s1 ada=bern <nl>", "s1 ada=bern"
  else:
    closed, plain = "Kim lives in Bern.\n", "Kim lives in Bern."
    # The dot and the newline are one token.
    assert tokenizer.decode(tokenizer.encode(closed)[-1:]) == ".\n"
  rows = [[closed, plain, closed], [plain, closed, plain]]
  one, two = _text(tokenizer, _write(op, _pack(tokenizer, rows), True))
  assert one == two


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
  rows=st.lists(
    st.lists(
      st.lists(st.sampled_from(homes.CITIES), max_size=3).map(" ".join),
      min_size=_K,
      max_size=_K,
    ),
    min_size=2,
    max_size=2,
  )
)
def test_any_list_of_words(rows):
  op, tokenizer = _words()
  found = _write(op, _pack(tokenizer, rows), True)
  assert _text(tokenizer, found) == [_expected("words", x, True) for x in rows]


@functools.cache
def _words():
  tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  return listing.make_listing(tokenizer, "words", _K), tokenizer


def test_an_unknown_style_is_refused():
  with pytest.raises(ValueError, match="text, words"):
    listing.make_listing(_words()[1], "prose", _K)
  assert set(prompts.BANK_STYLES) == {"text", "words"}


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(
  spans=st.lists(
    st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=3, max_size=3
  )
)
def test_cut_is_a_slice(spans):
  row = list(range(10, 17))
  tokens = token_lib.from_lists([row], 7)
  start, stop = (jnp.array([x]) for x in zip(*spans))
  text, long = _cut(tokens, start, stop)
  for k, (a, b) in enumerate(spans):
    kept = text.ids[0, k, : int(text.length[0, k])].tolist()
    assert kept == row[a:b][:3]
    assert bool(long[0, k]) == (b - a > 3)


@jax.jit
def _cut(tokens, start, stop):
  return listing.cut(tokens, start, stop, 3)


def test_prefix_stands_before_texts_alone():
  head = token_lib.from_lists([[7, 8], [], [9]], 2)
  texts = token_lib.from_nested([[[1], []], [[2, 3], [4]], [[], [5, 6]]], 3)
  found = listing.prefix(head, texts)
  assert found.ids.shape == (3, 2, 5)
  expected = [[[7, 8, 1], []], [[2, 3], [4]], [[], [9, 5, 6]]]
  for b, row in enumerate(expected):
    for k, text in enumerate(row):
      assert found.ids[b, k, : int(found.length[b, k])].tolist() == text


def test_no_prefix_leaves_the_texts():
  texts = token_lib.from_nested([[[1], []], [[2, 3], [4]]], 3)
  found = listing.prefix(token_lib.empty(2, 0), texts)
  assert found is texts
