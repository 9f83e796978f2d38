"""Rows 3 and 4 of the benchmark: memjax, by the functions that training calls.

Row 3, `papers`, has MemAgent's order of prompts (memory before chunk), so that
of a group only the first turn is read once; row 4, `shared`, has the chunk
first, and question and chunk are read once in every turn.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import work

from memjax import build
from memjax import collect
from memjax import config as config_lib
from memjax import learner
from memjax import rows as rows_lib
from memjax import sampling
from memjax import tokens as token_lib
from memjax.envs import example as example_lib

# Rows of a micro-batch: 4 is the fastest for rows that share nothing.
_STYLES = {"papers": ("words", 4), "shared": ("words_chunk_first", 16)}


class _Texts:
  """An environment of `work.text`."""

  def train_examples(self, cursor, count):
    """Example i is text i."""
    return [
      example_lib.Example(i, *work.text(i), ("",))
      for i in range(cursor, cursor + count)
    ]

  def reward(self, example, answer):
    """Of no meaning."""
    return work.reward(answer)


def _config(name, folder):
  """A run as training has it."""
  style, micro_batch = _STYLES[name]
  config = config_lib.default()
  config.model.update(
    path=str(folder), dtype="float32", scan_layers=False, remat="none"
  )
  config.agent.update(
    style=style,
    chunk_tokens=work.CHUNK,
    max_chunks=work.CHUNKS,
    question_tokens=4,
    memory_tokens=work.MEMORY,
    update_tokens=work.MEMORY,
    answer_tokens=work.ANSWER,
  )
  config.rollout.update(
    questions=1,
    wave_questions=1,
    group_size=work.GROUP,
    share_prefix=True,
  )
  config.objective.update(
    name="grpo",
    std_normalize=True,
    clip_low=work.CLIP,
    clip_high=work.CLIP,
    dual_clip=0.0,
    kl_coef=work.KL,
  )
  config.train.update(
    minibatches=1,
    micro_batch=micro_batch,
    learning_rate=work.LEARNING_RATE,
    warmup_steps=0,
    grad_clip=work.GRAD_CLIP,
    weight_decay=0.0,
  )
  return config


class Row:
  """Row 3 or 4."""

  def __init__(self, name, folder):
    """Loads the model, its reference and the optimiser."""
    self.shared = name == "shared"
    self.run = build.make(_config(name, folder), needs_data=False)
    # No token ends a response.
    op = dataclasses.replace(self.run.agent.op, stop_ids=())
    self.agent = dataclasses.replace(self.run.agent, op=op)
    params = self.run.load_params()
    self.ref = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    self.state = self.run.init_state(params)

  def prompts(self, ids):
    """Rows of equal prompts; what a group shares is all but the last token."""
    tokens = lambda x: token_lib.Tokens(
      jnp.asarray(x), jnp.full(len(x), x.shape[1], jnp.int32)
    )
    found = tokens(ids)
    return token_lib.grouped(found, work.GROUP) if self.shared else found

  def decode(self, ids, new):
    """Continuations [B, new] of ids [B, P]."""
    keys = jax.random.split(jax.random.key(0), len(ids))
    policy = self.run.policies(self.state.params).policy
    found = _decode(policy, self.prompts(ids), keys, self.agent.model, new)
    return np.asarray(found.tokens.ids)

  def greedy(self, ids, new):
    """The most likely continuations."""
    found, _ = sampling.generate(
      self.run.policies(self.state.params).policy,
      self.agent.model,
      ids.tolist(),
      key=jax.random.key(0),
      max_new_tokens=new,
      temperature=0.0,
    )
    return found

  def update(self, buckets):
    """One step; returns numbers."""
    train = self.run.config.train
    params, opt_state, (metrics,) = learner.update(
      self.state.params,
      self.state.opt_state,
      buckets,
      self.ref,
      cfg=self.run.model,
      objective=self.run.objective,
      tx=self.run.tx,
      minibatches=train.minibatches,
      micro_batch=train.micro_batch,
      old_logp="trainer",
      rng=np.random.default_rng(0),
    )
    self.state = dataclasses.replace(
      self.state, params=params, opt_state=opt_state
    )
    jax.block_until_ready(params)
    return {name: float(metrics[name]) for name in ("loss", "grad_norm")}

  def iteration(self, seed):
    """Rollouts of a group, and a step on them."""
    found = collect.collect(
      self.run.policies(self.state.params),
      self.agent,
      _Texts(),
      self.run.tokenizer,
      self.run.collect,
      key=jax.random.key(seed),
      seed=(0, seed),
      cursor=seed,
    )
    numbers = self.update(
      [(found.rows[op], found.index[op]) for op in found.rows]
    )
    return numbers | {"tokens": found.tokens}


_decode = jax.jit(
  lambda params, prompts, keys, cfg, new: sampling.decode(
    params, cfg, prompts, keys, max_new_tokens=new, stop_ids=()
  ),
  static_argnums=(3, 4),
)


def measures(name, folder):
  """{what: a function of the repetition} of a row."""
  row, data = Row(name, folder), work.rows()
  R = len(data.adv)
  rows = rows_lib.Rows(
    row.prompts(data.prompt),
    token_lib.Tokens(
      jnp.asarray(data.response), jnp.full(R, work.NEW, jnp.int32)
    ),
    jnp.zeros(data.response.shape),
    None,
    jnp.asarray(data.adv),
    jnp.ones(R, bool),
  )
  return {
    "greedy": lambda rep: row.greedy(data.prompt[:: work.GROUP], 16),
    "decode16": lambda rep: len(row.decode(data.prompt[:16], work.NEW)),
    "decode32": lambda rep: len(row.decode(data.prompt, work.NEW)),
    "update": lambda rep: row.update([(rows, np.arange(R))]),
    "iteration": row.iteration,
  }
