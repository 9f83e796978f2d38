"""Supervised warm start on (prompt, response) pairs.

Dimension key: R rows, P prompt tokens, A response tokens.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax import qwen3
from memjax import rows as rows_lib
from memjax import sharding
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib


@dataclasses.dataclass(frozen=True)
class Pairs:
  """Prompts and the responses to learn, all of one shape (host arrays).

  Attributes:
    prompt: [R, P].
    response: [R, A], end token included.
    share: of a batch of pairs, the weight of this set's mean in the loss.
  """

  prompt: token_lib.Tokens
  response: token_lib.Tokens
  share: float = 1.0


def make_pairs(
  prompts: Sequence[Sequence[int]],
  responses: Sequence[Sequence[int]],
  end_id: int,
  share: float = 1.0,
) -> Pairs:
  """Packs lists of ids; the end token is put behind each response.

  Raises:
    ValueError: if there is no pair, or if the lists differ in length.
  """
  if not prompts or len(prompts) != len(responses):
    raise ValueError(
      f"{len(prompts)} prompts and {len(responses)} responses: a warm start "
      "needs at least one pair, and as many responses as prompts"
    )
  ended = [[*ids, end_id] for ids in responses]
  pack = lambda ids: token_lib.from_lists(ids, max(len(row) for row in ids))
  return Pairs(pack(prompts), pack(ended), share)


def load_pairs(
  path: str | pathlib.Path,
  tokenizer: tokenizer_lib.Tokenizer,
  thinking: bool = False,
) -> Pairs:
  """Reads a JSONL file of {"prompt": ..., "response": ...}.

  Each prompt becomes one user message of the chat template.

  Raises:
    ValueError: no such file; or names the line of a malformed pair.
  """
  if not pathlib.Path(path).is_file():
    raise ValueError(f"{path}: no such file; expected JSONL pairs")
  prompts, responses = [], []
  for number, line in enumerate(pathlib.Path(path).open(), start=1):
    try:
      pair = json.loads(line)
    except json.JSONDecodeError as error:
      raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
    for field in ("prompt", "response"):
      if not isinstance(pair, dict) or not isinstance(pair.get(field), str):
        raise ValueError(
          f"{path}, line {number}: expected an object with the string "
          f"{field!r}, found {line.strip()[:80]}"
        )
    prompts.append(tokenizer.encode(tokenizer.chat(pair["prompt"], thinking)))
    responses.append(tokenizer.encode(pair["response"]))
  return make_pairs(prompts, responses, tokenizer.stop_ids[-1])


def negative_log_likelihood(
  params: qwen3.Params, cfg: qwen3.Config, rows: rows_lib.Rows
) -> jax.Array:
  """Mean over response tokens, in nats."""
  logp, _ = rows_lib.logp_and_entropy(params, cfg, rows)
  mask = rows.mask
  return -jnp.where(mask, logp, 0.0).sum() / jnp.maximum(mask.sum(), 1)


@functools.partial(
  jax.jit, static_argnames=("cfg", "shares", "tx"), donate_argnums=(0, 1)
)
def _step(params, opt_state, sets, cfg, shares, tx):
  def loss_fn(params):
    losses = [negative_log_likelihood(params, cfg, rows) for rows in sets]
    return sum(share * x for share, x in zip(shares, losses)), losses

  (_, losses), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  updates, opt_state = tx.update(grads, opt_state, params)
  new = (optax.apply_updates(params, updates), opt_state)
  return *sharding.constrain_params(new), losses


def fit(
  params: qwen3.Params,
  cfg: qwen3.Config,
  sets: Sequence[Pairs],
  *,
  tx: optax.GradientTransformation,
  steps: int,
  batch_size: int,
  seed: int = 0,
  on_step: Callable[[int, list[float]], None] | None = None,
) -> qwen3.Params:
  """Minimises the shares-weighted sum of the sets' mean losses.

  Args:
    params: start; a copy is trained.
    cfg: the model.
    sets: each gives `batch_size` random pairs to every step.
    tx: the optimiser.
    steps: optimiser steps.
    batch_size: pairs of each set per step.
    seed: of the choice of pairs.
    on_step: called with (step, loss of each set) every 50 steps.

  Returns:
    The trained parameters.

  Raises:
    FloatingPointError: at the first loss read that is not finite.
  """
  params = jax.tree.map(jnp.array, params)
  opt_state = tx.init(params)
  rng = np.random.default_rng([seed, 7])
  shares = tuple(pairs.share for pairs in sets)
  for step in range(steps):
    batch = [_batch(pairs, rng, batch_size) for pairs in sets]
    params, opt_state, losses = _step(params, opt_state, batch, cfg, shares, tx)
    if step % 50 == 49 or step + 1 == steps:
      losses = [float(x) for x in losses]
      if not np.isfinite(losses).all():
        raise FloatingPointError(
          f"warm start: loss {losses} at step {step + 1}; lower the learning "
          "rate"
        )
      if on_step:
        on_step(step + 1, losses)
  return params


def _batch(pairs: Pairs, rng: np.random.Generator, size: int) -> rows_lib.Rows:
  index = rng.integers(0, len(pairs.prompt.length), size)
  prompt = jax.tree.map(lambda x: x[index], pairs.prompt)
  response = jax.tree.map(lambda x: x[index], pairs.response)
  shape = response.ids.shape
  return rows_lib.Rows(
    prompt,
    response,
    np.zeros(shape, np.float32),
    None,
    np.zeros(shape[:1], np.float32),
    np.ones(shape[:1], bool),
  )
