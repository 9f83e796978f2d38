"""The methods of numpy's Generator that the worlds need, on a counter.

numpy may change what the methods of its Generator return (its policy, NEP 19),
so a world that is drawn from them is that of one version. Here each of them is
a rule that this file states, on the words of a `philox.Stream`:

    integers(a, b)    a + stream.integer(b - a)
    random()          a number below 2^53, divided by 2^53: exact
    choice(n, p=p)    how many partial sums of p are at most random()
    choice(n, k, replace=False)
                      stream.distinct(n, k)
    permutation(n)    stream.permutation(n)
    poisson(mean)     how many values of the distribution function are at most
                      random()

Sums of p are float additions one after the other, which IEEE 754 rounds
correctly. The Poisson distribution function needs exp, which libraries of C
round differently: it is made in `decimal`, which rounds correctly everywhere,
with digits to spare, and only then rounded to a float. Worked example: for a
mean of 0.5 it is 0.607, 0.910, 0.986, ..., so random() = 0.7 gives 1.
"""

import bisect
import decimal
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from memjax.envs.suite import philox

# More digits than the 17 of a float: their rounding decides nothing, and sums
# come to 1.
_DIGITS = 50
# Of `poisson`, whose table then has 1,300 entries; for a mean of 0.5 it has 15.
_LARGEST_MEAN = 1000


class Generator:
  """Numbers of a stream, drawn by the names that numpy's Generator has."""

  def __init__(self, stream: philox.Stream):
    """Draws from this stream on."""
    self._stream = stream

  def integers(self, low: int, high: int | None = None) -> int:
    """One integer in [low, high), without `high` in [0, low)."""
    low, high = (0, low) if high is None else (low, high)
    if low >= high:
      raise ValueError(f"integers({low}, {high}): expected low < high")
    return low + self._stream.integer(high - low)

  def random(self) -> float:
    """One of the 2^53 multiples of 2^-53 in [0, 1), all equally likely."""
    upper, lower = self._stream.integer(1 << 27), self._stream.integer(1 << 26)
    return (upper << 26 | lower) / (1 << 53)

  def choice(
    self,
    n: int,
    size: int | None = None,
    replace: bool = True,
    p: Sequence[float] | None = None,
  ) -> int | np.ndarray:
    """One number of [0, n) with probabilities p, or `size` different ones.

    Raises:
      ValueError: neither of these two was asked for, or p are not n
        probabilities that add up to 1.
    """
    if p is None and size is not None and not replace:
      return self._stream.distinct(n, size)
    if p is None or size is not None:
      raise ValueError(
        f"choice({n}, size={size}, replace={replace}, p={p}): expected p alone,"
        " or size and replace=False"
      )
    if len(p) != n or min(p) < 0 or abs(sum(p) - 1) > 1e-6:
      raise ValueError(
        f"choice({n}, p={p}): expected {n} probabilities that add up to 1"
      )
    # Without the last sum, which rounding may leave below 1.
    sums = [*itertools.accumulate(p)][:-1]
    return bisect.bisect_right(sums, self.random())

  def permutation(self, n: int) -> np.ndarray:
    """The numbers [0, n) in random order, int64."""
    return self._stream.permutation(n)

  def poisson(self, mean: float) -> int:
    """One number of the Poisson distribution."""
    return bisect.bisect_right(_poisson(mean), self.random())


@functools.lru_cache(maxsize=64)
def _poisson(mean: float) -> tuple[float, ...]:
  """P(X <= 0), P(X <= 1), ... up to the first that rounds to 1."""
  if not 0 <= mean <= _LARGEST_MEAN:
    raise ValueError(f"poisson({mean}): expected 0 to {_LARGEST_MEAN}")
  with decimal.localcontext(decimal.Context(prec=_DIGITS)):
    mean = decimal.Decimal(mean)
    share = total = (-mean).exp()
    found = [float(total)]
    while found[-1] < 1:
      share *= mean / len(found)
      total += share
      found.append(float(total))
  return tuple(found)
