"""Rollout, loss, update and checkpoint on meshes of 8 virtual devices.

    python sharded_child.py OUT STYLE DATA,FSDP,TENSOR DATA,FSDP,TENSOR

writes what they give without a mesh and on the first, and the checkpoint of the
first as the second reads it, for sharding_test.py to compare. Layers sample
unrolled and are updated scanned; both alike if "-unrolled" or "-scanned" stands
behind the style. A process of its own, as the number of devices cannot be
changed.
"""

import dataclasses
import pathlib
import pickle
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

from memjax import agents
from memjax import build_agent
from memjax import checkpoint
from memjax import learner
from memjax import losses
from memjax import memory_agent
from memjax import qwen3
from memjax import rows as rows_lib
from memjax import sharding
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax.envs import facts
from memjax.memory import recurrent

_MODEL = qwen3.Config(
  vocab_size=256,
  width=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=8,
  mlp_dim=32,
  rope_theta=100.0,
  remat="full",
)
_GROUP = 4
# A greater eps than usual: without it Adam's first update is the sign of each
# gradient, and that of a gradient of nearly 0 is chance.
_TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, eps=1e-3))


def _agent(tokenizer, style, layers):
  model = dataclasses.replace(_MODEL, scan_layers=layers == "scanned")
  op = recurrent.make_recurrent(tokenizer, style, capacity=3)
  # Random weights hardly ever draw one end token in 256: take many.
  op = dataclasses.replace(op, stop_ids=(1, *range(200, 250)))
  return memory_agent.MemoryAgent(
    model,
    op,
    chunk_tokens=6,
    question_tokens=2,
    update_tokens=4,
    answer_tokens=2,
    trained=("update",),
    group=_GROUP,  # which shares the first turn, or all beginnings
  )


def _places(tree):
  """By path: what is held of a leaf, and what of it on one device."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): (
      x.shape,
      x.sharding.shard_shape(x.shape),
    )
    for path, x in jax.tree.leaves_with_path(tree)
  }


def compute(mesh, style):
  """What a rollout, and one step on it, give on a mesh."""
  tokenizer = tokenizer_lib.from_words(facts.vocabulary())
  style, _, layers = style.partition("-")
  agent = _agent(tokenizer, style, layers)
  updated = dataclasses.replace(_MODEL, scan_layers=layers != "unrolled")
  env = facts.Facts(chunks=2, chunk_tokens=6, eval_examples=8, scales=(1,))
  task = tasks.make_task(env.train_examples(0, 4), tokenizer, agent, 2, 2)
  task = tasks.repeat(task, _GROUP, 1)
  host = jax.tree.map(np.asarray, qwen3.init(jax.random.key(0), _MODEL))
  with sharding.use(mesh):
    params = sharding.put(host, mesh) if mesh else jax.device_put(host)
    opt_state = sharding.put(_TX.init(params), mesh)
    policy = build_agent.to_sample(params, agent.model)
    episode = agents.rollout_jit(
      agents.Policies(policy), agent, task, jax.random.key(1), 1.0
    )
    adv = np.linspace(-1, 1, 16, dtype=np.float32)
    made = rows_lib.from_episode(agent, episode, {"update": adv})
    objective = learner.Objective(
      loss=losses.LossConfig(kl_coef=0.0, entropy_coef=0.1)
    )
    sums, logp = learner.init_sums(params, with_ref=False), []
    for rows in made.values():
      # A policy that has moved on, so that ratios count.
      rows = dataclasses.replace(rows, old_logp=rows.old_logp - 0.1)
      pack = rows.pack(8)
      each = 8 // pack
      for start in range(0, rows.weight.size // pack, each):
        sums = learner.accumulate(
          sums,
          params,
          rows,
          np.arange(start, start + each),
          np.bool_(False),
          cfg=updated,
          objective=objective,
          pack=pack,
        )
      logp.append(
        learner.score(
          jnp.zeros_like(rows.old_logp),
          params,
          rows,
          np.arange(each),
          cfg=updated,
          temperature=1.0,
          pack=pack,
        )
      )
    found = jax.device_get(
      {
        "tokens": [
          segment.response.tokens
          for segment in (episode.turns["update"], episode.answer)
        ],
        "sampled": episode.answer.response.logp,
        "logp": logp,
        "loss": (sums.loss, sums.metrics),
        "grads": sums.grads,
      }
    )
    places = _places({"params": params, "policy": policy, "grads": sums.grads})
    whole = [
      x.sharding.is_fully_replicated
      for x in jax.tree.leaves((episode, made, logp))
      if isinstance(x, jax.Array)  # advantages are the host's
    ]
    params, opt_state, metrics = learner.apply(params, opt_state, sums, tx=_TX)
    found |= jax.device_get({"params": params, "metrics": metrics})
    places |= _places({"new": params, "opt_state": opt_state})
    state = learner.TrainState(jnp.int32(7), params, opt_state, _key())
    return found | {"places": places, "whole": all(whole)}, state


def _key():
  return jax.random.key(5)


def moved(state, mesh, workdir):
  """The state from a checkpoint, on another mesh: what it is, and where."""
  abstract = jax.eval_shape(lambda: state)
  got, meta = checkpoint.restore(workdir, sharding.abstract(abstract, mesh))
  plain = lambda x: jax.tree.leaves(
    (x.step, x.params, x.opt_state, jax.random.key_data(x.key))
  )
  same = [
    np.array_equal(np.asarray(a), np.asarray(b))
    for a, b in zip(plain(got), plain(state), strict=True)
  ]
  places = _places({"params": got.params, "opt_state": got.opt_state})
  return {"same": all(same), "places": places, "cursor": meta["cursor"]}


def main():
  out, style, *meshes = sys.argv[1:]
  first, second = (
    sharding.make_mesh(dict(zip(sharding.AXES, map(int, mesh.split(",")))))
    for mesh in meshes
  )
  one, _ = compute(None, style)
  many, state = compute(first, style)
  workdir = pathlib.Path(out).parent / "run"
  checkpoints = checkpoint.open_checkpoints(workdir)
  with sharding.use(first):
    placed = sharding.put(state, first)
    checkpoints.save(placed, {"cursor": 3}, best=False)
  checkpoints.close()
  found = {
    "one": one,
    "many": many,
    "none": moved(state, None, workdir),
    "second": moved(state, second, workdir),
  }
  pathlib.Path(out).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
  main()
