"""Shows a comparison of arms: tables, the same in Markdown, a page, a figure.

Everything is a function of what `compare.summarize` returns.
"""

import html
import pathlib
import urllib.parse
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import matplotlib.figure
import rich.console

from memjax import behind
from memjax import contrast
from memjax import judged
from memjax import report_figures
from memjax import report_rollouts
from memjax import tables

_TITLE = "the same questions to every arm"
_HEAD = (
  "arm",
  "base",
  "trained",
  "difference",
  "verdict",
  "detectable",
  "recall",
  "held",
  "s",
)


def print_table(
  found: Mapping[str, Any], to: rich.console.Console | None = None
) -> None:
  """One row for each arm, and below it what stands behind its accuracy."""
  tables.show(_TITLE, _HEAD, rows(found), caption(found), to)
  head, lines = behind.table(found["arms"])
  if lines:
    tables.show(behind.TITLE, head, lines, behind.caption(head), to)


def write(workdir: pathlib.Path, title: str, found: Mapping[str, Any]) -> None:
  """Writes compare.md and report.html, and sweep.png if one number is swept."""
  parts = [(_TITLE, _HEAD, rows(found), caption(found))]
  head, lines = behind.table(found["arms"])
  if lines:
    parts.append((behind.TITLE, head, lines, behind.caption(head)))
  text = "".join(
    f"\n{_capital(name)}:\n\n{tables.to_markdown(head, lines)}\n\n{said}.\n"
    for name, head, lines, said in parts
  )
  (workdir / "compare.md").write_text(f"# {title}\n{text}")
  figures = [report_figures.differences(found["arms"], found["reference"])]
  if points := swept(found):
    figures.append(report_figures.sweep(*points, reference=found["reference"]))
    (workdir / "sweep.png").write_bytes(report_figures.to_png(figures[-1]))
  page = report_rollouts.document(
    f"memjax comparison: {title}", _page(title, parts, figures, found)
  )
  (workdir / "report.html").write_text(page, encoding="utf-8")


def _page(
  title: str,
  parts: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]], str]],
  figures: Sequence[matplotlib.figure.Figure | None],
  found: Mapping[str, Any],
) -> str:
  """The body of report.html: figures, tables, links to the runs' reports."""
  escape = lambda text: html.escape(str(text), quote=True)
  body = [
    f'<header>\n<p class="kicker">memjax comparison</p>\n<h1>{escape(title)}'
    "</h1>\n</header>\n<main>"
  ]
  for number, (name, head, lines, said) in enumerate(parts):
    body.append(f"<section>\n<h2>{escape(_capital(name))}</h2>")
    if not number:
      body += [
        f'<figure class="scroll">{report_figures.to_svg(x)}</figure>'
        for x in figures
        if x
      ]
    cells = [(label, [*map(escape, values)]) for label, *values in lines]
    table = tables.to_html(head[1:], cells, dense=True)
    body.append(
      f'<div class="scroll">{table}</div>\n<p class="caption">{escape(said)}.'
      "</p>\n</section>"
    )
  links = "".join(
    f'<li><a href="{escape(urllib.parse.quote(f"{name}/seed{seed}"))}/'
    f'report.html">{escape(name)}, seed {seed}</a></li>'
    for name, arm in found["arms"].items()
    for seed in arm["seeds"]
  )
  body.append(
    f"<section>\n<h2>Runs</h2>\n<ul>{links}</ul>\n</section>\n</main>"
  )
  return "\n".join(body)


def _capital(text: str) -> str:
  return text[0].upper() + text[1:]


def rows(found: Mapping[str, Any]) -> list[tuple[str, ...]]:
  """The lines of the table, one for each arm."""
  lines = []
  for name, arm in found["arms"].items():
    apart, memory = arm["difference"], arm["memory"]
    recall = "-" if arm["recall"] is None else f"{arm['recall']:.3f}"
    lines.append(
      (
        f"{name} (reference)" if name == found["reference"] else name,
        _cell(arm["base"]),
        _cell(arm["trained"]),
        contrast.text(apart, "difference") if apart else "-",
        _verdict(arm),
        _detectable(apart),
        recall,
        f"{memory['held']} / {memory['shown']}" if memory else "-",
        "-" if arm["seconds"] is None else f"{arm['seconds']:.0f}",
      )
    )
  return lines


def _cell(cell: Mapping[str, Any] | None) -> str:
  return contrast.text(cell, "accuracy") if cell else "-"


def _verdict(arm: Mapping[str, Any]) -> str:
  """What is said of an arm; of one that diverged where it did, no more."""
  if arm["diverged"]:
    where = ", ".join(f"seed {s} at {n}" for s, n in arm["diverged"].items())
    return f"diverged: {where}"
  return arm["difference"]["verdict"] if arm["difference"] else "-"


def _detectable(apart: Mapping[str, Any] | None) -> str:
  if not apart:
    return "-"
  return "none" if apart["detectable"] is None else f"{apart['detectable']:.3f}"


def caption(found: Mapping[str, Any]) -> str:
  """Says what was compared and how."""
  hashes = ", ".join(f"{s}: {x[:12]}" for s, x in found["data_sha256"].items())
  parts = [
    f"[95 % interval]; differences question by question, from "
    f"{found['reference']}",
    "verdicts corrected for all arms (Holm)",
    "detectable: a true difference that would be found four times in five, "
    "not corrected",
    _scope(found),
    f"data by seed: {hashes or 'no run finished'}",
  ]
  diverged = [name for name, arm in found["arms"].items() if arm["diverged"]]
  if diverged:
    parts.insert(
      2,
      "diverged: a gradient was not finite at that iteration; such an arm's "
      "accuracy is of its other seeds, and is not compared",
    )
  if found["reference"] in diverged:
    parts.insert(3, "the reference diverged, so nothing is compared")
  if "judge" in found:
    parts.append(judged.describe(found["judge"]))
  return "; ".join(parts)


def _scope(found: Mapping[str, Any]) -> str:
  """What the intervals and verdicts are about."""
  count = max(len(arm["seeds"]) for arm in found["arms"].values())
  if count < 2:
    return "of these policies on other questions: one seed says no more"
  return f"of other seeds ({count} were run) on other questions"


def swept(
  found: Mapping[str, Any],
) -> tuple[str, dict[float, Mapping[str, Any]]] | None:
  """(key, {value: arm}) if arms differ in one number and nothing else."""
  arms = found["arms"].values()
  keys = {tuple(arm["changes"]) for arm in arms}
  if len(arms) < 2 or len(keys) != 1 or len(key := next(iter(keys))) != 1:
    return None
  values = [arm["changes"][key[0]] for arm in arms]
  if any(isinstance(x, bool) or not isinstance(x, int | float) for x in values):
    return None
  return key[0], dict(zip(map(float, values), arms))
