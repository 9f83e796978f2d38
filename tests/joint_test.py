"""Policy and reranker in one run: together, alone, stopped, exported."""

import dataclasses
import json

import jax
import numpy as np
import pytest
import tiny_runs

import memjax
from memjax import build
from memjax import checkpoint
from memjax import hf
from memjax import metrics as metrics_lib
from memjax import modes
from memjax import reranker
from memjax import train
from memjax.memory import rerank


def _joint(path, **changes):
  """Four iterations on a policy that cites at random, a map beside it."""
  config = tiny_runs.dialogues(path)
  tiny_runs.raw_lines(config)
  config.data.update(eval_examples=4, questions=2)
  config.agent.update(
    retriever="rerank", fetched=5, retrieved=3, entries=6, questions=2
  )
  config.agent.update(changes)
  config.reward.answer_format = 0.5
  config.rollout.update(questions=2, wave_questions=1, group_size=4)
  config.reranker.update(micro_batch=6, learning_rate=1e-2)
  config.train.update(
    steps=4, minibatches=1, micro_batch=16, schedule="constant"
  )
  config.eval.update(every=2, examples=4, batch_size=4, traces=1)
  config.checkpoint.every = 2
  return config


def _trained(config, workdir):
  run = build.make(config)
  train.train(run, workdir)
  return run, checkpoint.restore(workdir, run.abstract_state())[0]


def _moved(new, old):
  """Whether each array changed."""
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
  return [bool((np.asarray(a) != np.asarray(b)).any()) for a, b in pairs]


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
  """(config, workdir, run, last state) of a run of policy and map."""
  path = tmp_path_factory.mktemp("joint")
  config = _joint(path)
  return config, path / "whole", *_trained(config, path / "whole")


def test_policy_and_map_are_trained_together(joint):
  _, workdir, run, state = joint
  assert all(_moved(state.params, run.load_params()))
  assert all(_moved(state.reranker.params, rerank.init(16)))
  records = metrics_lib.read_jsonl(workdir / "metrics.jsonl")
  steps = [r for r in records if "train/loss" in r]
  assert len(steps) == 4
  for record in steps:
    assert 0 < record["rerank/cited"] < 1 and record["rerank/grad_norm"] > 0
    assert record["train/finite"] == 1
  summary = json.loads((workdir / "summary.json").read_text())
  assert set(summary["recall"]) == {"base", "trained"}


class _Crash(Exception):
  pass


@pytest.mark.parametrize(
  "dies_at", [3, pytest.param(None, marks=pytest.mark.slow)]
)
def test_a_joint_run_that_stops_ends_with_the_same_bits(
  joint, tmp_path, monkeypatch, dies_at
):
  """Killed between the policy's update and the map's, or ended too early."""
  config, whole, run, want = joint
  workdir, config = tmp_path / "stops", config.copy_and_resolve_references()
  if dies_at is None:
    config.train.steps = 2
    _trained(config, workdir)
    config.train.steps = 4
  else:
    update, calls = reranker.update, []

    def crashing(*args):
      calls.append(1)
      if len(calls) == dies_at:
        raise _Crash
      return update(*args)

    with monkeypatch.context() as patch:
      patch.setattr(reranker, "update", crashing)
      with pytest.raises(_Crash):
        _trained(config, workdir)
  _, got = _trained(config, workdir)
  plain = lambda x: dataclasses.replace(x, key=jax.random.key_data(x.key))
  jax.tree.map(np.testing.assert_array_equal, plain(got), plain(want))
  assert any(_moved(got.reranker.opt_state, run.trainer.tx.init(
    rerank.init(16)
  )))  # fmt: skip
  names = ["rollouts.json", "base.json"]
  for name in names + ["metrics.jsonl"] * (dies_at is not None):
    assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
  best = [
    checkpoint.restore_params(x, run.abstract_state(), "best")[0]
    for x in (workdir, whole)
  ]
  jax.tree.map(np.testing.assert_array_equal, *best)


def test_an_exported_map_is_read_back(joint, tmp_path):
  config, workdir, run, state = joint
  out = tmp_path / "exported"
  modes.export(run, workdir, "last", str(out))
  config = config.copy_and_resolve_references()
  config.model.path = config.reranker.path = str(out)
  for trained in (("answer", "rerank"), ("answer",)):
    config.agent.trained = trained
    again = build.make(config)
    policies = again.policies(again.load_params())
    assert not any(_moved(policies.reranker, state.reranker.params))
    assert not any(_moved(policies.policy, state.params))
  settings = {"retriever": "rerank", "embedder": config.agent.embedder}
  reader = memjax.load(out, "memory_r1", style="words", **settings)
  assert not any(_moved(reader.policies.reranker, state.reranker.params))
  config.agent.trained = ("answer", "rerank")
  start = build.make(config).init_state(state.params)
  assert not any(_moved(start.reranker.params, state.reranker.params))


def test_the_map_alone_is_trained(joint, tmp_path):
  config = joint[0].copy_and_resolve_references()
  config.agent.trained = ("rerank",)
  config.train.steps = 2
  run, state = _trained(config, tmp_path / "alone")
  assert not any(_moved(state.params, run.load_params()))
  assert all(_moved(state.reranker.params, rerank.init(16)))


def test_without_rerank_the_map_stays_at_zero(joint, tmp_path):
  config = joint[0].copy_and_resolve_references()
  config.agent.trained = ("answer",)
  config.train.steps = 2
  run, state = _trained(config, tmp_path / "policy")
  assert all(_moved(state.params, run.load_params()))
  assert state.reranker is None and run.trainer is None
  policies, _ = modes.load(run, tmp_path / "policy", "last")
  assert not any(_moved(policies.reranker, rerank.init(16)))


def test_the_encoder_instead_of_a_map(joint, tmp_path):
  config = joint[0].copy_and_resolve_references()
  config.agent.trained = ("rerank",)
  config.reranker.tunes = "encoder"
  config.train.steps = 2
  run, state = _trained(config, tmp_path / "encoder")
  before = hf.load(config.agent.embedder)[1]
  # Whatever stands in the texts; the head is in no embedding.
  moved = {k: _moved(x, before[k]) for k, x in state.reranker.params.items()}
  assert not any(moved.pop("head")) and all(sum(moved.values(), []))
  assert not any(_moved(state.params, run.load_params()))
  out = tmp_path / "exported"
  modes.export(run, tmp_path / "encoder", "last", str(out))
  config.agent.embedder = str(out / "embedder")
  policies = build.make(config).retrieval()
  assert not any(_moved(policies.embedder, state.reranker.params))
  assert not any(_moved(policies.reranker, rerank.init(16)))
  assert not (out / reranker.FILE).exists()
