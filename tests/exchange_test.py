"""One key changes the agent, its retriever, what is trained; all else stays."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import build
from memjax import build_agent
from memjax import checkpoint
from memjax import collect
from memjax import config as config_lib
from memjax import evaluate
from memjax import hf
from memjax import metrics as metrics_lib
from memjax import modes
from memjax import qwen3
from memjax import reranker
from memjax import tokenizer as tokenizer_lib
from memjax import train
from memjax.envs import demos
from memjax.envs import example as example_lib
from memjax.envs import homes
from memjax.memory import rerank

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
  config.agent.update(turns=4, turn_tokens=4, topics=2, kept_tokens=6)
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
    turns=4,
    turn_tokens=8,
    topics=2,
    kept_tokens=8,
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


# Retrievers.

_RETRIEVERS = ("bm25", "embedding", "recency", "rerank", "select")


def _raw_lines(config):
  """Memory-R1's bank of what was said: no model call before the answer."""
  config.agent.update(
    name="memory_r1",
    extractor="turns",
    updater="append",
    facts=3,
    entry_tokens=4,
    chunk_tokens=12,
  )


@pytest.mark.parametrize("name", ["memory_r1", "memory_rmm"])
def test_the_retriever_is_one_key(name, tmp_path):
  config = _dialogues(tmp_path)
  _raw_lines(config)
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
      memories=[["s1 ada=bern", "s1 bob=rome", "s2 cat=oslo", "s2 ada!"]] * 4,
    )
    listed[retriever] = [len(x) for x in found.listed]
    assert ("select" in run.agent.trained) == (retriever == "select")
    assert (run.trainer is not None) == (retriever == "rerank")
    assert run.collect.reranks == (retriever == "rerank")
  assert len(hashes) == 1
  # All show three entries of four, but the policy chooses how many.
  assert max(listed.pop("select")) <= 3
  assert all(x == [3] * 4 for x in listed.values())


# What is trained.


def _joint(path, **changes):
  """Four iterations on a policy that cites at random, a map beside it."""
  config = _dialogues(path)
  _raw_lines(config)
  config.data.update(eval_examples=4, questions=2)
  config.agent.update(
    retriever="rerank", fetched=5, retrieved=3, entries=6, questions=2
  )
  config.agent.update(changes)
  config.reward.answer_format = 0.5
  config.rollout.update(questions=2, wave_questions=1, group_size=4)
  config.reranker.update(micro_batch=6, learning_rate=1e-2)
  config.train.update(
    steps=4, minibatches=1, micro_batch=16, schedule="constant"
  )
  config.eval.update(every=2, examples=4, batch_size=4, traces=1)
  config.checkpoint.every = 2
  return config


def _trained(config, workdir):
  run = build.make(config)
  train.train(run, workdir)
  return run, checkpoint.restore(workdir, run.abstract_state())[0]


def _moved(new, old):
  """Whether each array changed."""
  pairs = zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True)
  return [bool((np.asarray(a) != np.asarray(b)).any()) for a, b in pairs]


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
  """(config, workdir, run, last state) of a run of policy and map."""
  path = tmp_path_factory.mktemp("joint")
  config = _joint(path)
  return config, path / "whole", *_trained(config, path / "whole")


def test_policy_and_map_are_trained_together(joint):
  _, workdir, run, state = joint
  assert all(_moved(state.params, run.load_params()))
  assert all(_moved(state.reranker.params, rerank.init(16)))
  records = metrics_lib.read_jsonl(workdir / "metrics.jsonl")
  steps = [r for r in records if "train/loss" in r]
  assert len(steps) == 4
  for record in steps:
    assert 0 < record["rerank/cited"] < 1 and record["rerank/grad_norm"] > 0
    assert record["train/finite"] == 1
  summary = json.loads((workdir / "summary.json").read_text())
  assert set(summary["recall"]) == {"base", "trained"}


class _Crash(Exception):
  pass


@pytest.mark.parametrize("dies_at", [3, None])
def test_a_joint_run_that_stops_ends_with_the_same_bits(
  joint, tmp_path, monkeypatch, dies_at
):
  """Killed between the policy's update and the map's, or ended too early."""
  config, whole, run, want = joint
  workdir, config = tmp_path / "stops", config.copy_and_resolve_references()
  if dies_at is None:
    config.train.steps = 2
    _trained(config, workdir)
    config.train.steps = 4
  else:
    update, calls = reranker.update, []

    def crashing(*args):
      calls.append(1)
      if len(calls) == dies_at:
        raise _Crash
      return update(*args)

    with monkeypatch.context() as patch:
      patch.setattr(reranker, "update", crashing)
      with pytest.raises(_Crash):
        _trained(config, workdir)
  _, got = _trained(config, workdir)
  plain = lambda x: dataclasses.replace(x, key=jax.random.key_data(x.key))
  jax.tree.map(np.testing.assert_array_equal, plain(got), plain(want))
  assert any(_moved(got.reranker.opt_state, run.trainer.tx.init(
    rerank.init(16)
  )))  # fmt: skip
  names = ["rollouts.json", "base.json"]
  for name in names + ["metrics.jsonl"] * (dies_at is not None):
    assert (workdir / name).read_bytes() == (whole / name).read_bytes(), name
  best = [
    checkpoint.restore_params(x, run.abstract_state(), "best")[0]
    for x in (workdir, whole)
  ]
  jax.tree.map(np.testing.assert_array_equal, *best)


def test_an_exported_map_is_read_back(joint, tmp_path):
  config, workdir, run, state = joint
  out = tmp_path / "exported"
  modes.export(run, workdir, "last", str(out))
  config = config.copy_and_resolve_references()
  config.model.path = config.reranker.path = str(out)
  for trained in (("answer", "rerank"), ("answer",)):
    config.agent.trained = trained
    again = build.make(config)
    policies = again.policies(again.load_params())
    assert not any(_moved(policies.reranker, state.reranker.params))
    assert not any(_moved(policies.policy, state.params))
  config.agent.trained = ("answer", "rerank")
  start = build.make(config).init_state(state.params)
  assert not any(_moved(start.reranker.params, state.reranker.params))


def test_the_map_alone_is_trained(joint, tmp_path):
  config = joint[0].copy_and_resolve_references()
  config.agent.trained = ("rerank",)
  config.train.steps = 2
  run, state = _trained(config, tmp_path / "alone")
  assert not any(_moved(state.params, run.load_params()))
  assert all(_moved(state.reranker.params, rerank.init(16)))


def test_without_rerank_the_map_stays_at_zero(joint, tmp_path):
  config = joint[0].copy_and_resolve_references()
  config.agent.trained = ("answer",)
  config.train.steps = 2
  run, state = _trained(config, tmp_path / "policy")
  assert all(_moved(state.params, run.load_params()))
  assert state.reranker is None and run.trainer is None
  policies, _ = modes.load(run, tmp_path / "policy", "last")
  assert not any(_moved(policies.reranker, rerank.init(16)))


def test_the_encoder_instead_of_a_map(joint, tmp_path):
  config = joint[0].copy_and_resolve_references()
  config.agent.trained = ("rerank",)
  config.reranker.tunes = "encoder"
  config.train.steps = 2
  run, state = _trained(config, tmp_path / "encoder")
  before = hf.load(config.agent.embedder)[1]
  # Whatever stands in the texts; the head is in no embedding.
  moved = {k: _moved(x, before[k]) for k, x in state.reranker.params.items()}
  assert not any(moved.pop("head")) and all(sum(moved.values(), []))
  assert not any(_moved(state.params, run.load_params()))
  out = tmp_path / "exported"
  modes.export(run, tmp_path / "encoder", "last", str(out))
  config.agent.embedder = str(out / "embedder")
  policies = build.make(config).policies(None)
  assert not any(_moved(policies.embedder, state.reranker.params))
  assert not any(_moved(policies.reranker, rerank.init(16)))
  assert not (out / reranker.FILE).exists()
