"""Runs notebooks without Jupyter, for tests."""

import json
import pathlib

ROOT = pathlib.Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def sources(path):
  """The code cells."""
  cells = json.loads(path.read_text())["cells"]
  return ["".join(x["source"]) for x in cells if x["cell_type"] == "code"]


def needs(code):
  """What the first line of a cell says that it needs."""
  mark, _, what = code.splitlines()[0].partition(": ")
  return set(what.split(", ")) if mark == "# needs" else set()


def execute(path, changes=None, cells=None, has=()):
  """The namespace that code cells leave, run in order with lines replaced.

  Cells that need something beside what the machine `has` are left out.
  """
  changes, found = dict(changes or {}), {"__name__": "notebook"}
  for code in sources(path)[:cells]:
    if needs(code) - set(has):
      continue
    for old in [x for x in changes if x in code]:
      assert code.count(old) == 1, f"{path.name} has {old!r} more than once"
      code = code.replace(old, changes.pop(old))
    exec(compile(code, path.name, "exec"), found)
  assert not changes, f"{path.name} has no longer {', '.join(changes)}"
  return found


def workdir(path):
  """The change that keeps what a run writes."""
  old = "WORKDIR = pathlib.Path(tempfile.mkdtemp())"
  return {old: f"WORKDIR = pathlib.Path({str(path)!r})"}
