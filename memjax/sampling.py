"""Sampling: prefill, then a token of every row at a time until all have ended.

New tokens have a cache of their own, which may grow in a few steps
(`qwen3_cache.capacities`), a `while_loop` each.

The behaviour policy is the trained policy: softmax(logits / temperature) over
the whole vocabulary, no top-k, no top-p. The log-probability of every sampled
token is recorded as it is drawn.

Row i's random numbers come from key i and the token's index alone, so a row's
tokens do not depend on what else is in the batch or where it stands.

Dimension key: B rows, P prompt tokens, A new tokens, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from memjax import qwen3
from memjax import qwen3_cache
from memjax import qwen3_head
from memjax import tokens as token_lib


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Response:
  """What one call to the model wrote.

  Attributes:
    tokens: rows of capacity A; a sampled end token is kept, none is invented.
    logp: float32 [B, A], log-probability of each token when it was drawn.
    truncated: bool [B], the limit came before an end token.
  """

  tokens: token_lib.Tokens
  logp: jax.Array
  truncated: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _State:
  """The loop's carry: `token_B` is sampled but not yet read by the model."""

  step: jax.Array
  token_B: jax.Array
  cache: qwen3_cache.Cache
  done_B: jax.Array
  ids_BA: jax.Array
  logp_BA: jax.Array
  length_B: jax.Array


def draw(
  logits_BV: jax.Array, key_B: jax.Array, temperature: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
  """One token per row by the Gumbel-max rule, and its log-probability.

  At temperature 0 the most likely token is taken, and the log-probability is
  that of the distribution at temperature 1. The temperature may be traced, so
  that greedy and sampled runs share a compiled program.
  """
  warm = jnp.asarray(temperature) > 0
  logp_BV = jax.nn.log_softmax(logits_BV / jnp.where(warm, temperature, 1.0))
  V = logits_BV.shape[-1]
  noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, (V,)))(key_B)
  score_BV = logp_BV + jnp.where(warm, noise_BV, 0.0)
  token_B = jnp.argmax(score_BV, axis=-1).astype(jnp.int32)
  return token_B, jnp.take_along_axis(logp_BV, token_B[:, None], 1)[:, 0]


def decode(
  params: qwen3.Params,
  cfg: qwen3.Config,
  prompt: token_lib.Tokens | token_lib.Grouped,
  key_B: jax.Array,
  *,
  max_new_tokens: int,
  stop_ids: tuple[int, ...],
  temperature: jax.Array | float = 1.0,
  active_B: jax.Array | None = None,
) -> Response:
  """Samples a continuation of each prompt; runs under jit.

  Args:
    params: the model's parameters.
    cfg: the model.
    prompt: rows of at least one token each. What groups share is read once,
      and its keys and values are held once.
    key_B: a typed random key for each row.
    max_new_tokens: A, the limit for each row.
    stop_ids: a row ends with the first of these that it samples.
    temperature: 0 takes the most likely token.
    active_B: rows that write at all; the others come back empty and are not
      waited for. Default: all.

  Returns:
    The response of each row.
  """
  shared, prompt = token_lib.parts(prompt)
  params, prefixes = qwen3.unstacked(params, cfg), []
  if shared is not None:
    _, cache = qwen3.read(params, cfg, shared.ids, shared.length)
    prefixes.append(cache)
  length_B = jnp.maximum(prompt.length, 1)
  hidden_BD, cache = qwen3.read(params, cfg, prompt.ids, length_B, prefixes)
  prefixes.append(cache)
  if active_B is None:
    active_B = jnp.ones(length_B.shape, bool)
  return decode_behind(
    params,
    cfg,
    prefixes,
    hidden_BD,
    key_B,
    active_B,
    max_new_tokens=max_new_tokens,
    stop_ids=stop_ids,
    temperature=temperature,
  )


def decode_behind(
  params: qwen3.Params,
  cfg: qwen3.Config,
  prefixes: Sequence[qwen3_cache.Cache],
  hidden_BD: jax.Array,
  key_B: jax.Array,
  active_B: jax.Array,
  *,
  max_new_tokens: int,
  stop_ids: tuple[int, ...],
  temperature: jax.Array | float,
) -> Response:
  """`decode` behind prompts that were read.

  Args:
    params: from `qwen3.unstacked`.
    cfg: the model.
    prefixes: from `qwen3.read`, the last of them of each row.
    hidden_BD: of each prompt's last token.
    key_B: as in `decode`, and what follows.
    active_B: rows that write at all.
    max_new_tokens: A.
    stop_ids: of a row's end.
    temperature: of the draws.

  Returns:
    The response of each row.
  """
  B, A = hidden_BD.shape[0], max_new_tokens
  length_B = prefixes[-1].length
  params, prefixes = qwen3_cache.for_decoding(params, cfg, prefixes)
  stops = jnp.asarray(stop_ids, jnp.int32)
  ends = qwen3_cache.capacities(cfg, A)

  def write(
    state: _State, hidden_BD: jax.Array, cache: qwen3_cache.Cache
  ) -> _State:
    """Samples token `step` from the hidden state of the one before it."""
    keys = jax.vmap(lambda key: jax.random.fold_in(key, state.step))(key_B)
    logits_BV = qwen3_head.unembed(params, cfg, hidden_BD)
    token_B, logp_B = draw(logits_BV, keys, temperature)
    put = lambda buffer, x: buffer.at[:, state.step].set(
      jnp.where(state.done_B, 0, x)
    )
    return _State(
      state.step + 1,
      token_B,
      cache,
      state.done_B | (token_B[:, None] == stops[None, :]).any(1),
      put(state.ids_BA, token_B),
      put(state.logp_BA, logp_B),
      state.length_B + ~state.done_B,
    )

  def goes_on(end: int, state: _State) -> jax.Array:
    return (state.step < end) & ~state.done_B.all()

  def body(state: _State) -> _State:
    hidden_BD, cache = qwen3.decode_step(
      params, cfg, state.token_B, state.cache, prefixes
    )
    return write(state, hidden_BD, cache)

  state = _State(
    jnp.int32(0),
    jnp.zeros((B,), jnp.int32),
    qwen3_cache.room(cfg, B, ends[0], zero=jnp.minimum(length_B.min(), 0)),
    ~active_B,
    jnp.zeros((B, A), jnp.int32),
    jnp.zeros((B, A), jnp.float32),
    jnp.zeros((B,), jnp.int32),
  )
  state = write(state, hidden_BD, state.cache)
  for end in ends:
    if end > ends[0]:
      cache = qwen3_cache.grown(state.cache, end)
      state = dataclasses.replace(state, cache=cache)
    # The cache is full when token `end` has been sampled.
    before = functools.partial(goes_on, min(end + 1, A))
    state = jax.lax.while_loop(before, body, state)
  return Response(
    token_lib.Tokens(state.ids_BA, state.length_B),
    state.logp_BA,
    ~state.done_B,
  )


_decode = jax.jit(decode, static_argnames=("cfg", "max_new_tokens", "stop_ids"))


def generate(
  params: qwen3.Params,
  cfg: qwen3.Config,
  prompts: Sequence[Sequence[int]],
  *,
  key: jax.Array,
  max_new_tokens: int,
  temperature: float = 1.0,
  stop_ids: Sequence[int] = (),
) -> tuple[list[list[int]], list[list[float]]]:
  """Samples continuations of lists of ids, for notebooks and tests.

  Prompts are padded to the next power of two, so that few shapes compile.

  Args:
    params: the model's parameters.
    cfg: the model.
    prompts: lists of ids, none of them empty.
    key: a typed random key; prompt i draws from fold_in(key, i).
    max_new_tokens: the limit for each response.
    temperature: 0 takes the most likely token.
    stop_ids: a response ends with the first of these, which it keeps.

  Returns:
    (ids of each response, log-probability of each of their tokens).

  Raises:
    ValueError: if there is no prompt, or an empty one.
  """
  if not prompts or not all(len(prompt) for prompt in prompts):
    raise ValueError(
      "generate needs at least one prompt and no empty ones; got lengths "
      f"{[len(prompt) for prompt in prompts]}: put a first token in each"
    )
  longest = max(len(prompt) for prompt in prompts)
  rows = token_lib.from_lists(prompts, 1 << (longest - 1).bit_length())
  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(
    jnp.arange(len(prompts))
  )
  response = _decode(
    params,
    cfg,
    rows,
    keys,
    max_new_tokens=max_new_tokens,
    stop_ids=tuple(stop_ids),
    temperature=temperature,
  )
  ids = token_lib.to_lists(response.tokens)
  logp = np.asarray(response.logp)
  return ids, [logp[i, : len(row)].tolist() for i, row in enumerate(ids)]
