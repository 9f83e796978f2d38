r"""The line grammar of memory operations, parsed from token ids under jit.

A policy writes one operation a line:

    ADD Kim lives in Bern        a new entry
    UPDATE 2 Kim lives in Oslo   entry 2 of the prompt's list, with a new text
    DELETE 3                     entry 3 of the list goes
    NOOP                         nothing is to be done
    NONE                         there is nothing to note
    USE 1 4                      entries 1 and 4 of the list are used
    NOTE 1 3: Kim lives in Bern  a topic, with the turns that it comes from
    MERGE 2 Kim left Bern        entry 2 of the list becomes this text

The rules, on token ids:

  - a line ends with the token that contains a newline, and holds it whole;
    lines of white space are no lines;
  - a line begins, after white space, with the tokens of a verb, as the
    tokenizer encodes it at the start of a text or behind a space;
  - verb, number and text are parted by white space, which may be the first
    sign of the next token; any other straddling is an error of that line;
  - a number has at most three ASCII digits and names a place of the list,
    counted from 1;
  - the numbers of a NOTE end with a token that is a colon and white space at
    most; its text may follow at once, and may begin with a number;
  - a text is what is left of the line, without a last token of white space;
  - an id beyond the vocabulary is text;
  - a last line without newline counts if the response ended by itself, and is
    an error if it was cut at the limit.

Each line is one operation or one error, never both. Dimension key: B rows, T
tokens, N lines, K places of the list, P turns.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import grammar as grammar_lib

# Verbs; the first four are the kinds of `bank`.
NOOP, ADD, UPDATE, DELETE, NONE, USE, NOTE, MERGE = range(8)
VERBS = ("NOOP", "ADD", "UPDATE", "DELETE", "NONE", "USE", "NOTE", "MERGE")
# Of `parse_ops`.
NUMBERED = (UPDATE, DELETE)
TEXTED = (ADD, UPDATE)

# Errors of a line.
OK, NO_VERB, BAD_NUMBER, NO_TEXT, EXTRA_TEXT, DUPLICATE, CUT = range(7)
NO_COLON = 7
ERRORS = (
  "ok",
  "no verb",
  "bad number",
  "no text",
  "text where none belongs",
  "number used before",
  "cut at the limit",
  "no colon",
)


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
) -> grammar_lib.Grammar:
  """Classifies the vocabulary for these verbs; see `grammar.make`."""
  return grammar_lib.make(tokenizer, newline, VERBS)


def _alone(spans: grammar_lib.Spans) -> jax.Array:
  """bool [B, 1]: the response has no other line."""
  return (spans.there.sum(1) + spans.extra == 1)[:, None]


def parse_texts(
  grammar: grammar_lib.Grammar,
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
  spans = grammar_lib.find_lines(grammar, tokens, truncated_B, max_lines)
  verb, p = grammar_lib.find_verbs(grammar, tokens, spans, (NONE,))
  none = spans.there & (verb == NONE) & (spans.text(p) >= spans.end)
  error = jnp.where(none & ~_alone(spans), EXTRA_TEXT, OK)
  error = jnp.where(spans.cut, CUT, error)
  return Lines(
    spans.there,
    jnp.where(none, NONE, ADD),
    jnp.zeros_like(spans.begin),
    jnp.where(none, spans.end, spans.begin),
    spans.end,
    error,
    spans.extra,
  )


def parse_ops(
  grammar: grammar_lib.Grammar,
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
  spans = grammar_lib.find_lines(grammar, tokens, truncated_B, max_lines)
  # NONE and USE are read, and refused.
  verb, p = grammar_lib.find_verbs(grammar, tokens, spans, range(USE + 1))
  has, number, after = grammar_lib.number_behind(grammar, tokens, spans, p)
  numbered = jnp.isin(verb, jnp.array(NUMBERED))
  takes_number = numbered | ((verb == NOOP) & has)
  in_list = has & (number >= 1) & (number <= listed_B[:, None])
  start = spans.text(jnp.where(takes_number, after, p))
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


def parse_notes(
  grammar: grammar_lib.Grammar,
  tokens: token_lib.Tokens,
  truncated_B: jax.Array,
  turns_B: jax.Array,
  places: int,
  lines: int,
) -> tuple[Lines, jax.Array]:
  """Lines NOTE n n ...: text, or NONE alone.

  Of several errors of a line the first in reading order counts: a bad number,
  one that was named before in this line, no colon behind the numbers, no text.

  Args:
    grammar: of the tokenizer.
    tokens: responses without end token and reasoning.
    truncated_B: bool [B], the response was cut at the limit.
    turns_B: int [B], how many turns the prompt numbered, P at most.
    places: P.
    lines: N.

  Returns:
    (the lines, their `number` 0; bool [B, N, P] the turns that each comes
    from, none of a line in error).
  """
  spans = grammar_lib.find_lines(grammar, tokens, truncated_B, lines)
  verb, p = grammar_lib.find_verbs(grammar, tokens, spans, (NOTE, NONE))
  value, is_number, is_last = grammar_lib.find_numbers(grammar, tokens)
  note, none = verb == NOTE, verb == NONE
  # The numbers end before the first token that is none, nor white space.
  blank = grammar.has(grammar_lib.BLANK, tokens.ids)
  other = grammar_lib.next_set(tokens.mask & ~blank & ~is_number)
  stop = jnp.minimum(grammar_lib.at(other, p), spans.end)
  is_colon = grammar.has(grammar_lib.COLON, grammar_lib.at(tokens.ids, stop))
  colon = note & (stop < spans.end) & is_colon
  start = jnp.where(colon, spans.text(stop + 1), spans.end)
  position = jnp.arange(tokens.capacity)[None, :, None]
  named_BTN = (position >= p[:, None]) & (position < stop[:, None])
  named_BTN &= is_last[..., None]
  place = jnp.arange(1, places + 1)
  place_BTP = value[..., None] == place[None, None]
  listed = (value >= 1) & (value <= turns_B[:, None])
  # Sums of zeros and ones: exact in any precision.
  hits_BNP = jnp.einsum(
    "btn,btp->bnp",
    named_BTN.astype(jnp.float32),
    place_BTP.astype(jnp.float32),
  )
  unlisted = ~named_BTN.any(1) | (named_BTN & ~listed[..., None]).any(1)
  empty = spans.text(p) >= spans.end
  error = jnp.select(
    [
      spans.cut,
      ~note & ~none,
      none & ~(empty & _alone(spans)),
      note & unlisted,
      note & (hits_BNP > 1).any(2),
      note & ~colon,
      note & (start >= spans.end),
    ],
    [CUT, NO_VERB, EXTRA_TEXT, BAD_NUMBER, DUPLICATE, NO_COLON, NO_TEXT],
    OK,
  )
  good = spans.there & note & (error == OK)
  found = Lines(
    spans.there,
    verb,
    jnp.zeros_like(verb),
    start,
    spans.end,
    error,
    spans.extra,
  )
  return found, good[..., None] & (hits_BNP > 0)


def parse_merge(
  grammar: grammar_lib.Grammar,
  tokens: token_lib.Tokens,
  truncated_B: jax.Array,
  listed_B: jax.Array,
) -> Lines:
  """One line: ADD alone, or MERGE n text.

  Args:
    grammar: of the tokenizer.
    tokens: responses without end token and reasoning.
    truncated_B: bool [B], the response was cut at the limit.
    listed_B: int [B], how many entries the prompt listed.

  Returns:
    Lines with N = 1; further lines are counted in `extra`.
  """
  spans = grammar_lib.find_lines(grammar, tokens, truncated_B, 1)
  verb, p = grammar_lib.find_verbs(grammar, tokens, spans, (ADD, MERGE))
  has, number, after = grammar_lib.number_behind(grammar, tokens, spans, p)
  merge = verb == MERGE
  in_list = has & (number >= 1) & (number <= listed_B[:, None])
  start = spans.text(jnp.where(merge, after, p))
  error = jnp.select(
    [
      spans.cut,
      verb < 0,
      merge & ~in_list,
      merge & (start >= spans.end),
      ~merge & (start < spans.end),
    ],
    [CUT, NO_VERB, BAD_NUMBER, NO_TEXT, EXTRA_TEXT],
    OK,
  )
  number = jnp.where(merge, number, 0)
  return Lines(spans.there, verb, number, start, spans.end, error, spans.extra)


def parse_use(
  grammar: grammar_lib.Grammar,
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
  spans = grammar_lib.find_lines(grammar, tokens, truncated_B, 1)
  verb, p = grammar_lib.find_verbs(grammar, tokens, spans, (USE,))
  value, is_number, is_last = grammar_lib.find_numbers(grammar, tokens)
  position = jnp.arange(tokens.capacity)[None, :]
  inside = (position >= p) & (position < spans.end) & tokens.mask
  blank = grammar.has(grammar_lib.BLANK, tokens.ids)
  plain = (inside & ~is_number & ~blank).sum(1) == 0
  is_use = spans.there[:, 0] & (verb[:, 0] == USE) & ~spans.cut[:, 0] & plain
  named = inside & is_last & is_use[:, None]
  listed = named & (value >= 1) & (value <= listed_B[:, None])
  place = jnp.arange(1, places + 1)
  hits = (listed[:, :, None] & (value[:, :, None] == place[None, None])).sum(1)
  good = (named.sum(1) == listed.sum(1)) & (hits <= 1).all(1)
  # Behind the first newline after the verb.
  newline = tokens.mask & grammar.ends_line(tokens.ids)
  stop = grammar_lib.at(grammar_lib.next_set(newline), spans.begin)[:, 0]
  rest = jnp.minimum(stop + 1, tokens.length)
  # White space behind the answer is none of it.
  content = tokens.mask & ~blank
  end = jnp.where(content, position + 1, 0).max(1)
  answer = token_lib.slice_rows(tokens, jnp.where(is_use, rest, 0), end)
  return hits > 0, answer, ~(is_use & good)
