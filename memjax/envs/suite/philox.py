"""Random numbers that are the same on any machine and any library version.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011) maps a counter of 128 bits and a key of 64 to 128 random bits, in
integer arithmetic. Nothing here goes through numpy.random or a float. With
M0 = 0xD2511F53, M1 = 0xCD9E8D57 and the key (k0, k1), one of the ten rounds is

    (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2),
                         hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))

after which k0 grows by 0x9E3779B9 and k1 by 0xBB67AE85.

Dimension key: N counters.
"""

import hashlib
import json

import numpy as np

_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
# Counters at a time, so that the ten rounds stay in the cache.
_BLOCK = 1 << 12
# Words that are made at once at least: one call has a cost of its own.
_BUFFER = 256


def philox(counter_4N: np.ndarray, key: tuple[int, int]) -> np.ndarray:
  """Philox4x32-10.

  Args:
    counter_4N: uint64, each below 2^32.
    key: two numbers below 2^32.

  Returns:
    uint64 [4, N], each below 2^32.
  """
  c0_N, c1_N, c2_N, c3_N = counter_4N.copy()
  one_N, two_N = np.empty_like(c0_N), np.empty_like(c0_N)
  for i in range(_ROUNDS):
    k0 = np.uint64((key[0] + i * _W0) & 0xFFFFFFFF)
    k1 = np.uint64((key[1] + i * _W1) & 0xFFFFFFFF)
    np.multiply(c0_N, _M0, out=one_N)
    np.multiply(c2_N, _M1, out=two_N)
    np.right_shift(two_N, _HALF, out=c0_N)
    np.bitwise_xor(c0_N, c1_N, out=c0_N)
    np.bitwise_xor(c0_N, k0, out=c0_N)
    np.right_shift(one_N, _HALF, out=c2_N)
    np.bitwise_xor(c2_N, c3_N, out=c2_N)
    np.bitwise_xor(c2_N, k1, out=c2_N)
    np.bitwise_and(two_N, _MASK, out=c1_N)
    np.bitwise_and(one_N, _MASK, out=c3_N)
  return np.stack([c0_N, c1_N, c2_N, c3_N])


class Stream:
  """An endless row of random words, named by a path.

  SHA-256 of the path gives the key and the upper half of the counter, so that
  streams of different paths do not meet; the lower half counts the blocks. What
  is drawn depends on the path and on what was drawn before, on nothing else.

  Attributes:
    path: the name; another stream of that path gives the same words.
  """

  def __init__(self, *path: int | str):
    """Begins a stream, for example Stream(seed, "vt", 4096, "eval", 7)."""
    self.path = path
    digest = hashlib.sha256(json.dumps(path).encode()).digest()
    self._key = tuple(
      int.from_bytes(digest[i : i + 4], "little") for i in (0, 4)
    )
    self._upper = np.frombuffer(digest[8:16], "<u4").astype(np.uint64)
    self._block = 0
    self._row = np.empty(0, np.uint64)  # words that were made and not drawn
    self._at = 0

  def child(self, *path: int | str) -> "Stream":
    """A stream of its own, whatever was drawn from this one."""
    return Stream(*self.path, *path)

  def fresh(self) -> "Stream":
    """The same stream from its beginning."""
    return Stream(*self.path)

  def bits(self, count: int) -> np.ndarray:
    """The next words as uint64, each below 2^32."""
    missing = count - (len(self._row) - self._at)
    if missing > 0:
      fresh = self._make(max(missing, _BUFFER))
      self._row = np.concatenate([self._row[self._at :], fresh])
      self._at = 0
    self._at += count
    return self._row[self._at - count : self._at]

  def _make(self, count: int) -> np.ndarray:
    """Words of the next blocks, at least so many."""
    blocks = -(-count // 4)
    found = np.empty((blocks, 4), np.uint64)
    for start in range(0, blocks, _BLOCK):
      size = min(_BLOCK, blocks - start)
      number_N = np.arange(self._block, self._block + size, dtype=np.uint64)
      counter_4N = np.empty((4, size), np.uint64)
      counter_4N[0] = number_N & _MASK
      counter_4N[1] = number_N >> _HALF
      counter_4N[2:] = self._upper[:, None]
      found[start : start + size] = philox(counter_4N, self._key).T
      self._block += size
    return found.reshape(-1)

  def below(self, n: int, count: int) -> np.ndarray:
    """Integers in [0, n), all equally likely; int64 [count], n <= 2^32.

    Lemire's method (ACM TOMACS 29(1), 2019): of the product of a random word
    and n, the upper half is the number; words whose lower half is below
    2^32 mod n are drawn again, from the words that follow.
    """
    if not 1 <= n <= 1 << 32:
      raise ValueError(f"n={n}: expected 1 to 2^32")
    product = self.bits(count) * np.uint64(n)
    least = np.uint64((1 << 32) % n)
    (again,) = np.nonzero((product & _MASK) < least)
    while len(again):
      fresh = self.bits(len(again)) * np.uint64(n)
      product[again] = fresh
      again = again[(fresh & _MASK) < least]
    return (product >> _HALF).astype(np.int64)

  def integer(self, n: int) -> int:
    """One integer in [0, n), as `below` draws it."""
    least = (1 << 32) % n
    while True:
      if self._at == len(self._row):
        self._row, self._at = self._make(_BUFFER), 0
      product = self._row.item(self._at) * n
      self._at += 1
      if product & 0xFFFFFFFF >= least:
        return product >> 32

  def pick(self, items):
    """One of a sequence."""
    return items[self.integer(len(items))]

  def permutation(self, n: int) -> np.ndarray:
    """The numbers [0, n) in random order, int64.

    They are sorted by random words; of equal words, the lower number is first.
    """
    keys = (self.bits(n) << _HALF) | np.arange(n, dtype=np.uint64)
    keys.sort()
    return (keys & _MASK).astype(np.int64)

  def distinct(self, n: int, count: int) -> np.ndarray:
    """`count` different numbers of [0, n) in random order, int64.

    Drawn one after the other, and passed over where they were drawn before.
    """
    if count > n:
      raise ValueError(f"{count} different numbers below {n}: there are none")
    if 3 * count >= n:
      return self.permutation(n)[:count]
    found = np.empty(0, np.int64)
    while len(found) < count:
      more = self.below(n, count - len(found) + 8)
      found = np.concatenate([found, more])
      _, first = np.unique(found, return_index=True)
      found = found[np.sort(first)]
    return found[:count]
