"""Asks XLA what memory programs take, for the formulas to be tested by.

    python experiments/08_plan/figures.py memagent_qwen3_0p6b memagent_qwen3_4b

writes figures.json, a row for each program; rows of other configs are kept.
Needs the compiler for GPUs: pip install -e '.[plan]'.
"""

import importlib.util
import json
import pathlib
import sys
import tempfile
from typing import Any

import jax
import ml_collections

from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes

_HERE = pathlib.Path(__file__).resolve().parent
FIGURES = _HERE / "figures.json"
_TARGET = "h100"
_CHUNKS = (500, 1500)
_ROWS = {
  plan_shapes.GRADIENT: (1, 4),
  plan_shapes.ROLLOUT: (4, 16),
  plan_shapes.STEP: (0,),
}


def load(name: str, chunk_tokens: int) -> ml_collections.ConfigDict:
  """A config of configs/, with another chunk."""
  path = _HERE.parent.parent / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.agent.chunk_tokens = chunk_tokens
  return config


def measure(name: str, chunk_tokens: int) -> list[dict[str, Any]]:
  """A row for each program."""
  found = []
  with tempfile.TemporaryDirectory() as folder:
    config, _ = plan_shapes.resolve(load(name, chunk_tokens), folder)
    device, _ = plan_devices.parse(_TARGET)
    with plan_compile.Compiler(config, device) as compiler:
      for program, counts in _ROWS.items():
        for rows in counts:
          memory = compiler.measure(program, rows)
          row = {
            "config": name,
            "target": _TARGET,
            "jax": jax.__version__,
            "chunk_tokens": chunk_tokens,
            "program": program,
            "rows": rows,
            "temporary": memory.temporary,
          }
          print(row, f"{memory.seconds:.0f} s", flush=True)
          found.append(row)
  return found


if __name__ == "__main__":
  kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
  for name in sys.argv[1:]:
    kept = [row for row in kept if row["config"] != name]
    for chunk_tokens in _CHUNKS:
      kept += measure(name, chunk_tokens)
    lines = ",\n".join(json.dumps(row) for row in kept)
    FIGURES.write_text(f"[\n{lines}\n]\n")
