"""From scores of questions to the entries of a table."""

import dataclasses

import numpy as np
import pytest

from memjax import scores
from memjax import stats
from memjax import stats_power
from memjax.envs import facts


@pytest.fixture(scope="module")
def examples():
  env = facts.Facts(seed=1, chunks=2, chunk_tokens=6)
  return [env.example("eval", i, scale=1 + i % 3) for i in range(7)]


def test_scores(examples):
  answers = scores.Answers(
    examples[:2], [["oslo", "rome"], ["lima", "lima"]], [], [], []
  )
  metric = lambda example, text: float(text == "lima")
  np.testing.assert_array_equal(answers.scores(metric), [[0, 0], [1, 1]])


def test_intervals():
  # Wilson for right and wrong: 50 of 100.
  entry = scores.interval(np.repeat([0.0, 1.0], 50))
  assert entry["n"] == 100 and entry["accuracy"] == 0.5
  np.testing.assert_allclose(
    [entry["low"], entry["high"]], [0.404, 0.596], atol=1e-3
  )
  # Standard errors for scores in between: std of 0.25, 0.75 is 0.25128.
  entry = scores.interval(np.repeat([0.25, 0.75], 50))
  np.testing.assert_allclose(
    [entry["low"], entry["high"]],
    [0.5 - 1.984 * 0.025126, 0.5 + 1.984 * 0.025126],
    atol=5e-4,
  )
  # The same in ten documents that are all right or all wrong: n is 10 at most.
  entry = scores.interval(np.repeat([0.0, 1.0] * 5, 10), np.arange(100) // 10)
  assert entry["high"] - entry["low"] > 0.5
  assert (entry["n"], entry["documents"]) == (100, 10)
  one = scores.interval(np.array([0.5]))
  assert one["low"] == 0.0 and one["high"] == 1.0


def test_avg_at_k_takes_its_interval_over_questions():
  """Sixteen equal samples of a question say no more than one."""
  few = np.array([[0.0], [1.0]] * 20)
  many = np.repeat(few, 16, axis=1)
  a, b = scores.cell(few[:, 0], few), scores.cell(few[:, 0], many)
  assert (a["sampled_low"], a["sampled_n"]) == (b["sampled_low"], 40)
  assert b["samples"] == 16


def test_breakdown(examples):
  answers = scores.Answers(
    examples[:4], [["a"], ["b"], ["a"], ["a"]], [], [], []
  )
  label = lambda example, text: (
    {"first": float(text == "a")} if text == "a" else {"second": 0.0}
  )
  cells = scores.breakdown(answers, label)
  assert cells["first"]["n"] == 3 and cells["first"]["accuracy"] == 1
  assert cells["second"]["n"] == 1 and cells["second"]["accuracy"] == 0


def test_health_without_truth(examples):
  answers = scores.Answers(
    examples[:3], [["a"]] * 3, [["x", "x ", "y"], [], ["z"]], [], []
  )
  health = scores.memory_health(object(), answers)
  assert health["size"] == {"mean": 4 / 3, "n": 3}
  # An empty memory has no share of duplicates.
  assert health["duplicates"]["n"] == 2
  assert np.isclose(health["duplicates"]["mean"], 1 / 6)


class _Recalls:
  """Knows of questions with an even id what they need: their answer."""

  def recall(self, example, listed):
    return None if example.id % 2 else float(example.answers[0] in listed)


def test_recall_counts_the_questions_that_need_something(examples):
  assert [x.id % 2 for x in examples[:5]] == [0, 1, 0, 1, 0]
  first, third, fifth = (examples[i].answers[0] for i in (0, 2, 4))
  listed = [["x", first], ["x"], [], ["x"], [fifth, third]]
  answers = scores.Answers(examples[:5], [["a"]] * 5, [], listed, [])
  cell = scores.recall(_Recalls(), answers)
  # Of 0, 2 and 4 the second was shown nothing: Wilson for 2 of 3.
  assert cell == scores.interval(np.array([1.0, 0.0, 1.0]))
  assert cell["n"] == 3 and cell["accuracy"] == pytest.approx(2 / 3)


def test_recall_is_none_where_nothing_is_known(examples):
  listed = [["x"]] * 3
  answers = scores.Answers(examples[:3], [["a"]] * 3, [], listed, [])
  # An environment that cannot say, or has nothing to find.
  assert scores.recall(object(), answers) is None
  odd = scores.Answers(examples[1:2], [["a"]], [], [["x"]], [])
  assert scores.recall(_Recalls(), odd) is None
  # An agent that lists no entries.
  plain = scores.Answers(examples[:3], [["a"]] * 3, [], [], [])
  assert scores.recall(_Recalls(), plain) is None


def test_paired_differences():
  one, other = np.array([1.0, 1, 0, 1] * 5), np.array([0.0, 1, 0, 0] * 5)
  found = scores.paired(one, other)
  want = stats.difference(one, other)
  assert found["difference"] == want.value == 0.5 and found["n"] == 20
  assert (found["low"], found["high"]) == (want.low, want.high)
  assert (found["p"], found["detectable"]) == (want.p, want.detectable)
  few = scores.paired(one, other, np.arange(20) // 10)
  # JSON has no infinity.
  assert few["documents"] == 2 and few["detectable"] is None


def test_parts_and_recall_know_their_documents(examples):
  same = [dataclasses.replace(x, context="kim=oslo") for x in examples[:4]]
  answers = scores.Answers(
    same, [["a"], ["b"], ["a"], ["b"]], [], [["x"]] * 4, []
  )
  label = lambda example, text: {"kind": float(text == "a")}
  cell = scores.breakdown(answers, label)["kind"]
  assert (cell["n"], cell["documents"]) == (4, 1)
  assert (cell["low"], cell["high"]) == (0.0, 1.0)
  found = scores.recall(_Recalls(), answers)
  assert (found["n"], found["documents"]) == (2, 1)


def test_memory_gains():
  right = {"x1": [1.0, 0, 1, 1] * 20, "x2": [1.0, 0, 1, 1] * 20}
  documents = {name: range(80) for name in right}
  empty = {"x1": [0.0, 0, 0, 1] * 20, "x2": [1.0] * 80}
  oracle = {name: [1.0] * 80 for name in right}
  found = scores.memory_gains(
    right, {"empty_memory": empty, "oracle": oracle}, documents
  )
  # (.75 - .25) / (1 - .25), and nothing to win where empty is always right.
  assert found["x1"]["gain"] == pytest.approx(2 / 3)
  assert found["x1"]["low"] < 2 / 3 < found["x1"]["high"]
  assert found["x2"]["gain"] is None
  assert "oracle - none is +0.000" in found["x2"]["reason"]
  assert scores.memory_gains(right, {"empty_memory": empty}, documents) == {}


def test_no_gain_without_both_controls():
  kept = {"x1": [1.0, 0.0]}
  for controls in ({"oracle": kept}, {"empty_memory": kept}, {}):
    assert scores.memory_gains(kept, controls, {"x1": [0, 1]}) == {}


def test_averages_of_groups():
  one, other = scores.interval([1.0, 0, 0, 0]), scores.interval([1.0, 1])
  cells = {"a_4": one, "b_4": other, "a_8": one}
  groups = {"mean_4": ["a_4", "b_4"], "mean_8": ["a_8", "b_8"]}
  found = scores.averages(cells, groups)
  assert list(found) == ["mean_4"]
  cell = found["mean_4"]
  # Each set counts once, whatever its size.
  assert cell["accuracy"] == 0.625 and cell["n"] == cell["documents"] == 6
  halves = [(x["high"] - x["low"]) / 2 for x in (one, other)]
  half = (cell["high"] - cell["low"]) / 2
  assert half == pytest.approx(np.hypot(*halves) / 2, rel=0.15)


def test_the_plan_names_questions_and_documents(examples):
  same = [dataclasses.replace(x, context="kim=oslo") for x in examples]
  said = scores.plan({"x1": examples * 10, "x2": same})
  # Seven contexts, ten questions about each.
  least = stats_power.detectable(70, 7)
  assert f"x1 {least:.3f} (70 questions of 7 documents)" in said
  assert "x2 none (7 questions of 1 documents)" in said
  many = {f"task{i}": examples for i in range(5)}
  assert "5 sets " in scores.plan(many) and "task0" not in scores.plan(many)
  assert "power of 80%" in said and "accuracy 0.5" in said
