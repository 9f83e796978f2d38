"""Verdicts of a judge in an SQLite file that runs and processes share.

Each verdict is a transaction of its own: a process that is killed loses none
that it has put; a machine that loses its power may lose the last ones. Of two
processes that judge the same, the first one's verdict stands for both.
"""

import contextlib
import dataclasses
import os
import pathlib
import sqlite3
from collections.abc import Iterator
from collections.abc import Sequence

# How long one process waits for another one's transaction.
_BUSY_S = 60.0
_TABLE = """CREATE TABLE IF NOT EXISTS verdicts (
  key TEXT PRIMARY KEY, correct INTEGER NOT NULL, reply TEXT NOT NULL,
  served TEXT NOT NULL, tokens_in INTEGER, tokens_out INTEGER
) WITHOUT ROWID"""
_FIELDS = "correct, reply, served, tokens_in, tokens_out"


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a judge said of one answer.

  Attributes:
    correct: whether it is right.
    reply: in the judge's own words.
    served: the model that the endpoint says has replied.
    tokens_in: of all prompts that the verdict took.
    tokens_out: of all replies.
  """

  correct: bool
  reply: str
  served: str
  tokens_in: int = 0
  tokens_out: int = 0


class Cache:
  """Verdicts by key; of one thread."""

  def __init__(self, path: str | os.PathLike):
    """Opens a cache, or makes an empty one, folders included.

    Raises:
      ValueError: the file is something else, or cannot be written to.
    """
    self.path = pathlib.Path(path)
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
      raise ValueError(f"config.judge.cache={path}: {error}") from error
    with self._named():
      self._db = sqlite3.connect(
        self.path, timeout=_BUSY_S, isolation_level=None
      )
      tables = self._db.execute("SELECT name FROM sqlite_master").fetchall()
      if tables and ("verdicts",) not in tables:
        raise ValueError(
          f"config.judge.cache={path} is a database of something else: name "
          "another file"
        )
      # A commit then takes 0.1 ms and not 20. Refused while another process
      # makes the file, and by disks of a network: slower there, and as safe.
      with contextlib.suppress(sqlite3.OperationalError):
        self._db.execute("PRAGMA journal_mode = WAL")
      self._db.execute("PRAGMA synchronous = NORMAL")
      self._db.execute(_TABLE)

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    """Turns SQLite's errors into one line that names the file."""
    try:
      yield
    except sqlite3.Error as error:
      raise ValueError(f"config.judge.cache={self.path}: {error}") from error

  def __len__(self) -> int:
    """How many verdicts there are."""
    with self._named():
      return self._db.execute("SELECT count(*) FROM verdicts").fetchone()[0]

  def get(self, keys: Sequence[str]) -> dict[str, Verdict]:
    """The verdicts of those keys that have one."""
    found = {}
    with self._named():
      for key in keys:
        row = self._db.execute(
          f"SELECT {_FIELDS} FROM verdicts WHERE key = ?", (key,)
        ).fetchone()
        if row:
          found[key] = Verdict(bool(row[0]), *row[1:])
    return found

  def put(self, key: str, verdict: Verdict) -> Verdict:
    """Keeps a verdict, unless there is one; returns the one that stands."""
    with self._named():
      self._db.execute(
        f"INSERT OR IGNORE INTO verdicts (key, {_FIELDS}) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (key, *dataclasses.astuple(verdict)),
      )
    return self.get([key])[key]

  def close(self) -> None:
    """Closes the file."""
    self._db.close()
