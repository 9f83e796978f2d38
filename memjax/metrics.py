"""Writes what a run measures: metrics.jsonl, TensorBoard and a progress bar.

metrics.jsonl is the record of a run. It is a pure function of the config, the
seed and the device: it holds no clock readings, so a run that is killed and
resumed ends with the same bytes as one that was never stopped, and two runs are
compared with `cmp`. What depends on the clock is named "time/..." and goes to
timing.jsonl. TensorBoard gets both; it is a view, and a kill -9 may cost it the
last seconds.
"""

import datetime
import json
import math
import os
import pathlib
import sys
import time
import types
from collections.abc import Mapping
from typing import Any
from typing import Self

import numpy as np
import rich.console
import rich.progress
import tensorboardX
import tensorboardX.summary
from absl import logging

from memjax import hosts

# JSON has no numbers for these, and null would not say which one it was.
_NON_FINITE = {
  "nan": float("nan"),
  "inf": float("inf"),
  "-inf": float("-inf"),
}


class MetricWriter:
  """Writes scalars to metrics.jsonl, timing.jsonl and TensorBoard.

  The method names are those of `clu.metric_writers`, which is not used because
  it imports TensorFlow.

  One call of `write_scalars` is one line, handed to the operating system before
  the call returns, so a kill -9 cannot take it back. The resume rule that keeps
  the file byte-identical: write every line of step s, then the checkpoint of
  step s; a run that resumes from that checkpoint goes on with step s + 1.
  In a run of several processes, only process 0 has one (`open_writer`).
  """

  def __init__(self, workdir: str | os.PathLike, resume_step: int | None):
    """Opens the files in workdir, cut back to where the run resumes.

    Args:
      workdir: folder of the run; made if missing.
      resume_step: step of the restored checkpoint: lines of later steps are
        dropped. None starts over: what an earlier run left is dropped.
    """
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    # Steps start at 0, so -1 keeps nothing.
    last_step = -1 if resume_step is None else int(resume_step)
    self._files = {}
    for name in ("metrics", "timing"):
      path = workdir / f"{name}.jsonl"
      _cut_back(path, last_step)
      # Line buffered: a line is handed over at its newline.
      self._files[name] = path.open("a", buffering=1, encoding="utf-8")
    logdir = workdir / "tensorboard"
    # An event file is named by the second in which it was opened, and opening
    # truncates: the count keeps two writers of one second apart.
    count = len(list(logdir.glob("events.*")))
    self._tensorboard = tensorboardX.SummaryWriter(
      logdir=str(logdir),
      purge_step=last_step + 1,
      flush_secs=10,
      filename_suffix=f".{count:04d}",
    )

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes one line: the step, then the scalars in the order of their names.

    Args:
      step: training step, an integer >= 0.
      scalars: name -> Python, NumPy or JAX scalar that is on the host already.
        Names that start with "time/" go to timing.jsonl.

    Raises:
      ValueError: a value is not one number, a name is "step", or the writer
        is closed.
    """
    if not self._files:
      raise ValueError(f"write_scalars at step {step}: the writer is closed")
    step = int(step)
    lines: dict[str, dict[str, Any]] = {"metrics": {}, "timing": {}}
    for name in sorted(scalars):
      if name == "step":
        raise ValueError(
          'a scalar is named "step", which is the key of the step itself; '
          'name it for example "train/step"'
        )
      number = _number(name, scalars[name])
      file = "timing" if name.startswith("time/") else "metrics"
      lines[file][name] = number if math.isfinite(number) else str(number)
      self._tensorboard.add_scalar(name, number, step)
    for file, line in lines.items():
      if line:
        self._files[file].write(
          json.dumps({"step": step, **line}, allow_nan=False) + "\n"
        )

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Writes a config, nested or flat, to TensorBoard's HPARAMS tab."""
    experiment, start, _ = tensorboardX.summary.hparams(_flat(hparams), {})
    for summary in (experiment, start):
      self._tensorboard.file_writer.add_summary(summary)

  def flush(self) -> None:
    """Forces the lines to the disk, and the events that TensorBoard has."""
    for file in self._files.values():
      file.flush()
      os.fsync(file.fileno())
    self._tensorboard.flush()

  def close(self) -> None:
    """Flushes and closes all files; a second call does nothing."""
    if self._files:
      self.flush()
      for file in self._files.values():
        file.close()
      self._files = {}
      self._tensorboard.close()

  def __enter__(self) -> Self:
    """Returns the writer itself."""
    return self

  def __exit__(
    self,
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    traceback: types.TracebackType | None,
  ) -> None:
    """Closes the files, also when the block failed."""
    self.close()


class NoWriter:
  """What `MetricWriter` is in the processes that do not write."""

  def write_scalars(self, step: int, scalars: Mapping[str, Any]) -> None:
    """Writes nothing."""

  def write_hparams(self, hparams: Mapping[str, Any]) -> None:
    """Writes nothing."""

  def flush(self) -> None:
    """Does nothing."""

  def __enter__(self) -> Self:
    """Returns itself."""
    return self

  def __exit__(self, *_: Any) -> None:
    """Does nothing."""


def open_writer(
  workdir: str | os.PathLike, resume_step: int | None
) -> MetricWriter | NoWriter:
  """A `MetricWriter` in process 0, and in the others one that is none."""
  if hosts.first():
    return MetricWriter(workdir, resume_step)
  return NoWriter()


def read_jsonl(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads a file of `MetricWriter`; "nan", "inf", "-inf" become floats again.

  A half-written last line, as a kill -9 leaves it, is dropped.

  Raises:
    ValueError: any other line is not a JSON object.
  """
  return [
    {
      key: _NON_FINITE.get(value, value) if isinstance(value, str) else value
      for key, value in record.items()
    }
    for _, record in _parse_lines(pathlib.Path(path))
  ]


class Progress:
  """Shows step, reward, tokens/s and time left; plain log lines elsewhere.

  The time left is extrapolated from the steps after the first update, so that
  neither the compile time nor the steps before a resume count in it.
  """

  LOG_SECONDS = 30.0  # without a terminal: at most one line in this time

  def __init__(self, total: int, enabled: bool | None = None):
    """Prepares a bar of `total` steps; None shows it on terminals only."""
    self._total = total
    self._first: tuple[int, float] | None = None  # step and time, seconds
    self._logged = -math.inf
    self._bar = None
    console = rich.console.Console(file=sys.stderr)
    if console.is_terminal if enabled is None else enabled:
      self._bar = rich.progress.Progress(
        rich.progress.TextColumn("step"),
        rich.progress.MofNCompleteColumn(),
        rich.progress.BarColumn(),
        rich.progress.TextColumn("{task.fields[note]}"),
        console=console,
      )
      self._task = self._bar.add_task("step", total=total, note="")

  def update(
    self,
    step: int,
    reward: float | None = None,
    tokens_per_s: float | None = None,
  ) -> None:
    """Shows that `step` steps of the total are done."""
    now = time.monotonic()
    if self._first is None:
      self._first = (step, now)
    first_step, first_time = self._first
    notes = []
    if reward is not None:
      notes.append(f"reward {reward:.3f}")
    if tokens_per_s is not None:
      notes.append(f"{tokens_per_s:,.0f} tokens/s")
    if step > first_step:
      left = (self._total - step) * (now - first_time) / (step - first_step)
      notes.append(f"{datetime.timedelta(seconds=round(left))} left")
    note = ", ".join(notes)
    if self._bar is not None:
      self._bar.update(self._task, completed=step, note=note)
    elif step >= self._total or now - self._logged >= self.LOG_SECONDS:
      self._logged = now
      logging.info("step %d/%d %s", step, self._total, note)

  def __enter__(self) -> Self:
    """Starts to draw."""
    if self._bar is not None:
      self._bar.start()
    return self

  def __exit__(
    self,
    exc_type: type[BaseException] | None,
    exc: BaseException | None,
    traceback: types.TracebackType | None,
  ) -> None:
    """Leaves the last state of the bar on the terminal."""
    if self._bar is not None:
      self._bar.stop()


def _number(name: str, value: Any) -> int | float:
  """Converts one scalar to a Python number, exactly."""
  array = np.asarray(value)
  # bfloat16 has kind "V", strings have "U" and objects "O".
  if array.shape != () or array.dtype.kind not in "biufV":
    raise ValueError(
      f"scalar {name!r} must be one number, got shape {array.shape} of dtype "
      f"{array.dtype}; reduce it first"
    )
  return int(array) if array.dtype.kind in "biu" else float(array)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
  """Flattens {"a": {"b": 1}} to {"a.b": 1}; other types become their text."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, Mapping):
      flat |= _flat(value, f"{prefix}{key}.")
    elif isinstance(value, (bool, int, float, str)):
      flat[f"{prefix}{key}"] = value
    else:
      flat[f"{prefix}{key}"] = str(value)
  return flat


def _parse_lines(path: pathlib.Path) -> list[tuple[bytes, dict[str, Any]]]:
  """Splits a file into (bytes without newline, record), whole lines only."""
  lines = path.read_bytes().split(b"\n")
  parsed = []
  for i, line in enumerate(lines):
    is_last = i == len(lines) - 1  # what follows the last newline
    if is_last and not line:
      break
    try:
      record = json.loads(line)
      if not isinstance(record, dict):
        raise ValueError(f"expected a JSON object, got {record!r}")
    except ValueError as error:
      if is_last:
        break
      raise ValueError(
        f"{path}, line {i + 1}: {error}. Only the last line may be broken, by "
        "a run that was killed; remove this line, or restore the file"
      ) from error
    parsed.append((line, record))
  return parsed


def _cut_back(path: pathlib.Path, last_step: int) -> None:
  """Drops the lines after last_step; a kill leaves the old file or the new."""
  if not path.exists():
    return
  kept = [
    line + b"\n"
    for line, record in _parse_lines(path)
    if record["step"] <= last_step
  ]
  temp = path.with_name(path.name + ".tmp")
  with temp.open("wb") as file:
    file.writelines(kept)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temp, path)
