"""Reads the JSON that API models write: new memories, operations on a bank.

Three layouts, wherever in a text they stand (in a fence, between prose):

  MemFactory's extractor
    {"memory_list": [{"key", "memory_type", "value", "tags"}]}
  MemFactory's updater
    {"operations": [{"op": ADD|UPDATE|DEL|NONE, "id", "value"}]}
  Memory-R1's manager, which is Mem0's
    {"memory": [{"event": ADD|UPDATE|DELETE|NONE, "id", "text", "old_memory"}]}

Parsing is total: no string raises. What cannot be used is left out and named
in `Parsed.malformed`. The rules, in order:

  - an object counts if it has the field and is complete; of several the last
    counts, as the last box does in `rewards`; one whose field holds a list
    goes before one whose field does not. Objects inside one that counts are
    not looked at, so a text may hold braces;
  - the field is a list of objects: anything else is malformed, item by item;
  - white space in a text, line ends too, is one space, so that an entry can
    never pose as two; half of a surrogate pair becomes "?";
  - a kind is known in any case; an id may be a number or a text;
  - "add" needs a text and ignores its id; "update" needs a known id and a text;
    "delete" needs a known id; "noop" may name none, but no unknown one;
  - a known id may occur once, even where its operation lacks a text.

A reasoning block is to be cut off before. Sources: arXiv 2603.29493 and
2508.19828.
"""

import dataclasses
import json
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

KINDS = {
  "ADD": "add",
  "UPDATE": "update",
  "DEL": "delete",
  "DELETE": "delete",
  "NONE": "noop",
  "NOOP": "noop",
}

# What `Parsed.malformed` may hold.
EMPTY = "empty"  # nothing but white space
NO_OBJECT = "no JSON object"
NO_FIELD = "missing list"  # objects, but none with the field
NOT_LIST = "not a list"
NOT_OBJECT = "not an object"
UNKNOWN_OP = "unknown op"
MISSING_ID = "missing id"
UNKNOWN_ID = "unknown id"
DUPLICATE_ID = "duplicate id"
MISSING_TEXT = "missing text"

_OPERATIONS = ("operations", "memory")
_OP = ("op", "operation", "event")
_TEXT = ("text", "value", "content")
_DECODER = json.JSONDecoder()


@dataclasses.dataclass(frozen=True)
class Op:
  """One operation on a bank.

  Attributes:
    kind: "add", "update", "delete" or "noop".
    id: of the entry; None for an addition and a noop that names none.
    text: the new text of an "add" or "update", otherwise "".
  """

  kind: str
  id: str | None
  text: str


@dataclasses.dataclass(frozen=True)
class Fact:
  """One extracted memory.

  Attributes:
    text: what is to be known, never empty.
    key: its title, "" if it has none.
    memory_type: as given, "" if it has none.
    tags: those that are texts.
  """

  text: str
  key: str = ""
  memory_type: str = ""
  tags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Parsed:
  """What a text says.

  Attributes:
    ops: the operations that can be applied, in their order.
    facts: the memories that can be used, in their order.
    malformed: why something was left out, one reason for each.
  """

  ops: tuple[Op, ...] = ()
  facts: tuple[Fact, ...] = ()
  malformed: tuple[str, ...] = ()

  @property
  def well_formed(self) -> bool:
    """Nothing was left out."""
    return not self.malformed

  @property
  def empty(self) -> bool:
    """There is nothing to apply or keep: no format reward should pay for it.

    `{"memory_list": []}` is well formed and empty.
    """
    return not self.ops and not self.facts


def parse_memory_list(text: str) -> Parsed:
  """The memories of an extractor's response.

  Args:
    text: the response; any string.

  Returns:
    `facts` and `malformed`; there are no `ops`.
  """
  items, reason = find_list(text, ("memory_list",))
  if reason:
    return Parsed(malformed=(reason,))
  facts, malformed = [], []
  for item in items:
    if not isinstance(item, Mapping):
      malformed.append(NOT_OBJECT)
    elif not (value := _clean(item.get("value"))):
      malformed.append(MISSING_TEXT)
    else:
      tags = item.get("tags")
      tags = map(_clean, tags if isinstance(tags, list) else ())
      facts.append(
        Fact(
          value,
          _clean(item.get("key")),
          _clean(item.get("memory_type")),
          tuple(filter(None, tags)),
        )
      )
  return Parsed(facts=tuple(facts), malformed=tuple(malformed))


def parse_operations(
  text: str,
  known_ids: Collection[str | int],
  candidates: Mapping[str, str] | None = None,
) -> Parsed:
  """The operations of an updater's or manager's response.

  MemFactory numbers what was extracted after what the bank holds, and its model
  says of each number what becomes of it. With `candidates`, ADD and UPDATE of
  such a number are additions, of the candidate's text if they give none, NONE
  is a noop without an id, and DEL is "unknown id".

  Args:
    text: the response; any string.
    known_ids: of the entries that the model was shown.
    candidates: id -> text of extracted memories that were shown with ids.

  Returns:
    `ops` and `malformed`; there are no `facts`.

  Raises:
    ValueError: an id is both known and a candidate's.
  """
  known = {str(id) for id in known_ids}
  candidates = candidates or {}
  if both := known & candidates.keys():
    raise ValueError(
      f"candidates has the ids {sorted(both)}, which are also in known_ids: "
      "give each entry and each candidate an id of its own"
    )
  items, reason = find_list(text, _OPERATIONS)
  if reason:
    return Parsed(malformed=(reason,))
  ops, malformed, seen = [], [], set()
  for item in items:
    found = _op(item, known, candidates, seen)
    (ops if isinstance(found, Op) else malformed).append(found)
  return Parsed(ops=tuple(ops), malformed=tuple(malformed))


def _op(
  item: Any, known: set[str], candidates: Mapping[str, str], seen: set[str]
) -> Op | str:
  """The operation of an item, or why there is none; adds its id to `seen`."""
  if not isinstance(item, Mapping):
    return NOT_OBJECT
  name = next((item[field] for field in _OP if field in item), None)
  kind = KINDS.get(_clean(name).upper())
  if kind is None:
    return UNKNOWN_OP
  text = next(filter(None, (_clean(item.get(field)) for field in _TEXT)), "")
  id = _id(item.get("id"))
  if id in candidates:
    if kind == "delete":
      return UNKNOWN_ID
    if id in seen:
      return DUPLICATE_ID
    seen.add(id)
    if kind == "noop":
      return Op("noop", None, "")
    kind, text = "add", text or _clean(candidates[id])
  if kind == "add":
    return Op("add", None, text) if text else MISSING_TEXT
  if not id:
    return Op("noop", None, "") if kind == "noop" else MISSING_ID
  if id not in known:
    return UNKNOWN_ID
  if id in seen:
    return DUPLICATE_ID
  seen.add(id)
  if kind != "update":
    return Op(kind, id, "")
  return Op("update", id, text) if text else MISSING_TEXT


def _id(value: Any) -> str:
  """An id as text; "" for what can be none, such as null or true."""
  if isinstance(value, int) and not isinstance(value, bool):
    return str(value)
  return _clean(value)


def _clean(value: Any) -> str:
  """A text on one line that can be encoded; "" for what is no text."""
  if not isinstance(value, str):
    return ""
  return " ".join(value.encode("utf-8", "replace").decode("utf-8").split())


def find_list(text: str, fields: Sequence[str]) -> tuple[list[Any], str]:
  """The list that the text holds in one of the fields: (list, reason)."""
  if not text.strip():
    return [], EMPTY
  found, reason = None, NO_OBJECT
  for value in _objects(text, fields):
    held = [value[field] for field in fields if field in value]
    lists = [value for value in held if isinstance(value, list)]
    if lists:
      found = lists[0]
    elif held:
      reason = NOT_LIST
    elif reason == NO_OBJECT:
      reason = NO_FIELD
  return ([], reason) if found is None else (found, "")


def _objects(text: str, fields: Sequence[str]) -> Iterator[Mapping[str, Any]]:
  """All complete JSON objects, but for those inside one that has a field."""
  start = text.find("{")
  while start >= 0:
    end = start + 1
    try:
      value, stop = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError):  # also of numbers of 4,300 digits
      pass
    else:
      yield value
      # An object without the field may hold one that has it.
      end = stop if any(field in value for field in fields) else end
    start = text.find("{", end)
