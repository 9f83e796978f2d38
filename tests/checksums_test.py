"""Which files a run read, from the environment to what the run leaves."""

import hashlib
import json

import ml_collections
import pytest

from memjax import build
from memjax import evaluate
from memjax import finish
from memjax import modes
from memjax import scores
from memjax.envs import facts
from memjax.envs import locomo
from memjax.envs import locomo_file
from memjax.envs import memory_bank
from memjax.envs.suite import env as suite


def _sha(path):
  return hashlib.sha256(path.read_bytes()).hexdigest()


def _record(path, example):
  """A file of one record."""
  row = {
    "context": example.context,
    "input": example.question,
    "answers": list(example.answers),
  }
  path.write_text(json.dumps([row]))
  return path


@pytest.fixture
def silent(config, monkeypatch):
  """An agent that says nothing, at once."""
  config.eval.update(controls=(), samples=0)
  monkeypatch.setattr(
    evaluate,
    "ask",
    lambda run, policies, examples, **_: scores.Answers(
      examples, [[""] for _ in examples], [[] for _ in examples], [], []
    ),
  )
  return config


@pytest.fixture
def digests(silent, tmp_path):
  """The config reads two files; these are their digests."""
  # In words that the tiny model's tokenizer knows.
  examples = facts.Facts().train_examples(0, 20)
  other = next(x for x in examples if x.question != examples[0].question)
  trained = _record(tmp_path / "train.json", examples[0])
  asked = _record(tmp_path / "asked.json", other)
  with silent.unlocked():
    silent.data = ml_collections.ConfigDict(
      {
        "name": "long_context",
        "path": str(trained),
        "eval_path": str(asked),
        "holdout": 1,
        "reward_name": "reward_f1",
        "metric_name": "em",
      }
    )
  return {"train.json": _sha(trained), "asked.json": _sha(asked)}


def test_an_evaluation_says_what_it_read(silent, digests, tmp_path):
  modes.evaluate(build.make(silent), tmp_path / "run", "base")
  found = json.loads((tmp_path / "run" / "eval_base.json").read_text())
  assert found["files"] == digests


def test_a_run_says_what_it_read(silent, digests, tmp_path):
  run = build.make(silent)
  (tmp_path / "metrics.jsonl").write_text("")
  finish.finish(run, tmp_path, evaluate.suite(run, None), None, {}, 0.0)
  summary = json.loads((tmp_path / "summary.json").read_text())
  assert summary["files"] == digests
  page = (tmp_path / "report.html").read_text()
  for name, digest in digests.items():
    assert f"{name} {digest[:12]}" in page


def test_environments_without_files_name_none(silent, tmp_path):
  modes.evaluate(build.make(silent), tmp_path, "base")
  assert json.loads((tmp_path / "eval_base.json").read_text())["files"] == {}


def test_memory_bank_files(tmp_path):
  rows = [{"q": f"q{i}", "a": "a", "M": [], "f": []} for i in range(3)]
  path = tmp_path / "bank.json"
  path.write_text(json.dumps(rows))
  env = memory_bank.make(str(path), holdout=1)
  assert env.files == {"bank.json": _sha(path)}


def test_the_suite_reads_a_file_for_one_task(tmp_path):
  (tmp_path / "qa.json").write_text("[]")
  env = suite.Suite(path=str(tmp_path / "qa.json"))
  assert "qa" not in env.tasks and env.files == {}
  object.__setattr__(env, "tasks", ("qa",))
  del env.__dict__["files"]
  assert env.files == {"qa.json": _sha(tmp_path / "qa.json")}


def test_the_real_locomo_is_the_published_one(data_dir, tmp_path, caplog):
  path = data_dir / "locomo" / "locomo10.json"
  if not path.is_file():
    pytest.skip(f"there is no {path}")
  env = locomo.make(str(path))
  assert env.files == {path.name: locomo_file.PUBLISHED[0]}
  assert "not the file" not in caplog.text
  other = tmp_path / "locomo10.json"
  other.write_bytes(path.read_bytes() + b"\n")
  found = locomo.make(str(other)).files
  assert found[path.name] != locomo_file.PUBLISHED[0]
  assert f"{other}: not the file that papers' numbers are of" in caplog.text
