"""The caches of decoding, and what each new token reads, as a CPU reads it.

Dimension key: B sequences, S cache slots, K kv heads, H head width, L layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import layout

from memjax import attention_blocks
from memjax import qwen3_block

Params = qwen3_block.Params
Config = qwen3_block.Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of texts.

  Attributes:
    layers: (keys [L, B, K, H, S], values [L, B, K, S, H]) where layers are
      scanned; else of each layer such a pair without L.
    length: int32 [B], tokens of each text; one number if all have as many.
  """

  layers: Any
  length: jax.Array


def slots(cfg: Config, tokens: int) -> int:
  """How many slots a cache of so many tokens has: on a GPU, whole eights.

  So its library multiplies in half precision, and XLA would make a copy of each
  layer's values that is so, for each token.
  """
  return tokens if cfg.for_cpu else tokens + -tokens % 8


def room(
  cfg: Config, rows: int, tokens: int, zero: jax.Array | int = 0
) -> Cache:
  """An empty cache for so many new tokens of each row.

  Args:
    cfg: the model.
    rows: of the cache.
    tokens: of each row.
    zero: 0. Of a constant XLA makes one buffer for all calls of a program,
      which is then held from the first call to the last; a value of the program
      keeps them apart.
  """
  K, H, L = cfg.num_kv_heads, cfg.head_dim, cfg.num_layers
  S = slots(cfg, tokens)
  shapes = (rows, K, H, S), (rows, K, S, H)
  zeros = lambda *first: tuple(
    jnp.full((*first, *shape), zero, cfg.dtype) for shape in shapes
  )
  layers = zeros(L) if cfg.scan_layers else tuple(zeros() for _ in range(L))
  return Cache(layers, jnp.int32(0))


def capacities(cfg: Config, tokens: int) -> list[int]:
  """How large the cache of so many new tokens is, one size after the other.

  All slots are read for each token, so that on a CPU it grows. Elsewhere it has
  all its room at once: stacked layers would be there twice while they grow, and
  each size is compiled.
  """
  if not cfg.for_cpu:
    return [tokens]
  return [end for _, end in attention_blocks.spans(tokens)]


def grown(cache: Cache, tokens: int) -> Cache:
  """The cache of unrolled layers with room for so many tokens."""
  layers = []
  for key, value in cache.layers:
    more, none = (0, tokens - key.shape[-1]), (0, 0)
    key = jnp.pad(key, (none, none, none, more))
    value = jnp.pad(value, (none, none, more, none))
    layers.append((key, value))
  return Cache(tuple(layers), cache.length)


def row_major(x: jax.Array) -> jax.Array:
  """Holds an array as it is written, for what reads it many times.

  Left to itself XLA keeps the layout that it comes in, and transposes the keys
  and values of all layers at once before the first token is decoded.
  """
  order = layout.Layout(major_to_minor=tuple(range(x.ndim)))
  return layout.with_layout_constraint(x, order)


def for_decoding(
  params: Params, cfg: Config, prefixes: Sequence[Cache]
) -> tuple[Params, list[Cache]]:
  """Arranges what each new token reads as a CPU reads it fastest.

  Prefixes in tiles, and matrices that have the same input in one. For other
  devices both come back as they are.

  Args:
    params: from `qwen3.unstacked`.
    cfg: the model.
    prefixes: from `qwen3.read`; what comes back is for `qwen3.decode_step`
      alone, in tiles as `attention_blocks.Prefix` says.
  """
  if not cfg.for_cpu:
    return params, list(prefixes)
  tiles = lambda kv: attention_blocks.in_tiles(*kv)
  layers = tuple(map(_side_by_side, params["layers"]))
  return params | {"layers": layers}, [
    Cache(tuple(map(tiles, x.layers)), x.length) for x in prefixes
  ]


def _side_by_side(layer: Params) -> Params:
  """A layer with matrices qkv and gate_up in place of those that they join."""
  layer = _joined(layer, "gate_up", ("gate", "up"))
  return layer | {"attn": _joined(layer["attn"], "qkv", ("q", "k", "v"))}


def _joined(tree: Params, name: str, parts: Sequence[str]) -> Params:
  """One matrix for several; they stay apart where they have adapters."""
  if any(len(tree[x]) > 1 for x in parts):
    return tree
  kernel = jnp.concatenate([tree[x]["kernel"] for x in parts], axis=1)
  rest = {x: y for x, y in tree.items() if x not in parts}
  return rest | {name: {"kernel": kernel}}
