import dataclasses

import jax
import numpy as np
import pytest

import memjax
from memjax import agents
from memjax import reader
from memjax import sampling
from memjax import tasks
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
def task(tokenizer, agent):
  # Empty, exact multiples, a short last chunk, more than any other.
  return tasks.make_task(_examples([0, 6, 12, 15, 18, 3]), tokenizer, agent)


@pytest.fixture(scope="module")
def episode(policies, agent, task):
  return agents.rollout_jit(policies, agent, task, _KEY, 1.0)


def _row(tokens, turn, b):
  return np.asarray(tokens.ids)[turn, b, : int(tokens.length[turn, b])].tolist()


def test_sampled_ids_stand_verbatim_in_the_next_prompt(agent, task, episode):
  turns = episode.turns["update"]
  prompts = turns.prompt
  shown = list(agent.op.empty_memory)
  checked = 0
  for b in range(len(task.id)):
    memory = []
    for turn in range(prompts.length.shape[0]):
      if not turns.active[turn, b]:
        continue
      prompt = _row(prompts, turn, b)
      # <ask> question <memory> MEMORY <chunk> ...
      at = prompt.index(agent.op.update.pieces[2][0]) + 1
      expected = memory or shown
      assert prompt[at : at + len(expected)] == expected
      response = _row(turns.response.tokens, turn, b)
      ended = response and response[-1] in agent.op.stop_ids
      memory = (response[:-1] if ended else response)[: agent.op.capacity]
      checked += bool(memory)
    answer = token_lib.to_lists(episode.answer.prompt)[b]
    at = answer.index(agent.op.answer.pieces[2][0]) + 1
    expected = memory or shown
    assert answer[at : at + len(expected)] == expected
  assert checked > 3


def test_the_state_after_a_turn_is_the_memory_it_wrote(agent, task, episode):
  turns = episode.turns["update"]
  for turn in range(3):
    state = jax.tree.map(lambda x, turn=turn: x[turn], episode.states)
    for b in np.flatnonzero(np.asarray(turns.active[turn])):
      memory = _row(turns.result, turn, b)
      assert agent.shown(state, b) == ([memory] if memory else [])
      assert turns.counts["memory_tokens"][turn, b] == len(memory)


def test_given_texts_are_the_memory(policies, agent):
  state = agent.given(policies, [[[10, 11], [12]], [], [[13]]])
  assert token_lib.to_lists(state) == [[10, 11, 12], [], [13]]
  assert [agent.shown(state, b) for b in range(3)] == [
    [[10, 11, 12]],
    [],
    [[13]],
  ]


def test_entries_held_beforehand_are_read_first(policies, agent, tokenizer):
  first, second = _examples([6, 6])
  held = dataclasses.replace(first, bank=("the of", "and"))
  task = tasks.make_task([held, second], tokenizer, agent)
  assert task.chunks.length.tolist() == [[3, 6], [6, 0]]
  assert task.chunks.ids[0, 0, :3].tolist() == tokenizer.encode("the of and")
  assert token_lib.to_lists(agent.init(policies, task)) == [[], []]


def test_memory_agent_reads_like_the_rollout(policies, agent, tokenizer):
  example = dataclasses.replace(_examples([15])[0], id=reader.text_id("kim?"))
  task = tasks.make_task([example], tokenizer, agent)
  episode = agents.rollout_jit(policies, agent, task, _KEY, 0.0)
  seen = []
  answer, memories = reader.Reader(policies, agent, tokenizer).read(
    example.context, "kim?", lambda *args: seen.append(args)
  )
  decode = lambda ids: tokenizer.decode(ids)
  assert memories == [
    decode(_row(episode.turns["update"].result, turn, 0)) for turn in range(3)
  ]
  assert answer == decode(token_lib.to_lists(episode.answer.result)[0])
  assert [chunk for chunk, _, _ in seen] == [1, 2, 3]


def test_memory_agent_answers_about_an_empty_text(policies, agent, tokenizer):
  answer, memories = reader.Reader(policies, agent, tokenizer).read("", "kim?")
  assert memories == []
  assert isinstance(answer, str)


def test_greedy_equals_generate(params, policies, agent, task):
  """The rollout's first turn is `sampling.generate` on its prompt."""
  episode = agents.rollout_jit(policies, agent, task, _KEY, 0.0)
  turns = episode.turns["update"]
  ids, _ = sampling.generate(
    params,
    agent.model,
    [_row(turns.prompt, 0, 4)],
    key=_KEY,
    max_new_tokens=agent.update_tokens,
    temperature=0.0,
    stop_ids=agent.op.stop_ids,
  )
  assert ids[0] == _row(turns.response.tokens, 0, 4)


def test_memory_agent_from_a_directory(policies, agent, tokenizer, model_dir):
  """The quickstart's words, in three lines."""
  loaded = memjax.load(
    model_dir,
    style="words",
    chunk_tokens=6,
    question_tokens=2,
    memory_tokens=3,
    update_tokens=4,
    answer_tokens=2,
    dtype="float32",
  )
  answer, memories = loaded.read("the of and to a in is it", "kim?")
  # The fixture's agent ends its responses with other words as well.
  plain = dataclasses.replace(
    agent, op=recurrent.make_recurrent(tokenizer, "words", capacity=3)
  )
  assert (answer, memories) == reader.Reader(policies, plain, tokenizer).read(
    "the of and to a in is it", "kim?"
  )
