"""LoCoMo as an environment: its split, its order and its metric."""

import copy
import dataclasses

import locomo_file_test
import pytest

from memjax.envs import locomo

_TRAIN, _VALID = "conv-26", "conv-30"


@pytest.fixture(scope="module")
def real(data_dir):
  path = data_dir / "locomo" / "locomo10.json"
  if not path.is_file():
    pytest.skip(f"there is no {path}")
  return path


def test_real_split(real):
  env = locomo.make(str(real))
  sets = env.eval_sets()
  assert len(env.train) == 152
  assert {name: len(x) for name, x in sets.items()} == {
    "valid": 81,
    "test": 1_307,
  }
  named = lambda examples: {e.meta["conversation"] for e in examples}
  assert named(env.train) == {_TRAIN} and named(sets["valid"]) == {_VALID}
  assert len(named(sets["test"])) == 8
  assert not named(sets["test"]) & {_TRAIN, _VALID}
  first = env.train[0]
  assert len(first.parts) == len(first.stamps) == 19
  assert first.stamps[0] == "8 May, 2023"
  lines = first.parts[0].split("\n")
  assert lines[0] == "Caroline: Hey Mel! Good to see you! How have you been?"
  assert lines[4].endswith(
    " [image: a photo of a dog walking past a wall with a painting of a woman]"
  )
  # Texts of the file have line feeds; a line is a turn all the same.
  everything = [*env.train, *sets["valid"], *sets["test"]]
  shown = {e.meta["conversation"]: e.parts for e in everything}
  assert sum("\n".join(x).count("\n") + 1 for x in shown.values()) == 5_882
  assert len({e.id for e in everything}) == 1_540
  stream = env.train_examples(0, 2_000)
  assert not {e.id for e in stream} & {e.id for x in sets.values() for e in x}
  # A gold answer is right, by the reward and by either metric.
  official = dataclasses.replace(env, metric_name="f1")
  for example in everything:
    assert env.reward(example, example.answers[0]) == 1
    assert official.metric(example, example.answers[0]) == 1
    if ";" not in example.answers[0]:
      assert env.metric(example, example.answers[0]) == 1


@pytest.mark.parametrize("turns, train_fit", [(24, 122), (50, 125)])
def test_real_windows(real, turns, train_fit):
  env = locomo.make(str(real), window_turns=turns)
  assert len(env.train) == train_fit
  assert env.counts["outside_window"] == 152 - train_fit
  for example in env.train:
    lines = "\n".join(example.parts).split("\n")
    assert len(lines) <= turns
    assert len(example.stamps) == len(example.parts)
  # What is evaluated on is whole.
  assert len(env.eval_sets()["valid"][0].parts) == 19


# A synthetic file


def _make(path, **kwargs):
  kwargs = {"train": ("a",), "valid": ("b",), **kwargs}
  return locomo.make(path, **kwargs)


@pytest.fixture
def path(tmp_path):
  return locomo_file_test.write(
    tmp_path, [locomo_file_test.sample(x) for x in "abc"]
  )


def test_sessions_are_in_numeric_order(path):
  env = _make(path)
  (example, *_) = env.train
  assert example.parts == (
    "Ann: Hi there!\nBo: [image: a red cat]\nAnn: Look. [image: a dog]",
    "Bo: nine\nAnn: more",
    "Ann: ten",
  )
  assert example.stamps == ("8 May, 2023", "Whit Sunday", "1 June, 2023")
  assert env.counts["empty_sessions"] == 3
  assert example.meta == {
    "category": 1,
    "evidence": ("D1:1",),
    "oracle": ("[8 May, 2023] Ann: Hi there!",),
    "conversation": "a",
    "speakers": ("Ann", "Bo"),
  }


def test_split_by_conversation(path):
  env = _make(path)
  named = lambda examples: [e.meta["conversation"] for e in examples]
  assert named(env.train) == ["a"] * 6
  assert named(env.eval_sets()["valid"]) == ["b"] * 6
  assert named(env.eval_sets()["test"]) == ["c"] * 6
  both = _make(path, train=("c", "a"), valid=())
  assert list(both.eval_sets()) == ["test"] and len(both.train) == 12
  none = _make(path, train=())
  with pytest.raises(ValueError, match="nothing to train on"):
    none.train_examples(0, 1)
  # An id says the same question however the file is divided.
  for example in both.eval_sets()["test"]:
    assert example in env.eval_sets()["valid"]


def test_epochs_are_permutations(path):
  env = _make(path, train=("a", "b"), valid=())
  stream = env.train_examples(0, 36)
  epochs = [[e.question for e in stream[i : i + 12]] for i in (0, 12, 24)]
  asked = {e.question for e in env.train}
  assert len(asked) == 12 and all(set(epoch) == asked for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]
  assert env.train_examples(0, 7) + env.train_examples(7, 29) == stream
  assert [e.id for e in stream] == list(range(36))
  assert env.train_examples(3, 0) == []
  other = dataclasses.replace(env, seed=1)
  assert other.train_examples(0, 12) != stream[:12]


@pytest.mark.parametrize("questions", [2, 4, 5])
def test_runs_are_of_one_conversation(path, questions):
  env = _make(path, train=("a", "b"), valid=(), questions=questions)
  stream = env.train_examples(0, 60 * questions)
  order, asked = [], set()
  for start in range(0, len(stream), questions):
    run = stream[start : start + questions]
    (name,) = {e.meta["conversation"] for e in run}
    assert len({e.context for e in run}) == 1
    assert len({e.question for e in run}) == questions
    order.append(name)
    asked |= {e.question for e in run}
  # Conversations take turns at random, and no question is left out for ever.
  assert 0 < order[:20].count("a") < 20 and len(set(order)) == 2
  assert asked == {e.question for e in env.train}
  size = 2 * (6 // questions)
  epochs = {tuple(order[i : i + size]) for i in range(0, len(order), size)}
  assert len(epochs) > 1
  cut = env.train_examples(3, 20)
  assert cut == stream[3:23]


def test_windows(tmp_path):
  sample = locomo_file_test.sample("a")
  cites = [
    ["D9:2"],
    ["D1:3", "D9:1"],
    ["D1:1", "D10:1"],
    [],
    ["D1:1"],
    ["D1:2"],
  ]
  for question, evidence in zip(sample["qa"], cites):
    question["evidence"] = evidence
  path = locomo_file_test.write(
    tmp_path,
    [sample, locomo_file_test.sample("b"), locomo_file_test.sample("c")],
  )
  env = _make(path, window_turns=2)
  assert env.counts["outside_window"] == 2
  assert [e.parts for e in env.train] == [
    ("Bo: nine\nAnn: more",),
    ("Ann: Look. [image: a dog]", "Bo: nine"),
    ("Ann: Hi there!",),
    ("Ann: Hi there!\nBo: [image: a red cat]",),
  ]
  assert env.train[1].stamps == ("8 May, 2023", "Whit Sunday")
  assert len(_make(path, window_turns=6).train) == 5
  whole = _make(path)
  assert len(whole.train) == 6 and whole.counts["outside_window"] == 0


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"train": ("x",)}, r"train=\('x',\): expected .*which has a, b, c"),
    ({"train": "a"}, "train='a': expected a tuple"),
    ({"valid": ("a",)}, "train and valid both have a"),
    ({"train": ("a", "b", "c"), "valid": ()}, "leaves no question"),
    ({"questions": 0}, "questions=0"),
    ({"questions": 7}, "questions=7: a has 6 questions"),
    ({"window_turns": -1}, "window_turns=-1"),
    ({"questions": 2, "window_turns": 3}, "a window of its own"),
    ({"reward_name": "f1"}, "config.data.reward_name='f1': choose one of"),
    ({"metric_name": "x"}, "config.data.metric_name='x'.*locomo_f1"),
  ],
)
def test_what_cannot_be_is_refused(path, kwargs, message):
  with pytest.raises(ValueError, match=message):
    _make(path, **kwargs)


# The official metric, worked out by hand.


@pytest.mark.parametrize(
  "text, answer, category, score",
  [
    ("7 May 2023", "7 May 2023", 2, 1),
    ("It was in May 2023.", "7 May 2023", 2, 2 * 2 / (5 + 3)),
    # Words are compared by their stems, articles and "and" do not count.
    ("painted the bowls", "painting and a bowl", 4, 1),
    ("die", "died", 4, 1),
    ("enjoys", "enjoy", 4, 1),
    ("cats cats", "cats", 4, 2 * 1 / (2 + 1)),
    # Commas part nothing outside category 1, and 1,000 is one word.
    ("pottery, camping", "camping, pottery", 4, 1),
    ("1000", "1,000", 4, 1),
    # Category 1: the mean over the answer's parts of their best match.
    ("camping, swimming", "pottery, camping, painting", 1, 1 / 3),
    ("red pottery, camping", "pottery, camping", 1, (2 / 3 + 1) / 2),
    ("pottery camping", "pottery, camping", 1, 2 / 3),
    ("camping, pottery, a, b, c", "pottery", 1, 1),
    ("pottery", "pottery,", 1, 1 / 2),
    # Category 3: the reason after the first ";" is not part of the answer.
    ("Yes", "Yes; since she sings; often", 3, 1),
    ("Yes", "Yes; since she sings", 4, 2 * 1 / (1 + 4)),
    ("she sings", "Yes; since she sings", 3, 0),
    # Nothing is right where nothing is said.
    ("", "Yes", 4, 0),
    ("the", "a", 4, 0),
    ("", "", 1, 0),
    # A box is opened first.
    (r"So \boxed{7 May 2023}", "7 May 2023", 2, 1),
  ],
)
def test_official_f1(text, answer, category, score):
  found = locomo.locomo_f1(text, (answer,), category)
  assert found == pytest.approx(score)
  assert locomo.locomo_f1(text, ("zzz", answer), category) == found


def test_official_f1_of_nothing():
  assert locomo.locomo_f1("x", (), 1) == 0
  with pytest.raises(ValueError, match="category=5"):
    locomo.locomo_f1("x", ("x",), 5)


def test_reward_metric_and_label(path):
  env = _make(path)
  one = dataclasses.replace(env.train[0], answers=("red cat, dogs",))
  assert one.meta["category"] == 1
  assert env.reward(one, "dog") == 0
  assert env.reward(one, "Red cat, dogs.") == 1
  assert env.metric(one, "dog") == 1 / 2
  assert env.label(one, "dog") == {"category 1": 1 / 2}
  four = dataclasses.replace(one, meta={**one.meta, "category": 4})
  assert env.label(four, "dog") == {"category 4": 2 * 1 / (1 + 3)}
  plain = dataclasses.replace(env, metric_name="em")
  assert plain.label(one, "dog") == {"category 1": 0}
  assert env.reward(copy.copy(one), "") == 0
