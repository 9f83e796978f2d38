"""How rows are cut into micro-batches: by groups that share, and by length.

Host only: which rows a micro-batch takes is an index, so no shape depends on
how many rows there are.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from memjax import rows as rows_lib
from memjax import tokens as token_lib


@dataclasses.dataclass(frozen=True)
class Plan:
  """How rows of one shape are cut into micro-batches (host).

  Attributes:
    pack: rows of a pack.
    count: packs of a micro-batch.
    widths: ascending, what packs are cut to; the last holds any.
    width: of each pack, the place of the least that holds it.
    tokens: of each pack, what its rows share counted once.
    shared: places of what a pack shares.
    live: whether a pack is read: a row of it has an advantage, or all are.
  """

  pack: int
  count: int
  widths: tuple[int, ...]
  width: np.ndarray
  tokens: np.ndarray
  shared: int
  live: np.ndarray

  def pieces(self, index: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """(packs, their width) of each micro-batch, narrow ones first."""
    for place, width in enumerate(self.widths):
      some = index[self.width[index] == place]
      for i in range(0, len(some), self.count):
        yield padded(some[i : i + self.count], self.count), width

  def places(self, width: int) -> int:
    """What a micro-batch of that width reads, padding included."""
    return self.count * (self.pack * width + self.shared)


def make(
  rows: rows_lib.Rows, micro_batch: int, widths: int, reads_all: bool = False
) -> Plan:
  """The plan of these rows, at which it looks.

  Args:
    rows: of one shape.
    micro_batch: rows of a micro-batch.
    widths: how many there are to be.
    reads_all: packs without any advantage are read, too.
  """
  pack = rows.pack(micro_batch)
  length = np.asarray(rows.width).reshape(-1, pack)
  tokens, places = length.sum(1), 0
  shared, _ = token_lib.parts(rows.prompt)
  if shared is not None:
    tokens = tokens + np.repeat(shared.length, rows.group // pack)
    places = shared.capacity
  step = -(-rows.capacity // widths)
  ends = tuple(min(step * (i + 1), rows.capacity) for i in range(widths))
  return Plan(
    pack,
    micro_batch // pack,
    ends,
    np.searchsorted(ends, length.max(1)),
    tokens,
    places,
    np.asarray(rows.adv).reshape(-1, pack).any(1) | reads_all,
  )


def minibatches(
  rows: rows_lib.Rows,
  index: np.ndarray,
  plan: Plan,
  count: int,
  rng: np.random.Generator,
) -> list[np.ndarray]:
  """The packs of each minibatch: groups are shuffled, and stay whole.

  So a minibatch does not depend on how large a micro-batch is.

  Args:
    rows: of one shape.
    index: of those that count; packs without any are left out.
    plan: of these rows.
    count: of minibatches.
    rng: shuffles the groups.
  """
  packs = np.unique(index // plan.pack)
  group = packs * plan.pack // rows.group
  shuffled = rng.permutation(np.unique(group))
  place = np.zeros(group.max(initial=0) + 1, int)
  place[shuffled] = np.arange(len(shuffled))
  order = np.argsort(place[group], kind="stable")
  ends = np.cumsum([len(x) for x in np.array_split(shuffled, count)])
  cuts = np.searchsorted(place[group][order], ends[:-1])
  return np.split(packs[order], cuts)


def padded(index: np.ndarray, size: int) -> np.ndarray:
  """An index of that size; -1 fills it up."""
  return np.pad(index, (0, size - len(index)), constant_values=-1)
