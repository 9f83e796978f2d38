"""Several agents on the same questions: trains each, compares them in pairs.

A config names arms, each by the keys in which it differs, and seeds; one arm is
the config as it is, the reference. Each arm is a run of its own, in
workdir/<arm>/seed<n>; what is finished is not done again, what was stopped goes
on. A run that diverges is an outcome: it is kept and shown, and the others go
on. All arms must have been asked the same questions, which the hash of the data
shows; differences are taken question by question (`contrast`).
"""

import dataclasses
import json
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from absl import logging

from memjax import build
from memjax import compare_plan
from memjax import compare_table
from memjax import contrast
from memjax import results
from memjax import run_folder
from memjax import train

# What is kept of a run that diverged.
_DIVERGED = "diverged.json"


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


def reference(config: ml_collections.ConfigDict) -> str:
  """The arm that is the config as it is, which the others are compared with.

  Raises:
    ValueError: there is none, or two arms have the same settings.
  """
  own, seen = _settings(config), {}
  for name, _, one in arms(config):
    settings = _settings(one)
    if seen.setdefault(settings, name) != name:
      raise ValueError(
        f"config.arms: {seen[settings]} and {name} have the same settings: "
        "leave one of them out"
      )
  if own in seen:
    return seen[own]
  keys = dict.fromkeys(key for _, changes in config.arms for key, _ in changes)
  raise ValueError(
    "config.arms: none is the config as it is, which the others are to be "
    "compared with: add an arm (to --sweep a value) with "
    + ", ".join(f"{key}={_value(config, key)!r}" for key in keys)
  )


def _value(config: ml_collections.ConfigDict, key: str) -> Any:
  for part in key.split("."):
    config = config[part]
  return config


def _settings(config: ml_collections.ConfigDict) -> str:
  """All but what names a run, as text that can be compared."""
  left = {
    key: value
    for key, value in config.to_dict().items()
    if key not in ("name", "seed", "arms", "seeds")
  }
  return json.dumps(left, sort_keys=True)


def run(
  config: ml_collections.ConfigDict, workdir: str | pathlib.Path
) -> dict[str, Any]:
  """Trains what is not trained yet; prints the table.

  Writes compare.json and what `compare_table.write` does.

  Raises:
    ValueError: a config that cannot be; a folder of workdir is that of a run
      with other settings; runs with other questions, or of an earlier version.
  """
  workdir = pathlib.Path(workdir)
  # All are checked before the first is trained.
  runs = {(name, seed): one for name, seed, one in arms(config)}
  compared_with = reference(config)
  sets = [build.make(one).env.eval_sets() for one in runs.values()]
  folders = {
    (name, seed): run_folder.claim(workdir / name / f"seed{seed}", one)
    for (name, seed), one in runs.items()
  }
  steps = {x: one.train.steps for x, one in runs.items()}
  logging.info(
    "%s",
    compare_plan.describe(
      runs,
      compared_with,
      {x: outcome(folders[x], steps[x]) for x in runs},
      sets,
    ),
  )
  for key, one in runs.items():
    if outcome(folders[key], steps[key]):
      continue
    logging.info("%s", folders[key])
    _train(one, folders[key])
    logging.info(
      "%s",
      compare_plan.left({x: outcome(folders[x], steps[x]) for x in runs}),
    )
  outcomes = {x: outcome(folders[x], steps[x]) for x in runs}
  found = summarize(
    {x: folders[x] for x in runs if "step" not in outcomes[x]},
    reference=compared_with,
    diverged={x: y["step"] for x, y in outcomes.items() if "step" in y},
    changes=config.arms,
  )
  run_folder.write_json(workdir / "compare.json", found)
  compare_table.write(workdir, config.name, found)
  compare_table.print_table(found)
  return found


def _train(one: ml_collections.ConfigDict, folder: pathlib.Path) -> None:
  """Trains one arm with one seed; keeps it if that diverges."""
  try:
    train.train(build.make(one), folder)
    (folder / _DIVERGED).unlink(missing_ok=True)
  except train.Diverged as error:
    logging.warning("%s: diverged: %s", folder, error)
    run_folder.write_json(
      folder / _DIVERGED, {"step": error.step, "steps": one.train.steps}
    )
  # Programs map memory, of which Linux allows 65,530 maps a process: those of
  # eleven arms came to that.
  jax.clear_caches()


def outcome(folder: pathlib.Path, steps: int) -> dict[str, Any]:
  """How a run ended: {} if it has not.

  Args:
    folder: of the run.
    steps: iterations that it is to have.

  Returns:
    {"seconds"} of a finished run, {"step"} of one that diverged there when it
    was to have as many steps.

  Raises:
    ValueError: it was trained for more steps.
  """
  summary, diverged = folder / "summary.json", folder / _DIVERGED
  if summary.exists():
    kept = json.loads(summary.read_text())
    if kept["steps"] > steps:
      raise ValueError(
        f"{folder} was trained for {kept['steps']} iterations, "
        f"config.train.steps={steps}: all arms need as many; name another "
        "--workdir"
      )
    if kept["steps"] == steps:
      return {"seconds": kept["seconds"]}
  if diverged.exists():
    kept = json.loads(diverged.read_text())
    if kept["steps"] == steps:
      return {"step": kept["step"]}
  return {}


def summarize(
  folders: Mapping[compare_plan.Key, pathlib.Path],
  *,
  reference: str | None = None,
  diverged: Mapping[compare_plan.Key, int] | None = None,
  changes: Sequence[tuple[str, Sequence[tuple[str, Any]]]] = (),
) -> dict[str, Any]:
  """The comparison of runs, by (arm, seed), in their first set.

  An arm of which a run diverged has no difference: its other runs are those
  that went well.

  Args:
    folders: of finished runs.
    reference: the arm to compare with; None is the first.
    diverged: the iteration at which each other run diverged.
    changes: config.arms, if the table is to know what was changed.

  Returns:
    {"data_sha256", "reference", "arms": {name: {"base" and "trained": cells,
    "gain": over its base and "difference": from the reference (None for itself
    and where a run diverged), as `contrast.difference`, "controls" and
    "memory_gain" as `contrast.behind`, "recall", "memory", "seconds", "seeds",
    "diverged": {seed: iteration}, "changes"}}, "judge": of all, if one gave the
    scores}; None where all runs of an arm diverged.
    Differences have a verdict, corrected for the table.

  Raises:
    ValueError: the runs were not asked the same questions or not judged by the
      same judge, or an earlier version made one of them.
  """
  diverged, changed = diverged or {}, dict(changes)
  order = [name for name, _ in changes]
  names = dict.fromkeys((*order, *(name for name, _ in (*folders, *diverged))))
  reference = reference or next(iter(names))
  runs: dict[str, list[_Run]] = {name: [] for name in names}
  for (name, seed), folder in folders.items():
    runs[name].append(_load(folder, seed))
  every = [x.trained for arm in runs.values() for x in arm]
  if every:
    results.common_sets(every)
  lost = {
    name: {
      str(seed): step for (arm, seed), step in diverged.items() if arm == name
    }
    for name in names
  }
  found = {}
  for name, arm in runs.items():
    whole = arm and not lost[name] and not lost[reference]
    found[name] = {
      **_arm(arm),
      "difference": _difference(arm, runs[reference])
      if whole and name != reference
      else None,
      "diverged": lost[name],
      # As JSON has it, in which there are no tuples.
      "changes": json.loads(json.dumps(dict(changed.get(name, ())))),
    }
  contrast.add_verdicts(
    [x["difference"] for x in found.values() if x["difference"]]
  )
  judge = every[0].judge if every else None
  return {
    "data_sha256": {
      str(x.seed): x.trained.hashes[x.first]
      for arm in runs.values()
      for x in arm
    },
    "reference": reference,
    "arms": found,
    **({"judge": judge} if judge else {}),
  }


@dataclasses.dataclass(frozen=True)
class _Run:
  """A finished run: its results before and after, and its first set."""

  seed: int
  base: results.Result
  trained: results.Result
  first: str
  summary: Mapping[str, Any]


def _load(folder: pathlib.Path, seed: int) -> _Run:
  trained = results.load(folder)
  kept = json.loads((folder / "scores.json").read_text())["base"]
  base = dataclasses.replace(
    trained, scores={x: np.array(y) for x, y in kept.items()}
  )
  summary = json.loads((folder / "summary.json").read_text())
  return _Run(seed, base, trained, next(iter(trained.scores)), summary)


def _arm(runs: Sequence[_Run]) -> dict[str, Any]:
  """What an arm's finished runs came to, without others."""
  if not runs:
    keys = ("base", "trained", "gain", "recall", "memory", "seconds")
    unknown = {"controls": {}, "memory_gain": None, "seeds": []}
    return {**dict.fromkeys(keys), **unknown}
  first = runs[0].first
  base, trained = [x.base for x in runs], [x.trained for x in runs]
  recalls = [x.summary["recall"]["trained"].get(first) for x in runs]
  recalls = [x["accuracy"] for x in recalls if x]
  return {
    "base": contrast.accuracy(base, first),
    "trained": contrast.accuracy(trained, first),
    "gain": contrast.difference(trained, base, first),
    **contrast.behind(trained, first),
    "recall": float(np.mean(recalls)) if recalls else None,
    "memory": runs[0].summary["memory"],
    "seconds": float(np.mean([x.summary["seconds"] for x in runs])),
    "seeds": [x.seed for x in runs],
  }


def _difference(runs: Sequence[_Run], others: Sequence[_Run]) -> dict[str, Any]:
  """Between two arms, in the first set."""
  return contrast.difference(
    [x.trained for x in runs], [x.trained for x in others], others[0].first
  )
