"""Means over masked values that can be added: numerator and denominator.

What crosses micro-batches and devices is a `Mean`. Denominators depend on the
mask alone, so gradients accumulate in the same way: sum the gradients of `num`,
divide by the summed `den`.

Dimension key: R rows, T response tokens. mask_RT is bool; what stands where it
is False may be anything, NaN and infinity included.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mean:
  """A mean kept as numerator and denominator, so that parts can be added.

  `a + b` is the mean over the union of what a and b are over. Across devices,
  psum both fields. Counts are floats and exact up to 2**24 (1.7e7) tokens.
  """

  num: jax.Array
  den: jax.Array

  def value(self) -> jax.Array:
    """Returns num / den, or 0 where den is 0; gradients stay finite."""
    empty = self.den == 0
    return jnp.where(empty, 0.0, self.num / jnp.where(empty, 1.0, self.den))

  def __add__(self, other: "Mean") -> "Mean":
    """Returns the mean over both parts."""
    return Mean(num=self.num + other.num, den=self.den + other.den)


def masked(x: jax.Array, mask: jax.Array) -> jax.Array:
  """Returns x as float32 or wider, 0 where mask is False."""
  return jnp.where(mask, x.astype(jnp.promote_types(x.dtype, jnp.float32)), 0.0)


def token_mean(x_RT: jax.Array, mask_RT: jax.Array) -> Mean:
  """Averages over tokens: sum_r sum_t x / sum_r |o_r|. Long rows weigh more."""
  return Mean(
    num=jnp.sum(masked(x_RT, mask_RT)),
    den=jnp.sum(mask_RT, dtype=jnp.float32),
  )


def sequence_mean(x_RT: jax.Array, mask_RT: jax.Array) -> Mean:
  """Averages over rows the row's token mean; rows without tokens do not count.

  (1/R) sum_r (1/|o_r|) sum_t x, with R the number of rows that have a token.
  """
  length_R = jnp.sum(mask_RT, axis=1)
  sum_R = jnp.sum(masked(x_RT, mask_RT), axis=1)
  return Mean(
    num=jnp.sum(sum_R / jnp.maximum(length_R, 1)),
    den=jnp.sum(length_R > 0, dtype=jnp.float32),
  )


def constant_mean(x_RT: jax.Array, mask_RT: jax.Array, max_length: int) -> Mean:
  """Averages over rows the token sum / max_length; empty rows do not count.

  (1/R) sum_r (1/max_length) sum_t x, with R the number of rows that have a
  token: a token weighs the same however long its response is.
  """
  rows = jnp.sum(jnp.any(mask_RT, axis=1), dtype=jnp.float32)
  return Mean(num=jnp.sum(masked(x_RT, mask_RT)), den=rows * max_length)
