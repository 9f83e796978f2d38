"""The suite as an environment: tasks at lengths, by name.

    config.data.name = "suite"
    config.data.tasks = ("niah_multikey_2", "vt_chains", "babi_qa2", "hops_3")
    config.data.lengths = (4096, 131072)

Every task at every length is a held-out set of its own, named task_length; the
training stream takes them in turn. The names are those of `tasks.TASKS`.
"""

import dataclasses
import functools

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib
from memjax.envs.suite import draft
from memjax.envs.suite import labels
from memjax.envs.suite import passages
from memjax.envs.suite import tasks

# The reward and the metric that a task was published with.
OWN = "task"


def score(name: str, example: example_lib.Example, text: str) -> float:
  """A metric by name; "only" needs the labels of the example."""
  if name == "only":
    return labels.only(
      text, example.answers, example.meta["labels"], example.question
    )
  table = rewards.REWARDS | rewards.METRICS
  return table[name](text, example.answers)


@dataclasses.dataclass(frozen=True)
class Suite:
  """The environment; the same methods as `facts.Facts`.

  Attributes:
    seed: of everything.
    tasks: names of tasks.
    lengths: of texts that are evaluated, in tokens of Qwen3.
    train_lengths: of texts that are trained on; empty: those of `lengths`.
    eval_examples: of each held-out set.
    path: a HotpotQA file, for the task "qa" alone.
    tokenizer: a directory with Qwen3's tokenizer, which counts that file.
    reward_name: key of `rewards.REWARDS`, or "task": each task's own metric.
    metric_name: key of `rewards.METRICS`, or "task".
  """

  seed: int = 0
  tasks: tuple[str, ...] = tasks.RULER
  lengths: tuple[int, ...] = (4096,)
  train_lengths: tuple[int, ...] = ()
  eval_examples: int = 128
  path: str = ""
  tokenizer: str = ""
  reward_name: str = OWN
  metric_name: str = OWN

  def __post_init__(self):
    """Refuses settings that no text can have."""
    for table, field in (
      (rewards.REWARDS, "reward_name"),
      (rewards.METRICS, "metric_name"),
    ):
      name = getattr(self, field)
      if name not in (OWN, *table):
        raise ValueError(
          f"config.data.{field}={name!r}: choose one of "
          f"{', '.join((OWN, *table))}"
        )
    if not self.tasks or not self.lengths or self.eval_examples < 1:
      raise ValueError(
        f"config.data has {len(self.tasks)} tasks, {len(self.lengths)} lengths "
        f"and eval_examples={self.eval_examples}: expected at least one of each"
      )
    for name in self.tasks:
      if name not in tasks.TASKS:
        raise ValueError(
          f"config.data.tasks: {name!r} is none of {', '.join(tasks.TASKS)}"
        )
      for field in ("lengths", "train_lengths"):
        for length in getattr(self, field):
          tasks.check_length(name, length, f"config.data.{field}")
    if "qa" in self.tasks:
      _ = self._tasks  # the file is read now

  @functools.cached_property
  def files(self) -> dict[str, str]:
    """SHA-256 of the file of the task "qa" by its name, if it is asked for."""
    return files_lib.digests(self.path if "qa" in self.tasks else "")

  @functools.cached_property
  def _tasks(self) -> dict[str, draft.Task]:
    """By name; "qa" on its file."""
    found = {name: tasks.TASKS[name] for name in self.tasks}
    if "qa" in found:
      found["qa"] = passages.task(
        passages.load(self.path, self.tokenizer),
        self.eval_examples,
        (*self.lengths, *self.train_lengths),
        self.seed,
      )
    return found

  def example(
    self, name: str, length: int, split: str, index: int
  ) -> example_lib.Deferred:
    """Example `index` of a task, a length and a split."""
    task = self._tasks[name]
    return tasks.example(task, name, length, self.seed, split, index)

  def train_examples(
    self, start: int, count: int
  ) -> list[example_lib.Deferred]:
    """Examples [start, start + count): tasks in turn, and then lengths."""
    lengths = self.train_lengths or self.lengths
    pairs = [(name, length) for length in lengths for name in self.tasks]
    found = []
    for place in range(start, start + count):
      index, pair = divmod(place, len(pairs))
      example = self.example(*pairs[pair], "train", index)
      found.append(example.with_id(place))
    return found

  def eval_sets(self) -> dict[str, list[example_lib.Deferred]]:
    """Held-out examples of each task and length, keyed task_length."""
    return _eval_sets(self)

  def groups(self) -> dict[str, list[str]]:
    """The sets of each length, whose mean is reported as RULER reports it."""
    if len(self.tasks) == 1:
      return {}
    return {
      f"mean_{length}": [f"{name}_{length}" for name in self.tasks]
      for length in self.lengths
    }

  def wants_all(self, example: example_lib.Example) -> bool:
    """Whether all answers are wanted, and not one of them."""
    name = self.metric_name
    if name == OWN:
      name = tasks.TASKS[example.meta["task"]].metric
    return name in rewards.WANT_ALL

  def reward(self, example: example_lib.Example, text: str) -> float:
    """The training reward of an answer."""
    return self._score(self.reward_name, example, text)

  def metric(self, example: example_lib.Example, text: str) -> float:
    """The evaluation metric of an answer."""
    return self._score(self.metric_name, example, text)

  def _score(self, name: str, example: example_lib.Example, text: str) -> float:
    if name == OWN:
      name = tasks.TASKS[example.meta["task"]].metric
    return score(name, example, text)

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """The kind of question that a world knows, otherwise the task."""
    kind = example.meta.get("kind", example.meta["task"])
    return {kind: self.metric(example, text)}


@functools.lru_cache(maxsize=1)
def _eval_sets(env: Suite) -> dict[str, list[example_lib.Deferred]]:
  """Made once; the texts are not kept."""
  return {
    f"{name}_{length}": [
      env.example(name, length, "eval", i) for i in range(env.eval_examples)
    ]
    for length in env.lengths
    for name in env.tasks
  }
