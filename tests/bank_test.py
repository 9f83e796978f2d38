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

_E, _M, _V, _N = 3, 2, 3, 40


def _said(text, time):
  """The turns that a text comes from: none of every fourth session."""
  return [*(word + 10 for word in text), time] if time % 4 else []


def _op(kind, id_, text, time, turns=False):
  """One operation for one row."""
  # What stands behind a row's end must not reach the bank.
  ids = np.full((1, _M), 99, np.int32)
  ids[0, : len(text)] = text
  one = lambda x: np.array([x], np.int32)
  said = token_lib.from_lists([_said(text, time)], _V, pad_id=98)
  return bank_lib.Op(
    one(kind),
    one(id_),
    token_lib.Tokens(ids, one(len(text))),
    one(time),
    one(time + 100),
    np.full((1, 1), sum(text), np.float32),
    said if turns else None,
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
  stacked = jax.tree.map(
    lambda *x: np.stack(x), *[_op(*op, True) for op in padded]
  )
  bank, outcome = _apply_all(bank_lib.init(1, _E, _M, 1, _V), stacked, full)
  assert outcome[: len(ops), 0].tolist() == expected
  found = {}
  for slot in np.flatnonzero(bank.valid[0]):
    length = int(bank.text.length[0, slot])
    text = np.asarray(bank.text.ids[0, slot, :length]).tolist()
    created, updated = int(bank.created[0, slot]), int(bank.updated[0, slot])
    found[int(bank.id[0, slot])] = (text, created, updated)
    assert int(bank.source[0, slot]) == updated + 100
    assert float(bank.embedding[0, slot, 0]) == sum(text)
    said = _said(text, updated)
    assert int(bank.turns.length[0, slot]) == len(said)
    assert bank.turns.ids[0, slot].tolist() == said + [0] * (_V - len(said))
  assert found == reference.entries
  assert int(bank.next_id[0]) == reference.next_id
  free = ~np.asarray(bank.valid[0])
  assert (np.asarray(bank.id[0])[free] == -1).all()
  for kept in (bank.text, bank.turns):
    assert not np.asarray(kept.ids[0])[free].any()
    assert not np.asarray(kept.length[0])[free].any()


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


def _told():
  """A bank with entries 1 and 2, in the slots 1 and 0."""
  bank = bank_lib.init(1, _E, _M, 1, _V)
  for op in (
    _op(bank_lib.ADD, 0, [4], 1, True),
    _op(bank_lib.ADD, 0, [5, 6], 2, True),
    _op(bank_lib.DELETE, 0, [], 3, True),
    _op(bank_lib.ADD, 0, [7], 5, True),
  ):
    bank, _ = bank_lib.apply(bank, op)
  return bank


def test_slots_of_ids():
  slot = bank_lib.slot_of(_told(), jnp.array([[1, 0, 2, -1, 3]]))
  # Entry 0 is gone, 3 never was, and -1 is the id of a free slot.
  assert slot.tolist() == [[1, -1, 0, -1, -1]]


def test_take_turns():
  turns = bank_lib.take_turns(_told(), jnp.array([[1, -1, 0, 2]]))
  # Slot 2 is free.
  assert turns.length.tolist() == [[3, 0, 2, 0]]
  assert turns.ids[0, 0].tolist() == [15, 16, 2]
  assert turns.ids[0, 2, :2].tolist() == [17, 5]


def test_a_bank_need_not_keep_turns():
  bank = bank_lib.init(1, _E, _M, 1)
  for op in (
    _op(bank_lib.ADD, 0, [4], 1),
    _op(bank_lib.ADD, 0, [5], 1),
    _op(bank_lib.UPDATE, 1, [6], 2),
    _op(bank_lib.DELETE, 0, [], 2),
  ):
    bank, outcome = bank_lib.apply(bank, op)
    assert outcome.tolist() == [bank_lib.DONE]
  turns = bank_lib.take_turns(bank, jnp.array([[1, 0, -1]]))
  assert turns.ids.shape == (1, 3, 0) and not turns.length.any()
  # One that keeps turns forgets them where a change brings none.
  bank, _ = bank_lib.apply(_told(), _op(bank_lib.UPDATE, 1, [6], 5))
  assert bank.turns.length.tolist() == [[2, 0, 0]]
  assert not bank.turns.ids[0, 1].any()
