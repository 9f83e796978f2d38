"""Rows as the loss reads them, and how much of what is read is padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import batching
from memjax import rows as rows_lib
from memjax import tokens as token_lib

_CAPACITY = 9  # of responses


def _rows(prompts, responses, group):
  """Rows of 4 tokens of their own at most; groups share what stands before."""
  count = len(prompts)
  own = token_lib.from_lists(prompts, 4)
  if group > 1:
    shared = [[5, 6, 7], [5]][: count // group]
    own = token_lib.Grouped(token_lib.from_lists(shared, 6), own)
  response = token_lib.from_lists(responses, _CAPACITY)
  return jax.tree.map(
    jnp.asarray,
    rows_lib.Rows(
      own,
      response,
      np.zeros((count, _CAPACITY), np.float32),
      None,
      np.ones(count, np.float32),
      np.ones(count, bool),
    ),
  )


_PROMPTS = [[8, 9], [8], [9, 10, 11], [12]]
_RESPONSES = [[20, 21, 22], [23], [24, 25], [26, 27, 28, 29]]


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_a_width_below_that_of_responses(params, agent, group, scan_layers):
  """The longest row has 5 tokens of its own, a response room for 9."""
  cfg = dataclasses.replace(agent.model, scan_layers=scan_layers)
  rows = _rows(_PROMPTS, _RESPONSES, group)
  assert int(rows.width.max()) == 5
  read = jax.jit(rows_lib.logp_and_entropy, static_argnums=(1, 4))
  mask = np.asarray(rows.mask)
  for got, want in zip(
    read(params, cfg, rows, 1.0, 5), read(params, cfg, rows, 1.0, None)
  ):
    assert got.shape == want.shape == (4, _CAPACITY)
    np.testing.assert_allclose(got[mask], want[mask], atol=1e-5)


def test_a_pack_is_read_if_any_row_has_an_advantage():
  rows = _rows(_PROMPTS, _RESPONSES, 2)
  rows = dataclasses.replace(rows, adv=jnp.array([0.0, 1.0, 0.0, 0.0]))
  assert batching.make(rows, 2, 1).live.tolist() == [True, False]


@pytest.mark.parametrize("pack", [1, 2])
def test_what_is_shared_counts_as_read(pack):
  """Once for each pack: 3 tokens of 6 before two rows, 1 before the others."""
  plan = batching.make(_rows(_PROMPTS, _RESPONSES, 2), pack, 1)
  if pack == 1:
    np.testing.assert_array_equal(plan.tokens, [5 + 3, 2 + 3, 5 + 1, 5 + 1])
  else:
    np.testing.assert_array_equal(plan.tokens, [7 + 3, 10 + 1])
  assert plan.places(13) == pack * 13 + 6
