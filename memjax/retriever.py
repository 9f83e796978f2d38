"""Which entries of a bank are shown: a first search, then perhaps a reranker.

    similar(bank, facts)     entries close to new facts, for an update
    relevant(bank, query)    entries for an answer: K are fetched, M are shown

A first search is lexical, by embedding, or by recency. A reranker is a trained
map of the embeddings (RMM's retrospective reflection, `memory.rerank`), or the
policy itself (MemFactory's; `bank_agent` asks it).

Dimension key: B rows, N questions, E entries, F facts, K fetched, M shown, T
tokens of a text, D embedding.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import agents
from memjax import qwen3
from memjax import tasks
from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib
from memjax.memory import rerank
from memjax.memory import retrieve

FIRST = ("bm25", "embedding", "recency")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
  """What a reranker chose from, for its update.

  Attributes:
    draw: embeddings, noise, and what was picked.
    question: rows [N], embedded again where the encoder itself is trained.
    entries: ids [N, K, T] and length [N, K], likewise.
  """

  draw: rerank.Draw
  question: token_lib.Tokens
  entries: token_lib.Tokens


@dataclasses.dataclass(frozen=True)
class Retriever:
  """How entries are found.

  Attributes:
    first: the first search, one of FIRST, or "given": entries as they stand in
      the bank, where something else has searched before.
    lexicon: words of the vocabulary; speakers' names are found by it too.
    embedder: shape of the Qwen3 that embeds, or None.
    end_id: what stands behind a text that is embedded.
    candidates: the most entries that are fetched for an update.
    fetched: K, the most entries that are fetched for an answer.
    retrieved: M, the most entries that an answer is shown; K without reranker.
    reranks: embeddings are mapped and entries drawn by the new scores.
    tau: temperature of that draw.
    explores: the reranker is trained: at a temperature above 0 it draws. A
      frozen one always shows the best.
  """

  first: str
  lexicon: retrieve.Lexicon
  embedder: qwen3.Config | None
  end_id: int
  candidates: int
  fetched: int
  retrieved: int
  reranks: bool = False
  tau: float = 0.5
  explores: bool = False

  @property
  def width(self) -> int:
    """Of embeddings; 0 without."""
    return self.embedder.width if self.embedder else 0

  def embed(
    self, policies: agents.Policies, text: token_lib.Tokens
  ) -> jax.Array:
    """float32 [..., D] of texts [..., T]."""
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
    if self.first == "recency":
      return retrieve.recency(bank)
    if self.first == "given":
      rank = jnp.arange(bank.valid.shape[1], dtype=jnp.float32)
      return jnp.broadcast_to(-rank[None], bank.valid.shape)
    if self.first == "bm25":
      return retrieve.bm25(self.lexicon, query, bank)
    return retrieve.cosine(self.embed(policies, query), bank)

  def similar(
    self,
    policies: agents.Policies,
    bank: bank_lib.Bank,
    facts: token_lib.Tokens,
  ) -> jax.Array:
    """Slots [B, candidates] of the entries closest to any of facts [B, F, T].

    An entry that shares no word with a fact is not listed by "bm25".
    """
    least = 0.0 if self.first == "bm25" else -jnp.inf
    scores = []
    for f in range(facts.length.shape[1]):
      fact = jax.tree.map(lambda x, f=f: x[:, f], facts)
      score = self.scores(policies, bank, fact)
      scores.append(jnp.where(fact.length[:, None] > 0, score, -jnp.inf))
    best = jnp.stack(scores).max(0)
    return retrieve.top(best, bank, self.candidates, least)

  def fetch(
    self,
    policies: agents.Policies,
    bank: bank_lib.Bank,
    query: tasks.Query,
  ) -> tuple[jax.Array, jax.Array]:
    """(slots [N, K] of the entries closest to a question, all scores [N, E]).

    The best comes first. Where a conversation has speakers, each has an equal
    share of the places.
    """
    score = self.scores(policies, bank, query.question)
    if query.speakers.ids.shape[1]:
      slot = retrieve.halves(
        self.lexicon, score, bank, query.speakers, self.fetched
      )
    else:
      slot = retrieve.top(score, bank, self.fetched)
    return slot, score

  def relevant(
    self,
    policies: agents.Policies,
    bank: bank_lib.Bank,
    query: tasks.Query,
    key_N: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[jax.Array, Choice | None]:
    """Slots of the entries for an answer, best first, and how they were chosen.

    Without a reranker the K that were fetched. A reranker shows M of them: the
    best, or while it is trained, above temperature 0, a draw (`rerank.pick`).
    """
    slot_NK, score_NE = self.fetch(policies, bank, query)
    if not self.reranks:
      return slot_NK, None
    there_NK = slot_NK >= 0
    slot = jnp.maximum(slot_NK, 0)
    memory_NKD = jnp.take_along_axis(bank.embedding, slot[..., None], axis=1)
    query_ND = self.embed(policies, query.question)
    plain_NK = None
    if self.first == "embedding":  # so that zero weights keep its ranking
      plain_NK = jnp.take_along_axis(score_NE, slot, axis=1)
    noise_NK = jnp.zeros(slot.shape, jnp.float32)
    if self.explores:
      drawn_NK = rerank.gumbel(key_N, slot.shape[1])
      noise_NK = jnp.where(jnp.asarray(temperature) > 0, drawn_NK, noise_NK)
    picked_NM = rerank.pick(
      rerank.scores(policies.reranker, query_ND, memory_NKD, plain_NK),
      there_NK,
      noise_NK,
      self.tau,
      self.retrieved,
    )
    shown = jnp.take_along_axis(slot_NK, jnp.maximum(picked_NM, 0), axis=1)
    draw = rerank.Draw(query_ND, memory_NKD, there_NK, noise_NK, picked_NM)
    entries = bank_lib.take(bank, slot_NK)[0]
    choice = Choice(draw, query.question, entries)
    return jnp.where(picked_NM >= 0, shown, -1), choice
