"""Checkpoints of a run: the train state and what the host must remember.

A checkpoint is written between iterations only, after its step was seen to be
finite and after its lines in metrics.jsonl were written; orbax makes it appear
whole or not at all. A run that is killed goes on from the last one and ends
with the same bits as a run that was never stopped, on the same machine.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from memjax import learner

_LAST, _BEST = "checkpoints", "best"


@dataclasses.dataclass(frozen=True)
class Checkpoints:
  """The last checkpoints of a workdir, and its best one.

  Attributes:
    last: orbax manager of the steps to resume from.
    best: orbax manager of the step with the best held-out metric.
  """

  last: ocp.CheckpointManager
  best: ocp.CheckpointManager

  def save(
    self, state: learner.TrainState, meta: Mapping[str, Any], best: bool
  ) -> None:
    """Writes the state of a finished step; as the best one too if `best`."""
    step = int(state.step)
    args = ocp.args.Composite(
      state=ocp.args.StandardSave(_plain(state)),
      meta=ocp.args.JsonSave(dict(meta)),
    )
    if best:
      # A resumed run passes steps again that it had reached before it died.
      for old in self.best.all_steps():
        if old >= step:
          self.best.delete(old)
      self.best.save(step, args=args, force=True)
    self.last.save(step, args=args, force=True)

  def close(self) -> None:
    """Waits until everything is on the disk."""
    self.last.close()
    self.best.close()


def open_checkpoints(workdir: str | pathlib.Path) -> Checkpoints:
  """Opens (or makes) the checkpoint folders of a workdir."""
  root = pathlib.Path(workdir).resolve()
  return Checkpoints(_manager(root / _LAST, 2), _manager(root / _BEST, 1))


def restore(
  workdir: str | pathlib.Path, abstract: learner.TrainState, which: str = "last"
) -> tuple[learner.TrainState, dict[str, Any]] | None:
  """Reads the last or the best checkpoint of a workdir.

  Args:
    workdir: of a run.
    abstract: shapes and dtypes of the state, as `jax.eval_shape` gives them.
    which: "last" or "best".

  Returns:
    (state, meta), or None if the workdir has no checkpoint.

  Raises:
    ValueError: the checkpoint does not fit the model and the optimiser.
  """
  root = pathlib.Path(workdir).resolve() / {"last": _LAST, "best": _BEST}[which]
  if not root.is_dir():
    return None
  with _manager(root, None) as manager:
    step = manager.latest_step()
    if step is None:
      return None
    args = ocp.args.Composite(
      state=ocp.args.StandardRestore(jax.eval_shape(_plain, abstract)),
      meta=ocp.args.JsonRestore(),
    )
    try:
      got = manager.restore(step, args=args)
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{root / str(step)} does not fit this model and optimiser ({error}): "
        "give the config that wrote it, or another --workdir"
      ) from error
  return _typed(got["state"]), got["meta"]


def _manager(path: pathlib.Path, keep: int | None) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    path,
    item_handlers={
      "state": ocp.StandardCheckpointHandler(),
      "meta": ocp.JsonCheckpointHandler(),
    },
    # Written at once: the next iteration donates the arrays' buffers.
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=False
    ),
  )


def _plain(state: learner.TrainState) -> dict[str, Any]:
  """A tree of ordinary arrays; typed keys have no place in a file."""
  return {
    "step": state.step,
    "params": state.params,
    "opt_state": state.opt_state,
    "key": jax.random.key_data(state.key),
  }


def _typed(plain: Mapping[str, Any]) -> learner.TrainState:
  return learner.TrainState(
    plain["step"],
    plain["params"],
    plain["opt_state"],
    jax.random.wrap_key_data(plain["key"]),
  )
