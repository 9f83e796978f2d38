import collections

import numpy as np
import pytest

from memjax.envs import facts


@pytest.fixture(scope="module")
def env():
  return facts.Facts(seed=5, eval_examples=4)


def _about(example):
  name = example.question.removesuffix("?")
  words = example.context.split()
  return [w.split("=")[1] for w in words if w.startswith(name + "=")]


def test_the_last_city_wins(env):
  for i in range(300):
    example = env.example("train", i)
    cities = _about(example)
    assert example.answers == (cities[-1],)
    assert example.meta["stale"] == tuple(cities[:-1])
    assert len(set(cities)) == len(cities)
    kind = "updated" if len(cities) > 1 else "unchanged"
    assert example.meta["kind"] == kind
    (oracle,) = example.meta["oracle"]
    assert oracle.endswith("=" + cities[-1])


def test_the_distribution_is_the_documented_one(env):
  """The same for training and evaluation; .5, .3, .2 mentions, 1/12 each."""
  for split in ("train", "eval"):
    examples = [env.example(split, i) for i in range(2000)]
    counts = collections.Counter(len(_about(e)) for e in examples)
    for mentions, share in ((1, 0.5), (2, 0.3), (3, 0.2)):
      assert abs(counts[mentions] / 2000 - share) < 0.05
    answers = collections.Counter(e.answers[0] for e in examples)
    assert len(answers) == 12
    assert max(answers.values()) < 2000 / 12 + 5 * (2000 / 12) ** 0.5
    words = [len(e.context.split()) for e in examples]
    assert (min(words), max(words)) == (46, 50)
    fillers = sum(
      w in facts.FILLERS for e in examples for w in e.context.split()
    )
    # A quarter, but for the places that the asked facts took.
    assert abs(fillers / sum(words) - 0.25) < 0.02
    # Other people's facts give nothing away about the asked one's city.
    guess = [
      collections.Counter(
        w.split("=")[1] for w in e.context.split() if "=" in w
      ).most_common(1)[0][0]
      == e.answers[0]
      for e in examples
    ]
    assert np.mean(guess) < 0.2


def test_scales_multiply_the_length(env):
  sets = env.eval_sets()
  assert list(sets) == ["x1", "x2", "x4", "x8"]
  for name, examples in sets.items():
    scale = int(name[1:])
    for example in examples:
      assert 50 * scale - 4 <= len(example.context.split()) <= 50 * scale


def test_a_function_of_seed_split_and_index(env):
  again = facts.Facts(seed=5, eval_examples=4)
  assert env.example("train", 7) == again.example("train", 7)
  others = [
    env.example("eval", 7),
    env.example("train", 8),
    env.example("train", 7, scale=2),
    facts.Facts(seed=6).example("train", 7),
  ]
  assert all(o.context != env.example("train", 7).context for o in others)
  assert env.train_examples(3, 2) == [
    env.example("train", 3),
    env.example("train", 4),
  ]


def test_labels(env):
  examples = [env.example("train", i) for i in range(50)]
  updated = next(e for e in examples if e.meta["kind"] == "updated")
  unchanged = next(e for e in examples if e.meta["kind"] == "unchanged")
  assert env.label(unchanged, unchanged.answers[0]) == {"unchanged fact": 1.0}
  assert env.label(updated, updated.answers[0]) == {
    "updated fact": 1.0,
    "updated fact, stale answer": 0.0,
  }
  assert env.label(updated, updated.meta["stale"][0]) == {
    "updated fact": 0.0,
    "updated fact, stale answer": 1.0,
  }


def test_all_words_are_in_the_vocabulary(env, tokenizer):
  for i in range(50):
    example = env.example("train", i)
    tokenizer.encode_batch(
      [example.context, example.question, *example.answers]
    )


@pytest.mark.parametrize(
  "kwargs, message",
  [
    ({"reward_name": "bleu"}, "config.data.reward_name='bleu'"),
    ({"metric_name": "bleu"}, "config.data.metric_name='bleu'"),
    ({"mentions": (0.5, 0.4)}, "mentions.*add up to 1"),
  ],
)
def test_bad_settings_are_refused(kwargs, message):
  with pytest.raises(ValueError, match=message):
    facts.Facts(**kwargs)


def test_the_demonstrator_is_careless_on_purpose(env):
  rng = np.random.default_rng(0)
  right = {}
  for attentive in (0.0, 0.45, 1.0):
    done = []
    for i in range(400):
      example = env.example("demo", i)
      turns = facts.demonstrate(example, rng, 10, 3, attentive)
      assert turns[-1]["chunk"] is None
      assert all(len(t["response"].split()) <= 3 for t in turns)
      done.append(turns[-1]["response"] == example.answers[0])
    right[attentive] = np.mean(done)
  assert right[0.0] < 0.2 < right[0.45] < 0.6
  assert right[1.0] == 1.0
