"""One key changes the agent, its retriever, what is trained; all else stays."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import build
from memjax import build_agent
from memjax import collect
from memjax import config as config_lib
from memjax import evaluate
from memjax import hf
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax.envs import demos
from memjax.envs import homes

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def _save(path, tokenizer, vocab_size, leans=(), seed=1):
  """Random weights; after a word of `leans` its followers are likely."""
  cfg = qwen3.Config(
    vocab_size, 16, 1, 2, 1, 8, 32, tied_embeddings=False, scan_layers=False
  )
  params = jax.tree.map(np.array, qwen3.init(jax.random.key(seed), cfg))
  ids = tokenizer.backend.convert_tokens_to_ids
  for kind, (words, after) in enumerate(leans):
    params["embed"][ids(words), kind] = 8.0
    for word in after:
      params["head"][kind, ids(word)] += 2.0
  hf.save(path, cfg, jax.tree.map(jnp.asarray, params))
  tokenizer.save(path)
  return str(path)


def _dialogues(path):
  scope = {}
  exec((_ROOT / "configs/memory_r1_tiny.py").read_text(), scope)
  config = scope["get_config"]()
  words = tokenizer_lib.from_words(demos.words())
  size = words.vocab_size
  config.model.path = _save(path / "model", words, size, _LEANS)
  config.agent.embedder = _save(path / "embedder", words, size, seed=2)
  config.data.eval_examples = 8
  config.data.scales = (1,)
  config.data.sessions = 2
  config.agent.max_chunks = 2
  return config


# What the grammar likes: notes and merges of RMM, and answers that cite.
_NUMBERS = ["1", "2", "3"]
_FACTS = ["ada=bern", "bob=rome", "cat=oslo"]
_LEANS = [
  (["<topics>"], ["NOTE"]),
  (["<merge>"], ["ADD", "MERGE"]),
  ([f"{name}?" for name in homes.NAMES], ["USE"]),
  (["NOTE", "MERGE", "USE"], _NUMBERS),
  (_NUMBERS, ["<nl>", ":"]),
  ([":"], _FACTS),
  ([*_FACTS, "ADD"], ["<nl>"]),
  (["<nl>"], ["bern", "rome", "<end>"]),
  (["bern", "rome"], ["<end>"]),
]


def _long_texts(path):
  rows = [
    {
      "context": f"Text {i}. Kim lives in Bern. ",
      "input": f"Where does Kim live, number {i}?",
      "answers": ["Bern"],
    }
    for i in range(12)
  ]
  (path / "texts.json").write_text(json.dumps(rows))
  corpus = [row["context"] + row["input"] + "0 1 2\n" for row in rows]
  tokenizer = tokenizer_lib.train_bpe(corpus, 330)
  config = config_lib.default()
  config.model.path = _save(path / "model", tokenizer, 352)
  config.model.update(dtype="float32", scan_layers=False, remat=False)
  config.data.path = str(path / "texts.json")
  config.data.holdout = 4
  config.agent.update(
    chunk_tokens=16,
    max_chunks=2,
    question_tokens=48,
    memory_tokens=8,
    update_tokens=6,
    answer_tokens=6,
    extract_tokens=6,
    entries=4,
    entry_tokens=4,
    stamp_tokens=0,
    facts=2,
    ops=2,
    candidates=2,
    retrieved=4,
  )
  return config


@pytest.mark.parametrize("make", [_dialogues, _long_texts])
def test_the_agent_is_one_key(make, tmp_path):
  config = make(tmp_path)
  config.eval.update(samples=0, traces=1, batch_size=4)
  config.rollout.update(questions=2, wave_questions=2, group_size=2)
  found = {}
  for name in build_agent.AGENTS:
    config.agent.name = name
    run = build.make(config)
    params = run.load_params()
    policies = run.policies(params)
    found[name] = evaluate.suite(run, policies)
    experience = collect.collect(
      policies,
      run.agent,
      run.env,
      run.tokenizer,
      run.collect,
      key=jax.random.key(0),
      seed=(0, 0),
      cursor=0,
    )
    assert set(experience.rows) == set(run.agent.trained)
    assert 0 <= experience.metrics["rollout/reward"] <= 1
  memory, bank = found["memory"], found["memory_r1"]
  assert memory["data_sha256"] == bank["data_sha256"]
  counts = lambda x: {name: cell["n"] for name, cell in x["sets"].items()}
  assert counts(memory) == counts(bank)
  assert set(memory["breakdown"]) == set(bank["breakdown"])


def test_one_reading_serves_all_questions(tmp_path, monkeypatch):
  """Where the state does not depend on the question; and the same answers."""
  config = _dialogues(tmp_path)
  run = build.make(config)
  policies = run.policies(run.load_params())
  examples = run.env.examples("eval", 0, 4) + run.env.examples("eval", 1, 4)
  read, calls = agents.read_jit, []
  counted = lambda *args: calls.append(1) or read(*args)
  monkeypatch.setattr(agents, "read_jit", counted)

  def ask(examples):
    calls.clear()
    return evaluate.answer(
      policies,
      run.agent,
      run.tokenizer,
      examples,
      key=jax.random.key(0),
      batch_size=2,
    )

  together = ask(examples)
  # Two conversations of two sessions, side by side.
  assert len(calls) == 2
  assert together.finals[0] == together.finals[3]
  for i, example in enumerate(examples):
    alone = ask([example])
    assert alone.texts[0] == together.texts[i]
    assert alone.finals[0] == together.finals[i]
