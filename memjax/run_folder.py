"""The folder of a run: whose it is, and files that are whole or not there."""

import json
import os
import pathlib
from typing import Any

import ml_collections

from memjax import hosts
from memjax import sharding

# What may differ when a workdir is used again: how long, not what; on how many
# devices, how many rows at once and by which program, which changes no more
# than rounding; how a judge is reached, not which one it is; and what others
# have published.
_FREE = (
  "train.steps",
  "train.moments_on_host",
  "train.micro_batch",
  "train.widths",
  "reranker.micro_batch",
  "eval.batch_size",
  "model.remat",
  "model.attention",
  "model.scan_layers",
  "model.device",
  "rollout.scan_layers",
  "name",
  *(f"mesh.{axis}" for axis in sharding.AXES),
  *(
    f"judge.{key}"
    for key in (
      "url key_env cache asks concurrency timeout retries batch_size "
      "price_in price_out"
    ).split()
  ),
)


def claim(
  workdir: str | os.PathLike, config: ml_collections.ConfigDict
) -> pathlib.Path:
  """Makes a workdir this config's own, or recognises that it is.

  Raises:
    ValueError: the workdir belongs to another config; names the first key.
  """
  workdir = pathlib.Path(workdir)
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / "config.json"
  mine = _flat(config.to_dict())
  if path.exists():
    theirs = _flat(json.loads(path.read_text()))
    for key in sorted(mine.keys() | theirs.keys()):
      if mine.get(key) != theirs.get(key) and not _is_free(key, config):
        raise ValueError(
          f"{workdir} belongs to a run with config.{key}={theirs.get(key)!r}, "
          f"not {mine.get(key)!r}: take another --workdir, or the old value"
        )
  write_json(path, config.to_dict())
  return workdir


def _is_free(key: str, config: ml_collections.ConfigDict) -> bool:
  if key == "rollout.wave_questions":
    # It decides what more is sampled, and who is given whose reward.
    return not (config.rollout.dynamic_sampling or config.shuffle_rewards)
  return key in _FREE or key.startswith("published.")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(tree, dict):
    # As JSON gives it back: tuples are lists there.
    return {prefix[:-1]: json.loads(json.dumps(tree))}
  flat = {}
  for key, value in tree.items():
    flat |= _flat(value, f"{prefix}{key}.")
  return flat


def write_json(path: str | os.PathLike, value: Any) -> None:
  """Writes a JSON file whole or not at all; of many processes the first."""
  if not hosts.first():
    return
  path = pathlib.Path(path)
  temp = path.with_name(path.name + ".tmp")
  temp.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
  os.replace(temp, path)
