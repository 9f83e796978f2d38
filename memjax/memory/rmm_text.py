"""Reads what RMM has its API models write: topics, updates, citations.

  extraction, of a session with numbered turns
    {"extracted_memories": [{"summary": "Ada has a cat.", "reference": [0, 4]}]}
    or the word NO_TRAIT
  update, of a list of summaries by a new one: one action a line
    Add()
    Merge(2, Ada has a cat, Tom (a tabby), and a dog.)
  answer, with marks anywhere
    A cat [0, 3]. Nothing is known of a dog [NO_CITE]

Parsing is total: no string raises. What cannot be used is left out and named
in `malformed`. Words of a format are known in any case; a summary is one line,
all its white space being one space; half of a surrogate pair becomes "?".

The paper does not say whether indices count from 0 or 1: `first` does, and has
to agree with the prompt. Results are places in the list, from 0 in any case.

What writes these formats on the device is `topics`, in lines. A reasoning block
is to be cut off before. Source: arXiv 2503.08026, appendix on prompts.
"""

import dataclasses
import re
from collections.abc import Collection
from collections.abc import Mapping
from typing import Any

from memjax.memory import json_ops

# What `malformed` may hold. Of an extraction, also what `json_ops` says where
# there is no list, or an item is no object.
EMPTY = json_ops.EMPTY
NO_SUMMARY = "no summary"  # also of a merge
NO_REFERENCE = "no reference"
REFERENCE_NOT_LIST = "reference is not a list"
UNKNOWN_TURN = "unknown turn"
DUPLICATE_SUMMARY = "duplicate summary"
# Of an update.
NOT_ACTION = "not an action"
TWO_ACTIONS = "two actions in a line"
UNKNOWN_INDEX = "unknown index"
DUPLICATE_INDEX = "duplicate index"
DUPLICATE_ADD = "duplicate add"
# Of an answer.
NO_CITATION = "no citation"  # not even NO_CITE
OUT_OF_RANGE = "citation out of range"
CONTRADICTION = "NO_CITE beside a citation"
BAD_CITATION = "not a list of numbers"  # such as [1-3] or [Memory 2]

_NO_CITE = "NO_CITE"
# In quotes or a fence, too.
_NO_TRAIT = re.compile(r"(```\w*)?[\s\"'`]*NO_TRAIT[\s\"'`.]*", re.I)
_ADD = re.compile(r"add ?\( ?\)", re.I)
_MERGE = re.compile(r"merge ?\(([^,]*),(.*)\)", re.I)
# The end of one action and the beginning of another.
_NEXT_ACTION = re.compile(r"\)[ ,;]*(add|merge) ?\(", re.I)
_MARK = re.compile(r"\[([^\[\]]*)\]")
# Short numbers, separators and the words that go with them; [2023-05-07] and
# [2 cats] are text.
_LIKE_CITATION = re.compile(
  r"(?=.*(\d|no.?cite))"
  r"(\d{1,3}(?!\d)|[\s,;&–-]|\b(and|to|memory|memories|no.?cite)\b)+",
  re.I | re.S,
)


@dataclasses.dataclass(frozen=True)
class Topic:
  """One extracted memory.

  Attributes:
    summary: never empty.
    turns: ids of the turns it comes from, sorted, each once; at least one.
  """

  summary: str
  turns: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Extraction:
  """What an extraction says.

  Attributes:
    topics: those that can be used, in their order.
    malformed: why something was left out, one reason for each item.
  """

  topics: tuple[Topic, ...] = ()
  malformed: tuple[str, ...] = ()

  @property
  def well_formed(self) -> bool:
    """Nothing was left out; NO_TRAIT and an empty list are well formed."""
    return not self.malformed


@dataclasses.dataclass(frozen=True)
class Merge:
  """A listed summary is replaced.

  Attributes:
    place: of the old summary in the list, from 0.
    summary: the new one, never empty.
  """

  place: int
  summary: str


@dataclasses.dataclass(frozen=True)
class Update:
  """What an update says.

  Attributes:
    add: the new summary is to be added as it is.
    merges: those that can be applied, in their order, each of another place.
    malformed: why something was left out, one reason for each line.
  """

  add: bool = False
  merges: tuple[Merge, ...] = ()
  malformed: tuple[str, ...] = ()

  @property
  def well_formed(self) -> bool:
    """Nothing was left out, and there is something to do."""
    return not self.malformed


@dataclasses.dataclass(frozen=True)
class Cited:
  """What an answer says, and of which memories.

  Attributes:
    answer: the text without its citations.
    places: of the cited memories in the list, from 0.
    malformed: what is wrong with the citations.
  """

  answer: str
  places: frozenset[int] = frozenset()
  malformed: tuple[str, ...] = ()

  @property
  def well_formed(self) -> bool:
    """It cites, or says NO_CITE, and every citation could be used."""
    return not self.malformed


def parse_extraction(text: str, turns: Collection[int]) -> Extraction:
  """The topics of a session.

  The JSON may stand in a fence or between prose (`json_ops` has the rules);
  NO_TRAIT must stand alone. A turn's id may be a number or a text, in brackets
  or not, and is counted once. A topic of which one turn is unknown is left out,
  as is one with the summary of an earlier one.

  Args:
    text: the response; any string.
    turns: ids that the prompt showed.
  """
  if _NO_TRAIT.fullmatch(text.strip()):
    return Extraction()
  items, reason = json_ops.find_list(text, ("extracted_memories",))
  if reason:
    return Extraction(malformed=(reason,))
  names = {str(turn): turn for turn in turns}
  topics, malformed, seen = [], [], set()
  for item in items:
    found = _topic(item, names, seen)
    (topics if isinstance(found, Topic) else malformed).append(found)
  return Extraction(tuple(topics), tuple(malformed))


def parse_update(text: str, count: int, first: int = 0) -> Update:
  """What becomes of a new summary.

  Every line that is not blank is an action, and nothing else. The first comma
  ends the index, the last parenthesis of the line the summary, which is taken
  as it is, quotes too; so `Merge(0, a) Merge(1, b)` would be one, and is
  malformed. An index may occur once, even where its action lacks a summary, and
  Add() may, with or without merges.

  Args:
    text: the response; any string.
    count: number of summaries that the prompt listed.
    first: index of the first of them.
  """
  lines = [line for line in map(_clean, text.split("\n")) if line]
  if not lines:
    return Update(malformed=(EMPTY,))
  places = _places(count, first)
  add, merges, malformed, seen = False, [], [], set()
  for line in lines:
    if _ADD.fullmatch(line):
      if add:
        malformed.append(DUPLICATE_ADD)
      add = True
    else:
      found = _merge(line, places, seen)
      (merges if isinstance(found, Merge) else malformed).append(found)
  return Update(add, tuple(merges), tuple(malformed))


def parse_citations(text: str, count: int, first: int = 0) -> Cited:
  """The memories that an answer cites, and the answer without the marks.

  A mark is a list of numbers, or NO_CITE, in brackets. What else stands in
  brackets is text, unless it looks like a citation: then it is malformed, cites
  nothing and is taken out. Numbers beside NO_CITE count.

    "Bern [0], [sic] [1-2]." -> "Bern, [sic].", {0}, "not a list of numbers"

  Args:
    text: the answer; any string.
    count: number of memories that the prompt listed.
    first: index of the first of them.
  """
  if not text.strip():
    return Cited("", malformed=(EMPTY,))
  places = _places(count, first)
  pieces, end = [], 0
  numbers, none, malformed = [], False, []
  for mark in _MARK.finditer(text):
    names = [name.strip().upper() for name in mark[1].split(",")]
    if all(name == _NO_CITE or name.isdecimal() for name in names):
      none |= _NO_CITE in names
      numbers += [name for name in names if name != _NO_CITE]
    elif _LIKE_CITATION.fullmatch(mark[1]):
      malformed.append(BAD_CITATION)
    else:
      continue
    pieces.append(text[end : mark.start()])
    end = mark.end()
  pieces.append(text[end:])
  malformed += [OUT_OF_RANGE for name in numbers if name not in places]
  if none and numbers:
    malformed.append(CONTRADICTION)
  if len(pieces) == 1:
    malformed.append(NO_CITATION)
  cited = frozenset(places[name] for name in numbers if name in places)
  return Cited(_join(pieces), cited, tuple(malformed))


def _topic(item: Any, turns: Mapping[str, int], seen: set[str]) -> Topic | str:
  """The topic of an item, or why there is none; adds it to `seen`."""
  if not isinstance(item, Mapping):
    return json_ops.NOT_OBJECT
  summary = item.get("summary")
  summary = _clean(summary) if isinstance(summary, str) else ""
  if not summary:
    return NO_SUMMARY
  reference = item.get("reference")
  if reference is None or reference == []:
    return NO_REFERENCE
  if not isinstance(reference, list):
    return REFERENCE_NOT_LIST
  found = {turns.get(_name(value)) for value in reference}
  if None in found:
    return UNKNOWN_TURN
  if summary in seen:
    return DUPLICATE_SUMMARY
  seen.add(summary)
  return Topic(summary, tuple(sorted(found)))


def _merge(line: str, places: Mapping[str, int], seen: set[int]) -> Merge | str:
  """The merge of a line, or why there is none; adds its place to `seen`."""
  if _NEXT_ACTION.search(line):
    return TWO_ACTIONS
  match = _MERGE.fullmatch(line)
  if not match:
    return NOT_ACTION
  place, summary = places.get(match[1].strip()), match[2].strip()
  if place is None:
    return UNKNOWN_INDEX
  if place in seen:
    return DUPLICATE_INDEX
  seen.add(place)
  return Merge(place, summary) if summary else NO_SUMMARY


def _places(count: int, first: int) -> dict[str, int]:
  """Index as written -> place; no `int`, which raises from 4,301 digits on."""
  return {str(first + place): place for place in range(count)}


def _name(value: Any) -> str:
  """A turn's id as text: 3, "3" and "[3]" are the same; "" for what is none."""
  if isinstance(value, int):  # True is "True", which is no id
    return str(value)
  return value.strip(" []") if isinstance(value, str) else ""


def _encodable(text: str) -> str:
  """The text with "?" for each half of a surrogate pair."""
  return text.encode("utf-8", "replace").decode("utf-8")


def _clean(text: str) -> str:
  """The text on one line, encodable."""
  return " ".join(_encodable(text).split())


def _join(pieces: list[str]) -> str:
  """The pieces between marks, without the spaces that the marks leave."""
  text = ""
  for piece in pieces:
    text = text.rstrip(" \t")
    begins_line = not text or text.endswith("\n")
    text += piece.lstrip(" \t") if begins_line else piece
  return _encodable(text).strip()
