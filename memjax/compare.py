"""Several agents on the same questions: trains each, compares them in pairs.

A config names arms, each by the keys in which it differs, and seeds. Each arm
is a run of its own, in workdir/<arm>/seed<n>; what is finished is not done
again, what was stopped goes on. All arms must have been asked the same
questions, which the hash of the data shows; differences are taken question by
question (`contrast`).
"""

import dataclasses
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
from memjax import contrast
from memjax import judged
from memjax import results
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
      with other settings; runs with other questions, or of an earlier version.
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
  """The comparison of finished runs, by (arm, seed), in their first set.

  Returns:
    {"data_sha256", "reference": the first arm, "arms": {name: {"base" and
    "trained": cells, "gain": over its base and "difference": from the
    reference (None for itself), as `contrast.difference`, "recall", "memory",
    "seconds", "seeds"}}, "judge": of all, if one gave the scores}. Differences
    have a verdict, corrected for the table.

  Raises:
    ValueError: the runs were not asked the same questions or not judged by the
      same judge, or an earlier version made one of them.
  """
  arms: dict[str, dict[str, list[Any]]] = {}
  hashes = {}
  for (name, seed), folder in folders.items():
    trained = results.load(folder)
    kept = json.loads((folder / "scores.json").read_text())["base"]
    base = dataclasses.replace(
      trained, scores={x: np.array(y) for x, y in kept.items()}
    )
    summary = json.loads((folder / "summary.json").read_text())
    first = next(iter(trained.scores))
    hashes[str(seed)] = trained.hashes[first]
    for key, value in (
      ("base", base),
      ("trained", trained),
      ("recall", summary["recall"]["trained"].get(first)),
      ("memory", summary["memory"]),
      ("seconds", summary["seconds"]),
      ("seeds", seed),
    ):
      arms.setdefault(name, {}).setdefault(key, []).append(value)
  every = [x for arm in arms.values() for x in arm["trained"]]
  results.common_sets(every)
  reference = next(iter(arms))
  found = {}
  for name, arm in arms.items():
    recalls = [x["accuracy"] for x in arm["recall"] if x]
    found[name] = {
      "base": contrast.accuracy(arm["base"], first),
      "trained": contrast.accuracy(arm["trained"], first),
      "gain": contrast.difference(arm["trained"], arm["base"], first),
      "difference": None
      if name == reference
      else contrast.difference(
        arm["trained"], arms[reference]["trained"], first
      ),
      "recall": float(np.mean(recalls)) if recalls else None,
      "memory": arm["memory"][0],
      "seconds": float(np.mean(arm["seconds"])),
      "seeds": arm["seeds"],
    }
  contrast.add_verdicts(
    [x["difference"] for x in found.values() if x["difference"]]
  )
  judge = every[0].judge
  return {
    "data_sha256": hashes,
    "reference": reference,
    "arms": found,
    **({"judge": judge} if judge else {}),
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
      f"{found['reference']}; verdicts corrected for all arms (Holm); "
      f"{_scope(found)}; data by seed: {hashes}"
      + (f"; {judged.describe(found['judge'])}" if "judge" in found else "")
    ),
  )
  head = ("arm", "base", "trained", "difference", "verdict", "recall")
  for name in (*head, "held", "s"):
    table.add_column(name)
  for name, arm in found["arms"].items():
    recall = "-" if arm["recall"] is None else f"{arm['recall']:.3f}"
    apart = arm["difference"]
    row = (
      name,
      contrast.text(arm["base"], "accuracy"),
      contrast.text(arm["trained"], "accuracy"),
      contrast.text(apart, "difference") if apart else "-",
      apart["verdict"] if apart else "-",
      recall,
      f"{arm['memory']['held']} / {arm['memory']['shown']}",
      f"{arm['seconds']:.0f}",
    )
    table.add_row(*map(rich.text.Text, row))
  console.print(table)


def _scope(found: Mapping[str, Any]) -> str:
  """What the intervals and verdicts are about."""
  seeds = found["arms"][found["reference"]]["seeds"]
  if len(seeds) == 1:
    return "of these policies on other questions: one seed says no more"
  return f"of other seeds ({len(seeds)} were run) on other questions"
