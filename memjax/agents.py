"""What all agents share: tasks, turns, rollouts.

An agent is a frozen `spec` with these methods, all of them pure and jittable:

    init(task)                                        -> state
    read(policies, state, turn, key_B, temperature)   -> state, segments
    answer(policies, state, query, key_N, temperature) -> segment

One turn is the unit. Training scans it over the chunks of a task inside one
compiled program; evaluation and reading feed the same turn chunk by chunk from
the host, so that no length needs a new compile.

Dimension key: B trajectories, N questions (N = B times questions per context),
C chunks, S chunk tokens, A response tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from memjax import qwen3
from memjax import sampling
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib

# The answer's place in the key of a turn; chunks count from 1, so the answer
# draws the same numbers whatever number of chunks a batch is padded to.
_ANSWER_TURN = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policies:
  """Whose parameters the operations of an agent use.

  Attributes:
    policy: of the operations that are trained.
    frozen: of the others; None where all are trained.
    embedder: of an embedding retriever, or None.
  """

  policy: qwen3.Params
  frozen: qwen3.Params | None = None
  embedder: qwen3.Params | None = None

  def of(self, op: str, trained: Sequence[str]) -> qwen3.Params:
    """The parameters of an operation."""
    if op in trained or self.frozen is None:
      return self.policy
    return self.frozen


class Spec(Protocol):
  """All that is static about an agent; hashable.

  Attributes:
    model: the policy's shape.
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    questions: asked about each context.
    stamp_tokens: the most tokens of a session's stamp; 0: stamps are not used.
    turn_ops: names of the model calls of a turn, in order.
    trained: names of the operations that are trained, of turn_ops and "answer".
    shares_state: the state does not depend on the question, so one reading of
      a context serves all its questions.
    holds_entries: the state can hold entries beforehand; an agent whose state
      cannot reads them first.
  """

  model: qwen3.Config
  chunk_tokens: int
  question_tokens: int
  questions: int
  stamp_tokens: int
  turn_ops: tuple[str, ...]
  trained: tuple[str, ...]
  shares_state: bool
  holds_entries: bool

  def init(self, task: "Task") -> Any:
    """The state before the first chunk."""

  def read(
    self,
    policies: Policies,
    state: Any,
    turn: "Turn",
    key_B: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[Any, "dict[str, Segment]"]:
    """Reads one chunk; rows without one idle."""

  def answer(
    self,
    policies: Policies,
    state: Any,
    query: "Query",
    key_N: jax.Array,
    temperature: jax.Array | float,
  ) -> "Segment":
    """Answers one question from each state."""

  def limit(self, op: str) -> int:
    """The most tokens of a response."""

  def given(self, texts: Sequence[Sequence[Sequence[int]]]) -> Any:
    """The states that hold these texts (host)."""

  def shown(self, state: Any, row: int) -> list[list[int]]:
    """The texts that a row's state holds (host)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Query:
  """N questions.

  Attributes:
    question: rows [N] of capacity question_tokens.
    speakers: names of the conversation's speakers, ids [N, P, T] and length
      [N, P]; P is 0 where there are none.
  """

  question: token_lib.Tokens
  speakers: token_lib.Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
  """B contexts as arrays, with N questions about them in order.

  Attributes:
    query: the N questions.
    chunks: ids [C, B, S] and length [C, B]; shorter contexts have trailing
      chunks of length 0, which are not read.
    stamps: ids [C, B, D] and length [C, B], of each chunk's session.
    session: int32 [C, B], the number of each chunk's session.
    prior: ids [B, P, M] and length [B, P], entries held beforehand.
    id: int32 [N], the examples' ids.
    sample: int32 [N], which of its group's rollouts a row is.
  """

  query: Query
  chunks: token_lib.Tokens
  stamps: token_lib.Tokens
  session: jax.Array
  prior: token_lib.Tokens
  id: jax.Array
  sample: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turn:
  """What an agent is given to read at once.

  Attributes:
    question: of each row; agents whose memory must serve any question do not
      look at it.
    chunk: rows of capacity S.
    stamp: of the chunk's session.
    session: int32 [B], its number.
    number: int32, the chunk's.
  """

  question: token_lib.Tokens
  chunk: token_lib.Tokens
  stamp: token_lib.Tokens
  session: jax.Array
  number: jax.Array | int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Segment:
  """One call to the model for each of B trajectories.

  Attributes:
    prompt: what the model read.
    response: what it wrote, with the log-probability of each token.
    result: what the response came to: of a recurrent memory the memory after
      the turn, of an answer the answer alone, of others the text without end
      token and reasoning.
    malformed: bool [B], the response broke the format.
    active: bool [B], the call took place.
    counts: int or bool [B] by name, for metrics.
    listed: int32 [B, K], ids of the entries that an answer was shown, -1 behind
      the last; None of agents without entries.
    used: bool [B, K], those that it says it used.
  """

  prompt: token_lib.Tokens
  response: sampling.Response
  result: token_lib.Tokens
  malformed: jax.Array
  active: jax.Array
  counts: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
  listed: jax.Array | None = None
  used: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episode:
  """B trajectories.

  Attributes:
    turns: segments by operation, stacked on a leading axis C.
    states: the state after each turn, stacked likewise.
    answer: one segment [N].
  """

  turns: dict[str, Segment]
  states: Any
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


def contexts(
  examples: Sequence[example_lib.Example], questions: int
) -> list[example_lib.Example]:
  """The first example of each context, `questions` of them to each.

  Raises:
    ValueError: neighbours do not share their context.
  """
  first = list(examples[::questions])
  for i, example in enumerate(examples):
    if example.context != first[i // questions].context:
      raise ValueError(
        f"examples {first[i // questions].id} and {example.id} differ in their "
        f"context, but {questions} questions are asked about each: set "
        "config.agent.questions=1, or the environment's number to the same"
      )
  return first


def make_task(
  examples: Sequence[example_lib.Example],
  tokenizer: tokenizer_lib.Tokenizer,
  spec: Spec,
  max_chunks: int | None = None,
  num_chunks: int | None = None,
) -> Task:
  """Tokenises examples and cuts their contexts into chunks (host, numpy).

  A part of n tokens has ceil(n / chunk_tokens) chunks, none if it is empty; a
  stamp stands at the head of its part. With `max_chunks`, a longer context
  loses its middle: the first and the last half stay (MemAgent's training rule;
  of a context of several parts, whole chunks go). With `num_chunks`, C is
  padded to it.

  Raises:
    ValueError: a question is longer than question_tokens, or empty; a stamp or
      a prior entry does not fit; questions of one context differ in it.
  """
  S, B = spec.chunk_tokens, len(examples) // spec.questions
  firsts = contexts(examples, spec.questions)
  questions = check_questions(examples, tokenizer, spec)
  if not spec.holds_entries:
    firsts = [_read_first(example) for example in firsts]
  cut = [_chunks(e, tokenizer, S, max_chunks) for e in firsts]
  C = max([len(x) for x in cut] + [num_chunks or 0])
  ids_CBS = np.full((C, B, S), tokenizer.pad_id, np.int32)
  length_CB = np.zeros((C, B), np.int32)
  session_CB = np.zeros((C, B), np.int32)
  for b, chunks in enumerate(cut):
    for c, (session, chunk) in enumerate(chunks):
      ids_CBS[c, b, : len(chunk)] = chunk
      length_CB[c, b] = len(chunk)
      session_CB[c, b] = session
  speakers = [example.meta.get("speakers", ()) for example in examples]
  return Task(
    Query(
      token_lib.from_lists(questions, spec.question_tokens, tokenizer.pad_id),
      _nested(speakers, tokenizer),
    ),
    token_lib.Tokens(ids_CBS, length_CB),
    _stamps(firsts, tokenizer, session_CB, spec.stamp_tokens),
    session_CB,
    _nested([example.bank for example in firsts], tokenizer),
    np.array([e.id for e in examples], np.int32),
    np.zeros((len(examples),), np.int32),
  )


def _read_first(example: example_lib.Example) -> example_lib.Example:
  """The entries held beforehand as the first part of what is read."""
  if not example.bank:
    return example
  return dataclasses.replace(
    example,
    context=("\n".join(example.bank), *example.parts),
    stamps=("", *example.stamps) if example.stamps else (),
    bank=(),
  )


def _chunks(
  example, tokenizer, size, max_chunks
) -> list[tuple[int, list[int]]]:
  """(session, ids) of each chunk."""
  stamps = example.stamps or ("",) * len(example.parts)
  parts = tokenizer.encode_batch(
    [f"{a}\n{b}" if a else b for a, b in zip(stamps, example.parts)]
  )
  limit = (max_chunks or 0) * size
  if limit and len(parts) == 1 and len(parts[0]) > limit:
    ids = parts[0]
    parts = [ids[: limit - limit // 2] + ids[len(ids) - limit // 2 :]]
  chunks = [
    (session, ids[i : i + size])
    for session, ids in enumerate(parts)
    for i in range(0, len(ids), size)
  ]
  if max_chunks and len(chunks) > max_chunks:
    last = max_chunks // 2
    chunks = chunks[: max_chunks - last] + chunks[len(chunks) - last :]
  return chunks


def _stamps(firsts, tokenizer, session_CB, capacity) -> token_lib.Tokens:
  C, B = session_CB.shape
  ids = np.zeros((C, B, capacity), np.int32)
  length = np.zeros((C, B), np.int32)
  if capacity:
    for b, example in enumerate(firsts):
      rows = tokenizer.encode_batch(list(example.stamps))
      for c in range(C):
        if not rows:
          continue
        row = rows[session_CB[c, b]]
        if len(row) > capacity:
          raise ValueError(
            f"example {example.id}: the stamp "
            f"{example.stamps[session_CB[c, b]]!r} has {len(row)} tokens, "
            f"expected at most {capacity}: raise config.agent.stamp_tokens"
          )
        ids[c, b, : len(row)] = row
        length[c, b] = len(row)
  return token_lib.Tokens(ids, length)


def _nested(
  texts: Sequence[Sequence[str]], tokenizer: tokenizer_lib.Tokenizer
) -> token_lib.Tokens:
  """Several texts a row; capacities are those of the longest."""
  rows = [tokenizer.encode_batch(list(x)) for x in texts]
  return token_lib.from_nested(rows)


def repeat(task: Task, group_size: int, questions: int = 1) -> Task:
  """Each context `group_size` times in a row, samples numbered (host)."""
  twice = lambda x, axis: np.repeat(np.asarray(x), group_size, axis)
  N = len(task.id)

  def grouped(x):
    """Questions stay together: [B, q, ...] -> [B, G, q, ...]."""
    x = np.asarray(x).reshape(N // questions, questions, *x.shape[1:])
    return twice(x, 0).reshape(N * group_size, *x.shape[2:])

  sample = np.arange(group_size, dtype=np.int32).repeat(questions)
  return Task(
    jax.tree.map(grouped, task.query),
    *(
      jax.tree.map(lambda x: twice(x, 1), part)
      for part in (task.chunks, task.stamps, task.session)
    ),
    jax.tree.map(lambda x: twice(x, 0), task.prior),
    grouped(task.id),
    np.tile(sample, N // questions),
  )


def turn_at(task: Task, number: jax.Array | int, questions: int = 1) -> Turn:
  """What is read in a turn, one row for each context."""
  return Turn(
    jax.tree.map(lambda x: x[::questions], task.query.question),
    *(
      jax.tree.map(lambda x: x[number], part)
      for part in (task.chunks, task.stamps, task.session)
    ),
    number,
  )


def row_keys(key: jax.Array, task: Task) -> jax.Array:
  """A key for each question from (key, task id, sample) alone; [N]."""
  one = lambda i, sample: jax.random.fold_in(jax.random.fold_in(key, i), sample)
  return jax.vmap(one)(jnp.asarray(task.id), jnp.asarray(task.sample))


def turn_keys(
  key_B: jax.Array, turn: jax.Array | int, call: int = 0
) -> jax.Array:
  """Keys for a model call of a turn; the calls of one turn are numbered."""
  number = lambda key: jax.random.fold_in(key, turn + 1)
  keys = jax.vmap(number)(key_B)
  if call:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, call))(keys)
  return keys


def answer_keys(key_N: jax.Array) -> jax.Array:
  """Keys for the answers."""
  return turn_keys(key_N, _ANSWER_TURN - 1)


def rollout(
  policies: Policies,
  spec: Spec,
  task: Task,
  key: jax.Array,
  temperature: jax.Array | float,
) -> Episode:
  """Reads all chunks and answers: a scan of turns, with no host in it."""
  q = spec.questions
  key_N = row_keys(key, task)
  key_B = key_N[::q]

  def step(state, number):
    turn = turn_at(task, number, q)
    state, segments = spec.read(policies, state, turn, key_B, temperature)
    return state, (state, segments)

  turns = jnp.arange(task.chunks.length.shape[0])
  task = jax.tree.map(jnp.asarray, task)
  state, (states, segments) = jax.lax.scan(step, spec.init(task), turns)
  asked = jax.tree.map(lambda x: jnp.repeat(x, q, axis=0), state)
  answer = spec.answer(policies, asked, task.query, key_N, temperature)
  return Episode(segments, states, answer)


def _read(policies, spec, state, turn, key_B, temperature):
  return spec.read(policies, state, turn, key_B, temperature)


def _answer(policies, spec, state, query, key_N, temperature):
  return spec.answer(policies, state, query, key_N, temperature)


rollout_jit = jax.jit(rollout, static_argnames="spec")
read_jit = jax.jit(_read, static_argnames="spec")
answer_jit = jax.jit(_answer, static_argnames="spec")
