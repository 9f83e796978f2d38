"""LoCoMo: questions about conversations of many sessions (arXiv 2402.17753).

Reads the official locomo10.json (CC BY-NC 4.0, not part of this package): ten
conversations, 272 sessions with turns, 1,540 questions and 446 adversarial
ones, which are dropped. Memory-R1 (2508.19828) divides it by conversation:
conv-26 trains (152 questions), conv-30 validates (81), the others test (1,307).

Categories are numbers here as in the file, since papers name them differently:
1 needs several turns (282), 2 a date (321), 3 knowledge of the world (96),
4 a single turn (841).

What the file has wrong is put right and counted, see `Corpus.counts`.
"""

import collections
import dataclasses
import json
import os
import pathlib
import re
import string
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import porter

# Ids of held-out examples start here, so that none is a training example's.
_EVAL_ID = 1 << 24
_ADVERSARIAL = 5
_METRIC = "locomo_f1"

_SESSION = re.compile(r"session_([0-9]{1,9})")
_TURN_ID = re.compile(r"D[1-9][0-9]{0,8}:[1-9][0-9]{0,8}")
_LOOSE_TURN_ID = re.compile(r"D:?([0-9]{1,9}):([0-9]{1,9})")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the|and)\b")


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
    name = _field(sample, "sample_id", str, where)
    where += f" ({name})"
    if name in conversations:
      raise ValueError(f"{where}: an earlier sample has the same sample_id")
    talk = _field(sample, "conversation", Mapping, where)
    speakers = (
      _text(talk, "speaker_a", where),
      _text(talk, "speaker_b", where),
    )
    sessions = _sessions(talk, speakers, where, counts)
    ids = {turn.id for session in sessions for turn in session.turns}
    asked = _field(sample, "qa", list, where)
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


def _field(record: Any, name: str, kind: Any, where: str) -> Any:
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


def _text(record: Any, name: str, where: str) -> str:
  """A text field on one line.

  Raises:
    ValueError: there is none, or nothing in it.
  """
  text = " ".join(_field(record, name, str, where).split())
  if not text:
    raise ValueError(f"{where}: field {name!r} is empty, expected a text")
  return text


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
    records = _field(talk, name, list, where)
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
    time = _text(talk, f"{name}_date_time", where)
    sessions.append(Session(number, time, tuple(turns)))
  if not sessions:
    raise ValueError(
      f"{where}: no session has a turn; expected session_1, session_2 and so on"
    )
  return tuple(sessions)


def _turn(record: Any, speakers: tuple[str, str], where: str) -> Turn:
  speaker = _text(record, "speaker", where)
  if speaker not in speakers:
    raise ValueError(
      f"{where}: the speaker is {speaker!r}, expected {speakers[0]!r} or "
      f"{speakers[1]!r}"
    )
  id = _field(record, "dia_id", str, where)
  if not _TURN_ID.fullmatch(id):
    raise ValueError(f"{where}: the dia_id is {id!r}, expected one like 'D1:3'")
  text = " ".join(_field(record, "text", str, where).split())
  if "blip_caption" in record:
    text = f"{text} [image: {_text(record, 'blip_caption', where)}]".strip()
  return Turn(id, speaker, text)


def _question(
  record: Any,
  index: int,
  ids: set[str],
  where: str,
  counts: collections.Counter[str],
) -> Question | None:
  """A question; None if it is adversarial."""
  category = _field(record, "category", int, where)
  if not 1 <= category <= _ADVERSARIAL:
    raise ValueError(f"{where}: category is {category}, expected 1 to 5")
  if category == _ADVERSARIAL:
    counts["adversarial"] += 1
    return None
  question = _text(record, "question", where)
  answer = _field(record, "answer", (str, int), where)
  counts["integer_answers"] += isinstance(answer, int)
  answer = str(answer).strip()
  if not answer:
    raise ValueError(f"{where}: the answer is empty")
  cited = _field(record, "evidence", list, where)
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


def _example(
  conversation: Conversation, question: Question, sessions: Sequence[Session]
) -> example_lib.Example:
  return example_lib.Example(
    question.index,
    question.question,
    tuple(
      "\n".join(turn.line for turn in session.turns) for session in sessions
    ),
    question.answers,
    {
      "category": question.category,
      "evidence": question.evidence,
      "conversation": conversation.id,
      "speakers": conversation.speakers,
    },
    stamps=tuple(session.date for session in sessions),
  )


def locomo_f1(text: str, answers: Sequence[str], category: int) -> float:
  """LoCoMo's official F1: of words without articles and "and", stemmed.

    category 1      the mean, over the answer's parts between commas, of the
                    best F1 that a part of the text between commas has
    category 3      F1, with the answer cut at its first ";"
    categories 2, 4 F1

  A boxed answer is taken out of its box first, as in `rewards`. Of several
  accepted answers the best counts.

  Raises:
    ValueError: another category.
  """
  if category not in (1, 2, 3, 4):
    raise ValueError(f"category={category}: expected 1, 2, 3 or 4")
  text = rewards.extract_answer(text)
  if category == 1:
    score = _parts_f1
  elif category == 3:
    score = lambda text, answer: _f1(text, answer.split(";")[0])
  else:
    score = _f1
  return max((score(text, answer) for answer in answers), default=0.0)


def _parts_f1(text: str, answer: str) -> float:
  parts = answer.split(",")
  best = (max(_f1(found, part) for found in text.split(",")) for part in parts)
  return sum(best) / len(parts)


def _f1(text: str, answer: str) -> float:
  found, truth = _stems(text), _stems(answer)
  same = sum((found & truth).values())
  return 2 * same / (found.total() + truth.total()) if same else 0.0


def _stems(text: str) -> collections.Counter[str]:
  words = _ARTICLE.sub(" ", text.lower().translate(_PUNCTUATION)).split()
  return collections.Counter(map(porter.stem_nltk, words))


@dataclasses.dataclass(frozen=True)
class Locomo:
  """The environment; the same methods as `facts.Facts`.

  Attributes:
    train: examples to train on, each once; may be empty.
    held_out: examples to evaluate on, by name of the set.
    seed: of the order of training.
    reward_name: key of `rewards.REWARDS`.
    metric_name: key of `rewards.METRICS`, or "locomo_f1".
    questions: so many training examples in a row are of one conversation.
    counts: those of `Corpus`, and outside_window: questions of the training
      conversations that were left out since their evidence is not in one
      window, or they have none.
  """

  train: tuple[example_lib.Example, ...]
  held_out: Mapping[str, list[example_lib.Example]]
  seed: int
  reward_name: str
  metric_name: str
  questions: int
  counts: Mapping[str, int]

  def train_examples(self, start: int, count: int) -> list[example_lib.Example]:
    """Examples [start, start + count) of an endless stream of epochs.

    Examples [k * questions, (k + 1) * questions) are different questions of one
    conversation. An epoch has each question once at most: what is left over
    when a conversation is cut into runs is another remainder in every epoch.
    The stream is a function of the seed alone; an example's id in it is its
    place.

    Raises:
      ValueError: there is nothing to train on.
    """
    if not self.train:
      raise ValueError(
        "there is nothing to train on: name a conversation in train"
      )
    size = len(self._epoch(0))
    epochs = range(start // size, (start + count - 1) // size + 1)
    orders = {epoch: self._epoch(epoch) for epoch in epochs}
    return [
      dataclasses.replace(
        self.train[orders[place // size][place % size]], id=place
      )
      for place in range(start, start + count)
    ]

  def _epoch(self, epoch: int) -> np.ndarray:
    """Indices into `train`, in the order of an epoch."""
    rng = np.random.default_rng([self.seed, epoch])
    names = np.array([e.meta["conversation"] for e in self.train])
    runs = []
    for name in dict.fromkeys(names):
      order = rng.permutation(np.flatnonzero(names == name))
      whole = len(order) - len(order) % self.questions
      runs.append(order[:whole].reshape(-1, self.questions))
    return rng.permutation(np.concatenate(runs)).reshape(-1)

  def eval_sets(self) -> Mapping[str, list[example_lib.Example]]:
    """The held-out examples: "valid" and "test", where there are such."""
    return self.held_out

  def reward(self, example: example_lib.Example, text: str) -> float:
    """The training reward of an answer."""
    return rewards.REWARDS[self.reward_name](text, example.answers)

  def metric(self, example: example_lib.Example, text: str) -> float:
    """The evaluation metric of an answer."""
    if self.metric_name == _METRIC:
      return locomo_f1(text, example.answers, example.meta["category"])
    return rewards.METRICS[self.metric_name](text, example.answers)

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """The category that an answer counts in, and with what score."""
    category = f"category {example.meta['category']}"
    return {category: self.metric(example, text)}


def make(
  path: str,
  *,
  seed: int = 0,
  train: Sequence[str] = ("conv-26",),
  valid: Sequence[str] = ("conv-30",),
  reward_name: str = "reward_exact",
  metric_name: str = _METRIC,
  questions: int = 1,
  window_turns: int = 0,
) -> Locomo:
  """Loads the file and divides it by conversation, as Memory-R1 does.

  Args:
    path: of locomo10.json.
    seed: of the order of training.
    train: ids of the conversations to train on.
    valid: ids of those in the set "valid"; the other ones are in "test".
    reward_name: key of `rewards.REWARDS`; it sees answers of category 3 whole.
    metric_name: key of `rewards.METRICS`, or "locomo_f1".
    questions: so many training examples in a row are of one conversation.
    window_turns: training contexts are the last so many turns up to the last
      cited one; 0 is the whole conversation, as in evaluation always.

  Raises:
    ValueError: the file is malformed, a name is unknown, a conversation is in
      both sets, or there are too few questions.
  """
  rewards.lookup(rewards.REWARDS, reward_name, "config.data.reward_name")
  metrics = {**rewards.METRICS, _METRIC: locomo_f1}
  rewards.lookup(metrics, metric_name, "config.data.metric_name")
  if questions < 1 or window_turns < 0:
    raise ValueError(
      f"questions={questions} and window_turns={window_turns}: expected at "
      "least 1 and at least 0"
    )
  if questions > 1 and window_turns:
    raise ValueError(
      f"questions={questions} with window_turns={window_turns}: each question "
      "has a window of its own; set one to 1 or the other to 0"
    )
  corpus = load(path)
  for name, chosen in (("train", train), ("valid", valid)):
    unknown = [chosen] if isinstance(chosen, str) else chosen
    unknown = [x for x in unknown if x not in corpus.conversations]
    if unknown or isinstance(chosen, str):
      raise ValueError(
        f"{name}={chosen!r}: expected a tuple of conversations of {path}, "
        f"which has {', '.join(corpus.conversations)}"
      )
  if both := set(train) & set(valid):
    raise ValueError(f"train and valid both have {', '.join(sorted(both))}")

  examples, outside = [], 0
  for conversation in corpus.conversations.values():
    if conversation.id not in train:
      continue
    left = 0
    for question in conversation.questions:
      sessions = conversation.sessions
      if window_turns:
        sessions = window(conversation, question.evidence, window_turns)
      if sessions:
        examples.append(_example(conversation, question, sessions))
        left += 1
      else:
        outside += 1
    if left < questions:
      raise ValueError(
        f"questions={questions}: {conversation.id} has {left} questions to "
        f"train on with window_turns={window_turns}; choose at most {left} or "
        "leave the conversation out"
      )
  held_out = {
    name: [
      dataclasses.replace(
        _example(conversation, question, conversation.sessions),
        id=_EVAL_ID + question.index,
      )
      for conversation in corpus.conversations.values()
      if conversation.id not in train
      and (conversation.id in valid) == (name == "valid")
      for question in conversation.questions
    ]
    for name in ("valid", "test")
  }
  held_out = {name: x for name, x in held_out.items() if x}
  if not held_out:
    raise ValueError(
      f"train={tuple(train)!r} leaves no question of {path} to evaluate on"
    )
  return Locomo(
    tuple(examples),
    held_out,
    seed,
    reward_name,
    metric_name,
    questions,
    {**corpus.counts, "outside_window": outside},
  )
