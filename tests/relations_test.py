import collections

import numpy as np
import pytest

from memjax import tokenizer as tokenizer_lib
from memjax.envs import relations


@pytest.fixture(scope="module")
def env():
  return relations.Relations(seed=3, eval_examples=3)


@pytest.fixture(scope="module")
def examples(env):
  return [env.example("train", i) for i in range(1500)]


def _solve(example):
  """The answer of a reader who forgets nothing."""
  words = example.context.split()
  return relations.known(example.question, words)[-1].split("=")[1]


def test_a_reader_who_forgets_nothing_is_right(examples):
  assert all((_solve(e),) == e.answers for e in examples)


def test_the_oracle_memory_is_enough(examples):
  for example in examples:
    (oracle,) = example.meta["oracle"]
    found = relations.known(example.question, oracle.split())
    assert found[-1].endswith("=" + example.answers[0])
    assert len(found) == 1 + example.question.endswith(">?")


def test_kinds(examples):
  kinds = collections.Counter(e.meta["kind"] for e in examples)
  assert abs(kinds["one hop"] / 1500 - 0.5) < 0.06
  assert set(kinds) == {
    "one hop",
    "two hops, home after link",
    "two hops, home before link",
  }
  for example in examples:
    words = example.context.split()
    facts = relations.known(example.question, words)
    if len(facts) == 2:
      last = [len(words) - words[::-1].index(fact) for fact in facts]
      after = example.meta["kind"].endswith("after link")
      assert after == (last[1] > last[0])


def test_guessing_is_at_chance(examples):
  """The most frequent home of the text, and the last one, say little."""
  most, last = [], []
  for example in examples:
    homes = [w.split("=")[1] for w in example.context.split() if "=" in w]
    most.append(collections.Counter(homes).most_common(1)[0][0])
    last.append(homes[-1])
  answers = [e.answers[0] for e in examples]
  assert np.mean(np.array(most) == answers) < 0.25
  assert np.mean(np.array(last) == answers) < 0.2
  assert max(collections.Counter(answers).values()) < 1500 / 12 * 1.4


def test_known_takes_the_latest_link():
  memory = "kim>leo leo=bern kim>ada ada=rome leo=oslo".split()
  assert relations.known("kim>?", memory) == ["kim>ada", "ada=rome"]
  assert relations.known("leo?", memory) == ["leo=oslo"]
  assert relations.known("kim>?", ["leo=bern"]) == []
  assert relations.known("kim>?", ["kim>leo"]) == ["kim>leo"]


def test_words_and_labels(env, examples):
  tokenizer = tokenizer_lib.from_words(relations.vocabulary())
  for example in examples[:50]:
    ids = tokenizer.encode_batch([example.context, example.question])
    assert len(ids[0]) <= 50 and len(ids[1]) == 1
    label = env.label(example, example.answers[0])
    assert label == {example.meta["kind"]: 1.0}


def test_the_demonstrator_is_careless_on_purpose(env):
  rng = np.random.default_rng(0)
  right = {}
  for attentive in (0.0, 0.6, 1.0):
    done = []
    for i in range(300):
      example = env.example("demo", i)
      turns = relations.demonstrate(example, rng, 10, 3, attentive)
      done.append(turns[-1]["response"] == example.answers[0])
    right[attentive] = np.mean(done)
  assert right[0.0] < 0.15 < right[0.6] < 0.5 < right[1.0]
