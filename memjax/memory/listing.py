"""Lists of texts in prompts, and texts cut out of responses.

Dimension key: B rows, K texts, M tokens of a text, T tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import grammar as grammar_lib
from memjax.memory import lines


@dataclasses.dataclass(frozen=True)
class Listing:
  """How lists are written; hashable.

  Attributes:
    grammar: of the tokenizer.
    numbers: ids of the first, second, ... place.
    empty: ids that stand for a list without texts.
  """

  grammar: grammar_lib.Grammar
  numbers: tuple[tuple[int, ...], ...]
  empty: tuple[int, ...]


def make_listing(
  tokenizer: tokenizer_lib.Tokenizer, style: str, places: int
) -> Listing:
  """Prepares lists of up to `places` texts in a style of prompts.BANK_STYLES.

  Raises:
    ValueError: no such style, or a word-level vocabulary lacks a number.
  """
  if style not in prompts.BANK_STYLES:
    raise ValueError(
      f"unknown prompt style {style!r} of a memory bank: choose one of "
      f"{', '.join(sorted(prompts.BANK_STYLES))}"
    )
  text = prompts.BANK_STYLES[style]
  numbers = [text["number"].format(n=n) for n in range(1, places + 1)]
  try:
    encoded = tokenizer.encode_batch(numbers)
  except ValueError as error:
    raise ValueError(
      f"a list of {places} places is to be numbered, but {error}; or lower "
      "config.agent.candidates, retrieved, fetched or turns"
    ) from error
  return Listing(
    lines.make_grammar(tokenizer, text["newline"]),
    tuple(map(tuple, encoded)),
    tuple(tokenizer.encode(text["empty"])),
  )


def write(
  listing: Listing, text_BK: token_lib.Tokens, numbered: bool
) -> token_lib.Tokens:
  """One line for each text that is not empty.

  Numbers are those of places in the list: a text at place k is number k + 1,
  whatever stands before it. A text that ends with a newline gets no other.

  Args:
    listing: how lists are written.
    text_BK: ids [B, K, M] and length [B, K].
    numbered: write numbers before the texts.

  Returns:
    B rows; where there is no text, the words for that.
  """
  B, K = text_BK.length.shape
  last = jnp.take_along_axis(
    text_BK.ids, jnp.maximum(text_BK.length - 1, 0)[..., None], axis=2
  )[..., 0]
  there = text_BK.length > 0
  closed = listing.grammar.ends_line(last)
  end = listing.grammar.newline
  constant = lambda ids, keep_B: token_lib.Tokens(
    token_lib.constant(ids, B).ids, jnp.where(keep_B, len(ids), 0)
  )
  parts = []
  for k in range(K):
    if numbered:
      parts.append(constant(listing.numbers[k], there[:, k]))
    parts.append(jax.tree.map(lambda x, k=k: x[:, k], text_BK))
    parts.append(constant(end, there[:, k] & ~closed[:, k]))
  parts.append(constant(listing.empty, ~there.any(1)))
  return token_lib.concat(parts)


def cut(
  tokens: token_lib.Tokens,
  start_BK: jax.Array,
  stop_BK: jax.Array,
  capacity: int,
) -> tuple[token_lib.Tokens, jax.Array]:
  """Tokens [start, stop) of each row, K times; what is too long is cut.

  Returns:
    (ids [B, K, capacity] and length [B, K], bool [B, K] where it was cut).
  """
  length = jnp.maximum(stop_BK - start_BK, 0)
  index = start_BK[..., None] + jnp.arange(capacity)[None, None]
  index = jnp.clip(index, 0, tokens.capacity - 1)
  B, K, M = index.shape
  ids = jnp.take_along_axis(tokens.ids, index.reshape(B, K * M), axis=1)
  return (
    token_lib.Tokens(ids.reshape(B, K, M), jnp.minimum(length, capacity)),
    length > capacity,
  )


def prefix(
  head: token_lib.Tokens, text_BK: token_lib.Tokens
) -> token_lib.Tokens:
  """Puts a row's head before each of its K texts; empty texts stay empty."""
  B, K = text_BK.length.shape
  if not head.capacity:
    return text_BK
  flat = lambda x: x.reshape(B * K, *x.shape[2:])
  joined = token_lib.concat(
    [
      jax.tree.map(lambda x: jnp.repeat(x, K, axis=0), head),
      jax.tree.map(flat, text_BK),
    ]
  )
  length = jnp.where(flat(text_BK.length) > 0, joined.length, 0)
  return token_lib.Tokens(
    joined.ids.reshape(B, K, joined.capacity), length.reshape(B, K)
  )
