"""Training what reranks: REINFORCE on the memories that answers cited.

RMM's retrospective reflection (2503.08026, sec. 5): of the M memories that an
answer was shown those that it cites have reward +1, the others -1, and the map
of the embeddings (`memory.rerank`) follows the gradient of `rerank.objective`.
As the paper's ablation the encoder's own parameters do instead.

Dimension key: N questions, K fetched, M shown, n questions of a micro-batch.
"""

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors.numpy

from memjax import agents
from memjax import qwen3
from memjax import retriever as retriever_lib
from memjax import sharding
from memjax.memory import rerank


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choices:
  """What was chosen for N questions, and what it was worth.

  Attributes:
    choice: candidates and draw.
    reward: float32 [N, M], +1 cited, -1 not, 0 where nothing was shown.
    weight: bool [N]; a malformed answer says nothing of what it used.
  """

  choice: retriever_lib.Choice
  reward: jax.Array
  weight: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
  """The trained part.

  Attributes:
    params: of the map, or of the encoder.
    opt_state: of its optimiser.
  """

  params: Any
  opt_state: Any


@dataclasses.dataclass(frozen=True)
class Trainer:
  """How it is trained; hashable, static under jit.

  Attributes:
    retriever: of the agent.
    tunes: "map", or "encoder".
    reading: of a set's probability, one of rerank.READINGS.
    baseline: b, or None for the mean reward of what an iteration showed.
    micro_batch: n.
    tx: the optimiser.
  """

  retriever: retriever_lib.Retriever
  tunes: str
  reading: str
  baseline: float | None
  micro_batch: int
  tx: optax.GradientTransformation

  def params(self, policies: agents.Policies) -> Any:
    """Of the policies those that are trained."""
    return policies.reranker if self.tunes == "map" else policies.embedder

  def abstract_params(self) -> Any:
    """Their shapes and dtypes; allocates nothing."""
    if self.tunes == "map":
      return jax.eval_shape(lambda: rerank.init(self.retriever.width))
    embedder = self.retriever.embedder
    return jax.eval_shape(lambda: qwen3.init(jax.random.key(0), embedder))

  def policies(self, policies: agents.Policies, params: Any) -> agents.Policies:
    """The policies with the trained part in its place."""
    if self.tunes == "map":
      return dataclasses.replace(policies, reranker=params)
    return dataclasses.replace(policies, embedder=params)

  def scores(
    self, policies: agents.Policies, choice: retriever_lib.Choice
  ) -> jax.Array:
    """Scores [n, K] of the candidates, differentiable in what is trained."""
    query, memory = choice.draw.query, choice.draw.memory
    if self.tunes == "encoder":
      query = self.retriever.embed(policies, choice.question)
      memory = self.retriever.embed(policies, choice.entries)
    return rerank.scores(policies.reranker, query, memory)


FILE = "reranker.safetensors"


def save(folder: str | os.PathLike, params: rerank.Params) -> None:
  """Writes a trained map into a folder."""
  arrays = {name: np.asarray(x) for name, x in params.items()}
  safetensors.numpy.save_file(arrays, pathlib.Path(folder) / FILE)


def load(folder: str | os.PathLike, width: int) -> rerank.Params:
  """Reads a trained map of embeddings of a width.

  Raises:
    ValueError: there is none, or it is of another width.
  """
  path = pathlib.Path(folder) / FILE
  if not path.exists():
    raise ValueError(
      f"config.reranker.path={folder}: no {FILE} there; export a trained one "
      "with --mode=export"
    )
  params = safetensors.numpy.load_file(path)
  for name, x in rerank.init(width).items():
    if name not in params or params[name].shape != x.shape:
      raise ValueError(
        f"config.reranker.path={folder}: no map of embeddings of width "
        f"{width}: name the one that was trained with config.agent.embedder"
      )
  return {name: jnp.asarray(x) for name, x in params.items()}


def choices(
  answer: agents.Segment,
  shape: tuple[int, int, int],
  shuffle: np.random.Generator | None = None,
) -> Choices:
  """What a wave's answers say about what they were shown (host).

  Args:
    answer: of N = W * G * q questions.
    shape: (W contexts, G rollouts of each, q questions of each).
    shuffle: gives each rollout the rewards of another one of its group, in
      another order: a control. Nobody keeps his own, as Adam learns from an
      eighth of a signal too; rollouts of a question are shown much the same.
  """
  picked = answer.choice.draw.picked
  reward = np.asarray(rerank.rewards(answer.used, picked))
  weight = ~np.asarray(answer.malformed)
  if shuffle is not None:
    row = np.arange(reward.shape[0]).reshape(shape)
    contexts, rollouts, questions = shape
    shift = shuffle.integers(1, rollouts, (contexts, 1, questions))
    other = (np.arange(rollouts)[:, None] + shift) % rollouts
    row = np.take_along_axis(row, other, axis=1).reshape(-1)
    reward, weight = reward[row], weight[row]
    there = np.asarray(picked)[row] >= 0
    order = np.argsort(shuffle.random(reward.shape) + ~there, axis=1)
    reward = np.take_along_axis(reward, order, axis=1)
  return Choices(answer.choice, reward, weight)


def _mean_reward(waves: Sequence[Choices]) -> float:
  """Of all that was shown in answers that count (host)."""
  total, shown = 0.0, 0
  for found in waves:
    counts = np.asarray(found.choice.draw.picked) >= 0
    counts &= np.asarray(found.weight)[:, None]
    total += float(np.asarray(found.reward)[counts].sum())
    shown += int(counts.sum())
  return total / max(shown, 1)


@functools.partial(jax.jit, static_argnames="trainer")
def _gradients(
  params: Any,
  policies: agents.Policies,
  found: Choices,
  baseline: jax.Array | float,
  *,
  trainer: Trainer,
) -> tuple[Any, dict[str, jax.Array]]:
  """(sum of gradients, sums for metrics) over N questions, n at a time."""
  N, n = found.weight.shape[0], trainer.micro_batch
  rows = -(-N // n) * n
  padded = jax.tree.map(
    lambda x: jnp.pad(x, ((0, rows - N), *((0, 0),) * (x.ndim - 1))), found
  )
  parts = jax.tree.map(lambda x: x.reshape(rows // n, n, *x.shape[1:]), padded)

  def value(params, part):
    score = trainer.scores(trainer.policies(policies, params), part.choice)
    gain = rerank.objective(
      score,
      part.choice.draw,
      part.reward,
      trainer.retriever.tau,
      baseline,
      trainer.reading,
    )
    return jnp.where(part.weight, gain, 0.0).sum()

  def add(total, part):
    gain, grads = jax.value_and_grad(value)(params, part)
    shown = (part.choice.draw.picked >= 0) & part.weight[:, None]
    sums = {
      "objective": gain,
      "questions": part.weight.sum(),
      "shown": shown.sum(),
      "cited": (shown & (part.reward > 0)).sum(),
    }
    return jax.tree.map(jnp.add, total, (grads, sums)), None

  zeros = {"objective": jnp.zeros(())} | {
    name: jnp.zeros((), jnp.int32) for name in ("questions", "shown", "cited")
  }
  start = (jax.tree.map(jnp.zeros_like, params), zeros)
  return jax.lax.scan(add, start, parts)[0]


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def _apply(
  state: State, grads: Any, count: jax.Array, *, trainer: Trainer
) -> tuple[State, jax.Array, jax.Array]:
  """(state, gradient's norm, finite); what is not finite changes nothing.

  Nor does an iteration in which no answer counts: momentum alone must not.
  """
  # Optimisers descend.
  mean = jax.tree.map(lambda g: -g / jnp.maximum(count, 1), grads)
  updates, opt_state = trainer.tx.update(mean, state.opt_state, state.params)
  new = State(optax.apply_updates(state.params, updates), opt_state)
  norm = optax.tree.norm(mean)
  finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
  moves = finite & (count > 0)
  kept = jax.tree.map(lambda a, b: jnp.where(moves, a, b), new, state)
  return sharding.constrain_params(kept), norm, finite


def update(
  state: State,
  policies: agents.Policies,
  waves: Sequence[Choices],
  trainer: Trainer,
) -> tuple[State, dict[str, jax.Array]]:
  """One step on the choices of an iteration.

  Args:
    state: donated.
    policies: the parameters that are not trained here.
    waves: of an iteration.
    trainer: how.

  Returns:
    (state, metrics: cited share of what was shown, objective, gradient norm,
    finite), still on the device.
  """
  baseline, total = trainer.baseline, None
  if baseline is None:
    baseline = _mean_reward(waves)
  for found in waves:
    part = _gradients(state.params, policies, found, baseline, trainer=trainer)
    total = part if total is None else jax.tree.map(jnp.add, total, part)
  grads, sums = total
  state, norm, finite = _apply(state, grads, sums["questions"], trainer=trainer)
  return state, {
    "objective": sums["objective"] / jnp.maximum(sums["questions"], 1),
    "cited": sums["cited"] / jnp.maximum(sums["shown"], 1),
    "grad_norm": norm,
    "finite": finite,
  }
