"""Scripted readers: what a task is checked with, as functions of an example.

honest    reads the oracle memory, or any text, by the rules of the task
nothing   has no memory: guesses in the right form
cheat     goes by the surface of the text, as `cheats` has it
"""

from memjax.envs import example as example_lib
from memjax.envs.suite import draft
from memjax.envs.suite import env
from memjax.envs.suite import philox
from memjax.envs.suite import tasks


def full_text(example: example_lib.Example) -> str:
  """All that an example gives to read, stamps before their parts."""
  stamps = example.stamps or ("",) * len(example.parts)
  return "\n".join(
    f"{a}\n{b}" if a else b for a, b in zip(stamps, example.parts)
  )


def honest(example: example_lib.Example, text: str | None = None) -> str:
  """The answer that a text gives, without one the oracle memory.

  What the text does not say is guessed.
  """
  if text is None:
    text = "".join(example.meta["oracle"])
  found = _task(example).read(example.question, text)
  return nothing(example) if found is None else found


def nothing(example: example_lib.Example) -> str:
  """An answer at random, the same each time."""
  stream = philox.Stream("nothing", example.meta["task"], example.id)
  return _task(example).guess(example.question, stream)


def cheat(example: example_lib.Example, name: str) -> str:
  """What a cheat of the task answers."""
  rule = _task(example).cheats[name]
  return rule(example.question, full_text(example), len(example.answers))


def score(example: example_lib.Example, answer: str) -> float:
  """By the metric of the task."""
  return env.score(_task(example).metric, example, answer)


def _task(example: example_lib.Example) -> draft.Task:
  return tasks.TASKS[example.meta["task"]]
