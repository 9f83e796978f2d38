"""Search in LanceDB: exact, with the bits of SQLite; by an index, most."""

import dataclasses

import lance_store_test
import numpy as np
import pytest
import store_test

from memjax import lance_search
from memjax import store

pytest.importorskip("lancedb")

_entry, _commit = store_test.entry, store_test.commit
bank, both = lance_store_test.bank, lance_store_test.both


def test_condition():
  assert lance_search.condition(None) == "kind = 'entry'"
  assert lance_search.condition(store.Where("o'x", (2, None), (None, 3))) == (
    "kind = 'entry' AND source = 'o''x' AND created >= 2 AND updated <= 3"
  )


@pytest.mark.parametrize(
  "where",
  [
    None,
    store.Where(source="s1"),
    store.Where(created=(2, 4)),
    store.Where("s2", (3, None), (1, 9)),
    store.Where(source="'; DROP"),
    store.Where(source="kim"),
  ],
)
def test_exact_search_gives_the_bits_of_sqlite(both, where):
  rng = np.random.default_rng(1)
  entries = store_test.random_bank(400, 24)
  for i in range(100, 160, 2):  # equal entries go by id
    entries[i] = dataclasses.replace(
      entries[i], embedding=entries[100].embedding, source="s1"
    )
  query_QD = rng.standard_normal((5, 24))
  query_QD[0] = entries[100].embedding
  results = []
  for bank in both:
    # in two sessions: Lance keeps them in two files
    # The lowest ids come to stand last: Lance orders equal ones by place.
    before = [dataclasses.replace(e, text="old") for e in entries[:120]]
    _commit(bank, "one", before + entries[120:200])
    _commit(bank, "two", entries)
    results.append(bank.search(query_QD, 7, where))
    one = bank.search(query_QD[3], 7, where)
    assert np.array_equal(one[0], results[-1][0][3])
  for a, b in zip(*results):
    assert a.dtype == b.dtype
    assert np.array_equal(a, b)
  if where is None or where.source == "s1":
    assert results[0][0][0].tolist() == [200, 204, 208, 212, 216, 220, 224]


def test_search_refuses_an_entry_without_embedding(both):
  entries = [_entry(0), _entry(1, embedding=None, source="lee")]
  query = np.array([1.0, 0.0])
  for bank in both:
    assert bank.search(query, 3)[0].tolist() == []
    _commit(bank, "one", [dataclasses.replace(entries[1], id=0)])
    with pytest.raises(ValueError, match="entry 0 of .* no embedding"):
      bank.search(query, 1)
    _commit(bank, "two", entries)
    with pytest.raises(ValueError, match="entry 1 of .* no embedding"):
      bank.search(query, 1)
    assert bank.search(query, 5, store.Where("kim"))[0].tolist() == [0]
    with pytest.raises(ValueError, match="with D = 2"):
      bank.search(np.ones(3), 1)
    _commit(bank, "three", entries[:1])
    assert bank.search(query, 5)[0].tolist() == [0]


def test_an_index_finds_most(bank):
  """Settings at which an approximate search must err and be near."""
  rng = np.random.default_rng(0)
  centre_CD = rng.standard_normal((20, 16))
  vectors = centre_CD[rng.integers(20, size=1000)]
  vectors = vectors + 0.3 * rng.standard_normal((1000, 16))
  entries = [_entry(i, embedding=v) for i, v in enumerate(vectors)]
  with pytest.raises(ValueError, match="no embedding to build"):
    with bank.writer():
      bank.build_index()
  _commit(bank, "one", entries[:900])
  with bank.writer():
    bank.build_index("IvfPq", num_partitions=8, num_sub_vectors=4)
  _commit(bank, "two", entries)
  query_QD = vectors[rng.integers(1000, size=20)] + 0.01
  exact, _ = bank.search(query_QD, 10)
  hits, scores = bank.search(query_QD, 10, exact=False, nprobes=1)
  recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact, hits)])
  assert 0.4 < recall < 1.0
  many, _ = bank.search(query_QD, 10, exact=False, nprobes=8, refine_factor=20)
  assert np.mean(many == exact) > 0.99
  # the cosines are those of the entries, not of the index
  unit = store.normalise(vectors, range(1000))
  queries = store.normalise(query_QD, range(20))
  np.testing.assert_allclose(
    scores, np.einsum("qkd,qd->qk", unit[hits], queries), atol=1e-6
  )
  # what came after the index is found as well
  for i in (903, 950, 999):
    assert bank.search(vectors[i], 1, exact=False)[0].tolist() == [i]
