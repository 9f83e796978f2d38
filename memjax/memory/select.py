"""A language model as reranker: it reads candidates and names the useful ones.

    build(question, entries)  -> prompt
    parse(response)           -> which of the candidates, and whether it is
                                 well-formed

MemFactory's retriever for RMM (2603.29493), with a line in place of its JSON. A
number that was named before, or that is not in the list, is malformed.

Dimension key: B rows, K candidates, M picked at most.
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
class Select:
  """Static parts: template, lists of K places, at most M picked."""

  template: prompts.Template
  listing: listing_lib.Listing
  picked: int


def make(
  tokenizer: tokenizer_lib.Tokenizer,
  style: str,
  places: int,
  picked: int,
  thinking: bool = False,
) -> Select:
  """Compiles the template of a style of prompts.BANK_STYLES."""
  text = prompts.BANK_STYLES[style]["select"]
  return Select(
    prompts.compile_template(text, tokenizer, thinking),
    listing_lib.make_listing(tokenizer, style, places),
    picked,
  )


def build(
  op: Select, question: token_lib.Tokens, entries: token_lib.Tokens
) -> token_lib.Tokens:
  """The prompt that shows K numbered candidates and the question."""
  return prompts.fill(
    op.template,
    entries=listing_lib.write(op.listing, entries, numbered=True),
    question=question,
  )


def parse(
  op: Select,
  body: token_lib.Tokens,
  truncated_B: jax.Array,
  listed_B: jax.Array,
  places: int,
) -> tuple[jax.Array, jax.Array]:
  """(bool [B, K] picked, bool [B] malformed) of a response.

  A line USE with up to M numbers and nothing behind it is well-formed; of a
  line with more the first M in the order of the list are picked. A response
  that is not a line USE picks nothing.

  Args:
    op: the operation.
    body: responses without end token and reasoning.
    truncated_B: bool [B], cut at the limit.
    listed_B: int [B], how many candidates the prompt listed.
    places: K.
  """
  used, rest, malformed = lines.parse_use(
    op.listing.grammar, body, truncated_B, listed_B, places
  )
  count = jnp.cumsum(used, axis=1)
  wrong = malformed | (rest.length > 0) | (count[:, -1] > op.picked)
  return used & (count <= op.picked), wrong
