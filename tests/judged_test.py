"""A judge as reward and metric, from the config to the report."""

import dataclasses
import io
import json
import os
import pathlib
import re
import subprocess
import sys

import fake_results
import judge_server
import pytest
import rich.console

from memjax import build
from memjax import build_judge
from memjax import compare
from memjax import judge
from memjax import judge_cache
from memjax import judged
from memjax import modes
from memjax import report
from memjax import train
from memjax.envs import dialogues
from memjax.envs import facts
from memjax.envs.suite import env as suite

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_CASES = 80  # fewer than by default: quicker


def _odd(item):
  """What the judge of these tests likes: answers of odd length."""
  return len(item.given) % 2 == 1


@pytest.fixture
def server():
  with judge_server.Server(judge_server.oracle(_odd, _CASES)) as server:
    yield server


def _use(config, address, tmp_path, **more):
  config.judge.update(
    url=address,
    model="oracle",
    key_env="",
    metric=True,
    cache=str(tmp_path / "judge.sqlite"),
    examples=_CASES,
    timeout=5.0,
    retries=0,
    concurrency=4,
  )
  config.judge.update(**more)
  return config


@pytest.fixture
def small(config, server, tmp_path):
  """Two iterations, judged by the server."""
  config.train.update(steps=2, warmup_steps=0)
  config.data.scales = (1,)
  config.eval.update(every=0, samples=0)
  config.checkpoint.every = 1
  return _use(config, server.url, tmp_path)


class _Backend:
  """Counts how often it is called; likes what the server likes."""

  name, settings = "fake", {}

  def __init__(self, say=None):
    self.calls, self.counts = [], judge.Counts()
    self.say = say or judge_server.oracle(_odd, _CASES)

  def ask(self, prompts):
    if prompts:
      self.calls.append(len(prompts))
    for i, prompt in enumerate(prompts):
      body = self.say([{"content": prompt}], 0).body
      text = json.loads(body)["choices"][0]["message"]["content"]
      yield i, judge_cache.Verdict(judge.parse(text), text, "fake-1")


def _judged(uses, env=None, say=None, **kwargs):
  backend = _Backend(say)
  limits = {"false_accept": 0.05, "false_reject": 0.1}
  by = judge.Judge(backend, judge_cache.Cache(":memory:"))
  env = env or facts.Facts(eval_examples=4, scales=(1,))
  return backend, judged.Judged(env, by, uses, _CASES, 0, limits, **kwargs)


def test_all_answers_of_a_call_are_asked_about_together():
  backend, env = _judged(("reward", "metric"))
  examples = env.train_examples(0, 4)
  texts = ["odd", "even", "so \\boxed{x}", "  "]
  assert env.rewards(examples, texts) == [1, 0, 1, 0]
  assert backend.calls == [_CASES, 3]  # calibration first, no blank answer
  assert env.metrics(examples, texts) == [1, 0, 1, 0]
  assert env.reward(examples[0], "odd") == 1
  assert len(backend.calls) == 2


def test_all_answers_are_one_where_all_are_wanted():
  seen = []

  def say(messages, number):
    seen.append(messages[0]["content"])
    return judge_server.oracle(_odd, _CASES)(messages, number)

  asked = suite.Suite(tasks=("niah_multiquery",), lengths=(512,))
  _, env = _judged(("metric",), asked, say)
  example = env.train_examples(0, 1)[0]
  env.metric(example, "odd")
  assert json.dumps([", ".join(example.answers)]) in seen[-1]
  # Of a file any accepted answer is right, unless its metric wants all.
  asked = suite.Suite(
    tasks=("niah_multiquery",), lengths=(512,), metric_name="sub_em"
  )
  _, env = _judged(("metric",), asked, say)
  env.metric(example, "odd")
  assert json.dumps([*example.answers]) in seen[-1]


def test_what_is_not_judged_is_the_environments():
  _, env = _judged(("reward",))
  example = env.train_examples(0, 1)[0]
  right = example.answers[0]
  assert env.metric(example, right) == 1 == env.metrics([example], [right])[0]
  assert env.metric(example, "odd") == 0 == env.metrics([example], ["odd"])[0]
  assert env.reward(example, "odd") == 1
  backend, env = _judged(("metric",))
  assert env.reward(example, right) == 1 and env.rewards(
    [example], ["odd"]
  ) == [0]
  assert backend.calls == []


def test_labels_have_the_judges_score():
  """And what else a label knows is the environment's."""
  _, env = _judged(("metric",))
  examples = env.eval_sets()["x1"] + env.train_examples(0, 20)
  for example in examples:
    label = env.label(example, "odd")
    if example.meta["kind"] == "unchanged":
      assert label == {"unchanged fact": 1.0}
    else:
      stale = example.meta["stale"][0]
      assert label["updated fact"] == 1.0
      assert env.label(example, stale)["updated fact, stale answer"] == 1.0


def test_optional_methods_are_seen_where_there_are_any():
  _, plain = _judged(("metric",))
  assert not hasattr(plain, "recall") and not hasattr(plain, "judge")
  _, env = _judged(("metric",), dialogues.Dialogues(eval_examples=1))
  assert env.recall and env.judge and env.banks and env.health
  assert dataclasses.replace(env, seed=1).env is env.env


def _always(verdict):
  return lambda *_: judge_server.reply(judge.REPLIES[verdict])


@pytest.mark.parametrize(
  "verdict, message",
  [
    (True, r"accepts 1.000 \[0.912, 1.000\] of 40 wrong answers, such as "),
    (False, r"rejects 1.000 \[0.912, 1.000\] of 40 right answers, such as "),
  ],
)
def test_a_poor_judge_is_refused(verdict, message):
  _, env = _judged(("metric",), say=_always(verdict))
  example = env.train_examples(0, 1)[0]
  with pytest.raises(ValueError, match=message) as error:
    env.metric(example, "oslo")
  assert "config.judge.allow_poor=True" in str(error.value)
  assert env.reward(example, example.answers[0]) == 1  # which it does not give
  _, env = _judged(("metric",), say=_always(verdict), allow_poor=True)
  assert env.metric(example, "oslo") == verdict
  found = env.summary({"base": {"x1": {"accuracy": 0.5, "n": 10}}}, {}, {})
  assert found["corrected"] == {"base": {"x1": None}}  # it tells nothing apart
  assert "beyond the limit: false" in judged.describe(found)


@pytest.mark.parametrize(
  "change, message",
  [
    ({"metric": False}, "config.judge.url='http.*but nothing is judged"),
    ({"url": ""}, "name an endpoint, such as"),
    ({"path": "/nowhere"}, "and not both"),
    ({"path": "/nowhere", "url": ""}, "/nowhere is no folder"),
    ({"url": "127.0.0.1:8000"}, "expected the address of an endpoint"),
    ({"url": "http://me:secret@host/v1"}, "names host with a user"),
    ({"url": "http://host/v1?key=secret"}, "or a query"),
    ({"model": ""}, "config.judge.model is empty"),
    ({"limit_name": "max"}, "choose one of max_tokens, max_completion_tokens"),
    ({"key_env": "NO_SUCH_KEY"}, "'NO_SUCH_KEY': there is no such environ"),
    ({"key_env": "ODD_KEY"}, "ODD_KEY has characters that no key can have"),
    ({"examples": 7}, "config.judge.examples=7: expected an even number"),
    ({"prompt": "/nowhere.txt"}, "config.judge.prompt=/nowhere.txt: not read"),
    ({"concurrency": 0}, "config.judge.concurrency=0: expected at least 1"),
    ({"timeout": 0.0}, "config.judge.timeout=0.0: expected more than 0"),
    ({"max_false_accept": 1.5}, "config.judge.max_false_accept=1.5"),
  ],
)
def test_wrong_settings_are_refused(
  config, tmp_path, monkeypatch, change, message
):
  monkeypatch.delenv("NO_SUCH_KEY", raising=False)
  monkeypatch.setenv("ODD_KEY", "sk-sécret")
  with pytest.raises(ValueError, match=message) as error:
    build.make(_use(config, "http://127.0.0.1:9/v1", tmp_path, **change))
  assert "secret" not in str(error.value) and "sécret" not in str(error.value)


def test_nothing_is_asked_before_it_is_needed(config, tmp_path):
  config.judge.reward = False
  assert build_judge.wrap(config, "an environment") == "an environment"
  run = build.make(_use(config, "http://127.0.0.1:9/v1", tmp_path))
  assert run.judged.env.metric_name == "em"
  with pytest.raises(judge.JudgeError, match="is unreachable"):
    _ = run.judged.checked


def test_evaluation(small, server, tmp_path, capsys):
  modes.evaluate(build.make(small), tmp_path / "one", "base")
  table = " ".join(capsys.readouterr().out.split())
  found = json.loads((tmp_path / "one" / "eval_base.json").read_text())
  summary = found["judge"]
  assert found["metric"] == "judge" and summary["verifier"] == "em"
  assert summary["name"] == "oracle"
  assert summary["served"] == [judge_server.MODEL]
  assert summary["rates"]["false_accept"]["rate"] == 0.0
  assert summary["rates"]["false_reject"]["n"] == _CASES // 2
  cell, right = found["base"]["x1"], summary["corrected"]["base"]["x1"]
  assert cell["accuracy"] == right["accuracy"]  # it does not err
  assert right["high"] - right["low"] > 0
  assert set(summary["corrected"]) == {"base", *found["controls"]}
  assert {"empty_memory", "oracle"} < set(found["controls"])
  assert found["scores"]["x1"] != [0.0] * 8
  for text in (
    "base, corrected for the judge",
    "base, by em",
    f"metric by the judge oracle, prompt {summary['prompt_sha256'][:12]}",
    "which accepts 0.000 [0.000, 0.088] of 40 wrong answers and rejects 0.000",
  ):
    assert text in table, text
  # Each different answer was asked about once, and never again.
  assert len(server.items()) == len(set(server.items()))
  assert summary["costs"]["calls"] == len(server.bodies)
  server.bodies.clear()
  modes.evaluate(build.make(small), tmp_path / "two", "base")
  assert server.bodies == []
  again = json.loads((tmp_path / "two" / "eval_base.json").read_text())
  assert again["base"] == found["base"] and again["scores"] == found["scores"]
  # What the verifier says beside it is what it says alone.
  small.judge.update(metric=False, url="", model="")
  modes.evaluate(build.make(small), tmp_path / "three", "base")
  plain = json.loads((tmp_path / "three" / "eval_base.json").read_text())
  assert plain["base"] == summary["verified"]["base"] != found["base"]
  assert plain["metric"] == "em" and "judge" not in plain


@pytest.mark.slow
def test_a_run_goes_on_after_its_judge_went_away(small, server, tmp_path):
  """With the same bytes as one whose judge stayed; nothing is asked twice."""
  small.judge.reward = True
  whole = train.train(build.make(small), tmp_path / "whole")
  asked = server.items()
  assert len(asked) == len(set(asked)) == whole["judge"]["costs"]["calls"]
  assert whole["judge"]["uses"] == ["reward", "metric"]
  html = (tmp_path / "whole" / "report.html").read_text()
  assert "reward and metric by the judge oracle" in html
  assert "trained, corrected for the judge" in html

  oracle, last = judge_server.oracle(_odd, _CASES), len(asked) - 5
  stops = lambda messages, number: (
    oracle(messages, number) if number < last else judge_server.Response(None)
  )
  small.judge.cache = str(tmp_path / "other.sqlite")
  with judge_server.Server(stops) as first:
    small.judge.url = first.url
    with pytest.raises(judge.JudgeError, match="same command goes on"):
      train.train(build.make(small), tmp_path / "parted")
  assert not (tmp_path / "parted" / "summary.json").exists()
  small.judge.url = server.url
  server.bodies.clear()
  parted = train.train(build.make(small), tmp_path / "parted")
  assert set(first.items()[:last]).isdisjoint(server.items())
  assert set(first.items()[:last]) | set(server.items()) == set(asked)
  for name in ("base", "trained", "controls"):
    assert parted[name] == whole[name]
  one, other = (tmp_path / x / "metrics.jsonl" for x in ("whole", "parted"))
  assert one.read_bytes() == other.read_bytes()
  assert any("rollout/reward" in line for line in one.read_text().splitlines())


def test_a_report_of_a_judge_that_tells_nothing_apart(tmp_path):
  """Its errors are there, and a dash where there is no corrected score."""
  _, env = _judged(("metric",), say=_always(True), allow_poor=True)
  cell = {"accuracy": 0.5, "low": 0.2, "high": 0.8, "n": 10}
  sides = {"base": {"x1": cell}, "trained": {"x1": cell}}
  summary = {"config": "c", **sides, "judge": env.summary(sides, sides, {})}
  table = io.StringIO()
  report.print_table(summary, rich.console.Console(file=table, width=120))
  rows = [" ".join(line.split()) for line in table.getvalue().splitlines()]
  for side in ("base", "trained"):
    assert f"{side} 0.500 [0.200, 0.800]" in rows
    assert f"{side}, by em 0.500 [0.200, 0.800]" in rows
    assert f"{side}, corrected for the judge -" in rows
  report.write_html(tmp_path, summary, [], [])
  html = (tmp_path / "report.html").read_text()
  assert "accepts 1.000 [0.912, 1.000] of 40 wrong answers" in html
  assert "(beyond the limit: false accept)" in html


def test_arms_are_compared_under_one_judge(tmp_path):
  _, env = _judged(("metric",))
  said = env.summary({}, {}, {})
  other = {**said, "prompt_sha256": "0" * 64}

  def write(name, judged_by):
    folder = tmp_path / name
    kept = {"x1": [1.0, 1.0]}
    fake_results.write_run(folder, kept, metric="judge" if judged_by else "em")
    summary = json.loads((folder / "summary.json").read_text())
    summary |= {"recall": {"trained": {}}, "memory": {}, "seconds": 1.0}
    if judged_by:
      summary["judge"] = judged_by
    return fake_results.write(folder / "summary.json", summary).parent

  one, two, three, none = (
    write(name, x)
    for name, x in (("a", said), ("b", said), ("c", other), ("d", None))
  )
  found = compare.summarize({("a", 0): one, ("b", 0): two})
  assert found["judge"]["rates"] == said["rates"]
  assert "judge" not in compare.summarize({("d", 0): none})
  for wrong, message in (
    (three, "compare runs of one config.judge"),
    (none, "was scored by judge, .*d by em"),
  ):
    with pytest.raises(ValueError, match=message):
      compare.summarize({("a", 0): one, ("c", 0): wrong})


@pytest.mark.parametrize(
  "key, message",
  [
    ("", "the judge m at http://127.0.0.1:.* is unreachable"),
    pytest.param(
      "sk-very-secret",
      "refused with HTTP 401: 'you are Bearer \\*\\*\\*'",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_main_ends_in_one_line(tmp_path, key, message):
  """Without a traceback, and even in debugging without the key."""
  say = lambda *_: judge_server.Response(f"you are Bearer {key}".encode(), 401)
  with judge_server.Server(say) as server:
    if not key:
      server.__exit__()
    done = subprocess.run(
      [
        sys.executable,
        "-m",
        "memjax.main",
        "--config=configs/quickstart.py",
        f"--workdir={tmp_path}/w",
        f"--verbosity={1 if key else -1}",
        "--config.judge.metric=True",
        "--config.judge.model=m",
        f"--config.judge.url={server.url}",
        f"--config.judge.cache={tmp_path}/judge.sqlite",
        f"--config.judge.key_env={'SOME_KEY' if key else ''}",
        "--config.judge.retries=0",
      ],
      cwd=_ROOT,
      env={**os.environ, "SOME_KEY": key},
      capture_output=True,
      text=True,
      timeout=300,
    )
  assert done.returncode == 1
  last = done.stderr.splitlines()[-1]
  assert re.search(f"^memjax: .*{message}.*same command goes on", last), last
  assert not (tmp_path / "w").exists()
  if key:
    assert "where it happened" in done.stderr  # debugging it was
    assert key not in done.stderr + done.stdout
  else:
    assert len(done.stderr.splitlines()) == 1
