"""Advantages from one scalar reward per trajectory, and reward shaping.

Dimension key: Q questions (prompts), G trajectories sampled per question.

An advantage is computed once per trajectory, before the trajectory is expanded
into its conversations; a row then looks its advantage up by trajectory:

  adv_R = adv_QG.reshape(-1)[trajectory_R]

The other order would let a trajectory with more turns pull the group mean.
Everything is float32 (float64 stays float64, for tests).
"""

import jax
import jax.numpy as jnp


def group_relative(
  reward_QG: jax.Array, std_normalize: bool = False, eps: float = 1e-6
) -> jax.Array:
  """Computes the reward relative to the other trajectories of its question.

    A_qg = R_qg - mean_g R_qg                            (Dr. GRPO, MemAgent)
    A_qg = (R_qg - mean_g R_qg) / (std_g R_qg + eps)     (GRPO, DAPO, GSPO)

  The GRPO paper prints "std" without saying which; here it is the unbiased one
  (divisor G - 1), as in the released verl code. A group whose rewards are all
  equal gets exactly 0, not the rounding error of its mean divided by eps; so
  does a group of one.

  Worked example: rewards 1, 0, 0, 1 have mean 1/2 and unbiased std sqrt(1/3),
  so A is 0.5, -0.5, -0.5, 0.5, or +-0.866 with std_normalize.

  Args:
    reward_QG: one reward per trajectory, [Q, G].
    std_normalize: divide by the standard deviation of the group.
    eps: added to the standard deviation, in units of reward.

  Returns:
    Advantages, [Q, G], float32.

  Raises:
    ValueError: reward_QG has not two dimensions.

  Source: arXiv 2402.03300 sec. 4.1.2 (with std), 2503.20783 sec. 3.2 and
  2507.02259 eq. 1 (without).
  """
  live_Q = live_groups(reward_QG)
  reward_QG = reward_QG.astype(jnp.promote_types(reward_QG.dtype, jnp.float32))
  adv_QG = reward_QG - jnp.mean(reward_QG, axis=1, keepdims=True)
  if std_normalize:
    group_size = reward_QG.shape[1]
    square_Q1 = jnp.sum(jnp.square(adv_QG), axis=1, keepdims=True)
    # max: a group of one has no deviation, and 0 / 0 would be NaN.
    std_Q1 = jnp.sqrt(square_Q1 / max(group_size - 1, 1))
    adv_QG = adv_QG / (std_Q1 + eps)
  return jnp.where(live_Q[:, None], adv_QG, 0.0)


def live_groups(reward_QG: jax.Array) -> jax.Array:
  """Tells which groups have two different rewards, and so a policy gradient.

  DAPO's dynamic sampling keeps these and resamples the others. A group with a
  NaN reward is live, so that the NaN shows up in the loss.

  Args:
    reward_QG: one reward per trajectory, [Q, G].

  Returns:
    bool, [Q].

  Raises:
    ValueError: reward_QG has not two dimensions.

  Source: arXiv 2503.14476 sec. 3.2.
  """
  if reward_QG.ndim != 2:
    raise ValueError(
      f"reward_QG has shape {reward_QG.shape}; expected [questions, group]."
      " Reshape flat rewards to (-1, group_size)."
    )
  return jnp.max(reward_QG, axis=1) != jnp.min(reward_QG, axis=1)


def overlong_penalty(
  length: jax.Array, max_length: int, buffer: int
) -> jax.Array:
  """Computes DAPO's soft penalty on long responses, to add to the reward.

     0                                   length <= max_length - buffer
     (max_length - buffer - length) / buffer            in between
    -1                                   length >= max_length

  Worked example: max_length 10 and buffer 4 give 0 up to 6 tokens, -0.25 at 7,
  -0.5 at 8 and -1 from 10 on.

  Args:
    length: response lengths in tokens, integers of any shape.
    max_length: length at which the penalty is full, in tokens.
    buffer: width of the linear part, in tokens, 1..max_length.

  Returns:
    Penalty in [-1, 0], the shape of length, float32.

  Raises:
    ValueError: buffer is outside 1..max_length.

  Source: arXiv 2503.14476 eq. 13.
  """
  if not 1 <= buffer <= max_length:
    raise ValueError(
      f"buffer is {buffer} tokens; expected 1..max_length ({max_length})."
      " Leave the penalty out instead of setting buffer to 0."
    )
  over = jnp.asarray(max_length - buffer - length, dtype=jnp.float32)
  return jnp.clip(over / buffer, -1.0, 0.0)
