"""Runs that diverge are outcomes: kept, shown, and never compared."""

import json
import pathlib

import fake_results
import pytest

from memjax import build
from memjax import compare
from memjax import compare_plan
from memjax import compare_table
from memjax import run_folder
from memjax import sweeps
from memjax import train


@pytest.fixture
def swept(config):
  """Two iterations at a rate that works and one that cannot."""
  config.train.update(steps=2, warmup_steps=0)
  config.eval.update(every=0, samples=0, controls=())
  with config.unlocked():
    config.data.scales = (1,)
  table = {"lr": sweeps.grid({"train.learning_rate": (1e-2, 1e38)})}
  config.seeds = (3,)
  return sweeps.select(config, "sweep=lr", table)


def _fake(monkeypatch, diverging=(), said=()):
  """Replaces training: writes what a run leaves, or diverges."""
  trained = []

  def run(made, folder):
    folder = pathlib.Path(folder)
    key = (folder.parent.name, made.config.seed)
    trained.append(key)
    if key in diverging:
      raise train.Diverged(diverging[key], "not finite")
    if key in said:
      raise ValueError("a mistake")
    _finish(folder, key, made.config.train.steps)

  monkeypatch.setattr(train, "train", run)
  return trained


def _finish(folder, key, steps):
  arm, seed = key
  p = {"lr=0.01": 0.6}.get(arm, 0.3)
  sets = {"x1": fake_results.scores([seed, len(arm)], 200, p)}
  fake_results.write_run(folder, sets, seed=seed, data=str(seed))
  summary = json.loads((folder / "summary.json").read_text())
  summary |= {"recall": {"trained": {}}, "seconds": 8.0, "steps": steps}
  summary["memory"] = {"held": 2, "shown": 2}
  fake_results.write(folder / "summary.json", summary)


def test_a_rate_that_is_much_too_high_diverges(swept, tmp_path):
  """The real loop, at the first iteration that has a gradient."""
  # To a KL term rounding is a gradient, and this rate makes much of it.
  swept.objective.kl_coef = 0.0
  found = compare.run(swept, tmp_path)
  lost = found["arms"]["lr=1e+38"]
  assert lost["diverged"] == {"3": 2} and lost["trained"] is None
  assert found["arms"]["lr=0.01"]["diverged"] == {}
  assert found["arms"]["lr=0.01"]["trained"]["n"] == 8


def test_the_others_go_on(swept, tmp_path, monkeypatch, caplog, capsys):
  swept.seeds = (3, 4, 5)
  swept.arms = sweeps.grid({"train.learning_rate": (1e-2, 3e-2, 1e-1)})
  trained = _fake(monkeypatch, {("lr=0.03", 4): 7, ("lr=0.1", 3): 2})
  with caplog.at_level("INFO", "absl"):
    found = compare.run(swept, tmp_path)
  assert len(trained) == 9
  assert "3 arms x 3 seeds: 9 runs, the reference is lr=0.01" in caplog.text
  assert "1 of 9 runs are done, 8 to go: about 0:01:04 at 8 s" in caplog.text
  assert "9 of 9 runs are done (2 diverged)" in caplog.text
  arm = found["arms"]["lr=0.03"]
  # Of the seeds that went well, and said so; but no difference is taken.
  assert arm["seeds"] == [3, 5] and arm["trained"]["n"] == 400
  assert arm["difference"] is None and arm["diverged"] == {"4": 7}
  said = (tmp_path / "compare.md").read_text()
  assert "| lr=0.01 (reference) |" in said
  assert "| diverged: seed 4 at 7 |" in said and "is not compared" in said
  assert "diverged: seed 4 at 7" in capsys.readouterr().out
  assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
  # It is not tried again with as many iterations, but with more it is.
  with caplog.at_level("INFO", "absl"):
    assert compare.run(swept, tmp_path) == found
  assert len(trained) == 9
  assert "going on where it stopped, 9 of 9 runs are done" in caplog.text
  # A finished run is not taken for one with other settings.
  swept.train.b2 = 0.9
  with pytest.raises(ValueError, match="seed3 belongs to .*train.b2"):
    compare.run(swept, tmp_path)
  swept.train.b2 = 0.999
  swept.train.steps = 3
  compare.run(swept, tmp_path)
  assert len(trained) == 18
  # Nor one of more iterations for one of fewer.
  swept.train.steps = 2
  with pytest.raises(ValueError, match="was trained for 3 iterations, .*=2"):
    compare.run(swept, tmp_path)


def test_another_error_stops_and_the_rest_goes_on(
  swept, tmp_path, monkeypatch, caplog
):
  swept.arms = sweeps.grid({"train.learning_rate": (1e-2, 3e-2)})
  trained = _fake(monkeypatch, said=[("lr=0.03", 3)])
  with pytest.raises(ValueError, match="a mistake"):
    compare.run(swept, tmp_path)
  assert not (tmp_path / "compare.json").exists()
  trained = _fake(monkeypatch)
  with caplog.at_level("INFO", "absl"):
    found = compare.run(swept, tmp_path)
  assert trained == [("lr=0.03", 3)]
  message = "going on where it stopped, 1 of 2 runs are done, 1 to go: about"
  assert message in caplog.text
  assert found["arms"]["lr=0.03"]["difference"]["verdict"]


def test_nothing_is_compared_with_a_reference_that_diverged(
  swept, tmp_path, monkeypatch
):
  swept.arms = sweeps.grid({"train.learning_rate": (3e-2, 1e-2)})
  _fake(monkeypatch, {("lr=0.01", 3): 4})
  found = compare.run(swept, tmp_path)
  assert found["reference"] == "lr=0.01"
  assert found["arms"]["lr=0.03"]["difference"] is None
  assert "reference diverged" in compare_table.caption(found)
  _fake(monkeypatch, {("lr=0.03", 3): 4})
  run_folder.write_json(tmp_path / "x.json", found)
  (tmp_path / "lr=0.03" / "seed3" / "summary.json").unlink()
  found = compare.run(swept, tmp_path)  # all diverged
  assert found["data_sha256"] == {}
  assert [x["trained"] for x in found["arms"].values()] == [None, None]


def test_one_number_is_drawn():
  arm = lambda **changes: {"changes": changes}
  swept = lambda *arms: compare_table.swept(
    {"arms": {str(i): x for i, x in enumerate(arms)}}
  )
  key, points = swept(arm(lr=1e-2), arm(lr=1))
  assert key == "lr" and list(points) == [0.01, 1.0]
  assert swept(arm(lr=1), arm(b2=1)) is None
  assert swept(arm(lr=1, b2=1), arm(lr=2, b2=1)) is None
  assert swept(arm(x=True), arm(x=False)) is None
  assert swept(arm(x="a"), arm(x="b")) is None
  assert swept(arm(), arm(x=1)) is None


def test_the_plan_says_what_can_be_shown(config):
  with config.unlocked():
    config.data.scales = (1,)
  sets = build.make(config).env.eval_sets()
  runs = [("a", 1), ("b", 1)]
  said = compare_plan.describe(runs, "a", {x: {} for x in runs}, [sets] * 2)
  assert "2 arms x 1 seeds: 2 runs, the reference is a; the first will" in said
  assert "corrected for 1 comparison: 0.828, more if seeds differ" in said
  # Seeds with one set of questions are not as many questions more.
  runs += [("a", 2), ("b", 2)]
  plan = lambda sets: compare_plan.describe(runs, "a", {}, sets)
  assert ": 0.828," in plan([sets] * 4)
  config.seed += 1
  others = build.make(config).env.eval_sets()
  # Two seeds with eight questions each show nothing.
  assert ": none," in plan([sets, others] * 2)
  ended = {("a", 1): {"seconds": 3600}, ("b", 1): {"step": 3}, ("b", 2): {}}
  assert compare_plan.left(ended) == (
    "2 of 3 runs are done (1 diverged), 1 to go: about 1:00:00 at 3600 s each"
  )
