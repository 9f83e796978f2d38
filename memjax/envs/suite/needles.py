"""RULER's needles in a haystack (arXiv 2404.06654, section 3 and appendix B).

    text      ... One of the special magic numbers for sodok-senik is: 6392910.
              ...
    question  What is the special magic number for sodok-senik mentioned in the
              provided text?
    answer    6392910
    oracle    One of the special magic numbers for sodok-senik is: 6392910.

Needles and questions have RULER's form; words and filler are ours.

The eight variants with the settings of the paper's configuration:

    niah_single_1     noise     word -> number
    niah_single_2     essay     word -> number
    niah_single_3     essay     word -> uuid
    niah_multikey_1   essay     word -> number, of four keys one is asked for
    niah_multikey_2   needles   word -> number, the haystack is all needles
    niah_multikey_3   needles   uuid -> uuid, the haystack is all needles
    niah_multivalue   essay     word -> number, four values of one key
    niah_multiquery   essay     word -> number, four keys asked for at once

and niah_<haystack>_<key>_<value> for all other pairs of kinds, one needle each.
Where all values of a text are asked for (single ones in noise and essays,
multivalue, multiquery), to list every value is to be right: that is the
published task, and `cheats` say so.
"""

import re

import numpy as np

from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import philox
from memjax.envs.suite import words

_NEEDLE = "One of the special magic {kinds} for {key} is: {value}."
_FOUND = re.compile(r"special magic \w+ for ([\w-]+) is: ([\w-]+)\.")
_ASKED = re.compile(r" for (.+) mentioned in the provided text")
# Tokens of a needle without key and value; " uuids" has two.
_FIXED = {
  kind: words.plain(_NEEDLE.format(kinds=kinds, key="", value=""))
  + (kind == "uuid")
  for kind, kinds in words.KINDS.items()
}
# Tokens of the shortest key or value, with the space before it.
_SHORTEST = {"number": 8, "word": 2, "uuid": 12}


def _make(
  haystack: str,
  key_kind: str,
  value_kind: str,
  keys: int = 1,
  values: int = 1,
  queries: int = 1,
) -> draft.Task:
  """One variant: `queries` of `keys` keys are asked for, `values` of each."""

  def draw(stream: philox.Stream, length: int) -> draft.Draft:
    key_K, key_tokens_K = words.draw(stream, key_kind, keys)
    value_KV, value_tokens_KV = words.draw(stream, value_kind, keys * values)
    order = stream.permutation(keys * values)
    needles = _needles(
      key_K[order // values],
      key_tokens_K[order // values],
      value_KV[order],
      value_tokens_KV[order],
      value_kind,
    )
    asked = key_K[:queries].tolist()
    answers = value_KV[: queries * values].tolist()
    wanted = [n for n, i in zip(needles[0], order) if i // values < queries]
    question = _question(value_kind, asked, values * queries > 1)
    hidden = stream.child("text")

    def render() -> tuple[str, int]:
      rest = hidden.fresh()
      if haystack != "needles":
        return draft.hide(
          rest, needles[0], int(needles[1].sum()), length, haystack
        )
      return _among_needles(rest, needles, key_kind, value_kind, key_K, length)

    return draft.Draft(
      question, tuple(answers), tuple(f"{x}\n" for x in wanted), 0.0, render
    )

  def guess(question: str, stream: philox.Stream) -> str:
    count = values * queries
    return ", ".join(words.draw(stream, value_kind, count)[0])

  return draft.Task(
    draw,
    _read,
    guess,
    cheats.of_values(_offered),
    "ruler",
  )


def _needles(
  keys: np.ndarray,
  key_tokens: np.ndarray,
  values: np.ndarray,
  value_tokens: np.ndarray,
  kind: str,
) -> tuple[list[str], np.ndarray]:
  """(sentences, tokens of each)."""
  before, between, after = (
    _NEEDLE.replace("{kinds}", words.KINDS[kind])
    .replace("{value}", "{key}")
    .split("{key}")
  )
  texts = before + keys + between + values + after
  return texts.tolist(), key_tokens + value_tokens + _FIXED[kind]


def _among_needles(
  stream, needles, key_kind, value_kind, closed, length
) -> tuple[str, int]:
  """Needles among needles of other keys, a line each."""
  texts, tokens = needles
  budget = length - int(tokens.sum())
  least = _FIXED[value_kind] + _SHORTEST[key_kind] + _SHORTEST[value_kind]
  most = budget // least + 1
  keys, key_tokens = words.draw(stream, key_kind, most + len(closed))
  others = ~np.isin(keys, closed)
  values, value_tokens = words.draw(stream, value_kind, most)
  rest, rest_tokens = _needles(
    keys[others][:most],
    key_tokens[others][:most],
    values,
    value_tokens,
    value_kind,
  )
  ends = np.cumsum(rest_tokens)
  fit = int(np.searchsorted(ends, budget, side="right"))
  text = draft.mix(stream, texts, np.array(rest[:fit], object))
  used = int(ends[fit - 1]) if fit else 0
  return "\n".join(text) + "\n", length - budget + used


def _question(kind: str, keys: list[str], several: bool) -> str:
  listed = keys[0]
  if len(keys) > 1:
    listed = ", ".join(keys[:-1]) + f", and {keys[-1]}"
  if several:
    return (
      f"What are all the special magic {words.KINDS[kind]} for {listed} "
      "mentioned in the provided text?"
    )
  return (
    f"What is the special magic {kind} for {listed} mentioned in the provided "
    "text?"
  )


def _offered(question: str, text: str) -> list[str]:
  return [value for _, value in _FOUND.findall(text)]


def _read(question: str, text: str) -> str | None:
  """The values of the keys that are asked for."""
  keys = re.split(r", and |, ", _ASKED.search(question)[1])
  found = [value for key, value in _FOUND.findall(text) if key in keys]
  return ", ".join(found) or None


PUBLISHED = {
  "niah_single_1": _make("noise", "word", "number"),
  "niah_single_2": _make("essay", "word", "number"),
  "niah_single_3": _make("essay", "word", "uuid"),
  "niah_multikey_1": _make("essay", "word", "number", keys=4),
  "niah_multikey_2": _make("needles", "word", "number"),
  "niah_multikey_3": _make("needles", "uuid", "uuid"),
  "niah_multivalue": _make("essay", "word", "number", values=4),
  "niah_multiquery": _make("essay", "word", "number", keys=4, queries=4),
}
TASKS = PUBLISHED | {
  f"niah_{haystack}_{key}_{value}": _make(haystack, key, value)
  for haystack in draft.HAYSTACKS
  for key in words.KINDS
  for value in words.KINDS
}
