"""Reads LongMemEval's files: histories of chats with an assistant (2410.10813).

A file is a JSON list of 500 questions, each with a history of its own:

  oracle    the sessions that hold the evidence, not sorted
  s         about 50 sessions, 115,000 tokens
  m         about 500 sessions, 1.5 million tokens; the file has 2.7 GB

    {"question_id", "question_type", "question", "answer", "question_date",
     "haystack_session_ids": [id], "haystack_dates": [date],
     "haystack_sessions": [[{"role", "content"[, "has_answer"]}]],
     "answer_session_ids": [id]}

Dates are like "2023/05/20 (Sat) 02:21": in order as texts, as they are in time.
What a file has wrong is put right and counted, see `COUNTS`. The files are MIT
and not part of this package.
"""

import collections
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

from memjax.envs import files

# SHA-256 of the files as several public repositories record them.
PUBLISHED = {
  # longmemeval_oracle.json, the same in both releases
  "821a2034d219ab45846873dd14c14f12cfe7776e73527a483f9dac095d38620c": "oracle",
  # longmemeval_s, the first release (2024)
  "08d8dad4be43ee2049a22ff5674eb86725d0ce5ff434cde2627e5e8e7e117894": "s",
  # longmemeval_s_cleaned.json (September 2025)
  "d6f21ea9d60a0d56f34a05b609c79c88a451d2ae03597821ea3d5a9678c3a442": "s",
  # longmemeval_m_cleaned.json
  "9d79e5524794a2e6900a3aa9cb7d9152c5a3e8319c9a87c25494ba1eacee495f": "m",
}
TYPES = (
  "single-session-user",
  "single-session-assistant",
  "single-session-preference",
  "multi-session",
  "knowledge-update",
  "temporal-reasoning",
)
COUNTS = (
  "abstention",  # questions without an answer in the history: no dirt
  "number_answers",  # answers that are numbers, made texts
  "odd_dates",  # dates of another form, sorted as texts all the same
  "empty_turns",  # turns without a text, dropped
  "empty_sessions",  # sessions without a turn, dropped
  "repeated_sessions",  # ids that a history has more than once, kept
  "missing_evidence",  # cited ids that no session has, dropped
  "unmarked_evidence",  # cited sessions in which no turn is marked; not of
  # questions to abstain from
)

_DATE = re.compile(r"\d{4}/\d\d/\d\d \([A-Z][a-z]{2}\) \d\d:\d\d")
_FIELDS = (
  "haystack_session_ids",
  "haystack_dates",
  "haystack_sessions",
)


@dataclasses.dataclass(frozen=True)
class Session:
  """One chat.

  Attributes:
    id: as evidence cites it.
    date: "2023/05/20 (Sat) 02:21".
    lines: its turns, `role: content`, each on one line.
    marked: numbers of those that hold the evidence.
  """

  id: str
  date: str
  lines: tuple[str, ...]
  marked: tuple[int, ...]

  @property
  def day(self) -> str:
    """The date without the time of day, which costs as many tokens again."""
    return self.date[:-6] if _DATE.fullmatch(self.date) else self.date


@dataclasses.dataclass(frozen=True)
class Record:
  """One question about one history.

  Attributes:
    id: of the question.
    kind: one of TYPES.
    abstains: the history does not have the answer; `answer` says why.
    question: what is asked.
    date: when.
    answer: the accepted one, or what a good answer takes into account
      (single-session-preference).
    sessions: sorted by date.
    evidence: ids of the sessions that the answer rests on.
  """

  id: str
  kind: str
  abstains: bool
  question: str
  date: str
  answer: str
  sessions: tuple[Session, ...]
  evidence: tuple[str, ...]


def read(
  path: str | os.PathLike, counts: collections.Counter[str]
) -> Iterator[tuple[Record, tuple[int, int]]]:
  """(record, its span) of all records, one at a time; see `files.json_items`.

  Args:
    path: of the file.
    counts: filled in while reading.

  Raises:
    ValueError: names the file, the record, what it has and what it should.
  """
  path, ids = pathlib.Path(path), set()
  counts.update(dict.fromkeys(COUNTS, 0))
  for where, found, span in files.json_items(path):
    record = parse(found, where, counts)
    if record.id in ids:
      raise ValueError(
        f"{where}: an earlier record has the question_id {record.id!r}, too; "
        "remove one of them"
      )
    ids.add(record.id)
    yield record, span


def parse(
  found: Mapping[str, Any], where: str, counts: collections.Counter[str]
) -> Record:
  """One record, put right.

  Raises:
    ValueError: names the field.
  """
  id = files.text(found, "question_id", where)
  where += f" ({id})"
  kind = files.text(found, "question_type", where)
  if kind not in TYPES:
    raise ValueError(
      f"{where}: question_type is {kind!r}, expected one of {', '.join(TYPES)}"
    )
  answer = files.field(found, "answer", (str, int, float), where)
  counts["number_answers"] += not isinstance(answer, str)
  if not str(answer).strip():
    raise ValueError(
      f"{where}: the answer is empty, expected a text; remove the question"
    )
  abstains = id.endswith("_abs")
  counts["abstention"] += abstains
  date = files.text(found, "question_date", where)
  counts["odd_dates"] += not _DATE.fullmatch(date)
  sessions = _sessions(found, where, counts)
  known = {session.id: session for session in sessions}
  counts["repeated_sessions"] += len(sessions) - len(known)
  evidence = []
  cites = files.field(found, "answer_session_ids", list, where)
  if not all(isinstance(cited, str) for cited in cites):
    raise ValueError(
      f"{where}: answer_session_ids has {cites!r:.60}, expected ids of sessions"
    )
  for cited in dict.fromkeys(cites):
    if cited not in known:
      counts["missing_evidence"] += 1
      continue
    evidence.append(cited)
    counts["unmarked_evidence"] += not abstains and not known[cited].marked
  return Record(
    id,
    kind,
    abstains,
    files.text(found, "question", where),
    date,
    str(answer).strip(),
    sessions,
    tuple(evidence),
  )


def _sessions(
  found: Mapping[str, Any], where: str, counts: collections.Counter[str]
) -> tuple[Session, ...]:
  ids, dates, talks = (
    files.field(found, name, list, where) for name in _FIELDS
  )
  if not len(ids) == len(dates) == len(talks):
    raise ValueError(
      f"{where}: {len(ids)} haystack_session_ids, {len(dates)} haystack_dates "
      f"and {len(talks)} haystack_sessions, expected as many of each"
    )
  sessions = []
  for number, (id, date, talk) in enumerate(zip(ids, dates, talks), start=1):
    at = f"{where}, session {number}"
    for name, value, kind in (
      ("haystack_session_ids", id, str),
      ("haystack_dates", date, str),
      ("haystack_sessions", talk, list),
    ):
      if not isinstance(value, kind):
        raise ValueError(
          f"{at}: {name} has {value!r:.60}, expected a {kind.__name__}"
        )
    date = date.strip()
    counts["odd_dates"] += not _DATE.fullmatch(date)
    lines, marked = [], []
    for place, turn in enumerate(talk, start=1):
      line, is_marked = _turn(turn, f"{at}, turn {place}")
      if not line:
        counts["empty_turns"] += 1
        continue
      marked += [len(lines)] if is_marked else []
      lines.append(line)
    counts["empty_sessions"] += not lines
    if lines:
      sessions.append(Session(id, date, tuple(lines), tuple(marked)))
  # Sessions of one date stay in the order of the file.
  return tuple(sorted(sessions, key=lambda session: session.date))


def _turn(turn: Any, where: str) -> tuple[str, bool]:
  """(line, whether it holds evidence); the line of an empty turn is ""."""
  role = files.text(turn, "role", where)
  content = " ".join(files.field(turn, "content", str, where).split())
  marked = turn.get("has_answer")
  if not isinstance(marked, bool | None):
    raise ValueError(
      f"{where}: has_answer is {marked!r:.60}, expected true or false"
    )
  return f"{role}: {content}" if content else "", bool(marked)
