"""Random UUIDs, with the tokens that they cost.

Qwen3's pretokenizer cuts a UUID into digits and into runs of letters, each with
the space or hyphen before it. What a run costs was measured with the real
tokenizer, up to three letters; a UUID with four in a row is drawn again, which
leaves about two in three.

Dimension key: N UUIDs, C characters (a space, 36 of the UUID, 3 of padding).
"""

import numpy as np

from memjax.envs.suite import philox

# Tokens of one to three letters of a UUID, in the order of `_runs`: behind a
# digit, a space and a hyphen.
RUN_TOKENS = {
  "": (
    "111111111111111111111111111111111111111111111122111112111111111111121122"
    "111111211122211212221122212122211111222121111111121122111112211221111111"
    "222221221111121212221222112111111111122121222122112222121112112112121112"
    "122111211121222212221212211221111111111111"
  ),
  " ": (
    "111111111111111111111111111111111111111111122222111222221212111112222222"
    "222221211122221222222222222222212111222122211121222122222222222222222222"
    "222222211122221222221222222222211111222222222222222222221222222222222222"
    "222221211222222222222222222222221112222222"
  ),
  "-": (
    "111111211122222212122212112112222122222212222232222222222222222122222222"
    "222221222222222222222222222222222122222222222222222222222223222222222222"
    "222222222222222222222222222222222221222222222222223323232223222222232222"
    "233221222222222222222222222222222122222222"
  ),
}


_AFTER = {" ": 1, "-": 2}  # row of the table; 0 behind a digit
_TABLE = np.array(
  [[int(x) for x in RUN_TOKENS[key]] for key in ("", " ", "-")], np.int64
)
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_HYPHENS = (9, 14, 19, 24)
_DIGITS = [c for c in range(1, 37) if c not in _HYPHENS]


def draw(stream: philox.Stream, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Different UUIDs of version 4, and the tokens of each behind a space.

  Two are equal with a probability below 2^-80 for a million of them.

  Returns:
    (texts [N] of str, tokens int64 [N]).
  """
  char_NC = np.empty((0, 40), np.uint8)
  while len(char_NC) < count:
    fresh_NC = _characters(stream.bits(4 * (count - len(char_NC))))
    letter_NC = fresh_NC >= ord("a")
    four_NC = letter_NC[:, :-3].copy()
    for ahead in (1, 2, 3):
      four_NC &= letter_NC[:, ahead : ahead - 3 or None]
    char_NC = np.concatenate([char_NC, fresh_NC[~four_NC.any(axis=1)]])
  texts = np.ascontiguousarray(char_NC[:, 1:37]).view("S36")[:, 0]
  return texts.astype(str).astype(object), _tokens(char_NC)


def _characters(word_M: np.ndarray) -> np.ndarray:
  """UUIDs of four words each, with version and variant as RFC 9562 has them."""
  word_N4 = word_M.reshape(-1, 4)
  shift = np.arange(28, -1, -4, dtype=np.uint64)
  digit_ND = (word_N4[:, :, None] >> shift & np.uint64(15)).reshape(-1, 32)
  digit_ND[:, 12] = 4
  digit_ND[:, 16] = digit_ND[:, 16] & np.uint64(3) | np.uint64(8)
  char_NC = np.zeros((len(word_N4), 40), np.uint8)
  char_NC[:, 0] = ord(" ")
  char_NC[:, _HYPHENS] = ord("-")
  char_NC[:, _DIGITS] = _HEX[digit_ND]
  return char_NC


def _tokens(char_NC: np.ndarray) -> np.ndarray:
  """One for each run of letters as the table says, one for all else."""
  letter_NC = char_NC >= ord("a")
  starts = np.zeros_like(letter_NC)
  starts[:, 1:] = letter_NC[:, 1:] & ~letter_NC[:, :-1]
  n, c = np.nonzero(starts)
  value = lambda ahead: char_NC[n, c + ahead].astype(np.int64) - ord("a")
  one, two, three = value(0), value(1), value(2)
  # Singles are 0 to 5 in the table, pairs 6 to 41, triples 42 to 257.
  run = np.where(
    two < 0,
    one,
    np.where(three < 0, 6 + 6 * one + two, 42 + 36 * one + 6 * two + three),
  )
  before = char_NC[n, c - 1]
  row = (before == ord(" ")) * _AFTER[" "] + (before == ord("-")) * _AFTER["-"]
  # A mark before a run is part of it.
  costs = _TABLE[row, run] - (row > 0)
  tokens_N = ((char_NC > 0) & ~letter_NC).sum(axis=1, dtype=np.int64)
  np.add.at(tokens_N, n, costs)
  return tokens_N
