"""One iteration's experience: rollouts, rewards, advantages, rows for the loss.

Rollouts are sampled in waves of W questions with G trajectories each, until
there are Q groups. With dynamic sampling (DAPO, 2503.14476 sec. 3.2) groups
whose rewards are all equal are left out, and waves are sampled until Q groups
are live or `max_waves` is reached; then the update has fewer groups.

Dimension key: Q groups of an iteration, W of a wave, G trajectories of a group;
B = W * G, trajectory b = w * G + g; C chunks; turn rows are numbered c * B + b,
in an iteration c * Q * G + q * G + g.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax import advantages
from memjax import agents
from memjax import qwen3
from memjax import rows as rows_lib
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib


@dataclasses.dataclass(frozen=True)
class CollectConfig:
  """How experience is made.

  Attributes:
    questions: Q, groups of an iteration.
    wave_questions: W, sampled at once: what the KV cache must hold.
    group_size: G, trajectories of a group.
    max_chunks: C, chunks of a trajectory; longer texts lose their middle.
    temperature: of sampling.
    std_normalize: divide advantages by the group's standard deviation.
    dynamic_sampling: leave groups of equal rewards out and sample more.
    max_waves: at most so many waves with dynamic sampling.
    overlong_buffer: tokens before a response's limit from which DAPO's penalty
      rises to 1; 0 is no penalty. The longest response of a trajectory,
      relative to its limit, counts.
    shuffle_rewards: permute rewards within each group: a control that must
      teach nothing.
  """

  questions: int
  wave_questions: int
  group_size: int
  max_chunks: int
  temperature: float = 1.0
  std_normalize: bool = False
  dynamic_sampling: bool = False
  max_waves: int = 1
  overlong_buffer: int = 0
  shuffle_rewards: bool = False


@dataclasses.dataclass(frozen=True)
class Experience:
  """What the update needs.

  Attributes:
    turns: memory turns as rows, [C * B].
    answers: answers as rows, [B].
    turn_index: the turn rows that count (host int array).
    answer_index: the answer rows that count.
    cursor: how many training examples have been used up.
    metrics: floats, named rollout/...
    tokens: prompt and response tokens that the model has processed.
  """

  turns: rows_lib.Rows
  answers: rows_lib.Rows
  turn_index: np.ndarray
  answer_index: np.ndarray
  cursor: int
  metrics: dict[str, float]
  tokens: int


@dataclasses.dataclass(frozen=True)
class _Wave:
  """What the host knows of one batch of rollouts."""

  adv_WG: np.ndarray
  live_W: np.ndarray
  stats: dict[str, np.ndarray]


def collect(
  params: qwen3.Params,
  spec: agents.Spec,
  env: Any,
  tokenizer: tokenizer_lib.Tokenizer,
  cfg: CollectConfig,
  *,
  key: jax.Array,
  seed: Sequence[int],
  cursor: int,
) -> Experience:
  """Samples rollouts and turns them into rows.

  Args:
    params: the behaviour policy.
    spec: the agent.
    env: gives training examples from a cursor on, and rewards.
    tokenizer: of the policy.
    cfg: how much, and with which advantage.
    key: of this iteration; a trajectory draws from (key, example, sample).
    seed: of what the host draws in this iteration.
    cursor: the first unused training example.
  """
  Q, W, G, C = (
    cfg.questions,
    cfg.wave_questions,
    cfg.group_size,
    cfg.max_chunks,
  )
  filled, waves = 0, []
  max_waves = cfg.max_waves if cfg.dynamic_sampling else Q // W
  turns = answers = None
  while filled < Q and len(waves) < max_waves:
    examples = env.train_examples(cursor, W)
    cursor += W
    episode, wave = _sample(
      params, spec, env, tokenizer, cfg, examples, key, seed
    )
    waves.append(wave)
    adv_B = wave.adv_WG.reshape(-1)
    new_turns = rows_lib.from_turns(episode.turns, adv_B)
    new_answers = rows_lib.from_segment(episode.answer, adv_B)
    if turns is None:
      turns = rows_lib.empty_like(new_turns, C * Q * G)
      answers = rows_lib.empty_like(new_answers, Q * G)
    live_W = wave.live_W if cfg.dynamic_sampling else np.ones(W, bool)
    keep = np.flatnonzero(live_W)[: Q - filled]
    target_W = np.full(W, -1)
    target_W[keep] = filled + np.arange(len(keep))
    filled += len(keep)
    target_B = _spread(target_W, G)
    target_R = np.where(
      target_B >= 0, np.arange(C)[:, None] * Q * G + target_B, -1
    ).reshape(-1)
    turns = rows_lib.put(turns, new_turns, target_R)
    answers = rows_lib.put(answers, new_answers, target_B)
  return Experience(
    turns,
    answers,
    np.flatnonzero(np.asarray(turns.weight)),
    np.flatnonzero(np.asarray(answers.weight)),
    cursor,
    _metrics(waves, filled, cfg),
    sum(int(wave.stats["tokens"].sum()) for wave in waves),
  )


def _spread(target_W: np.ndarray, group_size: int) -> np.ndarray:
  """Group numbers to trajectory numbers; -1 stays -1."""
  first = target_W[:, None] * group_size + np.arange(group_size)
  return np.where(target_W[:, None] >= 0, first, -1).reshape(-1)


def _sample(params, spec, env, tokenizer, cfg, examples, key, seed):
  """One wave of rollouts with rewards and advantages."""
  task = agents.make_task(
    examples, tokenizer, spec, cfg.max_chunks, cfg.max_chunks
  )
  task = agents.repeat(task, cfg.group_size)
  episode = agents.rollout_jit(params, spec, task, key, cfg.temperature)
  answers = token_lib.to_lists(episode.answer.result)
  verified_WG = np.array(
    [
      env.reward(examples[b // cfg.group_size], tokenizer.decode(ids))
      for b, ids in enumerate(answers)
    ],
    np.float32,
  ).reshape(-1, cfg.group_size)
  stats = _stats(episode, spec, cfg.overlong_buffer)
  stats["reward"] = verified_WG
  reward_WG = verified_WG + stats["penalty"].reshape(verified_WG.shape)
  if cfg.shuffle_rewards:
    rng = np.random.default_rng([*seed, examples[0].id, 5])
    reward_WG = rng.permuted(reward_WG, axis=1)
  return episode, _Wave(
    np.asarray(advantages.group_relative(reward_WG, cfg.std_normalize)),
    np.asarray(advantages.live_groups(jnp.asarray(reward_WG))),
    stats,
  )


def _stats(
  episode: agents.Episode, spec: agents.Spec, overlong_buffer: int
) -> dict[str, np.ndarray]:
  """Small host arrays that describe a wave."""
  turns, answer = jax.device_get(
    [
      (
        segment.active,
        segment.response.truncated,
        segment.malformed,
        segment.prompt.length,
        segment.response.tokens.length,
        segment.result.length,
      )
      for segment in (episode.turns, episode.answer)
    ]
  )
  active_CB, truncated_CB, malformed_CB, prompt_CB, length_CB, memory_CB = turns
  _, answer_truncated, answer_malformed, answer_prompt, answer_length, _ = (
    answer
  )
  # A turn takes as many decoding steps as its longest response.
  slots = length_CB.max(1).sum() * length_CB.shape[1]
  penalty = np.zeros(length_CB.shape[1:], np.float32)
  if overlong_buffer:
    over = lambda length, limit: np.asarray(
      advantages.overlong_penalty(length, limit, overlong_buffer)
    )
    penalty = np.minimum(
      over(length_CB, spec.update_tokens).min(0, initial=0.0),
      over(answer_length, spec.answer_tokens),
    )
  return {
    "penalty": penalty,
    "truncated": truncated_CB[active_CB],
    "malformed": malformed_CB[active_CB],
    "memory_tokens": memory_CB[active_CB],
    "response_tokens": length_CB[active_CB],
    "answer_tokens": answer_length,
    "answer_truncated": answer_truncated,
    "answer_malformed": answer_malformed,
    "idle_turns": ~active_CB,
    "idle_decoding": np.array([1 - length_CB.sum() / max(slots, 1)]),
    "tokens": np.array(
      [
        prompt_CB[active_CB].sum(),
        length_CB.sum(),
        answer_prompt.sum(),
        answer_length.sum(),
      ]
    ),
  }


def _metrics(
  waves: Sequence[_Wave], filled: int, cfg: CollectConfig
) -> dict[str, float]:
  """Means over the waves of an iteration; live groups are counted."""
  names = [name for name in waves[0].stats if name != "tokens"]
  if not cfg.overlong_buffer:
    names.remove("penalty")
  mean = lambda name: np.concatenate(
    [wave.stats[name].reshape(-1) for wave in waves]
  )
  return {
    **{f"rollout/{n}": float(mean(n).mean()) for n in names if mean(n).size},
    "rollout/live_groups": float(np.mean([wave.live_W for wave in waves])),
    "rollout/groups": filled,
    "rollout/waves": len(waves),
  }
