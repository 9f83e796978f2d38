"""Shows what a run came to: a table, curves.png and report.html.

Host only. Everything is a function of what the run wrote: `summary` (the final
numbers), `records` (the lines of metrics.jsonl; none where nothing was trained)
and `rollouts` (what some of them did; see `report_rollouts`). No clock is read,
so the same files give the same report.

  summary = {"config": str, "seconds": float, "seed": int, "device": str,
    "versions": {package: version}, "train_chunks": int,
    "base": {"x1": CELL, "x2": CELL, ...}, "trained": {...},
    "controls": {"empty_memory": {...}, "oracle": {...}},
    "breakdown": {"base": {name: CELL}, "trained": {...}},        (optional)
    "health": {"base": {name: {"mean", "n"}}, "trained": {...}},  (optional)
    "memory_gain": {"x1": {"gain", "low", "high"} or {"gain": None,
      "reason"}},                                                 (optional)
    "files": {name of a data file: its SHA-256},                  (optional)
    "published": {"source", "measure", "base" and "trained": {set: number}},
                                                                  (optional)
    "judge": see `judged.Judged.summary`}                         (optional)
  CELL = {"accuracy", "low", "high", "n", "documents" and "sampled" (optional)}

"x4" is a text of 4 times the chunks that the agent was trained on.
"""

import datetime
import html
import itertools
import os
import pathlib
import string
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import rich.console

from memjax import judged
from memjax import report_figures
from memjax import report_rollouts
from memjax import report_rows
from memjax import tables

# Of more columns the intervals stand below the numbers.
_DENSE = 4


def print_table(
  summary: Mapping[str, Any], to: rich.console.Console | None = None
) -> None:
  """Prints accuracy with its 95 % interval, per kind of agent and length."""
  to = to or tables.console()
  rows, columns = report_rows.accuracy(summary)
  # A full cell has 35 characters: on narrow screens it goes on two lines.
  separator = " " if to.width >= 26 + 37 * len(columns) else "\n"
  cell = lambda x: separator.join(filter(None, _cell_parts(x)))
  lines = (
    (label, *(cell(cells.get(column)) for column in columns))
    for label, cells in rows.items()
  )
  title = f"accuracy: {summary.get('config', '')}"
  tables.show(title, ("", *columns), lines, _caption(summary), to)


def write_curves(
  workdir: str | os.PathLike, records: Sequence[Mapping[str, Any]]
) -> pathlib.Path:
  """Draws the curves of the records to workdir/curves.png."""
  path = pathlib.Path(workdir) / "curves.png"
  path.write_bytes(report_figures.to_png(report_figures.curves(records)))
  return path


def write_html(
  workdir: str | os.PathLike,
  summary: Mapping[str, Any],
  records: Sequence[Mapping[str, Any]],
  rollouts: Sequence[Mapping[str, Any]],
  name: str = "report.html",
) -> pathlib.Path:
  """Writes workdir/name, one file that loads nothing from elsewhere."""
  body = string.Template(report_rollouts.template("report.html")).substitute(
    config=_escape(summary.get("config", "")),
    facts=_facts_html(summary),
    table=_table_html(*report_rows.accuracy(summary)),
    caption=_escape(_caption(summary)),
    lengths=_lengths_html(summary),
    breakdown=_breakdown_html(summary.get("breakdown") or {}),
    health=_health_html(summary.get("health") or {}),
    curves=_curves_html(records),
    rollouts=report_rollouts.section(rollouts),
  )
  path = pathlib.Path(workdir) / name
  title = f"memjax report: {summary.get('config', '')}"
  text = report_rollouts.document(title, body)
  path.write_text(text, encoding="utf-8")
  return path


def _cell_parts(cell: Mapping[str, Any] | None) -> tuple[str, str, str]:
  """Formats a cell as accuracy, interval and sampled accuracy."""
  if not cell:
    return "-", "", ""
  interval = sampled = ""
  if cell.get("low") is not None and cell.get("high") is not None:
    interval = f"[{cell['low']:.3f}, {cell['high']:.3f}]"
  if cell.get("sampled") is not None:
    sampled = f"(sampled {cell['sampled']:.2f})"
  if cell["accuracy"] is None:  # a gain that there is not
    return "none", "", ""
  return f"{cell['accuracy']:.3f}", interval, sampled


def _caption(summary: Mapping[str, Any]) -> str:
  """Says what n, the brackets and the columns are."""
  counts: dict[str, set[int]] = {}
  for cells in report_rows.rows(summary).values():
    for scale, cell in cells.items():
      if cell and cell.get("n") is not None:
        counts.setdefault(scale, set()).add(cell["n"])
  parts = []
  everything = set().union(*counts.values())
  if len(everything) == 1:
    parts.append(f"n = {everything.pop()} tasks per cell")
  elif len(counts) > report_rows.MOST_COLUMNS:
    parts.append(f"n = {min(everything)} to {max(everything)} tasks per cell")
  elif everything:
    ranges = (
      f"{scale} {'-'.join(map(str, sorted({min(c), max(c)})))}"
      for scale, c in sorted(
        counts.items(), key=lambda x: report_rows.scale_key(x[0])
      )
    )
    parts.append(f"n = {', '.join(ranges)} tasks")
  for scale, count in _shared(summary).items():
    parts.append(f"{scale}: {count} documents")
  parts.append("[95 % interval]")
  if "train_chunks" in summary:
    parts.append(f"x1 = {summary['train_chunks']} chunks, as in training")
  if summary.get("memory_gain"):
    parts.append(
      "memory gain = (agent - empty memory) / (oracle - empty memory)"
    )
  if summary.get("files"):
    parts.append(
      "SHA-256 of the data: "
      + ", ".join(f"{x} {sha[:12]}" for x, sha in summary["files"].items())
    )
  if "judge" in summary:
    parts.append(judged.describe(summary["judge"]))
  if published := summary.get("published"):
    parts.append(
      f"published: {published['measure']}, {published['source']}; without an "
      "interval, so it is not said to be better or worse"
    )
  return "; ".join(parts)


def _shared(summary: Mapping[str, Any]) -> dict[str, int]:
  """Documents of each set with several tasks about one."""
  return {
    scale: cell["documents"]
    for cells in report_rows.rows(summary).values()
    for scale, cell in cells.items()
    if cell and cell.get("documents", cell.get("n")) != cell.get("n")
  }


def _escape(text: Any) -> str:
  return html.escape(str(text), quote=True)


def _facts_html(summary: Mapping[str, Any]) -> str:
  """Lists device, time, seed and versions."""
  facts = {"Device": summary.get("device"), "Seed": summary.get("seed")}
  if summary.get("seconds") is not None:
    facts["Time"] = datetime.timedelta(seconds=round(summary["seconds"]))
  if summary.get("train_chunks") is not None:
    facts["Trained on"] = f"{summary['train_chunks']} chunks"
  versions = summary.get("versions") or {}
  facts["Versions"] = ", ".join(f"{k} {v}" for k, v in versions.items()) or None
  return "\n".join(
    f"<div><dt>{name}</dt><dd>{_escape(value)}</dd></div>"
    for name, value in facts.items()
    if value is not None
  )


def _table_html(
  rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]
) -> str:
  """Lays cells out as a table: label -> column -> cell."""

  def shown(cell: Mapping[str, Any] | None) -> str:
    if cell and cell["accuracy"] is None:  # a gain that there is not
      return f'<span class="none">none: {_escape(cell["reason"])}</span>'
    accuracy, interval, sampled = _cell_parts(cell)
    found = f"<b>{accuracy}</b>"
    found += f' <span class="interval">{interval}</span>' if interval else ""
    return found + f' <span class="sampled">{sampled}</span>' * bool(sampled)

  lines = [
    (label, [shown(cells.get(column)) for column in columns])
    for label, cells in rows.items()
  ]
  return tables.to_html(columns, lines, dense=len(columns) > _DENSE)


def _lengths_html(summary: Mapping[str, Any]) -> str:
  """Accuracy over the length of the text, or nothing."""
  figure = report_figures.lengths(summary)
  if figure is None:
    return ""
  svg = report_figures.to_svg(figure)
  width = 7.4 * figure.get_figwidth()
  return (
    "<h3>By length of the text</h3>\n"
    f'<figure class="scroll"><div style="max-width: {width:.0f}rem">{svg}'
    "</div></figure>"
  )


def _curves_html(records: Sequence[Mapping[str, Any]]) -> str:
  """The section of training, where there was any."""
  if not records:
    return ""
  svg = report_figures.to_svg(report_figures.curves(records))
  return (
    "<section>\n<h2>Training</h2>\n"
    f'<figure class="scroll curves">{svg}</figure>\n</section>'
  )


def _breakdown_html(breakdown: Mapping[str, Mapping[str, Any]]) -> str:
  """Lays out the accuracy per kind of task, or nothing."""
  if not breakdown:
    return ""
  names = dict.fromkeys(itertools.chain.from_iterable(breakdown.values()))
  rows = {column: {} for column in breakdown}
  for name in names:
    cells = {column: breakdown[column].get(name) for column in breakdown}
    counts = sorted({c["n"] for c in cells.values() if c and "n" in c})
    label = f"{name} (n = {', '.join(map(str, counts))})" if counts else name
    for column, cell in cells.items():
      rows[column][label] = cell
  labels = list(dict.fromkeys(itertools.chain.from_iterable(rows.values())))
  named = {k.replace("_", " "): cells for k, cells in rows.items()}
  table = _table_html(*report_rows.turned(named, labels))
  return f'<h3>By kind of task</h3>\n<div class="scroll">{table}</div>'


def _health_html(health: Mapping[str, Mapping[str, Any]]) -> str:
  """Lays out what the memories were like in the end, or nothing."""
  columns = [side for side in health if health[side]]
  names = dict.fromkeys(
    itertools.chain.from_iterable(health[side] for side in columns)
  )
  if not names:
    return ""
  shown = lambda cell: f"<b>{cell['mean']:.3f}</b>" if cell else "-"
  lines = [
    (name, [shown(health[column].get(name)) for column in columns])
    for name in names
  ]
  table = tables.to_html(columns, lines)
  return (
    "<h3>Memory health</h3>\n<p>Means over final memories: shares of entries, "
    "of facts that are true (recall), of retracted facts (deletions obeyed); "
    f'counts for size and contradictions.</p><div class="scroll">{table}</div>'
  )
