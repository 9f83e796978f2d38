"""The answer from a bank: which entries are used, then the answer.

    build(question, entries)  -> prompt
    parse(response)           -> entries used, answer

Memory-R1 calls the first half memory distillation (2508.19828, sec. 3.2): the
model names what it uses before it answers. The plain form has no such line.

Dimension key: B rows, K listed entries.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import lines
from memjax.memory import listing as listing_lib


@dataclasses.dataclass(frozen=True)
class Answer:
  """Static parts: template, lists, and whether entries are named."""

  template: prompts.Template
  listing: listing_lib.Listing
  names_entries: bool


def make(
  tokenizer: tokenizer_lib.Tokenizer,
  style: str,
  places: int,
  names_entries: bool = True,
  thinking: bool = False,
) -> Answer:
  """Compiles the template of a style of prompts.BANK_STYLES."""
  listing = listing_lib.make_listing(tokenizer, style, places)
  text = prompts.BANK_STYLES[style]
  return Answer(
    prompts.compile_template(
      text["answer" if names_entries else "answer_plain"], tokenizer, thinking
    ),
    listing,
    names_entries,
  )


def build(
  op: Answer, question: token_lib.Tokens, entries: token_lib.Tokens
) -> token_lib.Tokens:
  """The prompt that shows K numbered entries and the question."""
  return prompts.fill(
    op.template,
    entries=listing_lib.write(op.listing, entries, numbered=True),
    question=question,
  )


def with_turns(
  op: Answer, entries: token_lib.Tokens, turns: token_lib.Tokens
) -> token_lib.Tokens:
  """Entries [B, K, M] with the turns [B, K, V] that they come from behind."""
  B, K = entries.length.shape
  flat = lambda x: jax.tree.map(lambda y: y.reshape(B * K, *y.shape[2:]), x)
  grammar, text = op.listing.grammar, flat(entries)
  last = jnp.maximum(text.length - 1, 0)[:, None]
  closed = grammar.ends_line(jnp.take_along_axis(text.ids, last, axis=1)[:, 0])
  newline = token_lib.constant(grammar.newline, B * K)
  between = (flat(turns).length > 0) & ~closed
  newline = token_lib.Tokens(newline.ids, jnp.where(between, newline.length, 0))
  joined = token_lib.concat([text, newline, flat(turns)])
  return token_lib.Tokens(
    joined.ids.reshape(B, K, joined.capacity), joined.length.reshape(B, K)
  )


def parse(
  op: Answer,
  body: token_lib.Tokens,
  truncated_B: jax.Array,
  listed_B: jax.Array,
  places: int,
) -> tuple[jax.Array, token_lib.Tokens, jax.Array]:
  """(bool [B, K] used, the answer, bool [B] malformed) of a response.

  An empty answer is malformed.
  """
  if op.names_entries:
    used, answer, malformed = lines.parse_use(
      op.listing.grammar, body, truncated_B, listed_B, places
    )
  else:
    used = jnp.zeros((body.length.shape[0], places), bool)
    answer, malformed = body, jnp.zeros(body.length.shape, bool)
  return used, answer, malformed | (answer.length == 0)
