"""The training loop, from a config to summary.json and a report.

Read it from `train` downwards. One iteration: rollouts, rewards on the host,
several updates. The metrics of an iteration are read after the rollouts of the
next one, before its updates, so the device seldom waits for the host and no
checkpoint is written before its step was seen to be finite.
"""

import dataclasses
import json
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from memjax import agents
from memjax import build
from memjax import checkpoint
from memjax import collect
from memjax import evaluate
from memjax import finish
from memjax import hosts
from memjax import learner
from memjax import metrics as metrics_lib
from memjax import qwen3
from memjax import reranker
from memjax import run_folder
from memjax import scores
from memjax import sharding


class Diverged(FloatingPointError):
  """An update was not finite.

  Attributes:
    step: the iteration of the update.
  """

  def __init__(self, step: int, message: str):
    """Takes the iteration, and what to tell people."""
    super().__init__(message)
    self.step = step


@dataclasses.dataclass(frozen=True)
class _Meta:
  """What a checkpoint remembers beside the state.

  Attributes:
    cursor: training examples used up.
    best_step: iteration with the best held-out accuracy so far.
    best_accuracy: that accuracy.
    seconds: spent on the run, over all its processes.
  """

  cursor: int = 0
  best_step: int = 0
  best_accuracy: float = -1.0
  seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Pending:
  """A finished iteration whose metrics have not been read yet."""

  experience: collect.Experience
  history: list[dict[str, jax.Array]]
  ranking: dict[str, jax.Array]


def train(run: build.Run, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Trains, or goes on training, what a config describes.

  Args:
    run: from `build.make`.
    workdir: folder of the run; a checkpoint in it is resumed.

  Returns:
    The summary that is also written to workdir/summary.json.

  Raises:
    ValueError: the workdir is of another config, or a judge errs too often.
    JudgeError: an answer could not be judged.
    Diverged: an update was not finite.
  """
  with sharding.use(run.mesh):
    return _train(run, workdir)


def _train(run: build.Run, workdir: str | pathlib.Path) -> dict[str, Any]:
  """`train`, with the mesh in context."""
  start = time.monotonic()
  config, steps = run.config, run.config.train.steps
  if run.judged:
    logging.info("judge: %s", run.judged.checked.identity)
  run.env.train_examples(0, 1)  # a test set refuses, before any time is spent
  workdir = run_folder.claim(workdir, config)
  hosts.wait("config.json is written")
  if not (workdir / "config.json").exists():
    raise ValueError(
      f"--workdir={workdir} of process 0 is another folder than here: name one "
      "on a file system that all processes share"
    )
  logging.info("%s", scores.plan(run.env.eval_sets()))
  restored = checkpoint.restore(workdir, run.abstract_state())
  params = run.load_params()
  base = _base(run, params, workdir)
  ref_params = _reference(run, params)
  if restored is None:
    state, meta, resume_step = run.init_state(params), _Meta(), None
  else:
    state, meta = run.place(restored[0]), _Meta(**restored[1])
    resume_step = int(state.step)
    logging.info("%s: resumed after iteration %d", workdir, resume_step)
  # Of a model that is trained its buffers are the state's now, and are given to
  # the updates.
  below = params if run.adapters else None  # what adapters are adapters of
  del params
  # As if this process had also done what earlier ones did.
  start -= meta.seconds

  checkpoints, pending = checkpoint.open_checkpoints(workdir), None
  with (
    metrics_lib.open_writer(workdir, resume_step) as writer,
    metrics_lib.Progress(steps) as progress,
  ):
    if resume_step is None:
      writer.write_hparams(config.to_dict())
      # The set that is evaluated during training.
      first = evaluate.first_set(run)
      writer.write_scalars(0, _eval_scalars({first: base["sets"][first]}))
    clock = time.monotonic()
    # One more round than iterations, to settle the last one.
    for step in range(int(state.step), steps + 1):
      experience = None
      if step < steps:
        experience = collect.collect(
          _policies(run, state, below),
          run.agent,
          run.env,
          run.tokenizer,
          run.collect,
          key=jax.random.fold_in(state.key, step),
          seed=(config.seed, step),
          cursor=pending.experience.cursor if pending else meta.cursor,
          record=config.rollout.traces if step == steps - 1 else 0,
        )
        if step == steps - 1:
          # Kept apart, for a run that dies before its report.
          kept = [{"iteration": steps, **x} for x in experience.groups]
          run_folder.write_json(workdir / "groups.json", kept)
      if pending:  # iteration step - 1, which `state` is the result of
        scalars = _scalars(run, step - 1, pending)
        # From one reading to the next, evaluations left out.
        seconds = time.monotonic() - clock
        scalars["time/seconds"] = seconds
        scalars["time/tokens_per_s"] = pending.experience.tokens / seconds
        if not scalars["train/finite"]:
          checkpoints.close()
          raise Diverged(step, _not_finite(step, workdir))
        writer.write_scalars(step, scalars)
        progress.update(
          step, scalars["rollout/reward"], scalars["time/tokens_per_s"]
        )
        meta = dataclasses.replace(
          meta,
          cursor=pending.experience.cursor,
          seconds=time.monotonic() - start,
        )
        best = False
        if config.eval.every and step % config.eval.every == 0:
          sets = evaluate.quick(run, _policies(run, state, below))
          writer.write_scalars(step, _eval_scalars(sets))
          accuracy = next(iter(sets.values()))["accuracy"]
          best = accuracy > meta.best_accuracy
          if best:
            meta = dataclasses.replace(
              meta, best_step=step, best_accuracy=accuracy
            )
        if best or step % config.checkpoint.every == 0 or step == steps:
          writer.flush()
          checkpoints.save(state, dataclasses.asdict(meta), best)
        clock = time.monotonic()
      if experience is None:
        break
      params, opt_state, history = learner.update(
        state.params,
        state.opt_state,
        [(experience.rows[op], experience.index[op]) for op in experience.rows],
        ref_params,
        cfg=run.model,
        objective=run.objective,
        tx=run.tx,
        minibatches=config.train.minibatches,
        micro_batch=config.train.micro_batch,
        widths=config.train.widths,
        frozen=below,
        adapters=run.adapters,
        old_logp=config.objective.old_logp,
        rate=float(run.schedule(step)),
        rng=np.random.default_rng([config.seed, step, 3]),
      )
      reranked, ranking = state.reranker, {}
      if run.trainer:
        reranked, ranking = reranker.update(
          reranked, run.retrieval(), experience.choices, run.trainer
        )
      state = learner.TrainState(
        jnp.int32(step + 1), params, opt_state, state.key, reranked
      )
      pending = _Pending(experience, history, ranking)
  checkpoints.close()
  made = {
    "train_examples": meta.cursor,
    "best_step": meta.best_step,
    "best_accuracy": meta.best_accuracy,
  }
  policies = _policies(run, state, below)
  return finish.finish(run, workdir, base, policies, made, start)


def _policies(
  run: build.Run, state: learner.TrainState, below: qwen3.Params | None
) -> agents.Policies:
  """What samples as a state; its adapters, if it has them, are of `below`."""
  parts = (below, state.params) if run.adapters else (state.params, None)
  return run.policies(*parts, state.trained.get("reranker"))


def _reference(run: build.Run, params: qwen3.Params) -> qwen3.Params | None:
  """A copy of the parameters for the KL term, if there is one.

  What is frozen is no copy: it is the model with its adapters off, or what
  operations that are not trained use.
  """
  if not run.config.objective.kl_coef:
    return None
  if run.adapters:
    return params
  if run.shares_base:
    return run.base
  return jax.tree.map(
    lambda x: jnp.array(x, dtype=run.model.dtype, copy=True), params
  )


def _base(
  run: build.Run, params: qwen3.Params, workdir: pathlib.Path
) -> dict[str, Any]:
  """The evaluation before training; kept in a file for runs that resume."""
  path = workdir / "base.json"
  there = path.exists()
  hosts.wait("all have looked for base.json")
  if not there:
    logging.info("evaluating %s", run.config.model.path)
    run_folder.write_json(path, evaluate.suite(run, run.policies(params)))
    hosts.wait("base.json is written")
  return json.loads(path.read_text())


def _scalars(run: build.Run, step: int, pending: _Pending) -> dict[str, float]:
  """One line of metrics.jsonl: rollouts, and means over the updates."""
  history = jax.device_get(pending.history)
  scalars = {"train/learning_rate": float(run.schedule(step))}
  scalars["train/examples"] = pending.experience.cursor
  scalars["train/updates"] = len(history)
  ranking = jax.device_get(pending.ranking)
  updates = [*history, ranking] if ranking else history
  scalars["train/finite"] = float(all(m["finite"] for m in updates))
  scalars |= {
    f"rerank/{name}": float(x)
    for name, x in ranking.items()
    if name != "finite"
  }
  if history:
    scalars |= _means(history)
  return {**scalars, **pending.experience.metrics}


def _means(history: list[dict[str, Any]]) -> dict[str, float]:
  """Means over the updates of an iteration that have a metric."""
  names = dict.fromkeys(name for metrics in history for name in metrics)
  found = {
    name: float(np.mean([x[name] for x in history if name in x]))
    for name in names
    if name != "finite"
  }
  # In later minibatches the policy has moved away from the sampler's.
  for name in ("logp_gap", "logp_gap_max"):
    found.pop(name, None)
    if name in history[0]:
      found[name] = float(history[0][name])
  return {f"train/{name}": x for name, x in found.items()}


def _eval_scalars(sets: dict[str, Any]) -> dict[str, float]:
  return {
    f"eval/{name}/accuracy": cell["accuracy"] for name, cell in sets.items()
  }


def _not_finite(step: int, workdir: pathlib.Path) -> str:
  last = checkpoint.last_step(workdir)
  where = (
    f"the last good checkpoint is {workdir}/{checkpoint.FOLDERS['last']}/{last}"
    if last is not None
    else "there is no checkpoint yet"
  )
  return (
    f"iteration {step}: a loss or gradient was not finite; the update was left "
    f"out and the run stopped; {where}. Lower config.train.learning_rate or "
    "config.train.grad_clip, then start again"
  )
