"""Adam whose moments rest in 8 or 16 bits and are computed in float32.

In 8 bits each moment is a code and, for each block of 256 entries of the last
axis, its largest magnitude (8-bit optimizers, 2110.02861). With n levels

  mu = +-s (c / n)^4, n = 127,     nu = s (c / n)^8, n = 255,

so that sqrt(nu) has the same steps as mu: finer the smaller the value, as in
the paper's dynamic code, but without a table. Evenly spaced levels would round
most of nu to 0, and Adam divides by its root; no nu but 0 gets code 0.

Both 8 and 16 bits round at random, to the level below or above, so that the
mean is exact. Rounded to the nearest, nu would never fall: a step of b2=0.999
takes off a thousandth, half a step of bfloat16 is two thousandths or more.

Dimension key: D last axis, n = ceil(D / 256) blocks of it.
"""

import functools
import math
from typing import Any
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

BLOCK = 256
# Leaves are taken a slab at a time: one layer of stacked ones, and no more
# entries than this of a matrix (an embedding has 4e8).
_SLAB = 2**24
_MU = jnp.int8
_NU = jnp.uint8


class Blocks(NamedTuple):
  """An array in 8 bits.

  Attributes:
    code: int8 (signed) or uint8, the shape of the array; shards like it.
    scale: float32, the same shape but n in place of D.
  """

  code: jax.Array
  scale: jax.Array


class State(NamedTuple):
  """Of `scale_by_quantized_adam`.

  Attributes:
    count: int32, updates so far.
    mu: mean of the gradients: of each leaf `Blocks` or a bfloat16 array.
    nu: mean of their squares, in the same way.
  """

  count: jax.Array
  mu: Any
  nu: Any


def quantize(x: jax.Array, dtype: Any, bits: jax.Array) -> Blocks:
  """Rounds to the level below or above, by chance, with the mean unchanged.

  The error is at most one step: 0.032 of the block's largest magnitude where
  values are largest, and the closer to 0 the less.

  Args:
    x: float32 [..., D].
    dtype: int8, or uint8 if nothing is negative.
    bits: random uint16 in a uint32 [..., D].
  """
  n, power = _levels(dtype)
  size = jnp.abs(x)
  scale = _by_block(size).max(-1)
  top = _spread(scale, x.shape[-1])
  ratio = size / jnp.where(top > 0, top, 1.0)
  # The level below: the inverse of (c / n)^power, found by square roots.
  root = ratio
  for _ in range(int(math.log2(power))):
    root = jnp.sqrt(root)
  below = jnp.clip(jnp.floor(n * root), 0, n - 1)
  low, high = (below / n) ** power, ((below + 1) / n) ** power
  chance = (ratio - low) / (high - low)
  level = below + (bits.astype(jnp.float32) / 2**16 < chance)
  if dtype == _NU:
    level = jnp.where(size > 0, jnp.maximum(level, 1), level)
  else:
    level = jnp.sign(x) * level
  return Blocks(level.astype(dtype), scale)


def dequantize(blocks: Blocks) -> jax.Array:
  """float32 of the shape of `blocks.code`."""
  n, power = _levels(blocks.code.dtype)
  ratio = blocks.code.astype(jnp.float32) / n
  scale = _spread(blocks.scale, blocks.code.shape[-1])
  return jnp.sign(ratio) * ratio**power * scale


def round_to_bfloat16(x: jax.Array, bits: jax.Array) -> jax.Array:
  """To the bfloat16 below or above, by chance, with the mean unchanged.

  Args:
    x: float32, finite.
    bits: random uint16 in a uint32 of the same shape.
  """
  # A bfloat16 is the upper half of a float32: what the lower half adds up to
  # with the random bits carries over as often as it should.
  raw = jax.lax.bitcast_convert_type(x, jnp.uint32) + bits
  cut = raw & jnp.uint32(0xFFFF0000)
  return jax.lax.bitcast_convert_type(cut, jnp.float32).astype(jnp.bfloat16)


def scale_by_quantized_adam(
  b1: float, b2: float, moments: str, eps: float = 1e-8
) -> optax.GradientTransformation:
  """`optax.scale_by_adam`, but for how its moments are stored.

  The random bits come from the number of the update, so that a run that is
  resumed ends with the same bits as one that was not stopped.

  Args:
    b1: decay of the mean of gradients.
    b2: decay of the mean of their squares.
    moments: "bfloat16" or "int8".
    eps: added to the root of the latter.

  Raises:
    ValueError: for other moments.
  """
  if moments not in ("bfloat16", "int8"):
    raise ValueError(f"moments={moments!r}: choose one of bfloat16, int8")

  def zeros(x, dtype):
    shape = x.shape or (1,)
    if moments == "bfloat16":
      return jnp.zeros(shape, jnp.bfloat16)
    scale = jnp.zeros((*shape[:-1], -(-shape[-1] // BLOCK)))
    return Blocks(jnp.zeros(shape, dtype), scale)

  def decode(stored):
    if moments == "bfloat16":
      return stored.astype(jnp.float32)
    return dequantize(stored)

  def encode(x, dtype, bits):
    if moments == "bfloat16":
      return round_to_bfloat16(x, bits)
    return quantize(x, dtype, bits)

  def init_fn(params):
    return State(
      jnp.zeros((), jnp.int32),
      jax.tree.map(lambda x: zeros(x, _MU), params),
      jax.tree.map(lambda x: zeros(x, _NU), params),
    )

  def step(correction, slab, key):
    """One slab: (gradient, mu, nu) -> (update, mu, nu)."""
    grad, mu, nu = slab
    mu = b1 * decode(mu) + (1 - b1) * grad
    nu = b2 * decode(nu) + (1 - b2) * grad * grad
    update = (mu / correction[0]) / (jnp.sqrt(nu / correction[1]) + eps)
    bits = jax.random.bits(key, grad.shape)
    return (
      update,
      encode(mu, _MU, bits >> 16),
      encode(nu, _NU, bits & 0xFFFF),
    )

  def update_fn(updates, state, params=None):
    del params
    count = optax.safe_increment(state.count)
    correction = (1 - b1**count, 1 - b2**count)
    grads, treedef = jax.tree.flatten(updates)
    key = jax.random.fold_in(jax.random.key(0), count)
    found = []
    for i, leaf in enumerate(
      zip(
        grads, treedef.flatten_up_to(state.mu), treedef.flatten_up_to(state.nu)
      )
    ):
      shape = leaf[0].shape
      update, mu, nu = _by_slab(
        functools.partial(step, correction),
        (leaf[0].reshape(shape or (1,)), *leaf[1:]),
        jax.random.fold_in(key, i),
      )
      found.append((update.reshape(shape), mu, nu))
    updates, mu, nu = (treedef.unflatten(x) for x in zip(*found))
    return updates, State(count, mu, nu)

  return optax.GradientTransformation(init_fn, update_fn)


def _levels(dtype: Any) -> tuple[int, int]:
  """(Levels above 0, power) of a code."""
  return {jnp.dtype(_MU): (127, 4), jnp.dtype(_NU): (255, 8)}[jnp.dtype(dtype)]


def _by_block(x: jax.Array) -> jax.Array:
  """[..., D] -> [..., n, 256]; zeros fill up the last block."""
  width = min(BLOCK, x.shape[-1])
  short = -x.shape[-1] % width
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, short)])
  return x.reshape(*x.shape[:-1], -1, width)


def _spread(scale: jax.Array, size: int) -> jax.Array:
  """[..., n] -> [..., D]: to each entry what belongs to its block."""
  wide = jnp.broadcast_to(scale[..., None], (*scale.shape, min(BLOCK, size)))
  return wide.reshape(*scale.shape[:-1], -1)[..., :size]


def _slabs(shape: tuple[int, ...]) -> int:
  """Into how many equal slabs of the leading axis a leaf is cut."""
  if len(shape) != 2:
    return shape[0] if len(shape) > 2 else 1
  rows, least = shape[0], math.prod(shape) / _SLAB
  return next(n for n in range(1, rows + 1) if not rows % n and n >= least)


def _by_slab(step: Any, leaf: Any, key: jax.Array) -> Any:
  """Puts step(slab, key) in the place of each slab of a tree of arrays.

  On a GPU this is in place: a slab is all that is there in float32 beside the
  leaf. XLA's CPU backend copies the leaf, which is small there.
  """
  n = _slabs(leaf[0].shape)
  if n == 1:
    return step(leaf, key)
  rows = leaf[0].shape[0] // n

  def body(i, leaf):
    cut = lambda x: jax.lax.dynamic_slice_in_dim(x, i * rows, rows)
    put = lambda x, new: jax.lax.dynamic_update_slice_in_dim(
      x, new, i * rows, 0
    )
    slab = step(jax.tree.map(cut, leaf), jax.random.fold_in(key, i))
    return jax.tree.map(put, leaf, slab)

  return jax.lax.fori_loop(0, n, body, leaf)
