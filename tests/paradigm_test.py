"""Notebook 04 runs, and does what it says."""

import collections
import json

import jax
import numpy as np
import pytest
import run_notebook

from memjax import agents
from memjax import build
from memjax import build_agent
from memjax import metrics as metrics_lib
from memjax import tasks
from memjax import tokens as token_lib

_PARADIGM = run_notebook.NOTEBOOKS[3]
_STEPS = 2


@pytest.fixture(scope="module")
def paradigm(tmp_path_factory):
  """What 04 leaves after two iterations and 24 questions."""
  changes = {
    "STEPS = 5 ": f"STEPS = {_STEPS} ",
    "QUESTIONS = 256 ": "QUESTIONS = 24 ",
    "batch_size=QUESTIONS)": "batch_size=QUESTIONS, controls=())",
    # Of 24 contexts with 8 rollouts each.
    "config.seed, config.train.steps": "config.rollout.update(questions=4, "
    "wave_questions=4)\nconfig.seed, config.train.steps",
  } | run_notebook.workdir(tmp_path_factory.mktemp("paradigm"))
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(run_notebook.ROOT / "notebooks")
    patch.setattr(build_agent, "AGENTS", dict(build_agent.AGENTS))
    yield run_notebook.execute(_PARADIGM, changes)


def test_paradigm_has_under_100_lines():
  """Comments, docstrings and imports counted, blank lines not."""
  lines = [
    x for code in run_notebook.sources(_PARADIGM) for x in code.splitlines()
  ]
  assert len([x for x in lines if x.strip()]) < 100


def _pack(*lines):
  return token_lib.from_lists(lines, 2)


def test_oldest_notes_go(monkeypatch):
  monkeypatch.chdir(run_notebook.ROOT)
  append = run_notebook.execute(_PARADIGM, cells=3)["append"]
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
  monkeypatch.chdir(run_notebook.ROOT)
  append = jax.jit(jax.vmap(run_notebook.execute(_PARADIGM, cells=3)["append"]))
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
