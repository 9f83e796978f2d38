"""Questions to a bank that a few new messages may change: MemFactory's files.

A record has the fields (each under either name)

    M | memory          [{"value" | "memory" | "key": str}]     the bank before
    f | fact            [{"role", "timestamp", "content"}]      new messages
    q | query           str                                     the question
    a | answer          str                                     its answer
    context_memory      as M: the entries shown beside the messages

A missing or null list is empty, a missing or null text is "". A file is .json
(a list) or .jsonl (an object per line). No record is skipped: a malformed one,
or one without a question or an answer, is an error that names it.

In an example `bank` has the texts of M, `context` the messages as one session
with a line `role: [timestamp] content` for each, and `meta` whatever else the
record has of plain types, and context_memory's texts.
"""

import functools
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from memjax.envs import example as example_lib
from memjax.envs import files
from memjax.envs import long_context

_MEMORY = ("M", "memory")
_FACTS = ("f", "fact")
_QUESTION = ("q", "query")
_ANSWER = ("a", "answer")
_SHOWN = ("context_memory",)
# "oracle" would mean a memory to `evaluate`.
_NOT_META = (*_MEMORY, *_FACTS, *_QUESTION, *_ANSWER, *_SHOWN, "oracle")
_PLAIN = (str, int, float, bool)
# Fields that may hold an entry's text: the first that is not blank counts.
_ENTRY = ("value", "memory", "key")


def load(
  path: str | os.PathLike, first_id: int = 0, *, unanswered: bool = False
) -> list[example_lib.Example]:
  """Reads a data file.

  Args:
    path: of the file.
    first_id: id of the first record.
    unanswered: take records without a question or an answer, too; the question
      is then "" and there are no answers.

  Raises:
    ValueError: names the file, the record, what it has and what it should.
  """
  readers = {
    ".json": files.json_list,
    ".jsonl": functools.partial(files.json_lines, skip_blank=True),
  }
  records = files.records(pathlib.Path(path), readers)
  return [
    _example(record, first_id + i, where, unanswered)
    for i, (where, record) in enumerate(records)
  ]


def _example(
  record: Mapping[str, Any], id: int, where: str, unanswered: bool
) -> example_lib.Example:
  question = _text(record, _QUESTION, where)
  answer = _text(record, _ANSWER, where)
  for names, text in ((_QUESTION, question), (_ANSWER, answer)):
    if not text and not unanswered:
      raise ValueError(
        f"{where}: no text in {' or '.join(map(repr, names))}; expected one, "
        f"the record has only {', '.join(record) or 'no field'}"
      )
  lines = [
    _line(item, f"{where}, message {number}")
    for number, item in enumerate(_list(record, _FACTS, where), start=1)
  ]
  meta = {
    name: value
    for name, value in record.items()
    if name not in _NOT_META and isinstance(value, _PLAIN)
  }
  return example_lib.Example(
    id,
    question,
    ("\n".join(lines),) if lines else (),
    (answer,) if answer else (),
    {**meta, "context_memory": _entries(record, _SHOWN, where)},
    bank=_entries(record, _MEMORY, where),
  )


def _first(record: Mapping[str, Any], names: tuple[str, ...]) -> Any:
  """The first field of these names that is not null."""
  found = (record[name] for name in names if record.get(name) is not None)
  return next(found, None)


def _text(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> str:
  """A text field, stripped; a number counts as one, as LoCoMo has answers."""
  value = _first(record, names)
  if value is None:
    return ""
  if isinstance(value, int | float) and not isinstance(value, bool):
    return str(value)
  if not isinstance(value, str):
    raise ValueError(
      f"{where}: {' or '.join(map(repr, names))} is {value!r:.60}, expected a "
      "text"
    )
  return value.strip()


def _list(
  record: Mapping[str, Any], names: tuple[str, ...], where: str
) -> list[Mapping[str, Any]]:
  value = _first(record, names)
  if value is None:
    return []
  name = " or ".join(map(repr, names))
  if not isinstance(value, list):
    raise ValueError(
      f"{where}: {name} is {value!r:.60}, expected a list of objects"
    )
  for item in value:
    if not isinstance(item, Mapping):
      raise ValueError(
        f"{where}: {name} holds {item!r:.60}, expected objects alone"
      )
  return value


def _entries(
  record: Mapping[str, Any], names: tuple[str, ...], where: str
) -> tuple[str, ...]:
  """The texts of a list of MemFactory's MemoryItems."""
  texts = []
  for number, item in enumerate(_list(record, names, where), start=1):
    at = f"{where}, {names[0]} entry {number}"
    found = (_text(item, (name,), at) for name in _ENTRY)
    text = next(filter(None, found), "")
    if not text:
      raise ValueError(
        f"{at}: no text in any of {', '.join(_ENTRY)}; the entry has "
        f"{', '.join(item) or 'no field'}"
      )
    texts.append(" ".join(text.split()))
  return tuple(texts)


def _line(item: Mapping[str, Any], where: str) -> str:
  """A message: `role: [timestamp] content`, without brackets if undated."""
  role = _text(item, ("role",), where) or "user"
  time = _text(item, ("timestamp",), where)
  content = " ".join(_text(item, ("content",), where).split())
  return f"{role}: [{time}] {content}" if time else f"{role}: {content}"


def make(
  path: str,
  eval_path: str = "",
  holdout: int = 128,
  reward_name: str = "reward_exact",
  metric_name: str = "f1",
  seed: int = 0,
) -> long_context.LongContext:
  """Loads the files of a config: `long_context.split` of what `load` reads.

  Nothing in the environment depends on the layout of the files.
  """
  return long_context.split(
    load, path, eval_path, holdout, reward_name, metric_name, seed
  )
