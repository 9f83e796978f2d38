import io
import json
import pathlib
import runpy

import fake_results
import numpy as np
import pytest
import rich.console

from memjax import build
from memjax import compare
from memjax import compare_table
from memjax import stats_seeds

_ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture
def small(config):
  """Two arms, two seeds."""
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
  # Arms of one shape share their compiled programs.
  small.arms = (("plain", ()), ("fast", (("train.learning_rate", 3e-2),)))
  small.train.steps = 1
  small.eval.controls = ("empty_memory", "oracle")
  found = compare.run(small, tmp_path)
  assert json.loads((tmp_path / "compare.json").read_text()) == found
  assert found["reference"] == "plain"
  assert set(found["data_sha256"]) == {"3", "4"}
  read = lambda name, side: [
    json.loads((tmp_path / name / seed / "scores.json").read_text())[side]["x1"]
    for seed in ("seed3", "seed4")
  ]
  # Each seed has generated questions of its own.
  fast, plain, base = (
    np.array(read(name, side))
    for name, side in (
      ("fast", "trained"),
      ("plain", "trained"),
      ("fast", "base"),
    )
  )
  assert (np.array(read("plain", "documents")) == np.arange(8)).all()
  cell = found["arms"]["fast"]["trained"]
  mean = stats_seeds.nested_mean(fast, [None, None])
  assert (cell["low"], cell["high"]) == (mean.low, mean.high)
  assert (cell["n"], cell["documents"], cell["seeds"]) == (16, 16, 2)
  for key, other in (("difference", plain), ("gain", base)):
    want = stats_seeds.nested_difference(fast, other, [None, None])
    have = found["arms"]["fast"][key]
    assert (have["difference"], have["low"]) == (want.value, want.low)
  # One row: nothing to correct for.
  apart = found["arms"]["fast"]["difference"]
  assert apart["p_holm"] == apart["p"]
  assert apart["verdict"] in ("better", "worse", "not told apart")
  assert found["arms"]["plain"]["difference"] is None
  assert found["arms"]["fast"]["memory"] == {"held": 3, "shown": 3}
  # What is finished is not done again.
  stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("summary.json")}
  assert len(stamps) == 4
  assert compare.run(small, tmp_path) == found
  assert stamps == {p: p.stat().st_mtime_ns for p in stamps}
  out = io.StringIO()
  compare_table.print_table(found, rich.console.Console(file=out, width=160))
  text = " ".join(out.getvalue().split())
  assert apart["verdict"] in text
  assert "of other seeds (2 were run) on other questions" in text
  assert found["data_sha256"]["3"][:12] in text
  assert text.index("plain") < text.index("fast")
  # What stands behind it, on the page too.
  controls = json.loads(
    (tmp_path / "fast" / "seed3" / "summary.json").read_text()
  )["controls"]
  cells = found["arms"]["fast"]["controls"]
  assert set(cells) == set(controls) and "empty_memory" in cells
  spread = found["arms"]["fast"]["trained"]["between_seeds"]["sd"]
  page = (tmp_path / "report.html").read_text()
  for shown in (
    text.split("what stands behind")[1],
    (tmp_path / "compare.md").read_text().split("What stands behind")[1],
    page.split("What stands behind")[1],
  ):
    assert f"{spread:.3f} [" in shown and "oracle" in shown
    assert f"{cells['oracle']['accuracy']:.3f} [" in shown
  assert "http" not in page.split("</head>")[1]
  assert '<a href="fast/seed4/report.html">fast, seed 4</a>' in page
  # Other questions are not compared.
  path = tmp_path / "fast" / "seed4" / "summary.json"
  summary = json.loads(path.read_text())
  summary["data_sha256"]["x1"] = "0" * 64
  path.write_text(json.dumps(summary))
  message = "plain.seed4 and .*fast.seed4 were asked different questions"
  with pytest.raises(ValueError, match=message):
    compare.run(small, tmp_path)
  # Nor are folders without documents.
  path = tmp_path / "plain" / "seed3" / "scores.json"
  kept = json.loads(path.read_text())
  path.write_text(json.dumps({x: kept[x] for x in ("base", "trained")}))
  with pytest.raises(ValueError, match="seed3.scores.json.*earlier version"):
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


def test_verdicts_are_corrected_for_all_arms(tmp_path):
  """A difference that counts alone does not beside many others."""
  right = fake_results.scores(0, 200, 0.5)
  folders = {("plain", 3): tmp_path / "plain"}
  folders |= {(f"arm{i}", 3): tmp_path / f"arm{i}" for i in range(5)}
  for i, folder in enumerate(folders.values()):
    # The first arm wins 11 and loses 2 (p = .022), the others are like plain.
    wrong = [n for n, x in enumerate(right) if not x]
    won = wrong[:11] if i == 1 else []
    lost = [n for n, x in enumerate(right) if x][:2] if i == 1 else []
    trained = [
      1.0 if n in won else 0.0 if n in lost else x for n, x in enumerate(right)
    ]
    fake_results.write_run(folder, {"x1": trained})
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"recall": {"trained": {}}, "seconds": 1.0}
    summary["memory"] = {"held": 2, "shown": 2}
    fake_results.write(folder / "summary.json", summary)
  two = dict(list(folders.items())[:2])
  assert compare.summarize(two)["arms"]["arm0"]["difference"]["p"] < 0.03
  said = lambda found: found["arms"]["arm0"]["difference"]["verdict"]
  assert said(compare.summarize(two)) == "better"
  assert said(compare.summarize(folders)) == "not told apart"
