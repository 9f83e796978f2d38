"""One row of the benchmark: measures what each line of its input names."""

import importlib
import json
import sys
import time


def main():
  """Serves until its input ends."""
  module, kind, model = sys.argv[1:]
  answers, sys.stdout = sys.stdout, sys.stderr  # whoever else prints
  found = importlib.import_module(module).measures(kind, model)
  for line in sys.stdin:
    what, rep = json.loads(line)
    start = time.perf_counter()
    result = found[what](rep)
    seconds = time.perf_counter() - start
    print(json.dumps([seconds, result]), file=answers, flush=True)


if __name__ == "__main__":
  main()
