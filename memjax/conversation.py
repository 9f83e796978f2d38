"""Conversations in files: JSON or JSONL of messages, as sessions of text."""

import json
import os
import pathlib
from typing import Any

# Names of a message's fields, the first that is there counts.
_SPEAKER = ("role", "speaker", "name")
_TEXT = ("content", "text")
_TIME = ("timestamp", "time", "date")


def read_sessions(
  path: str | os.PathLike, newline: str = "\n"
) -> list[tuple[str, str, str]]:
  """Reads a conversation: JSON or JSONL of messages.

  A message is {"role": ..., "content": ...}, with "timestamp" and "session" if
  known ("speaker", "name", "text", "time", "date" are understood too). Messages
  with one "session" belong together, without it those of one date, without
  either all of them. Sessions are read in the order of their first message.

  Returns:
    (name, stamp, text) of each session; a line "role: content" a message.

  Raises:
    ValueError: not readable, not JSON, or not messages; names the place.
  """
  path = pathlib.Path(path)
  try:
    content = path.read_text(encoding="utf-8")
  except FileNotFoundError as error:
    raise ValueError(f"--conversation={path}: no such file") from error
  except (OSError, UnicodeDecodeError) as error:
    raise ValueError(
      f"--conversation={path}: not readable as UTF-8 ({error})"
    ) from error
  sessions: dict[str, tuple[str, list[str]]] = {}
  for number, message in enumerate(_messages(content, path), start=1):
    where = f"{path}, message {number}"
    if not isinstance(message, dict):
      raise ValueError(f"{where}: expected an object, found {message!r:.80}")
    speaker = _field(message, _SPEAKER, where)
    text = _field(message, _TEXT, where)
    time = _field(message, _TIME, where, needed=False)
    session = str(message.get("session", time.split("T")[0]))
    stamp, lines = sessions.setdefault(session, (time, []))
    lines.append(" ".join(f"{speaker}: {text}".split()))
  gap = newline if newline.isspace() else f" {newline} "
  return [
    (name, stamp, gap.join(lines)) for name, (stamp, lines) in sessions.items()
  ]


def _messages(content: str, path: pathlib.Path) -> list[Any]:
  """The messages of a JSON array, of {"messages": [...]}, or of JSONL."""
  try:
    found = json.loads(content)
  except json.JSONDecodeError as error:
    lines = [x for x in content.splitlines() if x.strip()]
    if len(lines) < 2:
      raise ValueError(f"{path}: not JSON ({error})") from error
    found = []
    for number, line in enumerate(lines, start=1):
      try:
        found.append(json.loads(line))
      except json.JSONDecodeError as error:
        raise ValueError(
          f"{path}, line {number}: not JSON ({error})"
        ) from error
  if isinstance(found, dict):
    found = found.get("messages", [found])
  if not isinstance(found, list) or not found:
    raise ValueError(f"{path}: expected a list of messages, found none")
  return found


def _field(message, names, where, needed=True) -> str:
  for name in names:
    if isinstance(message.get(name), str | int | float):
      return str(message[name])
  if not needed:
    return ""
  raise ValueError(
    f"{where}: expected a text in one of {', '.join(names)}, found the fields "
    f"{', '.join(map(str, message)) or 'none'}"
  )
