"""Answers that try the judge of LongMemEval: is what is called right right?

Each prompt's rules are applied here by reading the texts, which knows nothing
of how they were made.
"""

import collections
import re

import pytest

from memjax import calibration
from memjax import rewards
from memjax.envs import longmemeval_cases
from memjax.envs import longmemeval_prompts
from memjax.envs import longmemeval_rubrics as rubrics

_PROMPTS = sorted(longmemeval_prompts.PROMPTS)
_DURATION = re.compile(r"(\d+) (days|weeks|months)")


def _drawn(prompt, n=2000, seed=1):
  return longmemeval_cases.CASES[prompt](n, seed)


def test_each_prompt_has_cases():
  assert sorted(longmemeval_cases.CASES) == _PROMPTS


@pytest.mark.parametrize("prompt", _PROMPTS)
def test_half_are_right_and_all_are_different(prompt):
  cases = _drawn(prompt)
  assert cases == _drawn(prompt) != _drawn(prompt, seed=2)
  assert len({case.item for case in cases}) == 2000
  assert sum(case.truth for case in cases) == 1000
  assert {case.item.kind for case in cases} == {prompt}
  # The smallest number has every kind, the largest can be had.
  kinds = lambda cases: {(case.kind, case.truth) for case in cases}
  assert kinds(_drawn(prompt, 40)) == kinds(cases)
  assert len(_drawn(prompt, 10_000)) == 10_000
  for item in (case.item for case in cases):
    assert not re.search(
      "[{}]|  ", item.question + item.answers[0] + item.given
    )
    # A sentence begins as one.
    assert item.given[0] == item.given[0].upper() or item.given[-1] != "."


def test_too_few_different_answers_are_told():
  item = calibration.cases(40, 0)[0].item
  with pytest.raises(ValueError, match="examples=40: .* of kind 'x': take few"):
    calibration.draw(40, 0, {"x": 1.0}, {"y": 1.0}, lambda kind, rng: item)


def test_plain():
  for case in _drawn("plain"):
    item, numbers = case.item, re.findall(r"\d+", case.item.given)
    held = rewards.ruler_any(item.given, item.answers)
    if "together" in item.question and case.kind != "unknown":
      total = sum(map(int, numbers)) == int(item.answers[0])
      assert total == case.truth and len(numbers) == 1 + case.truth, item
    elif case.kind == "verbatim":
      assert item.given.lower() == item.answers[0].lower()
    elif not case.truth:
      assert not held, item
    if case.kind == "with more":
      assert sum(aside in item.given for aside in rubrics.ASIDES) == 1


def test_temporal():
  """Off by one is right, by three or in another unit it is wrong."""
  off = collections.Counter()
  for case in _drawn("temporal"):
    item = case.item
    given = item.given.lower().replace("your ", "my ")
    said = _DURATION.findall(given)
    if item.question.startswith("Which came first"):
      named = (
        item.question[len("Which came first, ") : -1].lower().split(" or ")
      )
      first, second = sorted(
        named, key=lambda x: (x not in given, given.find(x))
      )
      if "came after" in given:
        first, second = second, first
      assert (first == item.answers[0].lower()) == case.truth, item
    elif said:
      ((number, unit),) = said
      ((wanted, of),) = _DURATION.findall(item.answers[0])
      apart = abs(int(number) - int(wanted))
      off[apart] += unit == of
      assert (apart <= 1 and unit == of) == case.truth, item
      assert apart <= 1 or apart >= 3
    else:
      assert not case.truth
  assert off[1] == 450 and off[0] == 350


def _latest(given, values):
  """The value that an answer says to be the latest one, if it does."""
  for sentence in re.split(r"(?<=\.) |, and ", given):
    if re.search(
      "used to|at first|in the beginning|once|before", sentence, re.I
    ):
      continue
    for value in values:
      if re.search(rf"(?<!\w){re.escape(value)}(?!\w)", sentence, re.I):
        return value
  return None


def test_update():
  """Right is what gives the latest value as the latest, and nothing else."""
  earlier = 0
  for case in _drawn("update"):
    values = next(
      state.values
      for state in longmemeval_cases._STATES
      if case.item.answers[0] in state.values
    )
    found = _latest(case.item.given, values)
    assert (found == case.item.answers[0]) == case.truth, case
    if case.kind in ("with the earlier", "reversed"):
      earlier += sum(f"{x}" in case.item.given for x in values) == 2
  assert earlier == 550 + 250


def test_preference():
  """Right is what the rubric's wish is in; wrong has none of it."""
  for case in _drawn("preference"):
    wish, avoid = re.match(
      r"The user would prefer \w+ that have to do with (.+), which they enjoy, "
      r"and that go without (.+?)\. They",
      case.item.answers[0],
    ).groups()
    given = case.item.given.lower()
    assert (wish.lower() in given) == case.truth, case
    named = avoid.lower() in given
    assert named == (case.kind in ("all points", "against it")), case


def test_abstention():
  """Wrong is what claims to know something of the thing that is asked for."""
  for case in _drawn("abstention"):
    given = case.item.given
    says_no = re.search(
      "not know|not told|never|no information|nothing|cannot say|not say|only",
      given,
    )
    assert bool(says_no) == case.truth, case
    told = re.search(r"\((.+?)\)", case.item.answers[0])[1]
    assert (told in given) == (case.kind in ("other told", "of another")), case
    values = [x for untold in rubrics._UNTOLD for x in untold.values]
    if case.kind in ("made up", "vague"):
      named = any(value in given for value in values)
      assert named == (case.kind == "made up"), case
