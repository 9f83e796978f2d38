"""The update: gradients over micro-batches, one optimiser step per minibatch.

Rows are on the device once; the host chooses which of them a micro-batch
takes, by index, so that no shape depends on how many there are. What adds up
over micro-batches is numerators and denominators, so a minibatch gives the same
gradient however it is cut.

Dimension key: R rows, A response tokens, n rows of a micro-batch.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax import batching
from memjax import lora
from memjax import losses
from memjax import optimizer
from memjax import qwen3
from memjax import reductions
from memjax import reranker as reranker_lib
from memjax import rows as rows_lib
from memjax import sharding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
  """All that changes while training, and the key that everything is drawn from.

  Attributes:
    step: int32, finished iterations.
    params: float32 masters, whatever dtype the model computes in.
    opt_state: of the optimiser.
    key: typed random key; iteration i draws from fold_in(key, i).
    reranker: what a trained reranker adds, or None.
  """

  step: jax.Array
  params: qwen3.Params
  opt_state: Any
  key: jax.Array
  reranker: reranker_lib.State | None = None

  @property
  def trained(self) -> dict[str, Any]:
    """Parameters: "policy", and "reranker" where one is trained."""
    found = {"policy": self.params}
    if self.reranker is not None:
      found["reranker"] = self.reranker.params
    return found


@dataclasses.dataclass(frozen=True)
class Objective:
  """What is minimised; static under jit.

  Attributes:
    name: key of `losses.OBJECTIVES`.
    loss: its numbers.
    temperature: that rollouts are sampled at.
  """

  name: str = "multi_conv_dapo"
  loss: losses.LossConfig = losses.LossConfig()
  temperature: float = 1.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sums:
  """What micro-batches add up: gradients of the loss's numerator, and means.

  Attributes:
    grads: d loss.num / d params, float32.
    loss: the loss.
    metrics: of the objective, and logp_gap = |logp - old_logp| per token.
    gap_max: the largest logp_gap.
  """

  grads: qwen3.Params
  loss: reductions.Mean
  metrics: dict[str, reductions.Mean]
  gap_max: jax.Array


@functools.partial(jax.jit, static_argnames="with_ref")
def init_sums(params: qwen3.Params, with_ref: bool) -> Sums:
  """Nothing added yet; `with_ref` if rows have reference log-probabilities."""
  zero = lambda: reductions.Mean(jnp.zeros(()), jnp.zeros(()))
  names = ["ratio", "clip_frac", "entropy", "logp_gap"] + ["kl"] * with_ref
  return Sums(
    sharding.constrain_params(jax.tree.map(jnp.zeros_like, params)),
    zero(),
    {name: zero() for name in names},
    jnp.zeros(()),
  )


@functools.partial(
  jax.jit,
  static_argnames=("cfg", "objective", "pack", "width", "adapters"),
  donate_argnames="sums",
)
def accumulate(
  sums: Sums,
  params: qwen3.Params,
  rows: rows_lib.Rows,
  index_n: jax.Array,
  on_policy: jax.Array,
  *,
  cfg: qwen3.Config,
  objective: Objective,
  pack: int = 1,
  width: int | None = None,
  frozen: qwen3.Params | None = None,
  adapters: lora.Shape | None = None,
) -> Sums:
  """Adds one micro-batch.

  Args:
    sums: what was added before; its buffers are used again.
    params: to differentiate at.
    rows: R rows.
    index_n: the packs of rows to take; -1 takes none.
    on_policy: bool; the rows were sampled from `params`, so their old
      log-probabilities are the ones computed here and the ratio is exactly 1.
    cfg: the model.
    objective: what to minimise.
    pack: rows of a pack, which share the beginning of their prompts.
    width: no row that is taken is longer; None: not known.
    frozen: the model's parameters, where `params` are adapters of it.
    adapters: their shape.
  """
  part = rows_lib.take(rows, index_n, pack)

  def loss_fn(params):
    if adapters:
      params = lora.join(frozen, params, adapters)
    logp, entropy = rows_lib.logp_and_entropy(
      params, cfg, part, objective.temperature, width
    )
    old = jnp.where(on_policy, jax.lax.stop_gradient(logp), part.old_logp)
    loss, metrics = losses.OBJECTIVES[objective.name](
      logp,
      old,
      part.ref_logp,
      part.adv,
      part.mask,
      objective.loss,
      entropy,
    )
    gap = jnp.where(part.mask, jnp.abs(logp - part.old_logp), 0.0)
    metrics["logp_gap"] = reductions.token_mean(gap, part.mask)
    return loss.num, (loss, metrics, gap.max())

  grads, (loss, metrics, gap_max) = jax.grad(loss_fn, has_aux=True)(params)
  return Sums(
    sharding.constrain_params(jax.tree.map(jnp.add, sums.grads, grads)),
    sums.loss + loss,
    {name: sums.metrics[name] + metrics[name] for name in sums.metrics},
    jnp.maximum(sums.gap_max, gap_max),
  )


@functools.partial(
  jax.jit, static_argnames="tx", donate_argnames=("params", "opt_state")
)
def apply(
  params: qwen3.Params,
  opt_state: Any,
  sums: Sums,
  rate: jax.Array | float = 1.0,
  *,
  tx: optax.GradientTransformation,
) -> tuple[qwen3.Params, Any, dict[str, jax.Array]]:
  """One optimiser step; a gradient that is not finite changes nothing.

  That is known before the first parameter is written, so that nothing needs to
  be there in its old and its new value at once.

  Args:
    params: donated.
    opt_state: donated; what is in host memory is there afterwards, too.
    sums: of the minibatch.
    rate: times the updates of the optimiser.
    tx: the optimiser.

  Returns:
    (params, opt_state, metrics); metrics["finite"] is 0 where the update was
    left out, and where a finite gradient led to an update that is not finite,
    which spoils the parameters.
  """
  # den is 0 only if no row counted, and then the gradient is 0 as well.
  scale = 1.0 / jnp.maximum(sums.loss.den, 1e-9)
  grads = jax.tree.map(lambda g: g * scale, sums.grads)
  grad_norm = optax.tree.norm(grads)
  finite = jnp.isfinite(grad_norm) & jnp.isfinite(sums.loss.value())
  near = optimizer.to_device(opt_state)
  updates, new_state = tx.update(grads, near, params)
  updates = jax.tree.map(lambda x: x * rate, updates)
  keep = lambda new, old: jax.tree.map(
    lambda a, b: jnp.where(finite, a, b), new, old
  )
  metrics = {name: mean.value() for name, mean in sums.metrics.items()}
  metrics |= {
    "loss": sums.loss.value(),
    "grad_norm": grad_norm,
    "logp_gap_max": sums.gap_max,
    "finite": finite & jnp.isfinite(optax.tree.norm(updates)),
  }
  new_params = keep(optax.apply_updates(params, updates), params)
  new_params, new_state = sharding.constrain_params(
    (new_params, keep(new_state, near))
  )
  return new_params, optimizer.to_place_of(opt_state, new_state), metrics


@functools.partial(
  jax.jit,
  static_argnames=("cfg", "temperature", "pack", "width"),
  donate_argnames="logp_RA",
)
def score(
  logp_RA: jax.Array,
  params: qwen3.Params,
  rows: rows_lib.Rows,
  index_n: jax.Array,
  *,
  cfg: qwen3.Config,
  temperature: float,
  pack: int = 1,
  width: int | None = None,
) -> jax.Array:
  """Writes the log-probabilities of some packs under params into logp_RA."""
  part = rows_lib.take(rows, index_n, pack)
  logp, _ = rows_lib.logp_and_entropy(params, cfg, part, temperature, width)
  row = (index_n[:, None] * pack + jnp.arange(pack)[None, :]).reshape(-1)
  # An index beyond the last row writes nowhere.
  target = jnp.where(row < 0, logp_RA.shape[0], row)
  return sharding.replicate(logp_RA.at[target].set(logp, mode="drop"))


@functools.partial(jax.jit, static_argnames=("objective", "pack"))
def unmoved(
  rows: rows_lib.Rows, index_n: jax.Array, *, objective: Objective, pack: int
) -> reductions.Mean:
  """What packs without any advantage add to the loss: 0 of so many.

  Their gradient is 0 unless the loss has a KL or an entropy term, so the model
  need not read them.
  """
  part = rows_lib.take(rows, index_n, pack)
  nothing = jnp.zeros_like(part.old_logp)
  loss, _ = losses.OBJECTIVES[objective.name](
    nothing, nothing, None, part.adv, part.mask, objective.loss
  )
  return loss


def update(
  params: qwen3.Params,
  opt_state: Any,
  buckets: Sequence[tuple[rows_lib.Rows, np.ndarray]],
  ref_params: qwen3.Params | None,
  *,
  cfg: qwen3.Config,
  objective: Objective,
  tx: optax.GradientTransformation,
  minibatches: int,
  micro_batch: int,
  old_logp: str,
  rng: np.random.Generator,
  rate: float = 1.0,
  widths: int = 1,
  frozen: qwen3.Params | None = None,
  adapters: lora.Shape | None = None,
) -> tuple[qwen3.Params, Any, list[dict[str, jax.Array]]]:
  """Several optimiser steps on the rows of one iteration, shuffled.

  Args:
    params: donated; the rows were sampled from them.
    opt_state: donated.
    buckets: rows of one shape and the indices that count, for each shape.
    ref_params: of the KL reference, or None without KL.
    cfg: the model.
    objective: what to minimise.
    tx: the optimiser.
    minibatches: optimiser steps.
    micro_batch: rows per call; does not change the result. Rows that share the
      beginning of their prompts stay together, as far as this allows.
    old_logp: "trainer" computes the behaviour policy's log-probabilities with
      the trainer's own forward pass, "sampler" takes those of sampling.
    rng: shuffles the rows.
    rate: learning rate, times the updates of tx.
    widths: rows are cut to the least of so many widths that holds them, each a
      program of its own; does not change the result.
    frozen: the model's parameters, where `params` are adapters of it.
    adapters: their shape.

  Returns:
    (params, opt_state, metrics of each optimiser step, still on the device);
    a minibatch without rows makes no step. Without KL and entropy terms, rows
    of no advantage are not read: the same gradient, and metrics of the others,
    or none where there are no others. "padding" is the share of the tokens read
    that are none, "skipped" that of the packs that were not read.
  """
  all_rows = [rows for rows, _ in buckets]
  # Rows without advantage have no gradient, unless KL or entropy gives one.
  reads_all = bool(objective.loss.kl_coef or objective.loss.entropy_coef)
  plans = [
    batching.make(rows, micro_batch, widths, reads_all) for rows in all_rows
  ]
  parts = [
    batching.minibatches(rows, index, plan, minibatches, rng)
    for (rows, index), plan in zip(buckets, plans)
  ]

  def scored(rows, part, plan, params):
    logp, packs = jnp.zeros_like(rows.old_logp), np.concatenate(part)
    for piece, width in plan.pieces(packs[plan.live[packs]]):
      logp = score(
        logp,
        params,
        rows,
        piece,
        cfg=cfg,
        temperature=objective.temperature,
        pack=plan.pack,
        width=width,
      )
    return logp

  if ref_params is not None:
    all_rows = [
      dataclasses.replace(rows, ref_logp=scored(rows, part, plan, ref_params))
      for rows, part, plan in zip(all_rows, parts, plans)
    ]
  first_rows = all_rows
  if old_logp == "trainer" and minibatches > 1:
    policy = lora.join(frozen, params, adapters) if adapters else params
    # The first minibatch is on-policy and computes its own.
    all_rows = [
      dataclasses.replace(rows, old_logp=scored(rows, part[1:], plan, policy))
      for rows, part, plan in zip(all_rows, parts, plans)
    ]
  read = functools.partial(
    accumulate, cfg=cfg, objective=objective, frozen=frozen, adapters=adapters
  )
  history = []
  for step in range(minibatches):
    taken = [part[step] for part in parts]
    if not any(map(len, taken)):
      continue  # without a gradient, momentum alone must not move anything
    rows_now = all_rows if step else first_rows
    on_policy = step == 0 and old_logp == "trainer"
    sums, counted = _sum(params, rows_now, taken, plans, read, on_policy)
    params, opt_state, metrics = apply(params, opt_state, sums, rate, tx=tx)
    if "padding" not in counted:  # no row was read
      metrics = {x: metrics[x] for x in ("loss", "grad_norm", "finite")}
    del sums  # or they would lie beside those of the next minibatch
    history.append(metrics | counted)
  return params, opt_state, history


def _sum(
  params: qwen3.Params,
  all_rows: Sequence[rows_lib.Rows],
  taken: Sequence[np.ndarray],
  plans: Sequence[batching.Plan],
  read: functools.partial,
  on_policy: bool,
) -> tuple[Sums, dict[str, np.float32]]:
  """What the packs of a minibatch add up to, and how they were read.

  Args:
    params: to differentiate at.
    all_rows: of each shape.
    taken: packs, for each shape.
    plans: for each shape.
    read: `accumulate`, the model and the objective given.
    on_policy: as for `accumulate`.
  """
  objective = read.keywords["objective"]
  sums = init_sums(params, with_ref=all_rows[0].ref_logp is not None)
  tokens, places, skipped, count = 0, 0, 0, 0
  for rows, packs, plan in zip(all_rows, taken, plans):
    live = plan.live[packs]
    idle = packs[~live]
    for i in range(0, len(idle), plan.count):
      piece = batching.padded(idle[i : i + plan.count], plan.count)
      more = unmoved(rows, piece, objective=objective, pack=plan.pack)
      sums = dataclasses.replace(sums, loss=sums.loss + more)
    for piece, width in plan.pieces(packs[live]):
      sums = read(
        sums, params, rows, piece, on_policy, pack=plan.pack, width=width
      )
      tokens += plan.tokens[piece[piece >= 0]].sum()
      places += plan.places(width)
    skipped, count = skipped + len(idle), count + len(live)
  counted = {"skipped": np.float32(skipped / count)}
  if places:
    counted["padding"] = np.float32(1 - tokens / places)
  return sums, counted
