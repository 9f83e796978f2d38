"""A memory bank: E slots of text that are added, updated and deleted.

The functions are pure: each rollout changes its own copy. What a row's bank is
after a sequence of operations is the same as for a dict from id to entry:

  - ids count from 0 in the order of additions and are never used again;
  - `add` fills the first free slot; a full bank has one of two rules, "refuse"
    (the bank stays as it is) or "evict" (the entry whose last change is oldest
    gives way, of several the one with the smallest id);
  - `update` replaces all that came with the text, and keeps the id and the
    time of creation;
  - `update` and `delete` of an id that is not there, and a text without a
    token, change nothing and say so.

Dimension key: B rows, E entries, M tokens of an entry, D embedding, K picked.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import tokens as token_lib

# Kinds of an operation.
NOOP, ADD, UPDATE, DELETE = 0, 1, 2, 3
KINDS = ("noop", "add", "update", "delete")

# What became of it.
DONE, UNKNOWN_ID, NO_TEXT, FULL = 0, 1, 2, 3
OUTCOMES = ("done", "unknown id", "no text", "bank full")

FULL_RULES = ("refuse", "evict")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bank:
  """B banks of E slots each.

  Attributes:
    text: ids [B, E, M] and length [B, E]; zeros in a free slot.
    valid: bool [B, E], the slot holds an entry.
    id: int32 [B, E], of the entry; -1 in a free slot.
    created: int32 [B, E], the session in which it was added.
    updated: int32 [B, E], the session of its last change.
    source: int32 [B, E], the chunk that the text came from.
    embedding: float32 [B, E, D]; D is 0 where retrieval needs none.
    next_id: int32 [B], of the next addition.
    turns: ids [B, E, V] and length [B, E], what was said where the text comes
      from; V is 0 where entries are kept without.
  """

  text: token_lib.Tokens
  valid: jax.Array
  id: jax.Array
  created: jax.Array
  updated: jax.Array
  source: jax.Array
  embedding: jax.Array
  next_id: jax.Array
  turns: token_lib.Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Op:
  """One operation for each of B banks.

  Attributes:
    kind: int32 [B], NOOP, ADD, UPDATE or DELETE.
    id: int32 [B], the entry that UPDATE and DELETE mean.
    text: ids [B, M] and length [B], of ADD and UPDATE.
    time: int32 [B], the session.
    source: int32 [B], the chunk.
    embedding: float32 [B, D], of the text.
    turns: ids [B, V] and length [B], what the text comes from; None in banks
      that keep none.
  """

  kind: jax.Array
  id: jax.Array
  text: token_lib.Tokens
  time: jax.Array
  source: jax.Array
  embedding: jax.Array
  turns: token_lib.Tokens | None = None


def init(
  batch: int, entries: int, tokens: int, width: int = 0, turn_tokens: int = 0
) -> Bank:
  """B empty banks."""
  # Buffers of their own: donating one must not take another with it.
  number = lambda value: jnp.full((batch, entries), value, jnp.int32)
  return Bank(
    token_lib.Tokens(jnp.zeros((batch, entries, tokens), jnp.int32), number(0)),
    jnp.zeros((batch, entries), bool),
    number(-1),
    number(0),
    number(0),
    number(0),
    jnp.zeros((batch, entries, width), jnp.float32),
    jnp.zeros((batch,), jnp.int32),
    token_lib.Tokens(
      jnp.zeros((batch, entries, turn_tokens), jnp.int32), number(0)
    ),
  )


def size(bank: Bank) -> jax.Array:
  """int [B], how many entries each bank holds."""
  return bank.valid.sum(-1)


def _apply_row(bank: Bank, op: Op, full: str) -> tuple[Bank, jax.Array]:
  """`apply` for a single bank, without the axis B."""
  adds, updates = op.kind == ADD, op.kind == UPDATE
  writes, deletes = adds | updates, op.kind == DELETE
  same = bank.valid & (bank.id == op.id)
  oldest = jnp.lexsort((bank.id, bank.updated))[0]
  is_full = bank.valid.all()
  slot = jnp.where(
    adds,
    jnp.where(is_full, oldest, jnp.argmin(bank.valid)),
    jnp.argmax(same),
  )
  outcome = jnp.select(
    [
      writes & (op.text.length == 0),
      (updates | deletes) & ~same.any(),
      adds & is_full & (full == "refuse"),
    ],
    [NO_TEXT, UNKNOWN_ID, FULL],
    DONE,
  )
  writes &= outcome == DONE
  adds &= outcome == DONE
  deletes &= outcome == DONE

  def put(old, written, cleared):
    """The slot's row becomes `written`, or `cleared`, or stays."""
    new = jnp.where(writes, written, jnp.where(deletes, cleared, old[slot]))
    return old.at[slot].set(new)

  kept = lambda old, new: jnp.where(adds, new, old[slot])
  none = token_lib.Tokens(jnp.zeros_like(bank.turns.ids[0]), jnp.int32(0))
  turns = op.turns or none
  within = lambda row: jnp.where(row.mask, row.ids, 0)
  return (
    Bank(
      token_lib.Tokens(
        put(bank.text.ids, within(op.text), 0),
        put(bank.text.length, op.text.length, 0),
      ),
      put(bank.valid, True, False),
      put(bank.id, kept(bank.id, bank.next_id), -1),
      put(bank.created, kept(bank.created, op.time), 0),
      put(bank.updated, op.time, 0),
      put(bank.source, op.source, 0),
      put(bank.embedding, op.embedding, 0.0),
      bank.next_id + adds,
      token_lib.Tokens(
        put(bank.turns.ids, within(turns), 0),
        put(bank.turns.length, turns.length, 0),
      ),
    ),
    outcome,
  )


def apply(bank: Bank, op: Op, full: str = "refuse") -> tuple[Bank, jax.Array]:
  """Applies one operation to each bank.

  Args:
    bank: B banks.
    op: B operations.
    full: what `add` does to a full bank, one of FULL_RULES; static.

  Returns:
    (banks, int32 [B] outcome: DONE, UNKNOWN_ID, NO_TEXT or FULL).
  """
  return jax.vmap(lambda b, o: _apply_row(b, o, full))(bank, op)


def apply_all(
  bank: Bank, ops: Op, full: str = "refuse"
) -> tuple[Bank, jax.Array]:
  """Applies N operations in turn: leaves of `ops` are [N, B, ...].

  Returns:
    (banks, int32 [N, B] outcomes).
  """
  return jax.lax.scan(lambda b, op: apply(b, op, full), bank, ops)


def slot_of(bank: Bank, id_BK: jax.Array) -> jax.Array:
  """int32 [B, K]: where entries with these ids are, -1 for those not there."""
  same = bank.valid[:, None, :] & (bank.id[:, None, :] == id_BK[..., None])
  return jnp.where(same.any(-1), jnp.argmax(same, axis=-1), -1)


def take(bank: Bank, slot_BK: jax.Array) -> tuple[token_lib.Tokens, jax.Array]:
  """Texts and ids of K slots of each bank; slot -1 gives an empty text, id -1.

  Returns:
    (ids [B, K, M] and length [B, K], entry ids [B, K]).
  """
  there = slot_BK >= 0
  slot = jnp.maximum(slot_BK, 0)
  pick = lambda x: jnp.take_along_axis(x, slot, axis=1)
  there &= pick(bank.valid)
  return _taken(bank.text, slot, there), jnp.where(there, pick(bank.id), -1)


def take_turns(bank: Bank, slot_BK: jax.Array) -> token_lib.Tokens:
  """The turns of K slots of each bank, [B, K, V]; none for slot -1."""
  return _taken(bank.turns, jnp.maximum(slot_BK, 0), slot_BK >= 0)


def _taken(
  tokens: token_lib.Tokens, slot_BK: jax.Array, there_BK: jax.Array
) -> token_lib.Tokens:
  """Rows of [B, E, M]; empty where nothing is there."""
  ids = jnp.take_along_axis(tokens.ids, slot_BK[..., None], axis=1)
  length = jnp.take_along_axis(tokens.length, slot_BK, axis=1)
  return token_lib.Tokens(ids, jnp.where(there_BK, length, 0))
