"""MemoryR1Agent (Memory-R1, 2508.19828): a bank of entries, and who uses it.

A session is read in chunks. Of each chunk facts are extracted; for these the
closest entries of the bank are fetched; operations on the bank are written and
applied. A question is answered from the entries that are closest to it. The
bank is made without knowing the question, so it serves any number of them.

    chunk -> extract -> facts -> retrieve -> update -> bank
    question -> retrieve -> answer (the entries used, then the answer)

Each step can be another: facts may be the chunk's own lines ("turns"), the
update a mere addition ("append"), retrieval lexical, by embedding or by
recency, the answer with or without naming its entries.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from memjax import agents
from memjax import qwen3
from memjax import sampling
from memjax import tasks
from memjax import tokens as token_lib
from memjax.memory import answer as answer_lib
from memjax.memory import bank as bank_lib
from memjax.memory import extract as extract_lib
from memjax.memory import listing
from memjax.memory import responses
from memjax.memory import retrieve
from memjax.memory import update as update_lib

EXTRACTORS = ("policy", "turns")
UPDATERS = ("policy", "append")
RETRIEVERS = ("bm25", "embedding", "recency")


@dataclasses.dataclass(frozen=True)
class Retriever:
  """How entries are found.

  Attributes:
    name: one of RETRIEVERS, or "given": entries as they stand in the bank,
      where something else has searched before.
    lexicon: words of the vocabulary; speakers' names are found by it too.
    embedder: shape of the Qwen3 that embeds, or None.
    end_id: what stands behind a text that is embedded.
    candidates: the most entries that are fetched for an update.
    retrieved: the most entries that are fetched for an answer.
  """

  name: str
  lexicon: retrieve.Lexicon
  embedder: qwen3.Config | None
  end_id: int
  candidates: int
  retrieved: int

  @property
  def width(self) -> int:
    """Of embeddings; 0 without."""
    return self.embedder.width if self.embedder else 0

  def embed(
    self, policies: agents.Policies, text: token_lib.Tokens
  ) -> jax.Array:
    """float32 [..., D] of texts [..., M]."""
    shape = text.length.shape
    if not self.embedder:
      return jnp.zeros((*shape, 0), jnp.float32)
    count = text.length.size
    flat = token_lib.Tokens(
      text.ids.reshape(count, text.capacity), text.length.reshape(count)
    )
    found = retrieve.embed(policies.embedder, self.embedder, flat, self.end_id)
    return found.reshape(*shape, self.width)

  def scores(
    self,
    policies: agents.Policies,
    bank: bank_lib.Bank,
    query: token_lib.Tokens,
  ) -> jax.Array:
    """How well each entry fits a query of each row, float32 [B, E]."""
    if self.name == "recency":
      return retrieve.recency(bank)
    if self.name == "given":
      rank = jnp.arange(bank.valid.shape[1], dtype=jnp.float32)
      return jnp.broadcast_to(-rank[None], bank.valid.shape)
    if self.name == "bm25":
      return retrieve.bm25(self.lexicon, query, bank)
    return retrieve.cosine(self.embed(policies, query), bank)

  def similar(
    self,
    policies: agents.Policies,
    bank: bank_lib.Bank,
    facts: token_lib.Tokens,
  ) -> jax.Array:
    """Slots [B, K] of the entries closest to any of the facts [B, F, M].

    An entry that shares no word with a fact is not listed by "bm25".
    """
    least = 0.0 if self.name == "bm25" else -jnp.inf
    scores = []
    for f in range(facts.length.shape[1]):
      fact = jax.tree.map(lambda x, f=f: x[:, f], facts)
      score = self.scores(policies, bank, fact)
      scores.append(jnp.where(fact.length[:, None] > 0, score, -jnp.inf))
    best = jnp.stack(scores).max(0)
    return retrieve.top(best, bank, self.candidates, least)

  def relevant(
    self,
    policies: agents.Policies,
    bank: bank_lib.Bank,
    query: tasks.Query,
  ) -> jax.Array:
    """Slots [N, K] of the entries closest to a question, best first.

    Where a conversation has speakers, each has an equal share of the places.
    """
    score = self.scores(policies, bank, query.question)
    if query.speakers.ids.shape[1]:
      return retrieve.halves(
        self.lexicon, score, bank, query.speakers, self.retrieved
      )
    return retrieve.top(score, bank, self.retrieved)


@dataclasses.dataclass(frozen=True)
class Spec:
  """The bank agent, as `agents.Spec` describes.

  Attributes:
    model: the policy's shape.
    extract: facts out of chunks.
    update: operations on the bank.
    respond: answers from entries.
    retriever: which entries.
    extractor: one of EXTRACTORS.
    updater: one of UPDATERS.
    entries: E, slots of the bank.
    full: what an addition to a full bank does, one of bank.FULL_RULES.
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    stamp_tokens: the most tokens of a session's stamp, which is written before
      each entry; 0 writes none.
    extract_tokens, update_tokens, answer_tokens: limits of responses.
    stamp_text: how a stamp is written before an entry.
    stop_ids: ids that end a response.
    think_ids: (opening, closing) id of a reasoning block, or None.
    trained: which of "extract", "update" and "answer" are trained.
    questions: asked about each context.
  """

  model: qwen3.Config
  extract: extract_lib.Extract
  update: update_lib.Update
  respond: answer_lib.Answer
  retriever: Retriever
  extractor: str
  updater: str
  entries: int
  full: str
  chunk_tokens: int
  question_tokens: int
  stamp_tokens: int
  extract_tokens: int
  update_tokens: int
  answer_tokens: int
  stamp_text: str
  stop_ids: tuple[int, ...]
  think_ids: tuple[int, int] | None
  trained: tuple[str, ...]
  questions: int = 1

  shares_state = True
  holds_entries = True

  @property
  def reads_stamps(self) -> bool:
    """Raw lines have no place for a stamp; entries get it all the same."""
    return self.extractor == "policy"

  @property
  def turn_ops(self) -> tuple[str, ...]:
    """The model calls of a turn."""
    calls = (("extract", self.extractor), ("update", self.updater))
    return tuple(name for name, by in calls if by == "policy")

  @property
  def entry_tokens(self) -> int:
    """M, the most tokens of an entry, stamp included."""
    return self.stamp_tokens + self.update.text_tokens

  def limit(self, op: str) -> int:
    """The most tokens of a response."""
    return {
      "extract": self.extract_tokens,
      "update": self.update_tokens,
      "answer": self.answer_tokens,
    }[op]

  def init(self, policies: agents.Policies, task: tasks.Task) -> bank_lib.Bank:
    """Banks with the entries held beforehand, in order."""
    bank = bank_lib.init(
      task.prior.length.shape[0],
      self.entries,
      self.entry_tokens,
      self.retriever.width,
    )
    return self._filled(policies, task.prior, bank)

  def _filled(
    self,
    policies: agents.Policies,
    texts: token_lib.Tokens,
    bank: bank_lib.Bank,
  ) -> bank_lib.Bank:
    """Adds texts [B, P, M] to a bank; what does not fit is an error."""
    B, P = texts.length.shape
    if not P:
      return bank
    E, M = bank.valid.shape[1], bank.text.capacity
    if texts.capacity > M or P > E:
      raise ValueError(
        f"{P} entries of up to {texts.capacity} tokens are to be held "
        f"beforehand, the bank has room for {E} of {M}: raise "
        "config.agent.entries or config.agent.entry_tokens"
      )
    ids = jnp.pad(texts.ids, ((0, 0), (0, 0), (0, M - texts.capacity)))
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

  def _call(
    self, policies, op, prompt, key_B, temperature, active_B, max_new_tokens
  ) -> tuple[sampling.Response, token_lib.Tokens, jax.Array]:
    """(response, its text, reasoning left open) of one call to the model."""
    response = sampling.decode(
      policies.of(op, self.trained),
      self.model,
      prompt,
      key_B,
      max_new_tokens=max_new_tokens,
      stop_ids=self.stop_ids,
      temperature=temperature,
      active_B=active_B,
    )
    body, left_open = responses.strip(
      response.tokens, self.stop_ids, self.think_ids
    )
    # What stands in an open reasoning block is no text.
    length = jnp.where(left_open, 0, body.length)
    return response, token_lib.Tokens(body.ids, length), left_open

  def read(
    self,
    policies: agents.Policies,
    state: bank_lib.Bank,
    turn: tasks.Turn,
    key_B: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[bank_lib.Bank, dict[str, agents.Segment]]:
    """Extracts facts from a chunk and changes the bank; no chunk, no change."""
    segments = {}
    active = turn.chunk.length > 0
    if self.extractor == "turns":
      facts = extract_lib.turns(self.extract, turn.chunk)
    else:
      prompt = extract_lib.build(self.extract, turn.chunk)
      response, body, _ = self._call(
        policies,
        "extract",
        prompt,
        agents.turn_keys(key_B, turn.number),
        temperature,
        active,
        self.extract_tokens,
      )
      facts = extract_lib.parse(self.extract, body, response.truncated)
      segments["extract"] = agents.Segment(
        prompt, response, body, facts.malformed & active, active, facts.counts
      )
    # Without a fact there is nothing to do, and the model is not asked.
    active &= (facts.text.length > 0).any(1)
    if self.updater == "append":
      plan = update_lib.append(self.update, facts.text)
    else:
      slot = self.retriever.similar(policies, state, facts.text)
      entries, id_BK = bank_lib.take(state, slot)
      prompt = update_lib.build(self.update, facts.text, entries)
      response, body, _ = self._call(
        policies,
        "update",
        prompt,
        agents.turn_keys(key_B, turn.number, 1),
        temperature,
        active,
        self.update_tokens,
      )
      plan = update_lib.parse(self.update, body, response.truncated, id_BK)
    kind = jnp.where(active[:, None], plan.kind, bank_lib.NOOP)
    text = listing.prefix(turn.stamp, plan.text)
    ops = update_lib.to_ops(
      dataclasses.replace(plan, kind=kind),
      text,
      turn.session,
      jnp.broadcast_to(jnp.asarray(turn.number, jnp.int32), active.shape),
      self.retriever.embed(policies, text),
    )
    bank, outcome = bank_lib.apply_all(state, ops, self.full)
    if self.updater == "policy":
      refused = (outcome == bank_lib.FULL).sum(0)
      gone = (outcome == bank_lib.UNKNOWN_ID).sum(0)
      counts = plan.counts | {
        "full": refused,
        "gone": gone,  # evicted by an addition of the same response
        "size": bank_lib.size(bank),
      }
      segments["update"] = agents.Segment(
        prompt, response, body, plan.malformed & active, active, counts
      )
    return bank, segments

  def answer(
    self,
    policies: agents.Policies,
    state: bank_lib.Bank,
    query: tasks.Query,
    key_N: jax.Array,
    temperature: jax.Array | float,
  ) -> agents.Segment:
    """Answers one question from each bank."""
    slot = self.retriever.relevant(policies, state, query)
    entries, id_NK = bank_lib.take(state, slot)
    prompt = answer_lib.build(self.respond, query.question, entries)
    response, body, left_open = self._call(
      policies,
      "answer",
      prompt,
      agents.answer_keys(key_N),
      temperature,
      None,
      self.answer_tokens,
    )
    used, answer, malformed = answer_lib.parse(
      self.respond,
      body,
      response.truncated,
      (id_NK >= 0).sum(1),
      self.retriever.retrieved,
    )
    return agents.Segment(
      prompt,
      response,
      answer,
      malformed | left_open,
      jnp.ones_like(malformed),
      {"listed": (id_NK >= 0).sum(1), "used": used.sum(1)},
      id_NK,
      used,
    )

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
    bank = bank_lib.init(len(texts), entries, tokens, self.retriever.width)
    return self._filled(policies, packed, bank)

  def shown(self, state: bank_lib.Bank, row: int) -> list[list[int]]:
    """The entries of a row in the order of their ids."""
    valid, ids = np.asarray(state.valid[row]), np.asarray(state.id[row])
    text = np.asarray(state.text.ids[row])
    length = np.asarray(state.text.length[row])
    slots = sorted(np.flatnonzero(valid), key=lambda slot: ids[slot])
    return [text[slot, : length[slot]].tolist() for slot in slots]
