"""The command line: what a user types, and what a user mistypes."""

import dataclasses
import json
import pathlib
import re
import subprocess
import sys
import types
from unittest import mock

import fake_results
import jax
import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver

from memjax import build
from memjax import checkpoint
from memjax import command_line
from memjax import hf
from memjax import main
from memjax import modes
from memjax import train
from memjax import versus

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def _main(*arguments):
  return subprocess.run(
    [sys.executable, "-m", "memjax.main", *map(str, arguments)],
    cwd=_ROOT,
    capture_output=True,
    text=True,
    timeout=300,
  )


@pytest.fixture(scope="module")
def trained(request):
  """A finished run, and the config that it was made with."""
  return {}


@pytest.fixture
def run(config, trained, tmp_path_factory):
  config.train.steps = 3
  config.eval.samples = 0
  config.data.scales = (1,)
  made = build.make(config)
  if "workdir" not in trained:
    trained["workdir"] = tmp_path_factory.mktemp("trained")
    train.train(made, trained["workdir"])
  return made


def test_out_of_memory_ends_in_one_line(monkeypatch):
  def fail(*args):
    raise jax.errors.JaxRuntimeError(
      "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9 bytes.\nx"
    )

  monkeypatch.setattr(versus, "run", fail)
  stopped = pytest.raises(
    SystemExit, match="to allocate 9 bytes.. python -m memjax.plan with"
  )
  with flagsaver.flagsaver():
    command_line.parse(["memjax", "--mode=compare", "--runs=a", "--runs=b"])
    with stopped:
      main.main(["memjax"])
    # Any other fault of the runtime is shown as it is.
    fault = jax.errors.JaxRuntimeError("INTERNAL: a bug")
    monkeypatch.setattr(versus, "run", mock.Mock(side_effect=fault))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
      main.main(["memjax"])


def test_a_user_may_stop_it(monkeypatch):
  """Ctrl-C ends with a line, not with where it happened."""

  def stop(*_):
    raise KeyboardInterrupt

  monkeypatch.setattr(versus, "run", stop)
  stopped = pytest.raises(SystemExit, match="stopped; the same command goes on")
  with flagsaver.flagsaver(), stopped:
    command_line.parse(["memjax", "--mode=compare", "--runs=a", "--runs=b"])
    main.main(["memjax"])


@pytest.mark.parametrize(
  "arguments, message",
  [
    (
      ["--config.train.lr=3"],
      "--config.train.lr=3: there is no such key.*lr",
    ),
    (
      ["--config.data.chunk=3"],
      "--config.data.chunk=3: there is no such key.*chunks",
    ),
    (["--config=configs/nowhere.py"], "nowhere.py"),
    (
      ["--config=configs/quickstart.py:sweep=lrr"],
      "no variant 'sweep=lrr' .*choose :sweep=lr, :sweep=ablation$",
    ),
    (
      ["--config=configs/quickstart_hard.py:sweep=lr"],
      "this file has no variants after a colon",
    ),
    (
      ["--sweep=train.learning_rate=1e-2,3e-2", "--config.seeds=4,5"],
      "none is the config as it is.*with train.learning_rate=0.001",
    ),
    (["--config.train.steps=many"], "many"),
    (["--config.model.path=/nowhere"], "/nowhere is no folder"),
    (["--config.rollout.wave_questions=7"], "is not a multiple of"),
    (["--mode=dream"], "dream"),
    (["stray"], "stray"),
    (["--mode=eval"], "holds no checkpoint.*--checkpoint=base"),
    (["--mode=read"], "--text=FILE"),
    (["--mode=export"], "--out=DIR"),
    (["--mode=sft"], "config.sft.path"),
  ],
)
def test_mistakes_end_in_one_clear_line(
  monkeypatch, capsys, tmp_path, arguments, message
):
  monkeypatch.chdir(_ROOT)
  command = ["memjax", "--config=configs/quickstart.py"]
  command += [f"--workdir={tmp_path}/w", *arguments]
  # As the process would, which takes ten seconds to start. What a config may
  # be asked for is read from sys.argv.
  monkeypatch.setattr(sys, "argv", command)
  with flagsaver.flagsaver(), pytest.raises(SystemExit) as stopped:
    app.run(main.main, command, command_line.parse)
  assert stopped.value.code
  text = " ".join([capsys.readouterr().err, str(stopped.value.code)])
  assert re.search(message, " ".join(text.split())), text
  assert "Traceback" not in text
  assert not (tmp_path / "w" / "metrics.jsonl").exists()


def test_compare(tmp_path):
  """No config, no model: folders alone."""
  for name, p in (("a", 0.3), ("b", 0.9)):
    fake_results.write_run(
      tmp_path / name, {"x1": fake_results.scores(name == "a", 200, p)}
    )
  runs = [f"--runs={tmp_path / name}" for name in "ab"]
  done = _main("--mode=compare", *runs, f"--workdir={tmp_path / 'out'}")
  assert done.returncode == 0, done.stderr
  said = done.stdout.splitlines()[-1]
  assert said.startswith(f"On x1, {tmp_path}/b is better than {tmp_path}/a by ")
  found = json.loads((tmp_path / "out" / "compare.json").read_text())
  assert found["sentence"] == said and found["rows"][0]["verdict"] == "better"
  # Runs that cannot be compared: one line.
  fake_results.write_run(tmp_path / "c", {"x1": [1.0] * 200}, data="other")
  done = _main("--mode=compare", runs[0], f"--runs={tmp_path / 'c'}")
  assert done.returncode != 0 and "Traceback" not in done.stderr
  message = "/a and .*/c were asked different questions"
  assert re.search(message, done.stderr), done.stderr


def test_config_and_workdir_are_required():
  done = _main("--workdir=/tmp/w")
  assert done.returncode != 0
  assert "config" in done.stderr and "Traceback" not in done.stderr


def test_eval(run, trained, capsys, caplog):
  with caplog.at_level("INFO", "absl"):
    modes.evaluate(run, trained["workdir"], "last")
  assert "x1 0.828 (8 questions of 8 documents)" in caplog.text
  assert "trained" in capsys.readouterr().out
  found = json.loads((trained["workdir"] / "eval_last.json").read_text())
  summary = json.loads((trained["workdir"] / "summary.json").read_text())
  assert found["trained"] == summary["trained"]
  assert found["controls"] == summary["controls"]
  # A report beside it; that of training stays.
  page = (trained["workdir"] / "eval_last.html").read_text()
  assert "after training" in page and "<h2>Training</h2>" not in page
  page = (trained["workdir"] / "report.html").read_text()
  assert "<h2>Training</h2>" in page
  modes.evaluate(run, trained["workdir"], "base")
  found = json.loads((trained["workdir"] / "eval_base.json").read_text())
  assert found["base"] == summary["base"]
  # Both name what a comparison needs; so does what training left.
  files = [trained["workdir"] / f"eval_{x}.json" for x in ("base", "last")]
  rows = versus.run([str(x) for x in files], None)["rows"]
  files = [trained["workdir"] / "base.json", trained["workdir"]]
  again = versus.run([str(x) for x in files], None)["rows"]
  for one, other in zip(rows, again):
    assert one | {"arm": ""} == other | {"arm": ""}
  cells = [summary[side]["x1"]["accuracy"] for side in ("trained", "base")]
  assert rows[0]["difference"] == cells[0] - cells[1]


def test_eval_takes_several_samples(run, config, trained):
  config.eval.samples = 3
  modes.evaluate(build.make(config), trained["workdir"], "best")
  found = json.loads((trained["workdir"] / "eval_best.json").read_text())
  assert found["config"].endswith("(chosen by questions of the first set)")
  cell = found["trained"]["x1"]
  assert cell["samples"] == 3 and cell["sampled_n"] == 8
  assert cell["sampled_low"] <= cell["sampled"] <= cell["sampled_high"]


def test_read(run, trained, tmp_path, capsys):
  text = tmp_path / "text.txt"
  text.write_text("the of kim=oslo and to a in is it kim=rome on as at")
  modes.read(run, trained["workdir"], "last", str(text), "kim?")
  lines = capsys.readouterr().out.splitlines()
  assert [line.split("]")[0] for line in lines[1:4]] == [
    "[chunk 1/3",
    "[chunk 2/3",
    "[chunk 3/3",
  ]
  assert lines[4].startswith("answer: ")


@pytest.mark.parametrize(
  "text, question, message",
  [
    (None, "kim?", "--text"),
    ("x.txt", None, "--question"),
    ("/nowhere.txt", "kim?", "/nowhere.txt: not readable"),
  ],
)
def test_read_refuses(run, trained, text, question, message):
  with pytest.raises(ValueError, match=message):
    modes.read(run, trained["workdir"], "base", text, question)


def test_read_refuses_words_that_the_model_does_not_know(
  run, trained, tmp_path
):
  text = tmp_path / "text.txt"
  text.write_text("Once upon a time")
  with pytest.raises(ValueError, match="'Once' is not in the tokenizer"):
    modes.read(run, trained["workdir"], "last", str(text), "kim?")


def test_export(run, trained, tmp_path):
  out = tmp_path / "exported"
  modes.export(run, trained["workdir"], "last", str(out))
  cfg, params = hf.load(out)
  want, _ = checkpoint.restore_params(
    trained["workdir"], run.abstract_state(), "last"
  )
  np.testing.assert_array_equal(params["embed"], want["policy"]["embed"])
  # It is a model that a run can start from.
  run.config.model.path = str(out)
  assert build.make(run.config).model.width == cfg.width
  with pytest.raises(ValueError, match="not empty"):
    modes.export(run, trained["workdir"], "last", str(out))


def test_sft_needs_a_batch_that_the_mesh_divides(config, tmp_path):
  config.sft.update(path=str(tmp_path / "pairs.jsonl"), batch_size=6)
  run = build.make(config, needs_data=False)
  mesh = types.SimpleNamespace(shape={"data": 4, "fsdp": 1, "tensor": 1})
  run = dataclasses.replace(run, mesh=mesh)
  with pytest.raises(ValueError, match="sft.batch_size=6.*multiple of 4"):
    modes.sft(run, str(tmp_path / "out"))


def test_sft(run, config, tmp_path, capsys):
  pairs = tmp_path / "pairs.jsonl"
  pairs.write_text(json.dumps({"prompt": "kim?", "response": "oslo"}) + "\n")
  config.sft.update(path=str(pairs), steps=60, batch_size=2, learning_rate=1e-2)
  out = tmp_path / "warm"
  modes.sft(build.make(config, needs_data=False), str(out))
  lines = capsys.readouterr().out.splitlines()
  assert float(lines[1].split()[3]) < 0.5 < float(lines[0].split()[3]) + 0.5
  config.model.path = str(out)
  assert build.make(config).load_params()["embed"].shape == (256, 16)
