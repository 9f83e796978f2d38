"""What objectives are made of, token by token: KL estimators, ratios, clipping.

Dimension key: R rows, T response tokens.
"""

import jax
import jax.numpy as jnp

from memjax import reductions

# exp(20) = 4.9e8. Beyond about 88 float32 overflows, and the branch of the
# minimum that is not taken would give 0 * inf = NaN in the gradient.
_MAX_LOG_RATIO = 20.0
# exp(10) = 2.2e4: one token of k3 weighs at most this much.
_MAX_LOG_REF = 10.0


def kl_k1(logp_RT: jax.Array, ref_logp_RT: jax.Array) -> jax.Array:
  """Computes k1 = log pi - log ref: unbiased, of either sign. [R, T].

  Source: J. Schulman, joschu.net/blog/kl-approx.html, for k1, k2 and k3.
  """
  return logp_RT - ref_logp_RT


def kl_k2(logp_RT: jax.Array, ref_logp_RT: jax.Array) -> jax.Array:
  """Computes k2 = (log pi - log ref)^2 / 2: biased, never negative. [R, T]."""
  return 0.5 * jnp.square(logp_RT - ref_logp_RT)


def kl_k3(logp_RT: jax.Array, ref_logp_RT: jax.Array) -> jax.Array:
  """Computes k3 = exp(d) - d - 1 with d = log ref - log pi. [R, T].

  Unbiased for KL(pi || ref) under samples of pi, and never negative.
  d is clipped to [-10, 10], so that k3 stays below 2.2e4; a token outside has
  no KL gradient. (verl clips d to [-20, 20] and the value to 10, which stops
  the gradient already at d = 2.6 and d = -11.)

  Worked example: d = log 2 gives 2 - 0.693 - 1 = 0.307.
  """
  d_RT = jnp.clip(ref_logp_RT - logp_RT, -_MAX_LOG_REF, _MAX_LOG_REF)
  # expm1, because exp(d) - 1 loses all digits at the d near 0 of early steps.
  return jnp.expm1(d_RT) - d_RT


def token_ratio(logp_RT: jax.Array, old_logp_RT: jax.Array) -> jax.Array:
  """Computes rho_t = pi(o_t) / pi_old(o_t); exactly 1 where they are equal.

  The log ratio is clipped to [-20, 20], see _MAX_LOG_RATIO.

  Args:
    logp_RT: log-probability under the policy, [R, T]; no garbage in padding.
    old_logp_RT: log-probability under the behaviour policy, [R, T]; likewise.

  Returns:
    Ratio, [R, T].
  """
  return _exp_ratio(logp_RT - old_logp_RT)


def sequence_ratio(
  logp_RT: jax.Array, old_logp_RT: jax.Array, mask_RT: jax.Array
) -> jax.Array:
  """Computes GSPO's s = exp((1/|o|) sum_t log rho_t), one value per row.

  Every token of the row carries s, and s depends on every token of the row:

    d s / d logp_t = s / |o|

  Worked example: token ratios 2 and 8 give s = exp((log 2 + log 8) / 2) = 4.

  Args:
    logp_RT: log-probability under the policy, [R, T].
    old_logp_RT: log-probability under the behaviour policy, [R, T].
    mask_RT: bool, [R, T]; padding may hold anything.

  Returns:
    s broadcast to [R, T]; 1 in a row without tokens.

  Source: arXiv 2507.18071 eq. 7.
  """
  log_ratio_RT = reductions.masked(logp_RT, mask_RT) - reductions.masked(
    old_logp_RT, mask_RT
  )
  length_R1 = jnp.sum(mask_RT, axis=1, keepdims=True)
  mean_R1 = jnp.sum(log_ratio_RT, axis=1, keepdims=True) / jnp.maximum(
    length_R1, 1
  )
  return jnp.broadcast_to(_exp_ratio(mean_R1), logp_RT.shape)


def clipped_surrogate(
  ratio_RT: jax.Array,
  adv_RT: jax.Array,
  clip_low: float,
  clip_high: float,
  dual_clip: float | None = None,
) -> jax.Array:
  """Computes PPO's clipped objective per token, to maximise.

    f = min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A)
    f = max(f, c A)   where A < 0, with dual clip c

  Worked example (0.2, 0.2, c = 3): A = -1 and rho = 10 give f = -10 without
  dual clip, and -3 without gradient with it.

  Args:
    ratio_RT: importance ratio, [R, T].
    adv_RT: advantage, [R, T], or [R, 1] for one per row.
    clip_low: width of the clip range below 1.
    clip_high: width of the clip range above 1.
    dual_clip: c > 1, or None for no bound on negative advantages.

  Returns:
    Objective, [R, T].

  Source: arXiv 1707.06347 eq. 7; dual clip 1912.09729; the two widths
  2503.14476 sec. 3.1.
  """
  _check_rank(ratio_RT, adv_RT)
  clipped_RT = jnp.clip(ratio_RT, 1 - clip_low, 1 + clip_high)
  f_RT = jnp.minimum(ratio_RT * adv_RT, clipped_RT * adv_RT)
  if dual_clip is None:
    return f_RT
  return jnp.where(adv_RT < 0, jnp.maximum(f_RT, dual_clip * adv_RT), f_RT)


def clip_active(
  ratio_RT: jax.Array,
  adv_RT: jax.Array,
  clip_low: float,
  clip_high: float,
  dual_clip: float | None = None,
) -> jax.Array:
  """Tells where clipped_surrogate is flat in the ratio, dual clip included.

  Same arguments as clipped_surrogate. Returns bool, [R, T].
  """
  _check_rank(ratio_RT, adv_RT)
  above_RT = (adv_RT > 0) & (ratio_RT > 1 + clip_high)
  below_RT = (adv_RT < 0) & (ratio_RT < 1 - clip_low)
  if dual_clip is None:
    return above_RT | below_RT
  return above_RT | below_RT | ((adv_RT < 0) & (ratio_RT > dual_clip))


def _exp_ratio(log_ratio: jax.Array) -> jax.Array:
  return jnp.exp(jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))


def _check_rank(ratio_RT: jax.Array, adv_RT: jax.Array) -> None:
  if adv_RT.ndim != ratio_RT.ndim:
    raise ValueError(
      f"adv_RT has shape {adv_RT.shape} and ratio_RT {ratio_RT.shape};"
      " expected as many dimensions. Write adv_R[:, None] for one per row."
    )
