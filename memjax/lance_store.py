"""A memory bank in LanceDB: a local folder, or a URI of an object store.

For banks that outgrow one file, that need an approximate index, or that many
machines read. LanceDB is an extra: pip install 'memjax[lancedb]'.

LanceDB has no transaction over several tables or calls, but each call that
writes makes one new version of one table, whole or not at all: data files come
first, and the manifest that makes them visible is put in place by one atomic
operation of the file system or the object store. So everything lies in one
table (see `lance_rows`), and a commit is one call: it merges the entries that
differ, the deletions and the row of the session in a single merge_insert, or a
single add, if nothing is replaced or deleted. A process that is killed before
the manifest stands leaves files that no reader looks at; `compact` removes them
later. Each read sees one version. Adding the empty embedding column, once,
compacting and building an index make versions of their own; none changes what a
reader sees.
"""

import contextlib
import datetime
import json
import os
import pathlib
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import lance_search
from memjax import store

_TABLE = "bank"


def _import(uri: Any) -> tuple[Any, Any]:
  """LanceDB and `lance_rows`, which imports pyarrow: both are in the extra."""
  try:
    import lancedb

    from memjax import lance_rows
  except ImportError as error:
    raise ValueError(
      f"the bank {uri} needs LanceDB ({error}): pip install 'memjax[lancedb]'"
    ) from error
  return lancedb, lance_rows


class LanceStore:
  """A bank in one LanceDB table, used like `sqlite_store.SqliteStore`."""

  def __init__(
    self,
    uri: str | os.PathLike,
    lock: str | os.PathLike | None = None,
    storage_options: Mapping[str, str] | None = None,
  ):
    """Opens a bank, or makes an empty one.

    Args:
      uri: a local folder, or what LanceDB takes (s3://, gs://, az://).
      lock: the lock file of the writers. Beside a local folder it is made by
        itself; for an object store name a local file that all writers share,
        which means that they run on one machine.
      storage_options: credentials and settings of the object store.

    Raises:
      ValueError: LanceDB is not installed, the place cannot be written to or
        holds another table, or the bank is of a newer memjax.
    """
    self.uri, local = str(uri), "://" not in str(uri)
    lancedb, self._rows = _import(uri)
    self._index_kinds = lancedb.index
    default = pathlib.Path(f"{os.path.normpath(self.uri)}.lock")
    self._lock = pathlib.Path(lock) if lock else default if local else None
    self._held = False
    self._checked: int | None = None  # version without a missing embedding
    with self._named():
      db = lancedb.connect(
        self.uri,
        read_consistency_interval=datetime.timedelta(0),
        storage_options=dict(storage_options or {}),
      )
      self._table = self._open(db)
      version = (self._table.schema.metadata or {}).get(b"memjax")
    if version != self._rows.VERSION:
      raise ValueError(
        f"{uri} has "
        + (f"schema {version.decode()}" if version else "a table of no bank")
        + f", this memjax reads {self._rows.VERSION.decode()}: update memjax, "
        "or name another folder"
      )

  def _open(self, db: Any) -> Any:
    try:
      return db.open_table(_TABLE)
    except ValueError:  # there is none yet
      try:
        return db.create_table(_TABLE, schema=self._rows.schema())
      except (ValueError, OSError, RuntimeError) as error:
        try:
          return db.open_table(_TABLE)  # another process was faster
        except ValueError:
          raise error from None

  @contextlib.contextmanager
  def _named(self) -> Iterator[None]:
    """Turns LanceDB's errors into one line that names the bank."""
    try:
      yield
    except (OSError, RuntimeError) as error:
      line = str(error).strip().partition("\n")[0]
      raise ValueError(f"{self.uri}: {line}") from error

  def _width(self) -> int | None:
    """Width of the embeddings; None before the first one."""
    schema = self._table.schema
    index = schema.get_field_index("embedding")
    return None if index < 0 else schema.field(index).type.list_size

  def _read(self, where: str, columns: Sequence[str]) -> list[tuple]:
    """Rows of one version, by number."""
    with self._named():
      found = self._table.search().where(where).select(list(columns))
      lists = [found_column.to_pylist() for found_column in found.to_arrow()]
    return sorted(zip(*lists), key=lambda row: row[0])

  def _sessions(self, *columns: str) -> list[tuple]:
    return self._read("kind = 'session'", ("number", *columns))

  def close(self) -> None:
    """Does nothing: what was committed is stored already."""

  def entries(self) -> list[store.Entry]:
    """All entries by ascending id: those of one version, whole."""
    columns = list(self._rows.ENTRY)
    with self._named():
      columns += ["embedding"] if self._width() else []
      found = self._table.search().where("kind = 'entry'").select(columns)
      found = found.to_arrow()
    return self._rows.to_entries(found)

  def sessions(self) -> list[str]:
    """Keys of the sessions that were ingested, in their order."""
    return [key for _, key in self._sessions("text")]

  def log(self) -> list[tuple[str, dict[str, Any]]]:
    """(session key, row) of everything that was logged, in order."""
    return [
      (key, row)
      for _, key, payload in self._sessions("text", "payload")
      for row in json.loads(payload)
    ]

  def next_id(self) -> int:
    """The smallest id that a new entry may have."""
    return max((last for _, last in self._sessions("last_id")), default=-1) + 1

  @contextlib.contextmanager
  def writer(self, timeout_s: float = 60.0) -> Iterator["LanceStore"]:
    """Keeps other writers out from reading to committing; readers go on.

    Raises:
      ValueError: another process, which is named, writes for longer than
        timeout_s seconds; or an object store was opened without `lock`.
    """
    if self._lock is None:
      raise ValueError(
        f"{self.uri} has no lock file: an object store cannot keep two writers "
        "apart; open it with lock=, a local file that all writers share"
      )
    with store.exclusive(self._lock, timeout_s):
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
    """Replaces the bank by `entries` and records the session: one version.

    Arguments and errors are those of `SqliteStore.commit`.
    """
    store.check_held(self._held)
    payload = json.dumps([dict(row) for row in log])
    sessions = self._sessions("text", "last_id")
    if any(key == session_key for _, key, _ in sessions):
      raise ValueError(f"session {session_key!r} is in {self.uri} already")
    known = dict(self._read("kind = 'entry'", ("number", "digest")))
    last_id = max((last for *_, last in sessions), default=-1)
    changed, gone, last_id = store.difference(entries, known, last_id)
    session = {
      "key": f"session/{session_key}",
      "kind": "session",
      "number": len(sessions),
      "last_id": max(last_id, next_id - 1),
      "text": session_key,
      "payload": payload,
    }
    replaces = bool(gone) or any(e.id in known for e in changed)
    with self._named():
      width = self._widen(changed)
      rows = self._rows.from_entries(changed, width, session)
      self._write(rows, gone, replaces)

  def _write(self, rows: Any, gone: Sequence[int], replaces: bool) -> None:
    """Makes one version of the table; the only place that does."""
    # "null" keeps the rows without an embedding; the others were checked.
    if not replaces:
      self._table.add(rows, on_bad_vectors="null")
      return
    merge = (
      self._table.merge_insert("key")
      .when_matched_update_all()
      .when_not_matched_insert_all()
    )
    if gone:
      merge = merge.when_not_matched_by_source_delete(
        f"kind = 'entry' AND number IN ({', '.join(map(str, gone))})"
      )
    merge.execute(rows, on_bad_vectors="null")

  def _widen(self, entries: Sequence[store.Entry]) -> int | None:
    """Width of the embeddings; adds their column with the first of them."""
    found = next(
      (e.embedding for e in entries if e.embedding is not None), None
    )
    if found is not None and self._width() is None:
      self._table.add_columns([self._rows.embedding_field(len(found))])
    width = self._width()
    if found is not None and len(found) != width:
      raise ValueError(
        f"the embeddings have width {len(found)}, those of {self.uri} {width}: "
        "use one encoder for the whole bank"
      )
    return width

  def describe(self) -> dict[str, Any]:
    """The settings that the first writer claimed the bank with, or {}."""
    return {key: json.loads(value) for key, value in self._meta().items()}

  def _meta(self) -> dict[str, str]:
    rows = self._read("kind = 'meta'", ("number", "payload"))
    return json.loads(rows[0][1]) if rows else {}

  def claim(self, meta: Mapping[str, Any]) -> None:
    """Stores the settings of the bank, or compares them with the stored ones.

    Arguments and errors are those of `SqliteStore.claim`; the first claim takes
    the writers' lock, unless this object holds it.
    """
    if not self._meta():
      with contextlib.nullcontext() if self._held else self.writer():
        if not self._meta():
          payload = json.dumps(store.check_meta({}, meta, self.uri))
          row = {"key": "meta", "kind": "meta", "number": 0, "payload": payload}
          with self._named():
            rows = self._rows.from_entries((), self._width(), row)
            self._write(rows, (), False)
    store.check_meta(self._meta(), meta, self.uri)

  def build_index(self, kind: str = "IvfPq", **settings: Any) -> None:
    """Builds an approximate index over the embeddings, for `exact=False`.

    Entries that are committed later are searched one by one until it is built
    again. Inside `writer` only.

    Args:
      kind: a vector index of lancedb.index: IvfFlat, IvfSq, IvfPq, IvfRq,
        HnswSq, HnswPq.
      **settings: of that index, such as num_partitions, num_sub_vectors.

    Raises:
      ValueError: there is no embedding, or LanceDB refuses the settings.
    """
    if not self._held:
      raise ValueError("build_index outside of writer(): hold the lock for it")
    if self._width() is None:
      raise ValueError(f"{self.uri} has no embedding to build an index over")
    config = getattr(self._index_kinds, kind)
    with self._named():
      self._table.create_index(
        "embedding", config=config(distance_type="cosine", **settings)
      )

  def compact(self, keep_s: float = 3600.0) -> None:
    """Joins small files, and drops versions that are older than keep_s.

    Readers that are still at such a version fail; inside `writer` only.
    """
    if not self._held:
      raise ValueError("compact outside of writer(): hold the lock for it")
    with self._named():
      self._table.optimize(
        cleanup_older_than=datetime.timedelta(seconds=keep_s)
      )

  def search(
    self,
    query: np.ndarray,
    k: int,
    where: store.Where | None = None,
    exact: bool = True,
    nprobes: int = 20,
    refine_factor: int | None = None,
  ) -> tuple[np.ndarray, np.ndarray]:
    """The k entries that are most similar to each query, by cosine.

    An exact search gives the same bits as `SqliteStore.search`.

    Args:
      query: float [D] or [Q, D].
      k: how many; fewer if fewer entries fit `where`.
      where: which entries to look at, applied before the search.
      exact: False uses the index, if there is one: hits may be missed.
      nprobes: partitions of the index to read; more miss fewer hits.
      refine_factor: times k candidates are compared by their full embeddings.

    Returns:
      (ids int64, cosines float32), [K] or [Q, K], best first; of equal cosines
      the lower id first. Where an index finds fewer than K, ids end in -1 and
      cosines in -inf.

    Raises:
      ValueError: an entry that fits `where` has no embedding; or the query or k
        is not valid.
    """
    query_QD = store.check_query(query, k, self._width())
    condition = lance_search.condition(where)
    with self._named():
      self._check_embedded(condition)
      count = 0
      if self._width():
        count = self._table.count_rows(condition)
      k = min(k, count)
      shape = (len(query_QD), k)
      id_QK, score_QK = np.full(shape, -1), np.full(shape, -np.inf, np.float32)
      for q, query_D in enumerate(query_QD if k else ()):
        ids, score = lance_search.nearest(
          self._table,
          query_D,
          k,
          # Only entries have an embedding: without `where` no filter is needed,
          # and a search without one is faster.
          where and condition,
          exact,
          nprobes,
          refine_factor,
        )
        id_QK[q, : len(ids)], score_QK[q, : len(ids)] = ids, score
    return (id_QK[0], score_QK[0]) if np.ndim(query) == 1 else (id_QK, score_QK)

  def _check_embedded(self, condition: str) -> None:
    version = self._table.version
    if version == self._checked:
      return
    lacks = "embedding IS NULL AND " if self._width() else ""
    if self._table.count_rows(f"{lacks}kind = 'entry'") == 0:
      self._checked = version
      return
    count = self._table.count_rows(lacks + condition)
    if count:
      found = self._read(lacks + condition, ("number",))
      raise ValueError(
        f"entry {found[0][0]} of {self.uri} and {count - 1} more have no "
        "embedding: embed them before a search"
      )
