"""Token buffers of fixed capacity, and the algebra that prompts are made of.

A `Tokens` is a batch of right-padded rows. Every function keeps shapes static,
so all of them run under jit: nothing here touches strings.

Dimension key: B rows, T capacity.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Table:
  """A host array with a row for each token id, hashable by its content.

  A constant of a compiled program: it can stand in a static argument.
  """

  array: np.ndarray

  @functools.cached_property
  def _digest(self) -> bytes:
    return hashlib.sha256(
      f"{self.array.dtype}{self.array.shape}".encode() + self.array.tobytes()
    ).digest()

  def __hash__(self) -> int:
    """By content."""
    return hash(self._digest)

  def __eq__(self, other: object) -> bool:
    """By content."""
    return isinstance(other, Table) and self._digest == other._digest

  def __getitem__(self, ids: jax.Array) -> jax.Array:
    """Rows at token ids, under jit too."""
    return jnp.asarray(self.array)[ids]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Tokens:
  """Right-padded rows of token ids.

  Attributes:
    ids: int32 [B, T]; what stands at or after a row's length has no meaning.
    length: int32 [B], between 0 and T.
  """

  ids: jax.Array
  length: jax.Array

  @property
  def capacity(self) -> int:
    """The most tokens that a row can hold, T."""
    return self.ids.shape[-1]

  @property
  def mask(self) -> jax.Array:
    """bool [B, T], True where a token stands; leading axes as length has."""
    position = jnp.arange(self.capacity).reshape(
      (1,) * self.length.ndim + (-1,)
    )
    return position < self.length[..., None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Grouped:
  """Rows of which those next to each other begin alike.

  Row b is shared row b // group, then own row b. What is shared is stored, and
  read by a model, once for each group.

  Attributes:
    shared: [W, P].
    own: [B, T], none of them empty; B is W times the group.
  """

  shared: Tokens
  own: Tokens

  @property
  def group(self) -> int:
    """Rows that begin alike."""
    return self.own.length.shape[-1] // self.shared.length.shape[-1]

  @property
  def length(self) -> jax.Array:
    """int [..., B], of the whole rows."""
    return jnp.repeat(self.shared.length, self.group, -1) + self.own.length


def grouped(rows: Tokens, group: int) -> Grouped:
  """Rows that are the same in each group, as a model reads them once.

  The last token is each row's own: what goes on from it needs a place.
  """
  last = jnp.maximum(rows.length - 1, 0)
  own = jnp.take_along_axis(rows.ids, last[:, None], axis=1)
  shared = Tokens(rows.ids[::group, :-1], last[::group])
  return Grouped(shared, Tokens(own, rows.length - last))


def parts(rows: Tokens | Grouped) -> tuple[Tokens | None, Tokens]:
  """What groups share, or None, and what is each row's own."""
  if isinstance(rows, Grouped):
    return rows.shared, rows.own
  return None, rows


def from_lists(
  rows: Sequence[Sequence[int]], capacity: int, pad_id: int = 0
) -> Tokens:
  """Packs lists of ids into numpy-backed rows.

  Raises:
    ValueError: if a row is longer than the capacity; nothing is cut silently.
  """
  ids = np.full((len(rows), capacity), pad_id, np.int32)
  for i, row in enumerate(rows):
    if len(row) > capacity:
      raise ValueError(
        f"row {i} has {len(row)} tokens, more than the capacity {capacity}: "
        "raise the limit in the config or shorten the text"
      )
    ids[i, : len(row)] = row
  return Tokens(ids, np.array([len(row) for row in rows], np.int32))


def from_nested(
  rows: Sequence[Sequence[Sequence[int]]], capacity: int | None = None
) -> Tokens:
  """Packs B lists of texts as ids [B, P, T]; missing texts have length 0.

  P is the most texts of a row, T the capacity or the longest text.

  Raises:
    ValueError: a text is longer than the capacity.
  """
  places = max([len(row) for row in rows], default=0)
  longest = max([len(text) for row in rows for text in row], default=0)
  if capacity is not None and longest > capacity:
    raise ValueError(
      f"a text has {longest} tokens, more than the capacity {capacity}: raise "
      "the limit in the config or shorten the text"
    )
  ids = np.zeros((len(rows), places, capacity or longest), np.int32)
  length = np.zeros((len(rows), places), np.int32)
  for b, row in enumerate(rows):
    for p, text in enumerate(row):
      ids[b, p, : len(text)] = text
      length[b, p] = len(text)
  return Tokens(ids, length)


def to_lists(tokens: Tokens) -> list[list[int]]:
  """Lists of ids, padding removed (a host function)."""
  ids, length = np.asarray(tokens.ids), np.asarray(tokens.length)
  return [ids[i, : length[i]].tolist() for i in range(len(length))]


def empty(batch: int, capacity: int) -> Tokens:
  """B rows that hold nothing."""
  return Tokens(
    jnp.zeros((batch, capacity), jnp.int32), jnp.zeros((batch,), jnp.int32)
  )


def constant(ids: Sequence[int], batch: int) -> Tokens:
  """The same ids in each of B rows."""
  row = jnp.asarray(ids, jnp.int32).reshape(1, -1)
  return Tokens(
    jnp.broadcast_to(row, (batch, row.shape[1])),
    jnp.full((batch,), row.shape[1], jnp.int32),
  )


def concat(parts: Sequence[Tokens], pad_id: int = 0) -> Tokens:
  """Joins ragged rows: the padding of one part gives way to the next part.

  Example: [a b _] and [c _] give [a b c _ _]. The capacity is the sum of the
  parts' capacities. All parts stand side by side in one buffer, and one gather
  moves each token to its place.
  """
  length_PB = jnp.stack([part.length for part in parts])
  end_PB = jnp.cumsum(length_PB, axis=0)
  base_P = np.cumsum([0] + [part.capacity for part in parts[:-1]])
  capacity = int(base_P[-1]) + parts[-1].capacity
  position_T = jnp.arange(capacity)
  # The part that position t falls in: how many parts end at or before it.
  part_BT = jnp.sum(end_PB[:, :, None] <= position_T[None, None, :], axis=0)
  part_BT = jnp.minimum(part_BT, len(parts) - 1)
  start_BP = (end_PB - length_PB).T
  shift_BP = jnp.asarray(base_P, jnp.int32)[None, :] - start_BP
  source_BT = position_T[None, :] + jnp.take_along_axis(shift_BP, part_BT, 1)
  ids = jnp.concatenate([part.ids for part in parts], axis=1)
  ids = jnp.take_along_axis(ids, jnp.clip(source_BT, 0, capacity - 1), 1)
  inside = position_T[None, :] < end_PB[-1][:, None]
  return Tokens(jnp.where(inside, ids, pad_id), end_PB[-1])


def truncate(tokens: Tokens, capacity: int) -> Tokens:
  """Keeps at most the first `capacity` tokens of each row."""
  return Tokens(tokens.ids[:, :capacity], jnp.minimum(tokens.length, capacity))


def slice_rows(tokens: Tokens, start: jax.Array, stop: jax.Array) -> Tokens:
  """Tokens [start, stop) of each row, moved to the front; same capacity.

  Args:
    tokens: rows [B, T].
    start: int [B], clipped to the row.
    stop: int [B], clipped to [start, length].
  """
  start = jnp.clip(start, 0, tokens.length)
  stop = jnp.clip(stop, start, tokens.length)
  source = jnp.arange(tokens.capacity)[None, :] + start[:, None]
  ids = jnp.take_along_axis(
    tokens.ids, jnp.minimum(source, tokens.capacity - 1), axis=1
  )
  return Tokens(ids, stop - start)


def find_first(tokens: Tokens, token_id: int) -> jax.Array:
  """int [B]: index of the first `token_id` in each row, or -1."""
  hit = tokens.mask & (tokens.ids == token_id)
  return jnp.where(hit.any(1), jnp.argmax(hit, axis=1), -1)


def find_last(tokens: Tokens, token_id: int) -> jax.Array:
  """int [B]: index of the last `token_id` in each row, or -1."""
  hit = tokens.mask & (tokens.ids == token_id)
  last = tokens.capacity - 1 - jnp.argmax(hit[:, ::-1], axis=1)
  return jnp.where(hit.any(1), last, -1)


def select(keep: jax.Array, yes: Tokens, no: Tokens) -> Tokens:
  """Row by row: `yes` where keep [B] is True, else `no`; same capacities."""
  return Tokens(
    jnp.where(keep[:, None], yes.ids, no.ids),
    jnp.where(keep, yes.length, no.length),
  )
