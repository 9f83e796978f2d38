"""One layer of Qwen3 in Flax: QK-norm, RoPE, grouped queries, SwiGLU.

Linen defines one block; `qwen3` stacks the parameters of all layers.

Dimension key: B sequences, T tokens, S cache slots, D width, N query heads,
K kv heads, G = N / K, H head width, L layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from memjax import attention
from memjax import attention_blocks

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Config:
  """Shape and numerics of one model; static under jit.

  Attributes:
    dtype: what activations and matrix products are computed in. Norms,
      softmax and logits are float32 in any case.
    scan_layers: `lax.scan` over the stacked layers, else a Python loop.
    device: platform that unrolled layers are arranged for; "cpu" or another.
    remat: key of `qwen3.REMATS`, what the backward pass computes again.
    attention: one of `attention.KINDS`.
  """

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  mlp_dim: int
  rope_theta: float = 1e6
  norm_eps: float = 1e-6
  tied_embeddings: bool = True
  dtype: str = "float32"
  scan_layers: bool = True
  device: str = "cpu"
  remat: str = "none"
  attention: str = "blocks"

  @property
  def for_cpu(self) -> bool:
    """Whether reading and decoding are arranged as is fastest on a CPU."""
    return not self.scan_layers and self.device == "cpu"

  def __post_init__(self):
    """Refuses sizes that do not divide."""
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads={self.num_heads} is not a multiple of "
        f"num_kv_heads={self.num_kv_heads}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim={self.head_dim} must be even for RoPE")


class Linear(nn.Module):
  """y = x W without bias, over one flattened leading axis.

  Where the parameters have adapters (`lora.join`), also + x A B.

  Two-dimensional activations make XLA:CPU's weight gradient about a quarter
  faster than three-dimensional ones.
  """

  features: int
  dtype: str

  @nn.compact
  def __call__(self, x):
    """[..., in] -> [..., features]."""
    kernel = self.param(
      "kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.features)
    )
    flat = x.reshape(-1, x.shape[-1]).astype(self.dtype)
    y = flat @ kernel.astype(self.dtype)
    if self.has_variable("params", "lora_a"):
      a, b = (self.get_variable("params", x) for x in ("lora_a", "lora_b"))
      y = y + flat @ a.astype(self.dtype) @ b.astype(self.dtype)
    return y.reshape(*x.shape[:-1], self.features)


class RMSNorm(nn.Module):
  """x / rms(x) * scale over the last axis, in float32."""

  eps: float

  @nn.compact
  def __call__(self, x):
    """[..., D] -> [..., D]."""
    scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
    return rms_norm(x, scale, self.eps)


def rms_norm(x: jax.Array, scale: jax.Array, eps: float) -> jax.Array:
  """Root-mean-square norm of the last axis; computed in float32."""
  x32 = x.astype(jnp.float32)
  inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
  scale = scale.reshape((1,) * (x.ndim - 1) + scale.shape)
  # The reference implementation casts before it multiplies by the scale.
  return (x32 * inverse).astype(x.dtype) * scale.astype(x.dtype)


def rope(x_BTNH: jax.Array, position_BT: jax.Array, theta: float) -> jax.Array:
  """Rotary embedding (2104.09864) in the half-split form that Qwen3 uses."""
  half = x_BTNH.shape[-1] // 2
  # float32: at theta 1e6 the slowest angles vanish in bfloat16. A constant, by
  # which XLA sees that all layers have the same angles.
  frequency_h = (theta ** (-np.arange(half) / half)).astype(np.float32)
  angle = position_BT[..., None, None] * frequency_h[None, None, None, :]
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  cos = jnp.concatenate([cos, cos], axis=-1).astype(x_BTNH.dtype)
  sin = jnp.concatenate([-sin, sin], axis=-1).astype(x_BTNH.dtype)
  return x_BTNH * cos + jnp.roll(x_BTNH, half, axis=-1) * sin


class Cache(NamedTuple):
  """Where a layer writes the token that it reads.

  Attributes:
    key: [B, K, H, S], so that q.k reads S contiguously; of stacked layers
      [L, B, K, H, S].
    value: [B, K, S, H], or [L, B, K, S, H].
    layer: of stacked layers, which one; else None.
    length: int32 scalar, the slot to write; those before it are full.
  """

  key: jax.Array
  value: jax.Array
  layer: jax.Array | None
  length: jax.Array

  def put(
    self, key: jax.Array, value: jax.Array
  ) -> tuple[jax.Array, jax.Array]:
    """The whole arrays with one more token: [B, K, H, 1], [B, K, 1, H]."""

    def write(into, x, axis):
      start = [0] * into.ndim
      start[axis] = self.length
      if self.layer is not None:
        x, start[0] = x[None], self.layer
      return jax.lax.dynamic_update_slice(into, x.astype(into.dtype), start)

    return write(self.key, key, -1), write(self.value, value, -2)


class Past(NamedTuple):
  """What one layer's tokens attend to beside each other.

  Attributes:
    prefixes: keys, values and lengths of what stands before them.
    cache: of the tokens that were written since, or None.
  """

  prefixes: tuple[attention_blocks.Prefix, ...] = ()
  cache: Cache | None = None


_NOTHING = Past()


def _each(cfg: Config, x: jax.Array, count: int) -> Sequence[jax.Array]:
  """The input of so many matrices, to XLA as many: unrolled, but on a CPU.

  For a GPU that samples it makes one product of those with one input: a copy of
  the matrices for each token, and results that stay as long as one of them. A
  backward pass keeps as many inputs: layers that are scanned have one.
  """
  each = (x,) * count
  if cfg.scan_layers or cfg.for_cpu:
    return each
  return jax.lax.optimization_barrier(each)


class Attention(nn.Module):
  """Grouped-query attention with RMS-normalised queries and keys."""

  cfg: Config

  @nn.compact
  def __call__(self, x_BTD, position_BT, past=_NOTHING):
    """Attends causally over x, or over a cache that x is written into.

    Args:
      x_BTD: normalised inputs; T is 1 when there is a cache.
      position_BT: position of each token.
      past: what stands before x.

    Returns:
      (output [B, T, D], (key, value)): of x as keys [B, K, H, T] and values
      [B, K, T, H]; with a cache, its arrays with x in them.
    """
    cfg = self.cfg
    B, T, _ = x_BTD.shape
    N, K, H = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    linear = lambda name, n, x: Linear(n * H, cfg.dtype, name=name)(x)
    if self.has_variable("params", "qkv"):  # `qwen3_cache.for_decoding`
      parts = linear("qkv", N + 2 * K, x_BTD)
      parts = jnp.split(parts, [N * H, (N + K) * H], axis=-1)
    else:
      q, k, v = _each(cfg, x_BTD, 3)
      parts = linear("q", N, q), linear("k", K, k), linear("v", K, v)
    query, key, value = (x.reshape(B, T, -1, H) for x in parts)
    query = RMSNorm(cfg.norm_eps, name="q_norm")(query)
    key = RMSNorm(cfg.norm_eps, name="k_norm")(key)
    query = rope(query, position_BT, cfg.rope_theta).reshape(B, T, K, -1, H)
    key = rope(key, position_BT, cfg.rope_theta)
    key = key.transpose(0, 2, 3, 1)
    value = value.transpose(0, 2, 1, 3)
    if past.cache is None:
      kept = key, value
      mixed = attention.causal(query, *kept, past.prefixes, cfg.attention)
    else:
      kept, layer = past.cache.put(key, value), past.cache.layer
      own = kept if layer is None else [x[layer] for x in kept]
      length = past.cache.length + 1
      mixed = attention.cached(query, *own, length, past.prefixes)
    out = Linear(cfg.width, cfg.dtype, name="o")(mixed.reshape(B, T, N * H))
    return out, kept


class Block(nn.Module):
  """Pre-norm attention and SwiGLU, each with a residual."""

  cfg: Config

  @nn.compact
  def __call__(self, x_BTD, position_BT, past=_NOTHING):
    """Same arguments and results as `Attention`, residuals included."""
    cfg = self.cfg
    y = RMSNorm(cfg.norm_eps, name="attn_norm")(x_BTD)
    y, kept = Attention(cfg, name="attn")(y, position_BT, past)
    x_BTD = x_BTD + y
    y = RMSNorm(cfg.norm_eps, name="mlp_norm")(x_BTD)
    linear = lambda name, n, x: Linear(n * cfg.mlp_dim, cfg.dtype, name=name)(x)
    if self.has_variable("params", "gate_up"):
      gate, up = jnp.split(linear("gate_up", 2, y), 2, axis=-1)
    else:
      y, other = _each(cfg, y, 2)
      gate, up = linear("gate", 1, y), linear("up", 1, other)
    y = Linear(cfg.width, cfg.dtype, name="down")(jax.nn.silu(gate) * up)
    return x_BTD + y, kept
