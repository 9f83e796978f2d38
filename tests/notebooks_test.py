"""Notebooks 01 to 03 run, and do what they say."""

import ast
import collections
import json

import jax
import numpy as np
import pytest
import run_notebook

from memjax import hf
from memjax import metrics as metrics_lib
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import lines

_SCAN, _PORT, _ROLLOUT, _ = run_notebook.NOTEBOOKS
_STEPS = 2
# 48 rollouts an iteration, and as many rows wherever something is read.
_SMALL = {
  "config.train.steps = STEPS": f"config.train.steps = {_STEPS}\n"
  "config.rollout.update(questions=6, wave_questions=6)",
  "batch_size=192, samples=0": "batch_size=48, samples=0, controls=()",
}


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
  """What 01 leaves after two iterations and 48 questions."""
  changes = _SMALL | run_notebook.workdir(tmp_path_factory.mktemp("scan"))
  changes |= {"QUESTIONS = 384 ": "QUESTIONS = 48 "}
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(run_notebook.ROOT)
    return run_notebook.execute(_SCAN, changes)


@pytest.fixture(scope="module")
def port():
  """What 02 leaves where there is neither torch nor a model."""
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(run_notebook.ROOT / "notebooks")
    return run_notebook.execute(_PORT)


@pytest.fixture(scope="module")
def rollout(tmp_path_factory):
  """What 03 leaves after two iterations and 48 questions."""
  changes = _SMALL | run_notebook.workdir(tmp_path_factory.mktemp("rollout"))
  changes |= {
    "QUESTIONS = 192 ": "QUESTIONS = 48 ",
    "batch_size=192,\n": "batch_size=48,\n",
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(run_notebook.ROOT / "notebooks")
    return run_notebook.execute(_ROLLOUT, changes)


@pytest.mark.parametrize(
  "path", run_notebook.NOTEBOOKS, ids=lambda path: path.stem
)
def test_notebook_is_valid_and_bare(path):
  """As nbformat 4.5 has it, without anything that running it left."""
  notebook = json.loads(path.read_text())
  assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
  assert notebook["nbformat"] == 4 and notebook["nbformat_minor"] >= 5
  ids = [cell["id"] for cell in notebook["cells"]]
  assert len(set(ids)) == len(ids)
  for cell in notebook["cells"]:
    assert cell["cell_type"] in ("code", "markdown")
    assert isinstance(cell["metadata"], dict)
    assert all(isinstance(line, str) for line in cell["source"])
    if cell["cell_type"] == "code":
      assert cell["outputs"] == [] and cell["execution_count"] is None
    else:
      assert "outputs" not in cell and "execution_count" not in cell


@pytest.mark.parametrize("folder", [".", "notebooks"])
@pytest.mark.parametrize("path", run_notebook.NOTEBOOKS)
def test_the_repository_is_found(path, folder, monkeypatch):
  monkeypatch.chdir(run_notebook.ROOT / folder)
  found = run_notebook.execute(path, cells=1)
  assert (found["ROOT"] / "configs" / "memory_r1_tiny.py").is_file()


@pytest.mark.parametrize("path", [_SCAN, _PORT, _ROLLOUT])
def test_what_is_defined_is_in_the_library(path):
  nodes = [
    x for code in run_notebook.sources(path) for x in ast.walk(ast.parse(code))
  ]
  kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.AsyncFunctionDef)
  assert not [node.lineno for node in nodes if isinstance(node, kinds)]


def test_a_scan_writes_what_the_loop_writes(scan):
  assert scan["same_turn"] and scan["same_memories"] and scan["same_answers"]
  # Not because there was nothing to write.
  written = {tuple(ids) for turn in scan["scanned"] for ids in turn}
  assert len(written) > 50 and len(scan["scanned"]) == 5
  assert len(set(map(tuple, scan["answers"]))) > 3
  # The program does not grow with the text.
  assert set(scan["program_lines"]) == {5, 40}
  assert len(set(scan["program_lines"].values())) == 1


def test_a_turn_by_hand_is_a_prompt_and_a_response(scan):
  tokenizer, (ids,) = scan["tokenizer"], token_lib.to_lists(scan["prompt"])
  chunk = " ".join(scan["example"].context.split()[:10])
  assert tokenizer.decode(ids) == (
    f"<ask> jon? <memory> <none> <chunk> {chunk} <write> jon?"
  )
  (ids,) = token_lib.to_lists(scan["response"].tokens)
  assert (
    token_lib.to_lists(scan["by_hand"])[0] == [x for x in ids if x != 1][:3]
  )


def test_one_advantage_for_all_turns_of_a_rollout(scan):
  reward = np.asarray(scan["reward_QG"], np.float64)
  assert reward.shape == (6, 8) and 0 < reward.mean() < 1
  spread = reward.std(1, ddof=1, keepdims=True)
  want = (reward - reward.mean(1, keepdims=True)) / np.where(spread, spread, 1)
  np.testing.assert_allclose(scan["adv_QG"], want, atol=1e-4)
  for turn in np.asarray(scan["adv_CB"]):
    np.testing.assert_allclose(turn, want.reshape(-1), atol=1e-4)


def test_scan_trains_and_reads_on(scan):
  records = metrics_lib.read_jsonl(scan["WORKDIR"] / "metrics.jsonl")
  assert records[-1]["step"] == _STEPS
  assert scan["summary"]["trained"]["x1"]["n"] == 48
  # The last text had 40 chunks.
  assert len(scan["after_chunk"]) == 40 and scan["answer"]


def test_port_agrees_with_what_transformers_computed(port):
  assert port["errors"].keys() == {"qwen3_tied", "qwen3_untied"}
  assert max(port["errors"].values()) < 1e-4
  assert all(port["same_greedy"].values())
  assert port["cache_error"] < 1e-4
  assert 1e-3 < port["bfloat16_error"] < 0.25
  assert port["same_B"].size == 40 + 23 and port["same_B"].mean() > 0.9


def test_port_counts_bytes(port):
  """Of 596,049,920 parameters, and of 16 rows of 8,222 tokens by hand.

  A cache has whole eights of slots.
  """
  small = port["gigabytes"]["Qwen3-0.6B"]
  assert small["parameters"] == pytest.approx(1.1921, abs=1e-4)
  assert small["training"] == pytest.approx(10.7289, abs=1e-4)
  # Keys and values of 28 layers and 8 heads of 128, two bytes each.
  assert small["cache"] == pytest.approx(16 * 8224 * 2 * 28 * 8 * 128 * 2 / 1e9)


def test_port_leaves_out_what_needs_more(port):
  marked = [run_notebook.needs(code) for code in run_notebook.sources(_PORT)]
  assert [x for x in marked if x] == [
    {"torch"},
    {"download"},
    {"download", "torch"},
    *[{"download"}] * 3,
  ]
  assert not {"torch", "directory", "reader"} & port.keys()


@pytest.fixture
def real_format(data_dir, tmp_path):
  """Random weights in a directory like that of a real Qwen3."""
  path = tmp_path / "model"
  cfg = qwen3.Config(151936, 32, 2, 4, 2, 16, 64)
  params = qwen3.init(jax.random.key(0), cfg)
  hf.save(path, cfg, jax.tree.map(lambda x: x.astype("bfloat16"), params))
  tokenizer_lib.load(data_dir / "qwen3_tokenizer").save(path)
  return {'MODEL = "" ': f"MODEL = {str(path)!r} "}


@pytest.mark.slow
def test_port_takes_a_turn_with_a_model_from_the_disk(real_format, monkeypatch):
  """All cells, and only the download itself is left out."""
  pytest.importorskip("torch")
  monkeypatch.chdir(run_notebook.ROOT)
  found = run_notebook.execute(_PORT, real_format, has=["download", "torch"])
  assert found["torch_error"] < 1e-4 and found["same_weights"]
  assert found["real_error"] < 1e-4
  assert found["size"] == 2 * qwen3.num_params(found["cfg"])
  update = found["update"]
  (prompt,) = token_lib.to_lists(update.prompt)
  text = found["tokenizer"].decode(prompt)
  for part in (found["text"], found["question"], "No previous memory"):
    assert text.count(part) == 1
  assert 0 < update.response.tokens.length[0] <= 96
  assert len(found["memories"]) == 1 and isinstance(found["answer"], str)


def test_rollouts_of_the_first_iteration_come_back(rollout):
  records = metrics_lib.read_jsonl(rollout["WORKDIR"] / "metrics.jsonl")
  (first,) = [x for x in records if x["step"] == 1]
  for name, value in rollout["found"].metrics.items():
    assert first[name] == value
  assert rollout["gap"] < 1e-4
  adv_CQG = rollout["adv_CQG"]
  assert adv_CQG.shape == (5, 6, 8) and np.abs(adv_CQG[0]).max() > 0
  np.testing.assert_array_equal(adv_CQG, adv_CQG[:1].repeat(5, 0))
  np.testing.assert_allclose(adv_CQG.sum(-1), 0, atol=1e-4)


def test_rollout_shows_truncated_and_malformed_turns(rollout):
  for name, side in (("truncated", "after"), ("malformed", "before")):
    assert rollout[name]
    for task in rollout[name]:
      assert any(turn[name] for turn in task[side]["turns"])
  # What is left open is no memory.
  assert bool(rollout["malformed_B"][0])
  assert rollout["held"] == "kim=bern"


def test_rollout_names_what_is_wrong_with_a_line(rollout):
  parsed = rollout["parsed"]
  found = [
    [lines.ERRORS[i] for i in errors[there]]
    for errors, there in zip(np.asarray(parsed.error), np.asarray(parsed.there))
  ]
  assert found == [
    ["ok"],
    ["bad number"],
    ["no text"],
    ["no verb"],
    ["text where none belongs"],
    ["ok", "number used before"],
    ["ok", "cut at the limit"],
  ]


def test_rollout_weighs_components(rollout):
  """By the weights that the notebook sets, relative to the group."""
  for op, share in (("extract", 1.0), ("update", 1.0), ("answer", 0.0)):
    reward = rollout["reward"] + share * (
      0.2 * rollout["formats"][op].reshape(1, 8, 1)
      + 0.5 * rollout["truth"][..., None]
    )
    reward = reward.reshape(8)
    want = (reward - reward.mean()) / reward.std(ddof=1)
    np.testing.assert_allclose(rollout["adv"][op], want, atol=1e-3)
  assert 0 < rollout["reward"].mean() < 1 and rollout["truth"].std() > 0


def test_rollout_says_what_should_have_changed(rollout):
  """Right and wrong changes are those that the banks before and after show."""
  bank = set()
  for turn in rollout["shown"][0]["before"]["turns"]:
    now = {line.split()[1] for line in turn["memory"].splitlines()}
    made = {f"+{x}" for x in now - bank} | {f"-{x}" for x in bank - now}
    by_kind = collections.defaultdict(set)
    for change in turn["changes"]:
      what, kind = change.split(": ")
      by_kind[kind].add(what)
    assert by_kind["right"] | by_kind["wrong"] == made
    assert set(by_kind) <= {"right", "wrong", "missed"}
    bank = now
  assert bank
