"""Runs memjax: python -m memjax.main --config=configs/quickstart.py --workdir=W

Short on purpose: flags and one call. Everything else is in modules that a
notebook can import.
"""

import contextlib
import logging as python_logging
import sys
from collections.abc import Iterator
from typing import Any

import jax
from absl import app
from absl import flags
from absl import logging

from memjax import build
from memjax import checkpoint
from memjax import command_line
from memjax import compare
from memjax import hosts
from memjax import judge
from memjax import modes
from memjax import sharding
from memjax import sweeps
from memjax import train
from memjax import versus

_SWEEP = flags.DEFINE_multi_string(
  "sweep", [], "train: a key and values, as train.learning_rate=3e-4,1e-3"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
_MODE = flags.DEFINE_enum(
  "mode",
  "train",
  ["train", "eval", "compare", "read", "ingest", "ask", "export", "sft"],
  "what to do",
)
_CHECKPOINT = flags.DEFINE_enum(
  "checkpoint",
  "last",
  ["last", "best", "base"],
  "but for train and sft: whose parameters; base: those of config.model.path",
)
_TEXT = flags.DEFINE_string("text", None, "read: a text file, - for stdin")
_QUESTION = flags.DEFINE_string("question", None, "read, ask: what is asked")
_BANK = flags.DEFINE_string("bank", None, "ingest, ask: file of a memory bank")
_CONVERSATION = flags.DEFINE_string(
  "conversation", None, "ingest: JSON or JSONL of messages"
)
_OUT = flags.DEFINE_string("out", None, "export, sft: the directory to write")
_RUNS = flags.DEFINE_multi_string(
  "runs", [], "compare: a workdir, or those of several seeds with commas"
)
_DISTRIBUTED = flags.DEFINE_string(
  "distributed",
  "",
  "train, eval: one of several processes; auto (TPU, Slurm, Open MPI, "
  "Kubernetes), or ADDRESS:PORT of process 0,how many,which this is",
)


@flags.multi_flags_validator(
  ["config", "workdir", "mode"],
  "--config and --workdir must both be given (but for --mode=compare)",
)
def _are_given(values: dict[str, Any]) -> bool:
  given = values["config"] is not None and values["workdir"] is not None
  return values["mode"] == "compare" or given


def main(argv: list[str]) -> None:
  """Checks the config and hands over to the mode."""
  if len(argv) > 1:
    raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}")
  # jax tells at every start which accelerators are not there, and orbax tells
  # a dozen lines about every checkpoint.
  python_logging.getLogger("jax._src.xla_bridge").setLevel("WARNING")
  logging.get_absl_handler().addFilter(
    lambda line: "orbax" not in line.pathname
  )
  if _SWEEP.value and _MODE.value != "train":
    raise app.UsageError(f"--sweep with --mode={_MODE.value}: it is for train")
  mode, workdir = _MODE.value, _WORKDIR.value
  if _DISTRIBUTED.value and mode not in ("train", "eval"):
    raise app.UsageError(
      f"--distributed with --mode={mode}: it is for train and eval"
    )
  remedy = lambda: _go_on(mode, workdir)
  with _in_one_line(), hosts.started(_DISTRIBUTED.value, remedy):
    # Again, so that `hosts.started` sees an exit, and the others are told.
    with _in_one_line():
      _run(mode, workdir, _CHECKPOINT.value)


@contextlib.contextmanager
def _in_one_line() -> Iterator[None]:
  """Ends with what the user can do about an error, without a traceback."""
  try:
    yield
  except KeyboardInterrupt:
    sys.exit("memjax: stopped; the same command goes on from what is saved")
  except (
    ValueError,
    FloatingPointError,
    OSError,
    judge.JudgeError,
  ) as error:
    logging.debug("where it happened", exc_info=True)
    sys.exit(f"memjax: {error}  (--verbosity=1 shows where)")
  except jax.errors.JaxRuntimeError as error:
    if "RESOURCE_EXHAUSTED" not in str(error):
      raise
    logging.debug("where it happened", exc_info=True)
    what = str(error).splitlines()[0]
    sys.exit(
      f"memjax: the device's memory does not suffice: {what}. python -m "
      "memjax.plan with the same --config and its keys says what is held, and "
      "what saves memory; a run goes on with another micro-batch or "
      "wave_questions  (--verbosity=1 shows where)"
    )


def _go_on(mode: str, workdir: str) -> str:
  """What to do when a process of the run was lost."""
  last = checkpoint.last_step(workdir) if mode == "train" else None
  where = "from the beginning" if last is None else f"after iteration {last}"
  return (
    f"start all processes again with the same commands, and it goes on {where}"
  )


def _run(mode: str, workdir: str | None, which: str) -> None:
  """Builds what the config says, and does what the mode says."""
  if mode == "compare":
    versus.run(_RUNS.value, workdir)
    return
  config = command_line.CONFIG.value
  if _SWEEP.value:
    config = sweeps.from_flags(config, _SWEEP.value)
  if config.arms and mode == "train":
    if _DISTRIBUTED.value:
      raise ValueError(
        "--distributed with several arms: train each by a command of its own"
      )
    compare.run(config, workdir)
    return
  run = build.make(config, needs_data=mode in ("train", "eval"))
  with sharding.use(run.mesh):
    if mode == "train":
      train.train(run, workdir)
    elif mode == "eval":
      modes.evaluate(run, workdir, which)
    elif mode == "read":
      modes.read(run, workdir, which, _TEXT.value, _QUESTION.value)
    elif mode == "ingest":
      modes.ingest(run, workdir, which, _BANK.value, _CONVERSATION.value)
    elif mode == "ask":
      modes.ask(run, workdir, which, _BANK.value, _QUESTION.value)
    elif mode == "export":
      modes.export(run, workdir, which, _OUT.value)
    else:
      modes.sft(run, _OUT.value)


if __name__ == "__main__":
  app.run(main, flags_parser=command_line.parse)
