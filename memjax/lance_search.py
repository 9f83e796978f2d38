"""Search in the table of `lance_store`: LanceDB proposes, `store` decides.

LanceDB's float32 distances order near-equal entries by chance. So it names
candidates, and their scores and order come from `store.nearest`.

Dimension keys: C candidates, D width of an embedding, K hits.
"""

from typing import Any

import numpy as np

from memjax import store


def condition(where: store.Where | None) -> str:
  """What `where` says in LanceDB's SQL; always also that it is an entry."""
  parts = ["kind = 'entry'"]
  if where is not None:
    if where.source is not None:
      source = where.source.replace("'", "''")
      parts.append(f"source = '{source}'")
    parts += [f"{column} {sign} {n}" for column, sign, n in where.bounds()]
  return " AND ".join(parts)


def nearest(
  table: Any,
  query_D: np.ndarray,
  k: int,
  condition: str | None,
  exact: bool,
  nprobes: int,
  refine_factor: int | None,
) -> tuple[np.ndarray, np.ndarray]:
  """(ids int64, cosines float32) of one query, best first, at most k.

  Args:
    table: of LanceDB.
    query_D: float32, of length 1.
    k: how many, 1 or more.
    condition: what rows to look at, in SQL; None is all with an embedding.
    exact: False uses the index, if there is one.
    nprobes: see `lance_store.LanceStore.search`.
    refine_factor: likewise.
  """
  # Candidates are taken until the last is worse than the k-th beyond rounding.
  slack = 4 * (len(query_D) + 2) * np.finfo(np.float32).eps
  limit = k + 8
  while True:
    search = table.search(query_D, vector_column_name="embedding")
    search = search.distance_type("cosine")
    if condition:
      search = search.where(condition, prefilter=True)
    if exact:
      search = search.bypass_vector_index()
    else:
      search = search.nprobes(nprobes)
      if refine_factor:
        search = search.refine_factor(refine_factor)
    found = search.select(["number", "embedding", "_distance"])
    found = found.limit(limit).to_arrow()
    distance = found["_distance"].to_numpy()
    if (
      not exact
      or len(distance) < limit
      or distance[-1] > distance[k - 1] + slack
    ):
      break
    limit *= 4
  if not len(found):
    return np.zeros(0, np.int64), np.zeros(0, np.float32)
  ids = found["number"].to_numpy()
  order = np.argsort(ids)
  flat = found["embedding"].combine_chunks().flatten().to_numpy()
  unit_CD = store.normalise(flat.reshape(len(ids), -1)[order], ids[order])
  rows_QK, score_QK = store.nearest(
    unit_CD, query_D[None], k, np.ones(len(ids), bool)
  )
  return ids[order][rows_QK[0]], score_QK[0]
