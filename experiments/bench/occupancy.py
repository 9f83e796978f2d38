"""What compacting a batch while it decodes could save: a step with fewer rows.

    python experiments/bench/occupancy.py

times row 3's decoding of the benchmark with 16, 8 and 4 rows. Where responses
have lengths that are spread evenly from nothing to the limit, half of the rows
have ended after half of the steps; the last line says what going on with half
of the rows, and again with a quarter, could save at most: moving the cache is
not counted.
"""

import os
import statistics
import sys
import tempfile
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import memjax_rows
import work

ROWS = (16, 8, 4)
REPETITIONS = 7


def measure():
  """Seconds of a step, by rows: the median of what is not prefill."""
  with tempfile.TemporaryDirectory() as folder:
    work.make_model(folder)
    row, data = memjax_rows.Row("papers", folder), work.rows()
  found = {n: [] for n in ROWS}
  for repetition in range(REPETITIONS + 1):  # the first compiles
    for n in ROWS:
      seconds = []
      for new in (1, work.NEW):
        start = time.monotonic()
        row.decode(data.prompt[:n], new)
        seconds.append(time.monotonic() - start)
      if repetition:
        found[n].append((seconds[1] - seconds[0]) / (work.NEW - 1))
  return found


def main():
  """Prints the table."""
  found = measure()
  for n, seconds in found.items():
    print(
      f"{n:3} rows: {1e3 * statistics.median(seconds):.2f} ms a step "
      f"[{1e3 * min(seconds):.2f}, {1e3 * max(seconds):.2f}]"
    )
  full, half, quarter = (statistics.median(found[n]) for n in ROWS)
  once, twice = (full + half) / 2, full / 2 + half / 4 + quarter / 4
  print(
    f"saved at most: {1 - once / full:.0%} once, {1 - twice / full:.0%} twice"
  )


if __name__ == "__main__":
  sys.exit(main())
