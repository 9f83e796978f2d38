r"""The line grammar of memory operations, parsed from token ids under jit.

A policy writes one operation a line:

    ADD Kim lives in Bern        a new entry
    UPDATE 2 Kim lives in Oslo   entry 2 of the prompt's list, with a new text
    DELETE 3                     entry 3 of the list goes
    NOOP                         nothing is to be done
    NONE                         there is nothing to note
    USE 1 4                      entries 1 and 4 of the list are used

The rules, on token ids:

  - a line ends with the token that contains a newline, and holds it whole;
    lines of white space are no lines;
  - a line begins, after white space, with the tokens of a verb, as the
    tokenizer encodes it at the start of a text or behind a space;
  - verb, number and text are parted by white space, which may be the first
    sign of the next token; any other straddling is an error of that line;
  - a number has at most three ASCII digits and names a place of the list,
    counted from 1;
  - a text is what is left of the line, without a last token of white space;
  - an id beyond the vocabulary is text;
  - a last line without newline counts if the response ended by itself, and is
    an error if it was cut at the limit.

Each line is one operation or one error, never both. Dimension key: B rows, T
tokens, N lines, K places of the list.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib

# Verbs; the first four are the kinds of `bank`.
NOOP, ADD, UPDATE, DELETE, NONE, USE = range(6)
VERBS = ("NOOP", "ADD", "UPDATE", "DELETE", "NONE", "USE")
NUMBERED = (UPDATE, DELETE)
TEXTED = (ADD, UPDATE)

# Errors of a line.
OK, NO_VERB, BAD_NUMBER, NO_TEXT, EXTRA_TEXT, DUPLICATE, CUT = range(7)
ERRORS = (
  "ok",
  "no verb",
  "bad number",
  "no text",
  "text where none belongs",
  "number used before",
  "cut at the limit",
)

DIGITS = 3

# Bits of a token's class.
_NEWLINE, _BLANK, _SPACE, _NUMBER = 1, 2, 4, 8


@dataclasses.dataclass(frozen=True)
class Grammar:
  """What the parser knows of a tokenizer; hashable, so static under jit.

  Attributes:
    classes: int16 [V + 1], bits of each token; the last is for other ids.
    value: int16 [V], the number that a token is, or 0.
    width: int16 [V], with how many digits.
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

  def ends_line(self, ids: jax.Array) -> jax.Array:
    """bool, for each token id: it contains a newline."""
    return self.classes[ids] & _NEWLINE > 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lines:
  """N lines of each of B responses; unused places have `there` False.

  Attributes:
    there: bool [B, N].
    verb: int32 [B, N]; of a line with an error it means nothing.
    number: int32 [B, N], place of the list from 1, or 0.
    start: int32 [B, N], first token of the text.
    stop: int32 [B, N], behind its last token.
    error: int32 [B, N], OK or what is wrong.
    extra: int32 [B], how many lines came behind the N-th.
  """

  there: jax.Array
  verb: jax.Array
  number: jax.Array
  start: jax.Array
  stop: jax.Array
  error: jax.Array
  extra: jax.Array


def make_grammar(
  tokenizer: tokenizer_lib.Tokenizer, newline: str = "\n"
) -> Grammar:
  """Classifies the vocabulary.

  Args:
    tokenizer: of the policy.
    newline: the text that ends a line; a word of its own in a word-level
      vocabulary.

  Raises:
    ValueError: the vocabulary has no token with that text, or no digits.
  """
  pieces = tokenizer.pieces
  # One more: under jit an id beyond the table is read at its end.
  classes, value, width = np.zeros((3, len(pieces) + 1), np.int16)
  for i, piece in enumerate(pieces):
    bare = piece.replace(newline, "").strip()
    if newline in piece:
      classes[i] |= _NEWLINE
    if not bare:
      classes[i] |= _BLANK
    if piece[:1].isspace() or newline in piece[: len(newline) + 1]:
      classes[i] |= _SPACE
    if bare.isascii() and bare.isdigit() and len(bare) <= DIGITS:
      if newline not in piece:
        classes[i] |= _NUMBER
        value[i], width[i] = int(bare), len(bare)
  verbs = []
  for verb, word in enumerate(VERBS):
    for text in (word, " " + word):
      ids = tuple(tokenizer.encode(text)) if _known(tokenizer, word) else ()
      if ids and (verb, ids) not in verbs:
        verbs.append((verb, ids))
  end = tuple(tokenizer.encode(newline))
  if not (classes & _NEWLINE).any() or not (classes & _NUMBER).any():
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


def _at(x_BT: jax.Array, index_BN: jax.Array) -> jax.Array:
  """x at clipped indices, [B, N]."""
  index = jnp.clip(index_BN, 0, x_BT.shape[1] - 1)
  return jnp.take_along_axis(x_BT, index, axis=1)


def _next(flag_BT: jax.Array) -> jax.Array:
  """int [B, T + 1]: the first index from t on where the flag is set, or T."""
  T = flag_BT.shape[1]
  index = jnp.where(flag_BT, jnp.arange(T)[None, :], T)
  first = jax.lax.cummin(index, axis=1, reverse=True)
  return jnp.pad(first, ((0, 0), (0, 1)), constant_values=T)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Spans:
  """Where lines are, and per-token facts that their parsing needs."""

  there: jax.Array
  begin: jax.Array
  end: jax.Array
  cut: jax.Array
  extra: jax.Array
  filled: jax.Array


def _spans(
  grammar: Grammar, tokens: token_lib.Tokens, open_B: jax.Array, lines: int
) -> _Spans:
  """Finds the lines: [begin, end) without the white space around the text."""
  T = tokens.capacity
  mask = tokens.mask
  bits = jnp.where(mask, grammar.classes[tokens.ids], 0)
  newline = mask & (bits & _NEWLINE > 0)
  content = mask & (bits & _BLANK == 0)
  # The number of content tokens in a line before this one, 0 for its first.
  line = jnp.cumsum(newline, axis=1) - newline
  filled = _next(content)
  ends = _next(newline)
  # A first content token: the content before it lies in another line.
  index = jnp.broadcast_to(jnp.arange(T)[None, :], mask.shape)
  last = jax.lax.cummax(jnp.where(content, index, -1), axis=1)
  before = jnp.pad(last, ((0, 0), (1, 0)), constant_values=-1)[:, :T]
  fresh = content & ((before < 0) | (_at(line, before) != line))
  rank = jnp.where(fresh, jnp.cumsum(fresh, axis=1) - 1, lines)
  begin = jnp.full((mask.shape[0], lines + 1), T)
  begin = begin.at[jnp.arange(mask.shape[0])[:, None], rank].min(
    jnp.where(fresh, index, T)
  )[:, :lines]
  there = begin < T
  stop = _at(ends, begin)
  closed = stop < tokens.length[:, None]
  # The newline's token belongs to the text unless it is white space alone.
  blank_end = closed & (_at(bits, stop) & _BLANK > 0)
  end = jnp.where(
    closed, jnp.where(blank_end, stop, stop + 1), tokens.length[:, None]
  )
  return _Spans(
    there,
    begin,
    end,
    there & ~closed & open_B[:, None],
    jnp.maximum(fresh.sum(1) - lines, 0),
    filled,
  )


def parse_texts(
  grammar: Grammar,
  tokens: token_lib.Tokens,
  truncated_B: jax.Array,
  max_lines: int,
) -> Lines:
  """Lines of free text, such as facts: verb ADD, or NONE where it says so.

  NONE beside other lines is an error of that line.

  Args:
    grammar: of the tokenizer.
    tokens: responses without end token and reasoning.
    truncated_B: bool [B], the response was cut at the limit.
    max_lines: N.
  """
  spans = _spans(grammar, tokens, truncated_B, max_lines)
  verb, p = _verb(grammar, tokens, spans)
  none = spans.there & (verb == NONE) & (_at(spans.filled, p) >= spans.end)
  alone = spans.there.sum(1) + spans.extra == 1
  error = jnp.where(none & ~alone[:, None], EXTRA_TEXT, OK)
  error = jnp.where(spans.cut, CUT, error)
  zero = jnp.zeros_like(spans.begin)
  return Lines(
    spans.there,
    jnp.where(none, NONE, ADD),
    zero,
    jnp.where(none, spans.end, spans.begin),
    spans.end,
    error,
    spans.extra,
  )


def _verb(
  grammar: Grammar, tokens: token_lib.Tokens, spans: _Spans
) -> tuple[jax.Array, jax.Array]:
  """(verb of each line or -1, where the rest of the line begins); [B, N]."""
  found = jnp.full(spans.begin.shape, -1)
  rest = spans.begin
  for verb, ids in grammar.verbs:
    match = spans.begin + len(ids) <= spans.end
    for offset, token in enumerate(ids):
      match &= _at(tokens.ids, spans.begin + offset) == token
    after = spans.begin + len(ids)
    spaced = grammar.classes[_at(tokens.ids, after)] & _SPACE > 0
    match &= (after >= spans.end) | spaced
    found = jnp.where(match, verb, found)
    rest = jnp.where(match, after, rest)
  return found, rest


def _numbers(
  grammar: Grammar, tokens: token_lib.Tokens
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What number ends at each token.

  Returns:
    (value [B, T] or -1 where too long, bool [B, T] a number token, bool
    [B, T] the last token of its number).
  """
  ids, mask = tokens.ids, tokens.mask
  is_number = mask & (grammar.classes[ids] & _NUMBER > 0)
  value = jnp.where(is_number, grammar.value[ids], 0).astype(jnp.int32)
  if not grammar.joined:
    return value, is_number, is_number
  # A digit after white space in its own token begins a number, and only so:
  # " 3" would be a token with a space, which begins one as well.
  begins = grammar.classes[ids] & _SPACE > 0
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


def parse_ops(
  grammar: Grammar,
  tokens: token_lib.Tokens,
  truncated_B: jax.Array,
  listed_B: jax.Array,
  max_lines: int,
) -> Lines:
  """Lines of NOOP, ADD, UPDATE and DELETE.

  Args:
    grammar: of the tokenizer.
    tokens: responses without end token and reasoning.
    truncated_B: bool [B], the response was cut at the limit.
    listed_B: int [B], how many entries the prompt listed.
    max_lines: N.
  """
  spans = _spans(grammar, tokens, truncated_B, max_lines)
  verb, p = _verb(grammar, tokens, spans)
  value, is_number, is_last = _numbers(grammar, tokens)
  ends = _next(is_last)
  # The number: from the next token that is not white space.
  q = _at(spans.filled, p)
  has = (q < spans.end) & _at(is_number, q)
  last = _at(ends, q)
  number = jnp.where(has, _at(value, last), 0)
  after = last + 1
  spaced = grammar.classes[_at(tokens.ids, after)] & _SPACE > 0
  has &= (after >= spans.end) | spaced
  numbered = jnp.isin(verb, jnp.array(NUMBERED))
  takes_number = numbered | ((verb == NOOP) & has)
  in_list = has & (number >= 1) & (number <= listed_B[:, None])
  p = jnp.where(takes_number & has, after, p)
  start = jnp.minimum(_at(spans.filled, p), spans.end)
  texted = jnp.isin(verb, jnp.array(TEXTED))
  number = jnp.where(takes_number, number, 0)
  N = number.shape[1]
  earlier = jnp.arange(N)[:, None] > jnp.arange(N)[None, :]
  good = spans.there & numbered & in_list & ~spans.cut
  same = number[:, :, None] == number[:, None, :]
  repeated = good & (same & earlier[None] & good[:, None, :]).any(2)
  error = jnp.select(
    [
      spans.cut,
      (verb < 0) | (verb == NONE) | (verb == USE),
      takes_number & ~in_list,
      repeated,
      texted & (start >= spans.end),
      ~texted & (start < spans.end),
    ],
    [CUT, NO_VERB, BAD_NUMBER, DUPLICATE, NO_TEXT, EXTRA_TEXT],
    OK,
  )
  return Lines(spans.there, verb, number, start, spans.end, error, spans.extra)


def parse_use(
  grammar: Grammar,
  tokens: token_lib.Tokens,
  truncated_B: jax.Array,
  listed_B: jax.Array,
  places: int,
) -> tuple[jax.Array, token_lib.Tokens, jax.Array]:
  """A first line USE n n ..., and the answer that follows it.

  A first line that breaks the grammar names nothing, and the whole response is
  the answer; a place that does not exist is left out, and so is one that was
  named before: both make the line malformed.

  Args:
    grammar: of the tokenizer.
    tokens: responses without end token and reasoning.
    truncated_B: bool [B], the response was cut at the limit.
    listed_B: int [B], how many entries the prompt listed.
    places: K, the most that it lists.

  Returns:
    (bool [B, K] used, the answer, bool [B] malformed).
  """
  spans = _spans(grammar, tokens, truncated_B, 1)
  verb, p = _verb(grammar, tokens, spans)
  value, is_number, is_last = _numbers(grammar, tokens)
  position = jnp.arange(tokens.capacity)[None, :]
  inside = (position >= p) & (position < spans.end) & tokens.mask
  blank = grammar.classes[tokens.ids] & _BLANK > 0
  plain = (inside & ~is_number & ~blank).sum(1) == 0
  is_use = spans.there[:, 0] & (verb[:, 0] == USE) & ~spans.cut[:, 0] & plain
  named = inside & is_last & is_use[:, None]
  listed = named & (value >= 1) & (value <= listed_B[:, None])
  place = jnp.arange(1, places + 1)
  hits = (listed[:, :, None] & (value[:, :, None] == place[None, None])).sum(1)
  good = (named.sum(1) == listed.sum(1)) & (hits <= 1).all(1)
  # Behind the first newline after the verb.
  newline = tokens.mask & (grammar.classes[tokens.ids] & _NEWLINE > 0)
  stop = _at(_next(newline), spans.begin)[:, 0]
  rest = jnp.minimum(stop + 1, tokens.length)
  # White space behind the answer is none of it.
  content = tokens.mask & ~blank
  end = jnp.where(content, position + 1, 0).max(1)
  answer = token_lib.slice_rows(tokens, jnp.where(is_use, rest, 0), end)
  return hits > 0, answer, ~(is_use & good)
