"""Entries as Arrow rows, and back."""

import pytest
import store_test

pytest.importorskip("pyarrow")

_SESSION = {"key": "session/one", "kind": "session", "number": 0}


@pytest.mark.parametrize("width", [None, 2])
def test_entries_come_back(width):
  from memjax import lance_rows

  vector = (1e-3, -2.5) if width else None
  entries = [
    store_test.entry(7, "b", embedding=vector, ids=(), source="o'x"),
    store_test.entry(3, embedding=None, created=1, updated=2),
    store_test.entry(9, embedding=vector),
  ]
  rows = lance_rows.from_entries(entries, width, _SESSION)
  assert rows.schema.equals(lance_rows.schema(width), check_metadata=True)
  assert rows["kind"].to_pylist() == ["entry"] * 3 + ["session"]
  assert rows["digest"].to_pylist() == [*(e.digest for e in entries), None]
  by_id = sorted(entries, key=lambda e: e.id)
  assert lance_rows.to_entries(rows.slice(0, 3)) == by_id
  assert lance_rows.to_entries(rows.slice(1, 2)) == entries[1:]


@pytest.mark.parametrize("width", [None, 2])
def test_no_entries(width):
  from memjax import lance_rows

  rows = lance_rows.from_entries((), width, _SESSION)
  assert rows.num_rows == 1
  assert lance_rows.to_entries(rows.slice(0, 0)) == []
