"""Each function of `tokens` against the same thing done to Python lists."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from memjax import tokens as token_lib

_B, _T = 3, 5
_row = st.lists(st.integers(0, 3), max_size=_T)
_rows = st.lists(_row, min_size=_B, max_size=_B)
_ints = st.lists(st.integers(-2, _T + 2), min_size=_B, max_size=_B)
_settings = hypothesis.settings(max_examples=60, deadline=None)


def _pack(rows, capacity=_T):
  """Rows with rubbish behind their ends, which nothing may read."""
  tokens = token_lib.from_lists(rows, capacity, pad_id=2)
  return jax.device_put(tokens)


def test_lists_and_back():
  rows = [[1, 2], [], [3, 4, 5]]
  tokens = token_lib.from_lists(rows, 4, pad_id=9)
  assert token_lib.to_lists(tokens) == rows
  assert tokens.capacity == 4
  np.testing.assert_array_equal(tokens.ids[1], [9, 9, 9, 9])
  np.testing.assert_array_equal(
    tokens.mask, [[1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
  )


def test_a_row_that_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="row 1 has 3 tokens.*capacity 2"):
    token_lib.from_lists([[1], [1, 2, 3]], 2)


def test_constants_and_nothing():
  assert token_lib.to_lists(token_lib.constant([7, 8], 2)) == [[7, 8], [7, 8]]
  assert token_lib.to_lists(token_lib.constant([], 2)) == [[], []]
  nothing = token_lib.empty(2, 6)
  assert nothing.capacity == 6
  assert token_lib.to_lists(nothing) == [[], []]


@_settings
@hypothesis.given(_rows, _rows, _rows)
def test_concat(a, b, c):
  got = jax.jit(token_lib.concat)([_pack(a), _pack(b), _pack(c)])
  assert got.capacity == 3 * _T
  assert token_lib.to_lists(got) == [x + y + z for x, y, z in zip(a, b, c)]
  # Behind the end stands the padding id, whatever the parts held there.
  assert not np.asarray(got.ids)[~np.asarray(got.mask)].any()


@_settings
@hypothesis.given(_rows)
def test_truncate(rows):
  got = token_lib.truncate(_pack(rows), 2)
  assert got.capacity == 2
  assert token_lib.to_lists(got) == [row[:2] for row in rows]


@_settings
@hypothesis.given(_rows, _ints, _ints)
def test_slice_rows(rows, start, stop):
  got = jax.jit(token_lib.slice_rows)(
    _pack(rows), np.array(start), np.array(stop)
  )
  want = [row[max(0, i) : max(0, i, j)] for row, i, j in zip(rows, start, stop)]
  assert token_lib.to_lists(got) == want


@_settings
@hypothesis.given(_rows, st.integers(0, 3))
def test_find(rows, token):
  first = jax.jit(token_lib.find_first)(_pack(rows), token)
  last = jax.jit(token_lib.find_last)(_pack(rows), token)
  for b, row in enumerate(rows):
    assert int(first[b]) == (row.index(token) if token in row else -1)
    found = len(row) - 1 - row[::-1].index(token) if token in row else -1
    assert int(last[b]) == found


@_settings
@hypothesis.given(
  _rows, _rows, st.lists(st.booleans(), min_size=_B, max_size=_B)
)
def test_select(yes, no, keep):
  got = token_lib.select(np.array(keep), _pack(yes), _pack(no))
  want = [a if k else b for a, b, k in zip(yes, no, keep)]
  assert token_lib.to_lists(got) == want
