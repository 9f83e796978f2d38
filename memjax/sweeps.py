"""Sweeps: the arms of a config, from the values that its keys may take.

A config offers sweeps by name,

  SWEEPS = {"lr": sweeps.grid({"train.learning_rate": (3e-4, 1e-3, 3e-3)})}

  def get_config(variant: str = ""):
    ...
    return sweeps.select(config, variant, SWEEPS)

of which --config=FILE.py:sweep=lr runs one. Without a line in a config,
--sweep=train.learning_rate=3e-4,1e-3,3e-3 sweeps any. `compare` trains the arms
and compares them with the config's own setting, which must be one of them.
"""

import ast
import itertools
import re
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import ml_collections

# ((name, ((key, value), ...)), ...), as config.arms has it.
Arms = tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]

SEEDS = (0, 1, 2)  # of a sweep whose config names none
_SHORT = {"learning_rate": "lr"}
# A name is that of a folder, and --mode=compare parts folders with commas.
_UNSAFE = re.compile(r"[^A-Za-z0-9._=+-]+")


def grid(values: Mapping[str, Sequence[Any]]) -> Arms:
  """Every combination of values: {key: values of the key} to arms.

  The last key changes fastest.

  Raises:
    ValueError: a key has no value.
  """
  _check(values)
  return _arms(values, itertools.product(*values.values()))


def zipped(values: Mapping[str, Sequence[Any]]) -> Arms:
  """The first value of every key, then the second, and so on.

  Raises:
    ValueError: a key has no value, or not as many as another.
  """
  _check(values)
  counts = {key: len(x) for key, x in values.items()}
  if len(set(counts.values())) > 1:
    raise ValueError(f"a sweep in step needs as many values of each: {counts}")
  return _arms(values, zip(*values.values()))


def one_at_a_time(values: Mapping[str, Any]) -> Arms:
  """The config as it is, "default", and one arm for each {key: other value}."""
  others = [_arms({key: ()}, [(value,)]) for key, value in values.items()]
  return (("default", ()), *itertools.chain(*others))


def select(
  config: ml_collections.ConfigDict,
  variant: str,
  sweeps: Mapping[str, Arms],
) -> ml_collections.ConfigDict:
  """The config with the arms of a sweep, as `get_config` returns it.

  Args:
    config: as it is without a variant; gets the arms, SEEDS if it has no seeds.
    variant: what follows the colon in --config: "" or "sweep=NAME".
    sweeps: by name.

  Raises:
    ValueError: there is no such sweep; says which there are.
  """
  if not variant:
    return config
  kind, _, name = variant.partition("=")
  if kind != "sweep" or name not in sweeps:
    known = ", ".join(f":sweep={x}" for x in sweeps)
    raise ValueError(f"no variant {variant!r} of the config: choose {known}")
  return _with_arms(config, sweeps[name], name)


def from_flags(
  config: ml_collections.ConfigDict, given: Sequence[str]
) -> ml_collections.ConfigDict:
  """The config with the grid of --sweep=KEY=VALUE,VALUE,...

  Values are read as Python has them; what cannot be is text.

  Raises:
    ValueError: a flag cannot be read, a key is named twice, or the config has
      arms of its own.
  """
  if config.arms:
    raise ValueError(
      f"--sweep={given[0]}: the config has arms already "
      f"({', '.join(name for name, _ in config.arms)}): choose one of them"
    )
  values = {}
  for one in given:
    key, _, listed = one.partition("=")
    if not key or not listed or key in values:
      raise ValueError(
        f"--sweep={one}: expected a key, once, and its values, as in "
        "--sweep=train.learning_rate=3e-4,1e-3"
      )
    values[key] = _read(listed)
  return _with_arms(config, grid(values), "sweep")


def _with_arms(
  config: ml_collections.ConfigDict, arms: Arms, name: str
) -> ml_collections.ConfigDict:
  config = config.copy_and_resolve_references()
  config.update(
    name=f"{config.name}:{name}", arms=arms, seeds=config.seeds or SEEDS
  )
  return config


def _read(listed: str) -> tuple[Any, ...]:
  """Values between commas."""
  try:
    return ast.literal_eval(f"({listed},)")
  except (ValueError, SyntaxError):  # a bare word
    return tuple(listed.split(","))


def _check(values: Mapping[str, Sequence[Any]]) -> None:
  for key, some in values.items():
    if isinstance(some, str) or not len(some):
      raise ValueError(
        f"a sweep over {key} with {some!r}: expected a sequence of values"
      )


def _arms(keys: Iterable[str], combinations: Iterable[Sequence[Any]]) -> Arms:
  """Arms, each named by its values: lr=0.001+clip_high=0.28."""
  keys = tuple(keys)
  # objective.name is the objective.
  last = [key.removesuffix(".name").rpartition(".")[2] for key in keys]
  short = [
    _SHORT.get(name, name) if last.count(name) == 1 else key
    for key, name in zip(keys, last)
  ]
  found = []
  for combination in combinations:
    parts = [
      _UNSAFE.sub("-", f"{name}={_text(value)}")
      for name, value in zip(short, combination)
    ]
    found.append(("+".join(parts), tuple(zip(keys, combination))))
  return tuple(found)


def _text(value: Any) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)
