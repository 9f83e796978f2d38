"""Agents: memory operations composed into turns, and turns into rollouts.

One turn is the unit. Training scans it over the chunks of a task inside one
compiled program; evaluation and reading feed the same turn chunk by chunk from
the host, so that no length needs a new compile.

Dimension key: B trajectories, C chunks, S chunk tokens, A response tokens.
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

from memjax import hf
from memjax import qwen3
from memjax import sampling
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import recurrent

# The answer's place in the key of a turn; chunks count from 1, so the answer
# draws the same numbers whatever number of chunks a batch is padded to.
_ANSWER_TURN = 0


@dataclasses.dataclass(frozen=True)
class Spec:
  """All that is static about an agent; hashable.

  Attributes:
    model: the policy's shape.
    op: the memory operation.
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    update_tokens: the most tokens written in a memory turn.
    answer_tokens: the most tokens written in the answer.
  """

  model: qwen3.Config
  op: recurrent.Recurrent
  chunk_tokens: int
  question_tokens: int
  update_tokens: int
  answer_tokens: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
  """B tasks as arrays.

  Attributes:
    question: rows of capacity question_tokens.
    chunks: ids [C, B, S] and length [C, B]; shorter contexts have trailing
      chunks of length 0, which are not read.
    id: int32 [B], the examples' ids.
    sample: int32 [B], which of its group's rollouts a row is.
  """

  question: token_lib.Tokens
  chunks: token_lib.Tokens
  id: jax.Array
  sample: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
  """One call to the model for each of B trajectories.

  Attributes:
    prompt: what the model read.
    response: what it wrote, with the log-probability of each token.
    result: what was parsed from the response: the new memory, or the answer
      without end token and reasoning.
    malformed: bool [B], the response broke the format.
    active: bool [B], the call took place.
  """

  prompt: token_lib.Tokens
  response: sampling.Response
  result: token_lib.Tokens
  malformed: jax.Array
  active: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episode:
  """B trajectories: memory turns stacked on a leading axis C; the answer."""

  turns: Segment
  answer: Segment


def check_questions(
  examples: Sequence[example_lib.Example],
  tokenizer: tokenizer_lib.Tokenizer,
  spec: Spec,
) -> list[list[int]]:
  """The questions' ids.

  Raises:
    ValueError: a question is longer than question_tokens, or empty.
  """
  questions = tokenizer.encode_batch([e.question for e in examples])
  for example, ids in zip(examples, questions):
    if not 1 <= len(ids) <= spec.question_tokens:
      raise ValueError(
        f"example {example.id}: the question {example.question[:60]!r} has "
        f"{len(ids)} tokens, expected 1 to {spec.question_tokens}: raise "
        "config.agent.question_tokens or shorten the question"
      )
  return questions


def make_task(
  examples: Sequence[example_lib.Example],
  tokenizer: tokenizer_lib.Tokenizer,
  spec: Spec,
  max_chunks: int | None = None,
  num_chunks: int | None = None,
) -> Task:
  """Tokenises examples and cuts their contexts into chunks (host, numpy).

  A context of n tokens has ceil(n / chunk_tokens) chunks, none if it is empty.
  With `max_chunks`, a longer context loses its middle: the first and the last
  half stay (MemAgent's training rule). With `num_chunks`, C is padded to it.

  Raises:
    ValueError: if a question is longer than question_tokens, or empty.
  """
  S = spec.chunk_tokens
  questions = check_questions(examples, tokenizer, spec)
  contexts = tokenizer.encode_batch([e.context for e in examples])
  if max_chunks is not None:
    limit = max_chunks * S
    contexts = [
      ids
      if len(ids) <= limit
      else ids[: limit - limit // 2] + ids[len(ids) - limit // 2 :]
      for ids in contexts
    ]
  needed = max([-(-len(ids) // S) for ids in contexts] + [num_chunks or 0])
  B = len(examples)
  ids_CBS = np.full((needed, B, S), tokenizer.pad_id, np.int32)
  length_CB = np.zeros((needed, B), np.int32)
  for b, ids in enumerate(contexts):
    for c in range(-(-len(ids) // S)):
      chunk = ids[c * S : (c + 1) * S]
      ids_CBS[c, b, : len(chunk)] = chunk
      length_CB[c, b] = len(chunk)
  return Task(
    token_lib.from_lists(questions, spec.question_tokens, tokenizer.pad_id),
    token_lib.Tokens(ids_CBS, length_CB),
    np.array([e.id for e in examples], np.int32),
    np.zeros((B,), np.int32),
  )


def repeat(task: Task, group_size: int) -> Task:
  """Each task `group_size` times in a row, samples numbered (host)."""
  B = len(task.id)
  twice = lambda x, axis: np.repeat(np.asarray(x), group_size, axis)
  return Task(
    jax.tree.map(lambda x: twice(x, 0), task.question),
    jax.tree.map(lambda x: twice(x, 1), task.chunks),
    twice(task.id, 0),
    np.tile(np.arange(group_size, dtype=np.int32), B),
  )


def chunk_at(task: Task, turn: int) -> token_lib.Tokens:
  """The chunk that a turn reads, one row for each task."""
  return jax.tree.map(lambda x: x[turn], task.chunks)


def row_keys(key: jax.Array, task: Task) -> jax.Array:
  """A key for each trajectory from (key, task id, sample) alone; [B]."""
  one = lambda i, sample: jax.random.fold_in(jax.random.fold_in(key, i), sample)
  return jax.vmap(one)(jnp.asarray(task.id), jnp.asarray(task.sample))


def _turn_keys(key_B: jax.Array, turn: jax.Array | int) -> jax.Array:
  return jax.vmap(lambda key: jax.random.fold_in(key, turn))(key_B)


def read_turn(
  params: qwen3.Params,
  spec: Spec,
  memory: token_lib.Tokens,
  question: token_lib.Tokens,
  chunk: token_lib.Tokens,
  turn: jax.Array | int,
  key_B: jax.Array,
  temperature: jax.Array | float,
) -> Segment:
  """Reads one chunk and overwrites the memory; rows without a chunk idle."""
  active = chunk.length > 0
  prompt = recurrent.build_update(spec.op, question, memory, chunk)
  response = sampling.decode(
    params,
    spec.model,
    prompt,
    _turn_keys(key_B, turn + 1),
    max_new_tokens=spec.update_tokens,
    stop_ids=spec.op.stop_ids,
    temperature=temperature,
    active_B=active,
  )
  new, malformed = recurrent.parse_update(spec.op, memory, response.tokens)
  memory = token_lib.select(active, new, memory)
  return Segment(prompt, response, memory, malformed & active, active)


def answer_turn(
  params: qwen3.Params,
  spec: Spec,
  memory: token_lib.Tokens,
  question: token_lib.Tokens,
  key_B: jax.Array,
  temperature: jax.Array | float,
) -> Segment:
  """Answers from question and memory alone."""
  prompt = recurrent.build_answer(spec.op, question, memory)
  response = sampling.decode(
    params,
    spec.model,
    prompt,
    _turn_keys(key_B, _ANSWER_TURN),
    max_new_tokens=spec.answer_tokens,
    stop_ids=spec.op.stop_ids,
    temperature=temperature,
  )
  body, malformed = recurrent.strip_response(spec.op, response.tokens)
  return Segment(prompt, response, body, malformed, jnp.ones_like(malformed))


def rollout(
  params: qwen3.Params,
  spec: Spec,
  task: Task,
  key: jax.Array,
  temperature: jax.Array | float,
) -> Episode:
  """Reads all chunks and answers: a scan of turns, with no host in it."""
  key_B = row_keys(key, task)
  memory = recurrent.init_memory(spec.op, len(task.id))

  def step(memory, xs):
    chunk, turn = xs
    segment = read_turn(
      params, spec, memory, task.question, chunk, turn, key_B, temperature
    )
    return segment.result, segment

  turns = jnp.arange(task.chunks.length.shape[0])
  memory, segments = jax.lax.scan(step, memory, (task.chunks, turns))
  answer = answer_turn(params, spec, memory, task.question, key_B, temperature)
  return Episode(segments, answer)


rollout_jit = jax.jit(rollout, static_argnames="spec")
read_turn_jit = jax.jit(read_turn, static_argnames="spec")
answer_turn_jit = jax.jit(answer_turn, static_argnames="spec")


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
    style: str = "memagent",
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
    task = make_task([example], self.tokenizer, self.spec)
    decode = lambda rows: self.tokenizer.decode(token_lib.to_lists(rows)[0])
    key_B = row_keys(self.key, task)
    memory, memories = recurrent.init_memory(self.spec.op, 1), []
    count = task.chunks.length.shape[0]
    for turn in range(count):
      segment = read_turn_jit(
        self.params,
        self.spec,
        memory,
        task.question,
        chunk_at(task, turn),
        turn,
        key_B,
        self.temperature,
      )
      memory = segment.result
      memories.append(decode(memory))
      if on_memory:
        on_memory(turn + 1, count, memories[-1])
    segment = answer_turn_jit(
      self.params, self.spec, memory, task.question, key_B, self.temperature
    )
    return decode(segment.result), memories
