"""The bank in SQLite: killed, contended, damaged; and its exact search."""

import dataclasses
import json
import os
import sqlite3
import subprocess
import threading
import time

import numpy as np
import pytest
import store_test

from memjax import sqlite_store
from memjax import store

_entry, _commit = store_test.entry, store_test.commit


@pytest.fixture
def bank(tmp_path):
  bank = sqlite_store.SqliteStore(tmp_path / "bank.db")
  yield bank
  bank.close()


def test_what_is_committed_comes_back(bank):
  entries = [
    _entry(3, "a\0b \ud7ff 你好 'x'", embedding=None, ids=(), source=""),
    _entry(7, embedding=np.float32([1e-3, -2.5]), created=1, updated=2),
  ]
  log = [{"op": "add", "id": 3, "text": "é"}, {"op": "noop"}]
  _commit(bank, "one", entries, log)
  got = sqlite_store.SqliteStore(bank.path).entries()
  for a, b in zip(got, entries, strict=True):
    for field in dataclasses.fields(store.Entry):
      x, y = getattr(a, field.name), getattr(b, field.name)
      assert type(x) is type(y)
      assert np.array_equal(x, y)
  assert bank.entries() == entries
  assert bank.log() == [("one", log[0]), ("one", log[1])]
  assert bank.next_id() == 8


def test_commit_writes_only_what_differs(bank):
  _commit(bank, "one", [_entry(i) for i in range(100)])
  before = bank._db.total_changes
  entries = [_entry(i) for i in range(1, 100)] + [_entry(100)]
  entries[4] = _entry(5, "changed")
  _commit(bank, "two", entries, [{}])
  # one deleted, one added, one changed; the session and its row of the log
  assert bank._db.total_changes - before == 5
  assert bank.entries() == entries


def test_order_of_sessions_is_that_of_commits(bank):
  for key in ("b", "c", "a"):
    _commit(bank, key, [])
  assert bank.sessions() == ["b", "c", "a"]


def test_commit_is_all_or_nothing(bank):
  _commit(bank, "one", [_entry(0), _entry(1)], [{"a": 1}])
  # Fails at the last entry, when others were deleted and inserted already.
  bad = [_entry(2), _entry(3, "\ud800")]
  with pytest.raises(ValueError, match="surrogates"):
    _commit(bank, "two", bad, [{"b": 2}])
  with pytest.raises(TypeError, match="not JSON serializable"):
    _commit(bank, "two", [_entry(2)], [{"b": object()}])
  with pytest.raises(ValueError, match="'one' is in .* already"):
    _commit(bank, "one", [_entry(2)])
  assert bank.entries() == [_entry(0), _entry(1)]
  assert bank.sessions() == ["one"]
  assert bank.log() == [("one", {"a": 1})]
  _commit(bank, "two", [_entry(2)])
  assert bank.entries() == [_entry(2)]


def test_ids_are_never_used_again(bank):
  _commit(bank, "one", [_entry(0), _entry(5)])
  _commit(bank, "two", [_entry(0)])
  again = sqlite_store.SqliteStore(bank.path)
  for number in (5, 3):
    with pytest.raises(ValueError, match="take 6 or more"):
      _commit(again, "three", [_entry(0), _entry(number)])
  # 6 to 8 came and went inside the session
  _commit(again, "three", [_entry(0)], next_id=9)
  assert again.next_id() == 9
  with pytest.raises(ValueError, match="take 9 or more"):
    _commit(again, "four", [_entry(8)])


def test_commit_needs_the_lock(bank):
  with pytest.raises(ValueError, match="writer"):
    bank.commit("one", [], [])
  with bank.writer():
    pass
  with pytest.raises(ValueError, match="writer"):
    bank.commit("one", [], [])


def test_claim(bank):
  assert bank.describe() == {}
  meta = {"policy": "recurrent", "capacity": 3, "stop": (1, 2)}
  bank.claim(meta)
  other = sqlite_store.SqliteStore(bank.path)
  other.claim(meta)
  assert other.describe() == {**meta, "stop": [1, 2]}
  with pytest.raises(ValueError, match="capacity = 3, this run has 4"):
    other.claim({**meta, "capacity": 4})
  assert bank.describe() == {**meta, "stop": [1, 2]}


def _one_line(error):
  assert "\n" not in str(error.value)
  assert len(str(error.value)) < 300


def test_files_that_are_no_bank(tmp_path):
  text = tmp_path / "text.db"
  text.write_text("no database, but long enough to have a header" * 100)
  other = tmp_path / "other.db"
  with sqlite3.connect(other) as db:
    db.execute("CREATE TABLE t (x)")
  db.close()
  newer = tmp_path / "newer.db"
  sqlite_store.SqliteStore(newer).close()
  with sqlite3.connect(newer) as db:
    db.execute("PRAGMA user_version = 2")
  db.close()
  before = other.read_bytes()
  for path, match in (
    (text, "not a database"),
    (other, "something else"),
    (newer, "schema 2, this memjax reads 1: update"),
    (tmp_path, "unable to open"),
    (tmp_path / "none" / "x.db", "no folder"),
  ):
    with pytest.raises(ValueError, match=match) as error:
      sqlite_store.SqliteStore(path)
    assert str(path) in str(error.value) or "folder" in match
    _one_line(error)
  assert other.read_bytes() == before


def test_a_read_only_folder(tmp_path):
  """In a process without root's rights, for which everything is writable."""
  path = tmp_path / "bank.db"
  sqlite_store.SqliteStore(path).close()
  os.chmod(tmp_path, 0o555)
  if os.geteuid() != 0:
    with pytest.raises(ValueError, match="read-only") as error:
      sqlite_store.SqliteStore(path)
    _one_line(error)
    return
  # The folders of pytest are closed to others: the child goes there first.
  source = """
    import os
    os.chdir(sys.argv[2])
    os.setuid(65534)
    try:
      sqlite_store.SqliteStore("bank.db")
    except ValueError as error:
      say(error)
  """
  out, error = store_test.spawn(source, tmp_path).communicate()
  assert "read-only" in out, error
  assert len(out.splitlines()) == 1


@pytest.mark.parametrize("end", [None, -3500])
def test_damage_is_found(bank, end):
  """In the last page: of all of it, or of its head alone."""
  _commit(bank, "one", [_entry(i, "text " * 50) for i in range(200)])
  bank.integrity()
  bank.close()
  data = bytearray(bank.path.read_bytes())
  size = len(data[-4096:end])
  data[-4096:end] = b"\x0d" + os.urandom(size - 1)  # it opens all the same
  bank.path.write_bytes(data)
  with pytest.raises(ValueError, match=r"bank\.db is damaged") as error:
    sqlite_store.SqliteStore(bank.path).integrity()
  _one_line(error)


def test_kill_9_leaves_a_prefix_of_the_sessions(tmp_path):
  def check(bank, n):
    bank.integrity()
    store_test.assert_bank_is(bank, n)

  inside = store_test.kill_at_random(
    tmp_path / "bank.db",
    sqlite_store.SqliteStore,
    "bank = sqlite_store.SqliteStore(sys.argv[2])",
    16,
    0.004,
    check,
  )
  assert inside >= 1


def test_kill_9_while_the_bank_is_made(tmp_path):
  for i in range(4):
    path = tmp_path / f"bank{i}.db"
    child = store_test.spawn(
      """
      say("ready")
      sqlite_store.SqliteStore(sys.argv[2])
      time.sleep(60)
      """,
      path,
    )
    child.stdout.readline()
    time.sleep(0.003 * i)
    child.kill()
    child.communicate()
    bank = sqlite_store.SqliteStore(path)
    bank.integrity()
    store_test.assert_bank_is(bank, 0)


def test_two_processes_lose_nothing(tmp_path):
  """Each adds 20 entries to what it reads; both start on an empty folder."""
  path = tmp_path / "bank.db"
  source = """
    bank = sqlite_store.SqliteStore(sys.argv[2])
    for i in range(20):
      with bank.writer(30):
        entries = bank.entries()
        time.sleep(0.005)
        entries.append(
          store.Entry(bank.next_id(), sys.argv[3], (i,), i, i, sys.argv[3]))
        bank.commit(f"{sys.argv[3]} {i}", entries, [{"i": i}])
  """
  children = [store_test.spawn(source, path, name) for name in "ab"]
  for child in children:
    _, error = child.communicate(timeout=60)
    assert child.returncode == 0, error
  bank = sqlite_store.SqliteStore(path)
  entries = bank.entries()
  assert [e.id for e in entries] == list(range(40))
  for name in "ab":
    assert [e.created for e in entries if e.source == name] == list(range(20))
    assert [k for k in bank.sessions() if k[0] == name] == [
      f"{name} {i}" for i in range(20)
    ]


def test_readers_do_not_wait_and_the_second_writer_does(bank):
  _commit(bank, "one", [_entry(0)])
  child = store_test.spawn(
    """
    bank = sqlite_store.SqliteStore(sys.argv[2])
    with bank.writer(1):
      say("held")
      sys.stdin.readline()
      bank.commit("held", bank.entries(), [])
    """,
    bank.path,
    stdin=subprocess.PIPE,
  )
  assert child.stdout.readline() == "held\n"
  with pytest.raises(ValueError, match=rf"bank\.db\.lock.*{child.pid}\b"):
    with bank.writer(0.01):
      pass
  other = sqlite_store.SqliteStore(bank.path)
  assert other.entries() == [_entry(0)]
  assert other.sessions() == ["one"]
  child.stdin.write("\n")
  child.stdin.flush()
  with bank.writer(20.0):
    assert bank.sessions() == ["one", "held"]
  child.communicate()


def test_a_reader_sees_whole_sessions(bank):
  """Every session replaces 50 entries: a mixture would show."""
  stop = threading.Event()

  def write():
    writer = sqlite_store.SqliteStore(bank.path)
    n = 0
    while not stop.is_set():
      entries = [_entry(i, f"{n}", updated=n) for i in range(50)]
      _commit(writer, f"{n}", entries)
      n += 1
    writer.close()

  thread = threading.Thread(target=write)
  thread.start()
  seen = set()
  deadline = time.monotonic() + 20
  while len(seen) < 10 and time.monotonic() < deadline:
    texts = {e.text for e in bank.entries()}
    assert len(texts) <= 1
    seen |= texts
  stop.set()
  thread.join()
  assert len(seen) >= 10


def _brute_force(entries, query, k):
  """(ids, cosines) by definition, in float64."""
  cosine = lambda a, b: (a @ b) / np.sqrt((a @ a) * (b @ b))
  query = np.asarray(query, np.float64)
  scores = [(-cosine(e.embedding.astype(float), query), e.id) for e in entries]
  best = sorted(scores)[:k]
  return [i for _, i in best], [-s for s, _ in best]


def test_search_is_the_cosine(bank):
  entries = store_test.random_bank(500, 24)
  _commit(bank, "one", entries)
  query_QD = np.random.default_rng(1).standard_normal((6, 24))
  id_QK, score_QK = bank.search(query_QD, 10)
  assert id_QK.shape == score_QK.shape == (6, 10)
  assert score_QK.dtype == np.float32
  for query, ids, scores in zip(query_QD, id_QK, score_QK):
    want_ids, want_scores = _brute_force(entries, query, 10)
    assert ids.tolist() == want_ids
    np.testing.assert_allclose(scores, want_scores, atol=2e-7)
    one_ids, one_scores = bank.search(query, 10)
    assert np.array_equal(one_ids, ids)
    assert np.array_equal(one_scores, scores)
  # 3, 4, 0 against 1, 0, 0 and 0, 2, 0: by hand
  other = sqlite_store.SqliteStore(f"{bank.path}2")
  _commit(
    other, "x", [_entry(0, embedding=(1, 0, 0)), _entry(1, embedding=(0, 2, 0))]
  )
  ids, scores = other.search(np.array([3, 4, 0]), 5)
  assert ids.tolist() == [1, 0]
  np.testing.assert_allclose(scores, [0.8, 0.6], rtol=1e-7)


def test_equal_scores_go_by_id_wherever_they_stand(bank):
  """A BLAS product rounds the same row differently at different places."""
  rng = np.random.default_rng(0)
  D = 384
  same = rng.standard_normal(D)
  entries = store_test.random_bank(1003, D, seed=2)
  places = sorted(rng.choice(1003, 40, replace=False).tolist())
  for place in places:
    entries[place] = dataclasses.replace(entries[place], embedding=same)
  _commit(bank, "one", entries)
  for query in (same, *(same + 0.5 * rng.standard_normal((20, D)))):
    ids, scores = bank.search(query, 25)
    assert ids.tolist() == [2 * place for place in places[:25]]
    assert len(set(scores.tolist())) == 1
    # nor do they depend on the batch
    batch, batch_scores = bank.search(np.stack([same, query, -same]), 25)
    assert np.array_equal(batch[1], ids)
    assert np.array_equal(batch_scores[1], scores)


@pytest.mark.parametrize(
  "where, holds",
  [
    (store.Where(source="s1"), lambda e: e.source == "s1"),
    (store.Where(created=(2, 4)), lambda e: 2 <= e.created <= 4),
    (store.Where(updated=(None, 0)), lambda e: e.updated <= 0),
    (
      store.Where("s2", (3, None), (1, 9)),
      lambda e: e.source == "s2" and e.created >= 3 and 1 <= e.updated <= 9,
    ),
    (store.Where(source="'; DROP"), lambda e: False),
  ],
)
def test_search_where(bank, where, holds):
  entries = store_test.random_bank(300, 8)
  _commit(bank, "one", entries)
  query = np.random.default_rng(3).standard_normal(8)
  ids, scores = bank.search(query, 50, where)
  want, _ = _brute_force([e for e in entries if holds(e)], query, 50)
  assert ids.tolist() == want
  assert scores.shape == ids.shape


def test_search_sees_the_last_commit(bank):
  query = np.array([1.0, 0.0])
  assert bank.search(query, 3)[0].tolist() == []
  _commit(bank, "one", [_entry(0), _entry(1, embedding=(0, 1))])
  assert bank.search(query, 1)[0].tolist() == [0]
  other = sqlite_store.SqliteStore(bank.path)
  changed = [_entry(0, embedding=(-1, 0)), _entry(1, embedding=(0, 1))]
  _commit(other, "two", changed)
  assert bank.search(query, 1)[0].tolist() == [1]


def test_search_refuses_an_entry_without_embedding(bank):
  entries = [_entry(0), _entry(1, embedding=None, source="lee")]
  _commit(bank, "one", entries)
  query = np.array([1.0, 0.0])
  with pytest.raises(ValueError, match="entry 1 of .* no embedding"):
    bank.search(query, 1)
  # It is not looked at here.
  assert bank.search(query, 5, store.Where("kim"))[0].tolist() == [0]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_search_refuses_a_bad_embedding_in_the_file(bank, value):
  """A commit refuses it too: the file was changed by someone else."""
  _commit(bank, "one", [_entry(0), _entry(1)])
  bad = np.float32([value, 0.0]).tobytes()
  bank._db.execute("UPDATE entry SET embedding = ? WHERE id = 1", (bad,))
  with pytest.raises(ValueError, match="entry 1 of .* without a direction"):
    bank.search(np.array([1.0, 0.0]), 1)


def test_search_refuses_bad_queries(bank):
  _commit(bank, "one", [_entry(0)])
  with pytest.raises(ValueError, match="with D = 2"):
    bank.search(np.ones(3), 1)
  with pytest.raises(ValueError, match="k is 0"):
    bank.search(np.ones(2), 0)


def test_log_rows_are_json(bank):
  _commit(bank, "one", [], [{"op": "add", "n": 1}])
  (row,) = bank._db.execute("SELECT row FROM log").fetchone()
  assert json.loads(row) == {"op": "add", "n": 1}
