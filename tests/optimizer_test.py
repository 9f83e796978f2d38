import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from memjax import build
from memjax import checkpoint
from memjax import config as config_lib
from memjax import learner
from memjax import optimizer
from memjax import qwen3
from memjax import reductions
from memjax import run_folder

_CHOICES = [
  ("adamw", "float32"),
  ("adamw", "bfloat16"),
  ("adamw", "int8"),
  ("adafactor", "float32"),
  ("muon", "float32"),
]
_MODEL = qwen3.Config(256, 32, 3, 2, 1, 16, 64, tied_embeddings=False)


def _train(name="adamw", moments="float32", **other):
  train = config_lib.default().train
  train.update(optimizer=name, moments=moments, **other)
  return train


def _make(name="adamw", moments="float32", **other):
  return optimizer.make(_train(name, moments, **other))


@pytest.fixture(scope="module")
def weights():
  """What a model has, but one matrix and one norm in its layers."""
  params = qwen3.init(jax.random.key(0), _MODEL)
  names = ("up", "mlp_norm")
  return params | {"layers": {x: params["layers"][x] for x in names}}


def _gradient(weights, seed):
  leaves, treedef = jax.tree.flatten(weights)
  keys = jax.random.split(jax.random.key(seed), len(leaves))
  return treedef.unflatten(
    [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves)]
  )


def _step(weights, opt_state, tx, seed, size=1.0, rate=1e-2):
  """One `learner.apply`, in buffers of its own."""
  grads = jax.tree.map(lambda g: g * size, _gradient(weights, seed))
  sums = learner.Sums(
    grads, reductions.Mean(jnp.ones(()), jnp.ones(())), {}, jnp.zeros(())
  )
  copy = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
  if opt_state is None:
    opt_state = tx.init(weights)
  return learner.apply(copy(weights), opt_state, sums, rate, tx=tx)


def _same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_array_equal(x, y)


def test_the_default_is_optax_adamw(weights):
  tx = _make(b1=0.8, b2=0.9, weight_decay=0.1)
  want = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(1.0, b1=0.8, b2=0.9, weight_decay=0.1),
  )
  grads, states = _gradient(weights, 1), (tx.init(weights), want.init(weights))
  for _ in range(2):
    a, one = tx.update(grads, states[0], weights)
    b, other = want.update(grads, states[1], weights)
    states = one, other
    _same(a, b)


@pytest.mark.parametrize("name, moments", _CHOICES)
def test_a_step_is_as_long_as_the_learning_rate(weights, name, moments):
  tx = _make(name, moments, weight_decay=0.1)
  moved = []
  for rate in (0.0, 1e-3, 2e-3):
    params, *_ = _step(weights, None, tx, 1, rate=rate)
    moved.append(jax.tree.map(lambda a, b: np.asarray(a - b), params, weights))
  still, one, two = map(jax.tree.leaves, moved)
  for a, b, c in zip(still, one, two):
    assert not a.any() and b.any()
    np.testing.assert_allclose(2 * b, c, rtol=1e-2, atol=1e-6)


@pytest.mark.parametrize("name, moments", _CHOICES)
def test_weight_decay_shrinks_what_has_no_gradient(weights, name, moments):
  tx = _make(name, moments, weight_decay=0.5)
  none = jax.tree.map(jnp.zeros_like, weights)
  updates, _ = jax.jit(tx.update)(none, tx.init(weights), weights)
  for x, y in zip(jax.tree.leaves(updates), jax.tree.leaves(weights)):
    np.testing.assert_allclose(x, -0.5 * y, rtol=1e-5)


@pytest.mark.parametrize("name, moments", _CHOICES)
def test_a_gradient_that_is_not_finite_changes_nothing(weights, name, moments):
  tx = _make(name, moments)
  params, state, metrics = _step(weights, None, tx, 1)
  assert bool(metrics["finite"])
  before = jax.device_get((params, state))
  for bad in (jnp.inf, jnp.nan):
    *after, metrics = _step(params, state, tx, 2, bad)
    assert not bool(metrics["finite"])
    _same(tuple(after), before)
    params, state = after  # the buffers were given away


@pytest.mark.parametrize("moments", ["bfloat16", "int8"])
def test_without_rows_the_moments_stay(weights, moments):
  tx = _make("adamw", moments)
  state = tx.init(weights)
  before = jax.device_get(state)
  *_, after, history = learner.update(
    weights,
    state,
    [],
    None,
    cfg=_MODEL,
    objective=learner.Objective(),
    tx=tx,
    minibatches=2,
    micro_batch=1,
    old_logp="trainer",
    rng=np.random.default_rng(0),
  )
  assert history == []
  _same(after, before)


@pytest.mark.parametrize("moments", ["bfloat16", "int8"])
def test_resumed_is_uninterrupted(weights, moments, tmp_path):
  tx = _make("adamw", moments)
  state = lambda step, params, opt_state: learner.TrainState(
    jnp.int32(step), params, opt_state, jax.random.key(0)
  )
  params, opt_state = weights, None
  for seed in range(2):
    params, opt_state, _ = _step(params, opt_state, tx, seed)
  checkpoints = checkpoint.open_checkpoints(tmp_path)
  checkpoints.save(state(2, params, opt_state), {}, False)
  checkpoints.close()
  abstract = jax.eval_shape(lambda p: state(0, p, tx.init(p)), weights)
  restored, _ = checkpoint.restore(tmp_path, abstract)
  _same(restored.opt_state, opt_state)
  whole = _step(params, opt_state, tx, 2)[:2]
  _same(_step(restored.params, restored.opt_state, tx, 2)[:2], whole)


def test_muon_takes_each_layer_as_a_matrix(weights):
  """All singular values of an update are about alike, layer by layer."""
  tx = _make("muon", grad_clip=1e9)
  grads, state = _gradient(weights, 1), tx.init(weights)
  updates, _ = tx.update(grads, state, weights)
  up = np.asarray(updates["layers"]["up"]["kernel"])  # [3, 32, 64]
  for layer in up / (0.2 * 64**0.5):
    singular = np.linalg.svd(layer, compute_uv=False)
    assert 0.3 < singular.min() and singular.max() < 1.5
  grads["layers"]["up"]["kernel"] *= jnp.array([1.0, 1.0, -3.0])[:, None, None]
  other, _ = tx.update(grads, state, weights)
  other = np.asarray(other["layers"]["up"]["kernel"])
  np.testing.assert_allclose(other[:2], up[:2], atol=1e-6)
  np.testing.assert_allclose(other[2], -up[2], atol=1e-5)


def test_muon_leaves_embeddings_head_and_norms_to_adamw(weights):
  grads = _gradient(weights, 1)
  found = []
  for name in ("muon", "adamw"):
    tx = _make(name, grad_clip=1e9)
    found.append(tx.update(grads, tx.init(weights), weights)[0])
  alike = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b)), *found)
  layers = alike.pop("layers")
  assert all(alike.values()) and {"embed", "head", "final_norm"} == set(alike)
  for path, same in jax.tree_util.tree_leaves_with_path(layers):
    assert same == ("norm" in jax.tree_util.keystr(path))


def test_adafactor_factors_each_layer(weights):
  """First step, by hand: g / sqrt(row mean * column mean / mean)."""
  tx = _make("adafactor", grad_clip=1e9)
  grads, state = _gradient(weights, 1), tx.init(weights)
  # Uneven rows, and a second layer of another size altogether.
  grad = grads["layers"]["up"]["kernel"]
  grad *= jnp.linspace(0.1, 3, 32)[None, :, None]
  grad *= jnp.array([1.0, 100.0, 1.0])[:, None, None]
  grads["layers"]["up"]["kernel"] = grad
  updates, _ = tx.update(grads, state, weights)
  for g, got in zip(np.asarray(grad), updates["layers"]["up"]["kernel"]):
    square = g.astype(np.float64) ** 2
    row, column = square.mean(1, keepdims=True), square.mean(0, keepdims=True)
    want = g / np.sqrt(row * column / square.mean())
    want /= max(1.0, np.sqrt((want**2).mean()))
    np.testing.assert_allclose(got, -want, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
  "name, moments, least, most",
  [
    ("adamw", "float32", 8, 8.01),
    ("adamw", "bfloat16", 4, 4.01),
    ("adafactor", "float32", 0, 0.3),
    ("muon", "float32", 4, 8),
  ],
)
def test_bytes_beside_a_parameter(weights, name, moments, least, most):
  state = _make(name, moments).init(weights)
  size = lambda tree: sum(x.nbytes for x in jax.tree.leaves(tree))
  assert least <= size(state) / (size(weights) / 4) <= most


def _kinds(tree):
  return {x.sharding.memory_kind for x in jax.tree.leaves(tree) if x.ndim}


@pytest.mark.parametrize("name, moments", _CHOICES)
def test_moments_on_the_host_stay_there_and_change_no_bit(
  weights, name, moments
):
  tx = _make(name, moments)
  plain = (weights, tx.init(weights))
  far = (weights, optimizer.to_host(tx.init(weights)))
  for seed in range(2):
    plain = _step(*plain, tx, seed)[:2]
    far = _step(*far, tx, seed)[:2]
    assert _kinds(far[1]) == {"pinned_host"}
    assert "pinned_host" not in _kinds((far[0], plain))
  _same(far, plain)


def test_a_run_keeps_its_moments_on_the_host(config, tmp_path):
  config.train.moments_on_host = True
  run = build.make(config)
  state = run.init_state(run.load_params())
  assert _kinds(state.opt_state) == {"pinned_host"}
  assert _kinds(state.params) == {"device"}
  checkpoints = checkpoint.open_checkpoints(tmp_path)
  checkpoints.save(state, {}, False)
  checkpoints.close()
  restored = run.place(checkpoint.restore(tmp_path, run.abstract_state())[0])
  assert _kinds(restored.opt_state) == {"pinned_host"}
  _same(restored.opt_state, state.opt_state)
  # A run may go on with its moments elsewhere.
  run_folder.claim(tmp_path, config)
  config.train.moments_on_host = False
  run_folder.claim(tmp_path, config)


def test_a_device_without_host_memory_is_named(config, monkeypatch):
  device = types.SimpleNamespace(
    device_kind="Abacus",
    platform="abacus",
    addressable_memories=lambda: [types.SimpleNamespace(kind="device")],
  )
  monkeypatch.setattr(jax, "devices", lambda: [device])
  config.train.moments_on_host = True
  with pytest.raises(ValueError, match="Abacus has no 'pinned_host'.*device"):
    build.make(config)
  config.train.moments_on_host = False
  build.make(config)


@pytest.mark.parametrize(
  "values, message",
  [
    ({"optimizer": "lion"}, "optimizer='lion': choose one of adamw, adafactor"),
    ({"moments": "int4"}, "moments='int4': choose one of float32, bfloat16"),
    (
      {"optimizer": "muon", "moments": "int8"},
      "moments='int8' is for .*adamw.*'muon' leave it at 'float32'",
    ),
  ],
)
def test_what_cannot_be_is_refused(config, values, message):
  config.train.update(values)
  with pytest.raises(ValueError, match=message):
    build.make(config)


def test_schedules():
  at = lambda name, warmup: [
    float(optimizer.make_schedule(name, 1.0, 10, warmup)(i)) for i in range(10)
  ]
  np.testing.assert_allclose(at("constant", 0), 1.0)
  np.testing.assert_allclose(
    at("constant", 4)[:5], [0.25, 0.5, 0.75, 1, 1], atol=1e-6
  )
  np.testing.assert_allclose(at("linear", 0), 1 - np.arange(10) / 10, atol=1e-6)
  cosine = at("cosine", 2)
  np.testing.assert_allclose(cosine[2], 1.0)
  np.testing.assert_allclose(cosine[6], 0.5, atol=1e-6)  # half of 8 steps
  assert at("constant", 1)[0] == 1.0


def test_bad_schedules_are_refused():
  with pytest.raises(ValueError, match="'step'.*constant, linear, cosine"):
    optimizer.make_schedule("step", 1.0, 10, 0)
  with pytest.raises(ValueError, match="warmup_steps=10.*less than.*10"):
    optimizer.make_schedule("linear", 1.0, 10, 10)
