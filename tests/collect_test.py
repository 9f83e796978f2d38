import dataclasses
import types

import jax
import numpy as np
import pytest

from memjax import agents
from memjax import collect
from memjax import tasks
from memjax.envs import example as example_lib

_CFG = collect.CollectConfig(
  questions=4, wave_questions=2, group_size=3, max_chunks=2
)


@dataclasses.dataclass(frozen=True)
class _Env:
  """Rewards by whether the answer's first word has an even id."""

  live_from: int = 0  # examples before it give every answer reward 0

  def train_examples(self, start, count):
    return [
      example_lib.Example(i, "kim?", "the of and to a in is", ("oslo",))
      for i in range(start, start + count)
    ]

  def reward(self, example, text):
    if example.id < self.live_from:
      return 0.0
    return float(len(text) % 2)


def _collect(policies, agent, tokenizer, cfg=_CFG, env=_Env(), cursor=0):  # noqa: B008
  return collect.collect(
    policies,
    agent,
    env,
    tokenizer,
    cfg,
    key=jax.random.key(0),
    seed=(0, 0),
    cursor=cursor,
  )


def test_waves_equal_one_wave(policies, agent, tokenizer):
  """Cutting an iteration into waves moves no token and no advantage."""
  two = _collect(policies, agent, tokenizer)
  one = _collect(
    policies, agent, tokenizer, dataclasses.replace(_CFG, wave_questions=4)
  )
  assert two.cursor == one.cursor == 4
  np.testing.assert_array_equal(two.index["update"], one.index["update"])
  for a, b in zip(
    jax.tree.leaves((two.rows["update"], two.rows["answer"])),
    jax.tree.leaves((one.rows["update"], one.rows["answer"])),
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert two.metrics["rollout/waves"] == 2
  assert two.metrics["rollout/reward"] == one.metrics["rollout/reward"]


def test_one_advantage_for_all_turns_of_a_trajectory(
  policies, agent, tokenizer
):
  got = _collect(policies, agent, tokenizer)
  adv_CB = np.asarray(got.rows["update"].adv).reshape(2, 12)
  np.testing.assert_array_equal(adv_CB[0], adv_CB[1])
  np.testing.assert_array_equal(adv_CB[0], got.rows["answer"].adv)
  np.testing.assert_allclose(adv_CB[0].reshape(4, 3).sum(1), 0, atol=1e-6)
  assert np.abs(adv_CB).max() > 0


class _Batches(_Env):
  """Rewards a wave at once; which answer is right depends on the example."""

  def reward(self, example, text):
    return float((len(text) + example.id) % 2)

  def rewards(self, examples, texts):
    self.calls.append([example.id for example in examples])
    return [self.reward(*pair) for pair in zip(examples, texts, strict=True)]


def test_a_wave_is_rewarded_at_once_if_the_environment_can(
  policies, agent, tokenizer
):
  """Each answer by its own example, in both ways."""
  batches = _Batches()
  object.__setattr__(batches, "calls", [])
  at_once = _collect(policies, agent, tokenizer, _CFG, batches)
  # Two waves of two questions, with three trajectories each.
  assert batches.calls == [[0] * 3 + [1] * 3, [2] * 3 + [3] * 3]
  one_by_one = type("OneByOne", (_Env,), {"reward": _Batches.reward})()
  want = _collect(policies, agent, tokenizer, _CFG, one_by_one)
  np.testing.assert_array_equal(
    at_once.rows["answer"].adv, want.rows["answer"].adv
  )
  assert np.abs(np.asarray(want.rows["answer"].adv)).max() > 0


def test_dynamic_sampling_keeps_live_groups_only(policies, agent, tokenizer):
  cfg = dataclasses.replace(_CFG, dynamic_sampling=True, max_waves=20)
  got = _collect(policies, agent, tokenizer, cfg, _Env(live_from=4))
  assert got.metrics["rollout/groups"] == 4
  assert got.cursor >= 8  # the first four examples give nothing
  adv_QG = np.asarray(got.rows["answer"].adv).reshape(4, 3)
  assert (np.abs(adv_QG).max(1) > 0).all()
  assert got.metrics["rollout/live_groups"] < 1


def test_dynamic_sampling_gives_up(policies, agent, tokenizer):
  cfg = dataclasses.replace(_CFG, dynamic_sampling=True, max_waves=3)
  got = _collect(policies, agent, tokenizer, cfg, _Env(live_from=1000))
  assert got.cursor == 6
  assert got.metrics["rollout/groups"] == 0
  assert len(got.index["update"]) == len(got.index["answer"]) == 0


def test_shuffled_rewards_are_the_same_rewards(policies, agent, tokenizer):
  plain = _collect(policies, agent, tokenizer)
  shuffled = _collect(
    policies,
    agent,
    tokenizer,
    dataclasses.replace(_CFG, shuffle_rewards=True),
  )
  a = np.asarray(plain.rows["answer"].adv).reshape(4, 3)
  b = np.asarray(shuffled.rows["answer"].adv).reshape(4, 3)
  np.testing.assert_allclose(np.sort(a, 1), np.sort(b, 1), atol=1e-6)
  assert (a != b).any()
  assert plain.metrics["rollout/reward"] == shuffled.metrics["rollout/reward"]


def test_overlong_responses_cost_reward(policies, agent, tokenizer):
  cfg = dataclasses.replace(_CFG, overlong_buffer=2)
  got = _collect(policies, agent, tokenizer, cfg)
  assert -1 <= got.metrics["rollout/penalty"] < 0
  assert "rollout/penalty" not in _collect(policies, agent, tokenizer).metrics


def test_metrics_count_what_is_wasted(policies, agent, tokenizer):
  cfg = dataclasses.replace(_CFG, max_chunks=4)
  metrics = _collect(policies, agent, tokenizer, cfg).metrics
  # 7 words in chunks of 6: two of four turns.
  assert metrics["rollout/update/idle"] == 0.5
  assert 0 < metrics["rollout/update/idle_decoding"] < 1
  assert 0 < metrics["rollout/answer/idle_decoding"] < 1
  assert 0 < metrics["rollout/truncated"] < 1


@pytest.mark.parametrize(
  "one_by_one, idle", [((), 1 - 18 / 40), (("update",), 1 - 18 / 24)]
)
def test_decoding_ends_with_the_longest_of_what_is_at_once(one_by_one, idle):
  """Two turns, two calls in each, two rows: lengths by hand."""
  length = np.array([[1, 5, 2, 2], [5, 3, 0, 0]])
  segment = lambda length: types.SimpleNamespace(
    active=length > 0,
    malformed=length < 0,
    prompt=types.SimpleNamespace(length=length),
    response=types.SimpleNamespace(
      truncated=length < 0, tokens=types.SimpleNamespace(length=length)
    ),
    counts={},
  )
  answer = segment(np.array([4, 2]))
  episode = types.SimpleNamespace(
    turns={"update": segment(length)}, asked={"answer": answer}, answer=answer
  )
  reader = types.SimpleNamespace(questions=1, one_by_one=one_by_one)
  stats = collect._stats(episode, reader, 0)
  # (5 + 5) * 4 places; call by call (5 + 2 + 5 + 0) * 2.
  assert stats["update/idle_decoding"] == pytest.approx(idle)
  assert stats["answer/idle_decoding"] == pytest.approx(1 - 6 / 8)


def test_experience_is_a_function_of_key_and_cursor(policies, agent, tokenizer):
  rows = lambda cursor: np.asarray(
    _collect(policies, agent, tokenizer, cursor=cursor)
    .rows["update"]
    .response.ids
  )
  np.testing.assert_array_equal(rows(0), rows(0))
  assert (rows(0) != rows(4)).any()


def test_rewards_are_decoded_answers(policies, agent, tokenizer):
  """What the environment sees is the answer without its end token."""
  seen = []

  class Spy(_Env):
    def reward(self, example, text):
      seen.append(text)
      return 0.0

  _collect(policies, agent, tokenizer, env=Spy())
  task = tasks.make_task(Spy().train_examples(0, 2), tokenizer, agent, 2, 2)
  episode = agents.rollout_jit(
    policies, agent, tasks.repeat(task, 3), jax.random.key(0), 1.0
  )
  result = episode.answer.result
  for b in range(6):
    ids = np.asarray(result.ids)[b, : int(result.length[b])]
    assert seen[b] == tokenizer.decode(ids)


@pytest.mark.parametrize("std", [False, True])
def test_std_normalisation_is_a_choice(policies, agent, tokenizer, std):
  cfg = dataclasses.replace(_CFG, std_normalize=std)
  adv = np.abs(
    np.asarray(_collect(policies, agent, tokenizer, cfg).rows["answer"].adv)
  )
  # Rewards 0, 0, 1 or 0, 1, 1: means 1/3 or 2/3, unbiased std sqrt(1/3).
  scale = 3**0.5 if std else 1.0
  for value in adv[adv > 0]:
    assert min(abs(value - scale / 3), abs(value - 2 * scale / 3)) < 1e-4


class _Watched(_Env):
  """Notes what is asked of it, in order."""

  def train_examples(self, start, count):
    self.log.append(f"sample {start}")
    return super().train_examples(start, count)

  def rewards(self, examples, texts):
    self.log.append(f"score {examples[0].id}")
    return [self.reward(*pair) for pair in zip(examples, texts)]


@pytest.mark.parametrize(
  "dynamic, log",
  [
    # The next wave is on the device while one is scored.
    (False, ["sample 0", "sample 2", "score 0", "score 2"]),
    # With all groups live, two waves are sure to be needed.
    (True, ["sample 0", "sample 2", "score 0"]),
  ],
)
def test_the_next_wave_is_sampled_while_one_is_scored(
  policies, agent, tokenizer, dynamic, log
):
  env = _Watched()
  object.__setattr__(env, "log", [])
  cfg = dataclasses.replace(_CFG, dynamic_sampling=dynamic, max_waves=20)
  got = _collect(policies, agent, tokenizer, cfg, env)
  assert env.log[: len(log)] == log
  # No wave is sampled in vain.
  samples = sum(x.startswith("sample") for x in env.log)
  assert samples == len(env.log) / 2 == got.metrics["rollout/waves"]
  assert got.cursor == 2 * samples
