"""What a run allocates and compiles, as shapes: nothing is loaded or allocated.

The objects are those of `build.make`, the programs those of the run. Where a
config names a published Qwen3 instead of a directory, its config.json is
written from the table below, with a stand-in for its tokenizer: the planner
needs how long prompts are, not what is in them.

Dimension key: B = W * G trajectories of a wave of W questions, R rows of an
iteration, n rows of a micro-batch.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from memjax import agents
from memjax import build
from memjax import build_agent
from memjax import hf
from memjax import learner
from memjax import lora
from memjax import prompts
from memjax import qwen3
from memjax import qwen3_cache
from memjax import rows as rows_lib
from memjax import sampling
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import rerank

_SMALL = qwen3.Config(151936, 1024, 28, 16, 8, 128, 3072)
_LARGE = qwen3.Config(151936, 2560, 36, 32, 8, 128, 9728)
# As their config.json on the hub have them.
_PUBLISHED = {
  "Qwen3-0.6B": _SMALL,
  "Qwen3-1.7B": dataclasses.replace(_SMALL, width=2048, mlp_dim=6144),
  "Qwen3-4B": _LARGE,
  "Qwen3-4B-Instruct-2507": dataclasses.replace(_LARGE, rope_theta=5e6),
  "Qwen3-Embedding-0.6B": dataclasses.replace(_SMALL, vocab_size=151669),
}
# How Qwen3 frames one message without reasoning.
_CHAT = (
  "<|im_start|>user\n{{ messages[0]['content'] }}<|im_end|>\n"
  "<|im_start|>assistant\n"
  "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>")

# The programs of an iteration that decide what fits. Scoring by the reference
# holds less than a gradient: neither sums nor what a backward pass keeps.
ROLLOUT, GRADIENT, STEP = "rollout", "gradient", "step"
# A part of ROLLOUT: the tokens of the longest rows, behind prompts' caches.
DECODE = "decode"


def resolve(
  config: ml_collections.ConfigDict, folder: str | os.PathLike
) -> tuple[ml_collections.ConfigDict, list[str]]:
  """A config whose model paths are directories, and what was assumed.

  Args:
    config: of a run; not changed.
    folder: where directories of published shapes are written.

  Raises:
    ValueError: a path is neither a directory nor a published name.
  """
  config = config.copy_and_resolve_references()
  notes = []
  if config.model.get("attention") == "auto":
    # What it means on the target, not where the plan is made.
    narrow = config.model.dtype == "bfloat16"
    config.model.attention = "cudnn" if narrow else "blocks"
  if config.model.get("device") == "auto":
    config.model.device = "gpu"
  # Shapes are those of one device; the planner divides them.
  config.mesh.update(data=1, fsdp=1, tensor=1)
  bare = not config.model.tokenizer
  for section, key in (
    ("model", "path"),
    ("model", "frozen"),
    ("agent", "embedder"),
  ):
    path = config[section][key]
    if (not path and key != "path") or (
      pathlib.Path(path) / "config.json"
    ).is_file():
      continue
    name = pathlib.Path(path).name
    if name not in _PUBLISHED:
      raise ValueError(
        f"config.{section}.{key}={path!r} is no directory with a config.json: "
        f"name one, or one of {', '.join(_PUBLISHED)}"
      )
    config[section][key] = str(_write(name, pathlib.Path(folder) / name))
    notes.append(f"{path}: the published shape; no weights are needed")
  path = pathlib.Path(config.model.path)
  if bare and path.parent == pathlib.Path(folder):
    notes.append(
      "prompts are counted with a stand-in tokenizer, about 20 tokens too "
      "many; --config.model.tokenizer=DIR counts with the real one"
    )
  return config, notes


def _write(name: str, path: pathlib.Path) -> pathlib.Path:
  """config.json and tokenizer of a published model."""
  path.mkdir(exist_ok=True)
  found = hf.to_json(_PUBLISHED[name], "bfloat16")
  (path / "config.json").write_text(json.dumps(found))
  stand_in().save(path)
  return path


def stand_in() -> tokenizer_lib.Tokenizer:
  """A tokenizer of memjax's own prompts, framed as Qwen3's."""
  texts = [
    text
    for styles in (prompts.STYLES, prompts.BANK_STYLES)
    for text in styles["text"].values()
  ]
  tokenizer = tokenizer_lib.train_bpe(texts, 4096, _SPECIAL)
  tokenizer.backend.chat_template = _CHAT
  return tokenizer


@dataclasses.dataclass(frozen=True)
class Shapes:
  """What a run holds on the device, as shapes.

  Attributes:
    agent: of rollouts; it knows which rows share a beginning.
    policies: of rollouts, in the dtype that the model computes in.
    task: a wave's, B trajectories.
    episode: what a wave comes to.
    rows: of an iteration, as `rows.from_episode` names them.
    state: masters and moments.
    base: what adapters are adapters of, or else the reference of the KL term,
      as updates read it; or None.
  """

  agent: agents.Agent
  policies: agents.Policies
  task: tasks.Task
  episode: agents.Episode
  rows: dict[str, rows_lib.Rows]
  state: learner.TrainState
  base: qwen3.Params | None

  @property
  def longest(self) -> str:
    """The name of the longest rows: micro-batches are of one kind."""
    tokens = lambda op: (
      sum(lengths(self.rows[op].prompt)) + self.rows[op].response.ids.shape[1]
    )
    return max(self.rows, key=tokens)


def lengths(prompt: token_lib.Tokens | token_lib.Grouped) -> tuple[int, int]:
  """Tokens that groups share, and those of each row."""
  shared, own = token_lib.parts(prompt)
  return shared.ids.shape[-1] if shared else 0, own.ids.shape[-1]


def describe(run: build.Run, group_size: int | None = None) -> Shapes:
  """Shapes of a run, with its own group size or another."""
  cfg, agent = run.collect, run.agent
  G = group_size or cfg.group_size
  if cfg.share_prefix:
    agent = dataclasses.replace(agent, group=G)
  # The same shapes, and it is traced where cuDNN is not installed.
  plain = lambda model: dataclasses.replace(model, attention="blocks")
  traced = dataclasses.replace(agent, model=plain(agent.model))
  retriever = getattr(agent, "retriever", None)
  if retriever and retriever.embedder:
    retriever = dataclasses.replace(
      retriever, embedder=plain(retriever.embedder)
    )
    traced = dataclasses.replace(traced, retriever=retriever)
  state = run.abstract_state()
  base = _cast(run.abstract_params(), run.model.dtype)
  policies = _policies(run, state, base)
  task = jax.eval_shape(lambda: _task(run, G))
  episode = jax.eval_shape(
    lambda policies, task: agents.rollout(
      policies, traced, task, jax.random.key(0), cfg.temperature
    ),
    policies,
    task,
  )
  adv = {
    op: jax.ShapeDtypeStruct(segment.active.shape[-1:], jnp.float32)
    for op, segment in {**episode.turns, **episode.asked}.items()
  }
  wave = jax.eval_shape(
    functools.partial(rows_lib.from_episode, agent), episode, adv
  )
  waves = cfg.questions // cfg.wave_questions
  rows = {
    name: jax.eval_shape(
      lambda x: rows_lib.empty_like(x, len(x.weight) * waves), x
    )
    for name, x in wave.items()
  }
  if not run.adapters and not run.config.objective.kl_coef:
    base = None
  return Shapes(agent, policies, task, episode, rows, state, base)


def _cast(params: qwen3.Params, dtype: str) -> qwen3.Params:
  return jax.eval_shape(lambda x: qwen3.cast(x, dtype), params)


def _policies(
  run: build.Run, state: learner.TrainState, base: qwen3.Params
) -> agents.Policies:
  """As `Run.policies` has them, but for their values."""
  agent, embedder, reranker = run.agent, None, None
  to_sample = functools.partial(
    jax.eval_shape, lambda x: build_agent.to_sample(x, agent.model)
  )
  policy = to_sample(base)
  frozen = policy if agents.frozen_ops(agent) else None
  if run.adapters:
    policy = jax.eval_shape(
      lambda *x: lora.join(*x, run.adapters), policy, to_sample(state.params)
    )
  retriever = getattr(agent, "retriever", None)
  if retriever and retriever.embedder:
    tuned = retriever.explores and run.config.reranker.tunes == "encoder"
    embedder = _cast(
      jax.eval_shape(lambda: qwen3.init(jax.random.key(0), retriever.embedder)),
      "float32" if tuned else run.model.dtype,
    )
    if retriever.reranks:
      reranker = jax.eval_shape(lambda: rerank.init(retriever.width))
  found = agents.Policies(policy, frozen, embedder, reranker)
  if state.reranker is None:
    return found
  return run.trainer.policies(found, state.reranker.params)


def _task(run: build.Run, group_size: int) -> tasks.Task:
  """A wave of questions about texts that fill all chunks."""
  q, W = run.agent.questions, run.collect.wave_questions
  one = example_lib.Example(
    0, "?", "text", ("",), {"speakers": ("speaker", "speaker")}
  )
  C = run.collect.max_chunks
  task = tasks.make_task([one] * W * q, run.tokenizer, run.agent, C, C)
  return jax.tree.map(jnp.asarray, tasks.repeat(task, group_size, q))


def lower(
  run: build.Run,
  shapes: Shapes,
  program: str,
  rows: int,
  place: Callable[[Any], Any],
) -> Any:
  """A program of the run, traced for shapes alone.

  Args:
    run: the run.
    shapes: of the run, with the group size that a rollout is to have.
    program: ROLLOUT, GRADIENT, STEP or DECODE.
    rows: of a micro-batch (GRADIENT).
    place: puts shapes on a device.
  """
  state, cfg = place(shapes.state), run.model
  if program == ROLLOUT:
    return agents.rollout_jit.lower(
      place(shapes.policies),
      shapes.agent,
      place(shapes.task),
      state.key,
      run.collect.temperature,
    )
  if program == DECODE:
    return _lower_decode(run, shapes, place)
  with_ref = bool(run.config.objective.kl_coef)
  sums = place(
    jax.eval_shape(
      lambda params: learner.init_sums(params, with_ref),
      shapes.state.params,
    )
  )
  if program == STEP:
    return learner.apply.lower(
      state.params, state.opt_state, sums, 1.0, tx=run.tx
    )
  part = shapes.rows[shapes.longest]
  pack = part.pack(rows)
  index = place(jax.ShapeDtypeStruct((rows // pack,), jnp.int32))
  if with_ref:
    part = dataclasses.replace(part, ref_logp=part.old_logp)
  return learner.accumulate.lower(
    sums,
    state.params,
    place(part),
    index,
    True,
    cfg=cfg,
    objective=run.objective,
    pack=pack,
    width=part.capacity,
    frozen=place(shapes.base) if run.adapters else None,
    adapters=run.adapters,
  )


_decode_jit = jax.jit(
  sampling.decode_behind,
  static_argnames=("cfg", "max_new_tokens", "stop_ids"),
)


def _lower_decode(
  run: build.Run, shapes: Shapes, place: Callable[[Any], Any]
) -> Any:
  """Decoding alone, whose arguments are parameters and caches."""
  params, rows = shapes.policies.policy, shapes.rows[shapes.longest]
  W, G = run.collect.wave_questions, run.collect.group_size
  model = shapes.agent.model
  # The same shapes, and it is traced where cuDNN is not installed.
  plain = dataclasses.replace(model, attention="blocks")
  read = functools.partial(
    jax.eval_shape, lambda *args: qwen3.read(args[0], plain, *args[1:]), params
  )
  ints = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)
  slots = functools.partial(qwen3_cache.slots, model)
  shared, own = map(slots, lengths(rows.prompt))
  prefixes = [read(ints(W, shared), ints(W))[1]] if shared else []
  hidden, cache = read(ints(W * G, own), ints(W * G), prefixes)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), W * G))
  return _decode_jit.lower(
    place(params),
    model,
    place([*prefixes, cache]),
    place(hidden),
    place(keys),
    place(jax.ShapeDtypeStruct((W * G,), bool)),
    max_new_tokens=rows.response.ids.shape[1],
    stop_ids=(0,),
    temperature=run.collect.temperature,
  )


def size(tree: Any) -> int:
  """Bytes of the arrays of a tree; a random key has two uint32."""
  return sum(
    leaf.size
    * (
      8
      if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
      else leaf.dtype.itemsize
    )
    for leaf in jax.tree.leaves(tree)
  )
