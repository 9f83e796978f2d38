"""A language model as reranker: its prompt, its lines, and what they decide."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import bank_agent
from memjax import prompts
from memjax import qwen3
from memjax import retriever as retriever_lib
from memjax import sampling
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import demos
from memjax.memory import answer as answer_lib
from memjax.memory import retrieve
from memjax.memory import select

# Candidates, the most that are picked, tokens of a response.
_K, _M, _T = 4, 2, 16


@pytest.fixture(scope="module", params=["words", "text"])
def language(request):
  """(style, tokenizer, operation): word-level, and the real tokenizer."""
  style = request.param
  if style == "words":
    tokenizer = tokenizer_lib.from_words(demos.words())
  else:
    path = request.getfixturevalue("data_dir") / "qwen3_tokenizer"
    tokenizer = tokenizer_lib.load(path)
  return style, tokenizer, select.make(tokenizer, style, _K, _M)


_build = jax.jit(select.build, static_argnums=0)
_device = jax.jit(select.parse, static_argnums=(0, 4))


def _encode(style, tokenizer, text) -> list[int]:
  if style == "words":
    text = text.replace("\n", " <nl> ")
  return tokenizer.encode(text)


def _parse(language, text, truncated=False, listed=_K):
  """(numbers picked, malformed) of one response."""
  style, tokenizer, op = language
  body = token_lib.from_lists([_encode(style, tokenizer, text)], _T, pad_id=5)
  picked, malformed = _device(
    op, body, np.array([truncated]), np.array([listed]), _K
  )
  assert picked.shape == (1, _K)
  return (np.flatnonzero(picked[0]) + 1).tolist(), bool(malformed[0])


def test_the_prompt_equals_its_string(language):
  style, tokenizer, op = language
  questions = ["ada?", "when-bob?"]
  entries = [["s1 ada=bern", "", "s3 cat@ada", ""], [""] * _K]
  shown = ["1 s1 ada=bern <nl> 3 s3 cat@ada <nl>", "<none>"]
  if style == "text":
    questions = ["Where does Kim live?", "When did Leo leave"]
    entries[0] = ["8 May Kim left.\n", "", "9 May: Leo left", ""]
    shown = ["1: 8 May Kim left.\n3: 9 May: Leo left\n", "(empty)\n"]
  found = _build(
    op,
    token_lib.from_lists(tokenizer.encode_batch(questions), 8, pad_id=5),
    token_lib.from_nested([tokenizer.encode_batch(x) for x in entries]),
  )
  template = prompts.BANK_STYLES[style]["select"]
  for ids, asked, listed in zip(token_lib.to_lists(found), questions, shown):
    text = template.replace("{entries}", listed).replace("{question}", asked)
    text = tokenizer.chat(text, False)
    assert tokenizer.backend.decode(ids) == text
    if style == "words":
      assert text == f"<memory> {listed} <select> {asked}"
      assert ids == tokenizer.encode(text)


def test_the_numbers_of_a_line_are_picked(language):
  for text in ("USE 1 4\n", "USE 1 4", "\nUSE 1 4\n", "USE 4 1\n"):
    assert _parse(language, text) == ([1, 4], False)
  assert _parse(language, "USE 3\n") == ([3], False)


def test_picking_nothing_is_allowed(language):
  assert _parse(language, "USE\n") == ([], False)
  assert _parse(language, "USE") == ([], False)


def test_of_too_many_the_first_of_the_list_are_picked(language):
  assert _parse(language, "USE 4 2 3\n") == ([2, 3], True)
  assert _parse(language, "USE 4 3 2 1\n") == ([1, 2], True)


def test_unknown_and_repeated_numbers_are_slips(language):
  assert _parse(language, "USE 2 2\n") == ([2], True)
  assert _parse(language, "USE 2 5\n") == ([2], True)
  # A repeated number takes no place.
  assert _parse(language, "USE 1 1 4\n") == ([1, 4], True)
  assert _parse(language, "USE 1 3\n", listed=3) == ([1, 3], False)
  assert _parse(language, "USE 1 3\n", listed=2) == ([1], True)
  assert _parse(language, "USE 1\n", listed=0) == ([], True)


def test_nothing_stands_behind_the_line(language):
  assert _parse(language, "USE 1 2\nrome\n") == ([1, 2], True)
  assert _parse(language, "USE 1 2\nUSE 3\n") == ([1, 2], True)
  # White space is nothing.
  assert _parse(language, "USE 1 2\n\n\n") == ([1, 2], False)


@pytest.mark.parametrize("text", ["", "\n", "1 2\n", "USE ada!\n", "ADD 1\n"])
def test_what_is_no_such_line_picks_nothing(language, text):
  assert _parse(language, text) == ([], True)


def test_a_line_that_was_cut_picks_nothing(language):
  assert _parse(language, "USE 1 2", truncated=True) == ([], True)
  assert _parse(language, "USE 1 2\n", truncated=True) == ([1, 2], False)


# The policy's choice in an agent: the bank in the order of its ids is 0 to 3,
# the search by recency lists 3, 2, 1, 0.
_HELD = ("ada=bern", "bob=lima", "cat=rome", "dan@ada")
_CHOICES = {
  "USE 1 3": ([3, 1], False),
  "USE 3 1 \n": ([3, 1], False),
  "USE 4": ([0], False),
  "USE": ([], False),
  "USE 4 3 2": ([2, 1], True),
  "USE 2 2": ([2], True),
  "USE 2 5": ([2], True),
  "USE 2 \n rome": ([2], True),
  "rome": ([], True),
  "": ([], True),
}


@functools.cache
def _agent() -> bank_agent.BankAgent:
  tokenizer = tokenizer_lib.from_words(demos.words())
  return bank_agent.BankAgent(
    model=qwen3.Config(
      vocab_size=tokenizer.vocab_size,
      width=8,
      num_layers=1,
      num_heads=1,
      num_kv_heads=1,
      head_dim=8,
      mlp_dim=8,
      rope_theta=100.0,
    ),
    respond=answer_lib.make(tokenizer, "words", _M),
    retriever=retriever_lib.Retriever(
      "recency", retrieve.make_lexicon(tokenizer), None, 1, 1, _K, _M
    ),
    select=select.make(tokenizer, "words", _K, _M),
    entries=5,
    text_tokens=1,
    full="refuse",
    chunk_tokens=4,
    question_tokens=1,
    stamp_tokens=0,
    extract_tokens=1,
    update_tokens=1,
    answer_tokens=3,
    select_tokens=6,
    stamp_text="{stamp}",
    stop_ids=tokenizer.stop_ids,
    think_ids=None,
    trained=("select", "answer"),
  )


def _asked(monkeypatch, choices, held=_HELD, end=" <end>"):
  """{operation: segment} where the policy writes these choices, then "rome"."""
  tokenizer, agent = tokenizer_lib.from_words(demos.words()), _agent()
  choices = [x.replace("\n", "<nl>") + end for x in choices]

  def decode(params, cfg, prompt, key_B, *, max_new_tokens, **kwargs):
    del params, cfg, key_B, kwargs
    B = prompt.length.shape[0]
    says = choices if max_new_tokens == agent.select_tokens else ["rome"] * B
    tokens = token_lib.from_lists(tokenizer.encode_batch(says), max_new_tokens)
    return sampling.Response(
      jax.tree.map(jnp.asarray, tokens),
      jnp.zeros((B, max_new_tokens)),
      jnp.full((B,), not end),
    )

  monkeypatch.setattr(sampling, "decode", decode)
  B, policies = len(choices), agents.Policies(None)
  ask = token_lib.from_lists([tokenizer.encode("ada?")] * B, 1)
  query = tasks.Query(ask, token_lib.from_nested([[]] * B))
  bank = agent.given(policies, [tokenizer.encode_batch(list(held))] * B)
  keys = jax.random.split(_KEY, B)
  # A function of its own: what `decode` writes is a constant of the program.
  answer = jax.jit(lambda *args: agent.answer(policies, *args, 1.0))
  asked = jax.device_get(answer(bank, query, keys))
  text = lambda ids: tokenizer.backend.decode(ids)
  shown = {
    op: [text(ids) for ids in token_lib.to_lists(segment.prompt)]
    for op, segment in asked.items()
  }
  return asked, shown


_KEY = jax.random.key(0)


def test_the_choice_decides_what_an_answer_sees(monkeypatch):
  asked, shown = _asked(monkeypatch, _CHOICES)
  assert set(asked) == {"select", "answer"} == set(_agent().answer_ops)
  listed = "1 dan@ada <nl> 2 cat=rome <nl> 3 bob=lima <nl> 4 ada=bern <nl>"
  assert set(shown["select"]) == {f"<memory> {listed} <select> ada?"}
  for b, (ids, malformed) in enumerate(_CHOICES.values()):
    told = [f"{n} {_HELD[i]} <nl>" for n, i in enumerate(ids, 1)]
    expected = f"<memory> {' '.join(told) or '<none>'} <answer> ada?"
    assert shown["answer"][b] == expected
    assert asked["answer"].listed[b].tolist() == ids + [-1] * (_M - len(ids))
    assert asked["answer"].counts["listed"][b] == len(ids)
    assert asked["select"].counts["picked"][b] == len(ids)
    assert asked["select"].malformed[b] == malformed
  assert asked["select"].counts["listed"].tolist() == [_K] * len(_CHOICES)
  assert asked["select"].active.all() and asked["answer"].active.all()


def test_only_what_is_listed_can_be_chosen(monkeypatch):
  asked, shown = _asked(monkeypatch, ["USE 1 2", "USE 2 3"], _HELD[:2])
  assert asked["answer"].listed.tolist() == [[1, 0], [0, -1]]
  assert asked["select"].malformed.tolist() == [False, True]
  assert shown["answer"][1] == "<memory> 1 ada=bern <nl> <answer> ada?"
  asked, shown = _asked(monkeypatch, ["USE", "USE 1"], ())
  assert asked["select"].malformed.tolist() == [False, True]
  assert set(shown["select"]) == {"<memory> <none> <select> ada?"}
  assert set(shown["answer"]) == {"<memory> <none> <answer> ada?"}


def test_a_choice_that_was_cut_is_none(monkeypatch):
  asked, _ = _asked(monkeypatch, ["USE 1 2", "USE 1 2 \n"], end="")
  assert asked["answer"].listed.tolist() == [[-1, -1], [3, 2]]
  assert asked["select"].malformed.tolist() == [True, False]
