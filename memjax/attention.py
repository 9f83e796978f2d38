"""Causal attention that never holds [T, S] scores of all tokens at once.

    plain    all scores at once: the reference, and what one token needs
    blocks   blocks of queries; the backward pass recomputes their scores from
             the saved log-sum-exp (2205.14135, without its tiles)
    cudnn    NVIDIA's fused kernel, in bfloat16 on its GPUs

Rows may go on behind a prefix that several of them share: keys and values of W
prefixes, each for the g = B / W rows that stand next to each other. They are
held once, and their gradients are summed over the rows.

Dimension key: B rows, W prefixes, g rows of a prefix, T tokens, S = T keys, P
prefix keys, N query heads, K kv heads, G = N / K, H head width, b block.
"""

import functools

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
  prefix: Prefix | None,
  kind: str,
) -> jax.Array:
  """Each token attends to the prefix, to itself, and to what is before it.

  Args:
    query: [B, T, K, G, H].
    key: [B, K, H, T].
    value: [B, K, T, H].
    prefix: what stands before the rows, or None.
    kind: one of KINDS.

  Returns:
    [B, T, K, G, H], in the dtype of the values.
  """
  if kind == "cudnn":
    return _cudnn(query, key, value, prefix)
  B, T, K, G, _ = query.shape
  P = prefix[0].shape[-1] if prefix else 0
  block = T
  if kind == "blocks":
    block = _BLOCK_SCORES // (B * K * G * (T + P))
    block = min(max(block, _LEAST_BLOCK), T)
    return _blocks(block, query, key, value, prefix)
  return _forward(block, query, key, value, prefix)[0]


def cached(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  length_B: jax.Array,
  prefix: Prefix | None,
) -> jax.Array:
  """One token per row attends to a cache of which `length_B` slots count.

  Args:
    query: [B, 1, K, G, H].
    key: [B, K, H, S], the token's own included.
    value: [B, K, S, H].
    length_B: int32 [B].
    prefix: what stands before the caches, or None.

  Returns:
    [B, 1, K, G, H].
  """
  sees = jnp.arange(key.shape[-1])[None, :] < length_B[:, None]
  return _attend(query, key, value, sees[:, None], prefix)[0]


def _dot(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """A product with a float32 result."""
  product = functools.partial(
    jnp.einsum, equation, preferred_element_type=jnp.float32
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


def _apart(x: jax.Array, rows: int) -> jax.Array:
  """[B, ...] to [W, g, ...]."""
  return x.reshape(rows, -1, *x.shape[1:])


def _scores(
  query: jax.Array,
  key: jax.Array,
  sees_BTS: jax.Array,
  prefix: Prefix | None,
) -> tuple[jax.Array, jax.Array | None]:
  """Masked scores [B, K, G, T, S], and of the prefix [W, g, K, G, T, P]."""
  scale = query.shape[-1] ** -0.5
  score = _dot("BTKGH,BKHS->BKGTS", query, key) * scale
  score = jnp.where(sees_BTS[:, None, None], score, _NEVER)
  if prefix is None:
    return score, None
  keys, _, length_W = prefix
  before = _dot("WgTKGH,WKHP->WgKGTP", _apart(query, len(length_W)), keys)
  there = jnp.arange(keys.shape[-1])[None, :] < length_W[:, None]
  there = there[:, None, None, None, None]
  return score, jnp.where(there, before * scale, _NEVER)


def _attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  sees_BTS: jax.Array,
  prefix: Prefix | None,
) -> tuple[jax.Array, jax.Array]:
  """Output [B, T, K, G, H] and float32 log-sum-exp [B, K, G, T]."""
  score, before = _scores(query, key, sees_BTS, prefix)
  # A row's own token is always seen, so the greatest score is finite.
  top = score.max(-1)
  if prefix is not None:
    top = jnp.maximum(top, before.max(-1).reshape(top.shape))
  weight = jnp.exp(score - top[..., None])
  total = weight.sum(-1)
  mixed = _dot("BKGTS,BKSH->BTKGH", weight.astype(value.dtype), value)
  if prefix is not None:
    W = len(prefix[2])
    weight = jnp.exp(before - _apart(top, W)[..., None])
    total += weight.sum(-1).reshape(total.shape)
    more = _dot("WgKGTP,WKPH->WgTKGH", weight.astype(value.dtype), prefix[1])
    mixed += more.reshape(mixed.shape)
  out = mixed / total.transpose(0, 3, 1, 2)[..., None]
  return out.astype(value.dtype), top + jnp.log(total)


def _sees(start: jax.Array | int, count: int, S: int) -> jax.Array:
  """bool [1, count, S]: the token at position p sees 0..p.

  start 1, count 2 and S 3 give
    1 1 0
    1 1 1
  """
  position = start + jnp.arange(count)
  return (jnp.arange(S)[None, :] <= position[:, None])[None]


def _cut(x_BT: jax.Array, block: int, axis: int = 1) -> jax.Array:
  """[B, T, ...] to blocks [n, B, b, ...]; zeros behind the last token."""
  T = x_BT.shape[axis]
  pad = [(0, -T % block if i == axis else 0) for i in range(x_BT.ndim)]
  x = jnp.pad(x_BT, pad)
  shape = (*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
  return jnp.moveaxis(x.reshape(shape), axis, 0)


def _join(x: jax.Array, T: int, axis: int = 1) -> jax.Array:
  """Blocks to [B, T, ...], the padding left out."""
  x = jnp.moveaxis(x, 0, axis)
  x = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
  return jax.lax.slice_in_dim(x, 0, T, axis=axis)


def _forward(block, query, key, value, prefix):
  """Outputs and log-sum-exps, a block of queries after the other."""
  T = query.shape[1]
  if block >= T:
    return _attend(query, key, value, _sees(0, T, T), prefix)

  def step(start, q):
    found = _attend(q, key, value, _sees(start, block, T), prefix)
    return start + block, found

  _, (out, total) = jax.lax.scan(step, 0, _cut(query, block))
  return _join(out, T), _join(total, T, axis=3)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks(block, query, key, value, prefix):
  """Queries in blocks, whose scores the backward pass makes again."""
  return _forward(block, query, key, value, prefix)[0]


def _blocks_forward(block, query, key, value, prefix):
  out, total = _forward(block, query, key, value, prefix)
  return out, (query, key, value, prefix, out, total)


def _blocks_backward(block, kept, d_out):
  """Adds up the gradients of keys and values over the blocks."""
  query, key, value, prefix, out, total = kept
  T = query.shape[1]
  own = jnp.einsum(
    "BTKGH,BTKGH->BKGT", out, d_out, preferred_element_type=jnp.float32
  )
  given = (key, value, *(prefix[:2] if prefix else ()))
  if block >= T:
    d_query, sums = _backward(
      query, d_out, total, own, _sees(0, T, T), key, value, prefix
    )
  else:

    def step(carry, xs):
      start, sums = carry
      sees = _sees(start, block, T)
      d_q, more = _backward(*xs, sees, key, value, prefix)
      return (start + block, jax.tree.map(jnp.add, sums, more)), d_q

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in given)
    (_, sums), d_query = jax.lax.scan(
      step,
      (0, zeros),
      (
        _cut(query, block),
        _cut(d_out, block),
        _cut(total, block, axis=3),
        _cut(own, block, axis=3),
      ),
    )
    d_query = _join(d_query, T)
  d_key, d_value, *d_prefix = (
    x.astype(y.dtype) for x, y in zip(sums, given, strict=True)
  )
  return d_query, d_key, d_value, (*d_prefix, None) if prefix else None


def _backward(query, d_out, total, own, sees, key, value, prefix):
  """The gradients of one block of queries (2205.14135, B.4).

  With P = exp(score - total) and own = sum_h out d_out:

    d_value = P^T d_out,  d_score = P (d_out value^T - own),
    d_query = d_score key,  d_key = d_score^T query

  Returns:
    (d_query, (d_key, d_value, and of a prefix the same)); sums in float32.
  """
  scale, dtype = query.shape[-1] ** -0.5, query.dtype
  score, before = _scores(query, key, sees, prefix)
  total, own = total[..., None], own[..., None]
  weight = jnp.exp(score - total)
  d_score = weight * (_dot("BTKGH,BKSH->BKGTS", d_out, value) - own) * scale
  weight, d_score = weight.astype(dtype), d_score.astype(dtype)
  d_query = _dot("BKGTS,BKHS->BTKGH", d_score, key)
  sums = (
    _dot("BKGTS,BTKGH->BKHS", d_score, query),
    _dot("BKGTS,BTKGH->BKSH", weight, d_out),
  )
  if prefix is None:
    return d_query.astype(dtype), sums
  keys, values, length_W = prefix
  W = len(length_W)
  q, d_o = _apart(query, W), _apart(d_out, W)
  weight = jnp.exp(before - _apart(total, W))
  inner = _dot("WgTKGH,WKPH->WgKGTP", d_o, values) - _apart(own, W)
  d_score = (weight * inner * scale).astype(dtype)
  d_query += _dot("WgKGTP,WKHP->WgTKGH", d_score, keys).reshape(d_query.shape)
  sums += (
    _dot("WgKGTP,WgTKGH->WKHP", d_score, q),
    _dot("WgKGTP,WgTKGH->WKPH", weight.astype(dtype), d_o),
  )
  return d_query.astype(dtype), sums


_blocks.defvjp(_blocks_forward, _blocks_backward)


def _cudnn(query, key, value, prefix):
  """`jax.nn.dot_product_attention`, with a prefix by way of its mask."""
  B, T, K, G, H = query.shape
  query = query.reshape(B, T, K * G, H)
  key, value = key.transpose(0, 3, 1, 2), value.transpose(0, 2, 1, 3)
  attend = functools.partial(
    jax.nn.dot_product_attention, implementation="cudnn"
  )
  if prefix is None:
    out = attend(query, key, value, is_causal=True)
    return out.reshape(B, T, K, G, H)
  keys, values, length_W = prefix
  W, P = len(length_W), keys.shape[-1]
  each = lambda x: jnp.repeat(x, B // W, axis=0)
  there = jnp.arange(P)[None, :] < each(length_W)[:, None]
  mask = jnp.concatenate(
    [
      jnp.broadcast_to(there[:, None], (B, T, P)),
      jnp.broadcast_to(_sees(0, T, T), (B, T, T)),
    ],
    axis=2,
  )
  out = attend(
    query,
    jnp.concatenate([each(keys.transpose(0, 3, 1, 2)), key], axis=1),
    jnp.concatenate([each(values.transpose(0, 2, 1, 3)), value], axis=1),
    mask=mask[:, None],
  )
  return out.reshape(B, T, K, G, H)
