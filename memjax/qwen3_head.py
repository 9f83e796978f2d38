"""From Qwen3's hidden states to logits, and to log-probabilities.

Dimension key: R rows, T tokens, D width, V vocabulary.
"""

import jax
import jax.numpy as jnp

from memjax import qwen3_block
from memjax import sharding

# Tokens whose logits exist at once in the loss.
CHUNK = 1024


def unembed(
  params: qwen3_block.Params, cfg: qwen3_block.Config, hidden: jax.Array
) -> jax.Array:
  """[..., D] -> float32 logits [..., V]; the product itself is in cfg.dtype."""
  if cfg.tied_embeddings:
    head = params["embed"].astype(cfg.dtype).T
  else:
    head = params["head"].astype(cfg.dtype)
  found = jnp.matmul(
    hidden.astype(cfg.dtype), head, preferred_element_type=jnp.float32
  )
  between = (None,) * (found.ndim - 2)
  return sharding.constrain(found, "batch", *between, "vocab")


def token_logp(
  params: qwen3_block.Params,
  cfg: qwen3_block.Config,
  hidden_RTD: jax.Array,
  target_RT: jax.Array,
  temperature: float = 1.0,
  chunk: int = CHUNK,
) -> tuple[jax.Array, jax.Array]:
  """Log-probability of each target token, and the entropy at its place.

  Logits of `chunk` tokens at a time exist, in the forward and the backward
  pass: [R, T, V] is never there.

  Returns:
    (logp [R, T], entropy [R, T]) in float32 and nats.
  """
  R, T, D = hidden_RTD.shape
  chunk = min(chunk, R * T)
  pad = -(R * T) % chunk
  hidden = jnp.pad(hidden_RTD.reshape(R * T, D), ((0, pad), (0, 0)))
  target = jnp.pad(target_RT.reshape(R * T), (0, pad))

  @jax.checkpoint
  def piece(hidden, target):
    scaled = unembed(params, cfg, hidden) / temperature
    normalizer = jax.nn.logsumexp(scaled, axis=-1)
    chosen = jnp.take_along_axis(scaled, target[:, None], axis=-1)[:, 0]
    # H = logsumexp - E[logit]
    probability = jnp.exp(scaled - normalizer[:, None])
    entropy = normalizer - jnp.sum(probability * scaled, axis=-1)
    return chosen - normalizer, entropy

  if hidden.shape[0] == chunk:
    logp, entropy = piece(hidden, target)
  else:
    logp, entropy = jax.lax.map(
      lambda x: piece(*x),
      (hidden.reshape(-1, chunk, D), target.reshape(-1, chunk)),
    )
  flat = lambda x: x.reshape(-1)[: R * T].reshape(R, T)
  return flat(logp), flat(entropy)
