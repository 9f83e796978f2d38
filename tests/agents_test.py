import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import agents
from memjax import qwen3
from memjax import sampling
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import recurrent

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
def task(tokenizer, spec):
  # Empty, exact multiples, a short last chunk, more than any other.
  return agents.make_task(_examples([0, 6, 12, 15, 18, 3]), tokenizer, spec)


@pytest.fixture(scope="module")
def episode(params, spec, task):
  return agents.rollout_jit(params, spec, task, _KEY, 1.0)


def _python_loop(params, spec, task, key):
  """The rollout without scan, in plain Python."""
  key_B = agents.row_keys(key, task)
  memory, segments = recurrent.init_memory(spec.op, len(task.id)), []
  for turn in range(task.chunks.length.shape[0]):
    chunk = agents.chunk_at(task, turn)
    segment = agents.read_turn_jit(
      params, spec, memory, task.question, chunk, turn, key_B, 1.0
    )
    memory = segment.result
    segments.append(segment)
  answer = agents.answer_turn_jit(
    params, spec, memory, task.question, key_B, 1.0
  )
  stacked = jax.tree.map(lambda *x: jnp.stack(x), *segments)
  return agents.Episode(stacked, answer)


def test_chunks_of_a_task(task, spec):
  # ceil(n / 6) chunks of n = 0, 6, 12, 15, 18, 3 words
  np.testing.assert_array_equal(
    task.chunks.length,
    [[0, 6, 6, 6, 6, 3], [0, 0, 6, 6, 6, 0], [0, 0, 0, 3, 6, 0]],
  )


def test_a_long_context_loses_its_middle(tokenizer, spec):
  (example,) = _examples([20])
  task = agents.make_task([example], tokenizer, spec, max_chunks=2)
  ids = tokenizer.encode(example.context)
  got = np.asarray(task.chunks.ids).reshape(-1)[:12]
  np.testing.assert_array_equal(got, ids[:6] + ids[-6:])


def test_padding_to_more_chunks_is_not_read(params, spec, tokenizer, episode):
  task = agents.make_task(
    _examples([0, 6, 12, 15, 18, 3]), tokenizer, spec, num_chunks=5
  )
  longer = agents.rollout_jit(params, spec, task, _KEY, 1.0)
  assert token_lib.to_lists(longer.answer.response.tokens) == (
    token_lib.to_lists(episode.answer.response.tokens)
  )
  assert not np.asarray(longer.turns.active)[3:].any()


def test_a_question_that_is_too_long_is_refused(tokenizer, spec):
  example = example_lib.Example(7, "kim? kim? kim?", "the", ("oslo",))
  with pytest.raises(ValueError, match="example 7.*3 tokens.*question_tokens"):
    agents.make_task([example], tokenizer, spec)


def test_scan_equals_a_python_loop(params, spec, task, episode):
  loop = _python_loop(params, spec, task, _KEY)
  for got, want in zip(jax.tree.leaves(episode), jax.tree.leaves(loop)):
    if got.dtype == jnp.float32:
      np.testing.assert_allclose(got, want, atol=1e-5)
    else:
      np.testing.assert_array_equal(got, want)


def test_sampled_ids_stand_verbatim_in_the_next_prompt(spec, task, episode):
  prompts = episode.turns.prompt
  shown = list(spec.op.empty_memory)
  checked = 0
  for b in range(len(task.id)):
    memory = []
    for turn in range(prompts.length.shape[0]):
      if not episode.turns.active[turn, b]:
        continue
      prompt = _row(prompts, turn, b)
      # <ask> question <memory> MEMORY <chunk> ...
      at = prompt.index(spec.op.update.pieces[2][0]) + 1
      expected = memory or shown
      assert prompt[at : at + len(expected)] == expected
      response = _row(episode.turns.response.tokens, turn, b)
      ended = response and response[-1] in spec.op.stop_ids
      memory = (response[:-1] if ended else response)[: spec.op.capacity]
      checked += bool(memory)
    answer = token_lib.to_lists(episode.answer.prompt)[b]
    at = answer.index(spec.op.answer.pieces[2][0]) + 1
    expected = memory or shown
    assert answer[at : at + len(expected)] == expected
  assert checked > 3


def _row(tokens, turn, b):
  return np.asarray(tokens.ids)[turn, b, : int(tokens.length[turn, b])].tolist()


def test_a_row_does_not_depend_on_the_rest_of_the_batch(
  params, spec, tokenizer, episode
):
  # The same six examples in another order, under one compiled shape.
  order = [4, 0, 5, 2, 1, 3]
  examples = _examples([0, 6, 12, 15, 18, 3])
  task = agents.make_task([examples[i] for i in order], tokenizer, spec)
  moved = agents.rollout_jit(params, spec, task, _KEY, 1.0)
  for row, i in enumerate(order):
    for turn in range(3):
      assert _row(moved.turns.response.tokens, turn, row) == _row(
        episode.turns.response.tokens, turn, i
      )


def test_another_batch_size_draws_the_same(params, spec, tokenizer, episode):
  """Across compiled shapes: the same keys, log-probs within 1e-5."""
  alone = agents.make_task(
    [_examples([0, 6, 12, 15, 18, 3])[4]], tokenizer, spec
  )
  got = agents.rollout_jit(params, spec, alone, _KEY, 1.0)
  for turn in range(3):
    tokens = _row(got.turns.response.tokens, turn, 0)
    assert tokens == _row(episode.turns.response.tokens, turn, 4)
    np.testing.assert_allclose(
      got.turns.response.logp[turn, 0],
      episode.turns.response.logp[turn, 4],
      atol=1e-5,
    )


def test_samples_of_one_task_differ_and_are_reproduced(params, spec, tokenizer):
  task = agents.repeat(agents.make_task(_examples([18]), tokenizer, spec), 6)
  np.testing.assert_array_equal(task.sample, np.arange(6))
  once = agents.rollout_jit(params, spec, task, _KEY, 1.0)
  again = agents.rollout_jit(params, spec, task, _KEY, 1.0)
  other = agents.rollout_jit(params, spec, task, jax.random.key(4), 1.0)
  rows = lambda e: [_row(e.turns.response.tokens, 0, b) for b in range(6)]
  assert rows(once) == rows(again)
  assert rows(once) != rows(other)
  assert len(set(map(tuple, rows(once)))) > 1


def test_recorded_logp_agrees_with_a_forward_pass(params, spec, episode):
  segment = jax.tree.map(lambda x: x[0], episode.turns)
  text = token_lib.concat([segment.prompt, segment.response.tokens])
  logits = qwen3.logits(params, spec.model, text.ids, text.length)
  logp = jax.nn.log_softmax(logits)
  for b in np.flatnonzero(np.asarray(segment.active)):
    start = int(segment.prompt.length[b])
    for t in range(int(segment.response.tokens.length[b])):
      token = int(segment.response.tokens.ids[b, t])
      np.testing.assert_allclose(
        segment.response.logp[b, t], logp[b, start + t - 1, token], atol=1e-5
      )


def test_no_host_transfer_inside_a_rollout(params, spec, task):
  placed = jax.device_put(task)
  temperature = jax.device_put(jnp.float32(1.0))
  agents.rollout_jit(params, spec, placed, _KEY, temperature)
  with jax.transfer_guard("disallow"):
    episode = agents.rollout_jit(params, spec, placed, _KEY, temperature)
  assert episode.answer.active.all()


def test_memory_agent_reads_like_the_rollout(params, spec, tokenizer):
  example = dataclasses.replace(_examples([15])[0], id=agents.text_id("kim?"))
  task = agents.make_task([example], tokenizer, spec)
  episode = agents.rollout_jit(params, spec, task, _KEY, 0.0)
  seen = []
  agent = agents.MemoryAgent(params, spec, tokenizer)
  answer, memories = agent.read(
    example.context, "kim?", lambda *args: seen.append(args)
  )
  decode = lambda ids: tokenizer.decode(ids)
  assert memories == [
    decode(_row(episode.turns.result, turn, 0)) for turn in range(3)
  ]
  assert answer == decode(token_lib.to_lists(episode.answer.result)[0])
  assert [chunk for chunk, _, _ in seen] == [1, 2, 3]


def test_memory_agent_answers_about_an_empty_text(params, spec, tokenizer):
  answer, memories = agents.MemoryAgent(params, spec, tokenizer).read(
    "", "kim?"
  )
  assert memories == []
  assert isinstance(answer, str)


def test_greedy_equals_generate(params, spec, task):
  """The rollout's first turn is `sampling.generate` on its prompt."""
  episode = agents.rollout_jit(params, spec, task, _KEY, 0.0)
  ids, _ = sampling.generate(
    params,
    spec.model,
    [_row(episode.turns.prompt, 0, 4)],
    key=_KEY,
    max_new_tokens=spec.update_tokens,
    temperature=0.0,
    stop_ids=spec.op.stop_ids,
  )
  assert ids[0] == _row(episode.turns.response.tokens, 0, 4)


def test_memory_agent_from_a_directory(params, spec, tokenizer, model_dir):
  """The quickstart's words, in three lines."""
  agent = agents.MemoryAgent.load(
    model_dir,
    style="words",
    chunk_tokens=6,
    question_tokens=2,
    memory_tokens=3,
    update_tokens=4,
    answer_tokens=2,
    dtype="float32",
  )
  answer, memories = agent.read("the of and to a in is it", "kim?")
  # The fixture's agent ends its responses with other words as well.
  plain = dataclasses.replace(
    spec, op=recurrent.make_recurrent(tokenizer, "words", capacity=3)
  )
  assert (answer, memories) == agents.MemoryAgent(
    params, plain, tokenizer
  ).read("the of and to a in is it", "kim?")
