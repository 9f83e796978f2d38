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
prefix keys, N query heads, K kv heads, G = N / K, H head width, b block.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

KINDS = ("plain", "blocks", "cudnn")

# Scores of a block, in float32: 256 MiB.
_BLOCK_SCORES = 2**26
_LEAST_BLOCK = 16
_NEVER = -1e30

# (key [W, K, H, P], value [W, K, P, H], length [W])
Prefix = tuple[jax.Array, jax.Array, jax.Array]


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
  prefixes: Sequence[Prefix],
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
  block, prefixes = T, tuple(prefixes)
  # Products are of matrices [rows, H] of each key's head, as libraries have it.
  query = query.transpose(0, 2, 3, 1, 4)
  if kind == "blocks":
    keys = T + sum(x[0].shape[-1] for x in prefixes)
    block = _BLOCK_SCORES // (B * K * G * keys)
    block = min(max(block, _LEAST_BLOCK), T)
    out = _blocks(block, query, key, value, prefixes)
  else:
    out = _forward(block, query, key, value, prefixes)[0]
  return out.transpose(0, 3, 1, 2, 4)


def cached(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  length: jax.Array,
  prefixes: Sequence[Prefix],
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
  out, _ = _attend(query, key, value, sees, prefixes)
  return out.transpose(0, 3, 1, 2, 4)


def _product(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
  """A product over one axis of each; the two leading axes are of both.

  In this order, which einsum would change: with a cache first and one token
  behind it the CPU takes ten times as long.
  """
  axes = ((a_axis,), (b_axis,)), ((0, 1), (0, 1))
  product = functools.partial(
    jax.lax.dot_general,
    dimension_numbers=axes,
    preferred_element_type=jnp.float32,
  )
  if a.dtype == b.dtype == jnp.float32:
    return product(a, b)
  # XLA's CPU backend has no batched bfloat16 product with a float32 result.
  return jax.lax.platform_dependent(
    a,
    b,
    cpu=lambda a, b: product(a.astype(jnp.float32), b.astype(jnp.float32)),
    default=product,
  )


def _flat(x: jax.Array) -> jax.Array:
  """[b, K, ..., X] to [b, K, rows, X]."""
  return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """float32 [b, K, ..., X] by [b, K, X, Y]."""
  found = _product(_flat(x), matrix, 3, 2)
  return found.reshape(*x.shape[:-1], -1)


def _times_transposed(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """float32 [b, K, ..., Y] by [b, K, X, Y]."""
  found = _product(_flat(x), matrix, 3, 3)
  return found.reshape(*x.shape[:-1], -1)


def _summed(x: jax.Array, y: jax.Array) -> jax.Array:
  """float32 [b, K, X, Y]: x [b, K, ..., X] by y [b, K, ..., Y], all rows."""
  return _product(_flat(x), _flat(y), 2, 2)


def _behind(x: jax.Array, prefixes: int) -> jax.Array:
  """[B, K, ...] to [W, K, g, ...]: the rows of a prefix together."""
  return x.reshape(prefixes, -1, *x.shape[1:]).swapaxes(1, 2)


def _beside(x: jax.Array) -> jax.Array:
  """[W, K, g, ...] to [B, K, ...]."""
  x = x.swapaxes(1, 2)
  return x.reshape(-1, *x.shape[2:])


def _scores(
  query: jax.Array,
  key: jax.Array,
  sees_BTS: jax.Array,
  prefixes: Sequence[Prefix],
) -> tuple[jax.Array, list[jax.Array]]:
  """Masked scores [B, K, G, T, S], and of each prefix [W, K, g, G, T, P]."""
  scale = query.shape[-1] ** -0.5
  score = _times(query, key) * scale
  score = jnp.where(sees_BTS[:, None, None], score, _NEVER)
  before = []
  for keys, _, length_W in prefixes:
    found = _times(_behind(query, len(length_W)), keys) * scale
    there = jnp.arange(keys.shape[-1])[None, :] < length_W[:, None]
    before.append(jnp.where(there[:, None, None, None, None], found, _NEVER))
  return score, before


def _attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  sees_BTS: jax.Array,
  prefixes: Sequence[Prefix],
) -> tuple[jax.Array, jax.Array]:
  """Output [B, K, G, T, H] and float32 log-sum-exp [B, K, G, T]."""
  score, before = _scores(query, key, sees_BTS, prefixes)
  # A row's own token is always seen, so the greatest score is finite.
  top = score.max(-1)
  for found in before:
    top = jnp.maximum(top, _beside(found.max(-1)))
  weight = jnp.exp(score - top[..., None])
  total = weight.sum(-1)
  mixed = _times(weight.astype(value.dtype), value)
  for found, (_, values, length_W) in zip(before, prefixes):
    weight = jnp.exp(found - _behind(top, len(length_W))[..., None])
    total += _beside(weight.sum(-1))
    mixed += _beside(_times(weight.astype(value.dtype), values))
  return (mixed / total[..., None]).astype(value.dtype), top + jnp.log(total)


def _sees(start: jax.Array | int, count: int, S: int) -> jax.Array:
  """bool [1, count, S]: the token at position p sees 0..p.

  start 1, count 2 and S 3 give
    1 1 0
    1 1 1
  """
  position = start + jnp.arange(count)
  return (jnp.arange(S)[None, :] <= position[:, None])[None]


def _cut(x: jax.Array, block: int) -> jax.Array:
  """[B, K, G, T, ...] to blocks [n, B, K, G, b, ...]; zeros behind the last."""
  pad = [(0, -x.shape[3] % block if i == 3 else 0) for i in range(x.ndim)]
  x = jnp.pad(x, pad)
  x = x.reshape(*x.shape[:3], -1, block, *x.shape[4:])
  return jnp.moveaxis(x, 3, 0)


def _join(x: jax.Array, T: int) -> jax.Array:
  """Blocks to [B, K, G, T, ...], the padding left out."""
  x = jnp.moveaxis(x, 0, 3)
  x = x.reshape(*x.shape[:3], -1, *x.shape[5:])
  return jax.lax.slice_in_dim(x, 0, T, axis=3)


def _forward(block, query, key, value, prefixes):
  """Outputs and log-sum-exps, a block of queries after the other."""
  T = query.shape[3]
  if block >= T:
    return _attend(query, key, value, _sees(0, T, T), prefixes)

  def step(start, q):
    found = _attend(q, key, value, _sees(start, block, T), prefixes)
    return start + block, found

  _, (out, total) = jax.lax.scan(step, 0, _cut(query, block))
  return _join(out, T), _join(total, T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks(block, query, key, value, prefixes):
  """Queries in blocks, whose scores the backward pass makes again."""
  return _forward(block, query, key, value, prefixes)[0]


def _blocks_forward(block, query, key, value, prefixes):
  out, total = _forward(block, query, key, value, prefixes)
  return out, (query, key, value, prefixes, out, total)


def _blocks_backward(block, kept, d_out):
  """Adds up the gradients of keys and values over the blocks."""
  query, key, value, prefixes, out, total = kept
  T = query.shape[3]
  own = (out.astype(jnp.float32) * d_out).sum(-1)
  given = [key, value, *(x for prefix in prefixes for x in prefix[:2])]
  if block >= T:
    d_query, sums = _backward(
      query, d_out, total, own, _sees(0, T, T), key, value, prefixes
    )
  else:

    def step(carry, xs):
      start, sums = carry
      sees = _sees(start, block, T)
      d_q, more = _backward(*xs, sees, key, value, prefixes)
      return (start + block, jax.tree.map(jnp.add, sums, more)), d_q

    zeros = [jnp.zeros(x.shape, jnp.float32) for x in given]
    (_, sums), d_query = jax.lax.scan(
      step,
      (0, zeros),
      [_cut(x, block) for x in (query, d_out, total, own)],
    )
    d_query = _join(d_query, T)
  d_key, d_value, *others = (
    x.astype(y.dtype) for x, y in zip(sums, given, strict=True)
  )
  # A prefix's length has none.
  d_prefixes = tuple((*pair, None) for pair in zip(others[::2], others[1::2]))
  return d_query, d_key, d_value, d_prefixes


def _backward(query, d_out, total, own, sees, key, value, prefixes):
  """The gradients of one block of queries (2205.14135, B.4).

  With P = exp(score - total) and own = sum_h out d_out:

    d_value = P^T d_out,  d_score = P (d_out value^T - own),
    d_query = d_score key,  d_key = d_score^T query

  Returns:
    (d_query, [d_key, d_value, and of each prefix the same]); sums in float32.
  """
  scale, dtype = query.shape[-1] ** -0.5, query.dtype
  score, before = _scores(query, key, sees, prefixes)

  def parts(score, q, d_o, total, own, key, value):
    """(d_query, d_key, d_value) by one set of keys."""
    weight = jnp.exp(score - total[..., None])
    inner = _times_transposed(d_o, value) - own[..., None]
    d_score = (weight * inner * scale).astype(dtype)
    return (
      _times_transposed(d_score, key),
      _summed(q, d_score),
      _summed(weight.astype(dtype), d_o),
    )

  rows = query, d_out, total, own
  d_query, *sums = parts(score, *rows, key, value)
  for found, (keys, values, length_W) in zip(before, prefixes):
    behind = [_behind(x, len(length_W)) for x in rows]
    more, *other = parts(found, *behind, keys, values)
    d_query += _beside(more)
    sums += other
  return d_query.astype(dtype), sums


_blocks.defvjp(_blocks_forward, _blocks_backward)


def _cudnn(query, key, value, prefixes):
  """`jax.nn.dot_product_attention`, with prefixes by way of its mask."""
  B, T, K, G, H = query.shape
  query = query.reshape(B, T, K * G, H)
  key, value = key.transpose(0, 3, 1, 2), value.transpose(0, 2, 1, 3)
  attend = functools.partial(
    jax.nn.dot_product_attention, implementation="cudnn"
  )
  if not prefixes:
    out = attend(query, key, value, is_causal=True)
    return out.reshape(B, T, K, G, H)
  all_keys, all_values, masks = [], [], []
  for keys, values, length_W in prefixes:
    W, P = len(length_W), keys.shape[-1]
    each = lambda x, times=B // W: jnp.repeat(x, times, axis=0)
    there = jnp.arange(P)[None, :] < each(length_W)[:, None]
    masks.append(jnp.broadcast_to(there[:, None], (B, T, P)))
    all_keys.append(each(keys.transpose(0, 3, 1, 2)))
    all_values.append(each(values.transpose(0, 2, 1, 3)))
  masks.append(jnp.broadcast_to(_sees(0, T, T), (B, T, T)))
  mask = jnp.concatenate(masks, axis=2)
  out = attend(
    query,
    jnp.concatenate([*all_keys, key], axis=1),
    jnp.concatenate([*all_values, value], axis=1),
    mask=mask[:, None],
  )
  return out.reshape(B, T, K, G, H)
