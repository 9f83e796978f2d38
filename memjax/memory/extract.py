"""Extraction: what a part of a conversation says that is worth keeping.

    build(chunk)            -> prompt
    parse(response)         -> up to F facts, one a line
    turns(chunk)            -> the chunk's own lines as facts, without a model

Dimension key: B rows, F facts, M tokens of a fact.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import grammar as grammar_lib
from memjax.memory import lines
from memjax.memory import listing


@dataclasses.dataclass(frozen=True)
class Extract:
  """Static parts: template, grammar, F facts of at most M tokens."""

  template: prompts.Template
  grammar: grammar_lib.Grammar
  facts: int
  fact_tokens: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Facts:
  """What was extracted.

  Attributes:
    text: ids [B, F, M] and length [B, F]; empty where there is no fact.
    malformed: bool [B], a line was in error, or nothing was written at all.
    counts: int [B] by name, for metrics.
  """

  text: token_lib.Tokens
  malformed: jax.Array
  counts: dict[str, jax.Array]


def make(
  tokenizer: tokenizer_lib.Tokenizer,
  style: str,
  facts: int,
  fact_tokens: int,
  thinking: bool = False,
) -> Extract:
  """Compiles the template of a style of prompts.BANK_STYLES."""
  text = prompts.BANK_STYLES[style]
  return Extract(
    prompts.compile_template(text["extract"], tokenizer, thinking),
    lines.make_grammar(tokenizer, text["newline"]),
    facts,
    fact_tokens,
  )


def build(
  op: Extract, chunk: token_lib.Tokens, group: int = 1
) -> token_lib.Tokens | token_lib.Grouped:
  """The prompt that asks for facts; `group` as in `prompts.fill`."""
  return prompts.fill(op.template, group, chunk=chunk)


def parse(op: Extract, body: token_lib.Tokens, truncated_B: jax.Array) -> Facts:
  """Facts of a response without end token and reasoning.

  A line in error gives no fact; lines beyond F are left out and counted; a
  fact longer than M is cut and counted. A response without any line is
  malformed: who has nothing to note must say NONE.
  """
  found = lines.parse_texts(op.grammar, body, truncated_B, op.facts)
  good = found.there & (found.error == lines.OK)
  fact = good & (found.verb == lines.ADD)
  text, long = listing.cut(
    body, found.start, jnp.where(fact, found.stop, found.start), op.fact_tokens
  )
  wrong = found.there & ~good
  empty = ~found.there.any(1)
  return Facts(
    text,
    wrong.any(1) | empty | (found.extra > 0),
    {
      "facts": fact.sum(1),
      "errors": wrong.sum(1),
      "empty": empty.astype(jnp.int32),
      "left_out": found.extra,
      "cut": (long & fact).sum(1),
    },
  )


def turns(op: Extract, chunk: token_lib.Tokens) -> Facts:
  """The lines of a chunk as they are: the baseline that keeps raw turns."""
  closed = jnp.zeros(chunk.length.shape, bool)
  found = parse(op, chunk, closed)
  return dataclasses.replace(found, malformed=closed)
