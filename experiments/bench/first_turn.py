"""Row 3's iteration with the first turn of a group read once, and 16 times.

    python experiments/bench/first_turn.py

makes iterations of both in turns, the same rollouts, and prints their seconds.
It is refused if loss or gradient norm differ.
"""

import dataclasses
import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import memjax_rows
import work

REPETITIONS = 5


def measure():
  """Seconds of each iteration, by `rollout.share_prefix`."""
  with tempfile.TemporaryDirectory() as folder:
    work.make_model(folder)
    rows = {x: memjax_rows.Row("papers", folder) for x in (True, False)}
  for shares, row in rows.items():
    cfg = dataclasses.replace(row.run.collect, share_prefix=shares)
    row.run = dataclasses.replace(row.run, collect=cfg)
  found = {x: [] for x in rows}
  for repetition in range(REPETITIONS + 1):  # the first compiles
    numbers = {}
    for shares, row in rows.items():
      start = time.monotonic()
      numbers[shares] = row.iteration(repetition)
      if repetition:
        found[shares].append(time.monotonic() - start)
    for key in ("loss", "grad_norm"):
      one, other = (x[key] for x in numbers.values())
      if abs(one - other) > 1e-4:
        raise SystemExit(f"{key} is {one} and {other}")
  return found


def main():
  """Prints the medians."""
  for shares, seconds in measure().items():
    print(
      f"share_prefix={shares}: {statistics.median(seconds):.2f} s "
      f"[{min(seconds):.2f}, {max(seconds):.2f}]"
    )


if __name__ == "__main__":
  sys.exit(main())
