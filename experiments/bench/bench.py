"""Decoding, update and whole iterations: two torch loops beside memjax.

    python experiments/bench/bench.py --out=experiments/bench/figures.json

runs the four rows of torch_rows.py and memjax_rows.py, each in a process of its
own that waits while another one works, on the same weights and the same work.
Rows take turns. A repetition counts if all other processes of the machine took
less than 0.15 of a core while it ran; otherwise it is made again. It is refused
if the rows do not compute the same numbers.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import psutil
import work

ROWS = {
  "MemFactory's loop": ("torch_rows", "plain"),
  "best torch loop": ("torch_rows", "best"),
  "memjax, papers' order": ("memjax_rows", "papers"),
  "memjax, chunk first, shared": ("memjax_rows", "shared"),
}
# What is measured, and the tokens it is worth: written, read by the loss; of an
# iteration read and written, which the rows count.
TOKENS = {
  "decode16": 16 * work.NEW,
  "decode32": 32 * work.NEW,
  "update": work.UPDATE_ROWS * (work.PROMPT + work.NEW),
  "iteration": None,
}
FOREIGN = 0.15  # cores that others may take
_FOLDER = pathlib.Path(__file__).resolve().parent


class Row:
  """A process that measures one row when it is told to."""

  def __init__(self, name, model):
    """Starts it."""
    module, kind = ROWS[name]
    self.process = subprocess.Popen(
      [sys.executable, _FOLDER / "row.py", module, kind, model],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(_ROOT)},
    )
    self.cpu = psutil.Process(self.process.pid)

  def run(self, what, rep):
    """(seconds, cores of other processes, what it returned)."""
    busy, own, start = _busy(), _own(self.cpu), time.monotonic()
    print(json.dumps([what, rep]), file=self.process.stdin, flush=True)
    line = self.process.stdout.readline()
    if not line:
      raise SystemExit(f"{what}: the process of this row ended, see above")
    wall = time.monotonic() - start
    foreign = (_busy() - busy - (_own(self.cpu) - own)) / wall
    seconds, found = json.loads(line)
    return seconds, foreign, found


_ROOT = _FOLDER.parent.parent


def _busy():
  """CPU seconds of all processes so far."""
  times = psutil.cpu_times()
  return sum(times) - times.idle - times.iowait - times.guest


def _own(process):
  return sum(process.cpu_times()[:2])


def _wait_for_silence(limit):
  """Returns when the machine is idle, or after so many seconds."""
  end = time.monotonic() + limit
  while time.monotonic() < end:
    busy = _busy()
    time.sleep(0.5)
    if (_busy() - busy) / 0.5 < FOREIGN:
      return


def check(found):
  """That the rows do the same work; and what they agree to."""
  first = next(iter(found.values()))
  for name, row in found.items():
    if row["greedy"] != first["greedy"]:
      raise SystemExit(f"{name} continues prompts otherwise than the first row")
    for key in ("loss", "grad_norm"):
      a, b = row["update"][key], first["update"][key]
      if abs(a - b) > 1e-4 * max(1.0, abs(b)):
        raise SystemExit(f"{name}: {key} of the update is {a}, the first's {b}")
    a, b = row["iteration"]["tokens"], first["iteration"]["tokens"]
    if abs(a - b) > 0.01 * b:
      raise SystemExit(f"{name} reads and writes {a} tokens, the first row {b}")


def measure(what, repetitions, seconds):
  """Raw figures: {what: [{row: seconds}, ...]}, only clean repetitions."""
  with tempfile.TemporaryDirectory() as folder:
    subprocess.run(
      [sys.executable, "-c", f"import work; work.make_model({folder!r})"],
      check=True,
      env=os.environ | {"PYTHONPATH": f"{_FOLDER}:{_ROOT}"},
    )
    rows = {name: Row(name, folder) for name in ROWS}
    # The first time of each compiles, and shows that the work is the same.
    first = {
      name: {key: row.run(key, 0)[2] for key in ("greedy", *TOKENS)}
      for name, row in rows.items()
    }
    check(first)
    found, dropped = {key: [] for key in what}, 0
    end = time.monotonic() + seconds
    for rep in range(1, repetitions + 1):
      for key in what:
        times = {}
        for name, row in rows.items():
          while time.monotonic() < end and name not in times:
            _wait_for_silence(end - time.monotonic())
            took, foreign, _ = row.run(key, rep)
            if foreign < FOREIGN:
              times[name] = took
            else:
              dropped += 1
        if len(times) == len(rows):
          found[key].append(times)
          print(
            key, rep, {k: round(x, 3) for k, x in times.items()}, flush=True
          )
    for row in rows.values():
      row.process.stdin.close()
      row.process.wait()
  return {
    "cores": psutil.cpu_count(),
    "tokens": first[next(iter(ROWS))]["iteration"]["tokens"],
    "agreed": first[next(iter(ROWS))]["update"],
    "dropped": dropped,
    "seconds": found,
  }


def show(figures):
  """Prints medians, and ratios of what was measured side by side."""
  for key, reps in figures["seconds"].items():
    if not reps:
      print(f"\n{key}: no clean repetition")
      continue
    count = TOKENS[key] or figures["tokens"]
    print(f"\n| {key}, n = {len(reps)} | s | tokens/s | x row 1 | x row 2 |")
    print("|---|---|---|---|---|")
    one, two, *_ = ROWS
    for name in ROWS:
      times = [rep[name] for rep in reps]
      middle = statistics.median(times)
      ratios = [
        _spread([rep[other] / rep[name] for rep in reps])
        for other in (one, two)
      ]
      print(
        f"| {name} | {_spread(times)} | {count / middle:,.0f} | "
        f"{' | '.join(ratios)} |"
      )


def _spread(values):
  low, middle, high = min(values), statistics.median(values), max(values)
  return f"{middle:.2f} [{low:.2f}, {high:.2f}]"


def main():
  """Measures, writes and prints."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--out", help="where the raw figures are written")
  parser.add_argument("--repetitions", type=int, default=7)
  parser.add_argument("--seconds", type=float, default=1800.0)
  parser.add_argument("--what", nargs="+", choices=TOKENS, default=[*TOKENS])
  args = parser.parse_args()
  figures = measure(args.what, args.repetitions, args.seconds)
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(figures, indent=1) + "\n")
  show(figures)


if __name__ == "__main__":
  main()
