"""What the viewer is given: differences, marks, cuts, tables."""

import math

import fake_rollouts
import numpy as np
import pytest

from memjax import report_viewer


def _text(segments):
  return "".join(text for _, text in segments)


class TestDiff:
  @pytest.mark.parametrize(
    "old, new, before, after",
    [
      ("", "a b", [], [["ins", "a b"]]),
      ("a b", "", [["del", "a b"]], []),
      ("a b", "a, c b", [["", "a b"]], None),
      ("a b", "a c", [["", "a "], ["del", "b"]], [["", "a "], ["ins", "c"]]),
      ("kim=bern", "kim=oslo", [["", "kim="], ["del", "bern"]], None),
      ("x", " <i> x", [["", "x"]], None),
      ("a\nb", "a b", [["", "a\nb"]], [["", "a b"]]),
    ],
  )
  def test_by_hand(self, old, new, before, after):
    found = report_viewer.diff(old, new)
    assert found[0] == before
    if after is not None:
      assert found[1] == after
    assert (_text(found[0]), _text(found[1])) == (old, new)

  def test_what_is_not_marked_is_the_same(self):
    rng = np.random.default_rng(0)
    for _ in range(50):
      old, new = (
        " ".join(rng.choice(list("abcd"), rng.integers(0, 12)))
        for _ in range(2)
      )
      before, after = report_viewer.diff(old, new)
      assert (_text(before), _text(after)) == (old, new)
      kept = [
        "".join(text for kind, text in part if not kind).split()
        for part in (before, after)
      ]
      assert kept[0] == kept[1]

  def test_entries_are_compared_by_number(self):
    old = [[0, "kim=bern"], [1, "bob=rome"], [2, "same"]]
    new = [[0, "kim=oslo"], [2, "same"], [3, "bob=rome"]]
    assert report_viewer.entries_diff(old, new) == [
      [
        *(0, "changed", [["", "kim="], ["del", "bern"]]),
        [["", "kim="], ["ins", "oslo"]],
      ],
      [1, "deleted", [["del", "bob=rome"]], []],
      [2, "kept", [["", "same"]], [["", "same"]]],
      [3, "added", [], [["ins", "bob=rome"]]],
    ]


def test_answers_are_whole_words():
  pattern = report_viewer.answers_pattern(["7", "New York", "New", " "])
  found = report_viewer.marked("7 of 77 in new york, Newark <7>", pattern)
  assert [text for kind, text in found if kind == "mark"] == [
    *("7", "new york", "7")
  ]
  assert _text(found) == "7 of 77 in new york, Newark <7>"
  assert report_viewer.answers_pattern([" "]) is None


class TestTask:
  def test_a_step_for_each_turn_and_the_answer(self):
    (example,) = report_viewer.view([fake_rollouts.task()])["examples"]
    before, after = example["rollouts"]
    assert (before["mark"], after["mark"]) == ("wrong", "right")
    assert [step["label"] for step in after["steps"]] == [*"123", "answer"]
    first, second, _, last = after["steps"]
    assert first["memory"]["before"] == []
    assert second["memory"]["before"] == [["", "Ada 73"]]
    assert second["memory"]["after"] == [["", "Ada 73"], ["ins", ", Bob 1"]]
    assert ["found", "answer in memory"] in second["flags"]
    assert ["mark", "73"] in second["calls"][0]["prompt"]["text"]
    assert last["memory"]["same"] and last["answer"]["text"] == "73"
    # Nothing was trained on these.
    assert second["calls"][0]["adv"] is None and example["tables"] == []

  def test_a_memory_that_stays_is_said_to(self):
    rollout = fake_rollouts.rollout(["kim 73", "kim 73"], "73", 1.0)
    view = report_viewer.view([fake_rollouts.task(after=rollout)])
    first, second, _ = view["examples"][0]["rollouts"][0]["steps"]
    assert not first["memory"]["same"] and second["memory"]["same"]
    assert second["memory"]["after"] == [["", "kim "], ["mark", "73"]]

  @pytest.mark.parametrize("count", [48, 49, 100])
  def test_of_many_turns_the_middle_is_left_out(self, count):
    memories = [f"m{i}" for i in range(count)]
    rollout = fake_rollouts.rollout(memories, "73", 1.0)
    view = report_viewer.view([fake_rollouts.task(after=rollout)])
    steps = view["examples"][0]["rollouts"][0]["steps"]
    assert len(steps) == 49
    assert [x["skipped"] for x in steps if x["skipped"]] == (
      [count - 48] if count > 48 else []
    )
    # The turn behind the gap is compared with the one before it.
    assert _text(steps[24]["memory"]["before"]) == f"m{count - 25}"
    assert steps[24]["title"] == f"Turn {count - 23} of {count}"

  def test_a_turn_without_a_call_shows_its_text(self):
    rollout = fake_rollouts.rollout(["a"], "73", 1.0)
    for length, left_out in ((2400, 0), (10_000, 7600)):
      turn = fake_rollouts.turn("a", chunk="73 " + "x" * (length - 3))
      rollout["turns"] = [turn | {"calls": []}]
      view = report_viewer.view([fake_rollouts.task(after=rollout)])
      chunk = view["examples"][0]["rollouts"][0]["steps"][0]["chunk"]
      assert chunk["left_out"] == left_out and chunk["text"][0] == [
        "mark",
        "73",
      ]
      shown = len(_text(chunk["text"])) + len(_text(chunk["end"]))
      assert shown == length - left_out

  def test_what_is_not_finite_has_no_number(self):
    rollout = fake_rollouts.rollout(["a"], "73", math.nan)
    rollout["turns"][0]["calls"][0]["logp"] = [-math.inf]
    view = report_viewer.view([fake_rollouts.task(after=rollout)])
    first, last = view["examples"][0]["rollouts"][0]["steps"]
    assert first["calls"][0]["logp"] == [None]
    assert last["answer"]["reward"] is None
    assert view["examples"][0]["rollouts"][0]["mark"] == "wrong"


class TestGroup:
  @pytest.fixture
  def example(self):
    return report_viewer.view([fake_rollouts.group()])["examples"][0]

  def test_marks_count_right_answers(self, example):
    assert [x["mark"] for x in example["rollouts"]] == [
      *("0 of 2", "1 of 2", "2 of 2")
    ]
    assert example["kind"] == "Training, iteration 6"

  def test_tables_have_the_terms_that_are_not_zero(self, example):
    extract, update, one, two = example["tables"]
    assert extract["columns"] == ["outcome", "penalty", "reward", "advantage"]
    assert extract["rows"][1] == [0.5, -0.1, 0.4, 0.25]
    assert update["columns"] == ["outcome", "reward", "advantage"]
    assert [one["title"], two["title"]] == [
      *("answer, question 1", "answer, question 2")
    ]
    assert [row[0] for row in two["rows"]] == [0.0, 0.0, 1.0]

  def test_a_step_shows_the_tables_of_its_calls(self, example):
    steps = example["rollouts"][0]["steps"]
    assert [step["tables"] for step in steps] == [[0, 1], [0, 1], [2], [3]]
    assert [x["adv"] for x in steps[0]["calls"]] == [-0.5, -1.0]

  def test_the_bank_begins_with_what_it_held(self, example):
    first, second = example["rollouts"][0]["steps"][:2]
    status = lambda step: [row[:2] for row in step["memory"]["entries"]]
    assert status(first) == [[0, "changed"], [2, "added"]]
    assert status(second) == [[0, "changed"], [2, "deleted"], [3, "added"]]
    assert ["flag", "-old one: missed"] in second["flags"]
