"""What runs left behind, as scores of questions that can be compared."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np

_AGAIN = (
  "run --mode=eval with its --config and --workdir, and name the "
  "eval_last.json that this writes"
)
# What makes the scores of two judges comparable.
_JUDGE = ("name", "settings", "prompt_sha256")


@dataclasses.dataclass(frozen=True)
class Result:
  """One policy's scores.

  Attributes:
    path: the folder or file that it was read from.
    scores: set -> score of each question, float64 [N].
    controls: control -> the same of a set, where it applies (`controls`).
    documents: set -> number of the document that each question is about, [N].
    hashes: set -> fingerprint of the questions and texts.
    metric: what a score is, or None where it is not known.
    judge: which one, if a model gave the scores, and how often it errs.
    seed: of the run, or None.
  """

  path: pathlib.Path
  scores: Mapping[str, np.ndarray]
  controls: Mapping[str, Mapping[str, np.ndarray]]
  documents: Mapping[str, np.ndarray]
  hashes: Mapping[str, str]
  metric: str | None
  judge: Mapping[str, Any] | None
  seed: int | None


def load(path: str | pathlib.Path) -> Result:
  """Reads a finished run, or one evaluation.

  Args:
    path: folder of a finished run, whose trained policy is meant; folder with
      one eval_<which>.json; or that file itself, or a run's base.json.

  Raises:
    ValueError: there is no such result, or it was written by a version that
      did not keep documents.
  """
  path = pathlib.Path(path)
  if path.is_dir() and (path / "summary.json").exists():
    summary, kept = _read(path / "summary.json"), _read(path / "scores.json")
    asked = {
      "scores": kept["trained"],
      "control_scores": kept.get("controls", {}),
    }
    kept = {**summary, **kept, **asked}
    return _result(path, path / "scores.json", kept)
  file = path
  if path.is_dir():
    found = sorted(path.glob("eval_*.json"))
    if len(found) != 1:
      held = ", ".join(x.name for x in found) or "no eval_*.json"
      if (path / "compare.json").exists() or list(path.glob("*/seed*")):
        held += "; it is that of a comparison, whose runs are in <arm>/seed<n>"
      raise ValueError(
        f"--runs={path}: no summary.json of a finished run, and {held}: name "
        "the folder of a finished run, or one file that --mode=eval wrote"
      )
    file = found[0]
  elif not path.exists():
    raise ValueError(
      f"--runs={path}: there is no such folder or file: name the --workdir of "
      "a finished run"
    )
  return _result(path, file, _read(file))


def _read(path: pathlib.Path) -> dict[str, Any]:
  try:
    found = json.loads(path.read_text())
  except FileNotFoundError as error:
    raise ValueError(
      f"{path}: missing beside summary.json: an earlier version made the run, "
      f"and kept no scores of questions; {_AGAIN}"
    ) from error
  except (json.JSONDecodeError, UnicodeDecodeError) as error:
    raise ValueError(f"{path}: not JSON ({error})") from error
  if not isinstance(found, dict):
    raise ValueError(f"{path}: expected a JSON object with scores")
  return found


def _result(
  path: pathlib.Path, file: pathlib.Path, kept: Mapping[str, Any]
) -> Result:
  for key in ("scores", "data_sha256"):
    if key not in kept:
      raise ValueError(
        f"{file}: has no {key!r}: name the folder of a finished run, its "
        "base.json, or a file that --mode=eval wrote"
      )
  if "documents" not in kept:
    raise ValueError(
      f"{file}: does not say which questions are about one document, which "
      f"earlier versions did not keep; {_AGAIN}"
    )
  names = list(kept["scores"])
  result = Result(
    path,
    _arrays(kept["scores"]),
    {x: _arrays(y) for x, y in kept.get("control_scores", {}).items()},
    {name: np.array(kept["documents"][name], np.int64) for name in names},
    kept["data_sha256"],
    kept.get("metric"),
    _judge(kept.get("judge")),
    kept.get("seed"),
  )
  for name in names:
    count = len(result.documents[name])
    if len(result.scores[name]) != count or name not in result.hashes:
      raise ValueError(
        f"{file}: set {name!r} has {len(result.scores[name])} scores and "
        f"{count} documents, or no data hash: the file is damaged; evaluate "
        "again"
      )
  return result


def _arrays(scores: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
  return {name: np.array(x, np.float64) for name, x in scores.items()}


def _judge(found: Mapping[str, Any] | None) -> dict[str, Any] | None:
  """The judge that gave a run's scores, as it describes itself."""
  if not found or "metric" not in found["uses"]:
    return None
  keys = (*_JUDGE, "uses", "rates", "limits", "prompts")  # may have no prompts
  return {key: found[key] for key in keys if key in found}


def common_sets(results: Sequence[Result]) -> list[str]:
  """The sets that all have, in the order of the first.

  Raises:
    ValueError: there is none, or the scores are of different metrics or judges.
  """
  first = results[0]
  for other in results[1:]:
    metrics = {x.metric for x in (first, other) if x.metric}
    if len(metrics) > 1:
      raise ValueError(
        f"{first.path} was scored by {first.metric}, {other.path} by "
        f"{other.metric}: evaluate both with one config.data.metric_name"
      )
    for key in _JUDGE:
      one, two = ((x.judge or {}).get(key) for x in (first, other))
      if one != two:
        raise ValueError(
          f"{first.path} was judged with {key} {one}, {other.path} with {two}: "
          "compare runs of one config.judge"
        )
  names = [x for x in first.scores if all(x in y.scores for y in results)]
  if not names:
    held = "; ".join(f"{x.path} has {', '.join(x.scores)}" for x in results)
    raise ValueError(f"no held-out set in common: {held}")
  return names


def check_same(name: str, one: Result, other: Result) -> None:
  """Refuses results of different questions.

  Raises:
    ValueError: names both.
  """
  if one.hashes[name] != other.hashes[name]:
    raise ValueError(
      f"{one.path} and {other.path} were asked different questions in set "
      f"{name!r} (data hashes {one.hashes[name][:12]} and "
      f"{other.hashes[name][:12]}): compare runs with one config.data and, "
      "where questions are generated, one config.seed"
    )
  if not np.array_equal(one.documents[name], other.documents[name]):
    raise ValueError(
      f"{one.path} and {other.path}: set {name!r} has one data hash but "
      f"{len(one.documents[name])} and {len(other.documents[name])} questions, "
      "or other documents: a file is damaged; evaluate both again"
    )
