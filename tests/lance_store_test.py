"""The bank in LanceDB: the same answers as SQLite, also after kill -9."""

import dataclasses

import numpy as np
import pytest
import store_test

from memjax import lance_store
from memjax import sqlite_store
from memjax import store

pytest.importorskip("lancedb")

_entry, _commit = store_test.entry, store_test.commit


@pytest.fixture
def bank(tmp_path):
  return lance_store.LanceStore(tmp_path / "bank")


@pytest.fixture
def both(tmp_path, bank):
  """The two stores, which must not be told apart."""
  sqlite = sqlite_store.SqliteStore(tmp_path / "bank.db")
  yield bank, sqlite
  sqlite.close()


def test_what_is_committed_comes_back(bank):
  entries = [
    _entry(3, "b \ud7ff 你好 'x'", embedding=None, ids=(), source="o'x"),
    _entry(7, embedding=np.float32([1e-3, -2.5]), created=1, updated=2),
    _entry(8, embedding=None),
    _entry(9, embedding=np.float32([4, 5])),
  ]
  assert bank.entries() == []
  assert bank.next_id() == 0
  # no embedding in the first session: their width is not known yet
  _commit(bank, "zero", entries[:1], [{"op": "noop"}])
  assert bank.entries() == entries[:1]
  log = [{"op": "add", "id": 3, "text": "é"}, {"op": "noop"}]
  _commit(bank, "one", entries, log)
  got = lance_store.LanceStore(bank.uri).entries()
  for a, b in zip(got, entries, strict=True):
    for field in dataclasses.fields(store.Entry):
      x, y = getattr(a, field.name), getattr(b, field.name)
      assert type(x) is type(y)
      assert np.array_equal(x, y)
  assert bank.log() == [("zero", {"op": "noop"}), *(("one", x) for x in log)]
  assert bank.sessions() == ["zero", "one"]
  assert bank.next_id() == 10


def test_a_commit_is_one_version(bank):
  """Added, changed and deleted entries, session and log: none without all."""
  _commit(bank, "one", [_entry(i) for i in range(10)], [{"a": 1}])
  before = bank._table.version
  entries = [_entry(i) for i in range(2, 10)] + [_entry(10)]
  entries[3] = _entry(5, "changed")
  _commit(bank, "two", entries, [{"b": 1}])
  assert bank._table.version == before + 1
  assert bank.entries() == entries
  bank._table.checkout(before)
  assert bank.entries() == [_entry(i) for i in range(10)]
  assert bank.sessions() == ["one"]
  assert bank.log() == [("one", {"a": 1})]


def test_both_stores_agree_over_sessions(both):
  entries, next_id = [], 0
  for n in range(6):
    entries, log = store_test.step(entries, n, next_id)
    for bank in both:
      _commit(bank, f"session {n}", entries, log)
      store_test.assert_bank_is(bank, n + 1)
    next_id = both[0].next_id()


def test_both_stores_refuse_the_same(both):
  for bank in both:
    _commit(bank, "one", [_entry(0), _entry(5)])
    _commit(bank, "two", [_entry(0)], next_id=8)
    for key, entries, match in (
      ("one", [], "'one' is in .* already"),
      ("x", [_entry(0), _entry(7)], "take 8 or more"),
      ("x", [_entry(8), _entry(8)], "stands twice"),
      ("x", [_entry(8, embedding=(1.0, np.nan))], "length nan"),
      ("x", [_entry(8, embedding=(0.0, 0.0))], "length 0"),
      ("x", [_entry(8), _entry(9, embedding=(1, 2, 3))], "one encoder"),
    ):
      with pytest.raises(ValueError, match=match):
        _commit(bank, key, entries)
    with pytest.raises(ValueError, match="writer"):
      bank.commit("x", [], [])
    assert bank.entries() == [_entry(0)]
    assert bank.sessions() == ["one", "two"]
    bank.claim({"capacity": 3})
    bank.claim({"capacity": 3})
    assert bank.describe() == {"capacity": 3}
    with pytest.raises(ValueError, match="capacity = 3, this run has 4"):
      bank.claim({"capacity": 4})
    with pytest.raises(ValueError, match="b = nothing, this run has 1"):
      bank.claim({"capacity": 3, "b": 1})


def test_width_is_that_of_the_first_embedding(bank):
  _commit(bank, "one", [_entry(0)])
  with pytest.raises(ValueError, match="width 3, those of .* 2"):
    _commit(bank, "two", [_entry(1, embedding=(1, 2, 3))])


@pytest.mark.filterwarnings("ignore:optimize.cleanup_older_than")
def test_compact_changes_nothing_a_reader_sees(bank):
  for n in range(4):
    _commit(bank, f"{n}", [_entry(i, f"{n}") for i in range(n, n + 5)])
  entries, log = bank.entries(), bank.log()
  with pytest.raises(ValueError, match="writer"):
    bank.compact()
  with bank.writer():
    bank.compact(keep_s=0.0)
  again = lance_store.LanceStore(bank.uri)
  assert again.entries() == bank.entries() == entries
  assert again.log() == log


def test_kill_9_leaves_a_prefix_of_the_sessions(tmp_path):
  inside = store_test.kill_at_random(
    tmp_path / "bank",
    lance_store.LanceStore,
    "from memjax import lance_store\n"
    "bank = lance_store.LanceStore(sys.argv[2])",
    6,
    0.015,
    store_test.assert_bank_is,
  )
  assert inside >= 1


def test_two_processes_lose_nothing(tmp_path):
  source = """
    from memjax import lance_store
    bank = lance_store.LanceStore(sys.argv[2])
    for i in range(8):
      with bank.writer(30):
        entries = bank.entries()
        entries.append(
          store.Entry(bank.next_id(), sys.argv[3], (i,), i, i, sys.argv[3]))
        bank.commit(f"{sys.argv[3]} {i}", entries, [{"i": i}])
  """
  path = tmp_path / "bank"
  children = [store_test.spawn(source, path, name) for name in "ab"]
  for child in children:
    _, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
  entries = lance_store.LanceStore(path).entries()
  assert [e.id for e in entries] == list(range(16))
  for name in "ab":
    assert [e.created for e in entries if e.source == name] == list(range(8))


def test_the_second_writer_is_refused(bank):
  with bank.writer():
    other = lance_store.LanceStore(bank.uri)
    with pytest.raises(ValueError, match=r"bank\.lock is held by process"):
      with other.writer(0.05):
        pass


def test_places_that_are_no_bank(tmp_path):
  import lancedb
  import pyarrow

  (tmp_path / "file").write_text("x")
  other = tmp_path / "other"
  lancedb.connect(other).create_table("bank", [{"x": 1}])
  newer = tmp_path / "newer"
  lancedb.connect(newer).create_table(
    "bank",
    schema=pyarrow.schema([("x", pyarrow.int64())], metadata={"memjax": "2"}),
  )
  for place, match in (
    (tmp_path / "file", "file"),
    (other, "a table of no bank"),
    (newer, "schema 2, this memjax reads 1: update"),
  ):
    with pytest.raises(ValueError, match=match) as error:
      lance_store.LanceStore(place)
    assert str(place) in str(error.value)
    assert "\n" not in str(error.value)


def test_an_object_store_needs_a_lock_file(tmp_path):
  # LanceDB's store in memory stands for one: it has a URI and no folder.
  bank = lance_store.LanceStore("memory://bank")
  with pytest.raises(ValueError, match="lock="):
    with bank.writer():
      pass
  bank = lance_store.LanceStore("memory://bank", lock=tmp_path / "lock")
  _commit(bank, "one", [_entry(0)])
  assert bank.entries() == [_entry(0)]


def test_without_lancedb_the_remedy_is_named(tmp_path):
  source = """
    sys.modules["lancedb"] = None
    from memjax import lance_store
    try:
      lance_store.LanceStore(sys.argv[2])
    except ValueError as error:
      say(error)
  """
  out, error = store_test.spawn(source, tmp_path / "bank").communicate()
  assert "pip install 'memjax[lancedb]'" in out, error
