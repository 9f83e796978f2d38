import pytest

from memjax import rewards


@pytest.mark.parametrize(
  "text, boxed",
  [
    (r"so \boxed{Paris}.", "Paris"),
    (r"\boxed{a} then \boxed{b}", "b"),
    (r"\boxed{x^{2}}", "x^{2}"),
    (r"\boxed{}", ""),
    (r"\boxed{Paris", None),  # cut before it closed
    (r"\boxed{a} then \boxed{b", None),  # the last one counts
    ("Paris", None),
    ("", None),
  ],
)
def test_extract_boxed(text, boxed):
  assert rewards.extract_boxed(text) == boxed


@pytest.mark.parametrize(
  "text, answers, reward",
  [
    (r"\boxed{Paris}", ["paris"], 1),
    (r"\boxed{ New  York }", ["New York"], 1),
    (r"\boxed{the Nile}", ["Nile"], 0),  # articles count here
    (r"\boxed{Nile.}", ["Nile"], 0),  # so does punctuation
    ("Nile", ["Nile"], 0),  # the box is required
    (r"\boxed{Nile", ["Nile"], 0),
    (r"\boxed{b}", ["a", "b"], 1),
    (r"\boxed{}", [""], 0),
    (r"\boxed{a}", [], 0),
  ],
)
def test_strict_boxed(text, answers, reward):
  assert rewards.strict_boxed(text, answers) == reward


@pytest.mark.parametrize(
  "text, answers, em",
  [
    ("oslo", ["oslo"], 1),
    ("The Beatles!", ["beatles"], 1),
    ("  an  apple ", ["apple"], 1),
    (r"I think \boxed{Rome}", ["Rome"], 1),
    ("in Rome", ["Rome"], 0),
    ("", ["Rome"], 0),
    ("the", ["a"], 0),  # nothing is left of either
    ("Rome", [], 0),
  ],
)
def test_exact_match(text, answers, em):
  assert rewards.exact_match(text, answers) == em


@pytest.mark.parametrize(
  "text, answers, f1",
  [
    ("new york city", ["new york"], 0.8),  # p = 2/3, r = 1
    ("york", ["new york"], 2 / 3),  # p = 1, r = 1/2
    ("a a b", ["the b"], 1),  # articles go
    ("x x y", ["x y y"], 2 / 3),  # common: x and y once; p = r = 2/3
    ("paris", ["rome", "paris france"], 2 / 3),  # the best answer counts
    ("yes it is", ["yes"], 0),  # yes and no are no parts
    ("yes", ["Yes."], 1),
    ("", ["rome"], 0),
    ("rome", [], 0),
  ],
)
def test_squad_f1(text, answers, f1):
  assert rewards.squad_f1(text, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
  "text, answers, score",
  [
    ("It was in Paris.", ["Paris"], 1),
    ("Paris", ["Paris, France"], 1),  # the other direction
    ("London", ["Paris"], 0),
    ("", ["Paris"], 0),  # though "" is part of everything
    ("Paris", [""], 0),
    ("the", ["Paris"], 0),
    ("Paris", [], 0),
  ],
)
def test_sub_em(text, answers, score):
  assert rewards.sub_em(text, answers) == score


def test_ruler():
  text = "The numbers are 123, 456 and ABC."
  assert rewards.ruler_fraction(text, ["123", "456", "789", "abc"]) == 0.75
  assert rewards.ruler_any(text, ["789", "abc"]) == 1
  assert rewards.ruler_any(text, ["789"]) == 0
  assert rewards.ruler_fraction(text, []) == rewards.ruler_any(text, []) == 0


def test_training_and_evaluation_have_different_names():
  assert not set(rewards.REWARDS) & set(rewards.METRICS)


@pytest.mark.parametrize("name", [*rewards.REWARDS, *rewards.METRICS])
def test_all_stay_in_range_on_odd_input(name):
  verifier = {**rewards.REWARDS, **rewards.METRICS}[name]
  for text in ("", "}", r"\boxed{", r"\boxed{}}", "\x00", "é" * 9):
    for answers in ([], [""], ["}"], ["é"]):
      assert 0 <= verifier(text, answers) <= 1


def test_lookup_names_the_choices():
  with pytest.raises(ValueError, match="config.x='bleu'.*reward_boxed"):
    rewards.lookup(rewards.REWARDS, "bleu", "config.x")
