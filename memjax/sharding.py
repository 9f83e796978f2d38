"""Which device holds what: one mesh (data, fsdp, tensor) and two tables.

The first table says over which mesh axes an axis of an array is cut, the second
what the axes of each parameter are:

    layers/attn/q/kernel [L, D, N * H]   layers  width    heads
    on a mesh (2, 2, 2)                  whole   in 2     in 2
                                                 (fsdp)   (tensor)

Data and fsdp both cut the batch; fsdp cuts the parameters and the optimiser's
state as well, and each layer's are put together where they are used. An axis
whose size does not divide is left whole. The programs are those of one device:
without a mesh in context nothing in this file does anything.

What the host looks at is whole on every device, so that the processes of a run
on several machines read the same numbers and go on alike.
"""

import contextlib
import math
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax

AXES = ("data", "fsdp", "tensor")

# What an axis stands for: the mesh axes that it is cut over.
LOGICAL = {
  "batch": ("data", "fsdp"),
  "width": ("fsdp",),
  "heads": ("tensor",),
  "kv_heads": ("tensor",),
  "mlp": ("tensor",),
  "vocab": ("tensor",),
  "layers": (),
  None: (),
}

# A parameter's path: what its axes stand for. A path that has one of these in
# it, as mu/embed of an optimiser's state has, is cut alike; others are whole.
PARAMS = {
  "embed": ("vocab", "width"),
  "head": ("width", "vocab"),
  "final_norm": (None,),
  "layers/attn/q/kernel": ("layers", "width", "heads"),
  "layers/attn/k/kernel": ("layers", "width", "kv_heads"),
  "layers/attn/v/kernel": ("layers", "width", "kv_heads"),
  "layers/attn/o/kernel": ("layers", "heads", "width"),
  "layers/gate/kernel": ("layers", "width", "mlp"),
  "layers/up/kernel": ("layers", "width", "mlp"),
  "layers/down/kernel": ("layers", "mlp", "width"),
  "layers/attn/q_norm/scale": ("layers", None),
  "layers/attn/k_norm/scale": ("layers", None),
  "layers/attn_norm/scale": ("layers", None),
  "layers/mlp_norm/scale": ("layers", None),
}
# Adapters (lora.py) are cut as their matrices are; the rank is whole.
for _path, (_first, *_rest) in tuple(PARAMS.items()):
  if _path.endswith("/kernel"):
    _matrix = _path.removesuffix("kernel")
    PARAMS[f"{_matrix}lora_a"] = (_first, _rest[0], None)
    PARAMS[f"{_matrix}lora_b"] = (_first, None, _rest[1])


def make_mesh(sizes: Mapping[str, int]) -> jax.sharding.Mesh | None:
  """The mesh of config.mesh; None for one device.

  Args:
    sizes: of each of AXES.

  Raises:
    ValueError: it takes more devices than there are, or, where there are
      several processes, fewer.
  """
  shape = tuple(sizes[axis] for axis in AXES)
  asked, there = math.prod(shape), jax.device_count()
  # A process without a device of the mesh would have nothing to do.
  if asked > there or (asked < there and jax.process_count() > 1):
    keys = ", ".join(f"config.mesh.{x}={n}" for x, n in zip(AXES, shape))
    raise ValueError(
      f"{keys}: {asked} devices, but there are {there} "
      f"({jax.devices()[0].device_kind}) in {jax.process_count()} processes: "
      f"the product must be {there}"
      + (" or less" if jax.process_count() == 1 else "")
    )
  if asked == 1:
    return None
  return jax.make_mesh(
    shape,
    AXES,
    axis_types=(jax.sharding.AxisType.Auto,) * len(AXES),
    devices=jax.devices()[:asked],
  )


def check_sizes(
  mesh: Any,
  sizes: Mapping[str, tuple[int, str]],
) -> None:
  """Refuses what a mesh does not divide, and would leave whole.

  Args:
    mesh: from `make_mesh`, or what has a `shape` like it.
    sizes: what it is called -> (its size, key of LOGICAL).

  Raises:
    ValueError: names the size, and what it must be a multiple of.
  """
  for name, (size, axis) in sizes.items():
    cut = _cut(mesh, axis) if mesh else 1
    if size % cut:
      keys = " times ".join(
        f"config.mesh.{x}={mesh.shape[x]}"
        for x in LOGICAL[axis]
        if mesh.shape[x] > 1
      )
      raise ValueError(
        f"{name}={size} is not a multiple of {cut} ({keys}): change one of them"
      )


def use(mesh: jax.sharding.Mesh | None) -> contextlib.AbstractContextManager:
  """A context in which all arrays are made on the mesh, and programs cut."""
  return jax.set_mesh(mesh) if mesh else contextlib.nullcontext()


def shardings(tree: Any, mesh: jax.sharding.Mesh) -> Any:
  """For each leaf where it is held, as PARAMS says of its path."""
  return jax.tree.map_with_path(
    lambda path, x: jax.sharding.NamedSharding(mesh, _spec_of(path, x, mesh)),
    tree,
  )


def put(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
  """The same values, held as `shardings` says; without a mesh as they are.

  Of a host array each process copies the parts of its own devices alone.
  """
  if mesh is None:
    return tree

  def place(x, sharding):
    if not isinstance(x, jax.Array):
      return jax.make_array_from_callback(x.shape, sharding, lambda i: x[i])
    if x.sharding.is_equivalent_to(sharding, x.ndim):
      return x
    return jax.device_put(x, sharding)

  return jax.tree.map(place, tree, shardings(tree, mesh))


def abstract(tree: Any, mesh: jax.sharding.Mesh | None) -> Any:
  """Shapes and dtypes with the places that `put` gives them."""
  if mesh is None:
    places = jax.tree.map(
      lambda x: jax.sharding.SingleDeviceSharding(jax.devices()[0]), tree
    )
  else:
    places = shardings(tree, mesh)
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    tree,
    places,
  )


def is_cut() -> bool:
  """Whether there is a mesh here, over which arrays are cut."""
  return not jax.sharding.get_abstract_mesh().empty


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
  """Cuts an array of a compiled program; axes that are not named are whole."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return x
  return jax.lax.with_sharding_constraint(x, _spec(x, axes, mesh))


def constrain_rows(tree: Any) -> Any:
  """Cuts each leaf by its leading axis, rows."""
  return jax.tree.map(lambda x: constrain(x, "batch"), tree)


def constrain_params(tree: Any) -> Any:
  """Cuts what has a parameter's path like it: gradients, optimiser's state."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return tree
  return jax.tree.map_with_path(
    lambda path, x: jax.lax.with_sharding_constraint(
      x, _spec_of(path, x, mesh)
    ),
    tree,
  )


def replicate(tree: Any) -> Any:
  """Holds each leaf whole on every device, for the host to read."""
  return jax.tree.map(constrain, tree)


def _cut(mesh: Any, axis: str | None) -> int:
  """Into how many parts a mesh cuts an axis."""
  return math.prod(mesh.shape[name] for name in LOGICAL[axis])


def _spec(
  x: Any, axes: Sequence[str | None], mesh: Any
) -> jax.sharding.PartitionSpec:
  """What of an array can be cut, is."""
  names = [
    LOGICAL[axis] if LOGICAL[axis] and not size % _cut(mesh, axis) else None
    for size, axis in zip(x.shape, axes)
  ]
  return jax.sharding.PartitionSpec(*names)


def _spec_of(path: Any, x: Any, mesh: Any) -> jax.sharding.PartitionSpec:
  """The same for a leaf, whose axes its path tells."""
  name = f"/{jax.tree_util.keystr(path, simple=True, separator='/')}/"
  for known, axes in PARAMS.items():
    # Other states than one number for each parameter have other shapes.
    if f"/{known}/" in name and len(axes) == len(x.shape):
      return _spec(x, axes, mesh)
  return jax.sharding.PartitionSpec()
