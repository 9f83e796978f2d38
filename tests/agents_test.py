import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import qwen3
from memjax import tasks
from memjax import tokens as token_lib
from memjax.envs import example as example_lib

_KEY = jax.random.key(3)


def _examples(lengths):
  """Contexts of so many words, all different."""
  words = "the of and to a in is it on as at by".split()
  return [
    example_lib.Example(
      100 + i,
      "kim?",
      " ".join(words[(i + j) % len(words)] for j in range(length)),
      ("oslo",),
    )
    for i, length in enumerate(lengths)
  ]


@pytest.fixture(scope="module")
def task(tokenizer, agent):
  # Empty, exact multiples, a short last chunk, more than any other.
  return tasks.make_task(_examples([0, 6, 12, 15, 18, 3]), tokenizer, agent)


@pytest.fixture(scope="module")
def episode(policies, agent, task):
  return agents.rollout_jit(policies, agent, task, _KEY, 1.0)


def test_chunks_of_a_task(task, agent):
  # ceil(n / 6) chunks of n = 0, 6, 12, 15, 18, 3 words
  np.testing.assert_array_equal(
    task.chunks.length,
    [[0, 6, 6, 6, 6, 3], [0, 0, 6, 6, 6, 0], [0, 0, 0, 3, 6, 0]],
  )


def test_a_long_context_loses_its_middle(tokenizer, agent):
  (example,) = _examples([20])
  task = tasks.make_task([example], tokenizer, agent, max_chunks=2)
  ids = tokenizer.encode(example.context)
  got = np.asarray(task.chunks.ids).reshape(-1)[:12]
  np.testing.assert_array_equal(got, ids[:6] + ids[-6:])


def test_padding_to_more_chunks_is_not_read(
  policies, agent, tokenizer, episode
):
  task = tasks.make_task(
    _examples([0, 6, 12, 15, 18, 3]), tokenizer, agent, num_chunks=5
  )
  longer = agents.rollout_jit(policies, agent, task, _KEY, 1.0)
  assert token_lib.to_lists(longer.answer.response.tokens) == (
    token_lib.to_lists(episode.answer.response.tokens)
  )
  assert not np.asarray(longer.turns["update"].active)[3:].any()


def test_a_question_that_is_too_long_is_refused(tokenizer, agent):
  example = example_lib.Example(7, "kim? kim? kim?", "the", ("oslo",))
  with pytest.raises(ValueError, match="example 7.*3 tokens.*question_tokens"):
    tasks.make_task([example], tokenizer, agent)


def test_scan_equals_a_python_loop(policies, agent, task, episode):
  loop = agents.rollout_by_turns(policies, agent, task, _KEY, 1.0)
  assert jax.tree.structure(episode) == jax.tree.structure(loop)
  for got, want in zip(jax.tree.leaves(episode), jax.tree.leaves(loop)):
    if got.dtype == jnp.float32:
      np.testing.assert_allclose(got, want, atol=1e-5)
    else:
      np.testing.assert_array_equal(got, want)


def _written(episode):
  return episode.turns["update"].response


def _row(tokens, turn, b):
  return np.asarray(tokens.ids)[turn, b, : int(tokens.length[turn, b])].tolist()


def test_a_row_does_not_depend_on_the_rest_of_the_batch(
  policies, agent, tokenizer, episode
):
  # The same six examples in another order, under one compiled shape.
  order = [4, 0, 5, 2, 1, 3]
  examples = _examples([0, 6, 12, 15, 18, 3])
  task = tasks.make_task([examples[i] for i in order], tokenizer, agent)
  moved = agents.rollout_jit(policies, agent, task, _KEY, 1.0)
  got, want = _written(moved), _written(episode)
  for row, i in enumerate(order):
    for turn in range(3):
      assert _row(got.tokens, turn, row) == _row(want.tokens, turn, i)


def test_another_batch_size_draws_the_same(policies, agent, tokenizer, episode):
  """Across compiled shapes: the same keys, log-probs within 1e-5."""
  alone = tasks.make_task(
    [_examples([0, 6, 12, 15, 18, 3])[4]], tokenizer, agent
  )
  got = _written(agents.rollout_jit(policies, agent, alone, _KEY, 1.0))
  want = _written(episode)
  for turn in range(3):
    assert _row(got.tokens, turn, 0) == _row(want.tokens, turn, 4)
    np.testing.assert_allclose(got.logp[turn, 0], want.logp[turn, 4], atol=1e-5)


def test_keys_come_from_example_sample_and_turn_alone(task):
  """What a recorded number depends on; another chain is another result."""
  sampled = tasks.repeat(task, 2)
  fold = jax.random.fold_in
  key_B = agents.row_keys(_KEY, sampled)
  row = fold(fold(_KEY, 104), 1)  # the fifth example's second sample
  for got, want in (
    (key_B, row),
    (agents.turn_keys(key_B, 2), fold(row, 3)),
    (agents.turn_keys(key_B, 2, call=1), fold(fold(row, 3), 1)),
    (agents.answer_keys(key_B), fold(row, 0)),
  ):
    np.testing.assert_array_equal(
      jax.random.key_data(got)[9], jax.random.key_data(want)
    )


def test_samples_of_one_task_differ_and_are_reproduced(
  policies, agent, tokenizer
):
  task = tasks.repeat(tasks.make_task(_examples([18]), tokenizer, agent), 6)
  np.testing.assert_array_equal(task.sample, np.arange(6))
  once = agents.rollout_jit(policies, agent, task, _KEY, 1.0)
  again = agents.rollout_jit(policies, agent, task, _KEY, 1.0)
  other = agents.rollout_jit(policies, agent, task, jax.random.key(4), 1.0)
  rows = lambda e: [_row(_written(e).tokens, 0, b) for b in range(6)]
  assert rows(once) == rows(again)
  assert rows(once) != rows(other)
  assert len(set(map(tuple, rows(once)))) > 1


def test_recorded_logp_agrees_with_a_forward_pass(params, agent, episode):
  segment = jax.tree.map(lambda x: x[0], episode.turns["update"])
  text = token_lib.concat([segment.prompt, segment.response.tokens])
  logits = qwen3.logits(params, agent.model, text.ids, text.length)
  logp = jax.nn.log_softmax(logits)
  for b in np.flatnonzero(np.asarray(segment.active)):
    start = int(segment.prompt.length[b])
    for t in range(int(segment.response.tokens.length[b])):
      token = int(segment.response.tokens.ids[b, t])
      np.testing.assert_allclose(
        segment.response.logp[b, t], logp[b, start + t - 1, token], atol=1e-5
      )


def test_no_host_transfer_inside_a_rollout(policies, agent, task):
  placed = jax.device_put(task)
  temperature = jax.device_put(jnp.float32(1.0))
  agents.rollout_jit(policies, agent, placed, _KEY, temperature)
  with jax.transfer_guard("disallow"):
    episode = agents.rollout_jit(policies, agent, placed, _KEY, temperature)
  assert episode.answer.active.all()
