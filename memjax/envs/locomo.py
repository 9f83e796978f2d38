"""LoCoMo: questions about conversations of many sessions (arXiv 2402.17753).

Memory-R1 (2508.19828) divides the file by conversation: conv-26 trains (152
questions), conv-30 validates (81), the others test (1,307).

Categories are numbers here as in the file, since papers name them differently:
1 needs several turns (282), 2 a date (321), 3 knowledge of the world (96),
4 a single turn (841). The official F1 scores them differently, which is why it
stands here and not in `rewards`.
"""

import collections
import dataclasses
import re
import string
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib
from memjax.envs import locomo_file
from memjax.envs import porter

_METRIC = "locomo_f1"

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLE = re.compile(r"\b(a|an|the|and)\b")


def _example(
  conversation: locomo_file.Conversation,
  question: locomo_file.Question,
  sessions: Sequence[locomo_file.Session],
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
      # The few questions that cite nothing have an empty one.
      "oracle": tuple(
        f"[{session.date}] {turn.line}"
        for session in conversation.sessions
        for turn in session.turns
        if turn.id in question.evidence
      ),
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
    counts: those of `locomo_file.Corpus`, and outside_window: questions of the
      training conversations that were left out since their evidence is not in
      one window, or they have none.
    files: SHA-256 of the file by its name.
  """

  train: tuple[example_lib.Example, ...]
  held_out: Mapping[str, list[example_lib.Example]]
  seed: int
  reward_name: str
  metric_name: str
  questions: int
  counts: Mapping[str, int]
  files: Mapping[str, str]

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
  corpus = locomo_file.load(path)
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
        sessions = locomo_file.window(
          conversation, question.evidence, window_turns
        )
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
        id=example_lib.EVAL_ID + question.index,
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
    files_lib.digests(path, published=locomo_file.PUBLISHED),
  )
