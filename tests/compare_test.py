import io
import json
import pathlib
import runpy

import numpy as np
import pytest
import rich.console

from memjax import build
from memjax import compare
from memjax import scores

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def small(config):
  """Two arms of two iterations, two seeds."""
  config.train.update(steps=2, warmup_steps=0)
  config.eval.every = 0
  with config.unlocked():
    config.arms = (
      ("plain", ()),
      ("fast", (("train.learning_rate", 3e-2), ("agent.memory_tokens", 2))),
    )
    config.seeds = (3, 4)
    config.data.scales = (1,)
  return config


def test_arms_are_the_config_with_some_keys_changed(small):
  found = {(name, seed): one for name, seed, one in compare.arms(small)}
  assert list(found) == [("plain", 3), ("plain", 4), ("fast", 3), ("fast", 4)]
  plain, fast = found["plain", 4], found["fast", 4]
  assert plain.train.learning_rate == small.train.learning_rate
  assert fast.train.learning_rate == 3e-2
  assert (fast.agent.memory_tokens, fast.seed) == (2, 4)
  assert plain.arms == () and plain.seeds == ()
  assert small.agent.memory_tokens == 3  # itself unchanged


@pytest.mark.parametrize(
  "arms, message",
  [
    ((("a", (("train.rate", 1.0),)),), "config.arms: a sets train.rate=1.0"),
    ((("a", (("train.steps", "x"),)),), "config.arms: a sets train.steps='x'"),
    ((("a", ()), ("a", ())), "a name occurs twice in a, a"),
  ],
)
def test_wrong_arms_are_refused(small, arms, message):
  small.arms = arms
  with pytest.raises(ValueError, match=message):
    list(compare.arms(small))


def test_an_arm_that_cannot_be_stops_before_the_first_is_trained(
  small, tmp_path
):
  small.arms = (("plain", ()), ("odd", (("agent.chunk_tokens", 0),)))
  with pytest.raises(ValueError, match="chunk_tokens=0"):
    compare.run(small, tmp_path)
  assert not list(tmp_path.iterdir())


def test_arms_are_trained_once_and_compared_in_pairs(small, tmp_path):
  found = compare.run(small, tmp_path)
  assert json.loads((tmp_path / "compare.json").read_text()) == found
  assert found["reference"] == "plain"
  assert set(found["data_sha256"]) == {"3", "4"}
  read = lambda name, seed: json.loads(
    (tmp_path / name / f"seed{seed}" / "scores.json").read_text()
  )
  one, other = (
    np.concatenate([read(name, seed)["trained"]["x1"] for seed in (3, 4)])
    for name in ("fast", "plain")
  )
  assert found["arms"]["fast"]["trained"] == scores.interval(one)
  assert found["arms"]["fast"]["difference"] == scores.paired(one, other)
  assert found["arms"]["plain"]["difference"]["high"] == 0.0
  assert found["arms"]["fast"]["memory"] == {"held": 2, "shown": 2}
  # What is finished is not done again.
  stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("summary.json")}
  assert len(stamps) == 4
  assert compare.run(small, tmp_path) == found
  assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
  out = io.StringIO()
  compare.print_table(found, rich.console.Console(file=out, width=160))
  text = out.getvalue()
  assert found["data_sha256"]["3"][:12] in text
  assert text.index("plain") < text.index("fast")
  # Other questions are not compared.
  path = tmp_path / "fast" / "seed4" / "summary.json"
  summary = json.loads(path.read_text())
  summary["data_sha256"]["x1"] = "0" * 64
  path.write_text(json.dumps(summary))
  with pytest.raises(ValueError, match="seed 4: .*different questions"):
    compare.run(small, tmp_path)


def test_a_folder_of_other_settings_is_refused(small, tmp_path):
  small.arms, small.seeds = (("plain", ()),), (3,)
  small.train.steps = 1
  one = compare.run(small, tmp_path)
  small.train.steps = 2  # goes on
  assert compare.run(small, tmp_path) != one
  small.train.learning_rate = 1e-3
  with pytest.raises(
    ValueError, match="plain/seed3 belongs to .*learning_rate"
  ):
    compare.run(small, tmp_path)


_SHIPPED = ("memory_rmm_tiny.py", "compare_tiny.py")


@pytest.mark.parametrize("name", _SHIPPED)
def test_shipped_arms_are_given_the_same(name):
  """Tasks, what answers are shown, and tokens written."""
  make = runpy.run_path(str(_ROOT / "configs" / name))["get_config"]
  config = make("all") if name == "memory_rmm_tiny.py" else make()
  runs = [
    build.make(one, needs_data=False) for _, _, one in compare.arms(config)
  ]
  assert len({run.agent.budget[1] for run in runs}) == 1
  banks = {run.agent.budget for run in runs if hasattr(run.agent, "entries")}
  assert len(banks) == 1
  for run in runs:
    assert run.config.data.to_dict() == config.data.to_dict()
    assert run.config.reward.to_dict() == config.reward.to_dict()
    assert run.config.train.to_dict() == config.train.to_dict()
    asked = run.config.rollout.questions * run.config.agent.questions
    assert asked * run.config.rollout.group_size == 768


def test_paired_differences():
  one, other = np.array([1.0, 1, 0, 1]), np.array([0.0, 1, 0, 0])
  found = scores.paired(one, other)
  # Differences 1, 0, 0, 1: mean 1/2, standard deviation sqrt(1/3).
  assert found["difference"] == 0.5 and found["n"] == 4
  half = 1.959964 * (1 / 3) ** 0.5 / 2
  assert found["low"] == pytest.approx(0.5 - half)
  assert found["high"] == pytest.approx(0.5 + half)
  same = scores.paired(one, one)
  assert same["low"] == same["high"] == 0.0
