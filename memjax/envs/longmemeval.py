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
"longmemeval_judge". The judge is tried with each prompt on answers of
`longmemeval_cases`, and scores are corrected by what it errs with each. Without
a judge it is token F1 (Memory-R1's) or another of `rewards.METRICS`, which say
little about preferences and abstention, where the file's "answer" is a rubric
or an explanation.
"""

import collections
import functools
import os
import pathlib

from memjax.envs import benchmark
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib
from memjax.envs import longmemeval_cases
from memjax.envs import longmemeval_file
from memjax.envs import longmemeval_prompts


class LongMemEval(benchmark.Benchmark):
  """The environment; `counts` are those of `longmemeval_file.COUNTS`."""

  name = "longmemeval"
  judge_name = "longmemeval_judge"
  judge_prompts = longmemeval_prompts.PROMPTS
  judge_cases = longmemeval_cases.CASES

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


def load(
  path: str | os.PathLike, counts: collections.Counter[str]
) -> list[example_lib.Deferred]:
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
    _example(path, record, span, example_lib.EVAL_ID + i)
    for i, (record, span) in enumerate(longmemeval_file.read(path, counts))
  ]


def _example(
  path: pathlib.Path,
  record: longmemeval_file.Record,
  span: tuple[int, int],
  id: int,
) -> example_lib.Deferred:
  return example_lib.Deferred(
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
  del seed
  return LongMemEval.of(
    path,
    pathlib.Path(path).stem,
    load,
    longmemeval_file.PUBLISHED,
    reward_name,
    metric_name,
  )
