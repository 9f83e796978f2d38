"""Recurrent memory (MemAgent, 2507.02259): one buffer, overwritten each turn.

    build_update(question, memory, chunk) -> prompt
    parse_update(memory, response)        -> new memory

The new memory is the response itself, ids as they were sampled, without the
end token and without a reasoning block. The rules, in order:

  - a reasoning block that was opened and not closed: the response holds no
    memory, so the old memory stays, and the turn counts as malformed;
  - otherwise what follows the last closing tag (the whole response if there
    is none) is the memory, cut to the memory's capacity;
  - a response that was cut at the limit is used as far as it goes;
  - an empty memory is legal; the next prompt then says so in words.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import responses


@dataclasses.dataclass(frozen=True)
class Recurrent:
  """What the operation is made of; hashable, so static under jit.

  Attributes:
    update: template with the slots question, memory, chunk.
    answer: template with the slots question, memory.
    empty_memory: ids that stand in a prompt for an empty memory.
    stop_ids: ids that end a response.
    think_ids: (opening, closing) id of a reasoning block, or None.
    capacity: the most tokens that a memory holds.
  """

  update: prompts.Template
  answer: prompts.Template
  empty_memory: tuple[int, ...]
  stop_ids: tuple[int, ...]
  think_ids: tuple[int, int] | None
  capacity: int


def make_recurrent(
  tokenizer: tokenizer_lib.Tokenizer,
  style: str,
  capacity: int,
  thinking: bool = False,
) -> Recurrent:
  """Compiles the templates of one style of `prompts.STYLES`."""
  if style not in prompts.STYLES:
    raise ValueError(
      f"unknown prompt style {style!r}: choose one of "
      f"{', '.join(sorted(prompts.STYLES))}"
    )
  text = prompts.STYLES[style]
  return Recurrent(
    prompts.compile_template(text["update"], tokenizer, thinking),
    prompts.compile_template(text["answer"], tokenizer, thinking),
    tuple(tokenizer.encode(text["empty_memory"])),
    tokenizer.stop_ids,
    tokenizer.think_ids,
    capacity,
  )


def init_memory(op: Recurrent, batch: int) -> token_lib.Tokens:
  """B empty memories."""
  return token_lib.empty(batch, op.capacity)


def _shown(op: Recurrent, memory: token_lib.Tokens) -> token_lib.Tokens:
  """The memory as prompts show it: words in place of nothing."""
  none = token_lib.constant(op.empty_memory, memory.length.shape[0])
  room = max(memory.capacity, none.capacity)
  pad = lambda x: token_lib.Tokens(
    jnp.pad(x.ids, ((0, 0), (0, room - x.capacity))), x.length
  )
  return token_lib.select(memory.length > 0, pad(memory), pad(none))


def build_update(
  op: Recurrent,
  question: token_lib.Tokens,
  memory: token_lib.Tokens,
  chunk: token_lib.Tokens,
  group: int = 1,
) -> token_lib.Tokens | token_lib.Grouped:
  """The prompt that asks for a new memory; `group` as in `prompts.fill`."""
  return prompts.fill(
    op.update,
    group,
    question=question,
    memory=_shown(op, memory),
    chunk=chunk,
  )


def build_answer(
  op: Recurrent, question: token_lib.Tokens, memory: token_lib.Tokens
) -> token_lib.Tokens:
  """The prompt that asks for the answer: question and memory alone."""
  return prompts.fill(op.answer, question=question, memory=_shown(op, memory))


def strip_response(
  op: Recurrent, response: token_lib.Tokens
) -> tuple[token_lib.Tokens, jax.Array]:
  """`responses.strip` with the operation's ids."""
  return responses.strip(response, op.stop_ids, op.think_ids)


def parse_update(
  op: Recurrent, memory: token_lib.Tokens, response: token_lib.Tokens
) -> tuple[token_lib.Tokens, jax.Array]:
  """The memory after a response, and where the response was malformed.

  Args:
    op: the operation.
    memory: the memory before the turn, kept where the response is malformed.
    response: the sampled ids.

  Returns:
    (memory of capacity op.capacity, bool [B] malformed).
  """
  body, malformed = strip_response(op, response)
  body = token_lib.truncate(body, op.capacity)
  short = op.capacity - body.capacity
  if short > 0:
    body = token_lib.Tokens(
      jnp.pad(body.ids, ((0, 0), (0, short))), body.length
    )
  return token_lib.select(malformed, memory, body), malformed
