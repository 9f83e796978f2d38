"""MemAgent's evaluation files and HotpotQA, by their published scorers.

Files in exactly the shape that MemAgent's scripts write, with contexts of our
own; and the real HotpotQA where it is.
"""

import json

import pytest

from memjax import rewards
from memjax.envs import hotpotqa
from memjax.envs import long_context


def _write(path, records):
  path.write_text(json.dumps(records))
  return path


def _hotpotqa(index):
  """A record of eval_50.json."""
  return {
    "context": "\n\n".join(
      f"Document {i}:\nTitle {i}\nText {i} of {index}." for i in range(1, 51)
    ),
    "input": f"Who wrote text {index}?",
    "answers": [f"Author {index}"],
    "num_docs": 50,
    "index": index,
  }


def _ruler(index, outputs, **fields):
  """A record of eval_<task>_<length>.json."""
  return {
    "index": index,
    "input": f"What are the numbers for {index}?",
    "context": f"One of the special magic numbers for {index} is: 7.",
    "outputs": outputs,
    "answer_prefix": " The special magic numbers are",
    **fields,
  }


def _make(path, metric_name):
  env = long_context.make("", str(path), 128, "reward_boxed", metric_name, 0)
  ((name, examples),) = env.eval_sets().items()
  assert name == path.stem and list(env.files) == [path.name]
  return env, examples


def test_ruler_hqa(tmp_path):
  """eval_50.json: sub_em, in both directions."""
  path = _write(tmp_path / "eval_50.json", [_hotpotqa(i) for i in range(128)])
  env, examples = _make(path, "sub_em")
  assert len(examples) == 128
  assert examples[3].question == "Who wrote text 3?"
  assert examples[3].context.count("Document ") == 50
  assert examples[3].answers == ("Author 3",)
  assert examples[3].meta == {"num_docs": 50, "index": 3}
  for text, score in (
    (r"\boxed{Author 3}", 1),
    ("the author 3, I think", 1),
    ("author", 1),  # part of the answer
    ("Writer 3", 0),
    ("", 0),
  ):
    assert env.metric(examples[3], text) == score


def test_ruler_with_several_values(tmp_path):
  """string_match_all: the share of the values that are named."""
  rows = [_ruler(0, ["12", "34", "56", "78"], length=8_190)]
  path = _write(tmp_path / "eval_niah_multivalue_8192.json", rows)
  env, (example,) = _make(path, "ruler")
  assert example.answers == ("12", "34", "56", "78")
  assert example.meta["length"] == 8_190 and example.meta["index"] == 0
  assert "outputs" not in example.meta
  assert env.metric(example, "12, 56 and 99") == 2 / 4
  assert env.metric(example, "78 56 34 12") == 1


def test_ruler_qa(tmp_path):
  """qa_1 has no length, and its first output counts alone."""
  rows = [_ruler(0, ["in Rome", "Roma"])]
  path = _write(tmp_path / "eval_qa_1_8192.json", rows)
  env, (example,) = _make(path, "sub_em_first")
  assert env.metric(example, "Rome") == 1
  assert env.metric(example, "Roma") == 0
  assert _make(path, "sub_em")[0].metric(example, "Roma") == 1


def test_files_that_store_numbers_of_documents_are_refused(tmp_path):
  """From 12,800 documents on a record has no text."""
  row = {**_hotpotqa(0), "context": [3, 1, 2]}
  path = _write(tmp_path / "eval_12800.json", [row])
  with pytest.raises(ValueError, match="record 1: .*'context' is .3, 1, 2., "):
    _make(path, "sub_em")
  del row["context"]
  with pytest.raises(ValueError, match="record 1: no field 'context', only "):
    _make(_write(path, [row]), "sub_em")


# HotpotQA's script: normal form, EM, F1; worked out by hand.
_GOLDEN = [
  ("The Chief of Protocol.", "Chief of Protocol", 1, 1),
  ("chief  of\tprotocol", "Chief of Protocol", 1, 1),
  ("a chief", "Chief of Protocol", 0, 2 * 1 * (1 / 3) / (1 + 1 / 3)),
  ("Chief of staff, of the U.S.", "chief of US", 0, 2 * 3 / (5 + 3)),
  ("yes", "yes", 1, 1),
  ("Yes!", "yes", 1, 1),
  ("yes they were", "yes", 0, 0),
  ("yes", "no", 0, 0),
  ("no", "no one", 0, 0),
  ("noanswer", "noanswer", 1, 1),
  ("noanswer given", "noanswer", 0, 0),
  ("1,000", "1000", 1, 1),
  ("ad-hoc", "ad hoc", 0, 0),  # punctuation goes, nothing comes in its place
]


@pytest.mark.parametrize("text, answer, em, f1", _GOLDEN)
def test_hotpotqa_scores(text, answer, em, f1):
  assert rewards.METRICS["em"](text, [answer]) == em
  assert rewards.METRICS["f1"](text, [answer]) == pytest.approx(f1)


@pytest.mark.parametrize(
  "name",
  [
    "hotpotqa_dev_distractor_first100_hf.json",
    "hotpotqa_distractor_reflexion100.json",
  ],
)
def test_real_hotpotqa_is_packed_and_scored(data_dir, tmp_path, name):
  source = data_dir / "hotpotqa" / name
  if not source.is_file():
    pytest.skip(f"there is no {source}")
  records = hotpotqa.build(hotpotqa.load(source), 50, seed=0)
  path = _write(tmp_path / "eval_50.json", records)
  for metric_name in ("em", "f1", "sub_em", "sub_em_first"):
    env, examples = _make(path, metric_name)
    assert len(examples) == 100
    for example in examples:
      assert example.meta["num_docs"] == 50
      assert example.context.startswith("Document 1:\n")
      assert env.metric(example, example.answers[0]) == 1
      assert env.metric(example, "zzz") == 0
