"""The bank: equal to a dict over any sequence of operations."""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib

_E, _M, _N = 3, 2, 40


def _op(kind, id_, text, time):
  """One operation for one row."""
  ids = np.zeros((1, _M), np.int32)
  ids[0, : len(text)] = text
  one = lambda x: np.array([x], np.int32)
  return bank_lib.Op(
    one(kind),
    one(id_),
    token_lib.Tokens(ids, one(len(text))),
    one(time),
    one(time + 100),
    np.full((1, 1), sum(text), np.float32),
  )


class _Dict:
  """What the bank must be, in plain Python."""

  def __init__(self, full):
    self.entries, self.next_id, self.full = {}, 0, full

  def apply(self, kind, id_, text, time):
    if kind in (bank_lib.ADD, bank_lib.UPDATE) and not text:
      return bank_lib.NO_TEXT
    if kind in (bank_lib.UPDATE, bank_lib.DELETE) and id_ not in self.entries:
      return bank_lib.UNKNOWN_ID
    if kind == bank_lib.ADD:
      if len(self.entries) == _E:
        if self.full == "refuse":
          return bank_lib.FULL
        oldest = min(self.entries, key=lambda i: (self.entries[i][2], i))
        del self.entries[oldest]
      self.entries[self.next_id] = (text, time, time)
      self.next_id += 1
    elif kind == bank_lib.UPDATE:
      self.entries[id_] = (text, self.entries[id_][1], time)
    elif kind == bank_lib.DELETE:
      del self.entries[id_]
    return bank_lib.DONE


@functools.partial(jax.jit, static_argnames="full")
def _apply_all(bank, ops, full):
  return bank_lib.apply_all(bank, ops, full)


_OPS = st.lists(
  st.tuples(
    st.integers(0, 3),
    st.integers(-1, 8),
    st.lists(st.integers(1, 9), max_size=_M),
    st.integers(0, 5),
  ),
  min_size=1,
  max_size=_N,
)


@pytest.mark.parametrize("full", bank_lib.FULL_RULES)
@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(ops=_OPS)
def test_equals_a_dict(full, ops):
  reference = _Dict(full)
  expected = [reference.apply(*op) for op in ops]
  padded = ops + [(bank_lib.NOOP, 0, [], 0)] * (_N - len(ops))
  stacked = jax.tree.map(lambda *x: np.stack(x), *[_op(*op) for op in padded])
  bank, outcome = _apply_all(bank_lib.init(1, _E, _M, 1), stacked, full)
  assert outcome[: len(ops), 0].tolist() == expected
  found = {}
  for slot in np.flatnonzero(bank.valid[0]):
    length = int(bank.text.length[0, slot])
    text = np.asarray(bank.text.ids[0, slot, :length]).tolist()
    created, updated = int(bank.created[0, slot]), int(bank.updated[0, slot])
    found[int(bank.id[0, slot])] = (text, created, updated)
    assert int(bank.source[0, slot]) == updated + 100
    assert float(bank.embedding[0, slot, 0]) == sum(text)
  assert found == reference.entries
  assert int(bank.next_id[0]) == reference.next_id
  free = ~np.asarray(bank.valid[0])
  assert (np.asarray(bank.id[0])[free] == -1).all()
  assert not np.asarray(bank.text.ids[0])[free].any()


def test_rows_are_independent():
  ops = [_op(bank_lib.ADD, 0, [7], 1), _op(bank_lib.NOOP, 0, [], 1)]
  both = jax.tree.map(lambda *x: np.concatenate(x), *ops)
  bank, _ = bank_lib.apply(bank_lib.init(2, _E, _M, 1), both)
  assert bank_lib.size(bank).tolist() == [1, 0]


def test_each_rollout_changes_its_own_copy():
  before = bank_lib.init(1, _E, _M, 1)
  kept = jax.tree.map(np.array, before)
  bank_lib.apply(before, _op(bank_lib.ADD, 0, [7], 1))
  assert jax.tree.all(jax.tree.map(np.array_equal, kept, before))


def test_update_removes_the_old_text():
  bank = bank_lib.init(1, _E, _M, 1)
  for op in (
    _op(bank_lib.ADD, 0, [7, 8], 1),
    _op(bank_lib.UPDATE, 0, [9], 2),
  ):
    bank, _ = bank_lib.apply(bank, op)
  assert bank.text.ids[0, 0].tolist() == [9, 0]
  assert (int(bank.created[0, 0]), int(bank.updated[0, 0])) == (1, 2)


def test_take():
  bank = bank_lib.init(1, _E, _M, 1)
  for word in (4, 5):
    bank, _ = bank_lib.apply(bank, _op(bank_lib.ADD, 0, [word], 0))
  text, ids = bank_lib.take(bank, jnp.array([[1, -1, 0, 2]]))
  assert ids.tolist() == [[1, -1, 0, -1]]
  assert text.length.tolist() == [[1, 0, 1, 0]]
  assert text.ids[0, 0, 0] == 5 and text.ids[0, 2, 0] == 4
