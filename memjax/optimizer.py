"""Optimisers, by name, and where their state is kept.

What each holds beside a float32 parameter, in bytes: adamw 8, with bfloat16
moments 4, with int8 moments 2.03; muon 4 of the layers' matrices, 8 of the
rest; adafactor next to nothing. experiments/07_memory compares them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from memjax import quantized_adam

MOMENTS = ("float32", "bfloat16", "int8")
_HOST = "pinned_host"


def make(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """The optimiser of config.train, gradient clipping included.

  At a learning rate of 1: `learner.apply` takes the iteration's. It could not
  be counted here, as a minibatch without rows makes no update.

  Raises:
    ValueError: a name that is not known, or moments that it does not have.
  """
  for key, valid in (("optimizer", OPTIMIZERS), ("moments", MOMENTS)):
    if train[key] not in valid:
      raise ValueError(
        f"config.train.{key}={train[key]!r}: choose one of {', '.join(valid)}"
      )
  if train.moments != "float32" and train.optimizer != "adamw":
    raise ValueError(
      f"config.train.moments={train.moments!r} is for "
      f"config.train.optimizer='adamw'; with {train.optimizer!r} leave it at "
      "'float32'"
    )
  return optax.chain(
    optax.clip_by_global_norm(train.grad_clip),
    OPTIMIZERS[train.optimizer](train),
  )


def make_schedule(
  name: str, peak: float, steps: int, warmup_steps: int
) -> optax.Schedule:
  """Learning rate by iteration: constant, linear or cosine, after a warm-up.

  Raises:
    ValueError: for another name, or a warm-up longer than the run.
  """
  if not 0 <= warmup_steps < max(steps, 1):
    raise ValueError(
      f"config.train.warmup_steps={warmup_steps} must be at least 0 and less "
      f"than config.train.steps={steps}"
    )
  rest = steps - warmup_steps
  after = {
    "constant": lambda: optax.constant_schedule(peak),
    "linear": lambda: optax.linear_schedule(peak, 0.0, rest),
    "cosine": lambda: optax.cosine_decay_schedule(peak, rest),
  }
  if name not in after:
    raise ValueError(
      f"config.train.schedule={name!r}: choose one of {', '.join(after)}"
    )
  if not warmup_steps:
    return after[name]()
  # The first update already moves: 1/w, 2/w, ...
  ramp = optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1)
  return optax.join_schedules([ramp, after[name]()], [warmup_steps])


def check_host(train: ml_collections.ConfigDict) -> None:
  """Refuses config.train.moments_on_host where there is no such memory.

  Raises:
    ValueError: names the kinds of memory that the device has.
  """
  kinds = [memory.kind for memory in jax.devices()[0].addressable_memories()]
  if train.moments_on_host and _HOST not in kinds:
    raise ValueError(
      f"config.train.moments_on_host=True: {jax.devices()[0].device_kind} has "
      f"no {_HOST!r} memory, but {', '.join(kinds)}: leave it at False, and "
      "save memory with config.train.moments='int8'"
    )


def to_host(opt_state: Any) -> Any:
  """Moves all arrays but scalars to the host, beyond the device's memory."""

  def put(x):
    if not x.ndim:
      return x
    return jax.device_put(x, x.sharding.with_memory_kind(_HOST))

  return jax.tree.map(put, opt_state)


def to_device(opt_state: Any) -> Any:
  """Under jit: brings what is in host memory to the device."""
  return jax.tree.map(lambda x: _put(x, jax.memory.Space.Device), opt_state)


def to_place_of(old: Any, new: Any) -> Any:
  """Under jit: moves each array to the kind of memory that the old one has."""
  return jax.tree.map(
    lambda x, y: _put(y, jax.typeof(x).memory_space), old, new
  )


def _put(x: jax.Array, space: jax.memory.Space) -> jax.Array:
  return x if jax.typeof(x).memory_space == space else jax.device_put(x, space)


def _adamw(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
  if train.moments == "float32":
    return optax.adamw(
      1.0, b1=train.b1, b2=train.b2, weight_decay=train.weight_decay
    )
  return optax.chain(
    quantized_adam.scale_by_quantized_adam(train.b1, train.b2, train.moments),
    optax.add_decayed_weights(train.weight_decay),
    optax.scale_by_learning_rate(1.0),
  )


def _adafactor(
  train: ml_collections.ConfigDict,
) -> optax.GradientTransformation:
  """Adafactor (1804.04235) without momentum, at absolute learning rates.

  b1 and b2 play no part: the decay is the paper's, 1 - t^-0.8.
  """
  return optax.chain(
    # Of [L, in, out] it factors the two largest axes, in and out, so that each
    # layer has its own rows and columns. 32: also those of tiny models.
    optax.scale_by_factored_rms(min_dim_size_to_factor=32),
    optax.stateless(lambda updates, _: jax.tree.map(_clip_matrices, updates)),
    optax.add_decayed_weights(train.weight_decay),
    optax.scale_by_learning_rate(1.0),
  )


def _clip_matrices(x: jax.Array) -> jax.Array:
  """Scales each matrix, or vector, down to a root mean square of 1."""
  axes = tuple(range(x.ndim))[-2:]
  square = jnp.mean(x * x, axis=axes, keepdims=True)
  return x / jnp.maximum(1.0, jnp.sqrt(square))


def _muon(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """Muon for the matrices of the layers, adamw for all else.

  As its authors have it, embeddings, head and norms are adamw's. Updates have
  a root mean square of 0.2, which is about that of adamw (2502.16982), so one
  learning rate does for both.
  """
  matrices = optax.contrib.muon(
    1.0,
    weight_decay=train.weight_decay,
    consistent_rms=0.2,
    # [L, in, out] is L matrices.
    muon_weight_dimension_numbers=lambda params: jax.tree.map(
      lambda _: optax.contrib.MuonDimensionNumbers(1, 2), params
    ),
  )
  return optax.partition(
    {"muon": matrices, "adamw": _adamw(train)}, _muon_labels
  )


def _muon_labels(params: Any) -> Any:
  """ "muon" for stacked matrices [L, in, out], "adamw" for the rest."""
  return jax.tree.map(lambda x: "muon" if x.ndim == 3 else "adamw", params)


Rule = Callable[[ml_collections.ConfigDict], optax.GradientTransformation]
OPTIMIZERS: dict[str, Rule] = {
  "adamw": _adamw,
  "adafactor": _adafactor,
  "muon": _muon,
}
