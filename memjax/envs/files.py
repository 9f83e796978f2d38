"""Records of data files, each with the words that name its place.

No record is skipped: a malformed one is an error that names it, which is why
JSON is read by the standard library; Arrow's reader knows no line numbers.
"""

import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Collection
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any
from typing import TextIO

from absl import logging

# A file's path -> ("a.json, record 2", record) of each of its records.
Reader = Callable[[pathlib.Path], Iterator[tuple[str, Any]]]

# Of a long list so many characters are read at a time, and a record that has no
# end after so many is malformed: LongMemEval's longest have 6 million.
_PIECE = 1 << 20
_LONGEST = 1 << 26
_GAP = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()


def digests(
  *paths: str | os.PathLike, published: Collection[str] = ()
) -> dict[str, str]:
  """The SHA-256 of each file by its name; a path of "" is passed over.

  A file with another SHA-256 than the published ones is no error, but the log
  says so. Two files of one name go by their paths.
  """
  found = {}
  named = [pathlib.Path(path) for path in paths if str(path)]
  for path in dict.fromkeys(named):
    with path.open("rb") as file:
      digest = hashlib.file_digest(file, "sha256").hexdigest()
    if published and digest not in published:
      logging.warning(
        "%s: not the file that papers' numbers are of (its SHA-256 is %s, "
        "expected %s)",
        path,
        digest,
        " or ".join(published),
      )
    twice = any(x.name == path.name and x != path for x in named)
    found[str(path) if twice else path.name] = digest
  return found


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


def field(record: Any, name: str, kind: Any, where: str) -> Any:
  """A field of a record, of one of these types; true and false are no numbers.

  Raises:
    ValueError: there is none, or it is something else; `where` is its place.
  """
  if not isinstance(record, Mapping):
    raise ValueError(
      f"{where}: expected an object, found {type(record).__name__}"
    )
  if name not in record:
    raise ValueError(
      f"{where}: no field {name!r}, only {', '.join(record) or 'none'}"
    )
  value = record[name]
  kinds = kind if isinstance(kind, tuple) else (kind,)
  # JSON's true is no number, though Python's is.
  if not isinstance(value, kinds) or isinstance(value, bool):
    raise ValueError(
      f"{where}: field {name!r} is {value!r:.60}, expected "
      f"{' or '.join(k.__name__ for k in kinds)}"
    )
  return value


def text(record: Any, name: str, where: str) -> str:
  """A text field on one line.

  Raises:
    ValueError: there is none, or nothing in it.
  """
  found = " ".join(field(record, name, str, where).split())
  if not found:
    raise ValueError(f"{where}: field {name!r} is empty, expected a text")
  return found


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


def json_items(
  path: pathlib.Path,
) -> Iterator[tuple[str, Mapping[str, Any], tuple[int, int]]]:
  """Reads one list of objects, one at a time.

  It takes the memory of a record, not of the file.

  Yields:
    (place, record, span): number of the record's first byte, and how many it
    has, by which `item_at` reads it again.

  Raises:
    ValueError: the file is not UTF-8, or not such a list; names the record.
  """
  if not path.is_file():
    raise ValueError(f"{path}: no such file")
  with path.open(encoding="utf-8", newline="") as file:
    source, number, where = _Source(file), 0, str(path)
    try:
      source.take("[", "a list of records")
      while not number or source.take(",]", "',' or ']'") == ",":
        number += 1
        where = f"{path}, record {number}"
        source.peek("{", "an object")
        record, span = source.record()
        yield where, record, span
        where = f"{path}, behind record {number}"
      source.peek("", "the end of the file")
    except UnicodeDecodeError as error:
      raise ValueError(f"{path} is not UTF-8 text: {error}") from error
    except (json.JSONDecodeError, RecursionError) as error:
      raise ValueError(f"{where} is not JSON: {error}") from error
    except ValueError as error:
      raise ValueError(f"{where}: {error}") from error


def item_at(path: pathlib.Path, span: tuple[int, int]) -> Mapping[str, Any]:
  """A record that `json_items` gave with its span.

  Raises:
    ValueError: it is there no longer.
  """
  start, size = span
  try:
    with path.open("rb") as file:
      file.seek(start)
      return json.loads(file.read(size))
  except (OSError, ValueError) as error:
    raise ValueError(
      f"{path} was changed or removed during the run ({error}): put it back "
      "and start again"
    ) from error


class _Source:
  """A JSON text that is read piece by piece."""

  def __init__(self, file: TextIO):
    self._file = file
    self._text, self._at = "", 0  # what is held, and how much of it is used
    self._passed = 0  # bytes before what is held
    self._ended = False

  def _more(self) -> None:
    """Reads on; twice as much each time, as a record is tried again then."""
    self._passed += len(self._text[: self._at].encode())
    held = self._text[self._at :]
    found = self._file.read(max(_PIECE, len(held)))
    self._text, self._at, self._ended = held + found, 0, not found

  def peek(self, signs: str, expected: str) -> str:
    """The next sign but white space, one of these; "" is the end alone."""
    while True:
      self._at = _GAP.match(self._text, self._at).end()
      if self._at < len(self._text) or self._ended:
        break
      self._more()
    sign = self._text[self._at : self._at + 1]
    if sign not in signs or bool(sign) != bool(signs):
      found = self._text[self._at : self._at + 40]
      raise ValueError(f"found {found!r}, expected {expected}")
    return sign

  def take(self, signs: str, expected: str) -> str:
    """The same, used up."""
    sign = self.peek(signs, expected)
    self._at += 1
    return sign

  def record(self) -> tuple[Any, tuple[int, int]]:
    """The object that begins here, and its span in the file."""
    while True:
      try:
        found, end = _DECODER.raw_decode(self._text, self._at)
        break
      except json.JSONDecodeError:
        # Its end may not have been read yet.
        if self._ended or len(self._text) - self._at > _LONGEST:
          raise
        self._more()
    start = self._passed + len(self._text[: self._at].encode())
    size = len(self._text[self._at : end].encode())
    self._at = end
    return found, (start, size)
