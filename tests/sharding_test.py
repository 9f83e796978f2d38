"""A mesh changes where numbers are held, and nothing else."""

import os
import pathlib
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest

from memjax import build
from memjax import lora
from memjax import qwen3
from memjax import sharding

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def _computed(folder, style, *meshes):
  flags = os.environ["XLA_FLAGS"]
  subprocess.run(
    [
      sys.executable,
      "tests/sharded_child.py",
      folder / "found",
      style,
      *meshes,
    ],
    cwd=_ROOT,
    env={
      **os.environ,
      "PYTHONPATH": str(_ROOT),
      "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count=8",
    },
    check=True,
  )
  return pickle.loads((folder / "found").read_bytes())


# (prompts and layers, mesh, mesh that its checkpoint is read on); half a minute
# each. Where nothing is said of layers they are as configs have them.
_CASES = [
  ("words", "2,2,2", "1,4,2"),
  ("words_chunk_first-scanned", "1,4,2", "2,2,2"),  # a group shares its texts
  ("words", "8,1,1", "2,2,2"),
  ("words-unrolled", "2,2,2", "8,1,1"),
]


@pytest.fixture(
  scope="module",
  params=[
    _CASES[0],
    *(pytest.param(x, marks=pytest.mark.slow) for x in _CASES[1:]),
  ],
  ids=lambda case: "-".join(case[:2]),
)
def computed(request, tmp_path_factory):
  """(the meshes, what sharded_child.py found)."""
  folder = tmp_path_factory.mktemp("mesh")
  return request.param[1:], _computed(folder, *request.param)


def _close(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)


def test_the_same_tokens_are_sampled(computed):
  one, many = computed[1]["one"], computed[1]["many"]
  a, b = jax.tree.leaves(one["tokens"]), jax.tree.leaves(many["tokens"])
  for x, y in zip(a, b, strict=True):
    np.testing.assert_array_equal(x, y)
  assert len(np.unique(one["tokens"][0].length)) > 1  # not all alike
  _close(one["sampled"], many["sampled"])


@pytest.mark.parametrize("what", ["logp", "loss", "grads", "params", "metrics"])
def test_training_gives_the_same_numbers(computed, what):
  one, many = computed[1]["one"][what], computed[1]["many"][what]
  _close(one, many)
  assert any(np.abs(x).max() > 1e-3 for x in jax.tree.leaves(one))


_CUT = {"vocab": "tensor", "heads": "tensor", "mlp": "tensor", "width": "fsdp"}


def _part(mesh, shape, axes):
  """The shape that one device holds."""
  sizes = dict(zip(sharding.AXES, map(int, mesh.split(","))))
  return tuple(
    n // (sizes[_CUT[axis]] if axis else 1) for n, axis in zip(shape, axes)
  )


def test_each_device_holds_its_part(computed):
  (mesh, _), found = computed
  places = found["many"]["places"]
  expected = {
    "embed": ("vocab", "width"),
    "layers/attn/q/kernel": (None, "width", "heads"),
    "layers/attn/v/kernel": (None, "width", "heads"),
    "layers/attn/o/kernel": (None, "heads", "width"),
    "layers/up/kernel": (None, "width", "mlp"),
    "layers/down/kernel": (None, "mlp", "width"),
  }
  for path, axes in expected.items():
    for tree in ("params", "grads", "new", "opt_state/1/0/mu"):
      whole, part = places[f"{tree}/{path}"]
      assert part == _part(mesh, whole, axes), f"{tree}/{path}"
  apart = "policy/layers/1/up/kernel" in places  # of layers that are unrolled
  for path, axes in expected.items():
    if apart and axes[0] is None:
      path, axes = path.replace("layers", "layers/1"), axes[1:]
    whole, part = places[f"policy/{path}"]
    assert part == _part(mesh, whole, axes), path
  if mesh == "2,2,2":
    assert places["new/layers/up/kernel"] == ((2, 16, 32), (2, 8, 16))
  # What the host reads is whole, in each process.
  assert found["many"]["whole"]


def test_a_checkpoint_goes_to_other_meshes(computed):
  (_, second), found = computed
  for name, mesh in (("none", "1,1,1"), ("second", second)):
    moved = found[name]
    assert moved["same"] and moved["cursor"] == 3
    for path in ("params/embed", "opt_state/1/0/nu/embed"):
      whole, part = moved["places"][path]
      assert part == _part(mesh, whole, ("vocab", "width")), (name, path)


def test_the_table_knows_every_parameter():
  cfg = qwen3.Config(16, 8, 2, 2, 1, 4, 8, tied_embeddings=False)
  adapters = lora.Shape(2, 4.0)

  def make():
    params = qwen3.init(jax.random.key(0), cfg)
    made = lora.init(jax.random.key(1), params, adapters)
    return lora.join(params, made, adapters)

  shapes = jax.eval_shape(make)
  paths = {
    jax.tree_util.keystr(path, simple=True, separator="/"): len(x.shape)
    for path, x in jax.tree.leaves_with_path(shapes)
  }
  assert paths == {path: len(axes) for path, axes in sharding.PARAMS.items()}


def test_what_does_not_divide_is_whole_on_that_axis():
  mesh = jax.sharding.AbstractMesh((1, 4, 2), sharding.AXES)
  leaf = lambda *shape: jax.ShapeDtypeStruct(shape, np.float32)
  tree = {
    "mu": {"embed": leaf(6, 8), "head": leaf(8, 7)},
    "scales": {"embed": {"block": leaf(6, 2)}},
    "codes": {"embed": leaf(48)},  # of another shape than the parameter
    "count": leaf(),
  }
  specs = jax.tree.map(lambda x: x.spec, sharding.shardings(tree, mesh))
  P = jax.sharding.PartitionSpec
  cut = (("tensor",), ("fsdp",))
  assert specs["mu"]["embed"] == P(*cut)
  assert specs["mu"]["head"] == P(("fsdp",), None)
  assert specs["scales"]["embed"]["block"] == P(("tensor",), None)
  assert specs["codes"]["embed"] == specs["count"] == P()


def test_without_a_mesh_nothing_is_done(config):
  assert build.make(config).mesh is None
  x = np.ones((2, 3))
  assert sharding.constrain(x, "batch") is x
  assert sharding.put({"embed": x}, None)["embed"] is x


@pytest.mark.parametrize("axis", sharding.AXES)
def test_more_devices_than_there_are(config, axis):
  config.mesh[axis] = 64
  with pytest.raises(ValueError, match=rf"config.mesh.{axis}=64.*64 devices"):
    build.make(config)


@pytest.mark.parametrize(
  "mesh, sizes, message",
  [
    ((1, 1, 2), {"heads": (3, "heads")}, "heads=3 .* of 2 .config.mesh.tensor"),
    ((2, 4, 1), {"rows": (12, "batch")}, "rows=12.*of 8 .*data=2.*fsdp=4"),
    ((2, 4, 1), {"width": (6, "width")}, "width=6.*of 4 .config.mesh.fsdp=4"),
  ],
)
def test_sizes_that_do_not_divide(mesh, sizes, message):
  mesh = jax.sharding.AbstractMesh(mesh, sharding.AXES)
  with pytest.raises(ValueError, match=message):
    sharding.check_sizes(mesh, sizes)
  sharding.check_sizes(
    mesh, {str(axis): (16, axis) for axis in sharding.LOGICAL}
  )
