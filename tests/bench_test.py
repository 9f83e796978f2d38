"""The benchmark's four rows compute the same numbers, torch beside memjax."""

import importlib
import pathlib
import sys

import pytest

_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments/bench"
_SMALL = {
  "GROUP": 4,
  "CHUNKS": 2,
  "CHUNK": 24,
  "MEMORY": 6,
  "ANSWER": 6,
  "PROMPT": 12,
  "NEW": 7,
  "UPDATE_ROWS": 8,
}
_MODEL = {
  "hidden_size": 32,
  "num_hidden_layers": 2,
  "head_dim": 16,
  "intermediate_size": 48,
  "initializer_range": 0.3,
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
  """What each row returns, and the bench module."""
  pytest.importorskip("torch")
  folder = tmp_path_factory.mktemp("bench")
  with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(_FOLDER))
    work = importlib.import_module("work")
    for name, value in _SMALL.items():
      patch.setattr(work, name, value)
    patch.setattr(work, "MODEL", work.MODEL | _MODEL)
    work.make_model(folder)
    bench = importlib.import_module("bench")
    rows = {}
    for name, (module, kind) in bench.ROWS.items():
      row = importlib.import_module(module).measures(kind, folder)
      rows[name] = {
        key: row[key](0) for key in ("greedy", "update", "iteration")
      }
    yield bench, rows
    for name in ("work", "bench", "torch_rows", "memjax_rows"):
      sys.modules.pop(name, None)


def test_all_rows_do_the_same_work(found):
  bench, rows = found
  bench.check(rows)
  first = next(iter(rows.values()))
  assert first["update"]["grad_norm"] > 0.01
  assert len(set(sum(first["greedy"], []))) > 2
  # Prompts and responses of two turns and the answer; no memory is one word.
  turns = (4 + 8 + 1 + 24 + 6) + (4 + 8 + 6 + 24 + 6) + (3 + 8 + 6 + 6)
  assert first["iteration"]["tokens"] == 4 * turns


@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_a_row_that_computes_something_else_is_refused(found, key):
  bench, rows = found
  name = list(rows)[2]
  update = dict(rows[name]["update"])
  update[key] += 0.01
  wrong = rows | {name: rows[name] | {"update": update}}
  with pytest.raises(SystemExit, match=f"papers' order: {key} of the update"):
    bench.check(wrong)


def test_ratios_are_of_what_was_measured_side_by_side(found, capsys):
  bench, _ = found
  one, two, *others = bench.ROWS
  reps = [
    {one: 8.0, two: 4.0, **dict.fromkeys(others, 2.0)},
    {one: 9.0, two: 6.0, **dict.fromkeys(others, 3.0)},
    {one: 6.0, two: 6.0, **dict.fromkeys(others, 1.0)},
  ]
  bench.show({"seconds": {"decode16": reps}, "tokens": 0})
  line = capsys.readouterr().out.splitlines()[-1]
  assert "2.00 [1.00, 3.00]" in line  # seconds
  assert "4.00 [3.00, 6.00] | 2.00 [2.00, 6.00]" in line
  assert f"{16 * _SMALL['NEW'] / 2.0:,.0f} |" in line
