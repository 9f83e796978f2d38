"""Qwen3: parameters, forward pass, reading and decoding.

The layers (`qwen3_block`) share one stacked parameter tree that is either
scanned (short compiles) or unrolled (faster on a CPU, and where a GPU samples,
which then has each layer's apart): the same numbers from the same parameters.
They are a plain nested dict, and nothing else in memjax sees a flax module.

Rows are right-padded. With causal attention a token never sees what stands
after it, so padding needs no mask: whatever is computed there is not read.

Dimension key: B sequences, T tokens, S cache slots, D width, K kv heads, H
head width, V vocabulary, L layers.
"""

import dataclasses
import functools
from collections.abc import Callable
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from memjax import attention_blocks
from memjax import qwen3_block
from memjax import qwen3_cache
from memjax import qwen3_head
from memjax import sharding
from memjax import tokens as token_lib

Params = qwen3_block.Params
# Of rows [B, T] the tokens start [B] .. start + n - 1.
Wanted = tuple[jax.Array, int]
Config = qwen3_block.Config
Cache = qwen3_cache.Cache

_checkpoint = functools.partial(jax.checkpoint, prevent_cse=False)
# Tokens that are read at once: by a CPU few, so that what layers write stays in
# its caches; by others enough to be busy, as their activations take memory.
_AT_ONCE_CPU, _AT_ONCE = 2**11, 2**13
# From all of a layer to nothing: the less is stored, the more is done again.
REMATS = {
  "full": _checkpoint,
  "dots": functools.partial(
    _checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
  ),
  "none": None,
}


def init(key: jax.Array, cfg: Config) -> Params:
  """Random float32 parameters: {embed, layers (leading L), final_norm, head}.

  `head` is there only if the embeddings are not tied.
  """
  embed_key, layers_key, head_key = jax.random.split(key, 3)
  x, position = jnp.zeros((1, 1, cfg.width)), jnp.zeros((1, 1), jnp.int32)
  # No parameter depends on how it attends, and cuDNN need not be here.
  block = qwen3_block.Block(dataclasses.replace(cfg, attention="plain"))
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


@functools.partial(jax.jit, static_argnames="dtype")
def _cast(params: Any, dtype: str) -> Any:
  return jax.tree.map(lambda x: x.astype(dtype), params)


def cast(params: Any, dtype: str) -> Any:
  """Parameters in the dtype that a model computes in; if they are, the same.

  They are rounded where they are used in any case: to decode with masters is
  to read twice as much, and to round them for each token.
  """
  if all(x.dtype == dtype for x in jax.tree.leaves(params)):
    return params
  return _cast(params, dtype)


def _embed(params: Params, cfg: Config, tokens: jax.Array) -> jax.Array:
  # Whole in its width, as the rows that it gives are.
  table = sharding.constrain(params["embed"], "vocab")
  return sharding.constrain(table[tokens].astype(cfg.dtype), "batch")


def unstacked(params: Params, cfg: Config) -> Params:
  """Of unrolled layers, each with arrays of its own; scanned ones as they are.

  Not to be done again in each round of a loop. The gradient of a split is one
  concatenation; that of indexing would be L arrays of the whole size.

  Raises:
    ValueError: the layers are apart already, but are to be scanned.
  """
  apart = isinstance(params["layers"], tuple)
  if apart and cfg.scan_layers:
    raise ValueError(
      "each layer has arrays of its own, as sampling reads them, but "
      "cfg.scan_layers=True: pass the config that they were made for, such as "
      "run.agent.model"
    )
  if apart or cfg.scan_layers:
    return params
  L = cfg.num_layers
  leaves, tree = jax.tree.flatten(params["layers"])
  cut = [jax.lax.split(leaf, (1,) * L) for leaf in leaves]
  layers = tuple(
    tree.unflatten([x[i].reshape(x[i].shape[1:]) for x in cut])
    for i in range(L)
  )
  return params | {"layers": layers}


def _through_layers(
  run: Callable[..., tuple[Any, Any]],
  params: Params,
  cfg: Config,
  x: Any,
  *of_layers: Any,
  last: Callable[..., tuple[Any, Any]] | None = None,
) -> tuple[Any, Any]:
  """`x, y = run(x, layer, *own)` of one layer after the other.

  Args:
    run: one layer.
    params: of the model.
    cfg: the model.
    x: what goes into the first layer.
    *of_layers: own of each layer, as `Cache.layers` has it.
    last: in place of run in the last layer, where layers are unrolled.

  Returns:
    (x, each layer's y): stacked where layers are scanned, else a tuple.
  """
  of_layers = unstacked(params, cfg)["layers"], *of_layers
  if cfg.scan_layers:
    return jax.lax.scan(lambda x, own: run(x, *own), x, of_layers)
  found, runs = [], [run] * (cfg.num_layers - 1) + [last or run]
  for run, *own in zip(runs, *of_layers):
    x, y = run(x, *own)
    found.append(y)
  return x, tuple(found)


def _at(x: jax.Array, wanted: Wanted | None) -> jax.Array:
  """[B, T, ...] -> [B, n, ...]: the wanted tokens of each row, or all."""
  if wanted is None:
    return x
  start_B, count = wanted
  place = start_B[:, None] + jnp.arange(count)[None, :]
  place = jnp.minimum(place, x.shape[1] - 1)
  place = place.reshape(*place.shape, *[1] * (x.ndim - 2))
  return jnp.take_along_axis(x, place, axis=1)


def _layer(
  cfg: Config,
  layer: Params,
  x: jax.Array,
  position: jax.Array,
  prefixes: tuple[attention_blocks.Prefix, ...],
  wanted: Wanted | None = None,
) -> tuple[jax.Array, Any]:
  """One layer: (x of the wanted tokens, keys and values of all)."""
  run = functools.partial(qwen3_block.Block(cfg).apply, {"params": layer})
  out, kept = run(x, position, qwen3_block.Past(prefixes))
  if wanted is None:
    return out, kept
  # Of what was just written XLA computes keys and values alone: nothing else
  # of it is read. They stand before the wanted tokens as any prefix does.
  past = qwen3_block.Past((*prefixes, (*kept, wanted[0])))
  return run(_at(x, wanted), _at(position, wanted), past)[0], kept


def forward(
  params: Params,
  cfg: Config,
  tokens_BT: jax.Array,
  shared: token_lib.Tokens | None = None,
  wanted: Wanted | None = None,
) -> jax.Array:
  """Hidden states after the final norm; what is trained runs through here.

  Each layer reads the shared texts and then the rows: keys and values of one
  layer exist at a time, and of each matrix one gradient. Where layers are
  unrolled, the last one computes no more than keys and values of the tokens
  that are not wanted.

  Args:
    params: as `init` gives them.
    cfg: the model.
    tokens_BT: right-padded rows.
    shared: W texts of at least one token that the rows go on from, B / W rows
      each, one behind the other.
    wanted: tokens of the rows; None: all. What stands behind a row's end is of
      no meaning.

  Returns:
    [B, T, D], or [B, n, D] of what is wanted.
  """
  B, T = tokens_BT.shape
  position = jnp.broadcast_to(jnp.arange(T)[None, :], (B, T))
  before = None
  if shared is not None:
    W, P = shared.ids.shape
    first = jnp.broadcast_to(jnp.arange(P)[None, :], (W, P))
    position = jnp.repeat(shared.length, B // W)[:, None] + position
    before = _embed(params, cfg, shared.ids)

  def run(state, layer, wanted=None):
    (before, x), prefixes = state, ()
    if before is not None:
      before, kv = _layer(cfg, layer, before, first, ())
      prefixes = ((*kv, shared.length),)
    x, _ = _layer(cfg, layer, x, position, prefixes, wanted)
    return (before, x), None

  last = functools.partial(run, wanted=wanted)
  if REMATS[cfg.remat]:
    run, last = map(REMATS[cfg.remat], (run, last))
  state = before, _embed(params, cfg, tokens_BT)
  (_, x), _ = _through_layers(run, params, cfg, state, last=last)
  if cfg.scan_layers:
    x = _at(x, wanted)
  return qwen3_block.rms_norm(x, params["final_norm"], cfg.norm_eps)


def _start(prefixes: Sequence[Cache], batch: int) -> jax.Array:
  """int32 [B]: the position of each row's first token."""
  starts = [jnp.zeros((batch,), jnp.int32)]
  starts += [jnp.repeat(x.length, batch // len(x.length)) for x in prefixes]
  return sum(starts)


def read(
  params: Params,
  cfg: Config,
  tokens_BT: jax.Array,
  length_B: jax.Array,
  prefixes: Sequence[Cache] = (),
) -> tuple[jax.Array, Cache]:
  """Reads texts that other tokens go on from.

  Args:
    params: the model's parameters.
    cfg: the model.
    tokens_BT: right-padded texts, each of at least one token.
    length_B: their lengths.
    prefixes: what the texts go on from, B / W rows behind each of its W texts;
      not copied into the cache.

  Returns:
    (hidden [B, D] of each last token, cache with `qwen3_cache.slots`).
  """
  more = qwen3_cache.slots(cfg, tokens_BT.shape[1]) - tokens_BT.shape[1]
  tokens_BT = jnp.pad(tokens_BT, ((0, 0), (0, more)))
  B, T = tokens_BT.shape
  read_rows = functools.partial(_read, params, cfg, prefixes)
  one_text = all(len(x.length) == 1 for x in prefixes)
  count = 1 if sharding.is_cut() else parts(cfg, B, T, one_text)
  if count == 1:
    return read_rows(tokens_BT, length_B)
  cut = lambda x: x.reshape(count, -1, *x.shape[1:])
  found = jax.lax.map(lambda x: read_rows(*x), (cut(tokens_BT), cut(length_B)))
  return jax.tree.map(lambda x: x.reshape(B, *x.shape[2:]), found)


def parts(cfg: Config, rows: int, tokens: int, one_text: bool) -> int:
  """In how many equal parts one device reads rows, one after the other.

  It is one where layers are scanned, as what they write would be copied to join
  it, and where only far too small parts are equal.

  Args:
    cfg: the model.
    rows: of as many tokens each.
    tokens: of a row.
    one_text: they all go on from the same text, or from none.
  """
  if cfg.scan_layers or not one_text:
    return 1
  at_once = _AT_ONCE_CPU if cfg.for_cpu else _AT_ONCE
  least = min(-(-rows * tokens // at_once), rows)
  found = next(n for n in range(least, rows + 1) if rows % n == 0)
  return found if found <= 2 * least else 1


def _read(
  params: Params,
  cfg: Config,
  prefixes: Sequence[Cache],
  tokens_BT: jax.Array,
  length_B: jax.Array,
) -> tuple[jax.Array, Cache]:
  """`read` of all rows at once."""
  B, T = tokens_BT.shape
  position = _start(prefixes, B)[:, None] + jnp.arange(T)[None, :]
  wanted = length_B - 1, 1

  def run(x, layer, *before, wanted=None):
    before = _with_lengths(before, prefixes)
    x, kept = _layer(cfg, layer, x, position, before, wanted)
    return x, jax.tree.map(qwen3_cache.row_major, kept)

  x, kept = _through_layers(
    run,
    params,
    cfg,
    _embed(params, cfg, tokens_BT),
    *(p.layers for p in prefixes),
    last=functools.partial(run, wanted=wanted),
  )
  if cfg.scan_layers:
    x = _at(x, wanted)
  hidden = qwen3_block.rms_norm(x[:, 0], params["final_norm"], cfg.norm_eps)
  axes = (None, "batch", "kv_heads")[not cfg.scan_layers :]
  kept = jax.tree.map(lambda x: sharding.constrain(x, *axes), kept)
  return hidden, Cache(kept, length_B)


def _with_lengths(
  layers: Sequence[Any], prefixes: Sequence[Cache]
) -> tuple[attention_blocks.Prefix, ...]:
  """One layer's keys and values of each prefix, with its lengths."""
  return tuple((*kv, p.length) for kv, p in zip(layers, prefixes))


def decode_step(
  params: Params,
  cfg: Config,
  token_B: jax.Array,
  cache: Cache,
  prefixes: Sequence[Cache],
) -> tuple[jax.Array, Cache]:
  """Reads one more token per row behind what was read.

  Args:
    params: the model's parameters; see `unstacked`.
    cfg: the model.
    token_B: the tokens.
    cache: of the tokens before these, from `qwen3_cache.room`.
    prefixes: what stands before those, as `read` gives it (or
      `qwen3_cache.for_decoding`): prompts, and before them what groups share.

  Returns:
    (hidden [B, D], cache one longer).
  """
  block = qwen3_block.Block(cfg)
  position = (_start(prefixes, len(token_B)) + cache.length)[:, None]

  def run(state, layer, own, *before):
    x, stacked = state
    own = (*stacked, own) if cfg.scan_layers else (*own, None)
    past = qwen3_block.Past(
      _with_lengths(before, prefixes), qwen3_block.Cache(*own, cache.length)
    )
    x, kept = block.apply({"params": layer}, x, position, past)
    kept = jax.tree.map(qwen3_cache.row_major, kept)
    return ((x, kept), None) if cfg.scan_layers else ((x, None), kept)

  x = _embed(params, cfg, token_B[:, None])
  # A stacked cache is carried, or there would be two of it.
  state, own = (x, None), cache.layers
  if cfg.scan_layers:
    state, own = (x, cache.layers), jnp.arange(cfg.num_layers)
  (x, stacked), kept = _through_layers(
    run, params, cfg, state, own, *(p.layers for p in prefixes)
  )
  hidden = qwen3_block.rms_norm(x[:, 0], params["final_norm"], cfg.norm_eps)
  return hidden, Cache(stacked or kept, cache.length + 1)


def logits(
  params: Params, cfg: Config, tokens_BT: jax.Array, length_B: jax.Array
) -> jax.Array:
  """float32 logits [B, T, V] of right-padded rows; zero on the padding."""
  hidden = forward(params, cfg, tokens_BT)
  mask = jnp.arange(tokens_BT.shape[1])[None, :] < length_B[:, None]
  return jnp.where(
    mask[..., None], qwen3_head.unembed(params, cfg, hidden), 0.0
  )
