import json
import subprocess
import sys

import numpy as np
import pytest
from absl import app
from absl.testing import flagsaver

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


def test_gold_documents_are_those_that_answer():
  """As the context has them and in its order; none where none are known."""
  items = _items(5, own=4)
  for item in items[:4]:
    title, text = item["documents"][2]
    item["documents"][2] = (title.upper(), text)
    item["supporting"] = (title,)
  items[0]["supporting"] = ("t0.3", "t0.1")
  records = hotpotqa.build(items, 9, seed=0)
  for i, record in enumerate(records[:4]):
    parts, gold = record["context"].split("\n\n"), record["gold_documents"]
    assert gold == [part for part in parts if part in gold]
    texts = {0: {"text 0.1", "text 0.3"}}.get(i, {f"text {i}.2"})
    assert {part.split("\n")[2] for part in gold} == texts
  assert "gold_documents" not in records[4]


def test_each_question_has_a_shuffle_of_its_own():
  records = hotpotqa.build(_items(6), 12, seed=0)
  places = [
    _titles(record).index(f"t{i}.0") for i, record in enumerate(records)
  ]
  assert len(set(places)) > 1
  # The same call gives the same.
  assert hotpotqa.build(_items(6), 12, seed=0)[2] == records[2]
  assert hotpotqa.build(_items(6), 12, seed=1)[2] != records[2]


def test_a_document_of_the_same_title_is_not_added():
  items = _items(3)
  items[1]["documents"].append(("t0.0", "another text"))
  for record in hotpotqa.build(items, 4, seed=0)[:1]:
    assert "another text" not in record["context"]


def test_titles_differ_by_more_than_case(tmp_path):
  items = _items(3)
  items[1]["documents"] = [("T0.0", "another text"), ("x", "one")]
  items[2]["documents"] = [("X ", "two"), ("A0", "the answer's own document")]
  # Question 0 draws from x or X alone: T0.0 is its own, A0 is its answer.
  assert len(_titles(hotpotqa.build(items, 3, seed=0, limit=1)[0])) == 3
  with pytest.raises(ValueError, match="question 1 .* 1 others.* 2 and 3"):
    hotpotqa.build(items, 4, seed=0)


def test_every_place_is_as_likely():
  """A chi-squared test of where the question's first document stands."""
  places = [
    _titles(record).index(f"t{i}.0")
    for i, record in enumerate(hotpotqa.build(_items(600), 10, seed=0))
  ]
  expected = 60
  counts = np.bincount(places, minlength=10)
  # 9 degrees of freedom: above 27.9 once in a thousand.
  assert ((counts - expected) ** 2 / expected).sum() < 27.9


def test_larger_contexts_hold_the_smaller_ones():
  for small, large in zip(
    hotpotqa.build(_items(20), 5, seed=0), hotpotqa.build(_items(20), 9, seed=0)
  ):
    assert set(_titles(small)) < set(_titles(large))


def test_a_limit_takes_the_first_questions():
  limited = hotpotqa.build(_items(6), 8, seed=0, limit=2)
  assert limited == hotpotqa.build(_items(6), 8, seed=0)[:2]


def test_impossible_numbers_are_refused():
  with pytest.raises(ValueError, match="num_docs=11.*between 2 and 10"):
    hotpotqa.build(_items(5), 11, seed=0)
  with pytest.raises(ValueError, match="num_docs=1"):
    hotpotqa.build(_items(5), 1, seed=0)


_RECORD = {"question": "q", "answer": "a", "context": [["t", ["s"]]]}


@pytest.mark.parametrize(
  "change, message",
  [
    ({"question": 3}, "record 2: field 'question' is 3"),
    ({"answer": " "}, "record 2: field 'answer' is ' '"),
    ({"answer": None}, "record 2: field 'answer' is None"),
    ({"context": None}, "record 2: context is None"),
    ({"context": []}, r"record 2: context is \[\]"),
    ({"context": ["ab"]}, "record 2: a paragraph is 'ab'"),
    ({"context": [[" ", ["s"]]]}, "record 2: a paragraph is"),
    ({"context": [["t", "text"]]}, "record 2: a paragraph is"),
    ({"context": [["t", [1]]]}, "record 2: a paragraph is"),
    (
      {"context": {"title": ["t"], "sentences": []}},
      "record 2: context has 1 titles but sentences of 0 paragraphs",
    ),
    (
      {"context": {"title": "t", "sentences": [["s"]]}},
      "record 2: title and sentences of context are str and list",
    ),
    ({"supporting_facts": []}, r"record 2: supporting_facts is \[\], expected"),
    ({"supporting_facts": {"a": 1}}, "supporting_facts is {'a': 1}, expected"),
    ({"supporting_facts": "t"}, "supporting_facts is 't', expected"),
    (
      {"supporting_facts": [["t", 0], ["u", 1]]},
      "record 2: supporting_facts names 'u', which is none of the 1 paragraphs",
    ),
    ({"supporting_facts": [[3, 0]]}, "supporting_facts names 3, which is none"),
  ],
)
def test_a_malformed_record_is_named(tmp_path, change, message):
  path = tmp_path / "x.json"
  path.write_text(json.dumps([_RECORD, {**_RECORD, **change}]))
  with pytest.raises(ValueError, match=message):
    hotpotqa.load(path)


def test_both_layouts_of_one_question_are_the_same(tmp_path):
  lists = {**_RECORD, "context": [["t", ["One.", " Two. "]], ["u", ["Three."]]]}
  columns = {"title": ["t", "u"], "sentences": [["One.", " Two. "], ["Three."]]}
  path = tmp_path / "x.json"
  path.write_text(json.dumps([lists, {**_RECORD, "context": columns}]))
  first, second = hotpotqa.load(path)
  assert first == second
  assert first["documents"] == [("t", "One. Two."), ("u", "Three.")]


@pytest.mark.parametrize(
  "content, message",
  [
    ("[", "cannot be read as JSON"),
    ("[3]", "record 1: expected an object, found int"),
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


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no such file"):
    hotpotqa.load(tmp_path / "x.json")


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = tmp_path / "x.json"
  path.write_text("old")
  with pytest.raises(ValueError):  # no UTF-8 for half a character
    hotpotqa._write(path, [{"input": "\ud800"}])
  assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
  assert path.read_text() == "old"


@pytest.mark.parametrize("name", _FILES)
def test_both_layouts(data_dir, name):
  items = hotpotqa.load(data_dir / "hotpotqa" / name)
  assert len(items) == 100
  assert all(len(item["documents"]) >= 2 for item in items)
  assert all(title and text for i in items for title, text in i["documents"])
  # HotpotQA's questions have two paragraphs that answer them, by which an
  # answer that is no yes or no can be told.
  gold = [x["gold_documents"] for x in hotpotqa.build(items, 50, seed=0)]
  assert {len(texts) for texts in gold} == {2}
  told = [
    item["answer"].lower() in " ".join(texts).lower()
    for item, texts in zip(items, gold)
    if item["answer"] not in ("yes", "no")
  ]
  assert np.mean(told) > 0.97


def test_the_command_line(data_dir, tmp_path):
  command = [sys.executable, "-m", "memjax.envs.hotpotqa"]
  source = data_dir / "hotpotqa" / _FILES[0]
  output = tmp_path / "new" / "eval_50.json"
  arguments = [f"--input={source}", f"--output={output}", "--num_docs=50"]
  subprocess.run([*command, *arguments, "--limit=7"], check=True)
  examples = long_context.load(output)
  assert len(examples) == 7
  assert examples[0].context.count("Document ") >= 50
  for example in examples:
    oracle = example.meta["oracle"]
    assert len(oracle) == 2 and all(x in example.context for x in oracle)
  assert json.loads(output.read_text())[3]["num_docs"] == 50
  before = output.read_bytes()
  failed = subprocess.run(
    [*command, *arguments[:2], "--num_docs=9999"],
    capture_output=True,
    text=True,
  )
  assert failed.returncode == 1
  assert failed.stderr.startswith("hotpotqa: num_docs=9999")
  assert failed.stderr.count("\n") == 1
  assert output.read_bytes() == before


@pytest.mark.parametrize(
  "name, leftover, message",
  [
    (
      "eval.txt",
      [],
      "hotpotqa: .*eval.txt: expected a name that ends in .json",
    ),
    ("x.json/eval.json", [], "hotpotqa: .*x.json"),  # a file, not a folder
    ("eval.json", ["50"], "unknown argument '50'"),
  ],
)
def test_main_refuses_in_one_line(tmp_path, name, leftover, message):
  source = tmp_path / "x.json"
  source.write_text(json.dumps([_RECORD]))
  with flagsaver.as_parsed(
    (hotpotqa._INPUT, str(source)),
    (hotpotqa._OUTPUT, str(tmp_path / name)),
    (hotpotqa._NUM_DOCS, "1"),
    (hotpotqa._SEED, "0"),
    (hotpotqa._LIMIT, "0"),
  ):
    with pytest.raises((SystemExit, app.UsageError), match=message):
      hotpotqa.main(["hotpotqa", *leftover])
