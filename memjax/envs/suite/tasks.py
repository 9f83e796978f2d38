"""All tasks by name, and their examples."""

from memjax.envs import example as example_lib
from memjax.envs.suite import babi
from memjax.envs.suite import draft
from memjax.envs.suite import frequency
from memjax.envs.suite import graph
from memjax.envs.suite import needles
from memjax.envs.suite import passages
from memjax.envs.suite import philox
from memjax.envs.suite import recall
from memjax.envs.suite import tracking
from memjax.envs.suite import worlds

TASKS: dict[str, draft.Task] = (
  needles.TASKS
  | tracking.TASKS
  | frequency.TASKS
  | passages.TASKS
  | babi.TASKS
  | recall.TASKS
  | graph.TASKS
  | worlds.TASKS
)
# RULER's, but for those that need a file of questions.
RULER = (*(x for x in needles.PUBLISHED), "vt", "cwe", "fwe")


def check_length(name: str, length: int, key: str) -> None:
  """Refuses a length that a task cannot have.

  Raises:
    ValueError: says which ones it can.
  """
  least = TASKS[name].least
  if not least <= length <= draft.LONGEST:
    raise ValueError(
      f"{key}={length}: expected {least} to {draft.LONGEST} tokens for {name}"
    )


def example(
  task: draft.Task, name: str, length: int, seed: int, split: str, index: int
) -> example_lib.Deferred:
  """Example `index` of a split; its context is made when it is read.

  Its `meta` has the task, the length, `oracle` (lines of a memory that is
  enough), `chance` (what a guess without the text scores) and what the task
  adds.
  """
  found = task.draw(philox.Stream(seed, name, length, split, index), length)
  return example_lib.Deferred(
    index,
    found.question,
    lambda: found.render()[0],
    found.answers,
    {
      "task": name,
      "length": length,
      "oracle": found.oracle,
      "chance": found.chance,
      **found.meta,
    },
    found.stamps,
  )
