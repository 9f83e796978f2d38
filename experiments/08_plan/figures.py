"""Asks XLA what memory programs take, for the formulas to be tested by.

    python experiments/08_plan/figures.py memagent_qwen3_4b \
      memagent_qwen3_0p6b memagent_qwen3_1p7b

writes figures.json, a row for each program as soon as it is compiled; rows of
other configs are kept.
Needs the compiler for GPUs: pip install -e '.[plan]'.
"""

import importlib.util
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections

from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes

_HERE = pathlib.Path(__file__).resolve().parent
FIGURES = _HERE / "figures.json"
_TARGET = "h100"
_ROWS = {
  plan_shapes.ROLLOUT: (16,),
  plan_shapes.DECODE: (16,),
  plan_shapes.GRADIENT: (4, 2, 1),
  plan_shapes.STEP: (0,),
}
# Whose rollouts are compiled with other group sizes, too: the planner has these
# in proportion to the formula.
_OTHER_GROUPS = {
  "memagent_qwen3_4b": (8, 32),
  "memagent_qwen3_4b+text_chunk_first": (8, 32),
  "memory_r1_locomo": (8, 32),
}


def load(name: str) -> ml_collections.ConfigDict:
  """A config of configs/.

  "name:model" for those that take a model, "name+style" for another style,
  "name@remat" for another part that the backward pass computes again.
  """
  name, _, remat = name.partition("@")
  name, _, style = name.partition("+")
  name, _, model = name.partition(":")
  path = _HERE.parent.parent / "configs" / f"{name}.py"
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(*[model] if model else [])
  # A data path says nothing of shapes; a model's does.
  models = {
    "": "Qwen3-1.7B",
    "1p7b": "Qwen3-1.7B",
    "4b": "Qwen3-4B-Instruct-2507",
  }
  config.model.path = config.model.path or models[model]
  config.agent.style = style or config.agent.style
  config.model.remat = remat or config.model.remat
  return config


def measure(name: str) -> Iterator[dict[str, Any]]:
  """A row for each program."""
  with tempfile.TemporaryDirectory() as folder:
    config, _ = plan_shapes.resolve(load(name), folder)
    device, _ = plan_devices.parse(_TARGET)
    with plan_compile.Compiler(config, device) as compiler:
      for program, counts in _ROWS.items():
        if "@" in name and program != plan_shapes.GRADIENT:
          continue  # as with any other remat
        if program == plan_shapes.ROLLOUT:
          counts += _OTHER_GROUPS.get(name, ())
        for rows in counts:
          memory = compiler.measure(program, rows)
          print(program, rows, f"{memory.seconds:.0f} s", flush=True)
          yield {
            "config": name,
            "target": _TARGET,
            "jax": jax.__version__,
            "program": program,
            "rows": rows,
            "temporary": memory.temporary,
          }


if __name__ == "__main__":
  kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
  kept = [row for row in kept if row["config"] not in sys.argv[1:]]
  for name in sys.argv[1:]:
    for row in measure(name):
      kept.append(row)
      lines = ",\n".join(map(json.dumps, kept))
      FIGURES.write_text(f"[\n{lines}\n]\n")
