import json
import subprocess
import sys

import pytest

from memjax.envs import hotpotqa
from memjax.envs import long_context

_FILES = (
  "hotpotqa_dev_distractor_first100_hf.json",
  "hotpotqa_distractor_reflexion100.json",
)


def _items(count, own=2):
  return [
    {
      "question": f"q{i}",
      "answer": f"a{i}",
      "documents": [(f"t{i}.{j}", f"text {i}.{j}") for j in range(own)],
    }
    for i in range(count)
  ]


def _titles(record):
  parts = record["context"].split("\n\n")
  for number, part in enumerate(parts, start=1):
    assert part.startswith(f"Document {number}:\n")
  return [part.split("\n")[1] for part in parts]


def test_contexts_hold_the_question_s_own_documents():
  for i, record in enumerate(hotpotqa.build(_items(5), 6, seed=0)):
    titles = _titles(record)
    assert len(titles) == len(set(titles)) == record["num_docs"] == 6
    assert {f"t{i}.0", f"t{i}.1"} <= set(titles)
    assert (record["input"], record["answers"]) == (f"q{i}", [f"a{i}"])


def test_each_question_has_a_shuffle_of_its_own():
  records = hotpotqa.build(_items(6), 12, seed=0)
  places = [
    _titles(record).index(f"t{i}.0") for i, record in enumerate(records)
  ]
  assert len(set(places)) > 1
  # Neither the questions behind it nor the call move a question.
  assert hotpotqa.build(_items(6), 12, seed=0)[2] == records[2]
  assert hotpotqa.build(_items(6), 12, seed=1)[2] != records[2]


def test_a_document_of_the_same_title_is_not_added():
  items = _items(3)
  items[1]["documents"].append(("t0.0", "another text"))
  for record in hotpotqa.build(items, 4, seed=0)[:1]:
    assert "another text" not in record["context"]


def test_impossible_numbers_are_refused():
  with pytest.raises(ValueError, match="num_docs=11.*between 2 and 10"):
    hotpotqa.build(_items(5), 11, seed=0)
  with pytest.raises(ValueError, match="num_docs=1"):
    hotpotqa.build(_items(5), 1, seed=0)


@pytest.mark.parametrize(
  "content, message",
  [
    ("[", "cannot be read as JSON"),
    ("[]", "list of questions that is not empty"),
    ('[{"question": "q", "answer": "a"}]', "record 1: no field 'context'"),
    (
      '[{"question": "q", "answer": "a", "context": [["t"]]}]',
      "record 1: a paragraph is",
    ),
    (
      '[{"question": "q", "answer": "a", "context": {"title": []}}]',
      "record 1: context has the fields title",
    ),
  ],
)
def test_malformed_files_are_refused(tmp_path, content, message):
  path = tmp_path / "x.json"
  path.write_text(content)
  with pytest.raises(ValueError, match=message):
    hotpotqa.load(path)


@pytest.mark.parametrize("name", _FILES)
def test_both_layouts(data_dir, name):
  items = hotpotqa.load(data_dir / "hotpotqa" / name)
  assert len(items) == 100
  assert all(len(item["documents"]) >= 2 for item in items)
  assert all(title and text for i in items for title, text in i["documents"])


def test_the_command_line(data_dir, tmp_path):
  command = [sys.executable, "-m", "memjax.envs.hotpotqa"]
  source = data_dir / "hotpotqa" / _FILES[0]
  output = tmp_path / "new" / "eval_50.json"
  arguments = [f"--input={source}", f"--output={output}", "--num_docs=50"]
  subprocess.run([*command, *arguments, "--limit=7"], check=True)
  examples = long_context.load(output)
  assert len(examples) == 7
  assert examples[0].context.count("Document ") >= 50
  assert json.loads(output.read_text())[3]["num_docs"] == 50
  failed = subprocess.run(
    [*command, *arguments[:2], "--num_docs=9999"],
    capture_output=True,
    text=True,
  )
  assert failed.returncode == 1
  assert "num_docs=9999" in failed.stderr
  assert "Traceback" not in failed.stderr
