"""Records of data files, each with the words that name its place.

No record is skipped: a malformed one is an error that names it, which is why
JSON is read by the standard library; Arrow's reader knows no line numbers.
"""

import json
import pathlib
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

# A file's path -> ("a.json, record 2", record) of each of its records.
Reader = Callable[[pathlib.Path], Iterator[tuple[str, Any]]]


def records(
  path: pathlib.Path, readers: Mapping[str, Reader]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
  """(place, record) of all records of a file.

  Args:
    path: of the file.
    readers: how to read a file, by the end of its name (".json").

  Raises:
    ValueError: the name ends otherwise; there is no such file; it has no
      record, or one that is no object; or the reader refuses it.
  """
  if path.suffix not in readers:
    raise ValueError(
      f"{path}: unknown kind of file; expected one of {', '.join(readers)}"
    )
  if not path.is_file():
    raise ValueError(f"{path}: no such file")
  is_empty = True
  for where, record in readers[path.suffix](path):
    is_empty = False
    if not isinstance(record, Mapping):
      raise ValueError(
        f"{where}: expected an object, found {type(record).__name__}"
      )
    yield where, record
  if is_empty:
    raise ValueError(f"{path} is empty: expected at least one record")


def json_list(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  """Reads one list of records; an empty file has none.

  Raises:
    ValueError: the file is not UTF-8, not JSON or holds something else.
  """
  text = _text(path)
  if not text.strip():
    return
  try:
    found = json.loads(text)
  except (ValueError, RecursionError) as error:
    raise ValueError(
      f"{path} is not JSON: {error}; a file with one object per line is called "
      ".jsonl"
    ) from error
  if not isinstance(found, list):
    raise ValueError(
      f"{path} holds a JSON {type(found).__name__}, expected a list of "
      "records; a file with one object per line is called .jsonl"
    )
  for number, record in enumerate(found, start=1):
    yield f"{path}, record {number}", record


def json_lines(
  path: pathlib.Path, skip_blank: bool = False
) -> Iterator[tuple[str, Any]]:
  """Reads one record per line; an empty file has none.

  Args:
    path: of the file.
    skip_blank: pass over blank lines, which are malformed records otherwise.

  Raises:
    ValueError: the file is not UTF-8, or names the line that is not JSON.
  """
  text = _text(path).removesuffix("\n")
  # Not splitlines: a JSON text may hold other line separators, like U+2028.
  for number, line in enumerate(text.split("\n") if text else [], start=1):
    if skip_blank and not line.strip():
      continue
    where = f"{path}, line {number}"
    try:
      record = json.loads(line)
    except (ValueError, RecursionError) as error:
      raise ValueError(
        f"{where} is not JSON ({error}): {line[:60]!r}, expected one object; "
        "correct or remove the line"
      ) from error
    yield where, record


def _text(path: pathlib.Path) -> str:
  try:
    return path.read_text(encoding="utf-8")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not UTF-8 text: {error}") from error
