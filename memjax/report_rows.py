"""The tables of a report as data: which rows and columns, in which order."""

import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

# More held-out sets, or kinds of tasks, are the rows of a table.
MOST_COLUMNS = 6

# "x4" and "babi_qa1_4096": what comes before the length, and the length.
NUMBERED = re.compile(r"(?P<stem>x|.+_)(?P<number>\d+(?:\.\d+)?)")


def accuracy(
  summary: Mapping[str, Any],
) -> tuple[Mapping[str, Mapping[str, Any]], Sequence[str]]:
  """Rows and columns of the final table, with memory gain."""
  found = rows(summary) | _gain_rows(summary)
  return turned(found, scales(summary))


def turned(
  rows: Mapping[str, Mapping[str, Any]], columns: Sequence[str]
) -> tuple[Mapping[str, Mapping[str, Any]], Sequence[str]]:
  """Rows and columns, exchanged where there are too many columns."""
  if len(columns) <= MOST_COLUMNS:
    return rows, columns
  labels = [label for label, cells in rows.items() if cells]
  exchanged = {
    name: {label: rows[label].get(name) for label in labels} for name in columns
  }
  return exchanged, labels


def _gain_rows(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Memory gain as a row of the table, if it is known of any set."""
  cells = {
    name: {"accuracy": gain["gain"], **gain}
    for name, gain in (summary.get("memory_gain") or {}).items()
  }
  return {"memory gain": cells} if cells else {}


def rows(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Returns the rows of the final table, label -> scale -> cell."""
  controls = {"empty_memory": {}, "oracle": {}}
  controls |= summary.get("controls") or {}
  judge = summary.get("judge") or {}
  corrected = judge.get("corrected") or {}
  published = summary.get("published") or {}
  sides = {x: summary.get(x) or {} for x in ("base", "trained")}
  return {
    **{x: cells for x, cells in sides.items() if cells},
    **{
      f"control: {name.replace('_', ' ')}": cells or {}
      for name, cells in controls.items()
    },
    **{
      f"recall of what is needed, {side}": cells
      for side, cells in (summary.get("recall") or {}).items()
      if cells
    },
    **{
      f"{side}, corrected for the judge": corrected[side]
      for side in ("base", "trained")
      if side in corrected
    },
    **{
      f"{side}, by {judge['verifier']}": cells
      for side, cells in (judge.get("verified") or {}).items()
    },
    **{
      f"published, {side}": {x: {"accuracy": y} for x, y in cells.items()}
      for side in ("base", "trained")
      if (cells := published.get(side))
    },
  }


def scales(summary: Mapping[str, Any]) -> list[str]:
  """Returns the columns of the final table, shortest text first."""
  names = {scale for cells in rows(summary).values() for scale in cells}
  return sorted(names, key=scale_key)


def scale_key(scale: str) -> tuple[bool, str, float]:
  """Orders "x2" before "x16" and "task_4096" by task.

  Means of tasks, "mean_4096", and names without a number are last.
  """
  match = NUMBERED.fullmatch(scale)
  if not match:
    return (True, scale, 0.0)
  stem = match["stem"]
  return (stem == "mean_", stem, float(match["number"]))
