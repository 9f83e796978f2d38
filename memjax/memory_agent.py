"""MemoryAgent (MemAgent, 2507.02259): a memory of fixed length, overwritten.

The question is known while reading; the memory is one buffer of tokens, and
each turn replaces it.
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from memjax import agents
from memjax import hf
from memjax import qwen3
from memjax import sampling
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import recurrent


@dataclasses.dataclass(frozen=True)
class Spec:
  """The recurrent agent, as `agents.Spec` describes.

  Attributes:
    model: the policy's shape.
    op: the memory operation.
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    update_tokens: the most tokens written in a memory turn.
    answer_tokens: the most tokens written in the answer.
    trained: which of "update" and "answer" are trained.
  """

  model: qwen3.Config
  op: recurrent.Recurrent
  chunk_tokens: int
  question_tokens: int
  update_tokens: int
  answer_tokens: int
  trained: tuple[str, ...] = ("update", "answer")

  turn_ops = ("update",)
  questions = 1
  stamp_tokens = 0
  shares_state = False
  holds_entries = False
  reads_stamps = True
  stamp_text = "{stamp}"

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
    prompt = recurrent.build_update(self.op, turn.question, state, turn.chunk)
    response = sampling.decode(
      policies.of("update", self.trained),
      self.model,
      prompt,
      agents.turn_keys(key_B, turn.number),
      max_new_tokens=self.update_tokens,
      stop_ids=self.op.stop_ids,
      temperature=temperature,
      active_B=active,
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
  ) -> agents.Segment:
    """Answers from question and memory alone."""
    prompt = recurrent.build_answer(self.op, query.question, state)
    response = sampling.decode(
      policies.of("answer", self.trained),
      self.model,
      prompt,
      agents.answer_keys(key_N),
      max_new_tokens=self.answer_tokens,
      stop_ids=self.op.stop_ids,
      temperature=temperature,
    )
    body, malformed = recurrent.strip_response(self.op, response.tokens)
    return agents.Segment(
      prompt, response, body, malformed, jnp.ones_like(malformed)
    )

  def given(
    self, policies: agents.Policies, texts: Sequence[Sequence[Sequence[int]]]
  ) -> token_lib.Tokens:
    """Memories that hold these texts, one behind the other.

    Raises:
      ValueError: they do not fit.
    """
    joined = [[i for text in row for i in text] for row in texts]
    return token_lib.from_lists(joined, self.op.capacity)

  def shown(self, state: token_lib.Tokens, row: int) -> list[list[int]]:
    """The memory of a row, as one text; none where it is empty."""
    ids = np.asarray(state.ids[row])[: int(state.length[row])].tolist()
    return [ids] if ids else []


def text_id(text: str) -> int:
  """A stable 31-bit id of a text, for the keys of texts without an id."""
  return zlib.crc32(text.encode()) & 0x7FFFFFFF


@dataclasses.dataclass(frozen=True)
class MemoryAgent:
  """Reads a text of any length with a memory of fixed length (MemAgent).

      agent = memjax.MemoryAgent.load("Qwen3-1.7B")
      answer, memories = agent.read(text, question)

  Attributes:
    params: the policy.
    spec: the agent.
    tokenizer: the policy's.
    temperature: of sampling; 0 takes the most likely tokens.
    key: of sampling.
  """

  params: qwen3.Params
  spec: Spec
  tokenizer: tokenizer_lib.Tokenizer
  temperature: float = 0.0
  key: jax.Array = dataclasses.field(
    default_factory=functools.partial(jax.random.key, 0)
  )

  @classmethod
  def load(
    cls,
    path: str | os.PathLike,
    *,
    style: str = "text",
    chunk_tokens: int = 5000,
    question_tokens: int = 1024,
    memory_tokens: int = 1024,
    update_tokens: int = 1024,
    answer_tokens: int = 1024,
    thinking: bool = False,
    dtype: str = "bfloat16",
    temperature: float = 0.0,
  ) -> "MemoryAgent":
    """An agent with the model and tokenizer of a Hugging Face directory.

    The lengths are MemAgent's; `dtype` is that of parameters and products.

    Raises:
      ValueError: the directory holds no Qwen3, or no tokenizer.
    """
    cfg, params = hf.load(path, dtype=dtype)
    tokenizer = tokenizer_lib.load(path)
    spec = Spec(
      dataclasses.replace(cfg, dtype=dtype),
      recurrent.make_recurrent(tokenizer, style, memory_tokens, thinking),
      chunk_tokens,
      question_tokens,
      update_tokens,
      answer_tokens,
    )
    return cls(params, spec, tokenizer, temperature)

  def read(
    self,
    text: str,
    question: str,
    on_memory: Callable[[int, int, str], None] | None = None,
  ) -> tuple[str, list[str]]:
    """Answers a question about a text.

    Args:
      text: of any length; an empty one is answered from an empty memory.
      question: at most spec.question_tokens long.
      on_memory: called after each chunk with (chunk, how many, memory).

    Returns:
      (answer, the memory after each chunk), decoded for people.
    """
    example = example_lib.Example(text_id(question), question, text, ())
    task = tasks.make_task([example], self.tokenizer, self.spec)
    decode = lambda rows: self.tokenizer.decode(token_lib.to_lists(rows)[0])
    policies = agents.Policies(self.params)
    key_B = agents.row_keys(self.key, task)
    memory, memories = self.spec.init(policies, task), []
    count = task.chunks.length.shape[0]
    for number in range(count):
      turn = tasks.turn_at(task, number)
      memory, _ = agents.read_jit(
        policies, self.spec, memory, turn, key_B, self.temperature
      )
      memories.append(decode(memory))
      if on_memory:
        on_memory(number + 1, count, memories[-1])
    segment = agents.answer_jit(
      policies, self.spec, memory, task.query, key_B, self.temperature
    )
    return decode(segment.result), memories
