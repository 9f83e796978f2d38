"""How far Adam's updates are off when a moment is stored in 8 bits.

    python experiments/07_memory/codes.py

prints the second table of README.md beside it, in two minutes on 2 cores.

Dimension key: R blocks, D entries of a block.
"""

import functools

import jax
import jax.numpy as jnp

_SHAPE = (64, 256)  # R, D
_STEPS, _B1, _B2 = 600, 0.9, 0.999


def store(x_RD, levels, power, chance_RD, keep_positive):
  """To one of scale * (c / levels)^power; up if the chance is below it."""
  top = jnp.abs(x_RD).max(-1, keepdims=True)
  ratio = jnp.abs(x_RD) / jnp.where(top > 0, top, 1.0)
  below = jnp.clip(jnp.floor(levels * ratio ** (1 / power)), 0, levels - 1)
  low, high = (below / levels) ** power, ((below + 1) / levels) ** power
  code = below + (chance_RD < (ratio - low) / (high - low))
  if keep_positive:
    code = jnp.where(ratio > 0, jnp.maximum(code, 1), code)
  return jnp.sign(x_RD) * (code / levels) ** power * top


@functools.partial(jax.jit, static_argnames=("moment", "power", "at_random"))
def error(moment: str, power: int, at_random: bool) -> jax.Array:
  """rms of the difference, relative to the update's, in the last 100 steps."""
  key = jax.random.key(1)
  size_RD = jnp.exp(2.0 * jax.random.normal(key, _SHAPE))
  half_D = (jnp.arange(_SHAPE[1]) % 2 == 0)[None]

  def step(carry, i):
    mu, nu, coded = carry
    draw_key, chance_key = jax.random.split(jax.random.fold_in(key, i))
    grad = size_RD * (jax.random.normal(draw_key, _SHAPE) + 0.3)
    grad = jnp.where(half_D & (i > _STEPS // 2), 0.1, 1.0) * grad
    chance = 0.5
    if at_random:
      chance = jax.random.uniform(chance_key, _SHAPE)
    mu = _B1 * mu + (1 - _B1) * grad
    nu = _B2 * nu + (1 - _B2) * grad * grad
    ratio = lambda mu, nu: (
      (mu / (1 - _B1 ** (i + 1.0)))
      / (jnp.sqrt(nu / (1 - _B2 ** (i + 1.0))) + 1e-8)
    )
    if moment == "mu":
      coded = _B1 * coded + (1 - _B1) * grad
      other = ratio(coded, nu)
      coded = store(coded, 127, power, chance, False)
    else:
      coded = _B2 * coded + (1 - _B2) * grad * grad
      other = ratio(mu, coded)
      coded = store(coded, 255, power, chance, True)
    update = ratio(mu, nu)
    return (mu, nu, coded), jnp.stack(
      [jnp.mean((other - update) ** 2), jnp.mean(update**2)]
    )

  zero = (jnp.zeros(_SHAPE),) * 3
  _, square = jax.lax.scan(step, zero, jnp.arange(_STEPS))
  off, whole = square[-100:].mean(0)
  return jnp.sqrt(off / whole)


def main() -> None:
  """Prints the table."""
  print("| moment | power | to the nearest | at random |\n|---|---|---|---|")
  for moment, powers in (("mu", (1, 2, 3, 4)), ("nu", (1, 2, 4, 6, 8))):
    for power in powers:
      nearest, chance = (error(moment, power, x) for x in (False, True))
      print(f"| {moment} | {power} | {nearest:.2f} | {chance:.2f} |")


if __name__ == "__main__":
  main()
