"""Maintenance of a bank: add, update, delete, or nothing.

    build(facts, entries)              -> prompt
    parse(response, entry ids, ...)    -> operations for `bank.apply_all`
    append(facts)                      -> additions only, without a model

Dimension key: B rows, K listed entries, F facts, N operations, M tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib
from memjax.memory import lines
from memjax.memory import listing as listing_lib


@dataclasses.dataclass(frozen=True)
class Update:
  """Static parts: template, lists, at most N operations of M tokens each."""

  template: prompts.Template
  listing: listing_lib.Listing
  ops: int
  text_tokens: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plan:
  """What is to be done to each bank.

  Attributes:
    kind: int32 [B, N], of `bank`; NOOP where a line is missing or in error.
    id: int32 [B, N], entry ids.
    text: ids [B, N, M] and length [B, N].
    malformed: bool [B], a line was in error, or nothing was written at all.
    counts: int [B] by name, for metrics.
  """

  kind: jax.Array
  id: jax.Array
  text: token_lib.Tokens
  malformed: jax.Array
  counts: dict[str, jax.Array]


def make(
  tokenizer: tokenizer_lib.Tokenizer,
  style: str,
  places: int,
  ops: int,
  text_tokens: int,
  thinking: bool = False,
) -> Update:
  """Compiles the template of a style of prompts.BANK_STYLES."""
  listing = listing_lib.make_listing(tokenizer, style, places)
  text = prompts.BANK_STYLES[style]["update"]
  return Update(
    prompts.compile_template(text, tokenizer, thinking),
    listing,
    ops,
    text_tokens,
  )


def build(
  op: Update, facts: token_lib.Tokens, entries: token_lib.Tokens
) -> token_lib.Tokens:
  """The prompt that shows K numbered entries and F facts."""
  return prompts.fill(
    op.template,
    entries=listing_lib.write(op.listing, entries, numbered=True),
    facts=listing_lib.write(op.listing, facts, numbered=False),
  )


def parse(
  op: Update,
  body: token_lib.Tokens,
  truncated_B: jax.Array,
  id_BK: jax.Array,
) -> Plan:
  """Operations of a response without end token and reasoning.

  A line in error does nothing and is counted by its kind of error. A response
  without any line is malformed: who has nothing to change must say NOOP.

  Args:
    op: the operation.
    body: responses.
    truncated_B: bool [B], cut at the limit.
    id_BK: entry ids in the order of the prompt, -1 behind the last.
  """
  listed_B = (id_BK >= 0).sum(1)
  found = lines.parse_ops(
    op.listing.grammar, body, truncated_B, listed_B, op.ops
  )
  good = found.there & (found.error == lines.OK)
  kind = jnp.where(good, found.verb, bank_lib.NOOP)
  texted = good & jnp.isin(found.verb, jnp.array(lines.TEXTED))
  text, long = listing_lib.cut(
    body,
    found.start,
    jnp.where(texted, found.stop, found.start),
    op.text_tokens,
  )
  place = jnp.clip(found.number - 1, 0, id_BK.shape[1] - 1)
  entry = jnp.take_along_axis(id_BK, place, axis=1)
  wrong = found.there & ~good
  empty = ~found.there.any(1)
  counts = {
    name: (good & (found.verb == verb)).sum(1)
    for verb, name in enumerate(bank_lib.KINDS)
  }
  counts |= {
    "error_" + name.replace(" ", "_"): (wrong & (found.error == error)).sum(1)
    for error, name in enumerate(lines.ERRORS)
    if error != lines.OK
  }
  counts |= {
    "empty": empty.astype(jnp.int32),
    "left_out": found.extra,
    "cut": (long & texted).sum(1),
  }
  return Plan(
    kind,
    jnp.where(kind >= bank_lib.UPDATE, entry, -1),
    text,
    wrong.any(1) | empty | (found.extra > 0),
    counts,
  )


def append(op: Update, facts: token_lib.Tokens) -> Plan:
  """Adds each fact as it is: the baseline that keeps everything."""
  B, F = facts.length.shape
  fits = facts.ids[:, :, : op.text_tokens]
  there = facts.length > 0
  return Plan(
    jnp.where(there, bank_lib.ADD, bank_lib.NOOP),
    jnp.full((B, F), -1),
    token_lib.Tokens(fits, jnp.minimum(facts.length, op.text_tokens)),
    jnp.zeros((B,), bool),
    {"add": there.sum(1)},
  )


def to_ops(
  plan: Plan,
  text: token_lib.Tokens,
  time_B: jax.Array,
  source_B: jax.Array,
  embedding_BND: jax.Array,
  turns: token_lib.Tokens | None = None,
) -> bank_lib.Op:
  """Operations with the axis N first.

  Args:
    plan: what is to be done.
    text: the plan's texts as entries hold them, behind a stamp: [B, N, M].
    time_B: int32 [B], the session.
    source_B: int32 [B], the chunk.
    embedding_BND: float32, of the texts.
    turns: what the texts come from, ids [B, N, V] and length [B, N], or None.
  """
  N = plan.kind.shape[1]
  first = lambda x: jnp.moveaxis(x, 1, 0)
  repeat = lambda x: jnp.broadcast_to(x[None], (N, *x.shape))
  return bank_lib.Op(
    first(plan.kind),
    first(plan.id),
    jax.tree.map(first, text),
    repeat(time_B),
    repeat(source_B),
    first(embedding_BND),
    turns and jax.tree.map(first, turns),
  )
