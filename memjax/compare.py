"""Several agents on the same questions: trains each, compares them in pairs.

A config names arms, each by the keys in which it differs, and seeds. Each arm
is a run of its own, in workdir/<arm>/seed<n>; what is finished is not done
again, what was stopped goes on. All arms must have been asked the same
questions, which the hash of the data shows; differences are taken question by
question.
"""

import json
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
import rich.box
import rich.console
import rich.table
import rich.text

from memjax import build
from memjax import scores
from memjax import train


def arms(
  config: ml_collections.ConfigDict,
) -> Iterator[tuple[str, int, ml_collections.ConfigDict]]:
  """(arm, seed, config) of each run, as config.arms and config.seeds say.

  Raises:
    ValueError: an arm changes a key that there is not, or to a value of
      another type; two have the same name.
  """
  names = [name for name, _ in config.arms]
  if len(set(names)) < len(names):
    raise ValueError(f"config.arms: a name occurs twice in {', '.join(names)}")
  for name, changes in config.arms:
    for seed in config.seeds or (config.seed,):
      one = config.copy_and_resolve_references()
      with one.unlocked():
        one.arms, one.seeds = (), ()
      one.update(name=f"{config.name}:{name}", seed=seed)
      for key, value in changes:
        try:
          one.update_from_flattened_dict({key: value})
        except (KeyError, TypeError, AttributeError) as error:
          raise ValueError(
            f"config.arms: {name} sets {key}={value!r}: {error}"
          ) from error
      yield name, seed, one


def run(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, Any]:
  """Trains what is not trained yet; writes and prints workdir/compare.json.

  Raises:
    ValueError: a config that cannot be; a folder of workdir is that of a run
      with other settings; runs with other questions.
  """
  workdir = pathlib.Path(workdir)
  # All are checked before the first is trained.
  runs = {(name, seed): one for name, seed, one in arms(config)}
  for one in runs.values():
    build.make(one)
  for (name, seed), one in runs.items():
    folder = build.claim(workdir / name / f"seed{seed}", one)
    if not _finished(folder, one.train.steps):
      train.train(build.make(one), folder)
      # Programs map memory, of which Linux allows 65,530 maps a process: those
      # of eleven arms came to that.
      jax.clear_caches()
  found = summarize(
    {(name, seed): workdir / name / f"seed{seed}" for name, seed in runs}
  )
  build.write_json(workdir / "compare.json", found)
  print_table(found)
  return found


def _finished(folder: pathlib.Path, steps: int) -> bool:
  path = folder / "summary.json"
  return path.exists() and json.loads(path.read_text())["steps"] >= steps


def summarize(
  folders: Mapping[tuple[str, int], pathlib.Path],
) -> dict[str, Any]:
  """The comparison of finished runs, by (arm, seed).

  Returns:
    {"data_sha256", "reference": the first arm, "arms": {name: {"base",
    "trained", "gain": over its base, "difference": from the reference, each a
    cell, "recall", "memory", "seconds", "seeds"}}}. Each seed has questions of
    its own; those of all seeds are counted together.

  Raises:
    ValueError: the runs of a seed were not asked the same questions.
  """
  hashes: dict[int, set[str]] = {}
  read = lambda folder, name: json.loads((folder / name).read_text())
  by_arm: dict[str, dict[str, list[Any]]] = {}
  for (name, seed), folder in folders.items():
    summary, answers = read(folder, "summary.json"), read(folder, "scores.json")
    first = next(iter(summary["trained"]))
    hashes.setdefault(seed, set()).add(summary["data_sha256"][first])
    arm = by_arm.setdefault(name, {})
    for key, value in (
      ("base", answers["base"][first]),
      ("trained", answers["trained"][first]),
      ("seconds", summary["seconds"]),
      ("recall", summary["recall"]["trained"].get(first)),
      ("memory", summary["memory"]),
      ("seeds", seed),
    ):
      arm.setdefault(key, []).append(value)
  for seed, seen in hashes.items():
    if len(seen) > 1:
      raise ValueError(
        f"seed {seed}: the runs were asked different questions (data hashes "
        f"{', '.join(sorted(seen))}): compare runs of one config.data"
      )
  reference = np.concatenate(next(iter(by_arm.values()))["trained"])
  found = {}
  for name, arm in by_arm.items():
    base, trained = map(np.concatenate, (arm["base"], arm["trained"]))
    recalls = [x["accuracy"] for x in arm["recall"] if x]
    found[name] = {
      "base": scores.interval(base),
      "trained": scores.interval(trained),
      "gain": scores.paired(trained, base),
      "difference": scores.paired(trained, reference),
      "recall": float(np.mean(recalls)) if recalls else None,
      "memory": arm["memory"][0],
      "seconds": float(np.mean(arm["seconds"])),
      "seeds": arm["seeds"],
    }
  return {
    "data_sha256": {str(s): next(iter(x)) for s, x in sorted(hashes.items())},
    "reference": next(iter(found)),
    "arms": found,
  }


def print_table(
  found: Mapping[str, Any], console: rich.console.Console | None = None
) -> None:
  """One row for each arm, with paired differences and the data's hash."""
  if console is None:
    console = rich.console.Console()
    if not console.is_terminal:
      console = rich.console.Console(width=160)
  hashes = ", ".join(f"{s}: {x[:12]}" for s, x in found["data_sha256"].items())
  table = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    title="the same questions to every arm",
    caption=rich.text.Text(
      f"[95 % interval]; differences question by question, from "
      f"{found['reference']}; data by seed: {hashes}"
    ),
  )
  for name in ("arm", "base", "trained", "difference", "recall", "held", "s"):
    table.add_column(name)
  for name, arm in found["arms"].items():
    recall = "-" if arm["recall"] is None else f"{arm['recall']:.3f}"
    row = (
      name,
      _cell(arm["base"], "accuracy"),
      _cell(arm["trained"], "accuracy"),
      "-"
      if name == found["reference"]
      else _cell(arm["difference"], "difference"),
      recall,
      f"{arm['memory']['held']} / {arm['memory']['shown']}",
      f"{arm['seconds']:.0f}",
    )
    table.add_row(*map(rich.text.Text, row))
  console.print(table)


def _cell(cell: Mapping[str, Any], key: str) -> str:
  sign = "+" if key == "difference" else ""
  low, high = cell["low"], cell["high"]
  return f"{cell[key]:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
