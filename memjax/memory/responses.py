"""What a response says, beside its end token and its reasoning.

Dimension key: B rows.
"""

import jax
import jax.numpy as jnp

from memjax import tokens as token_lib


def strip(
  response: token_lib.Tokens,
  stop_ids: tuple[int, ...],
  think_ids: tuple[int, int] | None,
) -> tuple[token_lib.Tokens, jax.Array]:
  """A response without end token and reasoning, and whether it is malformed.

  Returns:
    (text tokens, bool [B] True where a reasoning block was left open).
  """
  last = jnp.take_along_axis(
    response.ids, jnp.maximum(response.length - 1, 0)[:, None], axis=1
  )[:, 0]
  ended = (last[:, None] == jnp.asarray(stop_ids)[None, :]).any(1)
  ended &= response.length > 0
  body = token_lib.Tokens(response.ids, response.length - ended)
  if think_ids is None:
    return body, jnp.zeros(body.length.shape, bool)
  opened = token_lib.find_last(body, think_ids[0])
  closed = token_lib.find_last(body, think_ids[1])
  body = token_lib.slice_rows(body, closed + 1, body.length)
  return body, opened > closed
