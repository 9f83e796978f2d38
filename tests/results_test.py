"""Which folders and files hold results; what is said of those that do not."""

import dataclasses
import json

import fake_results
import numpy as np
import pytest

from memjax import results


def test_a_run_and_an_evaluation_are_read_alike(tmp_path):
  sets = {"x1": [1.0, 0.0, 0.5, 1.0], "x2": [0.0, 1.0]}
  run = fake_results.write_run(tmp_path / "run", sets, each=2)
  file = fake_results.write(
    tmp_path / "one" / "eval_best.json",
    fake_results.evaluation(sets, each=2),
  )
  for path in (run, file, file.parent):
    found = results.load(path)
    assert found.path == path and found.seed == 3 and found.metric == "em"
    assert list(found.scores) == ["x1", "x2"]
    np.testing.assert_array_equal(found.scores["x1"], [1, 0, 0.5, 1])
    np.testing.assert_array_equal(found.documents["x1"], [0, 0, 1, 1])
    assert len(found.hashes["x2"]) == 64


def test_of_a_run_with_evaluations_the_trained_policy_is_meant(tmp_path):
  run = fake_results.write_run(tmp_path, {"x1": [1.0, 0.0]})
  fake_results.write(
    tmp_path / "eval_base.json", fake_results.evaluation({"x1": [0.0, 0.0]})
  )
  assert results.load(run).scores["x1"].tolist() == [1.0, 0.0]


def _of_arms(path):
  """A folder with arms in it, of which none is done."""
  (path / "plain" / "seed0").mkdir(parents=True)
  return path


@pytest.mark.parametrize("kept", [["base", "trained"], None])
def test_runs_of_earlier_versions_are_refused(tmp_path, kept):
  run = fake_results.write_run(tmp_path / "old", {"x1": [1.0, 0.0]})
  path = run / "scores.json"
  if kept:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({name: found[name] for name in kept}))
  else:
    path.unlink()
  with pytest.raises(ValueError, match="earlier version.*--mode=eval") as error:
    results.load(run)
  assert "old/scores.json" in str(error.value)


@pytest.mark.parametrize(
  "make, message",
  [
    (lambda path: path / "nowhere", "nowhere: there is no such folder or file"),
    (lambda path: path, "no summary.json of a finished run, and no eval_"),
    (_of_arms, "that of a comparison, whose runs are in <arm>/seed<n>"),
    (lambda path: fake_results.write(path / "a.json", [1]), "a JSON object"),
    (
      lambda path: fake_results.write(path / "a.json", {"scores": {}}),
      "a.json: has no 'data_sha256'",
    ),
  ],
)
def test_what_holds_no_result_is_refused(tmp_path, make, message):
  with pytest.raises(ValueError, match=message):
    results.load(make(tmp_path))


def test_one_of_several_evaluations_has_to_be_named(tmp_path):
  for name in ("eval_best.json", "eval_last.json"):
    fake_results.write(
      tmp_path / name, fake_results.evaluation({"x1": [1.0, 0.0]})
    )
  with pytest.raises(ValueError, match="eval_best.json, eval_last.json: name"):
    results.load(tmp_path)


def test_what_is_no_json_is_refused(tmp_path):
  path = tmp_path / "eval_last.json"
  path.write_text("{")
  with pytest.raises(ValueError, match="eval_last.json: not JSON"):
    results.load(path)


def test_damaged_files_are_refused(tmp_path):
  found = fake_results.evaluation({"x1": [1.0, 0.0]})
  found["documents"]["x1"].append(2)
  path = fake_results.write(tmp_path / "eval_last.json", found)
  with pytest.raises(ValueError, match="'x1' has 2 scores and 3 documents"):
    results.load(path)


def _result(tmp_path, name, sets, **settings):
  return results.load(fake_results.write_run(tmp_path / name, sets, **settings))


def test_sets_in_common(tmp_path):
  one = _result(tmp_path, "a", {"x1": [1.0], "x2": [1.0]})
  other = _result(tmp_path, "b", {"x2": [1.0], "x4": [1.0]})
  third = _result(tmp_path, "c", {"x4": [1.0]})
  assert results.common_sets([one, other]) == ["x2"]
  with pytest.raises(ValueError, match="no held-out set in common: .*a has x1"):
    results.common_sets([one, other, third])
  f1 = dataclasses.replace(other, metric="f1")
  with pytest.raises(ValueError, match="scored by em, .*b by f1"):
    results.common_sets([one, f1])


def test_other_questions_are_refused_by_name(tmp_path):
  one = _result(tmp_path, "a", {"x1": [1.0, 0.0]})
  same = _result(tmp_path, "b", {"x1": [0.0, 0.0]})
  results.check_same("x1", one, same)
  other = _result(tmp_path, "c", {"x1": [0.0, 0.0]}, data="other")
  with pytest.raises(ValueError, match="different questions in set 'x1'") as e:
    results.check_same("x1", one, other)
  for said in (one.path, other.path, one.hashes["x1"][:12]):
    assert str(said) in str(e.value)
  longer = dataclasses.replace(same, documents={"x1": np.arange(3)})
  with pytest.raises(ValueError, match="2 and 3 questions"):
    results.check_same("x1", one, longer)
