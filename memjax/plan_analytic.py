"""Bytes, operations and times of a run by formula.

Operations and times are always counted here: XLA's own count sees the body of
a loop once. Bytes are counted here where no compiler is at hand, and to say
what XLA's one buffer of temporaries is for.

The formulas of temporaries say what is alive at the moment that holds most;
they are tested against XLA's figures (experiments/08_plan).

Dimension key: B rows of a rollout, n of a micro-batch, P prompt tokens, A new
ones, T = P + A, D width, N query heads, K kv heads, H head width, F mlp width,
V vocabulary, L layers.
"""

import dataclasses
import math

import jax.numpy as jnp

from memjax import attention
from memjax import plan_devices
from memjax import qwen3
from memjax import qwen3_head
from memjax import rows as rows_lib

# How far the formulas are from the figures that XLA gave, at most: with the
# rows that a config has, and of gradients with fewer or of rows that share.
ERROR, ERROR_FEW = 0.05, 0.16


@dataclasses.dataclass(frozen=True)
class Call:
  """A model call of a wave, at its greatest length.

  Attributes:
    op: the operation.
    rows: B, at once.
    times: how often in a wave, one behind the other.
    prompt: P.
    response: A.
    shared: tokens before these prompts, which groups read and hold once.
    group: rows that share them.
  """

  op: str
  rows: int
  times: int
  prompt: int
  response: int
  shared: int = 0
  group: int = 1

  @property
  def texts(self) -> int:
    """How many beginnings are read."""
    return math.ceil(self.rows / self.group) if self.shared else 0


@dataclasses.dataclass(frozen=True)
class Work:
  """What an iteration computes.

  Attributes:
    model: the policy's shape.
    calls: of one wave.
    waves: of an iteration.
    trained: calls whose rows an iteration trains on, all of them at once.
    reads: the operation whose prompts hold a chunk.
    micro_batch: n.
    updates: optimiser steps.
    scored: forward passes of each trained row beside its gradient's.
    params: how many numbers are trained.
  """

  model: qwen3.Config
  calls: tuple[Call, ...]
  waves: int
  trained: tuple[Call, ...]
  reads: str
  micro_batch: int
  updates: int
  scored: float
  params: int

  @property
  def longest(self) -> Call:
    """The longest trained rows: what a micro-batch holds at most."""
    tokens = lambda call: call.shared + call.prompt + call.response
    return max(self.trained, key=tokens)

  def shorter(self, tokens: int) -> "Work":
    """The same with chunks that are so much shorter."""

    def one(call: Call) -> Call:
      if call.op != self.reads:
        return call
      # A chunk is shared where anything is.
      key = "shared" if call.shared else "prompt"
      return dataclasses.replace(call, **{key: getattr(call, key) - tokens})

    cut = lambda calls: tuple(map(one, calls))
    return dataclasses.replace(
      self, calls=cut(self.calls), trained=cut(self.trained)
    )


def layer_params(cfg: qwen3.Config) -> int:
  """Weights of a layer's matrix products."""
  attention = 2 * cfg.width * (cfg.num_heads + cfg.num_kv_heads) * cfg.head_dim
  return attention + 3 * cfg.width * cfg.mlp_dim


def cache_bytes(cfg: qwen3.Config, rows: int, slots: int) -> int:
  """Keys and values of all layers."""
  numbers = 2 * cfg.num_layers * cfg.num_kv_heads * cfg.head_dim * rows * slots
  return numbers * _width(cfg)


def _width(cfg: qwen3.Config) -> int:
  return jnp.dtype(cfg.dtype).itemsize


def _scores(
  cfg: qwen3.Config, rows: int, tokens: int, each: int, before: int = 0
) -> float:
  """Attention scores of a layer; `each` bytes for each of them."""
  if cfg.attention == "cudnn":
    return 0
  every = rows * cfg.num_heads * tokens * (tokens + before) * each
  if cfg.attention == "blocks":
    return min(every, attention.BLOCK_SCORES * each)
  return every


def _behind(
  cfg: qwen3.Config, rows: int, tokens: int, before: int, times: int
) -> float:
  """What cuDNN takes to attend to a prefix: each row its own copy, and a mask.

  Keys and values of prefix and row stand together, `times` of each (gradients
  are as large); the mask is a bias in the dtype of the keys.
  """
  if cfg.attention != "cudnn" or not before:
    return 0
  heads = 2 * cfg.num_kv_heads * cfg.head_dim
  keys = rows * (before + tokens) * heads
  return (times * keys + rows * tokens * (before + tokens)) * _width(cfg)


def _attending(cfg: qwen3.Config, rows: int, tokens: int) -> int:
  """What a layer holds while it attends, beside the scores: x, q, k, v."""
  heads = (cfg.num_heads + 2 * cfg.num_kv_heads) * cfg.head_dim
  return rows * tokens * (cfg.width + heads) * _width(cfg)


def _attended(cfg: qwen3.Config, rows: int, tokens: int) -> int:
  """What a layer's attention keeps for its backward pass: q, k, v, output."""
  heads = 2 * (cfg.num_heads + cfg.num_kv_heads) * cfg.head_dim
  return rows * tokens * heads * _width(cfg)


def _kept(cfg: qwen3.Config) -> int:
  """Of a token, what a layer keeps for its backward pass beside its input.

  Counted from the residuals of `jax.vjp`: "dots" keeps what q, k, v, o, gate
  and up give; "none" what each operation reads, norms and RoPE in float32.
  """
  D, F, e = cfg.width, cfg.mlp_dim, _width(cfg)
  query, key = cfg.num_heads * cfg.head_dim, cfg.num_kv_heads * cfg.head_dim
  return {
    "full": 0,
    "dots": e * (query + 2 * key + D + 2 * F),
    "none": e * (6 * F + 6 * D + 4 * query + 3 * key)
    + 4 * (2 * D + query + key),
  }[cfg.remat]


def _mixing(cfg: qwen3.Config, rows: int, tokens: int) -> int:
  """What a layer holds in its MLP: x twice, gate, up, and their product."""
  return rows * tokens * (2 * cfg.width + 3 * cfg.mlp_dim) * _width(cfg)


def rollout(
  cfg: qwen3.Config, call: Call, in_parts: bool = True
) -> dict[str, float]:
  """Temporaries of a rollout by purpose, at its fullest moment.

  Args:
    cfg: the model that samples.
    call: whose rows are sampled.
    in_parts: its prompts may be read in parts, as one device does.
  """
  B, P, W = call.rows, call.prompt, call.texts
  n = B // qwen3.parts(cfg, B, P, W < 2) if in_parts else B
  prefix = cache_bytes(cfg, W, call.shared)
  read = cache_bytes(cfg, B, P)
  if n < B:  # a part's own is there until it is put to the others
    read += cache_bytes(cfg, n, P)
  whole = cache_bytes(cfg, B, P + call.response)
  moments = (
    {  # the last layer of prefill: scores, then their softmax
      "cache": prefix + read,
      "attention scores": _scores(cfg, n, P, 4 + _width(cfg), call.shared),
      "activations": _attending(cfg, n, P) + _behind(cfg, n, P, call.shared, 1),
    },
    {"cache": prefix + read, "activations": _mixing(cfg, n, P)},
    {"cache": prefix, "activations": _mixing(cfg, W, call.shared)},
    {  # logits, their log-softmax and the noise
      "cache": prefix + whole,
      "logits": 3 * 4 * B * cfg.vocab_size,
    },
  )
  return max(moments, key=lambda parts: sum(parts.values()))


def gradient(
  cfg: qwen3.Config, call: Call, shards: int = 1, whole: bool = True
) -> dict[str, float]:
  """Temporaries of a micro-batch's gradient by purpose.

  Args:
    cfg: the model.
    call: whose rows are the micro-batch's.
    shards: devices among which gradients are divided.
    whole: the matrices are trained, not adapters of them, whose gradients are
      too small to count.
  """
  rows, response, e = call.rows, call.response, _width(cfg)
  T, before, W = call.prompt + response, call.shared, call.texts
  layers = whole * 4 * cfg.num_layers * layer_params(cfg) / shards
  embed = whole * cfg.vocab_size * cfg.width / shards
  tokens = rows * T + W * before
  saved = cfg.num_layers * tokens * cfg.width * e
  saved += cfg.num_layers * tokens * _kept(cfg)
  if cfg.remat == "none":
    saved += cfg.num_layers * _scores(cfg, rows, T, 4 + e, before)
  moments = (
    {  # logits twice and their gradient; both uses of the embedding
      "gradients": 8 * embed,
      "saved activations": saved,
      "logits": 3 * 4 * min(qwen3_head.CHUNK, rows * response) * cfg.vocab_size,
    },
    {  # a layer's scores, weights, and the gradients of both in float32
      "gradients": layers,
      "saved activations": saved,
      "attention scores": _scores(cfg, rows, T, 16, before),
      "activations": 2 * _attending(cfg, 1, tokens)
      + _behind(cfg, rows, T, before, 2),
    },
    {  # a layer's own gradient in float32, the embedding as it is computed with
      "gradients": layers + whole * 4 * layer_params(cfg),
      "saved activations": saved,
      "activations": 2 * _mixing(cfg, 1, tokens)
      + _attended(cfg, 1, tokens)
      + e * cfg.vocab_size * cfg.width,
    },
  )
  return max(moments, key=lambda parts: sum(parts.values()))


def gathered(cfg: qwen3.Config) -> float:
  """What fsdp brings together for a moment: the embedding and two layers."""
  return _width(cfg) * (2 * layer_params(cfg) + cfg.vocab_size * cfg.width)


def step(params: int, shards: int = 1) -> dict[str, float]:
  """Temporaries of an optimiser step: all updates, in float32."""
  return {"gradients": 4 * params / shards}


def forward_flops(cfg: qwen3.Config, tokens: int, before: int = 0) -> float:
  """Operations of a row's layers: products, and causal attention.

  Args:
    cfg: the model.
    tokens: that are read.
    before: that they also attend to.
  """
  seen = tokens * before + tokens**2 / 2
  attention = 4 * cfg.num_heads * cfg.head_dim * seen
  return cfg.num_layers * (2 * layer_params(cfg) * tokens + attention)


def head_flops(cfg: qwen3.Config, tokens: int) -> float:
  """Operations of unembedding."""
  return 2.0 * cfg.width * cfg.vocab_size * tokens


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one part of an iteration.

  Attributes:
    flops: operations.
    bytes: read and written where memory is what is waited for.
    seconds: at least, at the device's peak.
  """

  flops: float
  bytes: float
  seconds: float


def costs(
  work: Work,
  device: plan_devices.Device,
  mesh: plan_devices.Mesh,
  moments: int,
) -> dict[str, Cost]:
  """What an iteration costs, all texts and responses at their full length.

  Args:
    work: of an iteration.
    device: at its peak.
    mesh: of devices, among which operations are divided. Parameters are read by
      each of those that have other rows.
    moments: bytes of the optimiser's state.
  """
  cfg = work.model
  flops, bandwidth = device.flops * mesh.size, device.bandwidth * mesh.size
  weights = cfg.num_layers * layer_params(cfg) + cfg.vocab_size * cfg.width
  read = written = moved = waited = 0.0
  for call in work.calls:
    B, P, A = call.rows, call.prompt, call.response
    before, W = call.shared, call.texts
    times = call.times * work.waves
    read += times * W * forward_flops(cfg, before)
    read += times * B * (forward_flops(cfg, P, before) + head_flops(cfg, 1))
    new = B * (forward_flops(cfg, A, before + P) + head_flops(cfg, A))
    # Each token reads the weights once for all rows, and each row's cache.
    passed = A * weights * _width(cfg) * mesh.rows
    passed += cache_bytes(cfg, B, A) * (P + A / 2)
    passed += cache_bytes(cfg, W, A) * before
    written += times * new
    moved += times * passed
    waited += times * max(new / flops, passed / bandwidth)
  backward = scored = 0.0
  for call in work.trained:
    # A pack reads what its rows share once.
    pack = rows_lib.pack(call.group, work.micro_batch)
    texts = call.rows / pack if call.shared else 0
    layers = texts * forward_flops(cfg, call.shared)
    layers += call.rows * forward_flops(
      cfg, call.prompt + call.response, call.shared
    )
    head = call.rows * head_flops(cfg, call.response)
    # Forward and twice as much backward; what is recomputed comes on top.
    again = cfg.remat == "full"
    backward += (3 + again) * layers + 4 * head
    scored += work.scored * (layers + head)
  # Masters and moments are read and written, gradients read.
  stepped = work.updates * (3 * 4 * work.params + 2 * moments) * mesh.data
  return {
    "prefill": Cost(read, 0, read / flops),
    "decoding": Cost(written, moved, waited),
    "scoring": Cost(scored, 0, scored / flops),
    "gradients": Cost(backward, 0, backward / flops),
    "optimiser": Cost(0, stepped, stepped / bandwidth),
  }
