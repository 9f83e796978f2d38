import math

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
    # What MemAgent's verifier drops, in the answer and in the truth.
    (r"\boxed{50\%}", ["50%"], 0),  # \% goes, a bare % stays
    (r"\boxed{50\%}", ["50"], 1),
    (r"\boxed{\$5 million}", ["5 Million"], 1),
    (r"\boxed{$5 million}", ["5 million"], 0),
    (r"\boxed{\left(1,\!000\right)}", ["(1,000)"], 1),
    (r"\boxed{\dfrac{1}{2}}", [r"\frac{1}{2}"], 1),
    (r"\boxed{\frac{1}{2}}", [r"\tfrac{1}{2}"], 1),
    (r"\boxed{90^\circ}", ["90"], 1),
    (r"\boxed{90^{\circ}}", ["90"], 1),
    ("\\boxed{new\nyork}", ["New York"], 1),
    (r"\boxed{\%}", [""], 0),  # nothing is left
    (r"\boxed{Rome} is what I found." + " So." * 200, ["Rome"], 1),
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
    ("a", ["A"], 1),  # nothing either, but they are the same
    ("The  The", ["the the"], 1),
    ("Rome", [], 0),
    ("", [""], 0),
    (" ", [" "], 0),
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
    ("yes", ["no"], 0),
    ("a", ["A"], 1),
    ("the", ["a"], 0),
    ("", ["rome"], 0),
    ("", [""], 0),
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
    ("", [""], 0),
    ("a", ["A"], 1),  # as `exact_match`, and not a part of everything
    ("Rome", ["A"], 0),
    ("the", ["a"], 0),
    ("I do not know", ["no"], 1),  # parts of words count, as published
    (r"It is not London: \boxed{Paris}", ["London"], 0),  # the box alone
  ],
)
def test_sub_em(text, answers, score):
  assert rewards.sub_em(text, answers) == score


def test_sub_em_of_the_first_answer():
  assert rewards.sub_em_first("in Rome", ["Rome", "Oslo"]) == 1
  assert rewards.sub_em_first("in Oslo", ["Rome", "Oslo"]) == 0
  assert rewards.sub_em("in Oslo", ["Rome", "Oslo"]) == 1


@pytest.mark.parametrize(
  "text, answers, score",
  [
    ("in the old town", ["in the new town"], 3 / 4),  # as long: no penalty
    ("the the the", ["the cat"], 1 / 3),  # a word counts as often as accepted
    ("the cat", ["the cat sat down"], math.exp(1 - 4 / 2)),  # all, but short
    ("The cat.", ["the cat"], 2 / 3),  # a mark is a word
    ("on the mat", ["a dog", "the mat"], 2 / 3),  # the best answer counts
    ("cat", ["dog"], 0),
    (r"It is \boxed{the cat}", ["the cat"], 1),
    ("", ["cat"], 0),
    ("cat", [], 0),
  ],
)
def test_bleu1(text, answers, score):
  assert rewards.bleu1(text, answers) == pytest.approx(score)


@pytest.mark.parametrize(
  "text, answers, score",
  [
    ("You said that you surf in Hawaii.", ["surf in Hawaii"], 1),
    # Lin's example: "police" and "the gunman", in their order.
    ("police kill the gunman", ["police killed the gunman"], 3 / 4),
    ("the gunman kill police", ["police killed the gunman"], 2 / 4),
    ("b a", ["a b"], 1 / 2),
    ("a", ["a a"], 1 / 2),  # one word is found once
    ("a x b x c", ["a b c d"], 3 / 4),  # gaps do not matter
    ("red", ["a blue car", "red car"], 1 / 2),  # the best answer counts
    ("Tacos!", ["tacos"], 1),
    ("cat", ["dog"], 0),
    ("", ["dog"], 0),
    ("dog", ["?"], 0),
    ("dog", [], 0),
  ],
)
def test_rouge_l(text, answers, score):
  assert rewards.rouge_l(text, answers) == pytest.approx(score)


@pytest.mark.parametrize(
  "text, answer",
  [
    (r"so \boxed{ Paris }.", "Paris"),
    (" Paris ", "Paris"),
    (r"\boxed{Paris", r"\boxed{Paris"),  # no box: the whole text
    (r"\boxed{}", ""),
    ("", ""),
  ],
)
def test_extract_answer(text, answer):
  assert rewards.extract_answer(text) == answer


@pytest.mark.parametrize(
  "text, normal",
  [
    ("The  Cat's\tpyjamas!", "cats pyjamas"),
    ("theatre an-d the\u00a0end", "theatre and end"),
    ("a.b.c", "abc"),  # punctuation goes before articles
    ("A", ""),
  ],
)
def test_normalize(text, normal):
  assert rewards.normalize(text) == normal


def test_ruler():
  text = "The numbers are 123, 456 and ABC."
  assert rewards.ruler_fraction(text, ["123", "456", "789", "abc"]) == 0.75
  assert rewards.ruler_any(text, ["789", "abc"]) == 1
  assert rewards.ruler_any(text, ["789"]) == 0
  assert rewards.ruler_fraction(text, []) == rewards.ruler_any(text, []) == 0
  # A blank answer counts among the answers, and is never found.
  assert rewards.ruler_fraction(text, ["", "123"]) == 0.5
  assert rewards.ruler_any(text, ["", " "]) == rewards.ruler_any("", [""]) == 0


def test_in_order():
  answers = ["tavon", "belis", "tavon", "rome"]
  assert rewards.in_order("tavon, Belis., the Tavon,rome", answers) == 1
  assert rewards.in_order(r"\boxed{belis, belis, tavon}", answers) == 1 / 2
  # All that there are, or too many.
  assert rewards.in_order("rome, tavon, belis", answers) == 0
  assert rewards.in_order("tavon, belis, tavon, rome, x", answers) == 1


_NAMES = {
  # Answers Rome, Oslo: to "\\boxed{the Rome}", then to "\\boxed{big Rome}".
  "reward_boxed": (0, 0),
  "reward_exact": (1, 0),
  "reward_f1": (1, 2 / 3),  # p = 1/2, r = 1
  "reward_ruler": (1 / 2, 1 / 2),
  "reward_in_order": (1 / 2, 0),
  "em": (1, 0),
  "f1": (1, 2 / 3),
  "sub_em": (1, 1),
  "sub_em_first": (1, 1),
  "bleu1": (1 / 2, 1 / 2),
  "rouge_l": (1, 1),
  "ruler": (1 / 2, 1 / 2),
  "ruler_any": (1, 1),
  "ruler_all": (0, 0),
  "in_order": (1 / 2, 0),
  "boxed_em": (0, 0),
}


def test_names_and_what_they_mean():
  table = {**rewards.REWARDS, **rewards.METRICS}
  for name, expected in _NAMES.items():
    for text, score in zip(
      (r"\boxed{the Rome}", r"\boxed{big Rome}"), expected
    ):
      found = table[name](text, ["Rome", "Oslo"])
      assert found == pytest.approx(score), (name, text)
  assert set(table) == set(_NAMES)


def test_training_and_evaluation_have_different_names():
  assert not set(rewards.REWARDS) & set(rewards.METRICS)


@pytest.mark.parametrize("name", [*rewards.REWARDS, *rewards.METRICS])
def test_all_stay_in_range_on_odd_input(name):
  verifier = {**rewards.REWARDS, **rewards.METRICS}[name]
  for answers in ([], [""], [" "]):
    for text in ("", " ", "x", r"\boxed{}"):
      assert verifier(text, answers) == 0
  assert verifier("", ["x"]) == 0
  for text in ("", "}", r"\boxed{", r"\boxed{}}", "\x00", "é" * 9):
    for answers in ([], [""], ["}"], ["é"]):
      assert 0 <= verifier(text, answers) <= 1


def test_lookup_names_the_choices():
  with pytest.raises(
    ValueError, match="config.x='bleu': choose one of reward_boxed"
  ):
    rewards.lookup(rewards.REWARDS, "bleu", "config.x")
