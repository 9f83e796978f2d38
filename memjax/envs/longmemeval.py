"""LongMemEval: 500 questions about chats with an assistant (arXiv 2410.10813).

    config.data.name = "longmemeval"
    config.data.path = "longmemeval_oracle.json"   # or the s or the m file

A test set: nothing is trained on it. Contexts are read from the file whenever
they are needed, so that the m file takes no more memory than its longest
history. A session's stamp is its day; the question begins with the date on
which it is asked, as in the official prompt; each turn is a line `user: ...` or
`assistant: ...`.

The published score is a judge's, see `longmemeval_prompts`:
`config.judge.metric=True` and a model, and the metric is called
"longmemeval_judge". Without a judge it is token F1 (Memory-R1's) or another of
`rewards.METRICS`, which say little about preferences and abstention, where the
file's "answer" is a rubric or an explanation.
"""

import collections
import dataclasses
import functools
import os
import pathlib
from collections.abc import Collection
from collections.abc import Mapping

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib
from memjax.envs import long_context
from memjax.envs import longmemeval_file
from memjax.envs import longmemeval_prompts
from memjax.envs.suite import draft

# Ids of held-out examples start here, as everywhere.
_EVAL_ID = 1 << 24


@dataclasses.dataclass(frozen=True)
class LongMemEval(long_context.LongContext):
  """The environment.

  Attributes:
    counts: what was put right, see `longmemeval_file.COUNTS`.
  """

  counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

  judge_name = "longmemeval_judge"
  judge_prompts = longmemeval_prompts.PROMPTS

  def train_examples(self, start: int, count: int) -> list[example_lib.Example]:
    """There is none.

    Raises:
      ValueError: always.
    """
    del start, count
    raise ValueError(
      "config.data.name='longmemeval' is a test set: train on other data and "
      "evaluate on it with --mode=eval"
    )

  def judge_view(self, example: example_lib.Example) -> tuple[str, str]:
    """(the question without its date, which of the prompts it takes)."""
    kind = longmemeval_prompts.KINDS[example.meta["type"]]
    return (
      example.meta["asked"],
      "abstention" if example.meta["abstains"] else kind,
    )

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """The type of question; and abstention, where there is no answer."""
    score = self.metric(example, text)
    found = {example.meta["type"]: score}
    return found | ({"abstention": score} if example.meta["abstains"] else {})


def session_recall(
  example: example_lib.Example, parts: Collection[int]
) -> float | None:
  """The share of the evidence's sessions among those that were found.

  LongMemEval's recall_all is 1 where this is 1. It skips questions to abstain
  from, as published: None for these, and where no session is cited.

  Args:
    example: of this environment.
    parts: numbers of the parts of the context that were found.
  """
  wanted = example.meta["evidence"]
  if example.meta["abstains"] or not wanted:
    return None
  found = {example.meta["sessions"][part] for part in parts}
  return sum(id in found for id in wanted) / len(wanted)


def load(
  path: str | os.PathLike, counts: collections.Counter[str]
) -> list[draft.Deferred]:
  """Reads a file; contexts stay in it.

  In `meta`: "type", "abstains", "asked" (the question alone), "question_id",
  "sessions" (id of each part), "evidence" (ids of sessions), "oracle" (the
  marked turns with their days; of a cited session without one, all turns) and
  "speakers".

  Args:
    path: of the file.
    counts: filled in while reading.

  Raises:
    ValueError: see `longmemeval_file.read`.
  """
  path = pathlib.Path(path)
  return [
    _example(path, record, span, _EVAL_ID + i)
    for i, (record, span) in enumerate(longmemeval_file.read(path, counts))
  ]


def _example(
  path: pathlib.Path,
  record: longmemeval_file.Record,
  span: tuple[int, int],
  id: int,
) -> draft.Deferred:
  return draft.Deferred(
    id,
    f"Current Date: {record.date}\nQuestion: {record.question}",
    functools.partial(_context, path, span),
    (record.answer,),
    {
      "type": record.kind,
      "abstains": record.abstains,
      "asked": record.question,
      "question_id": record.id,
      "sessions": tuple(session.id for session in record.sessions),
      "evidence": record.evidence,
      "oracle": _oracle(record),
      "speakers": ("user", "assistant"),
    },
    tuple(session.day for session in record.sessions),
  )


def _context(path: pathlib.Path, span: tuple[int, int]) -> tuple[str, ...]:
  """One part for each session, read anew."""
  record = longmemeval_file.parse(
    files_lib.item_at(path, span), str(path), collections.Counter()
  )
  return tuple("\n".join(session.lines) for session in record.sessions)


def _oracle(record: longmemeval_file.Record) -> tuple[str, ...]:
  """Lines that are enough to answer, in order of time."""
  told = []
  for session in record.sessions:
    if session.id not in record.evidence:
      continue
    places = session.marked or range(len(session.lines))
    told += [f"[{session.day}] {session.lines[place]}" for place in places]
  return tuple(told)


def make(
  path: str,
  reward_name: str = "reward_f1",
  metric_name: str = "f1",
  seed: int = 0,
) -> LongMemEval:
  """Loads a file; the set is named like it.

  Args:
    path: of longmemeval_oracle.json, or the s or m file, of either release.
    reward_name: key of `rewards.REWARDS`, for the rollouts of the report.
    metric_name: key of `rewards.METRICS`.
    seed: not used; nothing is drawn.

  Raises:
    ValueError: the file is malformed, or a name is unknown.
  """
  rewards.lookup(rewards.REWARDS, reward_name, "config.data.reward_name")
  rewards.lookup(rewards.METRICS, metric_name, "config.data.metric_name")
  counts: collections.Counter[str] = collections.Counter()
  examples = load(path, counts)
  return LongMemEval(
    (),
    {pathlib.Path(path).stem: examples},
    seed,
    reward_name,
    metric_name,
    files_lib.digests(path, published=longmemeval_file.PUBLISHED),
    counts=dict(counts),
  )
