"""Sentence embeddings by a small BERT (all-MiniLM-L6-v2), in JAX.

The encoder of 1810.04805 (post-norm, exact gelu, learnt positions), the mean of
its outputs over the tokens of the text, scaled to length 1 (1908.10084):

  encoder = minilm.load("all-MiniLM-L6-v2")
  embedding_ND = minilm.encode(encoder, ["Kim moved to Bern.", "Where is Kim?"])

Everything is in float32 and at full precision: an embedding is stored once and
compared for years, and the model is small.

Dimension keys: B texts, T tokens, D width, N heads, H head width, F mlp width,
L layers.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import tokenizers

Params = dict[str, Any]

_LAYER = "encoder.layer.{}."
# name of the tensor -> (place, shape); torch keeps kernels as [out, in]
_TABLE = {
  "embeddings.word_embeddings.weight": ("word", "VD"),
  "embeddings.position_embeddings.weight": ("position", "PD"),
  "embeddings.token_type_embeddings.weight": ("type", "KD"),
  "embeddings.LayerNorm.weight": ("norm.scale", "D"),
  "embeddings.LayerNorm.bias": ("norm.bias", "D"),
}
_LAYER_TABLE = {
  "attention.self.query.weight": ("q.kernel", "DD"),
  "attention.self.query.bias": ("q.bias", "D"),
  "attention.self.key.weight": ("k.kernel", "DD"),
  "attention.self.key.bias": ("k.bias", "D"),
  "attention.self.value.weight": ("v.kernel", "DD"),
  "attention.self.value.bias": ("v.bias", "D"),
  "attention.output.dense.weight": ("o.kernel", "DD"),
  "attention.output.dense.bias": ("o.bias", "D"),
  "attention.output.LayerNorm.weight": ("attn_norm.scale", "D"),
  "attention.output.LayerNorm.bias": ("attn_norm.bias", "D"),
  "intermediate.dense.weight": ("up.kernel", "FD"),
  "intermediate.dense.bias": ("up.bias", "F"),
  "output.dense.weight": ("down.kernel", "DF"),
  "output.dense.bias": ("down.bias", "D"),
  "output.LayerNorm.weight": ("mlp_norm.scale", "D"),
  "output.LayerNorm.bias": ("mlp_norm.bias", "D"),
}
# In the files, but no part of a mean-pooled embedding.
_UNUSED = (
  "embeddings.position_ids",
  "pooler.dense.weight",
  "pooler.dense.bias",
)
_SMALLEST = 16  # tokens; the next padded lengths are 64, 256, ...


class MissingTensorError(ValueError):
  """A tensor that the config implies is not in the file."""


class UnexpectedTensorError(ValueError):
  """The file holds a tensor that the model does not have."""


class TensorShapeError(ValueError):
  """A tensor has another shape than the config implies."""


@dataclasses.dataclass(frozen=True)
class Config:
  """Shape of the encoder; `max_tokens` counts [CLS] and [SEP]."""

  vocab_size: int
  width: int
  num_layers: int
  num_heads: int
  mlp_dim: int
  num_positions: int
  num_types: int
  norm_eps: float
  max_tokens: int


@dataclasses.dataclass(frozen=True)
class Encoder:
  """An encoder on the default device.

  Attributes:
    cfg: its shape.
    params: {word, position, type, norm, layers (leading L)}.
    tokenizer: lower-cases, adds [CLS] and [SEP], cuts at `cfg.max_tokens`.
  """

  cfg: Config
  params: Params
  tokenizer: tokenizers.Tokenizer


def _json(file: pathlib.Path) -> Any:
  try:
    return json.loads(file.read_text(encoding="utf-8"))
  except ValueError as error:
    raise ValueError(f"{file} is not JSON: {error}") from error


def load_config(path: str | os.PathLike) -> Config:
  """Reads config.json and, where they are, sentence-transformers' files.

  Raises:
    ValueError: there is none, or it describes another kind of model.
  """
  path = pathlib.Path(path)
  file = path / "config.json"
  if not file.is_file():
    raise ValueError(
      f"{path} has no config.json: name a directory of all-MiniLM-L6-v2, with "
      "config.json, model.safetensors and tokenizer.json"
    )
  found = _json(file)
  for name, expected in (
    ("model_type", "bert"),
    ("hidden_act", "gelu"),
    ("position_embedding_type", "absolute"),
  ):
    value = found.get(name, None if name == "model_type" else expected)
    if value != expected:
      raise ValueError(
        f"{file}: {name} is {value!r}, only {expected!r} is supported"
      )
  names = {
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
    "num_positions": "max_position_embeddings",
    "num_types": "type_vocab_size",
    "norm_eps": "layer_norm_eps",
  }
  missing = [theirs for theirs in names.values() if theirs not in found]
  if missing:
    raise ValueError(f"{file} does not give {', '.join(missing)}")
  sizes = {ours: found[theirs] for ours, theirs in names.items()}
  if sizes["width"] % sizes["num_heads"]:
    raise ValueError(
      f"{file}: hidden_size {sizes['width']} is no multiple of "
      f"num_attention_heads {sizes['num_heads']}"
    )
  return Config(**sizes, max_tokens=_max_tokens(path, sizes["num_positions"]))


def _max_tokens(path: pathlib.Path, num_positions: int) -> int:
  """The limit of the sentence encoder; checks that it pools as we do."""
  modules = path / "modules.json"
  for module in _json(modules) if modules.is_file() else ():
    kind = module["type"].rpartition(".")[2]
    if kind not in ("Transformer", "Pooling", "Normalize"):
      raise ValueError(
        f"{modules}: the module {module['type']} is not supported"
      )
    pooling = path / module["path"] / "config.json"
    if kind == "Pooling" and pooling.is_file():
      # One flag for each mode; since sentence-transformers 5 a single name.
      modes = [
        value if isinstance(value, str) else name.removeprefix("pooling_mode_")
        for name, value in _json(pooling).items()
        if name.startswith("pooling_mode") and value
      ]
      if modes not in (["mean_tokens"], ["mean"]):
        raise ValueError(f"{pooling}: pools by {modes}, only mean is supported")
  sentence = path / "sentence_bert_config.json"
  if not sentence.is_file():
    return num_positions
  limit = _json(sentence).get("max_seq_length") or num_positions
  if not 3 <= limit <= num_positions:
    raise ValueError(
      f"{sentence}: max_seq_length is {limit}, expected 3 to {num_positions}"
    )
  return limit


def _shapes(cfg: Config) -> dict[str, tuple[str, tuple[int, ...]]]:
  """Tensor name -> (place, shape in the file); the layers in their order."""
  size = {
    "V": cfg.vocab_size,
    "P": cfg.num_positions,
    "K": cfg.num_types,
    "D": cfg.width,
    "F": cfg.mlp_dim,
  }
  shape = lambda letters: tuple(size[letter] for letter in letters)
  table = {k: (v, shape(letters)) for k, (v, letters) in _TABLE.items()}
  for layer in range(cfg.num_layers):
    for suffix, (place, letters) in _LAYER_TABLE.items():
      name = _LAYER.format(layer) + suffix
      table[name] = (f"layers.{place}", shape(letters))
  return table


def load(path: str | os.PathLike) -> Encoder:
  """Reads a sentence encoder of the all-MiniLM-L6-v2 layout.

  Args:
    path: of a directory with config.json, model.safetensors (any float type,
      read as float32) and tokenizer.json, or one with such a directory `model`
      inside, as Python packages of the model have it.

  Returns:
    The encoder, on the default device.

  Raises:
    ValueError: the model is of another kind, or a file is missing; and its
      subclasses for a tensor that is missing, unexpected or of the wrong shape.
  """
  path = pathlib.Path(path)
  if not (path / "config.json").is_file() and (path / "model").is_dir():
    path = path / "model"
  cfg = load_config(path)
  for name in ("model.safetensors", "tokenizer.json"):
    if not (path / name).is_file():
      raise ValueError(f"{path} has no {name}: download the model again")
  return Encoder(cfg, _read_params(path, cfg), _read_tokenizer(path, cfg))


def _read_params(path: pathlib.Path, cfg: Config) -> Params:
  file, table = path / "model.safetensors", _shapes(cfg)
  stacks: dict[str, list[np.ndarray]] = {}
  try:
    # "flax", not "numpy": numpy has no bfloat16.
    opened = safetensors.safe_open(file, framework="flax")
  except safetensors.SafetensorError as error:
    raise ValueError(f"{file} is damaged: {error}") from error
  with opened as tensors:
    found = set(tensors.keys())
    for name in sorted(found - table.keys() - set(_UNUSED)):
      raise UnexpectedTensorError(
        f"{file} holds {name}, which a BERT encoder of {cfg.num_layers} layers "
        "does not have: is config.json that of this model?"
      )
    for name, (place, shape) in table.items():
      if name not in found:
        raise MissingTensorError(
          f"{file} holds no {name}: is config.json that of another model?"
        )
      value = np.asarray(tensors.get_tensor(name), np.float32)
      if value.shape != shape:
        raise TensorShapeError(
          f"{name} in {file} has shape {value.shape}, config.json implies "
          f"{shape}"
        )
      value = value.T if place.endswith("kernel") else value
      stacks.setdefault(place, []).append(value)
  params: Params = {}
  for place, values in stacks.items():
    *parents, leaf = place.split(".")
    node = functools.reduce(lambda n, k: n.setdefault(k, {}), parents, params)
    stacked = place.startswith("layers.")
    node[leaf] = jnp.asarray(np.stack(values) if stacked else values[0])
  return params


def _read_tokenizer(path: pathlib.Path, cfg: Config) -> tokenizers.Tokenizer:
  file = path / "tokenizer.json"
  try:
    tokenizer = tokenizers.Tokenizer.from_file(str(file))
  except Exception as error:  # the library raises nothing narrower
    raise ValueError(f"{file} is not a tokenizer: {error}") from error
  if tokenizer.get_vocab_size() > cfg.vocab_size:
    raise ValueError(
      f"{file} has {tokenizer.get_vocab_size()} tokens, the model "
      f"{cfg.vocab_size}: are they of the same model?"
    )
  # The file may ask for padding and another limit of its own (MiniLM's: 128).
  tokenizer.no_padding()
  tokenizer.enable_truncation(cfg.max_tokens)
  return tokenizer


def _linear(params: Params, x: jax.Array) -> jax.Array:
  # The default precision of a GPU would round the inputs to 10 bits.
  product = jnp.matmul(x, params["kernel"], precision=jax.lax.Precision.HIGHEST)
  return product + params["bias"][None, None, :]


def _layer_norm(params: Params, x: jax.Array, eps: float) -> jax.Array:
  centred = x - x.mean(axis=-1, keepdims=True)
  variance = jnp.square(centred).mean(axis=-1, keepdims=True)
  scale, bias = params["scale"][None, None, :], params["bias"][None, None, :]
  return centred * jax.lax.rsqrt(variance + eps) * scale + bias


@functools.partial(jax.jit, static_argnames="cfg")
def forward(
  params: Params, cfg: Config, tokens_BT: jax.Array, length_B: jax.Array
) -> jax.Array:
  """Embeddings of length 1 of right-padded rows.

  Args:
    params: as `load` gives them.
    cfg: the model.
    tokens_BT: ids, T at most cfg.num_positions; all of the first segment.
    length_B: number of tokens of each row, 1 or more.

  Returns:
    float32 [B, D].
  """
  B, T = tokens_BT.shape
  N, H = cfg.num_heads, cfg.width // cfg.num_heads
  mask_BT = jnp.arange(T)[None, :] < length_B[:, None]
  einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)

  def block(x, layer):
    heads = lambda name: _linear(layer[name], x).reshape(B, T, N, H)
    score = einsum("BTNH,BSNH->BNTS", heads("q"), heads("k")) * H**-0.5
    # Every token sees every token of its own text, on both sides.
    score = jnp.where(mask_BT[:, None, None, :], score, -1e30)
    weight = jax.nn.softmax(score, axis=-1)
    mixed = einsum("BNTS,BSNH->BTNH", weight, heads("v")).reshape(B, T, -1)
    x = x + _linear(layer["o"], mixed)
    x = _layer_norm(layer["attn_norm"], x, cfg.norm_eps)
    y = jax.nn.gelu(_linear(layer["up"], x), approximate=False)
    x = x + _linear(layer["down"], y)
    return _layer_norm(layer["mlp_norm"], x, cfg.norm_eps), None

  x = params["word"][tokens_BT] + params["position"][None, :T]
  x = _layer_norm(params["norm"], x + params["type"][None, :1], cfg.norm_eps)
  x, _ = jax.lax.scan(block, x, params["layers"])
  # The sum has the direction of the mean.
  total_BD = jnp.where(mask_BT[..., None], x, 0.0).sum(axis=1)
  return total_BD / jnp.linalg.norm(total_BD, axis=-1, keepdims=True)


def _batches(
  lengths: Sequence[int], batch_size: int, limit: int
) -> Iterator[tuple[list[int], int, int]]:
  """(texts, rows, columns): short ones together, few different shapes.

  Rows are 1 or batch_size, columns 16, 64, 256, ... up to the limit: with 256
  tokens six programs are compiled at most.
  """
  order = sorted(range(len(lengths)), key=lambda i: lengths[i])
  for start in range(0, len(order), batch_size):
    batch = order[start : start + batch_size]
    columns = _SMALLEST
    while columns < lengths[batch[-1]]:
      columns *= 4
    rows = 1 if len(batch) == 1 else batch_size
    yield batch, rows, min(columns, limit)


def encode(
  encoder: Encoder, texts: Sequence[str], batch_size: int = 32
) -> np.ndarray:
  """Embeddings of texts.

  A text of more than `encoder.cfg.max_tokens` tokens (256 for MiniLM, [CLS] and
  [SEP] included) is cut there: what follows does not count. An embedding
  depends on the other texts by float32 rounding only (about 1e-7).

  Args:
    encoder: as `load` gives it.
    texts: each with at least one token.
    batch_size: texts at a time.

  Returns:
    float32 [N, D], rows of length 1.

  Raises:
    ValueError: a text is empty, `texts` is one string, or an embedding is not
      finite.
  """
  if isinstance(texts, str):
    raise ValueError("texts is a string, expected a sequence of them: [text]")
  if batch_size < 1:
    raise ValueError(f"batch_size is {batch_size}, expected 1 or more")
  found = encoder.tokenizer.encode_batch(list(texts))
  for i, encoding in enumerate(found):
    if all(encoding.special_tokens_mask):
      raise ValueError(
        f"text {i} of {len(texts)} is {texts[i]!r}, which has no token: an "
        "empty text has no embedding"
      )
  out_ND = np.zeros((len(found), encoder.cfg.width), np.float32)
  lengths = [len(encoding.ids) for encoding in found]
  for batch, rows, columns in _batches(
    lengths, batch_size, encoder.cfg.max_tokens
  ):
    tokens_BT = np.zeros((rows, columns), np.int32)
    length_B = np.ones(rows, np.int32)
    for row, i in enumerate(batch):
      tokens_BT[row, : lengths[i]] = found[i].ids
      length_B[row] = lengths[i]
    out_BD = forward(encoder.params, encoder.cfg, tokens_BT, length_B)
    out_ND[batch] = np.asarray(out_BD)[: len(batch)]
  for i in np.flatnonzero(~np.isfinite(out_ND).all(axis=1)):
    raise ValueError(
      f"the embedding of text {i}, {texts[i][:80]!r}, is not finite: are the "
      "weights damaged?"
    )
  return out_ND
