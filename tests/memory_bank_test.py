import json

import pytest

from memjax.envs import memory_bank

_ITEM = {
  "id": "m1",
  "key": "home",
  "value": "Ada lives in Bern.",
  "memory_type": "UserMemory",
  "tags": ["home"],
  "embedding": "<vector dim=8>",
}
_GOOD = {
  "M": [_ITEM, {"memory": "Ada has a cat.", "key": "pet"}, {"key": "title"}],
  "f": [
    {"role": "Ada", "content": "I moved\nto Rome.", "timestamp": "2023-05-08"},
    {"role": "Bob", "content": "When?"},
    {"content": "No name."},
  ],
  "q": "Where does Ada live?",
  "a": "Rome",
  "context_memory": [_ITEM],
  "sample_id": "conv-26",
  "evidence": ["D1:3"],
  "turn": 7,
  "oracle": "would be taken for a memory",
}
_ALIASES = {"M": "memory", "f": "fact", "q": "query", "a": "answer"}


def _write(path, records):
  if path.suffix == ".jsonl":
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
  else:
    path.write_text(json.dumps(records))
  return path


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("aliases", [{}, _ALIASES])
def test_a_record(tmp_path, name, aliases):
  record = {aliases.get(field, field): x for field, x in _GOOD.items()}
  path = _write(tmp_path / name, [record, _GOOD])
  example, second = memory_bank.load(path, first_id=3)
  assert (example.id, second.id) == (3, 4)
  assert example.question == "Where does Ada live?"
  assert example.answers == ("Rome",)
  # Of an entry: its value, else its memory, else its key.
  assert example.bank == ("Ada lives in Bern.", "Ada has a cat.", "title")
  assert example.parts == (
    "Ada: [2023-05-08] I moved to Rome.\nBob: When?\nuser: No name.",
  )
  assert example.meta == {
    "sample_id": "conv-26",
    "turn": 7,
    "context_memory": ("Ada lives in Bern.",),
  }


def test_what_is_missing_is_empty(tmp_path):
  sparse = {"q": "Who?", "a": 2022, "M": None, "f": [{}]}
  bare = {"query": "Who?", "answer": "Ada"}
  null_first = {"q": None, "query": "Who?", "a": "Ada", "M": [{"value": " x "}]}
  path = _write(tmp_path / "a.json", [sparse, bare, null_first])
  first, second, third = memory_bank.load(path)
  assert first.bank == () and first.answers == ("2022",)
  assert first.parts == ("user: ",)
  assert second.parts == () and second.bank == ()
  assert second.meta == {"context_memory": ()}
  assert third.question == "Who?" and third.bank == ("x",)


def test_records_without_an_answer(tmp_path):
  path = _write(tmp_path / "a.jsonl", [{**_GOOD, "a": None, "q": " "}])
  with pytest.raises(ValueError, match="line 1: no text in 'q' or 'query'"):
    memory_bank.load(path)
  (example,) = memory_bank.load(path, unanswered=True)
  assert example.question == "" and example.answers == ()


@pytest.mark.parametrize(
  "record, message",
  [
    ({"a": "x"}, "record 2: no text in 'q' or 'query'.*has only a"),
    ({"q": "x"}, "record 2: no text in 'a' or 'answer'.*has only q"),
    ({}, "record 2: no text in 'q'.*only no field"),
    ({**_GOOD, "q": ["x"]}, r"record 2: 'q' or 'query' is \['x'\], expected a"),
    ({**_GOOD, "a": True}, "record 2: 'a' or 'answer' is True"),
    ({**_GOOD, "M": {}}, "record 2: 'M' or 'memory' is {}, expected a list"),
    ({**_GOOD, "f": "hi"}, "record 2: 'f' or 'fact' is 'hi', expected a list"),
    ({**_GOOD, "f": ["hi"]}, "record 2: 'f' or 'fact' holds 'hi'"),
    ({**_GOOD, "M": [_ITEM, 3]}, "record 2: 'M' or 'memory' holds 3"),
    (
      {**_GOOD, "M": [_ITEM, {"id": 1}]},
      "record 2, M entry 2: no text in any of value, memory, key",
    ),
    (
      {**_GOOD, "context_memory": [{}]},
      "record 2, context_memory entry 1: no text",
    ),
    (
      {**_GOOD, "f": [{}, {"content": []}]},
      "record 2, message 2: 'content' is",
    ),
  ],
)
def test_a_malformed_record_is_named(tmp_path, record, message):
  path = _write(tmp_path / "bad.json", [_GOOD, record])
  with pytest.raises(ValueError, match=f"bad.json, {message}"):
    memory_bank.load(path)


def test_blank_lines_are_passed_over(tmp_path):
  line = json.dumps(_GOOD)
  (tmp_path / "a.jsonl").write_text(f"\n{line}\n \n{line}")
  assert len(memory_bank.load(tmp_path / "a.jsonl")) == 2
  (tmp_path / "a.jsonl").write_text("\n \n")
  with pytest.raises(ValueError, match="is empty"):
    memory_bank.load(tmp_path / "a.jsonl")


def test_another_kind_of_file_is_refused(tmp_path):
  with pytest.raises(ValueError, match="expected one of .json, .jsonl$"):
    memory_bank.load(tmp_path / "a.parquet")


def _records(count, **fields):
  return [{**_GOOD, "q": f"q{i}", **fields} for i in range(count)]


def test_held_out_questions_are_not_trained_on(tmp_path):
  path = _write(tmp_path / "a.json", _records(6) + _records(6, a="Bob"))
  env = memory_bank.make(str(path), holdout=2)
  (held_out,) = env.eval_sets().values()
  assert len(held_out) == 4 and len(env.train) == 8
  assert not {e.question for e in held_out} & {e.question for e in env.train}
  assert not {e.id for e in held_out} & {
    e.id for e in env.train_examples(0, 100)
  }
  assert env.train_examples(0, 20)[5:] == env.train_examples(5, 15)
  chosen = {
    frozenset(
      e.question
      for e in memory_bank.make(str(path), holdout=2, seed=seed).eval_sets()[
        "heldout"
      ]
    )
    for seed in range(5)
  }
  assert len(chosen) > 1
  other = memory_bank.make(str(path), holdout=2, seed=1)
  assert other.train_examples(0, 8) != env.train_examples(0, 8)
  assert env.reward(held_out[0], held_out[0].answers[0]) == 1
  assert env.metric(held_out[0], "nothing") == 0


def test_a_question_in_both_files_is_refused(tmp_path):
  train = _write(tmp_path / "a.json", _records(5))
  held_out = _write(tmp_path / "b.json", [{**_GOOD, "q": " Q2\n"}])
  with pytest.raises(ValueError, match="1 questions of .*b.json.*also in"):
    memory_bank.make(str(train), str(held_out))
  clean = _write(tmp_path / "c.json", [{**_GOOD, "q": "other"}])
  env = memory_bank.make(str(train), str(clean))
  assert list(env.eval_sets()) == ["c"] and len(env.train) == 5
  env = memory_bank.make("", str(clean))
  with pytest.raises(ValueError, match="nothing to train on"):
    env.train_examples(0, 1)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"holdout": 0}, "holdout=0.*5 different"),
    ({"holdout": 5}, "holdout=5.*5 different"),
    ({"path": ""}, "config.data.path is empty"),
    ({"reward_name": "em"}, "config.data.reward_name='em': choose one of"),
    ({"metric_name": "x"}, "config.data.metric_name='x': choose one of"),
  ],
)
def test_what_cannot_be_is_refused(tmp_path, fields, message):
  path = str(_write(tmp_path / "a.json", _records(5)))
  with pytest.raises(ValueError, match=message):
    memory_bank.make(**{"path": path, "holdout": 1, **fields})
