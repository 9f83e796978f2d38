"""Where lines, verbs and numbers stand among token ids, under jit.

`make` classifies a vocabulary once; the finders need its classes and no text.
`lines` says what the finds mean.

Dimension key: B rows, T tokens, N lines.
"""

import dataclasses
from collections.abc import Collection
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib

# The most of a number.
DIGITS = 3

# Bits of a token's class.
NEWLINE, BLANK, SPACE, NUMBER, COLON = 1, 2, 4, 8, 16


@dataclasses.dataclass(frozen=True)
class Grammar:
  """What the parser knows of a tokenizer; hashable, so static under jit.

  Attributes:
    classes: int16 [V + 1], bits of each token; the last is for other ids.
    value: int16 [V + 1], the number that a token is, or 0.
    width: int16 [V + 1], with how many digits.
    verbs: (verb, ids) for each way to write it.
    joined: neighbouring number tokens are digits of one number.
    newline: ids of a line's end, to build prompts with.
  """

  classes: token_lib.Table
  value: token_lib.Table
  width: token_lib.Table
  verbs: tuple[tuple[int, tuple[int, ...]], ...]
  joined: bool
  newline: tuple[int, ...]

  def has(self, bit: int, ids: jax.Array) -> jax.Array:
    """bool, for each token id: it is of this class."""
    return self.classes[ids] & bit > 0

  def ends_line(self, ids: jax.Array) -> jax.Array:
    """bool, for each token id: it contains a newline."""
    return self.has(NEWLINE, ids)


def make(
  tokenizer: tokenizer_lib.Tokenizer, newline: str, words: Sequence[str]
) -> Grammar:
  """Classifies the vocabulary.

  Args:
    tokenizer: of the policy.
    newline: the text that ends a line; a word of its own in a word-level
      vocabulary.
    words: the verbs, numbered by their place.

  Raises:
    ValueError: the vocabulary has no token with that text, or no digits.
  """
  pieces = tokenizer.pieces
  # One more: under jit an id beyond the table is read at its end.
  classes, value, width = np.zeros((3, len(pieces) + 1), np.int16)
  for i, piece in enumerate(pieces):
    bare = piece.replace(newline, "").strip()
    if newline in piece:
      classes[i] |= NEWLINE
    if not bare:
      classes[i] |= BLANK
    if piece[:1].isspace() or newline in piece[: len(newline) + 1]:
      classes[i] |= SPACE
    if bare == ":":
      classes[i] |= COLON
    if bare.isascii() and bare.isdigit() and len(bare) <= DIGITS:
      if newline not in piece:
        classes[i] |= NUMBER
        value[i], width[i] = int(bare), len(bare)
  verbs = []
  for verb, word in enumerate(words):
    for text in (word, " " + word):
      ids = tuple(tokenizer.encode(text)) if _known(tokenizer, word) else ()
      if ids and (verb, ids) not in verbs:
        verbs.append((verb, ids))
  end = tuple(tokenizer.encode(newline))
  if not (classes & NEWLINE).any() or not (classes & NUMBER).any():
    raise ValueError(
      f"the tokenizer has no token with {newline!r}, or none that is a digit: "
      "operations are written in numbered lines and need both"
    )
  return Grammar(
    token_lib.Table(classes),
    token_lib.Table(value),
    token_lib.Table(width),
    tuple(verbs),
    not tokenizer.parts_words,
    end,
  )


def _known(tokenizer: tokenizer_lib.Tokenizer, word: str) -> bool:
  """A word-level vocabulary need not have all verbs."""
  return not tokenizer.parts_words or word in tokenizer.backend.get_vocab()


def at(x_BT: jax.Array, index_BN: jax.Array) -> jax.Array:
  """x at clipped indices, [B, N]."""
  index = jnp.clip(index_BN, 0, x_BT.shape[1] - 1)
  return jnp.take_along_axis(x_BT, index, axis=1)


def next_set(flag_BT: jax.Array) -> jax.Array:
  """int [B, T + 1]: the first index from t on where the flag is set, or T."""
  T = flag_BT.shape[1]
  index = jnp.where(flag_BT, jnp.arange(T)[None, :], T)
  first = jax.lax.cummin(index, axis=1, reverse=True)
  return jnp.pad(first, ((0, 0), (0, 1)), constant_values=T)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spans:
  """Where lines are, without the white space around their text.

  Attributes:
    there: bool [B, N].
    begin: int [B, N], T for a line that is not there.
    end: int [B, N], behind its last token.
    cut: bool [B, N], the response ended in it at the limit.
    extra: int [B], how many lines came behind the N-th.
    filled: int [B, T + 1], the first token from t on that is not white space.
  """

  there: jax.Array
  begin: jax.Array
  end: jax.Array
  cut: jax.Array
  extra: jax.Array
  filled: jax.Array

  def text(self, index_BN: jax.Array) -> jax.Array:
    """int [B, N]: where the rest of a line has its first sign, or its end."""
    return jnp.minimum(at(self.filled, index_BN), self.end)


def find_lines(
  grammar: Grammar,
  tokens: token_lib.Tokens,
  truncated_B: jax.Array,
  max_lines: int,
) -> Spans:
  """Finds the first N lines; lines of white space are none."""
  T = tokens.capacity
  mask = tokens.mask
  bits = jnp.where(mask, grammar.classes[tokens.ids], 0)
  newline = mask & (bits & NEWLINE > 0)
  content = mask & (bits & BLANK == 0)
  # How many lines end before this token.
  line = jnp.cumsum(newline, axis=1) - newline
  ends = next_set(newline)
  # A first content token: the content before it lies in another line.
  index = jnp.broadcast_to(jnp.arange(T)[None, :], mask.shape)
  last = jax.lax.cummax(jnp.where(content, index, -1), axis=1)
  before = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :T]
  fresh = content & ((before < 0) | (at(line, before) != line))
  rank = jnp.where(fresh, jnp.cumsum(fresh, axis=1) - 1, max_lines)
  begin = jnp.full((mask.shape[0], max_lines + 1), T)
  begin = begin.at[jnp.arange(mask.shape[0])[:, None], rank].min(
    jnp.where(fresh, index, T)
  )[:, :max_lines]
  there = begin < T
  stop = at(ends, begin)
  closed = stop < tokens.length[:, None]
  # The newline's token belongs to the text unless it is white space alone.
  blank_end = closed & (at(bits, stop) & BLANK > 0)
  end = jnp.where(
    closed, jnp.where(blank_end, stop, stop + 1), tokens.length[:, None]
  )
  return Spans(
    there,
    begin,
    end,
    there & ~closed & truncated_B[:, None],
    jnp.maximum(fresh.sum(1) - max_lines, 0),
    next_set(content),
  )


def find_verbs(
  grammar: Grammar,
  tokens: token_lib.Tokens,
  spans: Spans,
  known: Collection[int],
) -> tuple[jax.Array, jax.Array]:
  """(known verb of each line or -1, where the rest begins); int [B, N]."""
  found = jnp.full(spans.begin.shape, -1)
  rest = spans.begin
  for verb, ids in grammar.verbs:
    if verb not in known:
      continue
    match = spans.begin + len(ids) <= spans.end
    for offset, token in enumerate(ids):
      match &= at(tokens.ids, spans.begin + offset) == token
    after = spans.begin + len(ids)
    spaced = grammar.has(SPACE, at(tokens.ids, after))
    match &= (after >= spans.end) | spaced
    found = jnp.where(match, verb, found)
    rest = jnp.where(match, after, rest)
  return found, rest


def find_numbers(
  grammar: Grammar, tokens: token_lib.Tokens
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What number ends at each token.

  Returns:
    (value [B, T] or -1 where too long, bool [B, T] a number token, bool
    [B, T] the last token of its number).
  """
  ids, mask = tokens.ids, tokens.mask
  is_number = mask & grammar.has(NUMBER, ids)
  value = jnp.where(is_number, grammar.value[ids], 0).astype(jnp.int32)
  if not grammar.joined:
    return value, is_number, is_number
  # A digit after white space in its own token begins a number, and only so:
  # " 3" would be a token with a space, which begins one as well.
  begins = grammar.has(SPACE, ids)
  shift = lambda x, n: jnp.pad(x, ((0, 0), (n, 0)))[:, : x.shape[1]]
  follows = is_number & ~begins & shift(is_number, 1)
  run = follows
  width = jnp.where(is_number, grammar.width[ids], 0).astype(jnp.int32)
  total, digits = value, width
  for back in range(1, DIGITS):
    scale = 10 ** jnp.minimum(digits, DIGITS)
    total = total + jnp.where(run, shift(value, back) * scale, 0)
    digits = digits + jnp.where(run, shift(width, back), 0)
    run = run & shift(follows, back)
  total = jnp.where(run | (digits > DIGITS), -1, total)
  next_follows = jnp.pad(follows, ((0, 0), (0, 1)))[:, 1:]
  return total, is_number, is_number & ~next_follows


def number_behind(
  grammar: Grammar,
  tokens: token_lib.Tokens,
  spans: Spans,
  index_BN: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The number of each line from a token on, with white space before it.

  Returns:
    (bool [B, N] there is one, its value or 0, where the rest begins).
  """
  value, is_number, is_last = find_numbers(grammar, tokens)
  q = at(spans.filled, index_BN)
  has = (q < spans.end) & at(is_number, q)
  last = at(next_set(is_last), q)
  number = jnp.where(has, at(value, last), 0)
  after = last + 1
  spaced = grammar.has(SPACE, at(tokens.ids, after))
  has &= (after >= spans.end) | spaced
  return has, number, jnp.where(has, after, index_BN)
