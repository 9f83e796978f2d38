"""Adapters: nothing at first, the same model beside and in the matrices."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax import agents
from memjax import build
from memjax import checkpoint
from memjax import hf
from memjax import learner
from memjax import lora
from memjax import losses
from memjax import modes
from memjax import qwen3
from memjax import qwen3_cache
from memjax import rows as rows_lib
from memjax import tasks
from memjax import train
from memjax.envs import example as example_lib

_SHAPE = lora.Shape(2, 8.0, ("q", "o", "gate"))
_forward = jax.jit(qwen3.forward, static_argnums=1)


def _random(adapters):
  """Adapters that change something: B is 0 at first."""
  leaves, tree = jax.tree.flatten(adapters)
  keys = jax.random.split(jax.random.key(5), len(leaves))
  return tree.unflatten(
    [x + 0.1 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys)]
  )


@pytest.fixture(scope="module")
def adapters(params):
  return _random(lora.init(jax.random.key(1), params, _SHAPE))


@pytest.fixture(scope="module")
def tokens():
  rows = np.random.default_rng(0).integers(0, 256, (2, 9))
  return jnp.asarray(rows, jnp.int32)


def test_adapters_are_of_the_named_matrices(params):
  found = lora.init(jax.random.key(1), params, _SHAPE)
  paths = {
    "/".join(k.key for k in path): x.shape
    for path, x in jax.tree.leaves_with_path(found)
  }
  L, D = 2, 16
  assert paths == {
    "layers/attn/q/lora_a": (L, D, 2),
    "layers/attn/q/lora_b": (L, 2, 16),
    "layers/attn/o/lora_a": (L, 16, 2),
    "layers/attn/o/lora_b": (L, 2, D),
    "layers/gate/lora_a": (L, D, 2),
    "layers/gate/lora_b": (L, 2, 32),
  }
  a = found["layers"]["attn"]["q"]["lora_a"]
  o = found["layers"]["attn"]["o"]["lora_a"]
  assert np.abs(a).max() > 0.05 and not np.array_equal(a, o)


def test_they_change_nothing_at_first(params, agent, tokens):
  first = lora.init(jax.random.key(1), params, _SHAPE)
  joined = lora.join(params, first, _SHAPE)
  got = _forward(joined, agent.model, tokens)
  want = _forward(params, agent.model, tokens)
  np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("scan_layers", [True, False])
def test_beside_is_in(params, agent, adapters, tokens, scan_layers):
  """(alpha / r) x A B, as one matrix product more or in W itself."""
  cfg = dataclasses.replace(agent.model, scan_layers=scan_layers)
  hidden = lambda p: np.asarray(_forward(p, cfg, tokens))
  beside = hidden(lora.join(params, adapters, _SHAPE))
  merged = lora.merge(params, adapters, _SHAPE)
  np.testing.assert_allclose(beside, hidden(merged), atol=2e-5)
  assert np.abs(beside - hidden(params)).max() > 1e-2
  a, b = (adapters["layers"]["gate"][x][1] for x in ("lora_a", "lora_b"))
  np.testing.assert_allclose(
    merged["layers"]["gate"]["kernel"][1],
    params["layers"]["gate"]["kernel"][1] + 4.0 * a @ b,
    atol=1e-6,
  )
  np.testing.assert_array_equal(merged["embed"], params["embed"])


def test_matrices_with_adapters_stay_apart(params, agent, adapters):
  """Those of which one has: when tokens are decoded the others are joined."""

  def layer(params):
    params = qwen3.unstacked(params, agent.model)
    return qwen3_cache.for_decoding(params, agent.model, [])[0]["layers"][1]

  plain = layer(params)
  assert plain["gate_up"]["kernel"].shape == (16, 64)
  assert plain["attn"]["qkv"]["kernel"].shape == (16, 32)
  some = lora.Shape(2, 8.0, ("up",))
  beside = layer(
    lora.join(params, lora.init(jax.random.key(1), params, some), some)
  )
  assert {"gate", "up"} < beside.keys() and "qkv" in beside["attn"]
  beside = layer(lora.join(params, adapters, _SHAPE))
  assert {"gate", "up"} < beside.keys() and "q" in beside["attn"]


def test_an_update_is_the_gradient_in_the_adapters(
  policies, params, agent, adapters, tokenizer
):
  """Against the chain rule by jax, on the merged model; W does not move."""
  examples = [example_lib.Example(i, "kim?", "the of and", ()) for i in (0, 1)]
  task = tasks.repeat(tasks.make_task(examples, tokenizer, agent), 2)
  episode = agents.rollout_jit(policies, agent, task, jax.random.key(0), 1.0)
  adv = jnp.array([1.0, -1.0, 0.5, -0.5])
  rows = rows_lib.from_segment(episode.answer, adv)
  cfg = losses.LossConfig(kl_coef=0.1)
  before = jax.tree.map(np.asarray, params)

  def loss(adapters):
    merged = lora.merge(params, adapters, _SHAPE)
    logp, entropy = rows_lib.logp_and_entropy(merged, agent.model, rows)
    ref, _ = rows_lib.logp_and_entropy(params, agent.model, rows)
    mean, _ = losses.multi_conv_dapo(
      logp, logp, ref, rows.adv, rows.mask, cfg, entropy
    )
    return mean.value()

  grads = jax.jit(jax.grad(loss))(adapters)
  copy = jax.tree.map(lambda x: jnp.array(x, copy=True), adapters)
  tx = optax.sgd(1.0)
  new, _, (metrics,) = learner.update(
    copy,
    tx.init(copy),
    [(rows, np.arange(4))],
    params,
    cfg=agent.model,
    objective=learner.Objective(loss=cfg),
    tx=tx,
    minibatches=1,
    micro_batch=4,
    old_logp="trainer",
    rng=np.random.default_rng(0),
    frozen=params,
    adapters=_SHAPE,
  )
  assert float(metrics["kl"]) > 1e-6
  for got, old, grad in zip(*map(jax.tree.leaves, (new, adapters, grads))):
    assert np.abs(grad).max() > 1e-6
    np.testing.assert_allclose(got, old - grad, atol=1e-5)
  for a, b in zip(*map(jax.tree.leaves, (params, before))):
    np.testing.assert_array_equal(a, b)


@pytest.fixture
def tuned(config):
  config.lora.update(rank=4, alpha=8.0)
  config.train.update(steps=3, learning_rate=1e-2, warmup_steps=0)
  config.objective.kl_coef = 1e-3
  config.eval.update(every=0, samples=0)
  config.checkpoint.every = 1
  config.data.scales = (1,)
  return config


@pytest.mark.slow
def test_a_run_that_stops_ends_with_the_same_bits(tuned, tmp_path):
  """Three trainings; train_test.py stops runs without adapters."""
  whole = train.train(build.make(tuned), tmp_path / "whole")
  tuned.train.steps = 2
  train.train(build.make(tuned), tmp_path / "parts")
  tuned.train.steps = 3
  parts = train.train(build.make(tuned), tmp_path / "parts")
  assert whole["trained"] == parts["trained"]
  lines = [
    [json.loads(x) for x in (tmp_path / n / "metrics.jsonl").open()]
    for n in ("whole", "parts")
  ]
  for one, two in zip(*lines, strict=True):
    for key in one.keys() - {"time/seconds", "time/tokens_per_s"}:
      assert one[key] == two[key], key


def test_a_run_trains_and_exports(tuned, tmp_path):
  tuned.train.steps = 2
  tuned.eval.controls = ()
  run = build.make(tuned)
  train.train(run, tmp_path / "run")
  policies, _ = modes.load(run, tmp_path / "run", "last")
  # A checkpoint holds the adapters alone.
  size = sum(x.size for x in jax.tree.leaves(run.abstract_state().params))
  assert size < qwen3.num_params(run.model) / 2
  modes.export(run, tmp_path / "run", "last", str(tmp_path / "out"))
  cfg, exported = hf.load(tmp_path / "out")
  rows = jnp.arange(12).reshape(2, 6)
  got = _forward(exported, run.model, rows)
  want = _forward(policies.policy, run.model, rows)
  base = _forward(run.load_params(), run.model, rows)
  np.testing.assert_allclose(got, want, atol=2e-5)
  assert np.abs(want - base).max() > 1e-4


def test_what_is_written_keeps_small_changes(tuned, monkeypatch):
  """Of a model that computes in bfloat16, changes of a 10,000th."""
  tuned.model.dtype = "bfloat16"
  run = build.make(tuned)
  params = run.load_masters()
  adapters = lora.init(jax.random.key(0), params, run.adapters)
  adapters = jax.tree.map(lambda x: x + 1e-4, adapters)
  found = {"policy": adapters}
  monkeypatch.setattr(checkpoint, "restore_params", lambda *_: (found, None))
  beside = modes.load(run, "w", "last")[0].policy
  assert {x.dtype.name for x in jax.tree.leaves(beside)} == {"bfloat16"}
  merged = modes._merged(run, found)
  leaf = lambda tree: np.asarray(tree["layers"]["attn"]["q"]["kernel"])
  a, b = (
    np.asarray(adapters["layers"]["attn"]["q"][x]) for x in ("lora_a", "lora_b")
  )
  change = leaf(merged) - leaf(params)
  np.testing.assert_allclose(change, a @ b * run.adapters.scale, atol=1e-7)
  assert 1e-6 < np.abs(change).max() < 1e-3


def test_what_cannot_be_is_refused(tuned):
  tuned.lora.targets = ("q", "embed")
  with pytest.raises(ValueError, match="lora.targets=.*choose among q, k"):
    build.make(tuned)
  tuned.lora.targets = ()
  with pytest.raises(ValueError, match="at least one"):
    build.make(tuned)
  tuned.lora.update(rank=-1, targets=("q",))
  with pytest.raises(ValueError, match="config.lora.rank=-1"):
    build.make(tuned)


def test_a_warm_start_trains_no_adapters(tuned, tmp_path):
  tuned.sft.path = str(tmp_path / "pairs.jsonl")
  with pytest.raises(ValueError, match="config.lora.rank=4 with --mode=sft"):
    modes.sft(build.make(tuned), str(tmp_path / "out"))
