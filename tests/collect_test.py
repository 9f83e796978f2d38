import dataclasses

import jax
import numpy as np
import pytest

from memjax import agents
from memjax import collect
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


def _collect(params, spec, tokenizer, cfg=_CFG, env=_Env(), cursor=0):  # noqa: B008
  return collect.collect(
    params,
    spec,
    env,
    tokenizer,
    cfg,
    key=jax.random.key(0),
    seed=(0, 0),
    cursor=cursor,
  )


def test_waves_equal_one_wave(params, spec, tokenizer):
  """Cutting an iteration into waves moves no token and no advantage."""
  two = _collect(params, spec, tokenizer)
  one = _collect(
    params, spec, tokenizer, dataclasses.replace(_CFG, wave_questions=4)
  )
  assert two.cursor == one.cursor == 4
  np.testing.assert_array_equal(two.turn_index, one.turn_index)
  for a, b in zip(
    jax.tree.leaves((two.turns, two.answers)),
    jax.tree.leaves((one.turns, one.answers)),
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert two.metrics["rollout/waves"] == 2
  assert two.metrics["rollout/reward"] == one.metrics["rollout/reward"]


def test_one_advantage_for_all_turns_of_a_trajectory(params, spec, tokenizer):
  got = _collect(params, spec, tokenizer)
  adv_CB = np.asarray(got.turns.adv).reshape(2, 12)
  np.testing.assert_array_equal(adv_CB[0], adv_CB[1])
  np.testing.assert_array_equal(adv_CB[0], got.answers.adv)
  np.testing.assert_allclose(adv_CB[0].reshape(4, 3).sum(1), 0, atol=1e-6)
  assert np.abs(adv_CB).max() > 0


def test_dynamic_sampling_keeps_live_groups_only(params, spec, tokenizer):
  cfg = dataclasses.replace(_CFG, dynamic_sampling=True, max_waves=20)
  got = _collect(params, spec, tokenizer, cfg, _Env(live_from=4))
  assert got.metrics["rollout/groups"] == 4
  assert got.cursor >= 8  # the first four examples give nothing
  adv_QG = np.asarray(got.answers.adv).reshape(4, 3)
  assert (np.abs(adv_QG).max(1) > 0).all()
  assert got.metrics["rollout/live_groups"] < 1


def test_dynamic_sampling_gives_up(params, spec, tokenizer):
  cfg = dataclasses.replace(_CFG, dynamic_sampling=True, max_waves=3)
  got = _collect(params, spec, tokenizer, cfg, _Env(live_from=1000))
  assert got.cursor == 6
  assert got.metrics["rollout/groups"] == 0
  assert len(got.turn_index) == len(got.answer_index) == 0


def test_shuffled_rewards_are_the_same_rewards(params, spec, tokenizer):
  plain = _collect(params, spec, tokenizer)
  shuffled = _collect(
    params,
    spec,
    tokenizer,
    dataclasses.replace(_CFG, shuffle_rewards=True),
  )
  a = np.asarray(plain.answers.adv).reshape(4, 3)
  b = np.asarray(shuffled.answers.adv).reshape(4, 3)
  np.testing.assert_allclose(np.sort(a, 1), np.sort(b, 1), atol=1e-6)
  assert (a != b).any()
  assert plain.metrics["rollout/reward"] == shuffled.metrics["rollout/reward"]


def test_overlong_responses_cost_reward(params, spec, tokenizer):
  cfg = dataclasses.replace(_CFG, overlong_buffer=2)
  got = _collect(params, spec, tokenizer, cfg)
  assert -1 <= got.metrics["rollout/penalty"] < 0
  assert "rollout/penalty" not in _collect(params, spec, tokenizer).metrics


def test_metrics_count_what_is_wasted(params, spec, tokenizer):
  cfg = dataclasses.replace(_CFG, max_chunks=4)
  metrics = _collect(params, spec, tokenizer, cfg).metrics
  # 7 words in chunks of 6: two of four turns.
  assert metrics["rollout/idle_turns"] == 0.5
  assert 0 < metrics["rollout/idle_decoding"] < 1
  assert 0 < metrics["rollout/truncated"] < 1


def test_experience_is_a_function_of_key_and_cursor(params, spec, tokenizer):
  rows = lambda cursor: np.asarray(
    _collect(params, spec, tokenizer, cursor=cursor).turns.response.ids
  )
  np.testing.assert_array_equal(rows(0), rows(0))
  assert (rows(0) != rows(4)).any()


def test_rewards_are_decoded_answers(params, spec, tokenizer):
  """What the environment sees is the answer without its end token."""
  seen = []

  class Spy(_Env):
    def reward(self, example, text):
      seen.append(text)
      return 0.0

  _collect(params, spec, tokenizer, env=Spy())
  task = agents.make_task(Spy().train_examples(0, 2), tokenizer, spec, 2, 2)
  episode = agents.rollout_jit(
    params, spec, agents.repeat(task, 3), jax.random.key(0), 1.0
  )
  result = episode.answer.result
  for b in range(6):
    ids = np.asarray(result.ids)[b, : int(result.length[b])]
    assert seen[b] == tokenizer.decode(ids)


@pytest.mark.parametrize("std", [False, True])
def test_std_normalisation_is_a_choice(params, spec, tokenizer, std):
  cfg = dataclasses.replace(_CFG, std_normalize=std)
  adv = np.abs(np.asarray(_collect(params, spec, tokenizer, cfg).answers.adv))
  # Rewards 0, 0, 1 or 0, 1, 1: means 1/3 or 2/3, unbiased std sqrt(1/3).
  scale = 3**0.5 if std else 1.0
  for value in adv[adv > 0]:
    assert min(abs(value - scale / 3), abs(value - 2 * scale / 3)) < 1e-4
