"""Causal attention that never holds [T, S] scores of all tokens at once.

    plain    all scores at once: the reference, and what one token needs
    blocks   blocks of queries; the backward pass recomputes their scores from
             the saved log-sum-exp (2205.14135, without its tiles)
    cudnn    NVIDIA's fused kernel, in bfloat16 on its GPUs

Rows may go on behind prefixes: keys and values of W texts, each for the g =
B / W rows that stand next to each other. They are held once, and their
gradients are summed over the rows. What a group reads alike is a prefix of its
rows (W groups), and a prompt is one of what is written behind it (W = B).

Dimension key: B rows, W prefixes, g rows of a prefix, T tokens, S = T keys, P
prefix keys in n tiles of p, N query heads, K kv heads, G = N / K, H head width,
b block.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from memjax import attention_blocks

KINDS = ("plain", "blocks", "cudnn")

# Scores of a block of queries; in float32 256 MiB.
BLOCK_SCORES = 2**26
_LEAST_BLOCK = 16


def resolve(kind: str, dtype: str) -> str:
  """The kind that "auto" means on this device; others are checked.

  Raises:
    ValueError: there is no such kind, or not for this dtype.
  """
  if kind == "auto":
    device = jax.devices()[0]
    nvidia = device.platform == "gpu" and "NVIDIA" in device.device_kind
    return "cudnn" if nvidia and dtype == "bfloat16" else "blocks"
  if kind not in KINDS:
    raise ValueError(
      f"config.model.attention={kind!r}: choose one of auto, {', '.join(KINDS)}"
    )
  if kind == "cudnn" and dtype != "bfloat16":
    raise ValueError(
      f"config.model.attention='cudnn' with config.model.dtype={dtype!r}: the "
      "fused kernel computes in bfloat16"
    )
  return kind


def causal(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  prefixes: Sequence[attention_blocks.Prefix],
  kind: str,
) -> jax.Array:
  """Each token attends to the prefixes, to itself, and to what is before it.

  Args:
    query: [B, T, K, G, H].
    key: [B, K, H, T].
    value: [B, K, T, H].
    prefixes: what stands before the rows, one behind the other.
    kind: one of KINDS.

  Returns:
    [B, T, K, G, H], in the dtype of the values.
  """
  if kind == "cudnn":
    return _cudnn(query, key, value, prefixes)
  B, T, K, G, _ = query.shape
  prefixes = tuple(prefixes)
  # Products are of matrices [rows, H] of each key's head, as libraries have it.
  query = query.transpose(0, 2, 3, 1, 4)
  if kind == "blocks":
    keys = T + sum(x[0].shape[-1] for x in prefixes)
    block = BLOCK_SCORES // (B * K * G * keys)
    block = min(max(block, _LEAST_BLOCK), T)
    out = attention_blocks.blocks(block, query, key, value, prefixes)
  else:
    sees = attention_blocks.causal_mask(0, T, T)
    out, _ = attention_blocks.attend(query, key, value, sees, prefixes)
  return out.transpose(0, 3, 1, 2, 4)


def cached(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  length: jax.Array,
  prefixes: Sequence[attention_blocks.Prefix],
) -> jax.Array:
  """One token per row attends to a cache of which `length` slots count.

  Args:
    query: [B, 1, K, G, H].
    key: [B, K, H, S], the token's own included.
    value: [B, K, S, H].
    length: int32 scalar, at least 1.
    prefixes: what stands before the caches, one behind the other.

  Returns:
    [B, 1, K, G, H].
  """
  sees = jnp.arange(key.shape[-1])[None, None, :] < length
  query = query.transpose(0, 2, 3, 1, 4)
  out, _ = attention_blocks.attend(query, key, value, sees, prefixes)
  return out.transpose(0, 3, 1, 2, 4)


def _cudnn(query, key, value, prefixes):
  """`jax.nn.dot_product_attention`, with prefixes by way of its mask."""
  B, T, K, G, H = query.shape
  query = query.reshape(B, T, K * G, H)
  key, value = key.transpose(0, 3, 1, 2), value.transpose(0, 2, 1, 3)
  attend = functools.partial(
    jax.nn.dot_product_attention, implementation="cudnn"
  )
  # It has gradients only of even numbers of queries and of keys.
  even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
  if not prefixes:
    out = attend(even(query), even(key), even(value), is_causal=True)
    return out[:, :T].reshape(B, T, K, G, H)
  all_keys, all_values, masks = [], [], []
  for keys, values, length_W in prefixes:
    W, P = len(length_W), keys.shape[-1]
    each = lambda x, times=B // W: jnp.repeat(x, times, axis=0)
    there = jnp.arange(P)[None, :] < each(length_W)[:, None]
    masks.append(jnp.broadcast_to(there[:, None], (B, T, P)))
    all_keys.append(each(keys.transpose(0, 3, 1, 2)))
    all_values.append(each(values.transpose(0, 2, 1, 3)))
  masks.append(
    jnp.broadcast_to(attention_blocks.causal_mask(0, T, T), (B, T, T))
  )
  mask = jnp.concatenate(masks, axis=2)
  # What is added sees what the last token does, and is seen by nobody.
  mask = jnp.pad(mask, ((0, 0), (0, T % 2), (0, 0)), mode="edge")
  mask = jnp.pad(mask, ((0, 0), (0, 0), (0, mask.shape[2] % 2)))
  out = attend(
    even(query),
    even(jnp.concatenate([*all_keys, key], axis=1)),
    even(jnp.concatenate([*all_values, value], axis=1)),
    mask=mask[:, None],
  )
  return out[:, :T].reshape(B, T, K, G, H)
