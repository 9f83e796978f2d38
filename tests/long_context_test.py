import dataclasses
import json

import datasets
import numpy as np
import pytest

from memjax.envs import long_context

_GOOD = {"context": "A text.", "input": "Who?", "answers": ["Ada"]}


def _json(path, records):
  path.write_text(json.dumps(records))
  return path


def test_json(tmp_path):
  records = [_GOOD, {**_GOOD, "input": "Where?", "num_docs": 50, "index": 1}]
  first, second = long_context.load(_json(tmp_path / "a.json", records))
  assert (first.question, first.context) == ("Who?", "A text.")
  assert first.answers == ("Ada",)
  assert (first.id, second.id) == (0, 1)
  assert second.question == "Where?"


def test_jsonl_and_ruler(tmp_path):
  path = tmp_path / "a.jsonl"
  ruler = {"context": "c", "input": "q", "outputs": ["1", "2"], "index": 0}
  path.write_text(json.dumps(ruler) + "\n" + json.dumps(_GOOD) + "\n")
  first, second = long_context.load(path, first_id=10)
  assert first.answers == ("1", "2")
  assert second.id == 11


def test_parquet(tmp_path):
  """MemAgent's training file."""
  row = {
    "data_source": "hotpotqa",
    "prompt": [{"role": "user", "content": "Who?"}],
    "context": "A text.",
    "ability": "memory",
    "reward_model": {"style": "rule", "ground_truth": ["Ada", "Lovelace"]},
    "extra_info": {"index": 0, "question": "Who?", "num_docs": 200},
  }
  path = tmp_path / "train.parquet"
  datasets.Dataset.from_list([row, row]).to_parquet(str(path))
  first, second = long_context.load(path)
  assert (first.question, first.context) == ("Who?", "A text.")
  assert first.answers == ("Ada", "Lovelace")
  assert second.id == 1
  assert first.meta == {
    "data_source": "hotpotqa",
    "ability": "memory",
    "index": 0,
    "num_docs": 200,
  }


def test_parquet_in_a_folder_whose_name_is_a_pattern(tmp_path):
  folder = tmp_path / "run[1]*"
  folder.mkdir()
  datasets.Dataset.from_list([_GOOD]).to_parquet(str(folder / "a.parquet"))
  (example,) = long_context.load(folder / "a.parquet")
  assert example.answers == ("Ada",)


@pytest.mark.parametrize(
  "row, message",
  [
    ({"context": "c", "input": "q"}, "a.parquet, record 1: no field 'answers'"),
    ({**_GOOD, "context": None}, "record 1: field 'context' is None"),
    ({**_GOOD, "answers": [1]}, "record 1: the answers are"),
  ],
)
def test_a_malformed_row_is_named(tmp_path, row, message):
  path = tmp_path / "a.parquet"
  datasets.Dataset.from_list([row]).to_parquet(str(path))
  with pytest.raises(ValueError, match=message):
    long_context.load(path)


def test_a_parquet_file_without_rows_is_refused(tmp_path):
  path = tmp_path / "a.parquet"
  datasets.Dataset.from_list([_GOOD]).select([]).to_parquet(str(path))
  with pytest.raises(ValueError, match="is empty"):
    long_context.load(path)


def test_meta_keeps_plain_fields(tmp_path):
  record = {
    **_GOOD,
    "level": "hard",
    "num_docs": 50,
    "length": 8.5,
    "supporting_facts": [["t", 0]],
    "nothing": None,
    "oracle": "would be taken for a memory",
    "extra_info": {"num_docs": 7, "split": "dev", "question": "Who?"},
  }
  (example,) = long_context.load(_json(tmp_path / "a.json", [record]))
  # The record's own field goes before the same one of extra_info.
  assert example.meta == {
    "level": "hard",
    "num_docs": 50,
    "length": 8.5,
    "split": "dev",
  }


def test_gold_documents_are_the_oracle(tmp_path):
  path = _json(tmp_path / "a.json", [{**_GOOD, "gold_documents": ["a", "b"]}])
  (example,) = long_context.load(path)
  assert example.meta == {"oracle": ("a\n", "b\n")}
  rows = [{**_GOOD, "gold_documents": x} for x in (["a"], None)]
  path = tmp_path / "a.parquet"
  datasets.Dataset.from_list(rows).to_parquet(str(path))
  first, second = long_context.load(path)
  assert first.meta == {"oracle": ("a\n",)} and second.meta == {}


@pytest.mark.parametrize(
  "record, message",
  [
    ({"context": "c", "input": "q"}, "record 2: no field 'answers'"),
    ({**_GOOD, "gold_documents": []}, r"record 2: gold_documents is \[\], exp"),
    ({**_GOOD, "gold_documents": ["a", " "]}, "gold_documents is .*at least"),
    ({**_GOOD, "gold_documents": "a"}, "field 'gold_documents' is 'a', exp"),
    ({"input": "q", "answers": ["a"]}, "record 2: no field 'context'"),
    ({**_GOOD, "context": 3}, "record 2: field 'context' is 3, expected str"),
    ({**_GOOD, "answers": []}, "record 2: the answers are"),
    ({**_GOOD, "answers": [1]}, "record 2: the answers are"),
    ({**_GOOD, "answers": [" "]}, "record 2: the answers are"),
    ({**_GOOD, "answers": {"a": 1}}, "record 2: field 'answers'.*list or str"),
    ({**_GOOD, "input": " "}, "record 2: the question is empty"),
    ({"prompt": [], "context": "c"}, "record 2: prompt is"),
    ({"prompt": ["q"], "context": "c"}, "record 2: prompt is"),
    ({"prompt": "q", "context": "c"}, "record 2: field 'prompt'.*list"),
    (
      {"prompt": [{"role": "assistant", "content": "q"}], "context": "c"},
      "record 2: the last message of prompt is of role 'assistant'",
    ),
    (
      {"prompt": [{"content": "q"}], "context": "c", "reward_model": {}},
      "record 2: no field 'ground_truth'",
    ),
    (
      {"prompt": [{"content": "q"}], "context": "c"},
      "record 2: no field 'reward_model'",
    ),
  ],
)
def test_a_malformed_record_is_named(tmp_path, record, message):
  path = _json(tmp_path / "bad.json", [_GOOD, record])
  with pytest.raises(ValueError, match=message):
    long_context.load(path)


def test_a_blank_line_is_malformed(tmp_path):
  path = tmp_path / "bad.jsonl"
  path.write_text(json.dumps(_GOOD) + "\n\n" + json.dumps(_GOOD))
  with pytest.raises(ValueError, match="line 2 is not JSON"):
    long_context.load(path)


@pytest.mark.parametrize(
  "name, message",
  [
    ("a.parquet", "a.parquet is not a parquet file"),
    ("a.csv", "unknown kind of file.*json, .jsonl, .parquet"),
  ],
)
def test_another_kind_of_file_is_refused(tmp_path, name, message):
  (tmp_path / name).write_bytes(b"nonsense")
  with pytest.raises(ValueError, match=message):
    long_context.load(tmp_path / name)


def _records(count, answer="Ada"):
  return [
    {"context": f"c{i}", "input": f"q{i}", "answers": [answer]}
    for i in range(count)
  ]


def _make(path, eval_path="", holdout=2, seed=0):
  return long_context.make(
    str(path), str(eval_path), holdout, "reward_boxed", "sub_em", seed
  )


def test_epochs_are_permutations(tmp_path):
  env = _make(_json(tmp_path / "a.json", _records(12)))
  assert len(env.train) == 10
  stream = env.train_examples(0, 30)
  epochs = [[e.question for e in stream[i : i + 10]] for i in (0, 10, 20)]
  assert all(set(epoch) == {e.question for e in env.train} for epoch in epochs)
  assert epochs[0] != epochs[1] != epochs[2]
  # A cursor gives what one pass gave: what a resumed run depends on.
  again = env.train_examples(0, 7) + env.train_examples(7, 23)
  assert again == stream
  assert [e.id for e in stream] == list(range(30))
  assert env.train_examples(3, 0) == []
  other = dataclasses.replace(env, seed=1)
  assert other.train_examples(0, 10) != stream[:10]


def test_held_out_questions_are_not_trained_on(tmp_path):
  # The same question stands in several records.
  records = _records(6) + _records(6, answer="Bob")
  env = _make(_json(tmp_path / "a.json", records))
  (held_out,) = env.eval_sets().values()
  assert len(held_out) == 4 and len(env.train) == 8
  assert not {e.question for e in held_out} & {e.question for e in env.train}
  # Nor do they share random numbers with any example of many epochs.
  seen = {e.id for e in env.train_examples(0, 100)}
  assert len({e.id for e in held_out} - seen) == 4
  chosen = {
    frozenset(
      e.question
      for e in _make(tmp_path / "a.json", seed=seed).eval_sets()["heldout"]
    )
    for seed in range(5)
  }
  assert len(chosen) > 1


def test_a_question_in_both_files_is_refused(tmp_path):
  train = _json(tmp_path / "a.json", _records(5))
  held_out = _json(tmp_path / "b.json", _records(3)[2:])
  with pytest.raises(ValueError, match="1 questions of .*b.json.*'q2'"):
    _make(train, held_out)


def test_case_and_spaces_make_no_other_question(tmp_path):
  shouted = [{**_GOOD, "input": " WHO?\n"}, *_records(3)]
  train = _json(tmp_path / "a.json", shouted)
  with pytest.raises(ValueError, match="1 questions of .*b.json.*'Who.'"):
    _make(train, _json(tmp_path / "b.json", [_GOOD]))
  both = _json(tmp_path / "c.json", [_GOOD, *shouted])
  for seed in range(8):
    env = _make(both, holdout=1, seed=seed)
    assert len(env.eval_sets()["heldout"]) == (
      2 if env.eval_sets()["heldout"][0].context == "A text." else 1
    )


def test_evaluation_alone(tmp_path):
  env = _make("", _json(tmp_path / "eval_50.json", _records(3)))
  ((name, examples),) = env.eval_sets().items()
  assert name == "eval_50"
  assert not {e.id for e in examples} & set(range(1000))
  with pytest.raises(ValueError, match="nothing to train on"):
    env.train_examples(0, 1)


@pytest.mark.parametrize("holdout", [0, 5, 9])
def test_too_much_held_out_is_refused(tmp_path, holdout):
  path = _json(tmp_path / "a.json", _records(5))
  with pytest.raises(ValueError, match=f"holdout={holdout}.*5 different"):
    _make(path, holdout=holdout)


def test_no_file_is_refused():
  with pytest.raises(ValueError, match="config.data.path is empty"):
    _make("")


@pytest.mark.parametrize(
  "names, message",
  [
    (("em", "em"), "config.data.reward_name='em': choose one of reward_boxed"),
    (("reward_f1", "reward_f1"), "config.data.metric_name='reward_f1'.* em,"),
  ],
)
def test_unknown_verifiers_are_refused(tmp_path, names, message):
  path = _json(tmp_path / "a.json", _records(5))
  with pytest.raises(ValueError, match=message):
    long_context.make(str(path), "", 1, *names, 0)


def test_reward_and_metric(tmp_path):
  env = _make(_json(tmp_path / "a.json", _records(5)))
  example = env.train[0]
  assert env.reward(example, r"\boxed{Ada}") == 1
  assert env.reward(example, "Ada it was") == 0  # strict
  assert env.metric(example, "Ada it was") == 1  # lenient
  assert env.label(example, "Ada") == {}
  np.testing.assert_equal(env.seed, 0)


def _sets(tmp_path, **changes):
  paths = {
    "long_100": str(_json(tmp_path / "l.json", _records(3))),
    "short_50": str(_json(tmp_path / "s.json", _records(3))),
    "words": str(
      _json(tmp_path / "w.json", [{**_GOOD, "answers": ["a", "b"]}])
    ),
  }
  settings = {"eval_paths": paths, "eval_metrics": {"words": "ruler_all"}}
  settings |= changes
  return long_context.make("", "", 0, "reward_boxed", "sub_em", 0, **settings)


def test_several_files_to_evaluate_on(tmp_path):
  """In the order of their numbers; the same questions may be in two."""
  env = _sets(tmp_path)
  sets = env.eval_sets()
  assert list(sets) == ["short_50", "long_100", "words"]
  ids = [e.id for examples in sets.values() for e in examples]
  assert len(set(ids)) == 7 and min(ids) >= 1 << 24 and max(ids) < 1 << 31
  # Each has its metric: one of two words is enough for sub_em alone.
  assert env.metric(sets["words"][0], "a") == 0
  assert env.metric(sets["words"][0], "a, b") == 1
  assert env.metric(sets["short_50"][0], "Ada it was") == 1
  # Scores by other metrics are not compared.
  assert env.metric_name == "sub_em, ruler_all in words"


@pytest.mark.parametrize(
  "changes, message",
  [
    ({"eval_paths": {"a": ""}}, "eval_paths.a is empty"),
    ({"eval_metrics": {"words": "f2"}}, "eval_metrics.words='f2': choose one"),
    ({"eval_metrics": {"word": "f1"}}, "no set 'word' in .*short_50"),
    (
      {"eval_paths": {f"s{i}": "x.json" for i in range(65)}},
      "65 sets: expected at most 64",
    ),
  ],
)
def test_wrong_sets_are_refused(tmp_path, changes, message):
  changes = {"eval_metrics": {}, **changes}
  with pytest.raises(ValueError, match=message):
    _sets(tmp_path, **changes)


def test_files_are_named_once(tmp_path):
  path = str(_json(tmp_path / "a.json", _records(3)))
  names = ("reward_boxed", "sub_em", 0)
  with pytest.raises(ValueError, match="one file or several, not both"):
    long_context.make("", path, 0, *names, eval_paths={"b": path})
  with pytest.raises(ValueError, match="3 questions of .* also in"):
    long_context.make(path, "", 0, *names, eval_paths={"b": path})
