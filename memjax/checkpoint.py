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
from memjax import reranker as reranker_lib

FOLDERS = {"last": "checkpoints", "best": "best"}


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
      params=ocp.args.StandardSave(state.trained),
      rest=ocp.args.StandardSave(_rest(state)),
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
  return Checkpoints(
    _manager(root / FOLDERS["last"], 2), _manager(root / FOLDERS["best"], 1)
  )


def last_step(workdir: str | pathlib.Path) -> int | None:
  """The iteration of the last checkpoint; looks at names alone."""
  folder = pathlib.Path(workdir) / FOLDERS["last"]
  return max(
    (int(x.name) for x in folder.glob("[0-9]*") if x.name.isdecimal()),
    default=None,
  )


def restore(
  workdir: str | pathlib.Path, abstract: learner.TrainState
) -> tuple[learner.TrainState, dict[str, Any]] | None:
  """Reads the last checkpoint of a workdir.

  Args:
    workdir: of a run.
    abstract: shapes, dtypes and places of the state (`Run.abstract_state`); it
      may have been written from other places.

  Returns:
    (state, meta), or None if the workdir has no checkpoint.

  Raises:
    ValueError: the checkpoint does not fit the model and the optimiser.
  """
  got = _read(
    workdir,
    "last",
    params=ocp.args.StandardRestore(abstract.trained),
    rest=ocp.args.StandardRestore(_abstract_rest(abstract)),
    meta=ocp.args.JsonRestore(),
  )
  if got is None:
    return None
  rest = got["rest"]
  key = jax.random.wrap_key_data(rest["key"])
  trained, other = got["params"], None
  if "reranker" in trained:
    other = reranker_lib.State(trained["reranker"], rest["reranker"])
  state = learner.TrainState(
    rest["step"], trained["policy"], rest["opt_state"], key, other
  )
  return state, got["meta"]


def restore_params(
  workdir: str | pathlib.Path, abstract: learner.TrainState, which: str
) -> tuple[dict[str, Any], dict[str, Any]]:
  """Reads what was trained from the last or the best checkpoint, and its meta.

  Returns:
    (TrainState.trained, meta).

  Raises:
    ValueError: there is none, or it does not fit the model.
  """
  got = _read(
    workdir,
    which,
    params=ocp.args.StandardRestore(abstract.trained),
    meta=ocp.args.JsonRestore(),
  )
  if got is None:
    raise ValueError(
      f"{workdir} holds no checkpoint in {FOLDERS[which]}/: train there first"
      + (" with config.eval.every, which chooses it," * (which == "best"))
      + " or take the model of config.model.path with --checkpoint=base"
    )
  return got["params"], got["meta"]


def _read(workdir: str | pathlib.Path, which: str, **items: Any) -> Any:
  root = pathlib.Path(workdir).resolve() / FOLDERS[which]
  if not root.is_dir():
    return None
  with _manager(root, None) as manager:
    step = manager.latest_step()
    if step is None:
      return None
    try:
      return manager.restore(step, args=ocp.args.Composite(**items))
    except (ValueError, KeyError, TypeError) as error:
      raise ValueError(
        f"{root / str(step)} does not fit this model and optimiser ({error}): "
        "give the config that wrote it, or another --workdir"
      ) from error


def _manager(path: pathlib.Path, keep: int | None) -> ocp.CheckpointManager:
  return ocp.CheckpointManager(
    path,
    item_handlers={
      "params": ocp.StandardCheckpointHandler(),
      "rest": ocp.StandardCheckpointHandler(),
      "meta": ocp.JsonCheckpointHandler(),
    },
    # Written at once: the next iteration donates the arrays' buffers.
    options=ocp.CheckpointManagerOptions(
      max_to_keep=keep, enable_async_checkpointing=False
    ),
  )


def _abstract_rest(state: learner.TrainState) -> dict[str, Any]:
  """Shapes and places of `_rest`."""
  rest = jax.eval_shape(_rest, state)
  places = dataclasses.replace(state, key=jax.random.key(0))
  places = jax.tree.map(lambda x: x.sharding, _rest(places))
  places["key"] = state.key.sharding
  return jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    rest,
    places,
  )


def _rest(state: learner.TrainState) -> dict[str, Any]:
  """All but the parameters; a typed key has no place in a file."""
  rest = {
    "step": state.step,
    "opt_state": state.opt_state,
    "key": jax.random.key_data(state.key),
  }
  if state.reranker is not None:
    rest["reranker"] = state.reranker.opt_state
  return rest
