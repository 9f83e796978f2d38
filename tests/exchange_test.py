"""One key changes the agent, its retriever, what is trained; all else stays."""

import json

import jax
import pytest
import tiny_runs

from memjax import agents
from memjax import build
from memjax import build_agent
from memjax import collect
from memjax import config as config_lib
from memjax import evaluate
from memjax import tokenizer as tokenizer_lib
from memjax.envs import example as example_lib


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
  config.model.path = tiny_runs.save_model(path / "model", tokenizer, 352)
  config.model.update(dtype="float32", scan_layers=False, remat="none")
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
    turns=4,
    turn_tokens=8,
    topics=2,
    kept_tokens=8,
  )
  return config


@pytest.mark.parametrize(
  "make",
  [tiny_runs.dialogues, pytest.param(_long_texts, marks=pytest.mark.slow)],
)
def test_the_agent_is_one_key(make, tmp_path):
  config = make(tmp_path)
  config.eval.update(samples=0, traces=1, batch_size=4, controls=())
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
  config = tiny_runs.dialogues(tmp_path)
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
  # Questions about one conversation may be given memories of their own.
  told = ["ada=bern", "bob=rome", "cat=oslo", "dan=paris"]
  given = evaluate.answer(
    policies,
    run.agent,
    run.tokenizer,
    examples[:4],
    key=jax.random.key(0),
    batch_size=2,
    memories=[run.tokenizer.encode_batch([text]) for text in told],
  )
  assert [[x.strip() for x in held] for held in given.finals] == [
    [text] for text in told
  ]


# Retrievers.

_HELD = ["s1 ada=bern", "s1 bob=rome", "s2 cat=oslo", "s2 ada!"]
_RETRIEVERS = ("bm25", "embedding", "recency", "rerank", "select")


@pytest.mark.parametrize(
  "name", ["memory_r1", pytest.param("memory_rmm", marks=pytest.mark.slow)]
)
def test_the_retriever_is_one_key(name, tmp_path):
  config = tiny_runs.dialogues(tmp_path)
  tiny_runs.raw_lines(config)
  config.agent.update(name=name, fetched=4, retrieved=3, entries=6)
  config.rollout.update(questions=1, wave_questions=1, group_size=2)
  hashes, listed = set(), {}
  for retriever in _RETRIEVERS:
    config.agent.retriever = retriever
    run = build.make(config)
    examples = run.env.eval_sets()["x1"][:4]
    hashes.add(example_lib.fingerprint(examples))
    policies = run.policies(run.load_params())
    found = evaluate.answer(
      policies,
      run.agent,
      run.tokenizer,
      examples,
      key=jax.random.key(0),
      batch_size=4,
      memories=[run.tokenizer.encode_batch(_HELD)] * 4,
    )
    listed[retriever] = [len(x) for x in found.listed]
    assert ("select" in run.agent.trained) == (retriever == "select")
    assert (run.trainer is not None) == (retriever == "rerank")
    assert run.collect.reranks == (retriever == "rerank")
  assert len(hashes) == 1
  # All show three entries of four, but the policy chooses how many.
  assert max(listed.pop("select")) <= 3
  assert all(x == [3] * 4 for x in listed.values())
