"""Shows what a run came to: a table, curves.png and report.html.

Host only. Everything is a function of what the run wrote: `summary` (the final
numbers), `records` (the lines of metrics.jsonl) and `rollouts` (a few tasks as
the agent did them before and after training). No clock is read, so the same
files give the same report.

  summary = {"config": str, "seconds": float, "seed": int, "device": str,
    "versions": {package: version}, "train_chunks": int,
    "base": {"x1": CELL, "x2": CELL, ...}, "trained": {...},
    "controls": {"empty_memory": {...}, "oracle": {...}},
    "breakdown": {"base": {name: CELL}, "trained": {...}},        (optional)
    "health": {"base": {name: {"mean", "n"}}, "trained": {...}}}  (optional)
  CELL = {"accuracy", "low", "high", "n", "sampled" (optional)}
  rollouts = [{"id": int, "question": str, "answers": [str],
    "before": ROLLOUT, "after": ROLLOUT}]                    (either optional)
  ROLLOUT = {"turns": [{"chunk": str, "response": str, "memory": str,
    "truncated": bool, "malformed": bool,
    "changes": ["+entry: right" or wrong or missed]}],            (optional)
    "answer": str, "response": str (optional), "reward": float}

"x4" is a text of 4 times the chunks that the agent was trained on.
"""

import datetime
import difflib
import html
import importlib.resources
import itertools
import os
import pathlib
import re
import string
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
import rich.text

from memjax import report_figures

# A rollout counts as right from this reward on: rewards here are 0 or 1, plus
# or minus small terms for format.
RIGHT_REWARD = 0.5

# Longer chunks are folded, in characters.
_FOLD_CHARS = 1200

# One word or one other sign, with the white space after it.
_WORD = re.compile(r"(?:\w+|[^\w\s])\s*")

_SIDES = {"before": "Before training", "after": "After training"}


def print_table(
  summary: Mapping[str, Any], console: rich.console.Console | None = None
) -> None:
  """Prints accuracy with its 95 % interval, per kind of agent and length."""
  if console is None:
    console = rich.console.Console()
    if not console.is_terminal:
      # A log file has no width to fold at.
      console = rich.console.Console(width=200)
  scales = report_figures.scales(summary)
  # A full cell has 35 characters: on narrow screens it goes on two lines.
  separator = " " if console.width >= 26 + 37 * len(scales) else "\n"
  table = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    title=rich.text.Text(f"accuracy: {summary.get('config', '')}"),
    caption=rich.text.Text(_caption(summary)),
  )
  table.add_column("agent")
  for scale in scales:
    table.add_column(scale)
  for label, cells in report_figures.rows(summary).items():
    texts = [
      separator.join(part for part in _cell_parts(cells.get(scale)) if part)
      for scale in scales
    ]
    # Text, as "[...]" in a string would be read as markup.
    table.add_row(*map(rich.text.Text, (label, *texts)))
  console.print(table)


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
) -> pathlib.Path:
  """Writes workdir/report.html, one file that loads nothing from elsewhere."""
  templates = importlib.resources.files("memjax") / "templates"
  page = string.Template(
    (templates / "report.html").read_text(encoding="utf-8")
  )
  text = page.substitute(
    css=(templates / "report.css").read_text(encoding="utf-8"),
    config=_escape(summary.get("config", "")),
    facts=_facts_html(summary),
    table=_table_html(
      report_figures.rows(summary), report_figures.scales(summary)
    ),
    caption=_escape(_caption(summary)),
    lengths=report_figures.to_svg(report_figures.lengths(summary)),
    breakdown=_breakdown_html(summary.get("breakdown") or {}),
    health=_health_html(summary.get("health") or {}),
    curves=report_figures.to_svg(report_figures.curves(records)),
    rollouts="\n".join(
      _rollout_html(rollout, is_open=i == 0)
      for i, rollout in enumerate(rollouts)
    )
    or '<p class="muted">No rollouts were recorded.</p>',
  )
  path = pathlib.Path(workdir) / "report.html"
  # A sampled text can hold half of a surrogate pair, which UTF-8 cannot.
  path.write_text(text, encoding="utf-8", errors="replace")
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
  return f"{cell['accuracy']:.3f}", interval, sampled


def _caption(summary: Mapping[str, Any]) -> str:
  """Says what n, the brackets and the columns are."""
  counts: dict[str, set[int]] = {}
  for cells in report_figures.rows(summary).values():
    for scale, cell in cells.items():
      if cell and cell.get("n") is not None:
        counts.setdefault(scale, set()).add(cell["n"])
  parts = []
  everything = set().union(*counts.values())
  if len(everything) == 1:
    parts.append(f"n = {everything.pop()} tasks per cell")
  elif everything:
    ranges = (
      f"{scale} {'-'.join(map(str, sorted({min(c), max(c)})))}"
      for scale, c in sorted(
        counts.items(), key=lambda x: report_figures.scale_key(x[0])
      )
    )
    parts.append(f"n = {', '.join(ranges)} tasks")
  parts.append("[95 % interval]")
  if "train_chunks" in summary:
    parts.append(f"x1 = {summary['train_chunks']} chunks, as in training")
  return "; ".join(parts)


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
  head = "".join(f'<th scope="col">{_escape(c)}</th>' for c in columns)
  lines = [f"<table><thead><tr><td></td>{head}</tr></thead><tbody>"]
  for label, cells in rows.items():
    line = f'<tr><th scope="row">{_escape(label)}</th>'
    for column in columns:
      accuracy, interval, sampled = _cell_parts(cells.get(column))
      line += f"<td><b>{accuracy}</b>"
      line += f' <span class="interval">{interval}</span>' if interval else ""
      line += f' <span class="sampled">{sampled}</span>' if sampled else ""
      line += "</td>"
    lines.append(line + "</tr>")
  return "\n".join(lines) + "</tbody></table>"


def _breakdown_html(breakdown: Mapping[str, Mapping[str, Any]]) -> str:
  """Lays out the accuracy per kind of task, or nothing."""
  if not breakdown:
    return ""
  columns = list(breakdown)
  names = dict.fromkeys(itertools.chain.from_iterable(breakdown.values()))
  rows = {}
  for name in names:
    cells = {column: breakdown[column].get(name) for column in columns}
    counts = sorted({c["n"] for c in cells.values() if c and "n" in c})
    label = f"{name} (n = {', '.join(map(str, counts))})" if counts else name
    rows[label] = cells
  table = _table_html(rows, columns)
  return f'<h3>By kind of task</h3>\n<div class="scroll">{table}</div>'


def _health_html(health: Mapping[str, Mapping[str, Any]]) -> str:
  """Lays out what the memories were like in the end, or nothing."""
  columns = [side for side in health if health[side]]
  names = dict.fromkeys(
    itertools.chain.from_iterable(health[side] for side in columns)
  )
  if not names:
    return ""
  head = "".join(f'<th scope="col">{_escape(c)}</th>' for c in columns)
  lines = [f"<table><thead><tr><td></td>{head}</tr></thead><tbody>"]
  for name in names:
    line = f'<tr><th scope="row">{_escape(name)}</th>'
    for column in columns:
      cell = health[column].get(name)
      shown = f"{cell['mean']:.3f}" if cell else "-"
      line += f"<td><b>{shown}</b></td>"
    lines.append(line + "</tr>")
  table = "\n".join(lines) + "</tbody></table>"
  return (
    "<h3>Memory health</h3>\n<p>Means over final memories: shares of entries, "
    "of facts that are true (recall), of retracted facts (deletions obeyed); "
    f'counts for size and contradictions.</p><div class="scroll">{table}</div>'
  )


def _answers_pattern(answers: Sequence[str]) -> re.Pattern | None:
  """Matches a gold answer as whole words, in any case; None without one."""
  texts = sorted({a.strip() for a in answers if a.strip()}, key=len)
  if not texts:
    return None
  options = "|".join(map(re.escape, reversed(texts)))
  return re.compile(rf"(?<!\w)(?:{options})(?!\w)", re.IGNORECASE)


def _mark_html(text: str, pattern: re.Pattern | None) -> str:
  """Escapes a text and marks what the pattern matches."""
  if pattern is None:
    return _escape(text)
  parts, end = [], 0
  for match in pattern.finditer(text):
    parts.append(_escape(text[end : match.start()]))
    parts.append(f"<mark>{_escape(match.group())}</mark>")
    end = match.end()
  return "".join(parts) + _escape(text[end:])


def _diff_html(old: str, new: str) -> str:
  """Escapes the new text with added words in <ins> and removed ones in <del>.

  Words and signs are compared, not the white space between them. Worked
  example: from "a b" to "a, c b" gives "a<ins>, c</ins> b".
  """
  old_words = _WORD.findall(old)
  new_words = _WORD.findall(new)
  matcher = difflib.SequenceMatcher(
    None,
    [word.rstrip() for word in old_words],
    [word.rstrip() for word in new_words],
    autojunk=False,
  )
  diff = ""
  for op, i, i_end, j, j_end in matcher.get_opcodes():
    removed, added = "".join(old_words[i:i_end]), "".join(new_words[j:j_end])
    if op == "equal":
      diff += _escape(added)
      continue
    if removed:
      diff += "" if diff[-1:].isspace() else " "
      text = removed.rstrip()
      space = removed[len(text) :] or (" " if added else "")
      diff += f"<del>{_escape(text)}</del>{space}"
    if added:
      text = added.rstrip()
      diff += f"<ins>{_escape(text)}</ins>{added[len(text) :]}"
  return diff.strip()


def _badge(kind: str, text: str) -> str:
  return f'<span class="badge {kind}">{_escape(text)}</span>'


def _verdict(rollout: Mapping[str, Any]) -> str:
  """Says "right" or "wrong", which is also the CSS class."""
  return "right" if rollout["reward"] >= RIGHT_REWARD else "wrong"


def _rollout_html(rollout: Mapping[str, Any], is_open: bool) -> str:
  """Lays out one task: chunks in order, the memories side by side."""
  sides = [side for side in _SIDES if rollout.get(side)]
  pattern = _answers_pattern(rollout["answers"])
  badges = []
  for side in sides:
    verdict = _verdict(rollout[side])
    badges.append(_badge(verdict, f"{side}: {verdict}"))
  lines = [
    f'<details class="rollout" id="task-{_escape(rollout["id"])}"'
    f"{' open' if is_open else ''}>",
    f'<summary><span class="id">Task {_escape(rollout["id"])}</span> '
    f'<span class="question">{_escape(rollout["question"])}</span> '
    f'<span class="badges">{" ".join(badges)}</span></summary>',
    '<p class="gold">Gold answer: '
    + " <i>or</i> ".join(f"<b>{_escape(a)}</b>" for a in rollout["answers"])
    + "</p>",
    f'<div class="sides sides-{len(sides)}">',
  ]
  lines += [f"<h4>{_SIDES[side]}</h4>" for side in sides]
  turns = [rollout[side]["turns"] for side in sides]
  memories = ["" for _ in sides]
  for i, row in enumerate(itertools.zip_longest(*turns)):
    chunks = [turn["chunk"] for turn in row if turn]
    # The text is that of the task; it differs only if the sides were cut
    # into chunks differently.
    if len(set(chunks)) == 1:
      lines.append(_chunk_html(i, chunks[0], pattern, "both"))
    else:
      lines += [
        _chunk_html(i, turn["chunk"] if turn else "", pattern, "one")
        for turn in row
      ]
    for j, turn in enumerate(row):
      lines.append(_turn_html(sides[j], turn, memories[j], pattern))
      memories[j] = turn["memory"] if turn else memories[j]
  for side in sides:
    verdict = _verdict(rollout[side])
    answer = rollout[side]["answer"]
    shown = _escape(answer) if answer.strip() else "<i>(none)</i>"
    # What was written beside the answer, such as the entries it used.
    whole = rollout[side].get("response", "").strip()
    if whole and whole != answer.strip():
      shown += f'<div class="muted">written: {_escape(whole)}</div>'
    lines.append(
      f'<div class="final {verdict}"><h5>{_side_html(side)}Answer</h5>'
      f'<div class="text">{shown}</div>'
      f"<p>{verdict}, reward {rollout[side]['reward']:.3g}</p></div>"
    )
  return "\n".join([*lines, "</div></details>"])


def _chunk_html(
  i: int, chunk: str, pattern: re.Pattern | None, width: str
) -> str:
  """Lays out the text of a chunk, folded where it is long."""
  if not chunk.strip():
    return f'<div class="chunk {width}"><i>No text in turn {i + 1}</i></div>'
  is_open = " open" if len(chunk) <= _FOLD_CHARS else ""
  found = pattern is not None and pattern.search(chunk)
  badge = " " + _badge("found", "holds the answer") if found else ""
  return (
    f'<details class="chunk {width}"{is_open}><summary>Chunk {i + 1} '
    f'<span class="muted">{len(chunk):,} characters</span>{badge}</summary>'
    f'<div class="text">{_mark_html(chunk, pattern)}</div></details>'
  )


def _side_html(side: str) -> str:
  """Names the side; shown on narrow screens, which have one column."""
  return f'<span class="side">{_SIDES[side]}: </span>'


def _turn_html(
  side: str,
  turn: Mapping[str, Any] | None,
  previous: str,
  pattern: re.Pattern | None,
) -> str:
  """Lays out what one call made of the memory, with its response."""
  if turn is None:
    return '<div class="turn"></div>'
  memory, response = turn["memory"], turn["response"]
  badges = [
    _badge("flag", flag)
    for flag in ("truncated", "malformed")
    if turn.get(flag)
  ]
  if memory == previous:
    badges.append(_badge("plain", "unchanged"))
  if pattern is not None and pattern.search(memory):
    badges.append(_badge("found", "holds the answer"))
  shown = _diff_html(previous, memory) or '<i class="muted">(empty)</i>'
  if response.strip() == memory.strip():
    raw = '<p class="muted">The response is the memory.</p>'
  else:
    raw = (
      f'<details class="response"><summary>Response</summary>'
      f'<div class="text">{_escape(response)}</div></details>'
    )
  return (
    f'<div class="turn"><h5>{_side_html(side)}Memory {" ".join(badges)}</h5>'
    f'<div class="text memory">{shown}</div>{_changes_html(turn)}{raw}</div>'
  )


def _changes_html(turn: Mapping[str, Any]) -> str:
  """What was changed, and whether it should have been; or nothing."""
  if "changes" not in turn:
    return ""
  if not turn["changes"]:
    return '<p class="muted">Nothing was to be changed, and nothing was.</p>'
  kinds = {"right": "right", "wrong": "wrong", "missed": "flag"}
  badges = [
    _badge(kinds.get(change.rsplit(": ", 1)[-1], "plain"), change)
    for change in turn["changes"]
  ]
  return f'<p class="changes">{" ".join(badges)}</p>'
