"""What one optimiser step holds on an H100, by XLA's plan.

    python experiments/07_memory/step.py Qwen3-1.7B Qwen3-4B

prints a table for each model: parameters, moments and gradients, and the
temporaries of `learner.apply`, with each optimiser. No GPU is needed, but its
compiler: pip install -e '.[plan]'.
"""

import sys
import tempfile

import jax

from memjax import build
from memjax import config as config_lib
from memjax import plan_budget
from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes

_SETTINGS = {
  "adamw, float32": {},
  "adamw, bfloat16": {"moments": "bfloat16"},
  "adamw, int8": {"moments": "int8"},
  "adafactor": {"optimizer": "adafactor"},
  "muon": {"optimizer": "muon"},
}


def measure(path, settings, folder):
  """(GB held, GB of temporaries)."""
  config = config_lib.default()
  config.model.path = path
  config.objective.kl_coef = 0.0
  config.train.update(settings)
  config, _ = plan_shapes.resolve(config, folder)
  run = build.make(config, needs_data=False)
  shapes = plan_shapes.describe(run)
  work = plan_budget.describe_work(run, shapes)
  plan = plan_budget.Plan(
    run, shapes, work, plan_devices.Mesh(), lambda program, rows: 0.0
  )
  held = plan.held(plan_shapes.STEP, run.collect.group_size)
  device, _ = plan_devices.parse("h100")
  with plan_compile.Compiler(config, device) as compiler:
    memory = compiler.measure(plan_shapes.STEP, 0)
  total = sum(held[name] for name in ("masters", "moments", "gradients"))
  return total / 1e9, (memory.new + memory.temporary) / 1e9


def main():
  """Prints the tables."""
  jax.config.update("jax_platforms", "cpu")
  for path in sys.argv[1:]:
    print(f"\n| {path}, GB | held | temporaries | all |\n|---|---|---|---|")
    for name, settings in _SETTINGS.items():
      with tempfile.TemporaryDirectory() as folder:
        held, temporary = measure(path, settings, folder)
      total = held + temporary
      print(f"| {name} | {held:.1f} | {temporary:.1f} | {total:.1f} |")


if __name__ == "__main__":
  main()
