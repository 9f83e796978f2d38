import collections
import math

import numpy as np
import pytest

from memjax.envs.suite import philox

# Known answers of Random123, the authors' library (Philox4x32, 10 rounds).
_KNOWN = [
  (
    (0, 0, 0, 0),
    (0, 0),
    (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
  ),
  (
    (0xFFFFFFFF,) * 4,
    (0xFFFFFFFF,) * 2,
    (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
  ),
  (
    (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
    (0xA4093822, 0x299F31D0),
    (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
  ),
]


@pytest.mark.parametrize("counter, key, words", _KNOWN)
def test_published_vectors(counter, key, words):
  counters_4N = np.array([counter, (1, 2, 3, 4)], np.uint64).T
  assert philox.philox(counters_4N, key)[:, 0].tolist() == list(words)


def test_the_first_words_of_a_stream():
  """They decide every text: a change here is another data set."""
  stream = philox.Stream(7, "vt", 4096, "eval", 0)
  expected = [0xE1B6105F, 0xDE37373D, 0xDB944C8C, 0xB1AE33A3]
  assert stream.bits(4).tolist() == expected


def test_a_row_of_words_however_it_is_drawn():
  whole = philox.Stream("a", 1).bits(40_000).tolist()
  parts = philox.Stream("a", 1)
  sizes = (1, 3, 255, 256, 257, 0, 20_000, 4)
  found = [x for size in sizes for x in parts.bits(size).tolist()]
  assert found == whole[: sum(sizes)]
  # More than one block, and more than one call of the generator.
  assert len(set(whole)) > 39_990


def test_streams_do_not_meet():
  draw = lambda *path: philox.Stream(*path).bits(50).tolist()
  paths = [(1,), (2,), ("1",), (1, 1), (1, "a"), (1, "b"), ("a", 1)]
  rows = [draw(*path) for path in paths]
  assert len({x for row in rows for x in row}) == 50 * len(paths)
  stream = philox.Stream(1)
  stream.bits(10)
  assert stream.child("a").bits(50).tolist() == draw(1, "a")
  assert stream.fresh().bits(50).tolist() == draw(1)


def test_single_draws_are_those_of_arrays():
  """Also where words are drawn again: one in four is, for this n."""
  for n in (1, 6, 3 << 30, 1 << 32):
    for i in range(20):
      one, many = philox.Stream(n, i), philox.Stream(n, i)
      assert [one.integer(n)] == many.below(n, 1).tolist()
  words = philox.Stream("x").bits(9).tolist()
  n = 3 << 30
  kept = [w * n >> 32 for w in words if w * n % (1 << 32) >= (1 << 32) % n]
  stream = philox.Stream("x")
  assert [stream.integer(n) for _ in kept] == kept


@pytest.mark.parametrize("n", [1, 2, 6, 1000])
def test_numbers_below_n_are_equally_likely(n):
  count = 60_000
  found = np.bincount(philox.Stream("u", n).below(n, count), minlength=n)
  assert len(found) == n and found.sum() == count
  chi2 = ((found - count / n) ** 2 / (count / n)).sum()
  assert chi2 < n + 5 * math.sqrt(2 * n)


def test_rejection_leaves_no_bias():
  """Of n = 3 * 2^30, a word alone would give a third too often."""
  found = philox.Stream("r").below(3 << 30, 60_000) % 3
  assert np.abs(np.bincount(found) / 20_000 - 1).max() < 0.03


def test_a_permutation_sorts_by_words():
  """The documented rule: sorted by random words, ties by number."""
  words = philox.Stream("p").bits(1000).tolist()
  expected = sorted(range(1000), key=lambda i: (words[i], i))
  assert philox.Stream("p").permutation(1000).tolist() == expected
  orders = collections.Counter(
    tuple(philox.Stream("q", i).permutation(3).tolist()) for i in range(3000)
  )
  assert len(orders) == 6 and min(orders.values()) > 400


def test_different_numbers_are_different_and_evenly_drawn():
  for n, count in ((10, 10), (1000, 10), (1 << 20, 5000), (30, 9)):
    found = philox.Stream("d", n).distinct(n, count).tolist()
    assert len(set(found)) == len(found) == count
    assert 0 <= min(found) and max(found) < n
  pairs = collections.Counter(
    tuple(philox.Stream("e", i).distinct(7, 2).tolist()) for i in range(4200)
  )
  assert len(pairs) == 42 and max(pairs.values()) < 150
  # They are the first ones of a row that repeats itself.
  row = philox.Stream("f").below(100, 28).tolist()
  assert (
    philox.Stream("f").distinct(100, 20).tolist()
    == list(dict.fromkeys(row))[:20]
  )
  with pytest.raises(ValueError, match="4 different numbers below 3"):
    philox.Stream(0).distinct(3, 4)
