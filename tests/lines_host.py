"""The line grammar in plain Python, on the texts of one response's tokens.

The rules of `lines` once more, written without arrays; tests hold the two
together on a million responses. Use it where there is no device, and to explain
a response to people.
"""

import dataclasses
from collections.abc import Collection
from collections.abc import Sequence

from memjax import tokenizer as tokenizer_lib
from memjax.memory import grammar as grammar_lib
from memjax.memory import lines


@dataclasses.dataclass(frozen=True)
class Line:
  """One line; the text is tokens [start, stop) of the response."""

  verb: int
  number: int
  start: int
  stop: int
  error: int


@dataclasses.dataclass(frozen=True)
class Parser:
  """What the parser knows of a tokenizer.

  Attributes:
    verbs: (verb, pieces) for each way to write it.
    newline: the text that ends a line.
    joined: neighbouring number tokens are digits of one number.
  """

  verbs: tuple[tuple[int, tuple[str, ...]], ...]
  newline: str
  joined: bool

  def _facts(self, pieces: Sequence[str]):
    """(white space, begins with white space, number) of each piece."""
    blank = [not x.replace(self.newline, "").strip() for x in pieces]
    spaced = [
      x[:1].isspace() or self.newline in x[: len(self.newline) + 1]
      for x in pieces
    ]
    number = [
      x.strip().isascii()
      and x.strip().isdigit()
      and len(x.strip()) <= grammar_lib.DIGITS
      and self.newline not in x
      for x in pieces
    ]
    return blank, spaced, number

  def _spans(self, pieces: Sequence[str]) -> list[tuple[int, int, bool]]:
    """(begin, end, closed by a newline) of each line that is not blank."""
    blank, _, _ = self._facts(pieces)
    found, begin = [], 0
    for i, piece in enumerate(pieces):
      closed = self.newline in piece
      if not closed and i + 1 < len(pieces):
        continue
      first, end = begin, i + 1
      begin = end
      while first < end and blank[first]:
        first += 1
      if first < end:
        found.append((first, end - (closed and blank[end - 1]), closed))
    return found

  def _verb(
    self, pieces, spaced, begin: int, end: int, known: Collection[int]
  ) -> tuple[int, int]:
    """(known verb or -1, where the rest of the line begins)."""
    for verb, written in self.verbs:
      after = begin + len(written)
      same = tuple(pieces[begin:after]) == written
      if verb in known and after <= end and same:
        if after == end or spaced[after]:
          return verb, after
    return -1, begin

  def _number(self, pieces, spaced, number, at: int) -> tuple[int, int]:
    """(value or -1 where too long, behind its last token)."""
    stop = at + 1
    while (
      self.joined and stop < len(pieces) and number[stop] and not spaced[stop]
    ):
      stop += 1
    text = "".join(x.strip() for x in pieces[at:stop])
    return (int(text) if len(text) <= grammar_lib.DIGITS else -1), stop

  def ops(
    self, pieces: Sequence[str], truncated: bool, listed: int
  ) -> list[Line]:
    """What `lines.parse_ops` finds, without a limit of lines."""
    blank, spaced, is_number = self._facts(pieces)
    found, used = [], set()
    for begin, end, closed in self._spans(pieces):
      skip = lambda i, end=end: next(
        (j for j in range(i, end) if not blank[j]), end
      )
      verb, p = self._verb(pieces, spaced, begin, end, range(lines.USE + 1))
      q, value, has = skip(p), 0, False
      if q < end and is_number[q]:
        value, stop = self._number(pieces, spaced, is_number, q)
        has = stop >= end or spaced[stop]
      takes = verb in lines.NUMBERED or (verb == lines.NOOP and has)
      start = skip(stop if takes and has else p)
      known = takes and has and 1 <= value <= listed
      if truncated and not closed:
        error = lines.CUT
      elif verb in (-1, lines.NONE, lines.USE):
        error = lines.NO_VERB
      elif takes and not known:
        error = lines.BAD_NUMBER
      elif verb in lines.NUMBERED and value in used:
        error = lines.DUPLICATE
      elif verb in lines.TEXTED and start >= end:
        error = lines.NO_TEXT
      elif verb not in lines.TEXTED and start < end:
        error = lines.EXTRA_TEXT
      else:
        error = lines.OK
      # A number counts as used even if the rest of its line is wrong.
      if verb in lines.NUMBERED and known and error != lines.CUT:
        used.add(value)
      found.append(Line(verb, value if takes else 0, start, end, error))
    return found

  def texts(self, pieces: Sequence[str], truncated: bool) -> list[Line]:
    """What `lines.parse_texts` finds, without a limit of lines."""
    blank, spaced, _ = self._facts(pieces)
    spans, found = self._spans(pieces), []
    for begin, end, closed in spans:
      verb, p = self._verb(pieces, spaced, begin, end, (lines.NONE,))
      none = verb == lines.NONE and all(blank[p:end])
      error = lines.OK
      if none and len(spans) > 1:
        error = lines.EXTRA_TEXT
      if truncated and not closed:
        error = lines.CUT
      found.append(
        Line(
          lines.NONE if none else lines.ADD,
          0,
          end if none else begin,
          end,
          error,
        )
      )
    return found

  def notes(
    self, pieces: Sequence[str], truncated: bool, turns: int
  ) -> list[tuple[Line, set[int]]]:
    """What `lines.parse_notes` finds, without a limit of lines.

    Returns:
      Lines, and the numbers of the turns that each comes from.
    """
    blank, spaced, is_number = self._facts(pieces)
    spans, found = self._spans(pieces), []
    for begin, end, closed in spans:
      known = (lines.NOTE, lines.NONE)
      verb, p = self._verb(pieces, spaced, begin, end, known)
      values, i = [], p
      while i < end and (blank[i] or is_number[i]):
        if is_number[i]:
          value, i = self._number(pieces, spaced, is_number, i)
          values.append(value)
        else:
          i += 1
      colon = i < end and pieces[i].replace(self.newline, "").strip() == ":"
      text = end
      if verb == lines.NOTE and colon:
        text = next((j for j in range(i + 1, end) if not blank[j]), end)
      if truncated and not closed:
        error = lines.CUT
      elif verb == lines.NONE:
        alone = len(spans) == 1 and all(blank[p:end])
        error = lines.OK if alone else lines.EXTRA_TEXT
      elif verb != lines.NOTE:
        error = lines.NO_VERB
      elif not values or not all(1 <= value <= turns for value in values):
        error = lines.BAD_NUMBER
      elif len(set(values)) < len(values):
        error = lines.DUPLICATE
      elif not colon:
        error = lines.NO_COLON
      elif text == end:
        error = lines.NO_TEXT
      else:
        error = lines.OK
      good = verb == lines.NOTE and error == lines.OK
      line = Line(verb, 0, text, end, error)
      found.append((line, set(values) if good else set()))
    return found

  def merge(
    self, pieces: Sequence[str], truncated: bool, listed: int
  ) -> list[Line]:
    """What `lines.parse_merge` finds in a first line, for every line."""
    blank, spaced, is_number = self._facts(pieces)
    found = []
    for begin, end, closed in self._spans(pieces):
      known = (lines.ADD, lines.MERGE)
      verb, p = self._verb(pieces, spaced, begin, end, known)
      skip = lambda i, end=end: next(
        (j for j in range(i, end) if not blank[j]), end
      )
      q, value, has = skip(p), 0, False
      if verb == lines.MERGE and q < end and is_number[q]:
        value, stop = self._number(pieces, spaced, is_number, q)
        has = stop >= end or spaced[stop]
      text = skip(stop if has else p)
      if truncated and not closed:
        error = lines.CUT
      elif verb == -1:
        error = lines.NO_VERB
      elif verb == lines.ADD:
        error = lines.EXTRA_TEXT if text < end else lines.OK
      elif not (has and 1 <= value <= listed):
        error = lines.BAD_NUMBER
      else:
        error = lines.NO_TEXT if text == end else lines.OK
      found.append(Line(verb, value, text, end, error))
    return found

  def use(
    self, pieces: Sequence[str], truncated: bool, listed: int
  ) -> tuple[set[int], slice, bool]:
    """(numbers used, where the answer stands, malformed)."""
    blank, spaced, is_number = self._facts(pieces)
    last = max((i for i, x in enumerate(blank) if not x), default=-1) + 1
    spans = self._spans(pieces)
    if not spans:
      return set(), slice(0, last), True
    begin, end, closed = spans[0]
    verb, p = self._verb(pieces, spaced, begin, end, (lines.USE,))
    if verb != lines.USE or (truncated and not closed):
      return set(), slice(0, last), True
    if not all(blank[i] or is_number[i] for i in range(p, end)):
      return set(), slice(0, last), True
    values, i = [], p
    while i < end:
      if is_number[i]:
        value, i = self._number(pieces, spaced, is_number, i)
        values.append(value)
      else:
        i += 1
    named = [value for value in values if 1 <= value <= listed]
    answer = next(
      (i + 1 for i in range(begin, len(pieces)) if self.newline in pieces[i]),
      len(pieces),
    )
    at = slice(answer, max(answer, last))
    return set(named), at, len(set(named)) < len(values)


def make_parser(
  tokenizer: tokenizer_lib.Tokenizer, newline: str = "\n"
) -> Parser:
  """The parser that goes with `lines.make_grammar(tokenizer, newline)`."""
  grammar = lines.make_grammar(tokenizer, newline)
  pieces = tokenizer.pieces
  return Parser(
    tuple((verb, tuple(pieces[i] for i in ids)) for verb, ids in grammar.verbs),
    newline,
    grammar.joined,
  )
