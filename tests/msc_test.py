"""MSC-Self-Instruct: a file in its published shape with texts of our own."""

import copy
import dataclasses
import json
import pathlib
import runpy

import ml_collections
import pytest

from memjax import build
from memjax import config as config_lib
from memjax.envs import example as example_lib
from memjax.envs import msc

_SECRET = "the persona says so"


def _dialog(*texts):
  return [{"text": text} for text in texts]


# Every field of the published lines; what must not be read has _SECRET in it.
_RECORD = {
  "personas": [[_SECRET], [_SECRET]],
  "dialog": [
    {"id": "Speaker 1", "text": "Back again.", "convai2_id": _SECRET},
    {"id": "Speaker 2", "text": "Good to hear."},
  ],
  "metadata": {"initial_data_id": "train:ordered_1", "session_id": 4},
  "previous_dialogs": [
    {
      "personas": [[_SECRET], [_SECRET]],
      "dialog": _dialog("Hi!", "Hello.\nI surf.", "Where?"),
      "time_num": 7,
      "time_unit": "days",
      "time_back": "7 days 2 hours ago",
    },
    {
      "personas": [[_SECRET], [_SECRET]],
      "dialog": _dialog("How was the surf?", "Cold."),
      "time_back": "3 hours ago",
    },
  ],
  "init_personas": [[_SECRET], [_SECRET]],
  "personas_update1": [_SECRET],
  "personas_update2": [_SECRET],
  "summary_speaker_1": _SECRET,
  "summary_speaker_2": [_SECRET],
  "self_instruct": {"B": "What sport do I do?", "A": "Surfing in the cold"},
}


def _record(**changes):
  return {**copy.deepcopy(_RECORD), **changes}


def _make(tmp_path, *records, **kwargs):
  path = tmp_path / "msc_self_instruct.jsonl"
  path.write_text("".join(json.dumps(x) + "\n" for x in records))
  env = msc.make(str(path), **kwargs)
  return env, env.eval_sets()["msc"]


def test_sessions(tmp_path):
  env, (example,) = _make(tmp_path, _RECORD)
  assert example.context == (
    "Speaker 1: Hi!\nSpeaker 2: Hello. I surf.\nSpeaker 1: Where?",
    "Speaker 1: How was the surf?\nSpeaker 2: Cold.",
    "Speaker 1: Back again.\nSpeaker 2: Good to hear.",
  )
  assert example.stamps == ("7 days 2 hours ago", "3 hours ago", "now")
  assert example.question == "What sport do I do?"
  assert example.answers == ("Surfing in the cold",)
  assert example.meta["speakers"] == ("Speaker 1", "Speaker 2")
  assert not any(env.counts.values())


def test_personas_and_summaries_are_never_read(tmp_path):
  assert json.dumps(_RECORD).count(_SECRET) == 13
  _, (example,) = _make(tmp_path, _RECORD)
  everything = [
    getattr(example, field.name) for field in dataclasses.fields(example)
  ]
  assert _SECRET not in repr(everything)
  # Nor do they count: the same example without any of them.
  kept = ("dialog", "previous_dialogs", "self_instruct", "metadata")
  bare = {name: _RECORD[name] for name in kept}
  _, (other,) = _make(tmp_path, bare)
  assert other == example
  assert example_lib.fingerprint([other]) == example_lib.fingerprint([example])


def test_dirt_is_put_right_and_counted(tmp_path):
  first = _record(
    dialog=[{"id": "Speaker 2", "text": "Yes."}, {"id": "bot", "text": "No."}],
    previous_dialogs=[
      {"dialog": _dialog("", "Second speaks.", "First.")},
      {"dialog": [], "time_back": "1 day ago"},
      {"dialog": _dialog(" "), "time_back": None},
    ],
    self_instruct={"B": "How many?", "A": 3},
    metadata=None,
  )
  env, (example, _) = _make(tmp_path, first, _RECORD)
  assert example.context == (
    "Speaker 2: Second speaks.\nSpeaker 1: First.",
    "Speaker 2: Yes.\nSpeaker 2: No.",
  )
  assert example.stamps == ("earlier", "now")
  assert example.answers == ("3",)
  assert env.counts == {
    "empty_turns": 2,
    "empty_sessions": 2,
    "undated_sessions": 1,
    "odd_speakers": 1,
    "number_answers": 1,
  }


def test_published_scores_side_by_side(tmp_path):
  """gold: surfing in the cold; worked out by hand."""
  env, (example,) = _make(tmp_path, _RECORD, metric_name="rouge_l")
  text = "You go surfing, cold surfing."
  # Without articles 3 words are accepted and 5 said; 2 are common.
  # BLEU-1: surfing and cold of 7 words and marks; longer: no penalty.
  # ROUGE-L: surfing, cold of 4.
  assert env.label(example, text) == pytest.approx(
    {"f1": 2 * 2 / (5 + 3), "bleu1": 2 / 7, "rouge_l": 2 / 4}
  )
  assert env.metric(example, text) == 2 / 4
  assert env.metric_name == "rouge_l"
  assert env.reward(example, text) == pytest.approx(2 * 2 / (5 + 3))


def test_it_is_a_test_set(tmp_path):
  env, _ = _make(tmp_path, _RECORD)
  with pytest.raises(ValueError, match="'msc' is a test set"):
    env.train_examples(0, 1)


def test_another_file_than_the_published_one_is_told(tmp_path, caplog):
  env, _ = _make(tmp_path, _RECORD)
  assert list(env.files) == ["msc_self_instruct.jsonl"]
  assert msc.PUBLISHED[0] in caplog.text


def _session(**changes):
  return _record(previous_dialogs=[{"dialog": _dialog("x"), **changes}])


@pytest.mark.parametrize(
  "bad, message",
  [
    ([1], "expected an object, found list"),
    *(
      (
        {key: value for key, value in _RECORD.items() if key != name},
        f"no field '{name}'",
      )
      for name in ("dialog", "previous_dialogs", "self_instruct")
    ),
    (_record(self_instruct=[]), "'self_instruct' is .., expected Mapping"),
    (_record(self_instruct={"B": "q"}), "answer: no field 'A', only B"),
    (_record(self_instruct={"A": "a"}), "question: no field 'B', only A"),
    (_record(self_instruct={"A": " ", "B": "q"}), "the answer .* is empty"),
    (
      _record(self_instruct={"A": "a", "B": ""}),
      "question: field 'B' is e",
    ),
    (_record(previous_dialogs={}), "'previous_dialogs' is {}, expected list"),
    (_record(previous_dialogs=["x"]), "session 1: expected an object"),
    (_session(dialog="x"), "session 1: field 'dialog' is 'x', expected list"),
    (_session(dialog=["x"]), "session 1, turn 1: expected an object"),
    (_session(dialog=[{}]), "session 1, turn 1: no field 'text'"),
    (_session(time_back=3), "session 1: time_back is 3, expected a text"),
    (_record(dialog=[{"text": 3}]), "session 3, turn 1: field 'text' is 3"),
    (_record(dialog=[], previous_dialogs=[]), "no session has a turn"),
  ],
)
def test_a_malformed_line_is_named(tmp_path, bad, message):
  with pytest.raises(ValueError, match=message) as caught:
    _make(tmp_path, _RECORD, bad)
  assert "msc_self_instruct.jsonl, line 2" in str(caught.value)


def test_other_names_are_refused(tmp_path):
  with pytest.raises(ValueError, match="metric_name='meteor': choose one of"):
    _make(tmp_path, _RECORD, metric_name="meteor")
  with pytest.raises(ValueError, match="expected one of .jsonl"):
    msc.make(str(tmp_path / "msc.json"))
  with pytest.raises(ValueError, match="no such file"):
    msc.make(str(tmp_path / "msc.jsonl"))


def test_the_name_of_the_config(tmp_path):
  _make(tmp_path, _RECORD)
  config = config_lib.default()
  path = str(tmp_path / "msc_self_instruct.jsonl")
  with config.unlocked():
    config.data = ml_collections.ConfigDict({"name": "msc", "path": path})
  assert len(build._env(config).eval_sets()["msc"]) == 1


def test_the_config_names_its_test_sets():
  root = pathlib.Path(__file__).resolve().parent.parent
  make = runpy.run_path(str(root / "configs" / "test_sets.py"))["get_config"]
  assert make("msc").data.name == "msc"
  assert make().data.name == "longmemeval"
  with pytest.raises(ValueError, match="'locomo': choose :longmemeval or :msc"):
    make("locomo")
