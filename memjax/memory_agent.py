"""MemoryAgent (MemAgent, 2507.02259): a memory of fixed length, overwritten.

The question is known while reading; the memory is one buffer of tokens, and
each turn replaces it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from memjax import agents
from memjax import prompts
from memjax import qwen3
from memjax import tasks
from memjax import tokens as token_lib
from memjax.memory import recurrent


@dataclasses.dataclass(frozen=True)
class MemoryAgent:
  """The recurrent agent, as `agents.Agent` describes.

  Attributes:
    model: the policy's shape.
    op: the memory operation.
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    update_tokens: the most tokens written in a memory turn.
    answer_tokens: the most tokens written in the answer.
    trained: which of "update" and "answer" are trained.
    group: rows next to each other that read the same; 1 if it is not known.
    first: this is the first turn, whose prompts are the same in a group.
  """

  model: qwen3.Config
  op: recurrent.Recurrent
  chunk_tokens: int
  question_tokens: int
  update_tokens: int
  answer_tokens: int
  trained: tuple[str, ...] = ("update", "answer")
  group: int = 1
  first: bool = False

  turn_ops = ("update",)
  one_by_one = ()
  answer_ops = ("answer",)
  questions = 1
  stamp_tokens = 0
  shares_state = False
  holds_entries = False
  reads_stamps = True
  stamp_text = "{stamp}"

  @property
  def stop_ids(self) -> tuple[int, ...]:
    """Ids that end a response."""
    return self.op.stop_ids

  @property
  def think_ids(self) -> tuple[int, int] | None:
    """Ids of a reasoning block."""
    return self.op.think_ids

  @property
  def alike(self) -> str:
    """Their beginnings, or the first prompts, when all memories are empty."""
    if prompts.shared_pieces(self.op.update):
      return agents.BEGINNINGS
    return agents.FIRST_TURN

  @property
  def budget(self) -> tuple[int, int]:
    """Tokens held, tokens shown: all of them."""
    return self.op.capacity, self.op.capacity

  def limit(self, op: str) -> int:
    """The most tokens of a response."""
    return self.update_tokens if op == "update" else self.answer_tokens

  def init(
    self, policies: agents.Policies, task: tasks.Task
  ) -> token_lib.Tokens:
    """Empty memories."""
    return recurrent.init_memory(self.op, task.prior.length.shape[0])

  def read(
    self,
    policies: agents.Policies,
    state: token_lib.Tokens,
    turn: tasks.Turn,
    key_B: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[token_lib.Tokens, dict[str, agents.Segment]]:
    """Reads one chunk and overwrites the memory; rows without one idle."""
    active = turn.chunk.length > 0
    prompt = recurrent.build_update(
      self.op, turn.question, state, turn.chunk, self.group
    )
    response, _, _ = agents.call(
      self,
      policies,
      "update",
      token_lib.grouped(prompt, self.group) if self.first else prompt,
      agents.turn_keys(key_B, turn.number),
      temperature,
      active,
    )
    new, malformed = recurrent.parse_update(self.op, state, response.tokens)
    memory = token_lib.select(active, new, state)
    counts = {"memory_tokens": memory.length}
    segment = agents.Segment(
      prompt, response, memory, malformed & active, active, counts
    )
    return memory, {"update": segment}

  def answer(
    self,
    policies: agents.Policies,
    state: token_lib.Tokens,
    query: tasks.Query,
    key_N: jax.Array,
    temperature: jax.Array | float,
  ) -> dict[str, agents.Segment]:
    """Answers from question and memory alone."""
    prompt = recurrent.build_answer(self.op, query.question, state)
    response, body, malformed = agents.call(
      self, policies, "answer", prompt, agents.answer_keys(key_N), temperature
    )
    segment = agents.Segment(
      prompt, response, body, malformed, jnp.ones_like(malformed)
    )
    return {"answer": segment}

  def given(
    self, policies: agents.Policies, texts: Sequence[Sequence[Sequence[int]]]
  ) -> token_lib.Tokens:
    """Memories that hold these texts, one behind the other.

    Longer ones than the memory are held whole, as an oracle may be.
    """
    joined = [[i for text in row for i in text] for row in texts]
    longest = max(map(len, joined), default=0)
    room = max(-(-longest // self.op.capacity), 1) * self.op.capacity
    return token_lib.from_lists(joined, room)

  def holding(self, tokens: int) -> Self:
    """The agent with room for a text of so many tokens, for controls."""
    op = dataclasses.replace(self.op, capacity=tokens)
    return dataclasses.replace(self, op=op)

  def shown(self, state: token_lib.Tokens, row: int) -> list[list[int]]:
    """The memory of a row, as one text; none where it is empty."""
    ids = np.asarray(state.ids[row])[: int(state.length[row])].tolist()
    return [ids] if ids else []
