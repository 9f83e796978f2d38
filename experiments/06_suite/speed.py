"""Tokens a second that each task of the suite is generated at, on one core.

    python experiments/06_suite/speed.py

prints the table of README.md. Each example is made anew, its text included;
lengths are those that were made, as the task counts them.
"""

import time

from memjax.envs.suite import draft
from memjax.envs.suite import needles
from memjax.envs.suite import philox
from memjax.envs.suite import tasks

_LENGTHS = (4096, 131072, draft.LONGEST)
_SECONDS = 1.0  # a measurement takes at least so long
_ROUNDS = 3  # of which the fastest counts


def speed(name: str, length: int) -> float:
  """Tokens a second."""
  best, made, index = 0.0, 0, 0
  for _ in range(_ROUNDS):
    start, made = time.perf_counter(), 0
    while time.perf_counter() - start < _SECONDS:
      stream = philox.Stream(0, name, length, "eval", index)
      _, count = tasks.TASKS[name].draw(stream, length).render()
      made, index = made + count, index + 1
    best = max(best, made / (time.perf_counter() - start))
  return best


def main():
  """Prints a table."""
  alike = set(needles.TASKS) - set(needles.PUBLISHED)
  print("| million tokens a second |" + "".join(f" {x:,} |" for x in _LENGTHS))
  print("|---" * (1 + len(_LENGTHS)) + "|")
  for name in tasks.TASKS:
    if name == "qa" or name in alike:  # a file's speed; one needle as others
      continue
    found = [speed(name, length) / 1e6 for length in _LENGTHS]
    print(f"| {name} |" + "".join(f" {x:.1f} |" for x in found), flush=True)


if __name__ == "__main__":
  main()
