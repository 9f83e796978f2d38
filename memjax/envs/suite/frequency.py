"""RULER's common and frequent words (arXiv 2404.06654, section 3, appendix B).

    cwe   List: 1. rewur-zitas 2. nohon-vosal 3. rewur-zitas ...
          Ten words stand there 30 times each, all others three times (below
          4,096 tokens: 6 times and once). Which are the ten?
    fwe   Text: ... sodok-senik ... ... nohon-vosal ... sodok-senik
          The word of rank k stands there floor(N k^-2 / zeta(2)) times; rank 1
          is the dots. Which three words are the most frequent?

N is the largest one that fits. zeta(2) is pi^2 / 6, and its inverse is taken as
6079271019 / 10^10, so that counts are integers of integers. As published, fwe
has at most length / 50 different words.
"""

import collections
import math
import re

import numpy as np

from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import philox
from memjax.envs.suite import words

COMMON = 10
FREQUENT = 3

_LONG = 4096  # tokens from which on cwe repeats its words more often
_DOTS = "..."
_LIST, _TEXT = "List:", "Text:"
_ITEM = re.compile(r"\d+\. ([a-z]+-[a-z]+)")
_CODED = re.compile(r"[a-z]+-[a-z]+")
_INVERSE_ZETA, _SCALE = 6_079_271_019, 10**10


def _common(stream: philox.Stream, length: int) -> draft.Draft:
  often, seldom = (30, 3) if length >= _LONG else (6, 1)
  numbers = stream.distinct(words.COMPOUNDS, COMMON)
  answers = tuple(words.compounds(numbers)[0].tolist())
  hidden = stream.child("text")
  return draft.Draft(
    f"What are the {COMMON} most common words in the above list?",
    answers,
    tuple(f"{i}. {word}\n" for i, word in enumerate(answers, start=1)),
    COMMON / words.COMPOUNDS,
    lambda: _list(hidden.fresh(), numbers, length, often, seldom),
  )


def _list(
  stream: philox.Stream,
  common: np.ndarray,
  length: int,
  often: int,
  seldom: int,
) -> tuple[str, int]:
  """A numbered list with as many other words as fit."""
  head = words.plain(_LIST)
  # An item is a space, a number, a full stop and a word of two tokens or more.
  most = length // (5 * seldom) + 1
  others = stream.distinct(words.COMPOUNDS, most + COMMON)
  others = others[~np.isin(others, common)][:most]
  texts, tokens = words.compounds(np.concatenate([common, others]))
  frame = np.cumsum(words.digits(COMMON * often + most * seldom) + 2)
  totals = (
    head
    + often * int(tokens[:COMMON].sum())
    + seldom * np.concatenate([[0], np.cumsum(tokens[COMMON:])])
    + frame[COMMON * often - 1 :: seldom]
  )
  count = int(np.searchsorted(totals, length, side="right")) - 1
  if count < 1:
    raise ValueError(
      f"length={length}: cwe needs at least {totals[1]} tokens; choose a "
      "longer text"
    )
  places = np.concatenate(
    [
      np.repeat(np.arange(COMMON), often),
      np.repeat(np.arange(COMMON, COMMON + count), seldom),
    ]
  )
  listed = texts[places[stream.permutation(len(places))]].tolist()
  items = [f"{i}. {word}" for i, word in enumerate(listed, start=1)]
  return " ".join([_LIST, *items]), int(totals[count])


def _frequent(stream: philox.Stream, length: int) -> draft.Draft:
  # Of higher ranks there is less than one word.
  most = min(length // 50, math.isqrt(length))
  ranks = np.arange(1, max(most, FREQUENT + 1) + 1)
  texts, tokens = words.compounds(stream.distinct(words.COMPOUNDS, len(ranks)))
  texts[0], tokens[0] = _DOTS, words.plain("x")
  head = words.plain(_TEXT)
  low, high = 1, length  # a word has at least one token
  while low < high:
    middle = (low + high + 1) // 2
    if head + int((counts(middle, ranks) * tokens).sum()) <= length:
      low = middle
    else:
      high = middle - 1
  count = counts(low, ranks)
  hidden = stream.child("text")

  def render() -> tuple[str, int]:
    places = np.repeat(ranks - 1, count)
    order = hidden.fresh().permutation(len(places))
    text = " ".join([_TEXT, *texts[places[order]].tolist()])
    return text, head + int((count * tokens).sum())

  answers = tuple(texts[1 : FREQUENT + 1].tolist())
  return draft.Draft(
    f"What are the {FREQUENT} most frequently appeared words in the above "
    "coded text? Ignore the dots.",
    answers,
    tuple(f"{word}\n" for word in answers),
    FREQUENT / words.COMPOUNDS,
    render,
  )


def counts(total: int, ranks: np.ndarray) -> np.ndarray:
  """floor(total * rank^-2 / zeta(2)), int64; exact for totals up to 10^9."""
  return total * _INVERSE_ZETA // (_SCALE * ranks.astype(np.int64) ** 2)


def _task(draw, pattern: re.Pattern, count: int, least: int) -> draft.Task:
  """The most frequent words of a text; a memory lists them once each."""

  def read(question: str, text: str) -> str | None:
    found = collections.Counter(pattern.findall(text))
    return ", ".join(word for word, _ in found.most_common(count)) or None

  def guess(question: str, stream: philox.Stream) -> str:
    return ", ".join(
      words.compounds(stream.distinct(words.COMPOUNDS, count))[0]
    )

  found = cheats.of_values(lambda question, text: pattern.findall(text))
  # To take the most frequent value is the task itself.
  rules = {x: cheat for x, cheat in found.items() if x != "most frequent"}
  return draft.Task(draw, read, guess, rules, "ruler", least)


TASKS = {
  "cwe": _task(_common, _ITEM, COMMON, 1024),
  "fwe": _task(_frequent, _CODED, FREQUENT, 256),
}
