"""What all agents share: policies, model calls, rollouts.

An agent is a frozen dataclass with these methods, all pure and jittable:

    init(policies, task)                              -> state
    read(policies, state, turn, key_B, temperature)   -> state, segments
    answer(policies, state, query, key_N, temperature) -> segments

One turn is the unit. Training scans it over the chunks of a task inside one
compiled program; evaluation and reading feed the same turn chunk by chunk from
the host, so that no length needs a new compile.

Dimension key: B trajectories, N questions (N = B times questions per context),
C chunks, A response tokens, K entries.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from memjax import qwen3
from memjax import sampling
from memjax import sharding
from memjax import tasks
from memjax import tokens as token_lib
from memjax.memory import rerank
from memjax.memory import responses

# The answer's place in the key of a turn; chunks count from 1, so the answer
# draws the same numbers whatever number of chunks a batch is padded to.
_ANSWER_TURN = 0

# What of its prompts a group may read alike.
BEGINNINGS = "beginnings"
FIRST_TURN = "first turn"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Policies:
  """Whose parameters the operations of an agent use.

  Of unrolled layers each has arrays of its own (`qwen3.unstacked`).

  Attributes:
    policy: of the operations that are trained.
    frozen: of the others; None where all are trained.
    embedder: of an embedding retriever, or None.
    reranker: of a trained reranker (`memory.rerank`), or None.
  """

  policy: qwen3.Params
  frozen: qwen3.Params | None = None
  embedder: qwen3.Params | None = None
  reranker: rerank.Params | None = None

  def of(self, op: str, trained: Sequence[str]) -> qwen3.Params:
    """The parameters of an operation."""
    if op in trained or self.frozen is None:
      return self.policy
    return self.frozen


class Agent(tasks.Shape, Protocol):
  """All that is static about an agent; hashable.

  Attributes:
    model: the policy's shape, as it samples.
    turn_ops: names of the model calls of a turn, in order.
    answer_ops: of a question; the last is "answer".
    one_by_one: names of those that are called several times in a turn, each for
      all trajectories; the calls of others are made together.
    trained: names of those that are trained.
    group: rows next to each other that read the same chunks; they may share
      the beginning of a prompt.
    alike: what of its prompts a group reads alike: their BEGINNINGS in every
      turn, all of the FIRST TURN, or None.
    shares_state: the state does not depend on the question, so one reading of
      a context serves all its questions.
    budget: tokens that the state can hold, and those that an answer is shown.
    stop_ids: ids that end a response.
    think_ids: (opening, closing) id of a reasoning block, or None.

  An agent whose groups read their FIRST TURN alike has a field `first`, which
  `rollout` sets for that turn. `questions` is a field, as evaluation asks one
  question of each state. An
  agent whose segments have `listed` also has `held`, a row's entries by id.
  """

  model: qwen3.Config
  turn_ops: tuple[str, ...]
  answer_ops: tuple[str, ...]
  one_by_one: tuple[str, ...]
  trained: tuple[str, ...]
  group: int
  alike: str | None
  shares_state: bool
  budget: tuple[int, int]
  stop_ids: tuple[int, ...]
  think_ids: tuple[int, int] | None

  def init(self, policies: Policies, task: tasks.Task) -> Any:
    """The state before the first chunk."""

  def read(
    self,
    policies: Policies,
    state: Any,
    turn: tasks.Turn,
    key_B: jax.Array,
    temperature: jax.Array | float,
  ) -> tuple[Any, "dict[str, Segment]"]:
    """Reads one chunk; rows without one idle.

    A segment has a row for each of the B trajectories, or, where an operation
    is called n times in a turn, n times B rows, call by call.
    """

  def answer(
    self,
    policies: Policies,
    state: Any,
    query: tasks.Query,
    key_N: jax.Array,
    temperature: jax.Array | float,
  ) -> "dict[str, Segment]":
    """Answers one question from each state; segments by operation."""

  def limit(self, op: str) -> int:
    """The most tokens of a response."""

  def given(
    self, policies: Policies, texts: Sequence[Sequence[Sequence[int]]]
  ) -> Any:
    """The states that hold these texts (host)."""

  def shown(self, state: Any, row: int) -> list[list[int]]:
    """The texts that a row's state holds (host)."""


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
    choice: what a trained retriever chose these from (`retriever.Choice`).
  """

  prompt: token_lib.Tokens | token_lib.Grouped
  response: sampling.Response
  result: token_lib.Tokens
  malformed: jax.Array
  active: jax.Array
  counts: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
  listed: jax.Array | None = None
  used: jax.Array | None = None
  choice: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Episode:
  """B trajectories.

  Attributes:
    turns: segments by operation, stacked on a leading axis C.
    states: the state after each turn, stacked likewise.
    asked: segments [N] by operation, "answer" and what comes before it.
  """

  turns: dict[str, Segment]
  states: Any
  asked: dict[str, Segment]

  @property
  def answer(self) -> Segment:
    """The answers."""
    return self.asked["answer"]


def frozen_ops(agent: Agent) -> set[str]:
  """Names of the model calls that are not trained."""
  return {*agent.turn_ops, *agent.answer_ops} - {*agent.trained}


def first_is_shared(agent: Agent) -> bool:
  """Whether groups read the prompts of their first turn once."""
  return agent.group > 1 and agent.alike == FIRST_TURN


def row_keys(key: jax.Array, task: tasks.Task) -> jax.Array:
  """A key for each question from (key, task id, sample) alone; [N]."""
  one = lambda i, sample: jax.random.fold_in(jax.random.fold_in(key, i), sample)
  return jax.vmap(one)(jnp.asarray(task.id), jnp.asarray(task.sample))


def turn_keys(
  key_B: jax.Array, turn: jax.Array | int, call: jax.Array | int = 0
) -> jax.Array:
  """Keys for a model call of a turn; the calls of one turn are numbered."""
  number = lambda key: jax.random.fold_in(key, turn + 1)
  keys = jax.vmap(number)(key_B)
  if not isinstance(call, int) or call:
    keys = jax.vmap(lambda key: jax.random.fold_in(key, call))(keys)
  return keys


def answer_keys(key_N: jax.Array, call: int = 0) -> jax.Array:
  """Keys for the answers, and for other calls that a question takes."""
  return turn_keys(key_N, _ANSWER_TURN - 1, call)


def call(
  agent: Agent,
  policies: Policies,
  op: str,
  prompt: token_lib.Tokens | token_lib.Grouped,
  key_B: jax.Array,
  temperature: jax.Array | float,
  active_B: jax.Array | None = None,
) -> tuple[sampling.Response, token_lib.Tokens, jax.Array]:
  """One call to the model for each row.

  Args:
    agent: whose operation it is.
    policies: the parameters.
    op: name of the operation.
    prompt: rows of at least one token.
    key_B: a key for each row.
    temperature: 0 takes the most likely tokens.
    active_B: rows that write at all. Default: all.

  Returns:
    (response, its text without end token and reasoning, bool [B] where the
    reasoning was left open; what stands in it is no text).
  """
  response = sampling.decode(
    policies.of(op, agent.trained),
    agent.model,
    prompt,
    key_B,
    max_new_tokens=agent.limit(op),
    stop_ids=agent.stop_ids,
    temperature=temperature,
    active_B=active_B,
  )
  body, left_open = responses.strip(
    response.tokens, agent.stop_ids, agent.think_ids
  )
  length = jnp.where(left_open, 0, body.length)
  return response, token_lib.Tokens(body.ids, length), left_open


def rollout(
  policies: Policies,
  agent: Agent,
  task: tasks.Task,
  key: jax.Array,
  temperature: jax.Array | float,
) -> Episode:
  """Reads all chunks and answers: a scan of turns, with no host in it.

  Where groups read their first prompts once, the first turn stands in front of
  the scan.
  """
  q = agent.questions
  key_N = row_keys(key, task)
  key_B = key_N[::q]

  def step(agent, state, number):
    turn = tasks.turn_at(task, number, q)
    state, segments = agent.read(policies, state, turn, key_B, temperature)
    return state, (state, segments)

  turns = jnp.arange(task.chunks.length.shape[0])
  task = jax.tree.map(jnp.asarray, task)
  state, before = agent.init(policies, task), []
  if first_is_shared(agent):
    reader = dataclasses.replace(agent, first=True)
    state, first = step(reader, state, turns[0])
    before, turns = [jax.tree.map(lambda x: x[None], first)], turns[1:]
  state, later = jax.lax.scan(functools.partial(step, agent), state, turns)
  states, segments = jax.tree.map(lambda *x: jnp.concatenate(x), *before, later)
  asked = jax.tree.map(lambda x: jnp.repeat(x, q, axis=0), state)
  answers = agent.answer(policies, asked, task.query, key_N, temperature)
  return sharding.replicate(Episode(segments, states, answers))


def rollout_by_turns(
  policies: Policies,
  agent: Agent,
  task: tasks.Task,
  key: jax.Array,
  temperature: jax.Array | float,
) -> Episode:
  """`rollout` with Python's loop, to look at or to debug; arrays of the host.

  Only a turn is compiled, and `read_jit` is the same for any number of chunks.
  The first turn is read as the others are.
  """
  q = agent.questions
  key_N = row_keys(key, task)
  state, turns = agent.init(policies, task), []
  for number in range(task.chunks.length.shape[0]):
    turn = tasks.turn_at(task, number, q)
    state, segments = read_jit(
      policies, agent, state, turn, key_N[::q], temperature
    )
    turns.append((segments, state))
  asked = jax.tree.map(lambda x: jnp.repeat(x, q, axis=0), state)
  answers = answer_jit(policies, agent, asked, task.query, key_N, temperature)
  segments, states = jax.tree.map(
    lambda *x: np.stack(x), *jax.device_get(turns)
  )
  return Episode(segments, states, jax.device_get(answers))


def _read(policies, agent, state, turn, key_B, temperature):
  found = agent.read(policies, state, turn, key_B, temperature)
  return sharding.replicate(found)


def _answer(policies, agent, state, query, key_N, temperature):
  found = agent.answer(policies, state, query, key_N, temperature)
  return sharding.replicate(found)


rollout_jit = jax.jit(rollout, static_argnames="agent")
read_jit = jax.jit(_read, static_argnames="agent")
answer_jit = jax.jit(_answer, static_argnames="agent")
