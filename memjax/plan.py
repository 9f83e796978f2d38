"""Does a run fit, and how fast can it be? Nothing is run or allocated.

    python -m memjax.plan --config=configs/memagent_qwen3_4b.py --target=h100

compiles the programs of an iteration for the target and prints what each phase
holds, the largest group and micro-batch that fit, and the least time that an
iteration takes. It ends with status 1 if the run does not fit, with 2 if that
cannot be said.
"""

import functools
import sys
import tempfile
from concurrent import futures

import jax
import ml_collections
from absl import app
from absl import flags
from absl import logging

from memjax import build
from memjax import build_mesh
from memjax import command_line
from memjax import plan_analytic
from memjax import plan_budget
from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes
from memjax import tables

_TARGET = flags.DEFINE_string(
  "target",
  "h100",
  f"{', '.join(plan_devices.DEVICES)}, with a count for several: h100x8",
)
_ANALYTIC = flags.DEFINE_bool(
  "analytic", False, "do not compile: temporaries by formula, in seconds"
)


def plan(
  config: ml_collections.ConfigDict, target: str, analytic: bool = False
) -> bool:
  """Prints the plan of a run.

  Args:
    config: of the run.
    target: of `plan_devices.parse`.
    analytic: take the formulas although there is a compiler.

  Returns:
    Whether the run fits.

  Raises:
    ValueError: config or target cannot be.
    RuntimeError: XLA does not compile it.
  """
  device, devices = plan_devices.parse(target)
  mesh = plan_devices.Mesh(**config.mesh)
  if mesh.size != devices:
    keys = ", ".join(f"config.mesh.{x}={n}" for x, n in mesh.shape.items())
    raise ValueError(
      f"--target={target} has {devices} devices, but {keys} takes {mesh.size}: "
      f"name as many as the run has, such as --config.mesh.fsdp={devices}"
    )
  with tempfile.TemporaryDirectory() as folder:
    config, notes = plan_shapes.resolve(config, folder)
    run = build.make(config, needs_data=False)
    build_mesh.check(config, run.model, mesh)
    shapes = plan_shapes.describe(run)
    work = plan_budget.describe_work(run, shapes)
    notes.append(
      f"evaluation is not counted: it holds {config.eval.batch_size} rows "
      "(eval.batch_size) as a rollout does"
    )
    if config.judge.path:
      notes.append(f"the judge {config.judge.path} is not counted")
    formula = plan_budget.formula(work, run, mesh)
    if analytic or devices > 1 or not plan_compile.available():
      notes.append(_why(analytic, devices))
      found = plan_budget.Plan(run, shapes, work, mesh, formula)
      return _show(found, device, notes)
    own = run.collect.group_size
    # The pool is left last: when a child has ended, nothing is waited for.
    with (
      futures.ThreadPoolExecutor() as pool,
      plan_compile.Compiler(config, device) as sampler,
      plan_compile.Compiler(config, device) as compiler,
    ):
      # Unrolled layers compile for about a minute: beside the rest, and once.
      sampling = pool.submit(sampler.measure, plan_shapes.ROLLOUT, own)

      @functools.cache
      def meter(program: str, rows: int) -> float:
        if program == plan_shapes.ROLLOUT and rows != own:
          share = formula(program, rows) / formula(program, own)
          return meter(program, own) * share
        if program == plan_shapes.ROLLOUT:
          memory = sampling.result()
        else:
          memory = compiler.measure(program, rows)
        logging.info("%s, %d rows: %.0f s", program, rows, memory.seconds)
        return memory.new + memory.temporary

      notes.append(
        "temporaries are XLA's, compiled for this device; of other group sizes "
        "in proportion to the formula"
      )
      found = plan_budget.Plan(run, shapes, work, mesh, meter)
      return _show(found, device, notes)


def _why(analytic: bool, devices: int) -> str:
  """Why nothing is compiled, and what is assumed instead."""
  if devices > 1:
    return (
      "several devices: temporaries by formula. Assumed: fsdp and tensor "
      "divide masters, moments, gradients, reference and the sampler's copy "
      "evenly, fsdp gathers two layers at a time; data and fsdp divide the "
      "rows of rollouts and micro-batches; what tensor divides of activations "
      "is not left out, and links cost no time"
    )
  reason = (
    "--analytic"
    if analytic
    else (f"{plan_compile.PLUGIN} is not installed (pip install -e '.[plan]')")
  )
  return (
    f"temporaries by formula, not compiled: {reason}. The formulas are within "
    f"{plan_analytic.ERROR:.0%} of XLA's figures in experiments/08_plan (of "
    f"gradients with few rows, or rows that share, "
    f"{plan_analytic.ERROR_FEW:.0%}), and an upper bound for the optimiser step"
  )


def _show(
  plan: plan_budget.Plan, device: plan_devices.Device, notes: list[str]
) -> bool:
  """Prints all tables; whether it fits."""
  budget, run, work = device.budget, plan.run, plan.work
  most = _most(plan, budget)
  phases = {name: plan.phase(name) for name in plan_budget.PHASES}
  over = {
    name: phase.total - budget
    for name, phase in phases.items()
    if phase.total > budget
  }
  verdict = "does NOT fit" if over else "fits"
  where = f"{plan.mesh.size} x {device.name}"
  tables.show(
    f"{run.config.name} {verdict} on {where}",
    ["GB on each device", *plan_budget.PHASES],
    _lines(phases, budget),
    f"budget {_gb(budget)} of {_gb(device.memory)}; rollout: "
    f"{run.collect.wave_questions} x {run.collect.group_size} rows, gradient: "
    f"{work.micro_batch} rows of {work.longest.prompt} + "
    f"{work.longest.response} tokens",
  )
  for name, key in plan_budget.SETTINGS.items():
    print(f"largest config.{key} that fits: {most[name] or 'none'}")
  for name, excess in over.items():
    print(f"\n{name} is {_gb(excess)} GB over the budget. What saves memory:")
    changes = plan_budget.changes(plan, name, excess, most)
    for setting, saved in changes.items():
      enough = ", which is enough" if saved >= excess else ""
      print(f"  --config.{setting} saves {_gb(saved)} GB{enough}")
    if all(saved < excess for saved in changes.values()):
      together = sum(changes.values())
      print(f"  none is enough alone; together they save {_gb(together)} GB")
  print()
  _show_costs(plan, device)
  for note in notes:
    print(f"- {note}")
  return not over


def _lines(
  phases: dict[str, plan_budget.Phase], budget: float
) -> list[list[str]]:
  """A line for each purpose, and what is under the temporaries."""
  cell = lambda found, name: _gb(found[name]) if name in found else "-"
  names = lambda pick: list(
    dict.fromkeys(x for phase in phases.values() for x in pick(phase))
  )
  lines = [
    [name, *(cell(phase.held, name) for phase in phases.values())]
    for name in names(lambda phase: phase.held)
  ]
  lines.append(
    ["temporaries", *(_gb(phase.temporary) for phase in phases.values())]
  )
  for name in names(lambda phase: phase.parts):
    found = [cell(phase.parts, name) for phase in phases.values()]
    lines.append([f"  {name}, by formula", *found])
  lines.append(["total", *(_gb(phase.total) for phase in phases.values())])
  left = [_gb(budget - phase.total) for phase in phases.values()]
  return [*lines, ["left", *left]]


def _most(plan: plan_budget.Plan, budget: float) -> dict[str, int]:
  """The largest group size and micro-batch that fit, all else as it is."""
  rows = max(call.rows for call in plan.work.trained)
  # The rollout last, which is compiled beside the others.
  limits = {
    plan_shapes.GRADIENT: (
      plan.work.micro_batch,
      1,
      max(rows // plan.work.updates, plan.work.micro_batch),
    ),
    plan_shapes.ROLLOUT: (plan.run.collect.group_size, 2, 4096),
  }
  return {
    name: plan_budget.largest(
      lambda n, name=name: plan.phase(name, n).total, *limit, budget
    )
    for name, limit in limits.items()
  }


def _show_costs(plan: plan_budget.Plan, device: plan_devices.Device) -> None:
  """The least that an iteration takes."""
  found = plan_analytic.costs(
    plan.work,
    device,
    plan.mesh,
    plan_shapes.size(plan.shapes.state.opt_state),
  )
  lines = [
    [
      name,
      f"{cost.flops / 1e15:,.2f}",
      f"{cost.bytes / 1e12:,.2f}" if cost.bytes else "-",
      f"{cost.seconds:,.1f}",
    ]
    for name, cost in found.items()
  ]
  seconds = sum(cost.seconds for cost in found.values())
  flops = sum(cost.flops for cost in found.values())
  lines.append(["iteration", f"{flops / 1e15:,.2f}", "", f"{seconds:,.1f}"])
  tables.show(
    "the least that an iteration takes",
    ["", "PFLOP", "TB moved", "seconds"],
    lines,
    f"at {device.flops * plan.mesh.size / 1e12:,.0f} TFLOP/s and "
    f"{device.bandwidth * plan.mesh.size / 1e12:,.2f} TB/s, every text and "
    "response at its full length",
  )


def _gb(count: float) -> str:
  return f"{count / 1e9:,.1f}"


def main(argv: list[str]) -> None:
  """Checks the flags and plans."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
  # A device that is there is left alone.
  jax.config.update("jax_platforms", "cpu")
  try:
    fits = plan(command_line.CONFIG.value, _TARGET.value, _ANALYTIC.value)
  except (ValueError, RuntimeError) as error:
    logging.debug("where it happened", exc_info=True)
    print(f"memjax: {error}  (--verbosity=1 shows where)", file=sys.stderr)
    sys.exit(2)
  sys.exit(0 if fits else 1)


if __name__ == "__main__":
  flags.mark_flag_as_required("config")
  app.run(main, flags_parser=command_line.parse)
