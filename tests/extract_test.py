"""Extraction: the prompt as a string, and every rule of its lines."""

import functools

import jax
import numpy as np
import pytest

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import homes
from memjax.memory import extract

_F, _T = 2, 32
_M = {"words": 2, "text": 5}


@pytest.fixture(scope="module", params=["words", "text"])
def language(request):
  """(style, tokenizer, operation): word-level, and the real tokenizer."""
  style = request.param
  if style == "words":
    tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  else:
    path = request.getfixturevalue("data_dir") / "qwen3_tokenizer"
    tokenizer = tokenizer_lib.load(path)
  return style, tokenizer, extract.make(tokenizer, style, _F, _M[style])


@functools.partial(jax.jit, static_argnames="op")
def _build(op, chunk):
  return extract.build(op, chunk)


@functools.partial(jax.jit, static_argnames="op")
def _device(op, body, truncated_B):
  return extract.parse(op, body, truncated_B), extract.turns(op, body)


def _parse(language, text, truncated=False, turns=False):
  """(facts as strings, malformed, counts) of one response."""
  style, tokenizer, op = language
  body = token_lib.from_lists([_ids(language, text)], _T, pad_id=5)
  both = jax.tree.map(lambda x: x[0], _device(op, body, np.array([truncated])))
  found = both[1] if turns else both[0]
  texts = [tokenizer.decode(x) for x in token_lib.to_lists(found.text)]
  counts = {name: int(x) for name, x in found.counts.items()}
  return texts, bool(found.malformed), counts


def _ids(language, text):
  style, tokenizer, _ = language
  if style == "words":
    text = text.replace("\n", " <nl> ")
  return tokenizer.encode(text)


def test_the_prompt_equals_its_string(language):
  style, tokenizer, op = language
  chunks = ["s2 A: the ada=bern <nl> B: bob! <nl>", "s1"]
  if style == "text":
    chunks = ["8 May, 2023\nKim: I moved to Bern", "Leo: really"]
  packed = token_lib.from_lists(tokenizer.encode_batch(chunks), 24, pad_id=5)
  found = token_lib.to_lists(_build(op, packed))
  template = prompts.BANK_STYLES[style]["extract"]
  for ids, chunk in zip(found, chunks):
    text = tokenizer.chat(template.replace("{chunk}", chunk), False)
    assert ids == tokenizer.encode(text)
    assert tokenizer.backend.decode(ids) == text


def test_one_fact_a_line(language):
  texts, malformed, counts = _parse(language, "ada=bern\nbob!\n")
  assert [x.strip() for x in texts] == ["ada=bern", "bob!"]
  assert not malformed
  assert counts == dict(facts=2, errors=0, empty=0, left_out=0, cut=0)


def test_the_last_line_needs_no_newline_if_it_ended_by_itself(language):
  assert _parse(language, "ada=bern")[0] == ["ada=bern", ""]
  texts, malformed, counts = _parse(language, "bob!\nada=bern", truncated=True)
  assert [x.strip() for x in texts] == ["bob!", ""] and malformed
  assert (counts["facts"], counts["errors"]) == (1, 1)


def test_none_is_no_fact_and_no_slip(language):
  texts, malformed, counts = _parse(language, "NONE\n")
  assert texts == ["", ""] and not malformed
  assert counts["facts"] == counts["errors"] == counts["empty"] == 0


def test_none_beside_a_fact_is_a_slip(language):
  texts, malformed, counts = _parse(language, "ada=bern\nNONE\n")
  assert texts[0].strip() == "ada=bern" and texts[1] == "" and malformed
  assert (counts["facts"], counts["errors"]) == (1, 1)


@pytest.mark.parametrize("text", ["", "\n", "\n\n\n"])
def test_saying_nothing_is_malformed(language, text):
  texts, malformed, counts = _parse(language, text)
  assert texts == ["", ""] and malformed and counts["empty"] == 1


def test_lines_beyond_the_limit_are_counted(language):
  texts, malformed, counts = _parse(language, "ada!\n\nbob!\ncat!\neve!\n")
  assert [x.strip() for x in texts] == ["ada!", "bob!"]
  assert malformed and counts["left_out"] == 2 and counts["facts"] == 2


def test_what_is_too_long_is_cut_and_counted(language):
  style, tokenizer, _ = language
  text = "the of ada=bern and bob=lima"
  texts, malformed, counts = _parse(language, text + "\nada!\n")
  assert texts[0] == tokenizer.decode(tokenizer.encode(text)[: _M[style]])
  assert texts[0] != text and texts[1].strip() == "ada!"
  # A long fact is no slip of the grammar.
  assert counts["cut"] == 1 and counts["facts"] == 2 and not malformed


def test_a_fact_keeps_the_token_that_ends_its_line(language):
  style, tokenizer, _ = language
  if style == "words":
    pytest.skip("a word is no newline")
  texts, _, _ = _parse(language, "Kim left.\nLeo left\n")
  assert texts == ["Kim left.\n", "Leo left"]


def test_turns_are_the_lines_of_the_chunk(language):
  said = "A: ada=bern\nB: bob!\n" if language[0] == "words" else "A: hi\nB: yo"
  texts, malformed, counts = _parse(language, said, turns=True)
  assert [x.strip() for x in texts] == said.strip().split("\n")
  assert not malformed and counts["facts"] == 2
  # A chunk is cut where its tokens end: its last line is a line all the same.
  texts, malformed, _ = _parse(language, "ada!\nbob!", True, turns=True)
  assert [x.strip() for x in texts] == ["ada!", "bob!"] and not malformed
  assert not _parse(language, "", turns=True)[1]
