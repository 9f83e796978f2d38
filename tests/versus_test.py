"""--mode=compare, on folders that were written by hand."""

import io
import json
import re

import fake_results
import pytest
import rich.console

from memjax import versus


@pytest.fixture
def runs(tmp_path):
  """Run b is better than a on x1, c is like a; on x2 all are alike."""
  right = fake_results.scores(0, 400, 0.4)
  worse = fake_results.scores(1, 400, 0.9)
  better = [max(a, 1 - b) for a, b in zip(right, worse)]
  other = [x if i % 40 else 1 - x for i, x in enumerate(right)]
  for name, first in (("a", right), ("b", better), ("c", other)):
    fake_results.write_run(
      tmp_path / name, {"x1": first, "x2": right[:10], name: [1.0]}
    )
  return tmp_path


def test_table_and_sentence(runs, capsys):
  names = [str(runs / name) for name in "abc"]
  found = versus.run(names, str(runs / "out" / "deep"))
  assert json.loads((runs / "out/deep/compare.json").read_text()) == found
  assert found["reference"] == names[0] and found["left_out"] == ["a", "b", "c"]
  verdicts = {(x["set"], x["arm"]): x["verdict"] for x in found["rows"]}
  assert len(verdicts) == 4
  assert verdicts.pop(("x1", names[1])) == "better"
  assert set(verdicts.values()) == {"not told apart"}
  # Four p-values were looked at.
  p = [x["p"] for x in found["rows"]]
  assert found["rows"][0]["p_holm"] == pytest.approx(4 * min(p))
  out = capsys.readouterr().out
  said = out.splitlines()[-1]
  assert said == found["sentence"]
  assert said.startswith(f"On x1, {names[1]} is better than {names[0]} by 0.0")
  assert f"on x2, {names[2]} and {names[0]} are not told apart" in said
  assert said.endswith("one run of each says nothing about other seeds.")


def test_the_worse_one_is_called_worse(runs):
  found = versus.run([str(runs / "b"), str(runs / "a")], None)
  assert found["rows"][0]["verdict"] == "worse"
  assert " is worse than " in found["sentence"]
  assert not (runs / "compare.json").exists()


def test_nothing_is_called_better_whose_interval_holds_0(runs):
  found = versus.run([str(runs / name) for name in "abc"], None)
  for row in found["rows"]:
    if row["low"] <= 0 <= row["high"]:
      assert row["verdict"] == "not told apart"
  out = io.StringIO()
  versus.print_table(found, rich.console.Console(file=out, width=250))
  lines = out.getvalue().splitlines()
  pattern = r" [+-]\S+ \[([+-]\S+), ([+-]\S+)\]"
  told = [(x, match) for x in lines if (match := re.search(pattern, x))]
  assert len(told) == len(found["rows"])
  for line, match in told:
    low, high = map(float, match.groups())
    assert ("not told apart" in line) == (low <= 0 <= high)


def test_seeds_of_an_arm_are_named_with_commas(tmp_path):
  for arm, p in (("a", 0.3), ("b", 0.9)):
    for seed in range(4):
      fake_results.write_run(
        tmp_path / f"{arm}{seed}",
        {"x1": fake_results.scores([seed, int(10 * p)], 200, p)},
        seed=seed,
        each=4,
      )
  arms = [",".join(str(tmp_path / f"{x}{s}") for s in range(4)) for x in "ab"]
  found = versus.run(arms, None)
  (row,) = found["rows"]
  assert row["verdict"] == "better" and row["seeds"] == 4
  assert (row["n"], row["documents"]) == (200, 50)
  assert "other seeds" not in found["sentence"]
  out = io.StringIO()
  versus.print_table(found, rich.console.Console(file=out, width=250))
  sd = found["accuracy"]["x1"][arms[0]]["between_seeds"]["sd"]
  assert f"{sd:.3f} [" in out.getvalue().split("what stands behind")[1]
  assert "last window" not in out.getvalue()  # no control is known


def test_too_few_documents_are_named(tmp_path):
  for name, p in (("a", 0.1), ("b", 0.9)):
    fake_results.write_run(
      tmp_path / name, {"x1": fake_results.scores(1, 100, p)}, each=25
    )
  found = versus.run([str(tmp_path / "a"), str(tmp_path / "b")], None)
  assert found["rows"][0]["verdict"] == "not told apart"
  assert "4 documents cannot show any difference" in found["sentence"]
  json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(
  "given", [[], ["a"], ["a", "a"], ["a", "./a"], ["a,b", "b"], ["a", ","]]
)
def test_two_different_runs_are_needed(given):
  with pytest.raises(ValueError, match="two different runs or more"):
    versus.run(given, None)


def test_other_data_are_refused_by_name(runs):
  fake_results.write_run(runs / "z", {"x1": [1.0] * 400}, data="other")
  with pytest.raises(ValueError, match="a and .*z were asked different"):
    versus.run([str(runs / "a"), str(runs / "z")], None)
