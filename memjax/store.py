"""A memory bank on disk, in SQLite, with exact search over its embeddings.

The bank is what a policy left behind: entries, the keys of the sessions that
were ingested, and the log of what each session did. A session appears whole or
not at all, whenever the process or the machine stops:

  with store.writer(timeout_s=60.0):    # read, compute and write under a lock
    entries = store.entries()
    if key not in store.sessions():
      store.commit(key, *ingest(entries, session))

One object serves one thread; open it after a fork, not before. WAL and flock
need a local disk: a bank must not lie on a network file system.

Dimension keys: E entries, Q queries, D width of an embedding, K hits.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
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

_APPLICATION = 0x4D4A5842  # "MJXB", in the header of the file
_SCHEMA = 1
_BUSY_S = 30.0  # SQLite's own lock is held for one commit, not for a session
# Beyond these a float32 sum of squares has no direction left.
_SHORTEST, _LONGEST = 1e-15, 1e15
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


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
  """One entry of a bank; two are equal if every bit of them is.

  Attributes:
    id: unique in the bank, larger than all before it, never used again.
    text: what it says.
    ids: its tokens as they were sampled.
    created: number of the session that added it.
    updated: number of the session that changed it last.
    source: whom or what it is from.
    embedding: float32 [D], or None. Not copied: do not write into it.
  """

  id: int
  text: str
  ids: tuple[int, ...]
  created: int
  updated: int
  source: str
  embedding: np.ndarray | None = None

  def __post_init__(self):
    """Brings numbers and arrays into the types above."""
    for name in ("id", "created", "updated"):
      object.__setattr__(self, name, int(getattr(self, name)))
    object.__setattr__(self, "ids", tuple(int(i) for i in self.ids))
    if self.embedding is not None:
      array = np.ascontiguousarray(self.embedding, np.float32).view()
      array.setflags(write=False)
      object.__setattr__(self, "embedding", array)

  @functools.cached_property
  def digest(self) -> bytes:
    """16 bytes that differ when anything in the entry differs."""
    head = [self.id, self.created, self.updated, self.source, self.text]
    data = json.dumps([*head, self.ids, self.embedding is None]).encode()
    if self.embedding is not None:
      data += self.embedding.tobytes()
    return hashlib.blake2b(data, digest_size=16).digest()

  def __eq__(self, other: object) -> bool:
    """True if all fields are the same."""
    return isinstance(other, Entry) and self.digest == other.digest

  def __hash__(self) -> int:
    """Of the digest."""
    return hash(self.digest)


@dataclasses.dataclass(frozen=True)
class Where:
  """Which entries a search looks at: all conditions that are given hold.

  Attributes:
    source: the entry's source is this one.
    created: (first, last) session of its creation, both included; None is open.
    updated: (first, last) session of its last change, likewise.
  """

  source: str | None = None
  created: tuple[int | None, int | None] | None = None
  updated: tuple[int | None, int | None] | None = None

  def bounds(self) -> list[tuple[str, str, int]]:
    """The ranges as (column, ">=" or "<=", number)."""
    return [
      (column, sign, int(number))
      for column in ("created", "updated")
      for sign, number in zip((">=", "<="), getattr(self, column) or ())
      if number is not None
    ]


@dataclasses.dataclass(frozen=True)
class _Columns:
  """What a search needs of all entries, in the order of their ids."""

  id_E: np.ndarray
  created_E: np.ndarray
  updated_E: np.ndarray
  source_E: np.ndarray
  unit_ED: np.ndarray  # float32 rows of length 1
  bad_E: np.ndarray  # bool: there is no such row

  def mask(self, where: Where | None) -> np.ndarray:
    """bool [E]: the entries that `where` lets through."""
    mask_E = np.ones(len(self.id_E), bool)
    if where is not None and where.source is not None:
      mask_E &= self.source_E == where.source
    for column, sign, number in where.bounds() if where is not None else ():
      value_E = getattr(self, f"{column}_E")
      mask_E &= value_E >= number if sign == ">=" else value_E <= number
    return mask_E


@contextlib.contextmanager
def exclusive(path: pathlib.Path, timeout_s: float) -> Iterator[None]:
  """Holds the lock file of a bank; the kernel frees it when the process dies.

  The file stays: removing it would let two processes hold two files of one
  name. A child made by os.fork shares the lock, one made by exec does not.

  Raises:
    ValueError: another process holds it after timeout_s seconds, or the file
      cannot be made.
  """
  try:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
  except OSError as error:
    raise ValueError(f"cannot lock {path}: {error.strerror}") from error
  try:
    deadline = time.monotonic() + timeout_s
    while True:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if time.monotonic() >= deadline:
          pid = os.pread(file, 20, 0).decode().strip() or "unknown"
          raise ValueError(
            f"{path} is held by process {pid}, after {timeout_s:g} s of "
            "waiting: let it finish its session, or wait longer"
          ) from None
        time.sleep(0.01)
    os.pwrite(file, f"{os.getpid():<20}".encode(), 0)
    yield
  finally:
    os.close(file)


def difference(
  entries: Sequence[Entry], known: Mapping[int, bytes], last_id: int
) -> tuple[list[Entry], list[int], int]:
  """What turns the known entries into the given ones.

  Args:
    entries: the whole bank as it should be.
    known: id -> digest of the entries that are there.
    last_id: the largest id that was ever used, -1 if there was none.

  Returns:
    (entries to insert or replace, ids to delete, largest id ever used).

  Raises:
    ValueError: an id stands twice, was used before, or is negative; or an
      embedding is not finite, is all zeros, or is of another width.
  """
  seen, width = set(), None
  for entry in entries:
    if entry.id in seen:
      raise ValueError(f"entry {entry.id} stands twice: ids are unique")
    seen.add(entry.id)
    if entry.id not in known and entry.id <= last_id:
      raise ValueError(
        f"entry {entry.id} is new, but ids up to {last_id} were used before: "
        f"take {last_id + 1} or more"
      )
    if entry.id < 0:
      raise ValueError(f"entry {entry.id}: an id is 0 or more")
    if entry.embedding is None:
      continue
    if entry.embedding.ndim != 1 or len(entry.embedding) != (
      width or len(entry.embedding)
    ):
      raise ValueError(
        f"entry {entry.id} has an embedding of shape {entry.embedding.shape}, "
        f"expected {f'({width},)' if width else 'one dimension'}: use one "
        "encoder for the whole bank"
      )
    width = len(entry.embedding)
    if known.get(entry.id) != entry.digest:
      normalise([entry.embedding], [f"entry {entry.id}"])
  changed = [e for e in entries if known.get(e.id) != e.digest]
  gone = [i for i in known if i not in seen]
  return changed, gone, max(seen | {last_id})


def normalise(vectors: Any, names: Sequence[Any]) -> np.ndarray:
  """Vectors scaled to length 1: float32 [N, D].

  Raises:
    ValueError: one is not finite or has no direction; `names` says which.
  """
  vector_ND = np.asarray(vectors, np.float64)
  norm_N = np.sqrt((vector_ND * vector_ND).sum(axis=1))
  for name, norm in zip(names, norm_N):
    if not _SHORTEST < norm < _LONGEST:  # so also if it is NaN
      raise ValueError(
        f"{name} has an embedding of length {norm:g}, expected one between "
        f"{_SHORTEST} and {_LONGEST}: embed it again"
      )
  return (vector_ND / norm_N[:, None]).astype(np.float32)


def check_query(query: Any, k: int, width: int | None) -> np.ndarray:
  """Queries as float32 [Q, D] of length 1; a [D] becomes [1, D].

  Raises:
    ValueError: k is below 1, or a query has another width, is not finite or is
      all zeros.
  """
  query_QD = np.atleast_2d(np.asarray(query, np.float32))
  if k < 1:
    raise ValueError(f"k is {k}, expected 1 or more")
  if query_QD.ndim != 2 or (width and query_QD.shape[1] != width):
    raise ValueError(
      f"the query has shape {np.shape(query)}, expected [D] or [Q, D] with D = "
      f"{width or 'the width of the embeddings'}: is it from another encoder?"
    )
  return normalise(query_QD, [f"query {q}" for q in range(len(query_QD))])


def nearest(
  unit_ED: np.ndarray, query_QD: np.ndarray, k: int, mask_E: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The k rows with the largest cosine, for each query; exact.

  A matrix product rounds the same row differently in different places, which
  would order equal entries by chance. It only finds the candidates here: all
  rows within its rounding error of the k-th. Their scores are then summed in
  float64, row by row, and rounded to float32; equal scores go in row order.

  Args:
    unit_ED: float32 rows of length 1.
    query_QD: float32 rows of length 1.
    k: how many; fewer if the mask leaves fewer.
    mask_E: bool, the rows to look at.

  Returns:
    (rows [Q, K], float32 cosines [Q, K]), best first.
  """
  Q, (E, D) = len(query_QD), unit_ED.shape
  k = min(k, int(mask_E.sum()))
  rows_QK, score_QK = np.zeros((Q, k), np.int64), np.zeros((Q, k), np.float32)
  if k == 0:
    return rows_QK, score_QK
  slack = 2 * (D + 2) * np.finfo(np.float32).eps
  block = max(1, 2**24 // E)  # 64 MiB of scores at a time
  for start in range(0, Q, block):
    rough_qE = query_QD[start : start + block] @ unit_ED.T
    rough_qE[:, ~mask_E] = -np.inf
    for q, rough_E in enumerate(rough_qE, start):
      threshold = np.partition(rough_E, E - k)[E - k] - slack
      row_C = np.flatnonzero(rough_E >= threshold)
      exact_C = np.concatenate(
        [
          (unit_ED[rows].astype(np.float64) * query_QD[q]).sum(axis=1)
          for rows in np.array_split(row_C, len(row_C) // 4096 + 1)
        ]
      ).astype(np.float32)
      best_K = np.lexsort((row_C, -exact_C))[:k]
      rows_QK[q], score_QK[q] = row_C[best_K], exact_C[best_K]
  return rows_QK, score_QK


def check_meta(
  found: Mapping[str, str], meta: Mapping[str, Any], name: Any
) -> dict[str, str]:
  """The meta as JSON texts, compared with what the first writer stored.

  Raises:
    ValueError: `found` is not empty and differs; it names key and values.
  """
  wanted = {k: json.dumps(v, sort_keys=True) for k, v in meta.items()}
  if found:
    for key in sorted(found.keys() | wanted.keys()):
      if found.get(key) != wanted.get(key):
        raise ValueError(
          f"{name} was made with {key} = {found.get(key, 'nothing')}, this run "
          f"has {wanted.get(key, 'nothing')}: use the same setting, or another "
          "bank"
        )
  return wanted


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
    application = self._value("PRAGMA application_id")
    version = self._value("PRAGMA user_version")
    if application == _APPLICATION and version == _SCHEMA:
      return True
    if application == _APPLICATION:
      raise ValueError(
        f"{self.path} has schema {version}, this memjax reads {_SCHEMA}: "
        "update memjax"
      )
    if application or version or self._value("SELECT 1 FROM sqlite_master"):
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

  def entries(self) -> list[Entry]:
    """All entries by ascending id: those of the last commit, whole."""
    rows = self._rows(
      "SELECT id, text, ids, created, updated, source, embedding FROM entry"
      " ORDER BY id"
    )
    return [
      Entry(
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
    with exclusive(pathlib.Path(f"{self.path}.lock"), timeout_s):
      self._held = True
      try:
        yield self
      finally:
        self._held = False

  def commit(
    self,
    session_key: str,
    entries: Sequence[Entry],
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
      ValueError: `writer` is not held, the session is there already, or an
        entry is not valid (see `difference`). The bank is as it was before.
    """
    if not self._held:
      raise ValueError(
        "commit outside of writer(): what was read may have changed since; "
        "read and commit inside `with store.writer():`"
      )
    log_rows = [json.dumps(dict(row)) for row in log]
    with self._transaction() as db:
      if session_key in self.sessions():
        raise ValueError(f"session {session_key!r} is in {self.path} already")
      changed, gone, last_id = difference(
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
      wanted = check_meta(found, meta, self.path)
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
      bad = ~((norm > _SHORTEST) & (norm < _LONGEST))
      bad_E[start : start + 4096] = bad[:, 0]
      unit = rows / np.where(bad, 1.0, norm)
      unit_ED[start : start + 4096] = np.where(bad, 0.0, unit)
    numbers = np.array([k[:3] for k in keys], np.int64).reshape(-1, 3).T
    source_E = np.array([k[3] for k in keys], object)
    columns = _Columns(*numbers, source_E, unit_ED, bad_E)
    self._cache = (commits, columns)
    return columns

  def search(
    self, query: np.ndarray, k: int, where: Where | None = None
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
    query_QD = check_query(query, k, columns.unit_ED.shape[1] or None)
    mask_E = columns.mask(where)
    bad_E = mask_E & columns.bad_E
    if bad_E.any():
      raise ValueError(
        f"entry {columns.id_E[bad_E][0]} of {self.path} and "
        f"{bad_E.sum() - 1} more have no embedding, or one without a "
        "direction: embed them before a search"
      )
    rows_QK, score_QK = nearest(columns.unit_ED, query_QD, k, mask_E)
    id_QK = columns.id_E[rows_QK]
    return (id_QK[0], score_QK[0]) if np.ndim(query) == 1 else (id_QK, score_QK)
