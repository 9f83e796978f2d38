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

import jax.numpy as jnp

from memjax import plan_devices
from memjax import qwen3

# Tokens whose logits exist at once in the loss (`qwen3.token_logp`).
_LOSS_TOKENS = 1024
# float32 scores that attention in blocks holds at once, in bytes.
_BLOCK_SCORES = 2**28
# How far the formulas are from the figures that XLA gave, at most.
ERROR = 0.05


@dataclasses.dataclass(frozen=True)
class Call:
  """A model call of a wave, at its greatest length.

  Attributes:
    op: the operation.
    rows: B, at once.
    times: how often in a wave, one behind the other.
    prompt: P.
    response: A.
  """

  op: str
  rows: int
  times: int
  prompt: int
  response: int


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
  """

  model: qwen3.Config
  calls: tuple[Call, ...]
  waves: int
  trained: tuple[Call, ...]
  reads: str
  micro_batch: int
  updates: int
  scored: float

  @property
  def longest(self) -> Call:
    """The longest trained rows: what a micro-batch holds at most."""
    return max(self.trained, key=lambda call: call.prompt + call.response)

  def shorter(self, tokens: int) -> "Work":
    """The same with chunks that are so much shorter."""
    cut = lambda calls: tuple(
      dataclasses.replace(c, prompt=c.prompt - tokens * (c.op == self.reads))
      for c in calls
    )
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


def _scores(cfg: qwen3.Config, rows: int, tokens: int, each: int) -> float:
  """Attention scores of a layer; `each` bytes for each of them."""
  kind = getattr(cfg, "attention", "plain")
  if kind == "cudnn":
    return 0
  every = rows * cfg.num_heads * tokens**2 * each
  return min(every, _BLOCK_SCORES / 4 * each) if kind == "blocks" else every


def _attending(cfg: qwen3.Config, rows: int, tokens: int) -> int:
  """What a layer holds while it attends, beside the scores: x, q, k, v."""
  heads = (cfg.num_heads + 2 * cfg.num_kv_heads) * cfg.head_dim
  return rows * tokens * (cfg.width + heads) * _width(cfg)


def _mixing(cfg: qwen3.Config, rows: int, tokens: int) -> int:
  """What a layer holds in its MLP: x twice, gate, up, and their product."""
  return rows * tokens * (2 * cfg.width + 3 * cfg.mlp_dim) * _width(cfg)


def rollout(cfg: qwen3.Config, call: Call) -> dict[str, float]:
  """Temporaries of a rollout by purpose, at its fullest moment."""
  B, P = call.rows, call.prompt
  read = cache_bytes(cfg, B, P)
  whole = cache_bytes(cfg, B, P + call.response)
  moments = (
    {  # the last layer of prefill: scores, then their softmax
      "cache": read,
      "attention scores": _scores(cfg, B, P, 4 + _width(cfg)),
      "activations": _attending(cfg, B, P),
    },
    {"cache": read, "activations": _mixing(cfg, B, P)},
    {"cache": whole + read / 2},  # room is added to keys, then to values
    {  # logits, their log-softmax and the noise
      "cache": whole,
      "logits": 3 * 4 * B * cfg.vocab_size,
    },
  )
  return max(moments, key=lambda parts: sum(parts.values()))


def gradient(
  cfg: qwen3.Config, call: Call, shards: int = 1
) -> dict[str, float]:
  """Temporaries of a micro-batch's gradient by purpose.

  Args:
    cfg: the model.
    call: whose rows are the micro-batch's.
    shards: devices among which gradients are divided.
  """
  rows, response, e = call.rows, call.response, _width(cfg)
  T = call.prompt + response
  layers = 4 * cfg.num_layers * layer_params(cfg) / shards
  embed = cfg.vocab_size * cfg.width / shards
  saved = cfg.num_layers * rows * T * cfg.width * e
  if not cfg.remat:
    kept = _attending(cfg, rows, T) + _mixing(cfg, rows, T)
    kept += _scores(cfg, rows, T, 4 + e)
    saved += cfg.num_layers * kept
  moments = (
    {  # logits twice and their gradient; both uses of the embedding
      "gradients": 8 * embed,
      "saved activations": saved,
      "logits": 3 * 4 * min(_LOSS_TOKENS, rows * response) * cfg.vocab_size,
    },
    {  # a layer's scores, weights, and the gradients of both in float32
      "gradients": layers,
      "saved activations": saved,
      "attention scores": _scores(cfg, rows, T, 16),
      "activations": 2 * _attending(cfg, rows, T),
    },
    {  # a layer's own gradient in float32, the embedding as it is computed with
      "gradients": layers + 4 * layer_params(cfg),
      "saved activations": saved,
      "activations": 2 * _mixing(cfg, rows, T) + e * cfg.vocab_size * cfg.width,
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
  devices: int,
  params: int,
  moments: int,
) -> dict[str, Cost]:
  """What an iteration costs, all texts and responses at their full length.

  Args:
    work: of an iteration.
    device: at its peak.
    devices: among which all of it is divided.
    params: numbers of the model.
    moments: bytes of the optimiser's state.
  """
  cfg = work.model
  flops, bandwidth = device.flops * devices, device.bandwidth * devices
  weights = cfg.num_layers * layer_params(cfg) + cfg.vocab_size * cfg.width
  read = written = moved = waited = 0.0
  for call in work.calls:
    B, P, A = call.rows, call.prompt, call.response
    times = call.times * work.waves
    read += times * B * (forward_flops(cfg, P) + head_flops(cfg, 1))
    new = B * (forward_flops(cfg, A, P) + head_flops(cfg, A))
    # Each token reads the weights once for all rows, and each row's cache.
    passed = A * weights * _width(cfg) + cache_bytes(cfg, B, A) * (P + A / 2)
    written += times * new
    moved += times * passed
    waited += times * max(new / flops, passed / bandwidth)
  backward = scored = 0.0
  for call in work.trained:
    layers = forward_flops(cfg, call.prompt + call.response)
    head = head_flops(cfg, call.response)
    # Forward and twice as much backward; what is recomputed comes on top.
    backward += call.rows * ((3 + cfg.remat) * layers + 4 * head)
    scored += call.rows * work.scored * (layers + head)
  # Masters and moments are read and written, gradients read.
  stepped = work.updates * (3 * 4 * params + 2 * moments)
  return {
    "prefill": Cost(read, 0, read / flops),
    "decoding": Cost(written, moved, waited),
    "scoring": Cost(scored, 0, scored / flops),
    "gradients": Cost(backward, 0, backward / flops),
    "optimiser": Cost(0, stepped, stepped / bandwidth),
  }
