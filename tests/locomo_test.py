import collections
import copy
import dataclasses
import json

import pytest

from memjax.envs import locomo

# The real file

_TRAIN, _VALID = "conv-26", "conv-30"


@pytest.fixture(scope="module")
def real(data_dir):
  path = data_dir / "locomo" / "locomo10.json"
  if not path.is_file():
    pytest.skip(f"there is no {path}")
  return path


def test_real_counts(real):
  corpus = locomo.load(real)
  talks = corpus.conversations.values()
  asked = [question for talk in talks for question in talk.questions]
  sessions = [session for talk in talks for session in talk.sessions]
  assert len(talks) == 10 and len(sessions) == 272
  assert sum(len(session.turns) for session in sessions) == 5_882
  assert collections.Counter(q.category for q in asked) == {
    1: 282,
    2: 321,
    3: 96,
    4: 841,
  }
  assert corpus.counts == {
    "adversarial": 446,
    "no_evidence": 4,
    "malformed_evidence": 7,
    "missing_evidence": 2,
    "integer_answers": 6,
    "empty_sessions": 0,
  }
  assert len({q.index for q in asked}) == 1_540
  assert max(q.index for q in asked) < 1_986
  for talk in talks:
    numbers = [session.number for session in talk.sessions]
    assert numbers == sorted(numbers)
    turns = {turn.id for session in talk.sessions for turn in session.turns}
    assert all(set(q.evidence) <= turns for q in talk.questions)


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


@pytest.mark.parametrize(
  "turns, all_fit, train_fit", [(24, 1_224, 122), (50, 1_264, 125)]
)
def test_real_windows(real, turns, all_fit, train_fit):
  talks = locomo.load(real).conversations.values()
  fit = [
    locomo.window(talk, question.evidence, turns)
    for talk in talks
    for question in talk.questions
  ]
  assert sum(map(bool, fit)) == all_fit
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


def _turn(session, number, text, speaker="Ann", **fields):
  return {
    "speaker": speaker,
    "dia_id": f"D{session}:{number}",
    "text": text,
    **fields,
  }


def _sample(name, questions=6):
  return {
    "sample_id": name,
    "conversation": {
      "speaker_a": "Ann",
      "speaker_b": "Bo",
      "session_10_date_time": "9:00 am on 1 June, 2023",
      "session_10": [_turn(10, 1, "ten")],
      "session_1_date_time": "1:56 pm on 8 May, 2023",
      "session_1": [
        _turn(1, 1, "Hi\n there! "),
        _turn(1, 2, "", "Bo", blip_caption="a red\ncat"),
        _turn(1, 3, "Look.", blip_caption="a dog"),
      ],
      "session_3_date_time": "noon",
      "session_3": [],
      "session_9_date_time": "Whit Sunday",
      "session_9": [_turn(9, 1, "nine", "Bo"), _turn(9, 2, "more")],
    },
    "qa": [
      {
        "question": f"{name} q{i}?",
        "answer": f"a{i}",
        "evidence": ["D1:1"],
        "category": 1 + i % 4,
      }
      for i in range(questions)
    ],
  }


def _file(tmp_path, samples):
  path = tmp_path / "locomo.json"
  path.write_text(json.dumps(samples))
  return str(path)


def _make(path, **kwargs):
  kwargs = {"train": ("a",), "valid": ("b",), **kwargs}
  return locomo.make(path, **kwargs)


@pytest.fixture
def path(tmp_path):
  return _file(tmp_path, [_sample(x) for x in "abc"])


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
    "conversation": "a",
    "speakers": ("Ann", "Bo"),
  }


def test_dirt_is_put_right_and_counted(tmp_path):
  sample = _sample("a", questions=0)
  cited = [
    [],
    ["D1:1; D9:2", "D9:2"],
    ["D:10:1"],
    ["D01:03"],
    ["D"],
    ["D1:9", "D1:1"],
    ["D9:1 D77:1 D1:2"],
  ]
  sample["qa"] = [
    {"question": "q", "answer": i, "evidence": x, "category": 2}
    for i, x in enumerate(cited)
  ]
  # An adversarial question may lack an answer and counts for nothing else.
  bad = {"question": "q", "adversarial_answer": "x", "category": 5}
  sample["qa"].insert(1, {**bad, "evidence": ["nonsense"]})
  corpus = locomo.load(_file(tmp_path, [sample]))
  questions = corpus.conversations["a"].questions
  assert [q.evidence for q in questions] == [
    (),
    ("D1:1", "D9:2"),
    ("D10:1",),
    ("D1:3",),
    (),
    ("D1:1",),
    ("D9:1", "D1:2"),
  ]
  assert [q.answers for q in questions] == [(str(i),) for i in range(7)]
  assert [q.index for q in questions] == [0, *range(2, 8)]
  assert corpus.counts == {
    "adversarial": 1,
    "no_evidence": 1,
    "malformed_evidence": 5,
    "missing_evidence": 2,
    "integer_answers": 7,
    "empty_sessions": 1,
  }


def _set(*keys, to):
  def change(samples):
    *outer, last = keys
    for key in outer:
      samples = samples[key]
    if to is KeyError:
      del samples[last]
    else:
      samples[last] = to

  return change


_TALK = (1, "conversation")


@pytest.mark.parametrize(
  "change, message",
  [
    (_set(1, to=3), "sample 2: expected an object, found int"),
    (_set(1, "sample_id", to="a"), r"sample 2 \(a\): an earlier sample"),
    (_set(1, "qa", to=KeyError), r"sample 2 \(b\): no field 'qa', only samp"),
    (_set(1, "qa", to={}), "field 'qa' is {}, expected list"),
    (_set(*_TALK, to=[]), "'conversation' is .*expected Mapping"),
    (_set(*_TALK, "speaker_a", to=KeyError), "no field 'speaker_a'"),
    (_set(*_TALK, "speaker_b", to=" "), "'speaker_b' is empty"),
    (_set(*_TALK, "session_9", to="x"), "'session_9' is 'x', expected list"),
    (
      _set(*_TALK, "session_9_date_time", to=KeyError),
      "no field 'session_9_date_time'",
    ),
    (
      _set(*_TALK, "session_9", 1, "speaker", to="Cy"),
      "session_9, turn 2: the speaker is 'Cy', expected 'Ann' or 'Bo'",
    ),
    (
      _set(*_TALK, "session_9", 1, "dia_id", to="9:2"),
      "session_9, turn 2: the dia_id is '9:2'",
    ),
    (
      _set(*_TALK, "session_9", 1, "dia_id", to="D1:1"),
      "two turns have the dia_id 'D1:1'",
    ),
    (_set(*_TALK, "session_9", 1, "text", to=None), "field 'text' is None"),
    (
      _set(1, "conversation", to={"speaker_a": "Ann", "speaker_b": "Bo"}),
      "no session has a turn",
    ),
    (_set(1, "qa", 2, "question", to=""), "question 3: field 'question' is em"),
    (_set(1, "qa", 2, "answer", to=KeyError), "question 3: no field 'answer'"),
    (_set(1, "qa", 2, "answer", to=True), "question 3: field 'answer' is True"),
    (_set(1, "qa", 2, "answer", to=" "), "question 3: the answer is empty"),
    (_set(1, "qa", 2, "category", to=6), "question 3: category is 6"),
    (_set(1, "qa", 2, "category", to="1"), "question 3: field 'category'"),
    (_set(1, "qa", 2, "evidence", to="D1:1"), "question 3: field 'evidence'"),
    (_set(1, "qa", 2, "evidence", to=[1]), "question 3: evidence has 1"),
  ],
)
def test_a_malformed_file_is_named(tmp_path, change, message):
  samples = [_sample("a"), _sample("b")]
  locomo.load(_file(tmp_path, samples))
  change(samples)
  with pytest.raises(ValueError, match=f"locomo.json, .*{message}"):
    locomo.load(_file(tmp_path, samples))


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", "3", "[" * 100_000])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
  path = tmp_path / "x.json"
  path.write_text(content)
  with pytest.raises(ValueError, match="x.json"):
    locomo.load(path)
  with pytest.raises(ValueError, match="no such file"):
    locomo.load(tmp_path / "none.json")


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
  sample = _sample("a")
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
  path = _file(tmp_path, [sample, _sample("b"), _sample("c")])
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
