"""Associative recall: pairs of keys and values, several asked for at once.

    text      List: sodok-senik is kabal. rewur-zitas is neson. ...
    question  What are the values of rewur-zitas, sodok-senik, ...? ... in order
    answer    neson, kabal, ...
    oracle    those pairs

The task of the MQAR literature (multi-query associative recall, arXiv
2312.04927) as text: as many pairs as fit, keys from 2^20 compounds, values from
1,024 roots, QUERIES keys asked for at the end. In `mqar_overwrite` a key has
one to four values one after another, of which the last counts; those that are
asked for have two at least, all different. The places of all pairs are random.

Dimension key: Q keys that are asked for, P their pairs, R the other pairs.
"""

import re

import numpy as np

from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import philox
from memjax.envs.suite import words

QUERIES = 4
_MOST = 4  # values of a key

_HEAD = "List:"
_FIXED = words.plain("is.")
# Tokens of the shortest pair.
_LEAST = _FIXED + 4
_FOUND = re.compile(r"([a-z]+-[a-z]+) is ([a-z]+)\.")
_ASKED = re.compile(r"[a-z]+-[a-z]+")


def _make(overwrites: bool) -> draft.Task:
  def draw(stream: philox.Stream, length: int) -> draft.Draft:
    count_Q = np.ones(QUERIES, np.int64)
    if overwrites:
      count_Q = 2 + stream.below(_MOST - 1, QUERIES)
    number_Q = stream.distinct(words.COMPOUNDS, QUERIES)
    key_Q, key_tokens_Q = words.compounds(number_Q)
    of_P = np.repeat(np.arange(QUERIES), count_Q)
    value_P, value_tokens_P = words.roots(
      np.concatenate(
        [stream.distinct(len(words.ROOTS), int(x)) for x in count_Q]
      )
    )
    pair_P = key_Q[of_P] + " is " + value_P + "."
    tokens = words.plain(_HEAD) + int(
      (key_tokens_Q[of_P] + value_tokens_P + _FIXED).sum()
    )
    # Keys in random order; the values of each in theirs.
    mixed_P = np.argsort(of_P[stream.permutation(len(of_P))], kind="stable")
    order_P = np.empty_like(mixed_P)
    order_P[mixed_P] = np.arange(len(of_P))
    hidden = stream.child("text")

    def render() -> tuple[str, int]:
      rest = hidden.fresh()
      if tokens > length:
        raise ValueError(
          f"length={length}: the pairs that are asked for have {tokens} tokens"
        )
      pair_R, used = _others(rest, length - tokens, number_Q, overwrites)
      text = draft.mix(rest, pair_P[order_P].tolist(), pair_R)
      return " ".join([_HEAD, *text]), tokens + used

    last_Q = np.cumsum(count_Q) - 1
    which = "last value of each" if overwrites else "values"
    return draft.Draft(
      f"What are the values of {', '.join(key_Q)}? Answer with the {which}, in "
      "this order, separated by commas.",
      tuple(value_P[last_Q].tolist()),
      tuple(f"{pair}\n" for pair in pair_P[last_Q]),
      1 / len(words.ROOTS),
      render,
    )

  values = lambda question, text: [x for _, x in _FOUND.findall(text)]
  found = dict(cheats.of_values(values))
  if overwrites:
    found["stale"] = _stale
  return draft.Task(draw, _read, _guess, found, "in_order", 1024)


def _others(
  stream: philox.Stream, budget: int, closed: np.ndarray, overwrites: bool
) -> tuple[np.ndarray, int]:
  """As many pairs of other keys as fit, and their tokens."""
  most = budget // _LEAST + 1
  if overwrites:
    # 2.5 values of a key on average.
    number_R = stream.distinct(words.COMPOUNDS, most * 2 // 5 + 16)
    number_R = np.repeat(number_R, 1 + stream.below(_MOST, len(number_R)))
    number_R = number_R[stream.permutation(len(number_R))]
  else:
    number_R = stream.distinct(words.COMPOUNDS, most + QUERIES)
  number_R = number_R[~np.isin(number_R, closed)]
  key_R, key_tokens_R = words.compounds(number_R)
  value_R, value_tokens_R = words.roots(
    stream.below(len(words.ROOTS), len(number_R))
  )
  ends = np.cumsum(key_tokens_R + value_tokens_R + _FIXED)
  fit = int(np.searchsorted(ends, budget, side="right"))
  pair_R = key_R[:fit] + " is " + value_R[:fit] + "."
  return pair_R, int(ends[fit - 1]) if fit else 0


def _read(question: str, text: str) -> str | None:
  """The last value of each key."""
  return _answer(question, dict(_FOUND.findall(text)))


def _stale(question: str, text: str, count: int) -> str:
  """The first value of each key."""
  return _answer(question, dict(reversed(_FOUND.findall(text)))) or ""


def _answer(question: str, values: dict[str, str]) -> str | None:
  keys = _ASKED.findall(question)
  if not any(key in values for key in keys):
    return None
  return ", ".join(values.get(key, "?") for key in keys)


def _guess(question: str, stream: philox.Stream) -> str:
  return ", ".join(words.roots(stream.below(len(words.ROOTS), QUERIES))[0])


TASKS = {"mqar": _make(False), "mqar_overwrite": _make(True)}
