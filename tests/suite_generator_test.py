"""Numbers for worlds: the rules that they are drawn by."""

import bisect
import fractions
import itertools
import math

import numpy as np
import pytest
import scipy.stats

from memjax.envs.suite import generator
from memjax.envs.suite import philox


def _new(*path):
  return generator.Generator(philox.Stream(*path))


def _fits(found, shares):
  """Counts of 0, 1, 2, ... are what the shares say; p-value above 1 in 1,000.

  Draws are seeded, so that a test always passes or never.
  """
  found = np.bincount(found, minlength=len(shares))
  assert len(found) == len(shares)
  expected = np.array(shares) / sum(shares) * found.sum()
  assert scipy.stats.chisquare(found, expected).pvalue > 1e-3


def test_the_first_numbers():
  """They decide the worlds: a change here is another data set."""
  rng = _new("golden")
  assert [rng.integers(5, 1000) for _ in range(4)] == [959, 381, 981, 624]
  assert [rng.random().hex() for _ in range(2)] == [
    "0x1.79a9ab768ea7cp-1",
    "0x1.b8a84221995d3p-1",
  ]
  p = (0.3, 0.3, 0.2, 0.2)
  assert [rng.choice(4, p=p) for _ in range(8)] == [1, 3, 0, 1, 0, 1, 1, 3]
  assert rng.choice(50, 4, replace=False).tolist() == [41, 31, 28, 22]
  assert rng.permutation(6).tolist() == [1, 2, 0, 3, 4, 5]
  assert [rng.poisson(0.5) for _ in range(10)] == [
    *(0, 0, 0, 0, 1, 1, 0, 1, 0, 0)
  ]


@pytest.mark.parametrize("low, high", [(0, 2), (0, 6), (-3, 4), (7, 17)])
def test_integers(low, high):
  rng = _new("i", low)
  found = np.array([rng.integers(low, high) for _ in range(6000)]) - low
  _fits(found, [1] * (high - low))
  assert {rng.integers(low, low + 1) for _ in range(20)} == {low}
  one, two = _new("j"), _new("j")
  assert [one.integers(high) for _ in range(99)] == [
    two.integers(0, high) for _ in range(99)
  ]


def test_random_has_53_bits():
  """Of two words 27 and 26 bits; all of them are used, and each is even."""
  word = philox.Stream("r").bits(2).tolist()
  expected = ((word[0] >> 5) << 26 | word[1] >> 6) / (1 << 53)
  assert _new("r").random() == expected
  rng = _new("s")
  found = np.array([rng.random() for _ in range(5000)])
  assert 0 <= found.min() and found.max() < 1
  whole = (found * 2**53).astype(np.int64)
  assert (whole == found * 2**53).all()
  for bit in range(53):
    assert abs((whole >> bit & 1).mean() - 0.5) < 0.03
  _fits((found * 20).astype(int), [1] * 20)


class _Fixed(generator.Generator):
  """One whose random() is given."""

  def __init__(self, value):
    self._value = value

  def random(self):
    return self._value


def test_choice_with_probabilities():
  p = (0.1, 0.0, 0.6, 0.3)
  rng = _new("c")
  found = np.bincount([rng.choice(4, p=p) for _ in range(8000)], minlength=4)
  assert found[1] == 0
  assert scipy.stats.chisquare(
    found[[0, 2, 3]], np.array([0.1, 0.6, 0.3]) * 8000
  ).pvalue > 1e-3  # fmt: skip
  # A number begins where the numbers before it end.
  largest = 1 - 2**-53
  for value, expected in ((0.0, 0), (0.25, 1), (0.75, 2), (largest, 2)):
    assert _Fixed(value).choice(3, p=(0.25, 0.5, 0.25)) == expected
  # Ten tenths add up to 1 - 2^-53 only: the last number is nobody's else.
  assert _Fixed(largest).choice(10, p=(0.1,) * 10) == 9


def test_choice_of_different_numbers():
  for n, size in ((50, 8), (50, 1), (6, 6)):
    found = _new("d", n).choice(n, size, replace=False)
    assert len(set(found.tolist())) == len(found) == size
    assert 0 <= found.min() and found.max() < n
  pairs = [_new("e", i).choice(5, 2, replace=False) for i in range(2000)]
  places = [int(a * 4 + b - (b > a)) for a, b in pairs]
  _fits(places, [1] * 20)


def test_permutation():
  found = _new("p").permutation(1000)
  assert sorted(found.tolist()) == list(range(1000))
  assert found.tolist() != list(range(1000))
  rng = _new("q")
  orders = ["".join(map(str, rng.permutation(3))) for _ in range(3000)]
  names = sorted(set(orders))
  _fits([names.index(x) for x in orders], [1] * 6)


@pytest.mark.parametrize("mean", [0.5, 4.0, 100.0, 1000.0])
def test_poisson(mean):
  rng, count = _new("n", mean), 8000
  found = np.array([rng.poisson(mean) for _ in range(count)])
  assert abs(found.mean() - mean) <= 4 * (mean / count) ** 0.5
  edges = np.unique(scipy.stats.poisson(mean).ppf(np.arange(1, 10) / 10))
  below = scipy.stats.poisson(mean).cdf([*edges[:-1], np.inf])
  _fits(np.searchsorted(edges[:-1], found), np.diff([0, *below]))


@pytest.mark.parametrize("mean", [0.0, 0.5, 3.3, 100.0])
def test_poisson_has_the_exact_distribution(mean):
  """Its steps, made of fractions and rounded once, to the last bit."""
  table = generator._poisson(mean)
  terms = [fractions.Fraction(1)]
  while len(terms) < 4 * mean + 60:
    terms.append(terms[-1] * fractions.Fraction(mean) / len(terms))
  total = sum(terms)  # exp(mean), but for 2^-100 of it
  sums = itertools.accumulate(terms[: len(table)])
  assert [float(x / total) for x in sums] == [*table]
  # A step belongs to the next number, and the last number is in reach.
  largest = 1 - 2**-53
  assert table[-1] == 1
  assert _Fixed(largest).poisson(mean) == bisect.bisect(table, largest)
  if mean:
    assert _Fixed(table[-9]).poisson(mean) == len(table) - 8
    assert _Fixed(math.nextafter(table[-9], 0)).poisson(mean) == len(table) - 9


def test_what_cannot_be_drawn_is_refused():
  rng = _new(0)
  for draw, message in (
    (lambda: rng.integers(3, 3), r"integers\(3, 3\): expected low < high"),
    (lambda: rng.integers(0), r"integers\(0, 0\)"),
    (lambda: rng.choice(3), "expected p alone, or size and replace=False"),
    (lambda: rng.choice(3, 2), "expected p alone"),
    (lambda: rng.choice(3, 2, p=(1, 0, 0)), "expected p alone"),
    (lambda: rng.choice(3, 4, replace=False), "4 different numbers below 3"),
    (lambda: rng.choice(3, p=(0.5, 0.5)), "expected 3 probabilities"),
    (lambda: rng.choice(2, p=(0.5, 0.6)), "that add up to 1"),
    (lambda: rng.choice(2, p=(1.5, -0.5)), "that add up to 1"),
    (lambda: rng.poisson(-0.5), r"poisson\(-0.5\): expected 0 to 1000"),
    (lambda: rng.poisson(float("nan")), r"poisson\(nan\)"),
  ):
    with pytest.raises(ValueError, match=message):
      draw()
