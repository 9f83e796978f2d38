"""Qwen3 in Flax: RMSNorm, grouped-query attention with QK-norm, RoPE, SwiGLU.

Linen defines one block; the layers share one stacked parameter tree that is
either scanned (short compiles) or unrolled (faster on CPU): the same numbers
from the same parameters. Parameters are a plain nested dict and nothing else
in memjax sees a flax module.

Rows are right-padded. With causal attention a token never sees what stands
after it, so padding needs no mask: whatever is computed there is not read.

Dimension key: B sequences, T tokens, S cache tokens, D width, N query heads,
K kv heads, G = N / K, H head width, F mlp width, V vocabulary, L layers.
"""

import dataclasses
import functools
from typing import Any
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from memjax import attention
from memjax import sharding

Params = dict[str, Any]


_checkpoint = functools.partial(jax.checkpoint, prevent_cse=False)
# From all of a layer to nothing: the less is stored, the more is done again.
REMATS = {
  "full": _checkpoint,
  "dots": functools.partial(
    _checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  "none": None,
}


@dataclasses.dataclass(frozen=True)
class Config:
  """Shape and numerics of one model; static under jit.

  Attributes:
    dtype: what activations and matrix products are computed in. Norms,
      softmax and logits are float32 in any case.
    scan_layers: `lax.scan` over the stacked layers, else a Python loop.
    remat: key of REMATS, what of a layer the backward pass computes again.
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
  remat: str = "none"
  attention: str = "blocks"

  def __post_init__(self):
    """Refuses sizes that do not divide."""
    if self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads={self.num_heads} is not a multiple of "
        f"num_kv_heads={self.num_kv_heads}"
      )
    if self.head_dim % 2:
      raise ValueError(f"head_dim={self.head_dim} must be even for RoPE")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
  """Keys and values of all layers; it travels in the carry of every loop.

  Attributes:
    key: [L, B, K, H, S], so that q.k reads S contiguously.
    value: [L, B, K, S, H].
    length: int32 [B], the tokens that each row has written.
  """

  key: jax.Array
  value: jax.Array
  length: jax.Array


class Linear(nn.Module):
  """y = x W without bias, over one flattened leading axis.

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
  # float32: at theta 1e6 the slowest angles vanish in bfloat16.
  frequency_h = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
  angle = position_BT[..., None, None] * frequency_h[None, None, None, :]
  cos = jnp.cos(angle).astype(x_BTNH.dtype)
  sin = jnp.sin(angle).astype(x_BTNH.dtype)
  low, high = x_BTNH[..., :half], x_BTNH[..., half:]
  return jnp.concatenate(
    [low * cos - high * sin, high * cos + low * sin], axis=-1
  )


class Past(NamedTuple):
  """What one layer's tokens attend to beside each other.

  Attributes:
    prefix: keys, values and lengths of a prefix (`attention.Prefix`), or None.
    cache: (keys [L, B, K, H, S], values [L, B, K, S, H], layer, length [B]) to
      be written into, or None.
  """

  prefix: attention.Prefix | None = None
  cache: tuple[jax.Array, jax.Array, jax.Array | int, jax.Array] | None = None


_NOTHING = Past()


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
      [B, K, T, H]; with a cache, the whole cache.
    """
    cfg = self.cfg
    B, T, _ = x_BTD.shape
    N, K, H = cfg.num_heads, cfg.num_kv_heads, cfg.head_dim
    heads = lambda name, n: Linear(n * H, cfg.dtype, name=name)(x_BTD).reshape(
      B, T, n, H
    )
    query = RMSNorm(cfg.norm_eps, name="q_norm")(heads("q", N))
    key = RMSNorm(cfg.norm_eps, name="k_norm")(heads("k", K))
    query = rope(query, position_BT, cfg.rope_theta).reshape(B, T, K, -1, H)
    key = rope(key, position_BT, cfg.rope_theta)
    value = heads("v", K)
    if past.cache is None:
      key, value = key.transpose(0, 2, 3, 1), value.transpose(0, 2, 1, 3)
      mixed = attention.causal(query, key, value, past.prefix, cfg.attention)
      kept = key, value
    else:
      # Each row writes at its own next slot of this layer.
      keys, values, layer, length_B = past.cache
      row = jnp.arange(B)
      keys = keys.at[layer, row, :, :, length_B].set(
        key[:, 0].astype(cfg.dtype)
      )
      values = values.at[layer, row, :, length_B].set(
        value[:, 0].astype(cfg.dtype)
      )
      mixed = attention.cached(
        query, keys[layer], values[layer], length_B + 1, past.prefix
      )
      kept = keys, values
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
    gate = Linear(cfg.mlp_dim, cfg.dtype, name="gate")(y)
    up = Linear(cfg.mlp_dim, cfg.dtype, name="up")(y)
    y = Linear(cfg.width, cfg.dtype, name="down")(jax.nn.silu(gate) * up)
    return x_BTD + y, kept


def init(key: jax.Array, cfg: Config) -> Params:
  """Random float32 parameters: {embed, layers (leading L), final_norm, head}.

  `head` is there only if the embeddings are not tied.
  """
  embed_key, layers_key, head_key = jax.random.split(key, 3)
  x, position = jnp.zeros((1, 1, cfg.width)), jnp.zeros((1, 1), jnp.int32)
  # No parameter depends on how it attends, and cuDNN need not be here.
  block = Block(dataclasses.replace(cfg, attention="plain"))
  one = lambda key: block.init(key, x, position)["params"]
  params = {
    "embed": jax.random.normal(embed_key, (cfg.vocab_size, cfg.width))
    * cfg.width**-0.5,
    "layers": jax.vmap(one)(jax.random.split(layers_key, cfg.num_layers)),
    "final_norm": jnp.ones((cfg.width,)),
  }
  if not cfg.tied_embeddings:
    params["head"] = nn.initializers.lecun_normal()(
      head_key, (cfg.width, cfg.vocab_size)
    )
  return params


def num_params(cfg: Config) -> int:
  """How many parameters a model of this shape has; allocates nothing."""
  shapes = jax.eval_shape(lambda: init(jax.random.key(0), cfg))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _embed(params: Params, cfg: Config, tokens: jax.Array) -> jax.Array:
  # Whole in its width, as the rows that it gives are.
  table = sharding.constrain(params["embed"], "vocab")
  return sharding.constrain(table[tokens].astype(cfg.dtype), "batch")


def _layers(params, cfg, x, step, carry=None, before=None):
  """Runs step(x, (layer params, before, index), carry) over stacked layers."""
  stacked = params["layers"], before

  def body(state, xs):
    x, carry, out = step(state[0], xs, state[1])
    return (x, carry), out

  if REMATS[cfg.remat]:
    body = REMATS[cfg.remat](body)
  if cfg.scan_layers:
    index = jnp.arange(cfg.num_layers)
    return jax.lax.scan(body, (x, carry), (*stacked, index))
  state, outs = (x, carry), []
  for i in range(cfg.num_layers):
    layer = jax.tree.map(lambda leaf: leaf[i], stacked)  # noqa: B023
    state, out = body(state, (*layer, i))
    outs.append(out)
  return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *outs)


def forward(
  params: Params,
  cfg: Config,
  tokens_BT: jax.Array,
  keep_cache: bool = False,
  prefix: Cache | None = None,
) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
  """Hidden states after the final norm.

  Args:
    params: as `init` gives them.
    cfg: the model.
    tokens_BT: right-padded rows.
    keep_cache: also return keys [L, B, K, H, T] and values [L, B, K, T, H].
    prefix: of W texts that the rows go on from, B / W rows each;
      differentiable.

  Returns:
    (hidden [B, T, D], (keys, values) or None).
  """
  B, T = tokens_BT.shape
  position = _start(prefix, B)[:, None] + jnp.arange(T)[None, :]
  before = (prefix.key, prefix.value) if prefix else None

  def step(x, xs, carry):
    layer, before, _ = xs
    past = Past(before and (*before, prefix.length))
    x, kv = Block(cfg).apply({"params": layer}, x, position, past)
    return x, carry, kv if keep_cache else None

  x = _embed(params, cfg, tokens_BT)
  (x, _), kv = _layers(params, cfg, x, step, before=before)
  return rms_norm(x, params["final_norm"], cfg.norm_eps), kv


def _start(prefix: Cache | None, batch: int) -> jax.Array:
  """int32 [B]: the position of each row's first token."""
  if prefix is None:
    return jnp.zeros((batch,), jnp.int32)
  return jnp.repeat(prefix.length, batch // prefix.length.shape[0])


def read_prefix(
  params: Params, cfg: Config, tokens_WP: jax.Array, length_W: jax.Array
) -> Cache:
  """Reads texts that several rows go on from; differentiable."""
  _, (key, value) = forward(params, cfg, tokens_WP, keep_cache=True)
  return Cache(key, value, length_W)


def prefill(
  params: Params,
  cfg: Config,
  tokens_BT: jax.Array,
  length_B: jax.Array,
  capacity: int,
  prefix: Cache | None = None,
) -> tuple[jax.Array, Cache]:
  """Reads prompts; returns the hidden state of each last token and the cache.

  Args:
    params: the model's parameters.
    cfg: the model.
    tokens_BT: right-padded prompts, each of at least one token.
    length_B: their lengths.
    capacity: S, the slots of the cache: prompt and new tokens together.
    prefix: what the prompts go on from; not copied into the cache.

  Returns:
    (hidden [B, D], cache).
  """
  hidden, (key, value) = forward(params, cfg, tokens_BT, True, prefix)
  last = jnp.take_along_axis(hidden, (length_B - 1)[:, None, None], axis=1)
  room = capacity - tokens_BT.shape[1]
  pad = lambda x, axis: jnp.pad(
    x, [(0, room if i == axis else 0) for i in range(x.ndim)]
  )
  cut = lambda x: sharding.constrain(x, None, "batch", "kv_heads")
  return last[:, 0], Cache(cut(pad(key, 4)), cut(pad(value, 3)), length_B)


def decode_step(
  params: Params,
  cfg: Config,
  token_B: jax.Array,
  cache: Cache,
  prefix: Cache | None = None,
) -> tuple[jax.Array, Cache]:
  """Reads one more token per row: (hidden [B, D], cache one longer)."""
  position = (_start(prefix, len(token_B)) + cache.length)[:, None]
  before = (prefix.key, prefix.value) if prefix else None

  def step(x, xs, carry):
    layer, before, i = xs
    past = Past(before and (*before, prefix.length), (*carry, i, cache.length))
    x, carry = Block(cfg).apply({"params": layer}, x, position, past)
    return x, carry, None

  x = _embed(params, cfg, token_B[:, None])
  cfg = dataclasses.replace(cfg, remat="none")
  (x, (key, value)), _ = _layers(
    params, cfg, x, step, (cache.key, cache.value), before
  )
  hidden = rms_norm(x[:, 0], params["final_norm"], cfg.norm_eps)
  return hidden, Cache(key, value, cache.length + 1)


def unembed(params: Params, cfg: Config, hidden: jax.Array) -> jax.Array:
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


def logits(
  params: Params, cfg: Config, tokens_BT: jax.Array, length_B: jax.Array
) -> jax.Array:
  """float32 logits [B, T, V] of right-padded rows; zero on the padding."""
  hidden, _ = forward(params, cfg, tokens_BT)
  mask = jnp.arange(tokens_BT.shape[1])[None, :] < length_B[:, None]
  return jnp.where(mask[..., None], unembed(params, cfg, hidden), 0.0)


def token_logp(
  params: Params,
  cfg: Config,
  hidden_RTD: jax.Array,
  target_RT: jax.Array,
  temperature: float = 1.0,
  chunk: int = 1024,
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
