"""Arms of one run and of several, on the same questions and on their own."""

import fake_results
import numpy as np
import pytest

from memjax import contrast
from memjax import results
from memjax import scores
from memjax import stats
from memjax import stats_seeds


@pytest.fixture
def arm(tmp_path):
  """Makes an arm: the results of runs with these seeds."""

  def make(name, seeds, p, data=lambda seed: "all", offset=0):
    return [
      results.load(
        fake_results.write_run(
          tmp_path / f"{name}{seed}_{offset}",
          {"x1": fake_results.scores([seed, offset], 60, p)},
          each=3,
          seed=seed,
          data=data(seed),
        )
      )
      for seed in seeds
    ]

  return make


def _scores(arm):
  return np.array([x.scores["x1"] for x in arm])


def test_one_run_of_each(arm):
  one, other = arm("a", [3], 0.8), arm("b", [3], 0.4, offset=1)
  found = contrast.difference(one, other, "x1")
  want = scores.paired(
    _scores(one)[0], _scores(other)[0], np.repeat(range(20), 3)
  )
  assert found == {**want, "seeds": 1} and found["documents"] == 20
  cell = contrast.accuracy(one, "x1")
  assert cell["accuracy"] == _scores(one).mean() and cell["n"] == 60


def test_seeds_with_the_same_questions(arm):
  one, other = arm("a", [3, 4, 5], 0.8), arm("b", [3, 4, 5], 0.4, offset=1)
  document_N = np.repeat(range(20), 3)
  found = contrast.difference(one, other, "x1")
  want = stats_seeds.difference(
    _scores(one), _scores(other), document_N, paired=True
  )
  assert found["low"] == want.low and found["p"] == want.p
  assert (found["n"], found["documents"], found["seeds"]) == (60, 20, 3)
  cell = contrast.accuracy(one, "x1")
  parts = stats_seeds.decompose(_scores(one), document_N)
  both = parts.both
  between = contrast.accuracy(one, "x1")["between_seeds"]
  assert between["sd"] == parts.seed_sd.value
  assert between["share"] == parts.shares["seeds"]
  assert (cell["low"], cell["high"]) == (both.low, both.high)
  # Other seeds, or another number of them: not in pairs.
  others = arm("c", [6, 7], 0.4, offset=1)
  found = contrast.difference(one, others, "x1")
  want = stats_seeds.difference(
    _scores(one), _scores(others), document_N, paired=False
  )
  assert found["low"] == want.low and found["seeds"] == 3


def test_seeds_with_questions_of_their_own(arm):
  one = arm("a", [3, 4], 0.8, data=str)
  other = arm("b", [3, 4], 0.4, data=str, offset=1)
  want = stats_seeds.nested_difference(
    _scores(one), _scores(other), [np.repeat(range(20), 3)] * 2
  )
  # Runs find those with the same questions, whatever their order.
  for reference in (other, other[::-1]):
    found = contrast.difference(one, reference, "x1")
    assert found["low"] == pytest.approx(want.low)
    assert (found["n"], found["documents"], found["seeds"]) == (120, 40, 2)
  cell = contrast.accuracy(one, "x1")
  spread, share = stats_seeds.nested_spread(
    _scores(one), [np.repeat(range(20), 3)] * 2
  )
  assert cell["between_seeds"]["high"] == spread.high
  assert cell["between_seeds"]["share"] == share
  assert (cell["n"], cell["documents"], cell["seeds"]) == (120, 40, 2)
  assert cell["accuracy"] == pytest.approx(_scores(one).mean())


@pytest.mark.parametrize("own", [False, True])
def test_what_stands_behind_an_arm(tmp_path, own):
  """Controls as the accuracy is, the gain of all runs together."""
  arm, kept = [], {}
  for seed in (3, 4):
    kept[seed] = {
      name: {"x1": fake_results.scores([seed, n], 60, p)}
      for n, (name, p) in enumerate(
        {"empty_memory": 0.1, "oracle": 0.95, "last_window": 0.3}.items()
      )
    }
    if seed == 4:
      del kept[seed]["last_window"]  # not of all runs: left out
    path = fake_results.write_run(
      tmp_path / str(seed),
      {"x1": fake_results.scores(seed, 60, 0.7)},
      kept[seed],
      each=3,
      seed=seed,
      data=str(seed) if own else "all",
    )
    arm.append(results.load(path))
  found = contrast.behind(arm, "x1")
  assert list(found["controls"]) == ["empty_memory", "oracle"]
  none, oracle, system = (
    np.array(x)
    for x in (
      [kept[s]["empty_memory"]["x1"] for s in (3, 4)],
      [kept[s]["oracle"]["x1"] for s in (3, 4)],
      _scores(arm),
    )
  )
  assert found["controls"]["oracle"]["accuracy"] == pytest.approx(oracle.mean())
  assert found["controls"]["oracle"]["seeds"] == 2
  if own:
    rows = [x.ravel() for x in (system, none, oracle)]
    want, _ = stats.memory_gain(*rows, np.repeat(range(40), 3))
  else:
    rows = [x.mean(axis=0) for x in (system, none, oracle)]
    want, _ = stats.memory_gain(*rows, np.repeat(range(20), 3))
  gain = found["memory_gain"]
  assert gain["gain"] == pytest.approx(want.value)
  assert (gain["low"], gain["high"]) == pytest.approx((want.low, want.high))


def test_what_cannot_be_compared(arm):
  one, two = arm("a", [3], 0.8), arm("b", [3, 4], 0.4, offset=1)
  with pytest.raises(ValueError, match="at least two runs of both"):
    contrast.difference(one, two, "x1")
  with pytest.raises(ValueError, match="a seed occurs twice"):
    contrast.difference([*one, *arm("c", [3], 0.1, offset=2)], two, "x1")
  own, others = (
    arm(name, [3, 4], 0.4, data=lambda s, x=name: f"{s}{x}", offset=2)
    for name in "de"
  )
  with pytest.raises(ValueError, match="e3_2 and .*d3_2 were asked different"):
    contrast.difference(own, others, "x1")
  mixed = arm("f", [3, 4, 5], 0.4, data=lambda s: str(min(s, 4)), offset=3)
  again = arm("g", [3, 4, 5], 0.4, data=lambda s: str(min(s, 4)), offset=4)
  with pytest.raises(ValueError, match="some seeds share questions"):
    contrast.difference(mixed, again, "x1")


def test_verdicts_are_corrected_for_the_table():
  row = lambda low, p: {"low": low, "high": 0.4, "p": p}
  rows = [row(0.01, 0.02), row(0.01, 0.03), row(-0.3, 0.9)]
  contrast.add_verdicts(rows[:1])
  assert rows[0]["verdict"] == "better" and rows[0]["p_holm"] == 0.02
  contrast.add_verdicts(rows)
  assert [x["p_holm"] for x in rows] == pytest.approx([0.06, 0.06, 0.9])
  assert {x["verdict"] for x in rows} == {"not told apart"}
