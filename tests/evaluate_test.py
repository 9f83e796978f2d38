import jax
import pytest

from memjax import agents
from memjax import evaluate
from memjax import tasks
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.envs import facts

_KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def examples():
  env = facts.Facts(seed=1, chunks=2, chunk_tokens=6)
  return [env.example("eval", i, scale=1 + i % 3) for i in range(7)]


def _answer(policies, agent, tokenizer, examples, batch_size=4, **kwargs):
  return evaluate.answer(
    policies,
    agent,
    tokenizer,
    examples,
    key=_KEY,
    batch_size=batch_size,
    **kwargs,
  )


def test_the_host_loop_is_the_rollout(policies, agent, tokenizer, examples):
  """Both compose the same turn: the same words come out."""
  task = tasks.make_task(examples, tokenizer, agent)
  episode = agents.rollout_jit(policies, agent, task, _KEY, 0.0)
  want = [
    tokenizer.decode(ids) for ids in token_lib.to_lists(episode.answer.result)
  ]
  got = _answer(policies, agent, tokenizer, examples)
  assert [texts[0] for texts in got.texts] == want


def test_finals_are_the_last_memories(policies, agent, tokenizer, examples):
  """In the examples' order, of the first sample, though batches are sorted."""
  task = tasks.make_task(examples, tokenizer, agent)
  episode = agents.rollout_jit(policies, agent, task, _KEY, 1.0)
  last = jax.tree.map(lambda x: x[-1], episode.states)
  want = [
    [tokenizer.decode(ids)] if ids else [] for ids in token_lib.to_lists(last)
  ]
  got = _answer(
    policies, agent, tokenizer, examples, temperature=1.0, samples=2
  )
  assert got.finals == want
  assert len(set(map(tuple, want))) > 1


def test_batching_moves_no_answer(policies, agent, tokenizer, examples):
  """Sampled answers too: keys come from the example, not from its place."""
  run = lambda examples, size: {
    example.id: texts
    for example, texts in zip(
      examples,
      _answer(
        policies, agent, tokenizer, examples, size, temperature=1.0, samples=3
      ).texts,
    )
  }
  whole = run(examples, 4)
  assert run(examples[::-1], 4) == whole
  assert run(examples[:2], 4) == {e.id: whole[e.id] for e in examples[:2]}
  assert any(len(set(texts)) > 1 for texts in whole.values())


def test_given_memories_are_answered_from(policies, agent, tokenizer, examples):
  """Reading is left out: the context makes no difference, the memory does."""
  memories = [tokenizer.encode_batch(list(e.meta["oracle"])) for e in examples]
  got = _answer(policies, agent, tokenizer, examples, memories=memories)
  bare = [
    example_lib.Example(e.id, e.question, "the", e.answers, e.meta)
    for e in examples
  ]
  assert got.texts == (
    _answer(policies, agent, tokenizer, bare, memories=memories).texts
  )
  blank = [()] * len(examples)
  assert got.texts != (
    _answer(policies, agent, tokenizer, examples, memories=blank).texts
  )


def test_a_longer_memory_than_the_agents_is_held_whole(
  policies, agent, tokenizer, examples
):
  """An oracle needs what it needs; whatever the memory's room."""
  # 5 tokens, where there is room for 3.
  told = tokenizer.encode_batch(["the of", "and to", "kim=oslo"])
  got = _answer(policies, agent, tokenizer, examples[:1], memories=[told])
  assert got.finals == [["the of and to kim=oslo"]]
  cut = _answer(policies, agent, tokenizer, examples[:1], memories=[told[:1]])
  assert cut.finals == [["the of"]]


def test_nothing_to_evaluate_is_refused(policies, agent, tokenizer):
  with pytest.raises(ValueError, match="no example"):
    _answer(policies, agent, tokenizer, [])


def test_traces_show_every_turn(policies, agent, tokenizer, examples):
  got = _answer(policies, agent, tokenizer, examples, traces=2)
  assert len(got.traces) == 2
  for example, trace, texts, final in zip(
    examples, got.traces, got.texts, got.finals
  ):
    chunks = " ".join(turn["chunk"] for turn in trace["turns"])
    assert chunks == example.context
    assert trace["answer"] == texts[0]
    assert [trace["turns"][-1]["memory"]] == (final or [""])
    for turn in trace["turns"]:
      assert set(turn) >= {"response", "memory", "truncated", "malformed"}


def test_no_new_compile_for_another_length(
  policies, agent, tokenizer, examples
):
  _answer(policies, agent, tokenizer, examples)
  compiled = agents.read_jit._cache_size()
  env = facts.Facts(seed=2, chunks=2, chunk_tokens=6)
  longer = [env.example("eval", i, scale=6) for i in range(4)]
  _answer(policies, agent, tokenizer, longer)
  assert agents.read_jit._cache_size() == compiled
