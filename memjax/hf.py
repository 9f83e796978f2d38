"""Qwen3 checkpoints of Hugging Face: safetensors in and out.

The port is the table below: a name pattern, the place in our tree, and whether
the matrix is transposed (torch keeps [out, in], we keep [in, out]). Every
tensor of a file must be in the table, with the shape that the config implies,
exactly once; every entry of the table must be in the files.
"""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from memjax import qwen3
from memjax import sharding

_LAYER = "model.layers.{}."
# suffix of the tensor's name, path below "layers", transposed
_LAYER_TABLE = (
  ("input_layernorm.weight", "attn_norm.scale", False),
  ("self_attn.q_proj.weight", "attn.q.kernel", True),
  ("self_attn.k_proj.weight", "attn.k.kernel", True),
  ("self_attn.v_proj.weight", "attn.v.kernel", True),
  ("self_attn.o_proj.weight", "attn.o.kernel", True),
  ("self_attn.q_norm.weight", "attn.q_norm.scale", False),
  ("self_attn.k_norm.weight", "attn.k_norm.scale", False),
  ("post_attention_layernorm.weight", "mlp_norm.scale", False),
  ("mlp.gate_proj.weight", "gate.kernel", True),
  ("mlp.up_proj.weight", "up.kernel", True),
  ("mlp.down_proj.weight", "down.kernel", True),
)
_EMBED, _NORM, _HEAD = (
  "model.embed_tokens.weight",
  "model.norm.weight",
  "lm_head.weight",
)

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class MissingTensorError(ValueError):
  """A tensor that the config implies is in no file."""


class UnexpectedTensorError(ValueError):
  """A file holds a tensor that the model does not have."""


class DuplicateTensorError(ValueError):
  """Two files hold the same tensor."""


class TensorShapeError(ValueError):
  """A tensor has another shape than the config implies."""


def load_config(path: str | os.PathLike) -> qwen3.Config:
  """Reads config.json.

  Raises:
    ValueError: there is none, or it describes a model that is not this Qwen3.
  """
  file = pathlib.Path(path) / "config.json"
  if not file.is_file():
    what = "has no config.json" if file.parent.is_dir() else "is no folder"
    raise ValueError(f"{path} {what}: name a Hugging Face directory of Qwen3")
  try:
    found = json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{file} is not JSON: {error}") from error
  # transformers 5 keeps RoPE's numbers in rope_parameters, 4 beside the rest.
  rope = found.get("rope_parameters") or {}
  scaling = found.get("rope_scaling") or rope
  for name, value, expected in (
    ("model_type", found.get("model_type"), "qwen3"),
    ("hidden_act", found.get("hidden_act", "silu"), "silu"),
    ("attention_bias", found.get("attention_bias", False), False),
    ("use_sliding_window", found.get("use_sliding_window", False), False),
    (
      "rope type",
      scaling.get("rope_type", scaling.get("type", "default")),
      "default",
    ),
  ):
    if value != expected:
      raise ValueError(
        f"{file}: {name} is {value!r}, only {expected!r} is supported"
      )
  theta = found.get("rope_theta", rope.get("rope_theta"))
  needed = {
    "vocab_size": found.get("vocab_size"),
    "width": found.get("hidden_size"),
    "num_layers": found.get("num_hidden_layers"),
    "num_heads": found.get("num_attention_heads"),
    "num_kv_heads": found.get("num_key_value_heads"),
    "head_dim": found.get("head_dim"),
    "mlp_dim": found.get("intermediate_size"),
    "rope_theta": theta,
    "norm_eps": found.get("rms_norm_eps"),
  }
  missing = [name for name, value in needed.items() if value is None]
  if missing:
    raise ValueError(f"{file} does not give {', '.join(missing)}")
  return qwen3.Config(
    **needed, tied_embeddings=bool(found.get("tie_word_embeddings", False))
  )


def _table(cfg: qwen3.Config) -> dict[str, tuple[str, int | None, bool]]:
  """Tensor name -> (path, layer, transposed)."""
  table = {
    _EMBED: ("embed", None, False),
    _NORM: ("final_norm", None, False),
  }
  if not cfg.tied_embeddings:
    table[_HEAD] = ("head", None, True)
  for layer in range(cfg.num_layers):
    for suffix, path, transposed in _LAYER_TABLE:
      name = _LAYER.format(layer) + suffix
      table[name] = (f"layers.{path}", layer, transposed)
  return table


def _leaf(tree: Any, path: str) -> Any:
  for part in path.split("."):
    tree = tree[part]
  return tree


def load(
  path: str | os.PathLike,
  dtype: jnp.dtype | str = jnp.float32,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[qwen3.Config, qwen3.Params]:
  """Reads a Qwen3 directory, sharded or in one file.

  Each tensor is read once, into the stacked array that it belongs to.

  Args:
    path: of the directory.
    dtype: of the parameters; the config's dtype is float32 in any case, change
      it with `dataclasses.replace`.
    mesh: to put the parameters on; None: the default device.

  Returns:
    (config, parameters).

  Raises:
    ValueError: the config is not this Qwen3, or a file is missing; and its
      subclasses for a tensor that is missing, unexpected, duplicated or of
      the wrong shape.
  """
  cfg = load_config(path)
  shapes = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), cfg))
  arrays = jax.tree.map(lambda x: np.empty(x.shape, jnp.dtype(dtype)), shapes)
  table, seen = _table(cfg), {}
  for file, name, read in _tensors(pathlib.Path(path)):
    if name in seen:
      raise DuplicateTensorError(
        f"{name} is in {seen[name]} and in {file}: remove one of the files"
      )
    seen[name] = file
    if name == _HEAD and cfg.tied_embeddings:
      continue  # compared below
    if name not in table:
      raise UnexpectedTensorError(
        f"{file} holds {name}, which a Qwen3 of {cfg.num_layers} layers does "
        "not have: is config.json that of this model?"
      )
    place, layer, transposed = table[name]
    target = _leaf(arrays, place)
    target = target if layer is None else target[layer]
    expected = target.shape[::-1] if transposed else target.shape
    value = read()
    if value.shape != expected:
      raise TensorShapeError(
        f"{name} in {file} has shape {value.shape}, config.json implies "
        f"{expected}"
      )
    target[...] = value.T if transposed else value
  for name in table:
    if name not in seen:
      raise MissingTensorError(
        f"{path} holds no {name}: is a file of the checkpoint missing, or is "
        "config.json that of another model?"
      )
  if cfg.tied_embeddings and _HEAD in seen:
    _check_tied(pathlib.Path(path))
  if mesh:
    return cfg, sharding.put(arrays, mesh)
  return cfg, jax.tree.map(jnp.asarray, arrays)


def _check_tied(path: pathlib.Path) -> None:
  """A tied model may carry its head as well, if it is the embedding."""
  found = {
    name: read() for _, name, read in _tensors(path) if name in (_EMBED, _HEAD)
  }
  if not np.array_equal(found[_EMBED], found[_HEAD]):
    raise UnexpectedTensorError(
      f"{path} holds a {_HEAD} that is not {_EMBED}, but config.json says "
      "tie_word_embeddings: set it to false to use the head"
    )


def _tensors(path: pathlib.Path) -> Iterator[tuple[str, str, Any]]:
  """(file name, tensor name, function that reads it) of all files."""
  index = path / _INDEX
  if index.is_file():
    files = sorted(set(json.loads(index.read_text())["weight_map"].values()))
  else:
    files = [_SINGLE]
  for file in files:
    if not (path / file).is_file():
      raise ValueError(
        f"{path} has no {file}"
        + (f", which {_INDEX} names" if index.is_file() else "")
        + ": download the checkpoint again"
      )
    # "flax" reads bfloat16, which plain numpy does not know.
    try:
      opened = safetensors.safe_open(path / file, framework="flax")
    except safetensors.SafetensorError as error:
      raise ValueError(
        f"{path / file} is damaged ({error}): download the checkpoint again"
      ) from error
    with opened as tensors:
      for name in tensors.keys():
        yield (
          file,
          name,
          lambda name=name, tensors=tensors: np.asarray(
            tensors.get_tensor(name)
          ),
        )


def check_new(path: str | os.PathLike) -> pathlib.Path:
  """Refuses a directory that holds something already.

  Raises:
    ValueError: it does.
  """
  path = pathlib.Path(path)
  if path.exists() and (not path.is_dir() or any(path.iterdir())):
    raise ValueError(f"{path} exists and is not empty: name a new directory")
  return path


def save(
  path: str | os.PathLike,
  cfg: qwen3.Config,
  params: qwen3.Params,
  max_shard_bytes: int = 5 * 10**9,
) -> None:
  """Writes a directory that transformers and `load` read; whole or not at all.

  Args:
    path: a new or empty directory.
    cfg: the model.
    params: its parameters, written in their own dtype.
    max_shard_bytes: of one safetensors file.

  Raises:
    ValueError: the directory is not empty.
  """
  path = check_new(path)
  temp = path.with_name(path.name + ".tmp")
  with contextlib.suppress(FileNotFoundError):
    shutil.rmtree(temp)
  temp.mkdir(parents=True)
  params = jax.device_get(params)
  dtype = str(params["embed"].dtype)
  (temp / "config.json").write_text(
    json.dumps(to_json(cfg, dtype), indent=2) + "\n"
  )
  shards: list[dict[str, tuple[str, int | None, bool]]] = [{}]
  room, total = max_shard_bytes, 0
  for name, entry in _table(cfg).items():
    leaf = _leaf(params, entry[0])
    size = (leaf if entry[1] is None else leaf[entry[1]]).nbytes
    if shards[-1] and size > room:
      shards.append({})
      room = max_shard_bytes
    shards[-1][name] = entry
    room, total = room - size, total + size
  weight_map = {}
  for i, shard in enumerate(shards):
    file = (
      _SINGLE
      if len(shards) == 1
      else f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
    )
    tensors = {}
    for name, (place, layer, transposed) in shard.items():
      leaf = _leaf(params, place)
      leaf = leaf if layer is None else leaf[layer]
      tensors[name] = np.ascontiguousarray(leaf.T if transposed else leaf)
      weight_map[name] = file
    # transformers asks for the format, although it says nothing about numpy.
    safetensors.numpy.save_file(tensors, temp / file, metadata={"format": "pt"})
    (temp / file).chmod(0o644)  # the library makes it readable by one alone
  if len(shards) > 1:
    (temp / _INDEX).write_text(
      json.dumps(
        {"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2
      )
      + "\n"
    )
  if path.exists():
    path.rmdir()
  os.replace(temp, path)


def to_json(cfg: qwen3.Config, dtype: str) -> dict[str, Any]:
  """What config.json says; both transformers 4 and 5 find RoPE's base."""
  return {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "vocab_size": cfg.vocab_size,
    "hidden_size": cfg.width,
    "num_hidden_layers": cfg.num_layers,
    "num_attention_heads": cfg.num_heads,
    "num_key_value_heads": cfg.num_kv_heads,
    "head_dim": cfg.head_dim,
    "intermediate_size": cfg.mlp_dim,
    "rms_norm_eps": cfg.norm_eps,
    "rope_theta": cfg.rope_theta,
    "rope_parameters": {
      "rope_type": "default",
      "rope_theta": cfg.rope_theta,
    },
    "tie_word_embeddings": cfg.tied_embeddings,
    "hidden_act": "silu",
    "attention_bias": False,
    "use_sliding_window": False,
    "max_position_embeddings": 40960,
    "torch_dtype": dtype,
  }
