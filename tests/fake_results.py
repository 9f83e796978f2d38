"""What runs leave behind, written by hand, for tests of comparisons."""

import hashlib
import json

import numpy as np


def scores(seed, n, p):
  """Right and wrong answers."""
  return (np.random.default_rng(seed).random(n) < p).astype(float).tolist()


def evaluation(sets, *, each=1, seed=3, data="d", metric="em"):
  """What --mode=eval writes, of {set: scores}; `each` questions a document."""
  digest = lambda name: hashlib.sha256(f"{data} {name}".encode()).hexdigest()
  return {
    "scores": sets,
    "documents": {
      name: [i // each for i in range(len(x))] for name, x in sets.items()
    },
    "data_sha256": {name: digest(name) for name in sets},
    "metric": metric,
    "seed": seed,
  }


def write(path, value):
  """Writes one JSON file, and the folders above it; returns its path."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(json.dumps(value))
  return path


def write_run(folder, sets, controls=None, **settings):
  """Writes the two files of a finished run; returns its folder."""
  kept = evaluation(sets, **settings)
  write(
    folder / "summary.json",
    {"seed": kept["seed"], "data_sha256": kept["data_sha256"]},
  )
  write(
    folder / "scores.json",
    {
      "base": {name: [0.0] * len(x) for name, x in sets.items()},
      "trained": sets,
      "documents": kept["documents"],
      "metric": kept["metric"],
      "controls": controls or {},
    },
  )
  return folder
