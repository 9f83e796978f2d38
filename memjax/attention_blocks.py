"""The arithmetic of attention: scores and sums, and blocks of queries.

`attention` says what prefixes are, and has the key of dimensions.
"""

import functools
from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# (key [W, K n, H, p], value [W, K n, p, H], length [W]): of each head n tiles
# of p tokens, one behind the other. There is one of all P, or as `in_tiles`.
Prefix = tuple[jax.Array, jax.Array, jax.Array]

_NEVER = -1e30
_SPANS = 4  # more are no faster on a CPU
_LEAST_SPAN = 32
_TILE = 64
_TILES = 64  # at most: each is compiled


def in_tiles(key: jax.Array, value: jax.Array) -> tuple[jax.Array, jax.Array]:
  """A prefix's keys and values, n = 1, in tiles of about 64 tokens.

  To decode on a CPU: 64 keys in a row are H pieces of memory that are P apart,
  those of a tile are one.
  """
  W, K, H, P = key.shape
  n = min(-(-P // _TILE), _TILES)
  p = -(-P // n)
  none, more = (0, 0), (0, n * p - P)
  key = jnp.pad(key, (none, none, none, more)).reshape(W, K, H, n, p)
  value = jnp.pad(value, (none, none, more, none))
  return (
    key.swapaxes(2, 3).reshape(W, K * n, H, p),
    value.reshape(W, K * n, p, H),
  )


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
  """[B, K, ..., X] to [B, K, rows, X]."""
  return x.reshape(*x.shape[:2], -1, x.shape[-1])


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """float32 [B, K, ..., X] by [B, K, X, Y]."""
  found = _product(_flat(x), matrix, 3, 2)
  return found.reshape(*x.shape[:-1], -1)


def _times_transposed(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """float32 [B, K, ..., Y] by [B, K, X, Y]."""
  found = _product(_flat(x), matrix, 3, 3)
  return found.reshape(*x.shape[:-1], -1)


def _summed(x: jax.Array, y: jax.Array) -> jax.Array:
  """float32 [B, K, X, Y]: x [B, K, ..., X] by y [B, K, ..., Y], all rows."""
  return _product(_flat(x), _flat(y), 2, 2)


def _behind(x: jax.Array, prefix: Prefix) -> jax.Array:
  """[B, K, ...] to [W, K n, g, ...]: for each tile the rows of its prefix."""
  W, Kn = prefix[0].shape[:2]
  x = x.reshape(W, -1, *x.shape[1:]).swapaxes(1, 2)
  return jnp.repeat(x, Kn // x.shape[1], axis=1)


def _beside(both: Callable[..., jax.Array], x: jax.Array, K: int) -> jax.Array:
  """[W, K n, g, ...] to [B, K, ...]: joins a head's tiles, one after the other.

  Not a sum over n, which XLA's CPU backend would put into one piece with the
  product before it and the one behind it, slower than the three.
  """
  x = x.reshape(len(x), K, -1, *x.shape[2:])
  tiles = [x[:, :, i] for i in range(x.shape[2])]
  x = functools.reduce(both, tiles).swapaxes(1, 2)
  return x.reshape(-1, *x.shape[2:])


def _scores(
  query: jax.Array,
  key: jax.Array,
  sees_BTS: jax.Array,
  prefixes: Sequence[Prefix],
) -> tuple[jax.Array, list[jax.Array]]:
  """Masked scores [B, K, G, T, S], and of each prefix [W, K n, g, G, T, p]."""
  K, scale = query.shape[1], query.shape[-1] ** -0.5
  score = _times(query, key) * scale
  score = jnp.where(sees_BTS[:, None, None], score, _NEVER)
  before = []
  for prefix in prefixes:
    keys, _, length_W = prefix
    # Products with one input XLA makes one for a GPU: with a copy of all keys.
    rows = _behind(jax.lax.optimization_barrier(query), prefix)
    found = _times(rows, keys) * scale
    n, p = keys.shape[1] // K, keys.shape[-1]
    place = jnp.tile(jnp.arange(n * p).reshape(n, p), (K, 1))
    there = place[None] < length_W[:, None, None]
    there = there[:, :, None, None, None]
    before.append(jnp.where(there, found, _NEVER))
  return score, before


def attend(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  sees_BTS: jax.Array,
  prefixes: Sequence[Prefix],
) -> tuple[jax.Array, jax.Array]:
  """Output [B, K, G, T, H] and float32 log-sum-exp [B, K, G, T]."""
  K = query.shape[1]
  score, before = _scores(query, key, sees_BTS, prefixes)
  # A row's own token is always seen, so the greatest score is finite.
  top = score.max(-1)
  for found in before:
    top = jnp.maximum(top, _beside(jnp.maximum, found.max(-1), K))
  weight = jnp.exp(score - top[..., None])
  total = weight.sum(-1)
  mixed = _times(weight.astype(value.dtype), value)
  for found, prefix in zip(before, prefixes):
    values = prefix[1]
    weight = jnp.exp(found - _behind(top, prefix)[..., None])
    total += _beside(jnp.add, weight.sum(-1), K)
    mixed += _beside(jnp.add, _times(weight.astype(values.dtype), values), K)
  return (mixed / total[..., None]).astype(value.dtype), top + jnp.log(total)


def causal_mask(start: jax.Array | int, count: int, S: int) -> jax.Array:
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


def spans(T: int) -> list[tuple[int, int]]:
  """Parts (start, end) of T tokens, of which none reads keys of a later one.

  Of T x T scores, of which half count, n parts compute (n + 1) / 2n. Each part
  is compiled.
  """
  parts = min(_SPANS, -(-T // _LEAST_SPAN))
  ends = [-(-T * i // parts) for i in range(parts + 1)]
  return list(zip(ends[:-1], ends[1:]))


def _forward(block, query, key, value, prefixes):
  """Outputs and log-sum-exps, a block of queries after the other."""
  found = [
    _forward_span(
      block,
      query[..., start:stop, :],
      key[..., :stop],
      value[..., :stop, :],
      prefixes,
    )
    for start, stop in spans(query.shape[3])
  ]
  out, total = zip(*found)
  return jnp.concatenate(out, axis=3), jnp.concatenate(total, axis=3)


def _forward_span(block, query, key, value, prefixes):
  """The same for queries that stand where the last keys do."""
  T, S = query.shape[3], key.shape[-1]
  if block >= T:
    return attend(query, key, value, causal_mask(S - T, T, S), prefixes)

  def step(start, q):
    found = attend(q, key, value, causal_mask(start, block, S), prefixes)
    return start + block, found

  _, (out, total) = jax.lax.scan(step, S - T, _cut(query, block))
  return _join(out, T), _join(total, T)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def blocks(block, query, key, value, prefixes):
  """Queries in blocks, whose scores the backward pass makes again."""
  return _forward(block, query, key, value, prefixes)[0]


def _blocks_forward(block, query, key, value, prefixes):
  out, total = _forward(block, query, key, value, prefixes)
  return out, (query, key, value, prefixes, out, total)


def _blocks_backward(block, kept, d_out):
  """Adds up the gradients of keys and values over the blocks."""
  query, key, value, prefixes, out, total = kept
  own = (out.astype(jnp.float32) * d_out).sum(-1)
  d_queries, sums = [], []
  for start, stop in reversed(spans(query.shape[3])):  # the last reads all keys
    rows = [x[:, :, :, start:stop] for x in (query, d_out, total, own)]
    d_query, found = _backward_span(
      block, rows, key[..., :stop], value[..., :stop, :], prefixes
    )
    d_queries.insert(0, d_query)
    if sums:
      found[0] = sums[0].at[..., :stop].add(found[0])
      found[1] = sums[1].at[..., :stop, :].add(found[1])
      found[2:] = map(jnp.add, sums[2:], found[2:])
    sums = found
  given = [key, value, *(x for prefix in prefixes for x in prefix[:2])]
  d_key, d_value, *others = (
    x.astype(y.dtype) for x, y in zip(sums, given, strict=True)
  )
  # A prefix's length has none.
  d_prefixes = tuple((*pair, None) for pair in zip(others[::2], others[1::2]))
  d_query = jnp.concatenate(d_queries, axis=3)
  return d_query, d_key, d_value, d_prefixes


def _backward_span(block, rows, key, value, prefixes):
  """`_backward` of queries that stand where the last keys do."""
  T, S = rows[0].shape[3], key.shape[-1]
  if block >= T:
    return _backward(*rows, causal_mask(S - T, T, S), key, value, prefixes)

  def step(carry, xs):
    start, sums = carry
    mask = causal_mask(start, block, S)
    d_query, more = _backward(*xs, mask, key, value, prefixes)
    return (start + block, jax.tree.map(jnp.add, sums, more)), d_query

  given = [key, value, *(x for prefix in prefixes for x in prefix[:2])]
  zeros = [jnp.zeros(x.shape, jnp.float32) for x in given]
  (_, sums), d_query = jax.lax.scan(
    step, (S - T, zeros), [_cut(x, block) for x in rows]
  )
  return _join(d_query, T), sums


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
  for found, prefix in zip(before, prefixes):
    behind = [_behind(x, prefix) for x in rows]
    more, *other = parts(found, *behind, *prefix[:2])
    d_query += _beside(jnp.add, more, query.shape[1])
    sums += other
  return d_query.astype(dtype), sums


blocks.defvjp(_blocks_forward, _blocks_backward)
