"""Reads LoCoMo's file: conversations of many sessions, and questions.

The official locomo10.json (arXiv 2402.17753; CC BY-NC 4.0, not part of this
package) has ten conversations, 272 sessions with turns, 1,540 questions and 446
adversarial ones, which are dropped. What it has wrong is put right and counted,
see `Corpus.counts`.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from memjax.envs import files

# SHA-256 of locomo10.json as its authors published it.
PUBLISHED = (
  "79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4",
)
_ADVERSARIAL = 5
_SESSION = re.compile(r"session_([0-9]{1,9})")
_TURN_ID = re.compile(r"D[1-9][0-9]{0,8}:[1-9][0-9]{0,8}")
_LOOSE_TURN_ID = re.compile(r"D:?([0-9]{1,9}):([0-9]{1,9})")


@dataclasses.dataclass(frozen=True)
class Turn:
  """What one speaker says at a time.

  Attributes:
    id: "D<session>:<turn>", as evidence cites it.
    speaker: who says it.
    text: on one line; a shared picture follows as " [image: <caption>]".
  """

  id: str
  speaker: str
  text: str

  @property
  def line(self) -> str:
    """The turn as a context shows it."""
    return f"{self.speaker}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Session:
  """Turns of one sitting; `time` is as in "1:56 pm on 8 May, 2023"."""

  number: int
  time: str
  turns: tuple[Turn, ...]

  @property
  def date(self) -> str:
    """The day, "8 May, 2023"; all of `time` where it has another form."""
    return self.time.rpartition(" on ")[2]


@dataclasses.dataclass(frozen=True)
class Question:
  """One question.

  Attributes:
    index: its place among all questions of the file, adversarial ones too.
    question: what is asked.
    answers: the accepted answers; the file has one for each.
    evidence: ids of turns that it rests on, each of which exists.
    category: 1 to 4.
  """

  index: int
  question: str
  answers: tuple[str, ...]
  evidence: tuple[str, ...]
  category: int


@dataclasses.dataclass(frozen=True)
class Conversation:
  """Two speakers, their sessions in numeric order, questions in file order."""

  id: str
  speakers: tuple[str, str]
  sessions: tuple[Session, ...]
  questions: tuple[Question, ...]


@dataclasses.dataclass(frozen=True)
class Corpus:
  """What a file holds.

  Attributes:
    conversations: by id, in file order.
    counts: what was put right:
      adversarial: questions of category 5, dropped;
      no_evidence: other questions that cite nothing;
      malformed_evidence: citations that are no id ("D8:6; D9:17", "D30:05"),
        of which the ids were taken that they hold;
      missing_evidence: cited ids that no turn has, dropped;
      integer_answers: answers that are numbers, made texts;
      empty_sessions: sessions without a turn, dropped.
  """

  conversations: Mapping[str, Conversation]
  counts: Mapping[str, int]


def load(path: str | os.PathLike) -> Corpus:
  """Reads locomo10.json or a file of its layout.

  Raises:
    ValueError: names the file, the sample, what it has and what it should.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"{path}: no such file; expected LoCoMo's locomo10.json")
  try:
    samples = json.loads(path.read_text(encoding="utf-8"))
  except (ValueError, RecursionError) as error:
    raise ValueError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(samples, list) or not samples:
    raise ValueError(f"{path}: expected a list of samples that is not empty")
  counts = collections.Counter(
    adversarial=0,
    no_evidence=0,
    malformed_evidence=0,
    missing_evidence=0,
    integer_answers=0,
    empty_sessions=0,
  )
  conversations, index = {}, 0
  for number, sample in enumerate(samples, start=1):
    where = f"{path}, sample {number}"
    name = files.field(sample, "sample_id", str, where)
    where += f" ({name})"
    if name in conversations:
      raise ValueError(f"{where}: an earlier sample has the same sample_id")
    talk = files.field(sample, "conversation", Mapping, where)
    speakers = (
      files.text(talk, "speaker_a", where),
      files.text(talk, "speaker_b", where),
    )
    sessions = _sessions(talk, speakers, where, counts)
    ids = {turn.id for session in sessions for turn in session.turns}
    asked = files.field(sample, "qa", list, where)
    questions = []
    for place, record in enumerate(asked, start=1):
      at = f"{where}, question {place}"
      question = _question(record, index, ids, at, counts)
      questions += [question] if question else []
      index += 1
    conversations[name] = Conversation(
      name, speakers, sessions, tuple(questions)
    )
  return Corpus(conversations, dict(counts))


def _sessions(
  talk: Mapping[str, Any],
  speakers: tuple[str, str],
  where: str,
  counts: collections.Counter[str],
) -> tuple[Session, ...]:
  numbers = sorted(
    int(match[1]) for match in map(_SESSION.fullmatch, talk) if match
  )
  sessions, seen = [], set()
  for number in numbers:
    name = f"session_{number}"
    records = files.field(talk, name, list, where)
    if not records:
      counts["empty_sessions"] += 1
      continue
    turns = []
    for place, record in enumerate(records, start=1):
      turn = _turn(record, speakers, f"{where}, {name}, turn {place}")
      if turn.id in seen:
        raise ValueError(f"{where}: two turns have the dia_id {turn.id!r}")
      seen.add(turn.id)
      turns.append(turn)
    time = files.text(talk, f"{name}_date_time", where)
    sessions.append(Session(number, time, tuple(turns)))
  if not sessions:
    raise ValueError(
      f"{where}: no session has a turn; expected session_1, session_2 and so on"
    )
  return tuple(sessions)


def _turn(record: Any, speakers: tuple[str, str], where: str) -> Turn:
  speaker = files.text(record, "speaker", where)
  if speaker not in speakers:
    raise ValueError(
      f"{where}: the speaker is {speaker!r}, expected {speakers[0]!r} or "
      f"{speakers[1]!r}"
    )
  id = files.field(record, "dia_id", str, where)
  if not _TURN_ID.fullmatch(id):
    raise ValueError(f"{where}: the dia_id is {id!r}, expected one like 'D1:3'")
  text = " ".join(files.field(record, "text", str, where).split())
  if "blip_caption" in record:
    text = (
      f"{text} [image: {files.text(record, 'blip_caption', where)}]".strip()
    )
  return Turn(id, speaker, text)


def _question(
  record: Any,
  index: int,
  ids: set[str],
  where: str,
  counts: collections.Counter[str],
) -> Question | None:
  """A question; None if it is adversarial."""
  category = files.field(record, "category", int, where)
  if not 1 <= category <= _ADVERSARIAL:
    raise ValueError(f"{where}: category is {category}, expected 1 to 5")
  if category == _ADVERSARIAL:
    counts["adversarial"] += 1
    return None
  question = files.text(record, "question", where)
  answer = files.field(record, "answer", (str, int), where)
  counts["integer_answers"] += isinstance(answer, int)
  answer = str(answer).strip()
  if not answer:
    raise ValueError(f"{where}: the answer is empty")
  cited = files.field(record, "evidence", list, where)
  counts["no_evidence"] += not cited
  evidence = {}  # in order, each once
  for text in cited:
    if not isinstance(text, str):
      raise ValueError(
        f"{where}: evidence has {text!r:.60}, expected ids like 'D1:3'"
      )
    counts["malformed_evidence"] += not _TURN_ID.fullmatch(text)
    for session, turn in _LOOSE_TURN_ID.findall(text):
      id = f"D{int(session)}:{int(turn)}"
      counts["missing_evidence"] += id not in ids
      if id in ids:
        evidence[id] = None
  return Question(index, question, (answer,), tuple(evidence), category)


def window(
  conversation: Conversation, evidence: Sequence[str], turns: int
) -> tuple[Session, ...]:
  """The last `turns` turns up to the last one that is cited.

  Memory-R1 builds what its manager is trained on from 24 or 50 such turns.

  Returns:
    Sessions with the turns that are left; none if nothing is cited or one of
    the cited turns would not be among them.
  """
  placed = [
    (session, turn)
    for session in conversation.sessions
    for turn in session.turns
  ]
  cited = [i for i, (_, turn) in enumerate(placed) if turn.id in evidence]
  if not cited or cited[-1] - cited[0] >= turns:
    return ()
  kept = {turn.id for _, turn in placed[: cited[-1] + 1][-turns:]}
  parts = (
    dataclasses.replace(
      session, turns=tuple(turn for turn in session.turns if turn.id in kept)
    )
    for session in conversation.sessions
  )
  return tuple(session for session in parts if session.turns)
