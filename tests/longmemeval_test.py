"""LongMemEval as an environment, and its judge.

Files are in the published shape with texts of our own, see
`longmemeval_file_test`.
"""

import dataclasses
import io
import json
import tracemalloc
import types

import longmemeval_file_test
import ml_collections
import pytest
import rich.console

from memjax import build
from memjax import build_judge
from memjax import config as config_lib
from memjax import correction
from memjax import judge
from memjax import judge_cache
from memjax import judged
from memjax import report
from memjax import results
from memjax import train
from memjax.envs import example as example_lib
from memjax.envs import longmemeval
from memjax.envs import longmemeval_file
from memjax.envs import longmemeval_prompts

_record = longmemeval_file_test.record


def _all_types(tmp_path):
  """A question of each type, and one to abstain from."""
  records = [
    _record(i, question_type=kind, question=f"What, {kind}?", answer=f"a{i}")
    for i, kind in enumerate(longmemeval_file.TYPES)
  ]
  records.append(_record("9_abs", answer="never said"))
  return longmemeval_file_test.write(tmp_path / "longmemeval_s.json", records)


@pytest.fixture
def path(tmp_path):
  return _all_types(tmp_path)


def _examples(path, **kwargs):
  env = longmemeval.make(str(path), **kwargs)
  ((name, examples),) = env.eval_sets().items()
  assert name == path.stem
  return env, examples


def test_an_example(path):
  env, (example, *_) = _examples(path)
  assert example.question == (
    "Current Date: 2023/06/30 (Fri) 23:40\nQuestion: What, single-session-user?"
  )
  assert example.context == (
    "user: Hello.\nassistant: Hello!\nuser: I bought running shoes.\n"
    "assistant: A good choice.",
    "user: I ran the race today!\nassistant: Well done. - Rest - Drink",
  )
  assert example.stamps == ("2023/06/02 (Fri)", "2023/06/20 (Tue)")
  assert example.answers == ("a0",)
  assert example.meta["oracle"] == (
    "[2023/06/02 (Fri)] user: I bought running shoes.",
    "[2023/06/20 (Tue)] user: I ran the race today!",
  )
  assert example.meta["speakers"] == ("user", "assistant")
  # What is evaluated, tokenised and hashed is the same whenever it is read.
  again = dataclasses.replace(example, question="x")
  assert again.parts == example.parts and again.question == "x"
  assert example_lib.fingerprint([example]) == example_lib.fingerprint(
    _examples(path)[1][:1]
  )
  assert len({x.id for x in env.eval_sets()["longmemeval_s"]}) == 7
  assert env.counts["abstention"] == 1


def test_contexts_stay_in_the_file(path, tmp_path):
  _, (first, *_, last) = _examples(path)
  assert last.meta["question_id"] == "q9_abs"
  assert len(last.parts) == 2
  path.write_text("[]")
  with pytest.raises(ValueError, match="was changed or removed"):
    _ = first.context


def test_a_long_file_takes_little_memory(tmp_path):
  """Peak of what Python allocates: far below the size of the file."""
  said = longmemeval_file_test.said
  talk = [said("user", "w" * 200_000), said("user", "x", has_answer=True)]
  record = lambda i: json.dumps(_record(i, haystack_sessions=[talk] * 2))
  path = tmp_path / "long.json"
  path.write_text("[" + ", ".join(map(record, range(100))) + "]")
  assert path.stat().st_size > 40_000_000
  tracemalloc.start()
  _, examples = _examples(path)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 12_000_000
  assert len(examples) == 100 and len(examples[50].parts[0]) > 200_000


def test_labels_are_types_and_abstention(path):
  env, examples = _examples(path, metric_name="em")
  assert [env.label(x, "a1") for x in examples] == [
    {"single-session-user": 0},
    {"single-session-assistant": 1},
    {"single-session-preference": 0},
    {"multi-session": 0},
    {"knowledge-update": 0},
    {"temporal-reasoning": 0},
    {"temporal-reasoning": 0, "abstention": 0},
  ]
  assert env.label(examples[-1], "Never said.")["abstention"] == 1
  assert env.metric_name == "em"
  f1 = dataclasses.replace(env, metric_name="f1")
  assert f1.metric(examples[-1], "never") == pytest.approx(2 / 3)


def test_an_oracle_of_unmarked_sessions_has_all_turns(tmp_path):
  said = longmemeval_file_test.said
  talks = [[said("user", "one"), said("assistant", "two")], [said("user", "x")]]
  record = _record(haystack_sessions=talks, answer_session_ids=["answer_1_2"])
  path = longmemeval_file_test.write(tmp_path / "a.json", [record])
  _, (example,) = _examples(path)
  day = "[2023/06/20 (Tue)]"
  assert example.meta["oracle"] == (f"{day} user: one", f"{day} assistant: two")


def test_it_is_a_test_set(path):
  env, _ = _examples(path)
  with pytest.raises(ValueError, match="'longmemeval' is a test set"):
    env.train_examples(0, 1)


def test_training_on_it_ends_before_it_begins(path, tmp_path):
  env, _ = _examples(path)
  run = types.SimpleNamespace(
    config=config_lib.default(), judged=None, env=env, mesh=None
  )
  with pytest.raises(ValueError, match="'longmemeval' is a test set"):
    train.train(run, tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_unknown_verifiers_are_refused(path):
  with pytest.raises(ValueError, match="config.data.metric_name='x': choose"):
    longmemeval.make(str(path), metric_name="x")
  with pytest.raises(ValueError, match="config.data.reward_name='f1': choose"):
    longmemeval.make(str(path), reward_name="f1")


# The judge


class _Backend:
  """Says what a function of a prompt says, or CORRECT; remembers prompts."""

  name, settings = "fake", {}

  def __init__(self, say=lambda prompt: True):
    self.say, self.prompts, self.counts = say, [], judge.Counts()

  def ask(self, prompts):
    self.prompts += prompts
    for i, prompt in enumerate(prompts):
      verdict = self.say(prompt)
      yield i, judge_cache.Verdict(verdict, judge.REPLIES[verdict], "fake-1")


def _judged(env, prompts, say=lambda prompt: True, allow_poor=True):
  backend = _Backend(say)
  by = judge.Judge(backend, judge_cache.Cache(":memory:"), prompts=prompts)
  limits = {"false_accept": 0.05, "false_reject": 0.1}
  env = judged.Judged(env, by, ("metric",), 40, 0, limits, allow_poor)
  return backend, env


def test_each_type_has_the_rules_of_the_published_judge(path):
  env, examples = _examples(path)
  backend, env = _judged(env, env.judge_prompts)
  assert env.metric_name == "longmemeval_judge"
  assert env.metrics(examples, ["given"] * 7) == [1] * 7
  asked_last = backend.prompts[-7:]  # after the answers of known truth
  kinds = "plain plain preference plain update temporal abstention".split()
  marks = {
    "plain": "has only a part",
    "preference": "not every point",
    "update": "earlier states",
    "temporal": "off by one",
    "abstention": "cannot be answered",
  }
  for kind, example, asked in zip(kinds, examples, asked_last):
    assert marks[kind] in asked, kind
    for other in set(marks) - {kind}:
      # What is true of all dates is true of numbers of days.
      assert (other, kind) == ("plain", "temporal") or marks[other] not in asked
    # The question is shown without its date, as published.
    assert f"question: {json.dumps(example.meta['asked'])}\n" in asked
    assert "Current Date" not in asked
    assert json.dumps(list(example.answers)) in asked and '"given"' in asked
    assert judge.REPLIES[True] in asked
  assert env.label(examples[0], "given") == {"single-session-user": 1}


def test_a_prompt_of_the_users_own_is_for_all(path):
  env, examples = _examples(path)
  backend, env = _judged(env, {})
  assert env.metric_name == "judge"
  env.metrics(examples[:2], ["given"] * 2)
  general = judge.PROMPT.split("\n")[0]
  assert all(asked.startswith(general) for asked in backend.prompts)
  assert "Current Date" not in "".join(backend.prompts)


def test_the_prompts_are_part_of_the_judges_identity(path):
  env, _ = _examples(path)
  _, plain = _judged(env, {})
  _, own = _judged(env, env.judge_prompts)
  changed = {**env.judge_prompts, "plain": judge.PROMPT}
  _, other = _judged(env, changed)
  hashes = [x.by.identity["prompt_sha256"] for x in (plain, own, other)]
  assert len(set(hashes)) == 3


def test_a_prompt_without_a_slot_is_refused():
  cache = judge_cache.Cache(":memory:")
  with pytest.raises(ValueError, match="no {given}"):
    judge.Judge(_Backend(), cache, prompts={"x": "{question} {answers}"})


def _oracle(env, wrong=()):
  """Right about the answers of known truth, but for those of some prompts."""
  by = judge.Judge(
    _Backend(), judge_cache.Cache(":memory:"), prompts=env.judge_prompts
  )
  truth = {
    by._fill(case.item): case.truth != (case.item.kind in wrong)
    for draw in env.judge_cases.values()
    for case in draw(40, 0)
  }
  return lambda prompt: truth.get(prompt, '"yes"' in prompt)


def test_each_prompt_is_tried_on_answers_of_its_own(path):
  env, examples = _examples(path)
  backend, own = _judged(env, env.judge_prompts, _oracle(env))
  own.metrics(examples, ["yes"] * 7)
  assert set(own.rates) == set(longmemeval_prompts.PROMPTS)
  for kind, rates in own.rates.items():
    for error in ("false_accept", "false_reject"):
      assert (rates[error]["rate"], rates[error]["n"]) == (0, 20), kind
  assert len(backend.prompts) == 5 * 40 + 7
  general = judge.PROMPT.split("\n")[0]
  assert not any(asked.startswith(general) for asked in backend.prompts)
  # The general prompt has the general answers, as before.
  backend, plain = _judged(env, {})
  plain.metrics(examples, ["yes"] * 7)
  assert set(plain.rates) == {""} and len(backend.prompts) == 40 + 7


def test_a_judge_that_errs_with_one_prompt_is_refused(path):
  env, examples = _examples(path)
  say = _oracle(env, wrong=("update",))
  _, own = _judged(env, env.judge_prompts, say, allow_poor=False)
  with pytest.raises(
    ValueError, match="judge fake, by the prompt 'update', accepts 1.000"
  ):
    own.metrics(examples, ["yes"] * 7)


def test_scores_are_corrected_by_the_prompts_that_gave_them(path):
  """The judge accepts all answers to preferences: they say nothing."""
  env, examples = _examples(path)
  say = _oracle(env)
  accepts = lambda prompt: "rubric" in prompt and "plan" in prompt
  _, env = _judged(env, env.judge_prompts, lambda x: accepts(x) or say(x))
  texts = ["yes"] * 4 + ["no"] * 3
  score_N = env.metrics(examples, texts)
  assert score_N == [1, 1, 1, 1, 0, 0, 0]
  cell = {"accuracy": 4 / 7, "low": 0.2, "high": 0.9, "n": 7}
  cells = {"base": {path.stem: cell, "mean": cell}}
  found = env.summary(cells, cells, {"base": {path.stem: score_N}})
  assert found["verified"] == cells and found["verifier"] == "f1"
  assert found["prompts"] == sorted(longmemeval_prompts.PROMPTS)
  accept = found["rates"]["preference"]["false_accept"]["rate"]
  assert 0 < accept < 1
  assert found["rates"]["plain"]["false_accept"]["rate"] == 0
  right = found["corrected"]["base"]
  assert list(right) == [path.stem]  # the mean's questions are not known
  parts = {
    "plain": {"accuracy": 1, "n": 3},
    "preference": {"accuracy": 1, "n": 1},
    "update": {"accuracy": 0, "n": 1},
    "temporal": {"accuracy": 0, "n": 1},
    "abstention": {"accuracy": 0, "n": 1},
  }
  assert right[path.stem] == correction.pooled(cell, parts, found["rates"])
  said = judged.describe(found)
  assert "by the judge fake, prompts " in said
  assert "by 'abstention' accepts 0.000 [0.000, 0.161] of 20 wrong" in said
  assert f"by 'preference' accepts {accept:.3f}" in said
  assert said.count("(beyond the limit: false accept)") == 1
  # So say the table and what compares runs.
  table = io.StringIO()
  summary = {"config": "c", **cells, "judge": json.loads(json.dumps(found))}
  report.print_table(summary, rich.console.Console(file=table, width=300))
  table = " ".join(table.getvalue().split())
  assert "base, corrected for the judge" in table
  assert f"by 'preference' accepts {accept:.3f}" in table
  assert judged.describe(results._judge(found)) == said


def test_a_score_is_lowered_where_a_prompt_accepts_what_is_wrong(path):
  """Of two sets of questions the same judge errs about one alone."""
  env, examples = _examples(path)
  say = _oracle(env)
  accepts = lambda prompt: "rubric" in prompt and "plan" in prompt
  _, env = _judged(env, env.judge_prompts, lambda x: accepts(x) or say(x))
  score_N = [0, 0, 1, 0, 0, 0, 0]
  cell = {"accuracy": 1 / 7, "n": 7}
  correct = lambda score_N: env.summary(
    {"base": {path.stem: cell}}, {}, {"base": {path.stem: score_N}}
  )["corrected"]["base"][path.stem]["accuracy"]
  assert correct(score_N) == pytest.approx(1 / 7)  # p = 1 of that one
  accept = env.rates["preference"]["false_accept"]["rate"]
  # None accepted, so p = -f / (1 - f) of it: uncut, but the whole is cut.
  other = [1, 0, 0, 0, 0, 0, 0]
  assert correct(other) == pytest.approx((1 - accept / (1 - accept)) / 7)


def test_prompts_without_answers_to_try_them_on_are_refused(path):
  env, _ = _examples(path)
  object.__setattr__(env, "judge_cases", {"plain": env.judge_cases["plain"]})
  config = config_lib.default()
  config.judge.update(url="http://127.0.0.1:9/v1", model="m", metric=True)
  with pytest.raises(ValueError, match="brings a prompt 'abstention' for its"):
    build_judge.wrap(config, env)
  config.judge.examples = 41
  with pytest.raises(ValueError, match="config.judge.examples=41: expected an"):
    build_judge.wrap(config, longmemeval.make(str(path)))


def test_the_config_brings_the_prompts(path, tmp_path):
  env, _ = _examples(path)
  config = config_lib.default()
  config.judge.update(
    url="http://127.0.0.1:9/v1",
    model="m",
    key_env="",
    metric=True,
    cache=str(tmp_path / "judge.sqlite"),
  )
  assert build_judge.wrap(config, env).metric_name == "longmemeval_judge"
  own = tmp_path / "prompt.txt"
  own.write_text(judge.PROMPT)
  config.judge.prompt = str(own)
  assert build_judge.wrap(config, env).metric_name == "judge"


def test_the_name_of_the_config(path):
  config = config_lib.default()
  with config.unlocked():
    config.data = ml_collections.ConfigDict(
      {"name": "longmemeval", "path": str(path), "metric_name": "bleu1"}
    )
  env = build._env(config)
  assert env.metric_name == "bleu1" and len(env.files) == 1
