"""XLA's own figures for GPUs that are not there; needs the extra `plan`."""

import importlib.util
import json
import pathlib

import pytest

from memjax import build
from memjax import config as config_lib
from memjax import plan
from memjax import plan_budget
from memjax import plan_compile
from memjax import plan_devices
from memjax import plan_shapes

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not plan_compile.available(),
    reason="the compiler for GPUs is not installed: pip install -e '.[plan]'",
  ),
]
_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments/08_plan"


def _figures():
  """The script that the committed figures were made with."""
  path = _FOLDER / "figures.py"
  spec = importlib.util.spec_from_file_location("figures", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture(autouse=True)
def _optimised(monkeypatch):
  """Compiles as users do."""
  monkeypatch.delenv("XLA_FLAGS")


@pytest.fixture
def tiny(tmp_path):
  """A config of a model that compiles in seconds."""
  config = config_lib.default()
  config.model.path = "Qwen3-0.6B"
  plan_shapes.resolve(config, tmp_path)
  path = tmp_path / "Qwen3-0.6B" / "config.json"
  shape = json.loads(path.read_text())
  shape |= {"hidden_size": 256, "num_hidden_layers": 2, "vocab_size": 1024}
  path.write_text(json.dumps(shape))
  config.model.path = str(path.parent)
  config.agent.update(
    chunk_tokens=128,
    question_tokens=32,
    memory_tokens=64,
    update_tokens=64,
    answer_tokens=64,
  )
  return config


def test_xla_still_gives_the_committed_figures(tmp_path):
  figures = _figures()
  name = "memagent_qwen3_4b"
  config, _ = plan_shapes.resolve(figures.load(name), tmp_path)
  rows = [
    row
    for row in json.loads(figures.FIGURES.read_text())
    if row["config"] == name
    and (
      row["rows"] == config.train.micro_batch
      or row["program"] == plan_shapes.DECODE
    )
  ]
  assert rows
  with plan_compile.Compiler(config, plan_devices.DEVICES["h100"]) as compiler:
    for row in rows:
      found = compiler.measure(row["program"], row["rows"])
      assert found.temporary == pytest.approx(row["temporary"], rel=0.02)


def test_decoding_reads_in_place(monkeypatch):
  """What is needed, scores and half a cache of new tokens: no copies of it."""
  monkeypatch.syspath_prepend(_FOLDER)
  traffic = importlib.import_module("traffic")
  monkeypatch.setenv("XLA_FLAGS", "")  # it sets its own
  found, least = traffic.measure("memagent_qwen3_0p6b")
  assert least < sum(found.values()) < 1.42 * least


def test_arguments_are_what_is_held(tiny):
  run = build.make(tiny, needs_data=False)
  shapes = plan_shapes.describe(run)
  work = plan_budget.describe_work(run, shapes)
  meter = plan_budget.formula(work, run, plan_devices.Mesh())
  made = plan_budget.Plan(run, shapes, work, plan_devices.Mesh(), meter)
  with plan_compile.Compiler(tiny, plan_devices.DEVICES["h100"]) as compiler:
    found = compiler.measure(plan_shapes.STEP, 0)
  held = made.held(plan_shapes.STEP, 16)
  taken = held["masters"] + held["moments"] + held["gradients"]
  assert found.arguments == pytest.approx(taken, rel=0.01)
  # All results are written into arguments, but for the metrics.
  assert found.new < 4096


@pytest.mark.parametrize("target", ["h200", "a100", "a800"])
def test_other_targets_compile(tiny, target):
  with plan_compile.Compiler(tiny, plan_devices.DEVICES[target]) as compiler:
    assert compiler.measure(plan_shapes.GRADIENT, 1).temporary > 0


@pytest.mark.parametrize("shared", [False, True])
def test_rows_of_odd_lengths_have_a_gradient(tiny, shared):
  """Texts, or a token of each row and its response behind them."""
  tiny.rollout.share_prefix, tiny.agent.max_chunks = shared, 1
  tiny.agent.chunk_tokens = 127
  tiny.model.attention = "cudnn"
  with plan_compile.Compiler(tiny, plan_devices.DEVICES["h100"]) as compiler:
    assert compiler.measure(plan_shapes.GRADIENT, 4).temporary > 0


def test_a_plan_says_that_it_was_compiled(tiny, capfd):
  assert plan.plan(tiny, "h100")
  text = capfd.readouterr().out
  assert "temporaries are XLA's, compiled for this device" in text
  assert "not compiled" not in text


def test_a_child_that_ends_says_why(tiny):
  tiny.model.path = "/nowhere"
  with plan_compile.Compiler(tiny, plan_devices.DEVICES["h100"]) as compiler:
    with pytest.raises(RuntimeError, match="status 1.*/nowhere is no folder"):
      compiler.measure(plan_shapes.STEP, 0)
