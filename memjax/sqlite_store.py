"""A memory bank in one SQLite file, with exact search over its embeddings.

One object serves one thread; open it after a fork, not before. WAL and flock
need a local disk: a bank must not lie on a network file system.

Dimension keys: E entries, Q queries, D width of an embedding, K hits.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
import sqlite3
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import store

_APPLICATION = 0x4D4A5842  # "MJXB", in the header of the file
_SCHEMA = 1
_BUSY_S = 30.0  # SQLite's own lock is held for one commit, not for a session
_TABLES = (
  # The digest stands before the long columns: reading it reads no more.
  "CREATE TABLE entry (id INTEGER PRIMARY KEY, digest BLOB, created INTEGER,"
  " updated INTEGER, source TEXT, text TEXT, ids TEXT, embedding BLOB)",
  # last_id: the largest id that was ever given out, entries that are gone too.
  "CREATE TABLE session (number INTEGER PRIMARY KEY, key TEXT UNIQUE,"
  " last_id INTEGER)",
  "CREATE TABLE log (session INTEGER, position INTEGER, row TEXT,"
  " PRIMARY KEY (session, position))",
  "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)",
)


@dataclasses.dataclass(frozen=True)
class _Columns:
  """What a search needs of all entries, in the order of their ids."""

  id_E: np.ndarray
  created_E: np.ndarray
  updated_E: np.ndarray
  source_E: np.ndarray
  unit_ED: np.ndarray  # float32 rows of length 1
  bad_E: np.ndarray  # bool: there is no such row

  def mask(self, where: store.Where | None) -> np.ndarray:
    """bool [E]: the entries that `where` lets through."""
    mask_E = np.ones(len(self.id_E), bool)
    if where is not None and where.source is not None:
      mask_E &= self.source_E == where.source
    for column, sign, number in where.bounds() if where is not None else ():
      value_E = getattr(self, f"{column}_E")
      mask_E &= value_E >= number if sign == ">=" else value_E <= number
    return mask_E


class SqliteStore:
  """A bank in one SQLite file (with -wal, -shm and .lock files beside it)."""

  def __init__(self, path: str | os.PathLike):
    """Opens a bank, or makes an empty one.

    Raises:
      ValueError: the file is not a bank, or of a newer memjax, or its folder
        is missing or cannot be written to.
    """
    self.path = pathlib.Path(path)
    self._held = False
    self._cache: tuple[int, _Columns] | None = None
    folder = self.path.parent
    if not folder.is_dir():
      raise ValueError(f"there is no folder {folder} for a bank: make it first")
    for place in (folder, self.path):
      if place.exists() and not os.access(place, os.W_OK):
        raise ValueError(
          f"{place} is read-only: SQLite needs to write beside {self.path}, "
          "even to read it; copy the bank to a folder of yours"
        )
    with self._named():
      self._db = sqlite3.connect(
        self.path, timeout=_BUSY_S, isolation_level=None
      )
      try:
        self._open()
      except BaseException:
        self._db.close()
        raise

  def _open(self) -> None:
    deadline = time.monotonic() + _BUSY_S
    while not self._is_ready():
      try:
        mode = self._value("PRAGMA journal_mode = WAL")
      except sqlite3.OperationalError as error:
        # Another process makes the same bank: SQLite does not wait here.
        if "locked" not in str(error) or time.monotonic() > deadline:
          raise
        time.sleep(0.01)
        continue
      if mode != "wal":
        raise ValueError(f"{self.path}: no WAL on this disk: use a local one")
      with self._transaction() as db:
        if not self._is_ready():
          for table in _TABLES:
            db.execute(table)
          db.execute(f"PRAGMA application_id = {_APPLICATION}")
          db.execute(f"PRAGMA user_version = {_SCHEMA}")
    self._db.execute("PRAGMA synchronous = FULL")

  def _is_ready(self) -> bool:
    """True for a bank, False for an empty file; an error for anything else."""
    # One snapshot: another process may be making the same bank.
    within = self._db.in_transaction
    with contextlib.nullcontext() if within else self._transaction("DEFERRED"):
      tables = self._value("SELECT 1 FROM sqlite_master")
      application = self._value("PRAGMA application_id")
      version = self._value("PRAGMA user_version")
    if application == _APPLICATION and version == _SCHEMA:
      return True
    if application == _APPLICATION:
      raise ValueError(
        f"{self.path} has schema {version}, this memjax reads {_SCHEMA}: "
        "update memjax"
      )
    if application or version or tables:
      raise ValueError(
        f"{self.path} is a database of something else: name another file"
      )
    return False

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    """Turns SQLite's errors into one line that names the file."""
    try:
      yield
    except sqlite3.Error as error:
      raise ValueError(f"{self.path}: {error}") from error

  @contextlib.contextmanager
  def _transaction(self, begin: str = "IMMEDIATE") -> Iterator[Any]:
    """All statements or none; one snapshot of the bank."""
    with self._named():
      self._db.execute(f"BEGIN {begin}")
      try:
        yield self._db
        self._db.execute("COMMIT")
      except BaseException:
        if self._db.in_transaction:
          self._db.execute("ROLLBACK")
        raise

  def _value(self, query: str) -> Any:
    row = self._db.execute(query).fetchone()
    return None if row is None else row[0]

  def _rows(self, query: str) -> list[tuple]:
    with self._named():
      return self._db.execute(query).fetchall()

  def close(self) -> None:
    """Closes the file; what was committed is on the disk already."""
    self._db.close()

  def entries(self) -> list[store.Entry]:
    """All entries by ascending id: those of the last commit, whole."""
    rows = self._rows(
      "SELECT id, text, ids, created, updated, source, embedding FROM entry"
      " ORDER BY id"
    )
    return [
      store.Entry(
        *(number, text, json.loads(ids), created, updated, source),
        None if data is None else np.frombuffer(data, "<f4"),
      )
      for number, text, ids, created, updated, source, data in rows
    ]

  def sessions(self) -> list[str]:
    """Keys of the sessions that were ingested, in their order."""
    return [
      key for (key,) in self._rows("SELECT key FROM session ORDER BY number")
    ]

  def log(self) -> list[tuple[str, dict[str, Any]]]:
    """(session key, row) of everything that was logged, in order."""
    rows = self._rows(
      "SELECT key, row FROM log JOIN session ON session = number"
      " ORDER BY session, position"
    )
    return [(key, json.loads(row)) for key, row in rows]

  def next_id(self) -> int:
    """The smallest id that a new entry may have."""
    with self._named():
      return self._value("SELECT coalesce(max(last_id), -1) FROM session") + 1

  @contextlib.contextmanager
  def writer(self, timeout_s: float = 60.0) -> Iterator["SqliteStore"]:
    """Keeps other writers out from reading to committing; readers go on.

    Raises:
      ValueError: another process, which is named, writes for longer than
        timeout_s seconds.
    """
    with store.exclusive(pathlib.Path(f"{self.path}.lock"), timeout_s):
      self._held = True
      try:
        yield self
      finally:
        self._held = False

  def commit(
    self,
    session_key: str,
    entries: Sequence[store.Entry],
    log: Sequence[Mapping[str, Any]],
    next_id: int = 0,
  ) -> None:
    """Replaces the bank by `entries` and records the session: all or nothing.

    Args:
      session_key: names the session; each is ingested once.
      entries: the whole bank after the session; only what differs is written.
      log: what the session did, rows that JSON can hold.
      next_id: ids below it count as used, for entries that came and went inside
        the session.

    Raises:
      ValueError: `writer` is not held, the session is there already, or
        `store.difference` refuses an entry. The bank is as it was before.
    """
    store.check_held(self._held)
    log_rows = [json.dumps(dict(row)) for row in log]
    with self._transaction() as db:
      if session_key in self.sessions():
        raise ValueError(f"session {session_key!r} is in {self.path} already")
      changed, gone, last_id = store.difference(
        entries,
        dict(db.execute("SELECT id, digest FROM entry")),
        self.next_id() - 1,
      )
      db.executemany("DELETE FROM entry WHERE id = ?", ((i,) for i in gone))
      db.executemany(
        "INSERT OR REPLACE INTO entry (id, digest, created, updated, source,"
        " text, ids, embedding) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
          (
            *(e.id, e.digest, e.created, e.updated, e.source, e.text),
            json.dumps(e.ids),
            None
            if e.embedding is None
            else e.embedding.astype("<f4").tobytes(),
          )
          for e in changed
        ),
      )
      number = db.execute(
        "INSERT INTO session (key, last_id) VALUES (?, ?)",
        (session_key, max(last_id, next_id - 1)),
      ).lastrowid
      db.executemany(
        "INSERT INTO log VALUES (?, ?, ?)",
        ((number, position, row) for position, row in enumerate(log_rows)),
      )

  def describe(self) -> dict[str, Any]:
    """The settings that the first writer claimed the bank with, or {}."""
    rows = self._rows("SELECT key, value FROM meta")
    return {key: json.loads(value) for key, value in rows}

  def claim(self, meta: Mapping[str, Any]) -> None:
    """Stores the settings of the bank, or compares them with the stored ones.

    Args:
      meta: what must not change between writers (policy, hash of the
        tokenizer, capacity), as JSON can hold it.

    Raises:
      ValueError: the bank was made with another value.
    """
    with self._transaction() as db:
      found = dict(db.execute("SELECT key, value FROM meta"))
      wanted = store.check_meta(found, meta, self.path)
      if not found:
        db.executemany("INSERT INTO meta VALUES (?, ?)", wanted.items())

  def integrity(self) -> None:
    """Reads the whole file.

    Raises:
      ValueError: SQLite found damage.
    """
    try:
      found = self._value("PRAGMA integrity_check")
    except sqlite3.DatabaseError as error:  # too much of it to go on
      found = str(error)
    if found != "ok":
      found = found.strip().partition("\n")[0]
      raise ValueError(f"{self.path} is damaged: {found}; use a backup")

  def _columns(self) -> _Columns:
    """All entries as arrays, read again only after a commit."""
    with self._transaction("DEFERRED") as db:
      commits = self._value("SELECT max(number) FROM session")
      if self._cache is not None and self._cache[0] == commits:
        return self._cache[1]
      count = self._value("SELECT count(*) FROM entry")
      width = self._value("SELECT max(length(embedding)) FROM entry") or 0
      unit_ED = np.full((count, width // 4), np.nan, np.float32)
      keys = []
      for row, (*key, data) in enumerate(
        db.execute(
          "SELECT id, created, updated, source, embedding FROM entry"
          " ORDER BY id"
        )
      ):
        keys.append(key)
        if data is not None:
          unit_ED[row] = np.frombuffer(data, "<f4")
    bad_E = np.zeros(count, bool)
    for start in range(0, count, 4096):
      rows = unit_ED[start : start + 4096].astype(np.float64)
      norm = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
      bad = ~((norm > store.SHORTEST) & (norm < store.LONGEST))
      bad_E[start : start + 4096] = bad[:, 0]
      unit = rows / np.where(bad, 1.0, norm)
      unit_ED[start : start + 4096] = np.where(bad, 0.0, unit)
    numbers = np.array([k[:3] for k in keys], np.int64).reshape(-1, 3).T
    source_E = np.array([k[3] for k in keys], object)
    columns = _Columns(*numbers, source_E, unit_ED, bad_E)
    self._cache = (commits, columns)
    return columns

  def search(
    self, query: np.ndarray, k: int, where: store.Where | None = None
  ) -> tuple[np.ndarray, np.ndarray]:
    """The k entries that are most similar to each query, by cosine; exact.

    The first search after a commit reads the whole matrix, E x D x 4 bytes,
    and keeps it.

    Args:
      query: float [D] or [Q, D].
      k: how many; fewer if fewer entries fit `where`.
      where: which entries to look at; None is all.

    Returns:
      (ids int64, cosines float32), [K] or [Q, K], best first; of equal cosines
      the lower id first.

    Raises:
      ValueError: an entry that fits `where` has no embedding, or one that is
        not finite or all zeros; or the query or k is not valid.
    """
    columns = self._columns()
    query_QD = store.check_query(query, k, columns.unit_ED.shape[1] or None)
    mask_E = columns.mask(where)
    bad_E = mask_E & columns.bad_E
    if bad_E.any():
      raise ValueError(
        f"entry {columns.id_E[bad_E][0]} of {self.path} and "
        f"{bad_E.sum() - 1} more have no embedding, or one without a "
        "direction: embed them before a search"
      )
    rows_QK, score_QK = store.nearest(columns.unit_ED, query_QD, k, mask_E)
    id_QK = columns.id_E[rows_QK]
    return (id_QK[0], score_QK[0]) if np.ndim(query) == 1 else (id_QK, score_QK)
