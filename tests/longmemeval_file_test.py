"""Files in LongMemEval's published shape, with texts of our own, and dirt.

The published files are not at hand: that they hold no other dirt than this is
not tested.
"""

import collections
import copy
import json

import pytest

from memjax.envs import longmemeval_file


def said(role, content, **fields):
  return {"role": role, "content": content, **fields}


# As in the oracle file: not in order of time.
RECORD = {
  "question_id": "q1",
  "question_type": "temporal-reasoning",
  "question": "How many days before the race did I buy the shoes?",
  "answer": 18,
  "question_date": "2023/06/30 (Fri) 23:40",
  "haystack_dates": ["2023/06/20 (Tue) 09:05", "2023/06/02 (Fri) 18:21"],
  "haystack_session_ids": ["answer_1_2", "answer_1_1"],
  "haystack_sessions": [
    [
      said("user", "I ran the race today!", has_answer=True),
      said("assistant", "Well done.\n\n- Rest\n- Drink", has_answer=False),
    ],
    [
      said("user", "Hello."),
      said("assistant", "Hello!"),
      said("user", "I bought  running shoes.", has_answer=True),
      said("assistant", "A good choice."),
    ],
  ],
  "answer_session_ids": ["answer_1_2", "answer_1_1"],
}


def record(number=1, **changes):
  return {**copy.deepcopy(RECORD), "question_id": f"q{number}", **changes}


def write(path, records):
  path.write_text(json.dumps(records))
  return path


def _read(tmp_path, *records):
  counts = collections.Counter()
  path = write(tmp_path / "a.json", list(records))
  found = [x for x, _ in longmemeval_file.read(path, counts)]
  return found, {name: n for name, n in counts.items() if n}


def test_sessions_are_in_order_of_time(tmp_path):
  (found,), counts = _read(tmp_path, RECORD)
  assert [session.id for session in found.sessions] == [
    "answer_1_1",
    "answer_1_2",
  ]
  first, last = found.sessions
  assert first.date == "2023/06/02 (Fri) 18:21"
  assert first.day == "2023/06/02 (Fri)"
  assert first.lines == (
    "user: Hello.",
    "assistant: Hello!",
    "user: I bought running shoes.",
    "assistant: A good choice.",
  )
  assert first.marked == (2,) and last.marked == (0,)
  assert last.lines[1] == "assistant: Well done. - Rest - Drink"
  assert (found.answer, found.abstains) == ("18", False)
  assert found.evidence == ("answer_1_2", "answer_1_1")
  assert counts == {"number_answers": 1}


def test_sessions_of_one_date_stay_in_order(tmp_path):
  dates = ["2023/06/20 (Tue) 09:05"] * 2
  (found,), _ = _read(tmp_path, record(haystack_dates=dates))
  assert [x.id for x in found.sessions] == ["answer_1_2", "answer_1_1"]


def test_dirt_is_put_right_and_counted(tmp_path):
  talks = RECORD["haystack_sessions"]
  found, counts = _read(
    tmp_path,
    record(
      1,
      haystack_session_ids=["a", "a", "b", "c"],
      haystack_dates=["2023/06/20 (Tue) 09:05", "2023/06/02", "", "2024"],
      haystack_sessions=[
        talks[0],
        [said("user", " \n"), said("assistant", "Hm.")],
        [],
        [said("user", "", has_answer=True)],
      ],
      answer_session_ids=["b", "a", "z", "a"],
      question_date="Friday",
    ),
    record(2, haystack_sessions=[[said("user", "x")]] * 2, answer="text "),
    # What is not there cannot be marked.
    record("3_abs", haystack_sessions=[[said("user", "x")]] * 2, answer="y"),
    record(4, haystack_dates=[], haystack_session_ids=[], haystack_sessions=[]),
  )
  assert counts == {
    "abstention": 1,
    "number_answers": 2,
    "odd_dates": 4,
    "empty_turns": 2,
    "empty_sessions": 2,
    "repeated_sessions": 1,
    "missing_evidence": 2 + 2,
    "unmarked_evidence": 2,
  }
  first, second, third, last = found
  assert [x.lines for x in first.sessions] == [
    ("assistant: Hm.",),
    ("user: I ran the race today!", "assistant: Well done. - Rest - Drink"),
  ]
  assert first.sessions[0].day == "2023/06/02"
  assert first.evidence == ("a",)
  assert second.answer == "text" and not second.abstains
  assert third.abstains and third.id == "q3_abs"
  assert last.sessions == last.evidence == ()


def _without(name):
  return {key: value for key, value in RECORD.items() if key != name}


_TURN = "record 2 .q1., session 1, turn 1: "


@pytest.mark.parametrize(
  "bad, message",
  [
    ([], "record 2: found .*expected an object"),
    *(
      (_without(name), f"no field '{name}', only .*question") for name in RECORD
    ),
    (record(0), "record 2: an earlier record has the question_id 'q0'"),
    (record(question_type="other"), "is 'other', expected one of single-"),
    (record(question=3), "field 'question' is 3, expected str"),
    (record(question=" "), "field 'question' is empty, expected a text"),
    (record(answer=None), "'answer' is None, expected str or int or float"),
    (record(answer=True), "'answer' is True"),
    (record(answer=" "), "the answer is empty"),
    (record(question_date=1), "'question_date' is 1, expected str"),
    (record(haystack_dates=["x"]), "2 .*ids, 1 haystack_dates and 2 .*as many"),
    (record(haystack_dates=["x", 2]), "session 2: haystack_dates has 2"),
    (record(haystack_session_ids=["x", []]), r"session_ids has \[\], expec"),
    (record(haystack_sessions=[[], {}]), "session 2: .*expected a list"),
    (record(haystack_sessions=[["x"], []]), _TURN + "expected an object"),
    (
      record(haystack_sessions=[[{"role": "user"}], []]),
      _TURN + "no field 'content', only role",
    ),
    (
      record(haystack_sessions=[[said("", "x")], []]),
      _TURN + "field 'role' is empty",
    ),
    (
      record(haystack_sessions=[[said("user", 3)], []]),
      _TURN + "field 'content' is 3, expected str",
    ),
    (
      record(haystack_sessions=[[said("user", "x", has_answer="no")], []]),
      _TURN + "has_answer is 'no', expected true or false",
    ),
    (record(answer_session_ids="a"), "'answer_session_ids' is 'a', expected l"),
    (record(answer_session_ids=[[1]]), "answer_session_ids has .*expected ids"),
  ],
)
def test_a_malformed_record_is_named(tmp_path, bad, message):
  with pytest.raises(ValueError, match=message) as caught:
    _read(tmp_path, record(0), bad)
  assert f"{tmp_path}/a.json, record 2" in str(caught.value)
