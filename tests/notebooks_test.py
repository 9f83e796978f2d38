"""The notebooks run, from both folders, and do what they say."""

import collections
import json
import pathlib

import jax
import numpy as np
import pytest

from memjax import agents
from memjax import build
from memjax import build_agent
from memjax import metrics as metrics_lib
from memjax import tasks
from memjax import tokens as token_lib

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_NOTEBOOKS = sorted((_ROOT / "notebooks").glob("*.ipynb"))
_PARADIGM = _ROOT / "notebooks" / "04_your_own_paradigm.ipynb"
_STEPS = 2


def _cells(path, kind="code"):
  cells = json.loads(path.read_text())["cells"]
  return ["".join(x["source"]) for x in cells if x["cell_type"] == kind]


def _execute(path, changes=None, cells=None):
  """The namespace that code cells leave, run in order with lines replaced."""
  changes, found = dict(changes or {}), {"__name__": "notebook"}
  for code in _cells(path)[:cells]:
    for old in [x for x in changes if x in code]:
      assert code.count(old) == 1, f"{path.name} has {old!r} more than once"
      code = code.replace(old, changes.pop(old))
    exec(compile(code, path.name, "exec"), found)
  assert not changes, f"{path.name} has no longer {', '.join(changes)}"
  return found


@pytest.fixture(scope="module")
def paradigm(tmp_path_factory):
  """What 04 leaves after two iterations and 24 questions."""
  changes = {
    "STEPS = 5 ": f"STEPS = {_STEPS} ",
    "QUESTIONS = 256 ": "QUESTIONS = 24 ",
    "WORKDIR = pathlib.Path(tempfile.mkdtemp())": "WORKDIR = pathlib.Path("
    f"{str(tmp_path_factory.mktemp('paradigm'))!r})",
    # Of 24 contexts with 8 rollouts each.
    "config.seed, config.train.steps": "config.rollout.update(questions=4, "
    "wave_questions=4)\nconfig.seed, config.train.steps",
  }
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(_ROOT / "notebooks")
    patch.setattr(build_agent, "AGENTS", dict(build_agent.AGENTS))
    yield _execute(_PARADIGM, changes)


@pytest.mark.parametrize("path", _NOTEBOOKS, ids=lambda path: path.stem)
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


def test_paradigm_has_under_100_lines():
  """Comments, docstrings and imports counted, blank lines not."""
  lines = [x for code in _cells(_PARADIGM) for x in code.splitlines()]
  assert len([x for x in lines if x.strip()]) < 100


@pytest.mark.parametrize("folder", [".", "notebooks"])
def test_paradigm_finds_the_repository(folder, monkeypatch):
  monkeypatch.chdir(_ROOT / folder)
  found = _execute(_PARADIGM, cells=1)
  assert (found["ROOT"] / "configs" / "memory_r1_tiny.py").is_file()


def _pack(*lines):
  return token_lib.from_lists(lines, 2)


def test_oldest_notes_go(monkeypatch):
  monkeypatch.chdir(_ROOT)
  append = _execute(_PARADIGM, cells=3)["append"]
  notes = _pack([], [], [])
  for new, left in (
    ([[7, 1], []], [[7, 1], [], []]),
    ([[], [8]], [[7, 1], [8], []]),
    ([[], []], [[7, 1], [8], []]),
    # One line too many: 7 1 goes.
    ([[9, 2], [5]], [[8], [9, 2], [5]]),
    ([[4], [3, 3]], [[5], [4], [3, 3]]),
  ):
    notes = append(notes, _pack(*new))
    assert token_lib.to_lists(notes) == left
  # More at once than there is room for.
  four = _pack([1], [2], [], [3], [6])
  assert token_lib.to_lists(append(notes, four)) == [[2], [3], [6]]


def test_notes_are_a_queue(monkeypatch):
  """A batch of appends equals a deque of fixed length for each row."""
  monkeypatch.chdir(_ROOT)
  append = jax.jit(jax.vmap(_execute(_PARADIGM, cells=3)["append"]))
  rng, B, E, F = np.random.default_rng(0), 16, 4, 3
  notes = token_lib.from_nested([[[]] * E] * B, 2)
  queues = [collections.deque(maxlen=E) for _ in range(B)]
  for _ in range(6):
    new = [
      [rng.integers(1, 9, rng.integers(0, 3)).tolist() for _ in range(F)]
      for _ in range(B)
    ]
    notes = append(notes, token_lib.from_nested(new, 2))
    for b, queue in enumerate(queues):
      queue.extend(line for line in new[b] if line)
      held = token_lib.to_lists(jax.tree.map(lambda x, b=b: x[b], notes))
      assert held == [*queue, *[[]] * (E - len(queue))]


def test_paradigm_trains(paradigm):
  """All iterations are there, are finite, and have trained both calls."""
  folder = paradigm["WORKDIR"] / "notes"
  records = metrics_lib.read_jsonl(folder / "metrics.jsonl")
  steps = [x for x in records if "rollout/reward" in x]
  assert [x["step"] for x in steps] == list(range(1, _STEPS + 1))
  for record in steps:
    assert np.isfinite(list(record.values())).all()
    assert record["train/updates"] > 0 and record["train/grad_norm"] > 0
    # What was sampled is what is trained on.
    assert record["train/logp_gap_max"] < 1e-3
  assert not any("/update/" in name for x in steps for name in x)
  run = build.make(paradigm["config"])
  assert type(run.agent) is paradigm["NotesAgent"]
  assert run.agent.trained == ("extract", "answer")


def test_paradigm_is_asked_the_same(paradigm):
  folders = [paradigm["WORKDIR"] / name for name in ("memory_r1", "notes")]
  one, other = (
    json.loads((folder / "summary.json").read_text()) for folder in folders
  )
  assert one["data_sha256"] == other["data_sha256"]
  assert one["memory"] == other["memory"] == {"held": 12, "shown": 12}
  assert one["trained"]["x1"]["n"] == other["trained"]["x1"]["n"] == 24


def test_notes_hold_what_a_bank_holds_that_only_adds(paradigm):
  """Memory-R1 that adds everything and evicts has the same rule."""
  config = paradigm["config"].copy_and_resolve_references()
  notes = build.make(config)
  config.agent.update(name="memory_r1", updater="append", full="evict")
  bank = build.make(config)
  policies = agents.Policies(notes.load_params())
  examples = notes.env.train_examples(0, 16)
  shown = []
  for agent in (notes.agent, bank.agent):
    task = tasks.make_task(examples, notes.tokenizer, agent)
    key_B = agents.row_keys(jax.random.key(0), task)[:: agent.questions]
    state = agent.init(policies, task)
    for number in range(task.chunks.length.shape[0]):
      turn = tasks.turn_at(task, number, agent.questions)
      state, _ = agents.read_jit(policies, agent, state, turn, key_B, 1.0)
    shown.append([agent.shown(state, b) for b in range(len(key_B))])
  assert shown[0] == shown[1]
  # The rule was needed: some notes were full.
  assert max(map(len, shown[0])) == 6
