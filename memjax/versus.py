"""Are runs different? What --mode=compare prints."""

import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import rich.console

from memjax import behind
from memjax import contrast
from memjax import results
from memjax import run_folder
from memjax import tables

_HEAD = (
  "set",
  "run",
  "accuracy",
  "difference",
  "p",
  "Holm",
  "detectable",
  "verdict",
)


def run(runs: Sequence[str], workdir: str | None) -> dict[str, Any]:
  """Compares runs with the first; prints a table and a sentence.

  Args:
    runs: arms, each a folder or a file as `results.load` takes, or several
      seeds of an arm with commas in between.
    workdir: where compare.json is written; None for nowhere.

  Returns:
    What compare.json holds.

  Raises:
    ValueError: fewer than two runs, one named twice, or runs that cannot be
      compared.
  """
  arms = {given: [x for x in given.split(",") if x] for given in runs}
  paths = [pathlib.Path(x).resolve() for given in arms.values() for x in given]
  twice = len(set(paths)) < len(paths) or len(arms) < len(runs)
  if len(runs) < 2 or twice or not all(arms.values()):
    raise ValueError(
      f"--mode=compare with --runs={' --runs='.join(runs) or '(none)'}: "
      "expected two different runs or more, as in --runs=A --runs=B, or with "
      "seeds --runs=A1,A2 --runs=B1,B2"
    )
  found = compare(
    {name: [results.load(x) for x in given] for name, given in arms.items()}
  )
  print_table(found)
  print(found["sentence"])
  if workdir:
    pathlib.Path(workdir).mkdir(parents=True, exist_ok=True)
    run_folder.write_json(pathlib.Path(workdir) / "compare.json", found)
  return found


def compare(arms: Mapping[str, contrast.Arm]) -> dict[str, Any]:
  """All arms against the first, in every set that all have.

  Returns:
    {"reference", "left_out": sets that not all have, "accuracy": {set: {arm:
    cell}}, "rows": [{"set", "arm", "difference", "low", "high", "p", "p_holm",
    "detectable", "n", "documents", "seeds", "verdict"}], "sentence", "behind":
    {set: {arm: as `contrast.behind`}}}.

  Raises:
    ValueError: runs that cannot be compared.
  """
  every = [x for arm in arms.values() for x in arm]
  names = results.common_sets(every)
  reference, *others = arms
  rows = [
    {
      "set": name,
      "arm": arm,
      **contrast.difference(arms[arm], arms[reference], name),
    }
    for name in names
    for arm in others
  ]
  contrast.add_verdicts(rows)
  return {
    "reference": reference,
    "left_out": sorted({x for y in every for x in y.scores} - set(names)),
    "accuracy": {
      name: {arm: contrast.accuracy(runs, name) for arm, runs in arms.items()}
      for name in names
    },
    "behind": {
      name: {arm: contrast.behind(runs, name) for arm, runs in arms.items()}
      for name in names
    },
    "rows": rows,
    "sentence": sentence(reference, rows),
  }


def sentence(reference: str, rows: Sequence[Mapping[str, Any]]) -> str:
  """The verdicts in words."""
  parts = []
  for row in rows:
    found = contrast.text(row, "difference")
    if row["verdict"] == "not told apart":
      parts.append(
        f"on {row['set']}, {row['arm']} and {reference} are not told apart "
        f"({found}; {_power(row)})"
      )
    else:
      parts.append(
        f"on {row['set']}, {row['arm']} is {row['verdict']} than {reference} "
        f"by {abs(row['difference']):.3f} ({found})"
      )
  if all(row["seeds"] == 1 for row in rows):
    parts.append("one run of each says nothing about other seeds")
  joined = "; ".join(parts)
  return f"{joined[0].upper()}{joined[1:]}."


def _power(row: Mapping[str, Any]) -> str:
  if row["detectable"] is None:
    return f"{row['documents']} documents cannot show any difference"
  return (
    f"a true difference of {row['detectable']:.3f} would have been found four "
    "times in five"
  )


def print_table(
  found: Mapping[str, Any], to: rich.console.Console | None = None
) -> None:
  """One row for each set and arm; the reference's rows have no difference.

  Below it what stands behind the accuracies, where that is known.
  """
  rows = {(row["set"], row["arm"]): row for row in found["rows"]}
  lines = []
  for name, cells in found["accuracy"].items():
    for arm, cell in cells.items():
      row = rows.get((name, arm))
      rest = _columns(row) if row else ["-"] * 5
      lines.append([name, arm, contrast.text(cell, "accuracy"), *rest])
  title = f"compared with {found['reference']}"
  tables.show(title, _HEAD, lines, caption(found), to)
  head, rows = behind.table(
    {
      f"{name}: {arm}": {**parts, "trained": found["accuracy"][name][arm]}
      for name, arms in found["behind"].items()
      for arm, parts in arms.items()
    }
  )
  if rows:
    tables.show(behind.TITLE, head, rows, behind.caption(head), to)


def _columns(row: Mapping[str, Any]) -> list[str]:
  detectable = row["detectable"]
  return [
    contrast.text(row, "difference"),
    f"{row['p']:.4f}",
    f"{row['p_holm']:.4f}",
    "none" if detectable is None else f"{detectable:.3f}",
    row["verdict"],
  ]


def caption(found: Mapping[str, Any]) -> str:
  """Says what was compared and how."""
  sizes = {
    row["set"]: f"{row['set']} {row['n']} questions of {row['documents']} "
    f"documents, {_seeds(row['seeds'])}"
    for row in found["rows"]
  }
  several = any(row["seeds"] > 1 for row in found["rows"])
  parts = [
    f"[95 % interval over documents{' and seeds' if several else ''}, not "
    "corrected]",
    "differences question by question",
    "Holm: p corrected for all rows",
    "detectable: found with a power of 80 %",
    *sizes.values(),
  ]
  if found["left_out"]:
    parts.append(f"not in all runs: {', '.join(found['left_out'])}")
  return "; ".join(parts)


def _seeds(count: int) -> str:
  return "one run of each" if count == 1 else f"{count} seeds"
