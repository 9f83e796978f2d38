"""Segments as rows for the loss: forward pass, log-probabilities, entropy.

Dimension key: R rows, P prompt tokens, A response tokens.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from memjax import agents
from memjax import qwen3
from memjax import tokens as token_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
  """What the loss reads of R segments.

  Attributes:
    prompt: [R, P].
    response: [R, A].
    old_logp: float32 [R, A], the behaviour policy's.
    ref_logp: float32 [R, A], the KL reference's, or None.
    adv: float32 [R], of the trajectory that the row belongs to.
    weight: bool [R]; False rows count nowhere.
  """

  prompt: token_lib.Tokens
  response: token_lib.Tokens
  old_logp: jax.Array
  ref_logp: jax.Array | None
  adv: jax.Array
  weight: jax.Array

  @property
  def mask(self) -> jax.Array:
    """bool [R, A], the response tokens that count."""
    return self.response.mask & self.weight[:, None]


def from_segment(segment: agents.Segment, adv: jax.Array) -> Rows:
  """Rows of one segment: adv [B]; those not active weigh nothing."""
  response = segment.response
  return Rows(
    segment.prompt, response.tokens, response.logp, None, adv, segment.active
  )


def from_turns(segment: agents.Segment, adv: jax.Array) -> Rows:
  """Rows of stacked segments [C, n * B, ...], flattened; adv [B] is repeated.

  The advantage is a trajectory's before it is spread over its n calls in each
  of C turns here.
  """
  flat = jax.tree.map(
    lambda x: x.reshape((-1,) + x.shape[2:]),
    segment,
  )
  return from_segment(flat, jnp.tile(adv, segment.active.size // adv.size))


def take(rows: Rows, index: jax.Array) -> Rows:
  """Rows at index [n]; -1 gives a row that weighs nothing."""
  got = jax.tree.map(lambda x: x[jnp.maximum(index, 0)], rows)
  return dataclasses.replace(got, weight=got.weight & (index >= 0))


def logp_and_entropy(
  params: qwen3.Params, cfg: qwen3.Config, rows: Rows, temperature: float = 1.0
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each response token and the entropy there; [R, A].

  Only the hidden states that predict a response token are unembedded.
  """
  text = token_lib.concat([rows.prompt, rows.response])
  hidden, _ = qwen3.forward(params, cfg, text.ids)
  A = rows.response.capacity
  place = rows.prompt.length[:, None] - 1 + jnp.arange(A)[None, :]
  place = jnp.clip(place, 0, text.capacity - 1)
  hidden = jnp.take_along_axis(hidden, place[..., None], axis=1)
  return qwen3.token_logp(params, cfg, hidden, rows.response.ids, temperature)


def empty_like(rows: Rows, count: int) -> Rows:
  """`count` rows of the same shapes that weigh nothing."""
  return jax.tree.map(lambda x: jnp.zeros((count, *x.shape[1:]), x.dtype), rows)


@functools.partial(jax.jit, donate_argnames="into")
def put(into: Rows, rows: Rows, target_R: jax.Array) -> Rows:
  """Copies row i of rows to into[target_R[i]]; -1 copies nothing."""
  # An index behind the last row writes nowhere.
  target_R = jnp.where(target_R < 0, into.weight.shape[0], target_R)
  return jax.tree.map(
    lambda a, b: a.at[target_R].set(b, mode="drop"), into, rows
  )
