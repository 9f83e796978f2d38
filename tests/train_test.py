"""Runs of the whole loop, and runs that die: each ends with the same bits."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import build
from memjax import checkpoint
from memjax import config as config_lib
from memjax import evaluate
from memjax import learner
from memjax import metrics as metrics_lib
from memjax import modes
from memjax import rewards
from memjax import train

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CONFIG = _ROOT / "tests" / "tiny_config.py"


@pytest.fixture(autouse=True)
def _some_reward(monkeypatch):
  """Random weights never answer right: reward answers of an even length."""
  monkeypatch.setitem(
    rewards.REWARDS,
    "reward_f1",
    lambda text, answers: float(len(text) % 2),
  )


@pytest.fixture(scope="module")
def finished():
  """Workdir of an uninterrupted run; filled by the first test that asks."""
  return {}


def _run(config, workdir, finished=None):
  if finished is None:
    train.train(build.make(config), workdir)
    return workdir
  if "workdir" not in finished:
    finished["workdir"] = _run(config, workdir / "whole")
  return finished["workdir"]


def _same(a, b, config):
  """All that a run leaves behind, but for times."""
  run = build.make(config)
  for name in ("metrics.jsonl", "rollouts.json", "base.json", "config.json"):
    assert (a / name).read_bytes() == (b / name).read_bytes(), name
  summaries = [json.loads((x / "summary.json").read_text()) for x in (a, b)]
  for summary in summaries:
    assert summary.pop("seconds") > 0
  assert summaries[0] == summaries[1]
  states = [checkpoint.restore(x, run.abstract_state()) for x in (a, b)]
  assert states[0][1]["cursor"] == states[1][1]["cursor"]
  plain = lambda state: jax.tree.leaves(
    (state.step, state.params, state.opt_state, jax.random.key_data(state.key))
  )
  for x, y in zip(plain(states[0][0]), plain(states[1][0])):
    np.testing.assert_array_equal(x, y)
  best = [
    checkpoint.restore_params(x, run.abstract_state(), "best")[0]
    for x in (a, b)
  ]
  for x, y in zip(jax.tree.leaves(best[0]), jax.tree.leaves(best[1])):
    np.testing.assert_array_equal(x, y)


def test_a_run_leaves_what_it_promises(config, tmp_path, finished):
  workdir = _run(config, tmp_path, finished)
  summary = json.loads((workdir / "summary.json").read_text())
  for row in (summary["base"], summary["trained"]):
    for scale in ("x1", "x2"):
      assert {"accuracy", "low", "high", "n", "sampled"} <= set(row[scale])
      assert row[scale]["n"] == 8
  assert set(summary["controls"]) == set(config_lib.CONTROLS)
  kept = json.loads((workdir / "scores.json").read_text())
  assert set(kept) == {"base", "trained", "controls", "documents", "metric"}
  assert kept["metric"] == "em"
  for scale in ("x1", "x2"):
    # Facts are asked for once in each text.
    assert kept["documents"][scale] == list(range(8))
    for scores in (kept["trained"], *kept["controls"].values()):
      assert len(scores[scale]) == 8
    mean = np.mean(kept["controls"]["oracle"][scale])
    assert mean == summary["controls"]["oracle"][scale]["accuracy"]
    # A random model cannot use the oracle's memory: no gain, and why.
    assert summary["memory_gain"][scale]["gain"] is None
  assert summary["train_examples"] == 6 * 4
  assert summary["versions"]["jax"] == jax.__version__
  records = metrics_lib.read_jsonl(workdir / "metrics.jsonl")
  assert [r["step"] for r in records if "train/loss" in r] == [1, 2, 3, 4, 5, 6]
  assert [r["step"] for r in records if "eval/x1/accuracy" in r] == [0, 3, 6]
  last = [r for r in records if "train/loss" in r][-1]
  assert last["train/finite"] == 1.0
  assert 0 < last["train/logp_gap_max"] < 1e-4
  assert last["train/kl"] > 0
  rollouts = json.loads((workdir / "rollouts.json").read_text())
  assert ["before" in x for x in rollouts] == [True, False, False]
  for group in rollouts[1:]:
    assert group["iteration"] == 6 and len(group["group"]) == 4
  for name in ("curves.png", "report.html", "timing.jsonl"):
    assert (workdir / name).stat().st_size > 0
  assert list((workdir / "tensorboard").glob("events.*"))


@pytest.fixture(scope="module")
def watched():
  """What `test_phases...` and others saw of one run's updates."""
  return []


def _watched(config, workdir, seen, monkeypatch):
  """Of each update: (compiled programs, inputs kept, samplers' arrays kept)."""
  if seen:
    return seen
  programs = (
    agents.rollout_jit,
    learner.accumulate,
    learner.score,
    learner.apply,
  )
  sampling, policies, update = [], build.Run.policies, learner.update

  def handed_over(run, *args):
    found = policies(run, *args)
    sampling.extend(map(weakref.ref, jax.tree.leaves(found.policy["layers"])))
    return found

  def updated(params, opt_state, *args, **kwargs):
    inputs = jax.tree.leaves((params, opt_state))
    kept = sum(found() is not None for found in sampling)
    result = update(params, opt_state, *args, **kwargs)
    sizes = [program._cache_size() for program in programs]
    seen.append((sizes, [x for x in inputs if not x.is_deleted()], kept))
    return result

  monkeypatch.setattr(build.Run, "policies", handed_over)
  monkeypatch.setattr(learner, "update", updated)
  _run(config, workdir)
  assert len(sampling) > len(seen) == config.train.steps
  return seen


def test_each_program_is_compiled_once(config, tmp_path, watched, monkeypatch):
  first, *others = _watched(config, tmp_path, watched, monkeypatch)
  assert all(sizes == first[0] for sizes, _, _ in others)


def test_an_update_is_given_its_inputs_alone(
  config, tmp_path, watched, monkeypatch
):
  """Masters and moments are donated; what sampled is gone."""
  for _, kept, samplers in _watched(config, tmp_path, watched, monkeypatch):
    assert not kept and not samplers


def test_parameters_are_trained(config, tmp_path, finished):
  workdir, run = _run(config, tmp_path, finished), build.make(config)
  new, _ = checkpoint.restore_params(workdir, run.abstract_state(), "last")
  old = run.load_params()
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(old)):
    assert (np.asarray(a) != np.asarray(b)).any()


class _Crash(Exception):
  pass


@pytest.mark.parametrize("dies_at", [0, 1, 2, 3, 5])
def test_a_run_that_dies_ends_with_the_same_bits(
  config, tmp_path, finished, monkeypatch, dies_at
):
  whole = _run(config, tmp_path, finished)
  update, calls = learner.update, []

  def crashing(*args, **kwargs):
    calls.append(1)
    if len(calls) == dies_at + 1:
      raise _Crash
    return update(*args, **kwargs)

  workdir = tmp_path / "dies"
  with monkeypatch.context() as patch:
    patch.setattr(learner, "update", crashing)
    with pytest.raises(_Crash):
      _run(config, workdir)
  _run(config, workdir)
  _same(workdir, whole, config)


def test_resuming_a_finished_run_changes_nothing(config, tmp_path, finished):
  whole = _run(config, tmp_path, finished)
  workdir = shutil.copytree(whole, tmp_path / "again")
  _run(config, workdir)
  _same(workdir, whole, config)


def test_a_longer_run_goes_on(config, tmp_path, finished):
  whole = _run(config, tmp_path, finished)
  workdir = shutil.copytree(whole, tmp_path / "longer")
  config.train.steps = 7
  _run(config, workdir)
  records = metrics_lib.read_jsonl(workdir / "metrics.jsonl")
  assert [r["step"] for r in records if "train/loss" in r][-1] == 7


def test_another_config_is_refused(config, tmp_path, finished):
  workdir = _run(config, tmp_path, finished)
  config.train.learning_rate = 0.5
  with pytest.raises(ValueError, match=r"learning_rate=0.01, not 0.5"):
    train.train(build.make(config), workdir)


def test_an_update_that_is_not_finite_stops_the_run(
  config, tmp_path, monkeypatch
):
  """The step and the last good checkpoint are named, and it can go on."""
  update, rates = learner.update, []

  def poisoned(params, opt_state, buckets, *args, **kwargs):
    rates.append(kwargs["rate"])
    if kwargs["rng"].bit_generator.seed_seq.entropy[1] == 4:
      buckets = [(_with_adv(rows, jnp.inf), index) for rows, index in buckets]
    return update(params, opt_state, buckets, *args, **kwargs)

  with monkeypatch.context() as patch:
    patch.setattr(learner, "update", poisoned)
    with pytest.raises(FloatingPointError, match=r"iteration 5.*checkpoints/4"):
      _run(config, tmp_path / "nan")
  records = metrics_lib.read_jsonl(tmp_path / "nan" / "metrics.jsonl")
  assert max(r["step"] for r in records) == 4
  logged = [x["train/learning_rate"] for x in records if "train/loss" in x]
  assert logged == rates[: len(logged)] and len(set(rates)) > 1
  _run(config, tmp_path / "nan")
  records = metrics_lib.read_jsonl(tmp_path / "nan" / "metrics.jsonl")
  assert max(r["step"] for r in records) == 6


def test_masters_are_not_sampled_with(config, monkeypatch, tmp_path):
  """Rollouts and evaluations read the parameters as the model computes."""
  config.model.dtype = "bfloat16"
  run = build.make(config)
  state = run.init_state(run.load_params())
  assert {x.dtype.name for x in jax.tree.leaves(state.params)} == {"float32"}
  narrow = lambda policies: (
    {x.dtype.name for x in jax.tree.leaves(policies.policy)} == {"bfloat16"}
  )
  assert narrow(train._policies(run, state, None))
  assert narrow(modes.load(run, tmp_path, "base")[0])
  found = []
  suite = lambda run, policies: {"narrow": found.append(narrow(policies))}
  monkeypatch.setattr(evaluate, "suite", suite)
  train._base(run, run.load_params(), tmp_path)
  assert found == [True]


def test_means_are_over_the_updates_that_have_a_metric():
  """A minibatch of which nothing was read has no ratio, and no gap."""
  bare = {"loss": 0.0, "finite": 1.0}
  whole = {"loss": 1.0, "finite": 1.0, "ratio": 0.8, "logp_gap": 0.1}
  assert train._means([whole, bare, whole]) == {
    "train/loss": pytest.approx(2 / 3),
    "train/ratio": 0.8,
    "train/logp_gap": 0.1,
  }
  # Later policies are not the sampler's.
  assert train._means([bare, whole]) == {"train/loss": 0.5, "train/ratio": 0.8}


def _with_adv(rows, value):
  return type(rows)(
    **{
      **{f: getattr(rows, f) for f in rows.__dataclass_fields__},
      "adv": jnp.full_like(rows.adv, value),
    }
  )


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", [1, 3])
def test_kill_9(model_dir, tmp_path, kill_at):
  """The same with processes: one is killed when a step stands in the file."""

  def start(workdir):
    command = [sys.executable, "-m", "memjax.main", f"--config={_CONFIG}"]
    return subprocess.Popen(
      [*command, f"--config.model.path={model_dir}", f"--workdir={workdir}"],
      cwd=_ROOT,
      env={
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(_ROOT / ".jax_cache"),
      },
      stdout=subprocess.DEVNULL,
      stderr=subprocess.PIPE,
    )

  whole, dies = tmp_path / "whole", tmp_path / "dies"
  first = start(whole)
  assert first.wait(300) == 0, first.stderr.read()
  victim, metrics = start(dies), dies / "metrics.jsonl"
  deadline = time.monotonic() + 300
  while time.monotonic() < deadline and victim.poll() is None:
    if metrics.exists() and f'"step": {kill_at},' in metrics.read_text():
      victim.send_signal(signal.SIGKILL)
      break
    time.sleep(0.01)
  assert victim.wait(60) == -signal.SIGKILL
  second = start(dies)
  assert second.wait(300) == 0, second.stderr.read()
  for name in ("metrics.jsonl", "rollouts.json", "base.json"):
    assert (dies / name).read_bytes() == (whole / name).read_bytes(), name
  load = lambda x: json.loads((x / "summary.json").read_text())
  assert load(dies) | {"seconds": 0} == load(whole) | {"seconds": 0}


def test_a_run_in_which_no_group_is_live(config, tmp_path, monkeypatch):
  """Every answer is wrong: nothing moves, nothing breaks."""
  monkeypatch.setitem(rewards.REWARDS, "reward_f1", lambda text, answers: 0.0)
  config.rollout.dynamic_sampling = True
  config.rollout.max_waves = 2
  config.objective.kl_coef = 0.0
  workdir, run = _run(config, tmp_path / "dead"), build.make(config)
  records = metrics_lib.read_jsonl(workdir / "metrics.jsonl")
  steps = [r for r in records if "train/updates" in r]
  assert [r["train/updates"] for r in steps] == [0] * 6
  assert steps[-1]["train/examples"] == 6 * 2 * 4
  params, _ = checkpoint.restore_params(workdir, run.abstract_state(), "last")
  for a, b in zip(jax.tree.leaves(params), jax.tree.leaves(run.load_params())):
    np.testing.assert_array_equal(a, b)
