"""The answer from a bank: the prompt as a string, USE lines, and the answer."""

import functools

import jax
import numpy as np
import pytest

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import homes
from memjax.memory import answer

_K, _T = 4, 24


@pytest.fixture(scope="module", params=["words", "text"])
def language(request):
  """(style, tokenizer, naming, plain): word-level, and the real tokenizer."""
  style = request.param
  if style == "words":
    tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  else:
    path = request.getfixturevalue("data_dir") / "qwen3_tokenizer"
    tokenizer = tokenizer_lib.load(path)
  ops = (answer.make(tokenizer, style, _K, names) for names in (True, False))
  return style, tokenizer, *ops


@functools.partial(jax.jit, static_argnames="op")
def _build(op, question, entries):
  return answer.build(op, question, entries)


@functools.partial(jax.jit, static_argnames="op")
def _build_told(op, question, entries, turns):
  return answer.build(op, question, answer.with_turns(op, entries, turns))


@functools.partial(jax.jit, static_argnames="op")
def _device(op, body, truncated_B, listed_B):
  return answer.parse(op, body, truncated_B, listed_B, _K)


def _parse(language, text, truncated=False, listed=3, plain=False):
  """(numbers used, the answer, malformed) of one response."""
  style, tokenizer, naming, without = language
  if style == "words":
    text = text.replace("\n", " <nl> ")
  body = token_lib.from_lists([tokenizer.encode(text)], _T, pad_id=5)
  used, found, malformed = _device(
    without if plain else naming,
    body,
    np.array([truncated]),
    np.array([listed]),
  )
  numbers = {int(k) + 1 for k in np.flatnonzero(used[0])}
  (ids,) = token_lib.to_lists(found)
  return numbers, tokenizer.decode(ids).strip(), bool(malformed[0])


@pytest.mark.parametrize("plain", [False, True])
def test_the_prompt_equals_its_string(language, plain):
  style, tokenizer, *ops = language
  questions = ["ada?", "when-bob?"]
  entries = [["s1 ada=bern", "", "s3 cat@ada", ""], [""] * _K]
  shown = ["1 s1 ada=bern <nl> 3 s3 cat@ada <nl>", "<none>"]
  if style == "text":
    questions = ["Where does Kim live?", "When did Leo leave"]
    entries[0] = ["8 May Kim left.\n", "", "9 May: Leo left", ""]
    shown = ["1: 8 May Kim left.\n3: 9 May: Leo left\n", "(empty)\n"]
  found = _build(
    ops[plain],
    token_lib.from_lists(tokenizer.encode_batch(questions), 8, pad_id=5),
    token_lib.from_nested([tokenizer.encode_batch(x) for x in entries]),
  )
  name = "answer_plain" if plain else "answer"
  template = prompts.BANK_STYLES[style][name]
  for ids, asked, listed in zip(token_lib.to_lists(found), questions, shown):
    text = template.replace("{entries}", listed).replace("{question}", asked)
    text = tokenizer.chat(text, False)
    assert tokenizer.backend.decode(ids) == text
    if style == "words":
      assert ids == tokenizer.encode(text)


def test_turns_stand_behind_their_entry(language):
  style, tokenizer, op, _ = language
  entries = ["s1 ada=bern", "s2 bob=lima", "", "s3 cat@ada"]
  turns = ["A: ada=bern <nl> B: of <nl>", "", "", "the cat! <nl>"]
  shown = (
    "1 s1 ada=bern <nl> A: ada=bern <nl> B: of <nl> 2 s2 bob=lima <nl> "
    "4 s3 cat@ada <nl> the cat! <nl>"
  )
  if style == "text":
    turns = ["Ada: In Bern.\nBob: Oh!\n", "", "", "Eve: Yes\n"]
    shown = (
      "1: s1 ada=bern\nAda: In Bern.\nBob: Oh!\n2: s2 bob=lima\n"
      "4: s3 cat@ada.\nEve: Yes\n"
    )
    entries[3] = "s3 cat@ada.\n"  # ends its line itself
  pack = lambda *rows: token_lib.from_nested(
    [tokenizer.encode_batch(list(row)) for row in rows]
  )
  asked = token_lib.from_lists([tokenizer.encode("ada?")] * 2, 8, pad_id=5)
  found = _build_told(
    op, asked, pack(entries, [""] * _K), pack(turns, [""] * _K)
  )
  empty = "<none>" if style == "words" else "(empty)\n"
  for ids, listed in zip(token_lib.to_lists(found), (shown, empty)):
    text = prompts.BANK_STYLES[style]["answer"].replace("{entries}", listed)
    text = tokenizer.chat(text.replace("{question}", "ada?"), False)
    assert tokenizer.backend.decode(ids) == text


def test_the_entries_used_then_the_answer(language):
  assert _parse(language, "USE 1 3\nrome\n") == ({1, 3}, "rome", False)
  assert _parse(language, "USE 2\nrome") == ({2}, "rome", False)


def test_using_nothing_is_allowed(language):
  assert _parse(language, "USE\nunknown") == (set(), "unknown", False)


def test_without_the_line_all_is_the_answer(language):
  assert _parse(language, "rome") == (set(), "rome", True)
  used, text, malformed = _parse(language, "USE ada!\nrome")
  assert not used and text.startswith("USE ada!") and malformed


@pytest.mark.parametrize("line, good", [("USE 1 4", {1}), ("USE 2 2", {2})])
def test_unknown_and_repeated_numbers_are_slips(language, line, good):
  used, text, malformed = _parse(language, f"{line}\nrome")
  assert used == good and text == "rome" and malformed


def test_the_places_listed_limit_the_numbers(language):
  assert _parse(language, "USE 3\nrome", listed=3)[::2] == ({3}, False)
  assert _parse(language, "USE 3\nrome", listed=2)[::2] == (set(), True)


@pytest.mark.parametrize("text", ["", "USE 1\n", "USE 1"])
def test_an_empty_answer_is_malformed(language, text):
  used, found, malformed = _parse(language, text)
  assert found == "" and malformed
  assert used == ({1} if text else set())


def test_a_line_that_was_cut_names_nothing(language):
  used, _, malformed = _parse(language, "USE 1", truncated=True)
  assert not used and malformed
  # The answer itself may be cut: what is there is taken.
  found = _parse(language, "USE 1\nrome", truncated=True)
  assert found == ({1}, "rome", False)


def test_the_plain_form_takes_all_as_the_answer(language):
  assert _parse(language, "rome", plain=True) == (set(), "rome", False)
  used, text, malformed = _parse(language, "USE 1\nrome", plain=True)
  assert not used and text.startswith("USE 1") and not malformed
  assert _parse(language, "", plain=True) == (set(), "", True)
