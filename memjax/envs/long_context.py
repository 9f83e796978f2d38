"""Questions about long texts, from files: MemAgent's, MemFactory's, RULER's.

Layouts, told apart by the fields of each record:

  MemAgent's and MemFactory's JSON
    {"context": str, "input": str, "answers": [str]}
  RULER's
    {"context": str, "input": str, "outputs": [str]}
  MemAgent's parquet, which is verl's
    {"prompt": [{"role", "content"}], "context": str,
     "reward_model": {"ground_truth": [str]}}

A record may have "gold_documents", a list of texts that are enough to answer,
as `hotpotqa` writes it: the oracle memory of `controls`.

A file is .json (a list), .jsonl (an object per line) or .parquet. No record is
skipped: a malformed one is an error that names it.
"""

import dataclasses
import glob
import os
import pathlib
import re
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib

_MOST_SETS = 64  # ids are int32

# Fields that are read, and "oracle", which means a memory to `evaluate`. What a
# record has beside these is kept in `meta`, if it is of a plain type.
_GOLD = "gold_documents"
_READ = ("context", "input", "prompt", "question", "answers", "outputs", _GOLD)
_NOT_META = (*_READ, "oracle")
_PLAIN = (str, int, float, bool)


def load(
  path: str | os.PathLike, first_id: int = 0
) -> list[example_lib.Example]:
  """Reads a data file.

  Args:
    path: of the file.
    first_id: id of the first record.

  Raises:
    ValueError: names the file, the record, what it has and what it should.
  """
  readers = {
    ".json": files_lib.json_list,
    ".jsonl": files_lib.json_lines,
    ".parquet": _parquet,
  }
  return [
    _example(record, first_id + i, where)
    for i, (where, record) in enumerate(
      files_lib.records(pathlib.Path(path), readers)
    )
  ]


def _parquet(path: pathlib.Path) -> Iterator[tuple[str, Any]]:
  try:
    # Streamed: nothing is copied to a cache. Escaped: it takes patterns.
    rows = list(
      datasets.load_dataset(
        "parquet",
        data_files=glob.escape(str(path)),
        split="train",
        streaming=True,
      )
    )
  except Exception as error:  # of half a dozen libraries below
    raise ValueError(f"{path} is not a parquet file: {error}") from error
  for number, record in enumerate(rows, start=1):
    yield f"{path}, record {number}", record


def _example(
  record: Mapping[str, Any], id: int, where: str
) -> example_lib.Example:
  """One record of any layout.

  Raises:
    ValueError: a field is missing or of another type.
  """
  if "prompt" in record:
    question = _field(record, "prompt", list, where)
    if not question or not isinstance(question[-1], Mapping):
      raise ValueError(f"{where}: prompt is {question!r}, expected messages")
    role = question[-1].get("role", "user")
    if role != "user":
      raise ValueError(
        f"{where}: the last message of prompt is of role {role!r}, expected "
        "'user', who asks the question"
      )
    question = _field(question[-1], "content", str, f"{where}, prompt")
    model = _field(record, "reward_model", Mapping, where)
    answers = _field(model, "ground_truth", (list, str), where)
  else:
    question = _field(record, "input", str, where)
    name = "outputs" if "outputs" in record else "answers"
    answers = _field(record, name, (list, str), where)
  answers = [answers] if isinstance(answers, str) else list(answers)
  if not answers or not all(isinstance(a, str) and a.strip() for a in answers):
    raise ValueError(
      f"{where}: the answers are {answers!r}, expected at least one text and "
      "none that is empty"
    )
  if not question.strip():
    raise ValueError(f"{where}: the question is empty")
  context = _field(record, "context", str, where)
  extra = record.get("extra_info")
  known = {**(extra if isinstance(extra, Mapping) else {}), **record}
  meta = {
    name: value
    for name, value in known.items()
    if name not in _NOT_META and isinstance(value, _PLAIN)
  }
  if record.get(_GOLD) is not None:  # as where a parquet row has none
    meta["oracle"] = _gold(record, where)
  return example_lib.Example(id, question, context, tuple(answers), meta)


def _gold(record: Mapping[str, Any], where: str) -> tuple[str, ...]:
  """The texts that are enough to answer, each on lines of its own."""
  texts = _field(record, _GOLD, list, where)
  if not texts or not all(isinstance(x, str) and x.strip() for x in texts):
    raise ValueError(
      f"{where}: {_GOLD} is {texts!r:.60}, expected at least one text and none "
      "that is empty; or remove the field"
    )
  return tuple(f"{text}\n" for text in texts)


def _field(record: Mapping[str, Any], name: str, kind: Any, where: str) -> Any:
  if name not in record:
    raise ValueError(
      f"{where}: no field {name!r}, only {', '.join(map(str, record))}"
    )
  value = record[name]
  if not isinstance(value, kind):
    kinds = kind if isinstance(kind, tuple) else (kind,)
    raise ValueError(
      f"{where}: field {name!r} is {value!r:.60}, expected "
      f"{' or '.join(k.__name__ for k in kinds)}"
    )
  return value


@dataclasses.dataclass(frozen=True)
class LongContext:
  """The environment; the same methods as `facts.Facts`.

  Attributes:
    train: examples to train on; may be empty where nothing is trained.
    held_out: examples to evaluate on, by name of the set.
    seed: of the order of training.
    reward_name: key of `rewards.REWARDS`.
    metric_name: key of `rewards.METRICS`; where sets differ, all that are used.
    files: SHA-256 of each file that was read, by its name.
    metric_of: key of `rewards.METRICS` by set where sets differ; "" is the
      others'.
  """

  train: tuple[example_lib.Example, ...]
  held_out: Mapping[str, list[example_lib.Example]]
  seed: int
  reward_name: str
  metric_name: str
  files: Mapping[str, str] = dataclasses.field(default_factory=dict)
  metric_of: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def train_examples(self, start: int, count: int) -> list[example_lib.Example]:
    """Examples [start, start + count) of an endless stream of epochs.

    Each epoch is a permutation of its own; the stream is a function of the seed
    alone. An example's id in the stream is its place, so that it draws other
    random numbers in every epoch.

    Raises:
      ValueError: there is nothing to train on.
    """
    if not self.train:
      raise ValueError(
        "there is nothing to train on: name a file in config.data.path"
      )
    size = len(self.train)
    epochs = range(start // size, (start + count - 1) // size + 1)
    orders = {
      epoch: np.random.default_rng([self.seed, epoch]).permutation(size)
      for epoch in epochs
    }
    return [
      dataclasses.replace(
        self.train[orders[place // size][place % size]], id=place
      )
      for place in range(start, start + count)
    ]

  def eval_sets(self) -> Mapping[str, list[example_lib.Example]]:
    """The held-out examples, the shortest set first."""
    return self.held_out

  def reward(self, example: example_lib.Example, text: str) -> float:
    """The training reward of an answer."""
    return rewards.REWARDS[self.reward_name](text, example.answers)

  def metric(self, example: example_lib.Example, text: str) -> float:
    """The evaluation metric of an answer, that of the example's set."""
    return rewards.METRICS[self._metric(example)](text, example.answers)

  def wants_all(self, example: example_lib.Example) -> bool:
    """Whether all answers are wanted, and not one of them."""
    return self._metric(example) in rewards.WANT_ALL

  def _metric(self, example: example_lib.Example) -> str:
    # A training example is of no set.
    name = ["", *self.held_out][example.id // example_lib.EVAL_ID]
    others = self.metric_of.get("", self.metric_name)
    return self.metric_of.get(name, others)

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """Files of this kind say nothing by which a table could be split."""
    del example, text
    return {}


def make(
  path: str,
  eval_path: str,
  holdout: int,
  reward_name: str,
  metric_name: str,
  seed: int,
  eval_paths: Mapping[str, str] | None = None,
  eval_metrics: Mapping[str, str] | None = None,
) -> LongContext:
  """Loads the files of a config: `split` of what `load` reads.

  Args:
    path: see `split`, as are the others but for these.
    eval_path: one file to evaluate on.
    holdout: questions to hold out.
    reward_name: verifier of training.
    metric_name: verifier of evaluation.
    seed: of orders and choices.
    eval_paths: several files to evaluate on, by name of the set, in place of
      eval_path.
    eval_metrics: the verifiers of sets that have another than metric_name.
  """
  return split(
    load,
    path,
    eval_path,
    holdout,
    reward_name,
    metric_name,
    seed,
    eval_paths,
    eval_metrics,
  )


def split(
  load: Callable[..., list[example_lib.Example]],
  path: str,
  eval_path: str,
  holdout: int,
  reward_name: str,
  metric_name: str,
  seed: int,
  eval_paths: Mapping[str, str] | None = None,
  eval_metrics: Mapping[str, str] | None = None,
) -> LongContext:
  """An environment of files that a loader reads.

  Args:
    load: reads a path, with `first_id`.
    path: what is trained on; "" if nothing is.
    eval_path: what is evaluated on; "" holds some of `path` out.
    holdout: how many questions of `path` are then held out.
    reward_name: key of `rewards.REWARDS`.
    metric_name: key of `rewards.METRICS`.
    seed: of the choice of held-out questions and of the order of training.
    eval_paths: several files in place of eval_path, by name of the set. Sets
      are ordered by the first number in their names; training looks at the
      first.
    eval_metrics: keys of `rewards.METRICS` for some of these sets.

  Raises:
    ValueError: a file is malformed, no file is named, too many questions would
      be held out, or a question is both trained on and evaluated on.
  """
  eval_paths, eval_metrics = dict(eval_paths or {}), dict(eval_metrics or {})
  rewards.lookup(rewards.REWARDS, reward_name, "config.data.reward_name")
  rewards.lookup(rewards.METRICS, metric_name, "config.data.metric_name")
  for name, metric in eval_metrics.items():
    key = f"config.data.eval_metrics.{name}"
    rewards.lookup(rewards.METRICS, metric, key)
    if name not in eval_paths:
      raise ValueError(
        f"{key}={metric!r}: there is no set {name!r} in "
        f"config.data.eval_paths ({', '.join(eval_paths) or 'none'})"
      )
  if eval_path:
    if eval_paths:
      raise ValueError(
        f"config.data.eval_path={eval_path!r} and config.data.eval_paths "
        f"({', '.join(eval_paths)}): name one file or several, not both"
      )
    eval_paths = {pathlib.Path(eval_path).stem: eval_path}
  _check_files(path, eval_paths)
  train = load(path) if path else []
  held_out = {
    name: load(file, first_id=example_lib.EVAL_ID * number)
    for number, (name, file) in enumerate(
      sorted(eval_paths.items(), key=_place), start=1
    )
  }
  if not held_out:
    train, held_out["heldout"] = _split(train, holdout, seed, path)
  trained = {_asked(example) for example in train}
  for name, examples in held_out.items():
    shared = {e.question for e in examples if _asked(e) in trained}
    if shared:
      raise ValueError(
        f"{len(shared)} questions of {eval_paths[name]} are also in {path}, "
        f"for example {min(shared)!r}: an evaluation on them would measure "
        "nothing; remove them from the training file"
      )
  label = [metric_name, *(f"{m} in {x}" for x, m in eval_metrics.items())]
  return LongContext(
    tuple(train),
    held_out,
    seed,
    reward_name,
    ", ".join(label),
    files_lib.digests(path, *eval_paths.values()),
    {"": metric_name, **eval_metrics},
  )


def _check_files(path: str, eval_paths: Mapping[str, str]) -> None:
  """Refuses files that have no name."""
  if not path and not eval_paths:
    raise ValueError(
      "config.data.path is empty: name a file of examples, such as "
      "--config.data.path=train.jsonl"
    )
  for name, file in eval_paths.items():
    if not file:
      raise ValueError(
        f"config.data.eval_paths.{name} is empty: name its file, such as "
        f"--config.data.eval_paths.{name}={name}.json"
      )
  if len(eval_paths) > _MOST_SETS:
    raise ValueError(
      f"config.data.eval_paths has {len(eval_paths)} sets: expected at most "
      f"{_MOST_SETS}"
    )


def _place(item: tuple[str, str]) -> tuple[float, str]:
  """eval_50 stands before eval_100; what has no number comes last."""
  number = re.search(r"\d+", item[0])
  return (float(number.group()) if number else float("inf"), item[0])


def _asked(example: example_lib.Example) -> str:
  """The question, but for case and white space: what a leak is told by."""
  return " ".join(example.question.casefold().split())


def _split(
  examples: list[example_lib.Example], holdout: int, seed: int, path: str
) -> tuple[list[example_lib.Example], list[example_lib.Example]]:
  """Parts examples by question: (train, held out)."""
  questions = sorted({_asked(e) for e in examples})
  if not 0 < holdout < len(questions):
    raise ValueError(
      f"config.data.holdout={holdout}: {path} has {len(questions)} different "
      "questions, of which at least one must be held out and one must stay; "
      "or name a file in config.data.eval_path"
    )
  order = np.random.default_rng([seed, 1]).permutation(len(questions))
  chosen = {questions[i] for i in order[:holdout]}
  return (
    [e for e in examples if _asked(e) not in chosen],
    [
      dataclasses.replace(e, id=example_lib.EVAL_ID + e.id)
      for e in examples
      if _asked(e) in chosen
    ],
  )
