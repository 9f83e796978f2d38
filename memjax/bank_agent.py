"""What agents with a memory bank share: the bank's beginning, and the answer.

    question -> retrieve -> answer (the entries used, then the answer)

The bank is made without knowing the question, so it serves any number of them.
How a session changes it is the paradigm: `memory_r1`, `memory_rmm`.

Dimension key: B banks, N questions, E entries, K fetched, M shown.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from memjax import agents
from memjax import qwen3
from memjax import retriever as retriever_lib
from memjax import tasks
from memjax import tokens as token_lib
from memjax.memory import answer as answer_lib
from memjax.memory import bank as bank_lib
from memjax.memory import select as select_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class BankAgent:
  """All of a bank agent but what it does with a session (`read`).

  Attributes:
    model: the policy's shape.
    respond: answers from entries.
    retriever: which entries.
    select: the policy as reranker, or None.
    entries: E, slots of the bank.
    text_tokens: of an entry's text, without a stamp.
    turn_tokens: of the turns that an entry keeps beside its text; 0: none.
    full: what an addition to a full bank does, one of bank.FULL_RULES.
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    stamp_tokens: the most tokens of a session's stamp, which is written before
      each entry; 0 writes none.
    extract_tokens, update_tokens, answer_tokens, select_tokens: limits of
      responses.
    stamp_text: how a stamp is written before an entry.
    stop_ids: ids that end a response.
    think_ids: (opening, closing) id of a reasoning block, or None.
    trained: which of the model calls are trained, "extract", "update",
      "select" and "answer".
    questions: asked about each context.
    group: rows next to each other that read the same; 1 if it is not known.
  """

  model: qwen3.Config
  respond: answer_lib.Answer
  retriever: retriever_lib.Retriever
  select: select_lib.Select | None = None
  entries: int
  text_tokens: int
  turn_tokens: int = 0
  full: str
  chunk_tokens: int
  question_tokens: int
  stamp_tokens: int
  extract_tokens: int
  update_tokens: int
  answer_tokens: int
  select_tokens: int = 0
  stamp_text: str
  stop_ids: tuple[int, ...]
  think_ids: tuple[int, int] | None
  trained: tuple[str, ...] = ()
  questions: int = 1
  group: int = 1

  one_by_one = ()
  shares_state = True
  holds_entries = True

  @property
  def entry_tokens(self) -> int:
    """The most tokens of an entry's text, stamp included."""
    return self.stamp_tokens + self.text_tokens

  @property
  def answer_ops(self) -> tuple[str, ...]:
    """The model calls of a question."""
    return ("select", "answer") if self.select else ("answer",)

  @property
  def budget(self) -> tuple[int, int]:
    """Tokens held, tokens that an answer is shown."""
    entry = self.entry_tokens + self.turn_tokens
    return self.entries * entry, self.retriever.retrieved * entry

  def limit(self, op: str) -> int:
    """The most tokens of a response."""
    return {
      "extract": self.extract_tokens,
      "update": self.update_tokens,
      "select": self.select_tokens,
      "answer": self.answer_tokens,
    }[op]

  def holding(self, tokens: int) -> Self:
    """The agent with one entry of so many tokens, shown: for controls."""
    retriever = dataclasses.replace(
      self.retriever,
      first="given",
      embedder=None,
      fetched=1,
      retrieved=1,
      reranks=False,
    )
    return dataclasses.replace(
      self,
      retriever=retriever,
      select=None,
      entries=1,
      text_tokens=tokens,
      turn_tokens=0,
      stamp_tokens=0,
    )

  def _empty(self, batch: int, entries: int, tokens: int) -> bank_lib.Bank:
    return bank_lib.init(
      batch, entries, tokens, self.retriever.width, self.turn_tokens
    )

  def init(self, policies: agents.Policies, task: tasks.Task) -> bank_lib.Bank:
    """Banks with the entries held beforehand, in order."""
    B = task.prior.length.shape[0]
    bank = self._empty(B, self.entries, self.entry_tokens)
    return self._filled(policies, task.prior, bank)

  def given(
    self, policies: agents.Policies, texts: Sequence[Sequence[Sequence[int]]]
  ) -> bank_lib.Bank:
    """Banks that hold these texts, in order, however many there are."""
    packed = token_lib.from_nested(texts)
    entries, tokens = self.entries, self.entry_tokens
    if packed.ids.shape[1] > entries or packed.capacity > tokens:
      # Another cut of the same budget, such as few long entries.
      entries = max(packed.ids.shape[1], 1)
      tokens = max(packed.capacity, 1)
    bank = self._empty(len(texts), entries, tokens)
    return self._filled(policies, packed, bank)

  def _filled(
    self,
    policies: agents.Policies,
    texts: token_lib.Tokens,
    bank: bank_lib.Bank,
  ) -> bank_lib.Bank:
    """Adds texts [B, P, T] to a bank; what does not fit is an error."""
    B, P = texts.length.shape
    if not P:
      return bank
    E, T = bank.valid.shape[1], bank.text.capacity
    if texts.capacity > T or P > E:
      raise ValueError(
        f"{P} entries of up to {texts.capacity} tokens are to be held "
        f"beforehand, the bank has room for {E} of {T}: raise "
        "config.agent.entries or config.agent.entry_tokens"
      )
    ids = jnp.pad(texts.ids, ((0, 0), (0, 0), (0, T - texts.capacity)))
    first = lambda x: jnp.moveaxis(jnp.asarray(x), 1, 0)
    zero = jnp.zeros((P, B), jnp.int32)
    ops = bank_lib.Op(
      first(jnp.where(texts.length > 0, bank_lib.ADD, bank_lib.NOOP)),
      zero,
      token_lib.Tokens(first(ids), first(texts.length)),
      zero,
      zero - 1,
      first(self.retriever.embed(policies, jax.tree.map(jnp.asarray, texts))),
    )
    return bank_lib.apply_all(bank, ops, self.full)[0]

  def _selected(
    self, policies, state, query, slot_NK, key_N, temperature
  ) -> tuple[jax.Array, agents.Segment]:
    """Slots [N, M] that the policy picks of K, and its call."""
    candidates, id_NK = bank_lib.take(state, slot_NK)
    listed_N, K = (id_NK >= 0).sum(1), slot_NK.shape[1]
    prompt = select_lib.build(self.select, query.question, candidates)
    keys = agents.answer_keys(key_N, 1)
    response, body, left_open = agents.call(
      self, policies, "select", prompt, keys, temperature
    )
    picked, malformed = select_lib.parse(
      self.select, body, response.truncated, listed_N, K
    )
    # Those that were picked come first, in the order of the list.
    order = jnp.argsort(~picked, axis=1)[:, : self.retriever.retrieved]
    there = jnp.take_along_axis(picked, order, axis=1)
    slot = jnp.take_along_axis(slot_NK, order, axis=1)
    counts = {"listed": listed_N, "picked": picked.sum(1)}
    return jnp.where(there, slot, -1), agents.Segment(
      prompt,
      response,
      body,
      malformed | left_open,
      jnp.ones_like(malformed),
      counts,
    )

  def answer(
    self,
    policies: agents.Policies,
    state: bank_lib.Bank,
    query: tasks.Query,
    key_N: jax.Array,
    temperature: jax.Array | float,
  ) -> dict[str, agents.Segment]:
    """Answers one question from each bank."""
    asked = {}
    slot, choice = self.retriever.relevant(
      policies, state, query, agents.answer_keys(key_N, 2), temperature
    )
    if self.select:
      slot, asked["select"] = self._selected(
        policies, state, query, slot, key_N, temperature
      )
    entries, id_NM = bank_lib.take(state, slot)
    if self.turn_tokens:
      turns = bank_lib.take_turns(state, slot)
      entries = answer_lib.with_turns(self.respond, entries, turns)
    prompt = answer_lib.build(self.respond, query.question, entries)
    response, body, left_open = agents.call(
      self, policies, "answer", prompt, agents.answer_keys(key_N), temperature
    )
    listed_N = (id_NM >= 0).sum(1)
    used, answer, malformed = answer_lib.parse(
      self.respond, body, response.truncated, listed_N, slot.shape[1]
    )
    asked["answer"] = agents.Segment(
      prompt,
      response,
      answer,
      malformed | left_open,
      jnp.ones_like(malformed),
      {"listed": listed_N, "used": used.sum(1)},
      id_NM,
      used,
      choice,
    )
    return asked

  def held(self, state: bank_lib.Bank, row: int) -> dict[int, list[int]]:
    """The entries of a row by id: text, then the turns that it comes from."""
    valid, ids = np.asarray(state.valid[row]), np.asarray(state.id[row])
    found = {}
    for slot in sorted(np.flatnonzero(valid), key=lambda slot: ids[slot]):
      parts = [
        np.asarray(part.ids[row, slot])[: int(part.length[row, slot])]
        for part in (state.text, state.turns)
      ]
      found[int(ids[slot])] = np.concatenate(parts).tolist()
    return found

  def shown(self, state: bank_lib.Bank, row: int) -> list[list[int]]:
    """The texts of a row's entries in the order of their ids."""
    texts = dataclasses.replace(
      state, turns=jax.tree.map(np.zeros_like, state.turns)
    )
    return list(self.held(texts, row).values())
