"""Controls hold what they say, within their room, for every kind of agent."""

import jax
import numpy as np
import pytest
import tiny_runs

from memjax import agents
from memjax import build
from memjax import config as config_lib
from memjax import controls
from memjax import tasks


def _found(config):
  """The run, and {control: (agent, decoded texts of each example)}."""
  run = build.make(config)
  examples = next(iter(run.env.eval_sets().values()))
  decode = lambda row: [run.tokenizer.decode(list(ids)) for ids in row]
  return (
    run,
    examples,
    {
      name: (agent, [decode(row) for row in held])
      for name, agent, held in controls.memories(run, examples)
    },
  )


def test_each_control_of_a_memory(config):
  run, examples, found = _found(config)
  assert set(found) == set(config_lib.CONTROLS)
  assert found["empty_memory"][1] == [[]] * len(examples)
  for n, example in enumerate(examples):
    words = example.context.split()
    assert found["oracle"][1][n] == list(example.meta["oracle"])
    assert found["full_context"][1][n] == [example.context]
    assert found["last_window"][1][n] == [" ".join(words[-6:])]
    close = found["bm25_chunks"][1][n][0].split()
    assert 0 < len(close) <= run.agent.chunk_tokens
    # Pieces of one word: those that name the person, in the text's order.
    name = example.question.rstrip("?")
    assert close == [x for x in words if x.split("=")[0] == name][: len(close)]
  for name in ("last_window", "bm25_chunks"):
    assert found[name][0].budget == (6, 6)
  assert found["full_context"][0].budget == (12, 12)


def test_longer_texts_have_no_full_context(config):
  config.eval.full_tokens = 11
  assert "full_context" not in _found(config)[2]
  config.eval.full_tokens = 12
  assert "full_context" in _found(config)[2]


def test_only_the_controls_that_are_wanted(config):
  config.eval.controls = ("bm25_chunks",)
  run, _, found = _found(config)
  assert set(found) == {"bm25_chunks"}
  cells, parts, _ = controls.evaluate_all(run, run.policies(run.load_params()))
  assert set(cells) == set(parts) == {"bm25_chunks"}
  assert set(cells["bm25_chunks"]) == {"x1", "x2"}


@pytest.mark.parametrize("name", ["memory_r1", "memory_rmm"])
@pytest.mark.parametrize("retriever", ["rerank", "select"])
def test_a_bank_agent_is_shown_one_entry(name, retriever, tmp_path):
  config = tiny_runs.dialogues(tmp_path)
  config.agent.update(name=name, retriever=retriever, fetched=4, retrieved=3)
  config.agent.questions = 1
  run, examples, found = _found(config)
  # And simple rules at the bank's budget, which the environment names.
  assert set(config_lib.CONTROLS) < set(found)
  agent, texts = found["full_context"]
  told = "".join(map("".join, zip(examples[0].stamps, examples[0].parts)))
  plain = lambda text: "".join(text.split())
  assert plain(texts[0][0]) == plain(told)
  policies = run.policies(run.load_params())
  ids = run.tokenizer.encode_batch([texts[0][0]])
  state = agent.given(policies, [ids])
  task = tasks.make_task(examples[:1], run.tokenizer, agent)
  asked = agents.answer_jit(
    policies,
    agent,
    state,
    task.query,
    agents.row_keys(jax.random.key(0), task),
    0.0,
  )
  assert set(asked) == {"answer"}
  prompt = np.asarray(asked["answer"].prompt.ids[0]).tolist()
  at = prompt.index(ids[0][0])
  assert prompt[at : at + len(ids[0])] == ids[0]
