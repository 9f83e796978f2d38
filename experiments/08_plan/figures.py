"""Asks XLA what memory programs take, for the analytic model to be tested by.

    python experiments/08_plan/figures.py memagent_qwen3_0p6b ...

writes figures.json, a row for each program; rows of other configs are kept.
"""

import importlib.util
import itertools
import json
import pathlib
import sys
import tempfile

import jax

from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes

_HERE = pathlib.Path(__file__).resolve().parent
_CHUNKS = (500, 1500)
_ROWS = {plan_shapes.GRADIENT: (1, 4), plan_shapes.ROLLOUT: (4, 16)}


def load(name: str, chunk_tokens: int):
  """A config of configs/, with another chunk."""
  path = _HERE.parent.parent / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  config.agent.chunk_tokens = chunk_tokens
  return config


def measure(name: str, target: str) -> list[dict]:
  """Rows of one config."""
  found = []
  for chunk_tokens in _CHUNKS:
    with tempfile.TemporaryDirectory() as folder:
      config, _ = plan_shapes.resolve(load(name, chunk_tokens), folder)
      device, _ = plan_devices.parse(target)
      with plan_compile.Compiler(config, device) as compiler:
        jobs = [
          x for p, rows in _ROWS.items() for x in itertools.product([p], rows)
        ]
        if chunk_tokens == _CHUNKS[0]:
          jobs.append((plan_shapes.STEP, 0))
        for program, rows in jobs:
          memory = compiler.measure(program, rows)
          found.append(
            {
              "config": name,
              "target": target,
              "jax": jax.__version__,
              "chunk_tokens": chunk_tokens,
              "program": program,
              "rows": rows,
              "temporary": memory.temporary,
            }
          )
          print(found[-1], f"{memory.seconds:.0f} s", flush=True)
  return found


if __name__ == "__main__":
  path = _HERE / "figures.json"
  rows = json.loads(path.read_text()) if path.exists() else []
  for name in sys.argv[1:]:
    rows = [row for row in rows if row["config"] != name]
    rows += measure(name, "h100")
    lines = ",\n".join(json.dumps(row) for row in rows)
    path.write_text(f"[\n{lines}\n]\n")
