"""Worlds drawn from the suite's counter; readers: see suite_tasks_test."""

import collections

import numpy as np
import pytest
import scipy.stats

from memjax.envs import dialogues
from memjax.envs import relations
from memjax.envs.suite import worlds


@pytest.mark.parametrize(
  "split, index, scale", [("train", 0, 1), ("eval", 1, 1), ("eval", 0, 2)]
)
def test_a_world_is_that_of_its_seed_and_path(split, index, scale):
  def words(seed, split, index, scale):
    one, two = worlds._Relations(seed=seed), worlds._Dialogues(seed=seed)
    text = one.example(split, index, scale).context
    (talk,) = two.examples(split, index, 1, scale)
    return [*text.split()[:30], *talk.context[:8]]

  base = words(0, "eval", 0, 1)
  assert words(0, "eval", 0, 1) == base
  for other in (words(0, split, index, scale), words(1, "eval", 0, 1)):
    # Of 30 words a few are equal by chance, of 8 sessions hardly any.
    same = [a == b for a, b in zip(base, other, strict=True)]
    assert sum(same[:30]) < 12 and sum(same[30:]) < 3


def _features(world, talk):
  """What a world of `relations` and one of `dialogues` are like."""
  said = world.context.split()
  yield "kind", world.meta["kind"]
  yield "words", len(said)
  yield "stale", len(world.meta["stale"])
  yield "answer", world.answers
  yield "first word", "=" in said[0], ">" in said[0]
  held = talk.meta["world"].held
  yield "held", len(held), sum("@" in x for x in held)
  text = talk.context[-1].split()
  yield "filler", len(text)
  yield "mark", "!" in talk.context[3], "@" in talk.context[3]
  yield "answered", talk.answers[0].startswith("s"), talk.answers[0][:2]


def test_worlds_are_those_of_numpy_in_everything_but_the_numbers():
  """Two samples of 600 of each environment do not differ in any feature."""
  table = collections.defaultdict(
    lambda: collections.defaultdict(lambda: [0, 0])
  )
  for column, (one, two) in enumerate(
    (
      (relations.Relations(), dialogues.Dialogues()),
      (worlds._Relations(), worlds._Dialogues()),
    )
  ):
    for i in range(600):
      world, (talk,) = one.example("eval", i), two.examples("eval", i, 1)
      for name, *value in _features(world, talk):
        table[name][str(value)][column] += 1
  assert len(table) == 9
  for name, rows in table.items():
    counts = np.array([x for x in rows.values() if sum(x) >= 20])
    assert scipy.stats.chi2_contingency(counts).pvalue > 1e-3, name
