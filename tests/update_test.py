"""Updates of a bank: prompt, rules of the lines, and what becomes of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import homes
from memjax.memory import bank as bank_lib
from memjax.memory import listing
from memjax.memory import update

_K, _N, _T = 3, 3, 40
_M = {"words": 2, "text": 6}
# Entry ids in the order of the prompt; the third place is free.
_LISTED = (7, 4, -1)

NOOP, ADD, UPDATE, DELETE = range(4)


@pytest.fixture(scope="module", params=["words", "text"])
def language(request):
  """(style, tokenizer, operation): word-level, and the real tokenizer."""
  style = request.param
  if style == "words":
    tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  else:
    path = request.getfixturevalue("data_dir") / "qwen3_tokenizer"
    tokenizer = tokenizer_lib.load(path)
  return style, tokenizer, update.make(tokenizer, style, _K, _N, _M[style])


@functools.partial(jax.jit, static_argnames="op")
def _build(op, facts, entries):
  return update.build(op, facts, entries)


@functools.partial(jax.jit, static_argnames="op")
def _device(op, body, truncated_B, id_BK):
  return update.parse(op, body, truncated_B, id_BK)


def _plan(language, text, truncated=False, listed=_LISTED) -> update.Plan:
  style, tokenizer, op = language
  if style == "words":
    text = text.replace("\n", " <nl> ")
  body = token_lib.from_lists([tokenizer.encode(text)], _T, pad_id=5)
  found = _device(op, body, np.array([truncated]), np.array([listed]))
  return jax.tree.map(np.asarray, found)


def _ops(language, text, **kwargs):
  """[(kind, entry id, text)] without what does nothing, and the slips."""
  plan = _plan(language, text, **kwargs)
  tokenizer = language[1]
  row = jax.tree.map(lambda x: x[0], plan.text)
  texts = [tokenizer.decode(x).strip() for x in token_lib.to_lists(row)]
  ops = [
    (int(kind), int(entry), text)
    for kind, entry, text in zip(plan.kind[0], plan.id[0], texts)
  ]
  idle = (NOOP, -1, "")
  slips = {
    name: int(count[0])
    for name, count in plan.counts.items()
    if count[0] and name not in bank_lib.KINDS
  }
  malformed = bool(plan.malformed[0])
  assert malformed == bool(set(slips) - {"cut"})
  return [op for op in ops if op != idle], slips


def _section(style, rows, numbered) -> str:
  if style == "words":
    rows = [f"{n} {x} <nl>" if numbered else f"{x} <nl>" for n, x in rows]
    return " ".join(rows) or "<none>"
  rows = [f"{n}: {x}\n" if numbered else f"{x}\n" for n, x in rows]
  return "".join(x.replace("\n\n", "\n") for x in rows) or "(empty)\n"


def test_the_prompt_equals_its_string(language):
  style, tokenizer, op = language
  facts = [["ada=rome", "bob!"], ["", "eve@ada"]]
  entries = [["s1 ada=bern", "s2 bob=lima", "s3 cat@ada"], ["", "", ""]]
  if style == "text":
    facts = [["Kim left Bern.\n", "Leo is 30"], ["", "Ada's new dog.\n"]]
    entries[0] = ["8 May Kim lives in Bern.\n", "8 May Leo", "1: Leo"]
  pack = lambda rows, shape: token_lib.from_nested(
    [tokenizer.encode_batch(row) for row in rows], shape
  )
  found = _build(op, pack(facts, 8), pack(entries, 12))
  template = prompts.BANK_STYLES[style]["update"]
  for b, ids in enumerate(token_lib.to_lists(found)):
    there = lambda texts: [(n, x) for n, x in enumerate(texts, 1) if x]
    text = template.replace(
      "{entries}", _section(style, there(entries[b]), True)
    ).replace("{facts}", _section(style, there(facts[b]), False))
    text = tokenizer.chat(text, False)
    assert tokenizer.backend.decode(ids) == text
    if style == "words":
      assert ids == tokenizer.encode(text)


def test_numbers_mean_places_of_the_prompt(language):
  text = "UPDATE 2 ada=rome\nDELETE 1\nADD bob!\n"
  ops, slips = _ops(language, text)
  assert ops == [(UPDATE, 4, "ada=rome"), (DELETE, 7, ""), (ADD, -1, "bob!")]
  assert not slips
  plan = _plan(language, text)
  counted = [int(plan.counts[name][0]) for name in bank_lib.KINDS]
  assert counted == [0, 1, 1, 1]
  other, _ = _ops(language, text, listed=(0, 1, -1))
  assert [entry for _, entry, _ in other] == [1, 0, -1]


def test_noop_does_nothing_and_is_no_slip(language):
  assert _ops(language, "NOOP\n") == ([], {})
  assert int(_plan(language, "NOOP\n").counts["noop"][0]) == 1


@pytest.mark.parametrize("text", ["", "\n", "\n\n"])
def test_saying_nothing_is_malformed(language, text):
  assert _ops(language, text) == ([], {"empty": 1})


def test_what_is_no_operation(language):
  for text in ("ada=rome\n", "NONE\n", "USE 1\n"):
    assert _ops(language, text) == ([], {"error_no_verb": 1})


@pytest.mark.parametrize("line", ["DELETE 3", "UPDATE 3 ada!", "DELETE"])
def test_an_unknown_number_does_nothing(language, line):
  ops, slips = _ops(language, f"{line}\nDELETE 2\n")
  assert ops == [(DELETE, 4, "")] and slips == {"error_bad_number": 1}


def test_nothing_listed_leaves_no_number(language):
  ops, slips = _ops(language, "DELETE 1\nADD ada!\n", listed=(-1, -1, -1))
  assert ops == [(ADD, -1, "ada!")] and slips == {"error_bad_number": 1}


def test_a_number_counts_once(language):
  ops, slips = _ops(language, "UPDATE 1 ada!\nDELETE 1\nDELETE 2\n")
  assert ops == [(UPDATE, 7, "ada!"), (DELETE, 4, "")]
  assert slips == {"error_number_used_before": 1}


def test_texts_stand_where_they_belong(language):
  ops, slips = _ops(language, "ADD\nUPDATE 1\nDELETE 2 ada!\n")
  assert not ops
  assert slips == {"error_no_text": 2, "error_text_where_none_belongs": 1}


def test_lines_beyond_the_limit_are_counted(language):
  ops, slips = _ops(language, "ADD a\n" * 3 + "DELETE 1\nADD the\n")
  assert ops == [(ADD, -1, "a")] * 3 and slips == {"left_out": 2}


def test_a_line_that_was_cut_does_nothing(language):
  text = "DELETE 1\nADD ada="
  if language[0] == "words":
    text = "DELETE 1\nADD ada!"
  assert _ops(language, text, truncated=True) == (
    [(DELETE, 7, "")],
    {"error_cut_at_the_limit": 1},
  )
  ops, slips = _ops(language, text)
  assert len(ops) == 2 and not slips


def test_what_is_too_long_is_cut_and_counted(language):
  style, tokenizer, _ = language
  words = " the of ada=bern and bob=lima"
  ops, slips = _ops(language, f"ADD{words}\nUPDATE 1 ada!\n")
  cut = tokenizer.decode(tokenizer.encode(words)[: _M[style]]).strip()
  assert ops == [(ADD, -1, cut), (UPDATE, 7, "ada!")] and cut != words.strip()
  assert slips == {"cut": 1}


def test_append_adds_every_fact(language):
  _, tokenizer, op = language
  rows = [["ada!", "", "the of ada! and in it"]]
  facts = token_lib.from_nested([tokenizer.encode_batch(x) for x in rows])
  plan = update.append(op, facts)
  assert plan.kind.tolist() == [[ADD, NOOP, ADD]]
  assert not plan.malformed.any() and plan.counts["add"].tolist() == [2]
  # The last fact is too long.
  assert plan.text.length[0, 1:].tolist() == [0, op.text_tokens]
  row = token_lib.to_lists(jax.tree.map(lambda x: x[0], plan.text))
  expected = [tokenizer.encode(x)[: op.text_tokens] for x in rows[0]]
  assert row == expected


def test_operations_reach_the_bank_in_order_behind_their_stamps():
  tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  op = update.make(tokenizer, "words", _K, _N, _M["words"])
  text = tokenizer.encode("ADD ada=bern <nl> ADD bob! <nl> NOOP <nl>")
  body = token_lib.from_lists([text, tokenizer.encode("NOOP")], _T)
  listed = np.array([[-1] * _K, [0, -1, -1]])
  stamps = token_lib.from_lists(tokenizer.encode_batch(["s3", "s9"]), 1)
  vectors = jnp.arange(2 * _N * 2, dtype=jnp.float32).reshape(2, _N, 2)

  @jax.jit
  def run(body):
    plan = update.parse(op, body, jnp.zeros(2, bool), listed)
    time, source = jnp.array([3, 9]), jnp.array([5, 6])
    text = listing.prefix(stamps, plan.text)
    ops = update.to_ops(plan, text, time, source, vectors)
    return bank_lib.apply_all(bank_lib.init(2, 4, 3, 2), ops)

  bank, outcome = run(body)
  assert not outcome.any()
  assert bank_lib.size(bank).tolist() == [2, 0]
  row = jax.tree.map(lambda x: x[0], bank.text)
  texts = [tokenizer.decode(x) for x in token_lib.to_lists(row)]
  assert texts == ["s3 ada=bern", "s3 bob!", "", ""]
  assert bank.updated[0, :2].tolist() == [3, 3]
  assert bank.source[0, :2].tolist() == [5, 5]
  np.testing.assert_array_equal(bank.embedding[0, :2], vectors[0, :2])
