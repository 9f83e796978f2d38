"""Low-rank adapters (LoRA, 2106.09685) of the matrices of the layers.

  y = x W + (alpha / r) x A B,    A [in, r] random, B [r, out] zeros at first

W is frozen, in the dtype that the model computes in; A and B are trained in
float32. The KL reference is the model with its adapters off, so it takes no
memory. `join` puts adapters beside the matrices, `merge` adds them in.

Dimension key: L layers, r rank.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from memjax import qwen3

TARGETS = ("q", "k", "v", "o", "gate", "up", "down")


@dataclasses.dataclass(frozen=True)
class Shape:
  """Which matrices have adapters, and of which rank.

  Attributes:
    rank: r.
    alpha: adapters count alpha / r times.
    targets: names out of TARGETS.
  """

  rank: int
  alpha: float
  targets: tuple[str, ...] = TARGETS

  @property
  def scale(self) -> float:
    """What adapters are multiplied by."""
    return self.alpha / self.rank


def make(rank: int, alpha: float, targets: Sequence[str]) -> Shape | None:
  """The adapters of config.lora; None for rank 0.

  Raises:
    ValueError: no target, or one that there is not.
  """
  if not rank:
    return None
  unknown = [x for x in targets if x not in TARGETS]
  if unknown or not targets:
    raise ValueError(
      f"config.lora.targets={tuple(targets)}: choose among "
      f"{', '.join(TARGETS)}, at least one"
    )
  return Shape(rank, alpha, tuple(targets))


def init(key: jax.Array, params: qwen3.Params, shape: Shape) -> qwen3.Params:
  """Adapters that change nothing yet: {layers: {...: {lora_a, lora_b}}}.

  Both are float32. A is drawn as the matrices are, with variance 1 / in.
  """

  def adapters(tree: Any, key: jax.Array) -> Any:
    if "kernel" in tree:
      L, width, features = tree["kernel"].shape
      a = jax.random.normal(key, (L, width, shape.rank)) * width**-0.5
      return {"lora_a": a, "lora_b": jnp.zeros((L, shape.rank, features))}
    found = {}
    for i, (child, part) in enumerate(sorted(tree.items())):
      if isinstance(part, dict) and (
        child in shape.targets or "kernel" not in part
      ):
        below = adapters(part, jax.random.fold_in(key, i))
        found |= {child: below} if below else {}
    return found

  return {"layers": adapters(params["layers"], key)}


def join(
  params: qwen3.Params, adapters: qwen3.Params, shape: Shape
) -> qwen3.Params:
  """The model's parameters with adapters beside the matrices.

  Differentiable in the adapters; nothing of the size of a matrix is made.
  """
  beside = lambda linear, x: linear | x | {"lora_b": x["lora_b"] * shape.scale}
  return _with(params, adapters, beside)


def merge(
  params: qwen3.Params, adapters: qwen3.Params, shape: Shape
) -> qwen3.Params:
  """The model with its adapters added into the matrices, in their dtype."""

  def added(linear: Any, x: Any) -> Any:
    more = jnp.einsum("Lir,Lro->Lio", x["lora_a"], x["lora_b"])
    kernel = linear["kernel"]
    both = kernel + more * shape.scale
    return linear | {"kernel": both.astype(kernel.dtype)}

  return _with(params, adapters, added)


def _with(params: Any, adapters: Any, change: Any) -> Any:
  """Parameters in which each matrix that has adapters is changed."""
  if "kernel" in params:
    return change(params, adapters)
  if isinstance(adapters, tuple):  # layers that are apart
    both = zip(params, adapters, strict=True)
    return tuple(_with(*layer, change) for layer in both)
  below = {name: _with(params[name], x, change) for name, x in adapters.items()}
  return params | below
