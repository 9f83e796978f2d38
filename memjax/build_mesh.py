"""From config.mesh to devices: what they cannot share evenly is refused."""

from typing import Any

import jax
import ml_collections
from absl import logging

from memjax import qwen3
from memjax import rows
from memjax import sharding


def make(
  config: ml_collections.ConfigDict, model: qwen3.Config
) -> jax.sharding.Mesh | None:
  """The mesh of a run; None for one device.

  Raises:
    ValueError: there are not so many devices; or a size that does not divide,
      which would be held whole, or computed by each, without a word.
  """
  mesh = sharding.make_mesh(config.mesh)
  check(config, model, mesh)
  used = mesh.size if mesh else 1
  if used < jax.device_count():
    logging.warning(
      "%d of %d devices are used: config.mesh.data, fsdp and tensor say how "
      "many",
      used,
      jax.device_count(),
    )
  return mesh


def check(
  config: ml_collections.ConfigDict, model: qwen3.Config, mesh: Any
) -> None:
  """Refuses what a mesh does not divide.

  Args:
    config: of a run.
    model: the policy's shape.
    mesh: what has a `shape` by axis, or None.

  Raises:
    ValueError: names the size, and what it must be a multiple of.
  """
  rollout, train = config.rollout, config.train
  # Rows that share the beginning of their prompts are not parted.
  group = rollout.group_size if rollout.share_prefix else 1
  whole = rows.pack(group, train.micro_batch)
  sizes = {
    "num_key_value_heads": (model.num_kv_heads, "kv_heads"),
    "num_attention_heads": (model.num_heads, "heads"),
    "intermediate_size": (model.mlp_dim, "mlp"),
    "vocab_size": (model.vocab_size, "vocab"),
    "hidden_size": (model.width, "width"),
    "config.rollout.wave_questions * group_size": (
      rollout.wave_questions * rollout.group_size,
      "batch",
    ),
    "config.train.micro_batch": (train.micro_batch, "batch"),
    f"config.train.micro_batch in groups of {whole}": (
      train.micro_batch // whole * whole,
      "batch",
    ),
    "config.eval.batch_size": (config.eval.batch_size, "batch"),
  }
  if config.agent.retriever == "rerank" and "rerank" in config.agent.trained:
    count = config.reranker.micro_batch
    sizes["config.reranker.micro_batch"] = (count, "batch")
  sharding.check_sizes(mesh, sizes)
