import html
import re

import numpy as np
import pytest

from memjax import report_rollouts


class TestDiff:
  @pytest.mark.parametrize(
    "old, new, expected",
    [
      ("", "a b", "<ins>a b</ins>"),
      ("a b", "", "<del>a b</del>"),
      ("a b", "a, c b", "a<ins>, c</ins> b"),
      ("a b", "a c", "a <del>b</del> <ins>c</ins>"),
      ("a b", "a", "a <del>b</del>"),
      ("a (b), c", "a, c", "a <del>(b)</del>, c"),
      ("a\nb", "a b", "a b"),
      ("x", "<i> x", "<ins>&lt;i&gt;</ins> x"),
      ("", "", ""),
    ],
  )
  def test_by_hand(self, old, new, expected):
    assert report_rollouts._diff_html(old, new) == expected

  def test_both_memories_can_be_read_off(self):
    rng = np.random.default_rng(0)
    for _ in range(50):
      old, new = (
        " ".join(rng.choice(list("abcd"), rng.integers(0, 12)))
        for _ in range(2)
      )
      diff = report_rollouts._diff_html(old, new)
      without_del = re.sub(r"<del>.*?</del>|</?ins>", "", diff)
      without_ins = re.sub(r"<ins>.*?</ins>|</?del>", "", diff)
      assert without_del.split() == new.split()
      assert without_ins.split() == old.split()

  def test_answers_are_whole_words(self):
    pattern = report_rollouts._answers_pattern(["7", "New York", "New", " "])
    marked = report_rollouts._mark_html(
      "7 of 77 in new york, Newark <7>", pattern
    )
    assert marked == (
      "<mark>7</mark> of 77 in <mark>new york</mark>, Newark "
      "&lt;<mark>7</mark>&gt;"
    )
    assert report_rollouts._answers_pattern([" "]) is None


def test_what_an_answer_was_shown_is_numbered_as_it_is_cited():
  rollout = {
    "turns": [],
    "answer": "rome",
    "response": "USE 2 <nl> rome",
    "listed": ["s1 ada=bern", "s2 ada=rome <b>"],
    "reward": 1.0,
  }
  task = {"id": 1, "question": "ada?", "answers": ["rome"], "after": rollout}
  page = report_rollouts.to_html(task, True)
  first, second = re.findall(r"<li>(.*?)</li>", page)
  assert first == "s1 ada=bern"
  assert second == "s2 ada=<mark>rome</mark> &lt;b&gt;"
  del rollout["listed"]
  assert "<li>" not in report_rollouts.to_html(task, True)


class TestPage:
  def _task(self, **rollout):
    turn = {"chunk": "x", "response": "x", "memory": "x"}
    made = {"turns": [turn], "answer": "rome", "reward": 1.0} | rollout
    return {"id": 7, "question": "ada?", "answers": ["rome"], "after": made}

  def test_a_frame_holds_the_document_and_nothing_else(self):
    shown = report_rollouts.page([self._task(), self._task()], "20rem")
    frame = shown._repr_html_()
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inside) == shown.html
    # No quote, no bracket of the document ends the attribute or the tag.
    assert re.fullmatch(r"<iframe [^<>]*></iframe>", frame)
    assert "height: 20rem" in frame and 'sandbox=""' in frame

  def test_the_first_task_is_open_and_styled_as_in_the_report(self):
    text = report_rollouts.page([self._task(), self._task()]).html
    assert text.count('<details class="rollout" id="task-7" open>') == 1
    assert text.count('<details class="rollout" id="task-7">') == 1
    assert ".badge.right" in text.split("</style>")[0]

  def test_half_a_surrogate_pair_is_replaced(self):
    text = report_rollouts.page([self._task(answer="\ud83d rome")]).html
    assert "? rome" in text
    text.encode("utf-8")

  def test_nothing_to_show_is_refused(self):
    with pytest.raises(ValueError, match="no rollouts.*config.eval.traces"):
      report_rollouts.page([])
