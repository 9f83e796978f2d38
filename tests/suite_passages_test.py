import json

import numpy as np
import pytest
import transformers

from memjax import tokenizer as tokenizer_lib
from memjax.envs import hotpotqa
from memjax.envs.suite import env as env_lib
from memjax.envs.suite import passages
from memjax.envs.suite import philox
from memjax.envs.suite import readers
from memjax.envs.suite import tasks


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """Twelve questions with two passages each, and a tokenizer of bytes."""
  path = tmp_path_factory.mktemp("qa")
  said = lambda n: (
    f"Passage {n} says that thing {n} is blue, and near it all is."
  )
  records = [
    {
      "question": f"Which thing is blue in {i}?" if i else "Is it blue?",
      "answer": f"thing {i}" if i else "yes",
      # The answer of question 2 is also the title of a passage.
      "context": [
        ["thing 2" if i == 5 else f"Title {i}", [said(i)]],
        [f"Other {i}", [f"Other {i} says nothing that anybody has asked for."]],
      ],
    }
    for i in range(12)
  ]
  (path / "qa.json").write_text(json.dumps(records))
  tokenizer_lib.train_bpe(["thing"], 280, []).save(path / "bytes")
  return str(path / "qa.json"), str(path / "bytes")


def _task(pool, held_out=4, lengths=(600,)):
  return passages.task(pool, held_out, lengths, seed=1)


def _examples(task, split, count, length=600):
  return [tasks.example(task, "qa", length, 1, split, i) for i in range(count)]


def test_questions_are_parted_passages_are_shared(files):
  pool = passages.load(*files)
  task = _task(pool)
  held_out = [x.question for x in _examples(task, "eval", 4)]
  trained = [x.question for x in _examples(task, "train", 16)]
  assert len(set(held_out)) == 4 and len(set(trained)) == 8
  assert not set(held_out) & set(trained)
  assert trained[:8] == trained[8:]


def test_packing(files):
  pool = passages.load(*files)
  task = _task(pool, held_out=12)
  for x in _examples(task, "eval", 12, int(pool.tokens.sum())):
    blocks = x.context.removesuffix("\n\n").split("\n\n")
    item = next(i for i in pool.items if i["question"] == x.question)
    texts = []
    for number, block in enumerate(blocks, start=1):
      head, text = block.split("\n", 1)
      assert head == f"Document {number}:"
      texts.append(text)
    assert len(set(texts)) == len(texts) > 10
    # Its own passages are there, and none that is named like the answer.
    assert {f"{t}\n{text}" for t, text in item["documents"]} <= set(texts)
    others = [t.split("\n")[0] for t in texts]
    assert (
      x.answers[0] not in others or x.question == "Which thing is blue in 5?"
    )
    assert readers.score(x, readers.honest(x)) == 1
    assert x.meta["chance"] == (0.5 if x.answers == ("yes",) else 0)


def test_yes_or_no_is_guessed_where_it_is_asked_for(files):
  pool = passages.load(*files)
  found = _examples(_task(pool, 12), "eval", 12)
  for x in found:
    assert (readers.nothing(x) != "") == (x.question == "Is it blue?")


@pytest.mark.parametrize(
  "held_out, lengths, message",
  [
    (13, (600,), "eval_examples=13: the file.*12 questions; choose 1 to 12"),
    (4, (100_000,), "lengths has 100000: the passages of config.data.path"),
    (4, (5,), "lengths has 5: the passages"),
  ],
)
def test_what_cannot_be_packed_is_refused(files, held_out, lengths, message):
  with pytest.raises(ValueError, match=message):
    _task(passages.load(*files), held_out, lengths)


def test_nothing_is_left_to_train_on(files):
  task = _task(passages.load(*files), held_out=12)
  with pytest.raises(ValueError, match="none is left to train on"):
    _examples(task, "train", 1)


def test_the_task_needs_its_file():
  with pytest.raises(ValueError, match="needs a file.*config.data.path"):
    tasks.TASKS["qa"].draw(philox.Stream(0), 1000)


def test_hotpotqa_with_the_real_tokenizer(data_dir):
  """To the token; the answer stands in the text where it is no yes or no."""
  (path,) = (data_dir / "hotpotqa").glob("*_hf.json")
  tokenizer = data_dir / "qwen3_tokenizer"
  real = transformers.AutoTokenizer.from_pretrained(tokenizer)
  env = env_lib.Suite(
    tasks=("qa",),
    lengths=(3072, 8192),
    eval_examples=40,
    path=str(path),
    tokenizer=str(tokenizer),
  )
  task = env._tasks["qa"]
  there = []
  for name, examples in env.eval_sets().items():
    length = int(name.split("_")[1])
    assert len({x.question for x in examples}) == 40
    for i, x in enumerate(examples):
      stream = philox.Stream(0, "qa", length, "eval", i)
      text, tokens = task.draw(stream, length).render()
      assert text == x.context
      count = len(real.encode(text, add_special_tokens=False))
      assert count == tokens and length - 600 < tokens <= length
    there += [x.answers[0] in x.context for x in examples]
  assert np.mean(there) > 0.8
  items = {item["question"]: item for item in hotpotqa.load(path)}
  for x in examples:
    for title, _ in items[x.question]["documents"]:
      assert f"\n{title}\n" in x.context


def test_settings_are_checked_before_an_example_is_drawn(files):
  path, tokenizer = files
  fields = {"tasks": ("qa",), "eval_examples": 4, "seed": 1}
  suite = lambda length: env_lib.Suite(
    lengths=(length,), path=path, tokenizer=tokenizer, **fields
  )
  assert list(suite(1024).eval_sets()) == ["qa_1024"]
  with pytest.raises(ValueError, match="lengths=600: expected 1024 to.*qa"):
    suite(600)
  with pytest.raises(ValueError, match="lengths has 9000"):
    suite(9000)
