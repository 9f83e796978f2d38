"""What the stores of a memory bank share; `sqlite_store` is the usual one.

The bank is what a policy left behind: entries, the keys of the sessions that
were ingested, and the log of what each session did. A session appears whole or
not at all, whenever the process or the machine stops:

  with store.writer(timeout_s=60.0):    # read, compute and write under a lock
    entries = store.entries()
    if key not in store.sessions():
      store.commit(key, *ingest(entries, session))

Here are the entries, the lock, what a commit changes and refuses, and the exact
search, so that no two stores can differ in them.

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
import time
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

# Beyond these a float32 sum of squares has no direction left.
SHORTEST, LONGEST = 1e-15, 1e15


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


def check_held(held: bool) -> None:
  """Refuses to commit what was not read under the lock.

  Raises:
    ValueError: the lock is not held.
  """
  if not held:
    raise ValueError(
      "commit outside of writer(): what was read may have changed since; "
      "read and commit inside `with store.writer():`"
    )


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
    if not SHORTEST < norm < LONGEST:  # so also if it is NaN
      raise ValueError(
        f"{name} has an embedding of length {norm:g}, expected one between "
        f"{SHORTEST} and {LONGEST}: embed it again"
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
