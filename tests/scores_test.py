"""From scores of questions to the entries of a table."""

import numpy as np
import pytest

from memjax import scores
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
    [0.5 - 1.96 * 0.025126, 0.5 + 1.96 * 0.025126],
    atol=1e-4,
  )
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
