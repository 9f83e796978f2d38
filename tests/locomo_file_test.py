"""LoCoMo's file as it is, and files that are not."""

import collections
import json

import pytest

from memjax.envs import locomo_file


@pytest.fixture(scope="module")
def real(data_dir):
  path = data_dir / "locomo" / "locomo10.json"
  if not path.is_file():
    pytest.skip(f"there is no {path}")
  return path


def test_real_counts(real):
  corpus = locomo_file.load(real)
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


@pytest.mark.parametrize("turns, fit", [(24, 1_224), (50, 1_264)])
def test_real_windows(real, turns, fit):
  talks = locomo_file.load(real).conversations.values()
  windows = [
    locomo_file.window(talk, question.evidence, turns)
    for talk in talks
    for question in talk.questions
  ]
  assert sum(map(bool, windows)) == fit
  for window in filter(None, windows):
    assert sum(len(session.turns) for session in window) <= turns


# A synthetic file


def turn(session, number, text, speaker="Ann", **fields):
  return {
    "speaker": speaker,
    "dia_id": f"D{session}:{number}",
    "text": text,
    **fields,
  }


def sample(name, questions=6):
  return {
    "sample_id": name,
    "conversation": {
      "speaker_a": "Ann",
      "speaker_b": "Bo",
      "session_10_date_time": "9:00 am on 1 June, 2023",
      "session_10": [turn(10, 1, "ten")],
      "session_1_date_time": "1:56 pm on 8 May, 2023",
      "session_1": [
        turn(1, 1, "Hi\n there! "),
        turn(1, 2, "", "Bo", blip_caption="a red\ncat"),
        turn(1, 3, "Look.", blip_caption="a dog"),
      ],
      "session_3_date_time": "noon",
      "session_3": [],
      "session_9_date_time": "Whit Sunday",
      "session_9": [turn(9, 1, "nine", "Bo"), turn(9, 2, "more")],
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


def write(tmp_path, samples):
  path = tmp_path / "locomo.json"
  path.write_text(json.dumps(samples))
  return str(path)


def _talk(tmp_path):
  corpus = locomo_file.load(write(tmp_path, [sample("a")]))
  return corpus, corpus.conversations["a"]


def test_sessions_are_in_numeric_order(tmp_path):
  corpus, talk = _talk(tmp_path)
  assert talk.speakers == ("Ann", "Bo")
  assert [
    (session.number, session.date, [turn.line for turn in session.turns])
    for session in talk.sessions
  ] == [
    (
      1,
      "8 May, 2023",
      ["Ann: Hi there!", "Bo: [image: a red cat]", "Ann: Look. [image: a dog]"],
    ),
    (9, "Whit Sunday", ["Bo: nine", "Ann: more"]),
    (10, "1 June, 2023", ["Ann: ten"]),
  ]
  assert corpus.counts["empty_sessions"] == 1


def test_dirt_is_put_right_and_counted(tmp_path):
  dirty = sample("a", questions=0)
  cited = [
    [],
    ["D1:1; D9:2", "D9:2"],
    ["D:10:1"],
    ["D01:03"],
    ["D"],
    ["D1:9", "D1:1"],
    ["D9:1 D77:1 D1:2"],
  ]
  dirty["qa"] = [
    {"question": "q", "answer": i, "evidence": x, "category": 2}
    for i, x in enumerate(cited)
  ]
  # An adversarial question may lack an answer and counts for nothing else.
  bad = {"question": "q", "adversarial_answer": "x", "category": 5}
  dirty["qa"].insert(1, {**bad, "evidence": ["nonsense"]})
  corpus = locomo_file.load(write(tmp_path, [dirty]))
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
  samples = [sample("a"), sample("b")]
  locomo_file.load(write(tmp_path, samples))
  change(samples)
  with pytest.raises(ValueError, match=f"locomo.json, .*{message}"):
    locomo_file.load(write(tmp_path, samples))


@pytest.mark.parametrize("content", ["", "[", "{}", "[]", "3", "[" * 100_000])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
  path = tmp_path / "x.json"
  path.write_text(content)
  with pytest.raises(ValueError, match="x.json"):
    locomo_file.load(path)
  with pytest.raises(ValueError, match="no such file"):
    locomo_file.load(tmp_path / "none.json")


@pytest.mark.parametrize(
  "evidence, turns, ids",
  [
    (["D9:2"], 2, [["D9:1", "D9:2"]]),
    (["D1:3", "D9:1"], 2, [["D1:3"], ["D9:1"]]),
    (["D1:1", "D10:1"], 2, []),
    (
      ["D1:1", "D10:1"],
      6,
      [["D1:1", "D1:2", "D1:3"], ["D9:1", "D9:2"], ["D10:1"]],
    ),
    (["D1:1"], 2, [["D1:1"]]),
    (["D1:2"], 2, [["D1:1", "D1:2"]]),
    ([], 6, []),
  ],
)
def test_windows(tmp_path, evidence, turns, ids):
  _, talk = _talk(tmp_path)
  window = locomo_file.window(talk, evidence, turns)
  assert [[turn.id for turn in session.turns] for session in window] == ids
  dates = {session.number: session.date for session in talk.sessions}
  assert all(session.date == dates[session.number] for session in window)
