"""What a task gives: an example whose text is only made when it is read.

A text of 4M tokens has 20 MB, and an evaluation has hundreds of them; questions
and answers are small. So a task draws the facts at once, and the text around
them each time somebody asks for it, from a stream of its own.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax.envs.suite import filler
from memjax.envs.suite import philox

# The most tokens of a text.
LONGEST = 4 << 20
HAYSTACKS = ("noise", "essay", "needles")


@dataclasses.dataclass(frozen=True)
class Draft:
  """One question about a text that is not made yet.

  Attributes:
    question: what is asked, instructions included.
    answers: RULER's tasks with several values want all of them; others one.
    oracle: lines of a memory that is enough to answer.
    chance: the expected score of somebody who knows the format and the
      vocabulary, and not the text.
    render: makes (context, its tokens).
    meta: what a task wants to add to an example's `meta`.
    stamps: of the parts of the context, if it has several.
  """

  question: str
  answers: tuple[str, ...]
  oracle: tuple[str, ...]
  chance: float
  render: Callable[[], tuple[str | tuple[str, ...], int]]
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  stamps: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Task:
  """A kind of question.

  Attributes:
    draw: makes a draft of a length in tokens from a stream, of which the path
      is (seed, task, length, split, number of the example).
    read: (question, text) -> the answer that the text gives, or None.
    guess: (question, stream) -> an answer of the right form, at random.
    cheats: name -> (question, text, number of answers) -> an answer that does
      without understanding.
    metric: key of `rewards.METRICS`: that of the paper.
    least: the fewest tokens that a text can have.
  """

  draw: Callable[[philox.Stream, int], Draft]
  read: Callable[[str, str], str | None]
  guess: Callable[[str, philox.Stream], str]
  cheats: Mapping[str, Callable[[str, str, int], str]]
  metric: str
  least: int = 256


def hide(
  stream: philox.Stream,
  facts: Sequence[str],
  tokens: int,
  length: int,
  haystack: str,
) -> tuple[str, int]:
  """A text with sentences at random places among filler, in their order.

  All places between two sentences (of noise: lines) are equally likely.

  Args:
    stream: of filler and places.
    facts: sentences that end with a full stop and begin with a word that costs
      the same at the beginning of a line and behind a space.
    tokens: what they cost together.
    length: the most tokens of the text.
    haystack: "noise" or "essay".

  Returns:
    (text, its tokens): as close to `length` as whole sentences come.

  Raises:
    ValueError: the facts alone are longer.
  """
  if tokens > length:
    raise ValueError(
      f"length={length}: the facts alone have {tokens} tokens; choose a longer "
      "text"
    )
  if haystack == "noise":
    rest, used = filler.noise(length - tokens)
  else:
    rest, used = filler.essay(stream, length - tokens)
  text = mix(stream, facts, rest)
  if haystack == "noise":
    return "\n".join(text) + "\n", tokens + used
  return " ".join(text), tokens + used


def mix(
  stream: philox.Stream, facts: Sequence[str], rest: np.ndarray
) -> list[str]:
  """Two rows as one, both in their order, all ways equally likely."""
  size = len(facts) + len(rest)
  merged = np.empty(size, object)
  is_fact = np.zeros(size, bool)
  is_fact[stream.distinct(size, len(facts))] = True
  merged[is_fact] = np.array([*facts, None], object)[:-1]
  merged[~is_fact] = rest
  return merged.tolist()
