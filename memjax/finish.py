"""What a finished run leaves: its evaluation, summary, curves and report."""

import importlib.metadata
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from memjax import agents
from memjax import build
from memjax import controls as controls_lib
from memjax import evaluate
from memjax import hosts
from memjax import metrics as metrics_lib
from memjax import report
from memjax import run_folder
from memjax import scores


def finish(
  run: build.Run,
  workdir: pathlib.Path,
  base: dict[str, Any],
  policies: agents.Policies,
  made: Mapping[str, Any],
  start: float,
) -> dict[str, Any]:
  """Evaluates the trained policy and writes summary, curves and report.

  Args:
    run: that is finished.
    workdir: its folder.
    base: the evaluation before training, of `evaluate.suite`.
    policies: as trained.
    made: what the summary says of the training itself.
    start: of the run, by `time.monotonic`.

  Returns:
    The summary, which is also written to workdir/summary.json.
  """
  trained = evaluate.suite(run, policies)
  controls, rules, by_control = controls_lib.evaluate_all(run, policies)
  summary = {
    "config": run.config.name,
    "seconds": time.monotonic() - start,
    "seed": run.config.seed,
    "device": jax.devices()[0].device_kind,
    "versions": {
      name: importlib.metadata.version(name)
      for name in ("memjax", "jax", "flax", "optax", "transformers", "numpy")
    },
    "train_chunks": run.config.agent.max_chunks,
    "steps": run.config.train.steps,
    **made,
    "base": base["sets"],
    "trained": trained["sets"],
    "controls": controls,
    "breakdown": {
      "base": base["breakdown"],
      "trained": trained["breakdown"],
      **rules,
    },
    "memory": dict(zip(("held", "shown"), run.agent.budget)),
    "recall": {"base": base["recall"], "trained": trained["recall"]},
    "data_sha256": trained["data_sha256"],
    "files": trained["files"],
    "memory_gain": scores.memory_gains(
      trained["scores"], by_control, trained["documents"]
    ),
    "health": {"base": base["health"], "trained": trained["health"]},
  }
  if len(run.config.published):
    summary["published"] = run.config.published.to_dict()
  if run.judged:
    summary["judge"] = run.judged.summary(
      {"base": base["sets"], "trained": trained["sets"], **controls},
      {"base": base["verified"], "trained": trained["verified"]},
      {"base": base["scores"], "trained": trained["scores"], **by_control},
    )
  if hosts.first():
    _write(workdir, summary, base, trained, by_control)
  return summary


def _write(
  workdir: pathlib.Path,
  summary: dict[str, Any],
  base: dict[str, Any],
  trained: dict[str, Any],
  by_control: dict[str, Any],
) -> None:
  """Leaves what a finished run promises in its folder."""
  rollouts = [
    {**after, "before": before["rollout"], "after": after["rollout"]}
    for before, after in zip(base["traces"], trained["traces"])
  ]
  groups = workdir / "groups.json"  # not there if nothing was left to train
  rollouts += json.loads(groups.read_text()) if groups.exists() else []
  run_folder.write_json(workdir / "rollouts.json", rollouts)
  by_question = {
    "base": base["scores"],
    "trained": trained["scores"],
    "controls": by_control,
    "documents": trained["documents"],
    "metric": trained["metric"],
  }
  run_folder.write_json(workdir / "scores.json", by_question)
  run_folder.write_json(workdir / "summary.json", summary)
  records = metrics_lib.read_jsonl(workdir / "metrics.jsonl")
  report.write_curves(workdir, records)
  report.write_html(workdir, summary, records, rollouts)
  report.print_table(summary)
  print(f"{workdir}/report.html shows curves and rollouts.")
