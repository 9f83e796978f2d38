"""Policy-gradient objectives: per-token values and an explicit reduction.

Dimension key: R rows, T response tokens. A row is one conversation (one model
call, `segment` elsewhere); a trajectory of n turns gives n rows that share its
advantage. Arrays are aligned with the response: logp_RT[r, t] belongs to
sampled token t of row r. mask_RT is bool; False marks padding, whose values may
be anything, NaN and infinity included.

What crosses micro-batches and devices is a `reductions.Mean`.

Everything is float32 (float64 stays float64, for tests).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from memjax import reductions

# exp(20) = 4.9e8. Beyond about 88 float32 overflows, and the branch of the
# minimum that is not taken would give 0 * inf = NaN in the gradient.
_MAX_LOG_RATIO = 20.0
# exp(10) = 2.2e4: one token of k3 weighs at most this much.
_MAX_LOG_REF = 10.0


@dataclasses.dataclass(frozen=True)
class LossConfig:
  """Numbers of an objective; static under jit.

  The published settings are in the docstring of each objective.
  """

  clip_low: float = 0.2  # the ratio is clipped below at 1 - clip_low
  clip_high: float = 0.2  # and above at 1 + clip_high
  dual_clip: float | None = 3.0  # bound c of clipped_surrogate; None: off
  kl_coef: float = 1e-3  # weight of k3 to the reference policy
  max_length: int = 1024  # tokens; divisor of dr_grpo, read nowhere else
  entropy_coef: float = 0.0  # weight of the entropy bonus

  def __post_init__(self):
    """Raises ValueError for a number outside its range."""
    for name, valid, expected in (
      ("clip_low", 0 < self.clip_low <= 1, "in (0, 1]"),
      ("clip_high", self.clip_high > 0, "> 0"),
      (
        "dual_clip",
        self.dual_clip is None or self.dual_clip > 1,
        "> 1, or None to turn it off",
      ),
      ("kl_coef", self.kl_coef >= 0, ">= 0"),
      ("max_length", self.max_length >= 1, ">= 1 token"),
      ("entropy_coef", self.entropy_coef >= 0, ">= 0"),
    ):
      if not valid:
        raise ValueError(
          f"{name} is {getattr(self, name)}; expected {expected}."
        )


# Per-token values.


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


# Objectives. All take the same arguments:
#
#   logp_RT      log pi of the sampled tokens, [R, T]; with entropy_RT the only
#                input that gets a gradient
#   old_logp_RT  log pi_old, the behaviour policy, [R, T]
#   ref_logp_RT  log pi_ref, [R, T], or None, which needs kl_coef 0
#   adv_R        advantage of the row's trajectory, [R], taken as it is: whether
#                it is divided by a std is decided in advantages.py
#   mask_RT      bool, [R, T]
#   entropy_RT   entropy of the policy at each token, [R, T], or None, which
#                needs entropy_coef 0
#
# and return the loss to minimise and metrics, each a Mean over response tokens:
# "ratio"; "clip_frac", the share of tokens where clip_active; "kl" (k3) if
# ref_logp_RT is given; "entropy" if entropy_RT is given. They raise ValueError
# if shapes disagree, or an array that cfg weighs is missing. Below,
#
#   f_t = clipped_surrogate(rho_t, A) - kl_coef k3_t + entropy_coef H_t
#
# so the KL and entropy terms are reduced exactly as the policy term.

Metrics = dict[str, reductions.Mean]


def grpo(
  logp_RT: jax.Array,
  old_logp_RT: jax.Array,
  ref_logp_RT: jax.Array | None,
  adv_R: jax.Array,
  mask_RT: jax.Array,
  cfg: LossConfig,
  entropy_RT: jax.Array | None = None,
) -> tuple[reductions.Mean, Metrics]:
  """Computes the GRPO loss, a mean of row means.

    L = -(1/R) sum_r (1/|o_r|) sum_t f_{r,t}

  The unit is one row. The paper has one conversation per trajectory; with
  several, each counts as one, so a trajectory of more turns weighs more.
  Published: advantage with std, kl_coef 0.04, dual_clip None.

  Source: arXiv 2402.03300 eq. 3.
  """
  batch = _prepare(
    logp_RT, old_logp_RT, ref_logp_RT, adv_R, mask_RT, cfg, entropy_RT
  )
  ratio_RT = token_ratio(batch.logp_RT, batch.old_logp_RT)
  loss_RT, metrics = _token_loss(ratio_RT, batch, cfg)
  return reductions.sequence_mean(loss_RT, mask_RT), metrics


def dr_grpo(
  logp_RT: jax.Array,
  old_logp_RT: jax.Array,
  ref_logp_RT: jax.Array | None,
  adv_R: jax.Array,
  mask_RT: jax.Array,
  cfg: LossConfig,
  entropy_RT: jax.Array | None = None,
) -> tuple[reductions.Mean, Metrics]:
  """Computes the Dr. GRPO loss: GRPO without the division by row length.

    L = -(1/R) sum_r (1/max_length) sum_t f_{r,t}

  The unit is one row, as in grpo; max_length is the cap of one response.
  Published: advantage without std, kl_coef 0, dual_clip None.

  Source: arXiv 2503.20783 sec. 3.2.
  """
  batch = _prepare(
    logp_RT, old_logp_RT, ref_logp_RT, adv_R, mask_RT, cfg, entropy_RT
  )
  ratio_RT = token_ratio(batch.logp_RT, batch.old_logp_RT)
  loss_RT, metrics = _token_loss(ratio_RT, batch, cfg)
  return reductions.constant_mean(loss_RT, mask_RT, cfg.max_length), metrics


def dapo(
  logp_RT: jax.Array,
  old_logp_RT: jax.Array,
  ref_logp_RT: jax.Array | None,
  adv_R: jax.Array,
  mask_RT: jax.Array,
  cfg: LossConfig,
  entropy_RT: jax.Array | None = None,
) -> tuple[reductions.Mean, Metrics]:
  """Computes the DAPO loss, a mean over all tokens of the batch.

    L = -1/(sum_r |o_r|) sum_r sum_t f_{r,t}

  Published: advantage with std, clip 0.2 / 0.28, kl_coef 0, dual_clip None (10
  in the released script); one conversation per trajectory.

  Source: arXiv 2503.14476 eq. 8.
  """
  batch = _prepare(
    logp_RT, old_logp_RT, ref_logp_RT, adv_R, mask_RT, cfg, entropy_RT
  )
  ratio_RT = token_ratio(batch.logp_RT, batch.old_logp_RT)
  loss_RT, metrics = _token_loss(ratio_RT, batch, cfg)
  return reductions.token_mean(loss_RT, mask_RT), metrics


def gspo(
  logp_RT: jax.Array,
  old_logp_RT: jax.Array,
  ref_logp_RT: jax.Array | None,
  adv_R: jax.Array,
  mask_RT: jax.Array,
  cfg: LossConfig,
  entropy_RT: jax.Array | None = None,
) -> tuple[reductions.Mean, Metrics]:
  """Computes the GSPO loss: one importance ratio per row, clipped as a whole.

    L = -(1/R) sum_r (1/|o_r|) sum_t f_{r,t},  rho_{r,t} = s_r

  with s_r of sequence_ratio. The policy term is the same at every token of a
  row, so its token mean is the row's value; the KL term is a token mean.
  The unit is one row: the paper does not define the ratio of a trajectory of
  several conversations, and here each has its own. "ratio" and "clip_frac"
  count a row once per token.
  Published: advantage with std, clip 3e-4 / 4e-4, dual_clip None.

  Source: arXiv 2507.18071 eq. 5.
  """
  batch = _prepare(
    logp_RT, old_logp_RT, ref_logp_RT, adv_R, mask_RT, cfg, entropy_RT
  )
  ratio_RT = sequence_ratio(batch.logp_RT, batch.old_logp_RT, mask_RT)
  loss_RT, metrics = _token_loss(ratio_RT, batch, cfg)
  return reductions.sequence_mean(loss_RT, mask_RT), metrics


def multi_conv_dapo(
  logp_RT: jax.Array,
  old_logp_RT: jax.Array,
  ref_logp_RT: jax.Array | None,
  adv_R: jax.Array,
  mask_RT: jax.Array,
  cfg: LossConfig,
  entropy_RT: jax.Array | None = None,
) -> tuple[reductions.Mean, Metrics]:
  """Computes MemAgent's multi-conversation DAPO loss, the default here.

    L = -1/(sum_i sum_j |o_{i,j}|) sum_i sum_j sum_t f_{i,j,t}

  with conversation j of trajectory i. Every conversation is a row and all share
  A_i, so once trajectories are expanded to rows the arithmetic is that of dapo;
  what differs is what a row is, and the settings.
  Published: advantage without std, clip 0.2 / 0.2, kl_coef 1e-3, dual_clip 3:
  the defaults of LossConfig.

  Source: arXiv 2507.02259 eq. 2.
  """
  return dapo(
    logp_RT, old_logp_RT, ref_logp_RT, adv_R, mask_RT, cfg, entropy_RT
  )


OBJECTIVES: dict[str, Callable[..., tuple[reductions.Mean, Metrics]]] = {
  "grpo": grpo,
  "dr_grpo": dr_grpo,
  "dapo": dapo,
  "gspo": gspo,
  "multi_conv_dapo": multi_conv_dapo,
}


@dataclasses.dataclass(frozen=True)
class _Batch:
  """Inputs of an objective, float32, with padding set to 0."""

  logp_RT: jax.Array
  old_logp_RT: jax.Array
  ref_logp_RT: jax.Array | None
  adv_R1: jax.Array
  mask_RT: jax.Array
  entropy_RT: jax.Array | None


def _prepare(
  logp_RT: jax.Array,
  old_logp_RT: jax.Array,
  ref_logp_RT: jax.Array | None,
  adv_R: jax.Array,
  mask_RT: jax.Array,
  cfg: LossConfig,
  entropy_RT: jax.Array | None,
) -> _Batch:
  """Checks the inputs and removes garbage, gradients and low precision."""
  if ref_logp_RT is None and cfg.kl_coef != 0:
    raise ValueError(
      f"kl_coef is {cfg.kl_coef}, but ref_logp_RT is None."
      " Give reference log-probabilities or set kl_coef to 0."
    )
  if entropy_RT is None and cfg.entropy_coef != 0:
    raise ValueError(
      f"entropy_coef is {cfg.entropy_coef}, but entropy_RT is None."
      " Give the entropy of each token or set entropy_coef to 0."
    )
  if logp_RT.ndim != 2:
    raise ValueError(f"logp_RT has shape {logp_RT.shape}; expected [R, T].")
  for name, x, shape in (
    ("old_logp_RT", old_logp_RT, logp_RT.shape),
    ("ref_logp_RT", ref_logp_RT, logp_RT.shape),
    ("adv_R", adv_R, logp_RT.shape[:1]),
    ("mask_RT", mask_RT, logp_RT.shape),
    ("entropy_RT", entropy_RT, logp_RT.shape),
  ):
    if x is not None and x.shape != shape:
      raise ValueError(
        f"{name} has shape {x.shape}; expected {shape}, because logp_RT has"
        f" shape {logp_RT.shape}."
      )
  if mask_RT.dtype != jnp.bool_:
    raise ValueError(f"mask_RT has dtype {mask_RT.dtype}; expected bool.")

  # Masked before any exp: where() on a result would still send NaN backward.
  # old and ref are data: no gradient, also when the caller passes logp as old.
  data = lambda x: jax.lax.stop_gradient(reductions.masked(x, mask_RT))
  row_R = jnp.any(mask_RT, axis=1)
  return _Batch(
    logp_RT=reductions.masked(logp_RT, mask_RT),
    old_logp_RT=data(old_logp_RT),
    ref_logp_RT=None if ref_logp_RT is None else data(ref_logp_RT),
    adv_R1=jax.lax.stop_gradient(reductions.masked(adv_R, row_R))[:, None],
    mask_RT=mask_RT,
    entropy_RT=None
    if entropy_RT is None
    else reductions.masked(entropy_RT, mask_RT),
  )


def _token_loss(
  ratio_RT: jax.Array, batch: _Batch, cfg: LossConfig
) -> tuple[jax.Array, Metrics]:
  """Computes -f per token, [R, T], and the metrics."""
  clip = (cfg.clip_low, cfg.clip_high, cfg.dual_clip)
  loss_RT = -clipped_surrogate(ratio_RT, batch.adv_R1, *clip)
  active_RT = clip_active(ratio_RT, batch.adv_R1, *clip)
  metrics = {
    "ratio": reductions.token_mean(ratio_RT, batch.mask_RT),
    "clip_frac": reductions.token_mean(active_RT, batch.mask_RT),
  }
  if batch.ref_logp_RT is not None:
    kl_RT = kl_k3(batch.logp_RT, batch.ref_logp_RT)
    loss_RT = loss_RT + cfg.kl_coef * kl_RT
    metrics["kl"] = reductions.token_mean(kl_RT, batch.mask_RT)
  if batch.entropy_RT is not None:
    loss_RT = loss_RT - cfg.entropy_coef * batch.entropy_RT
    metrics["entropy"] = reductions.token_mean(batch.entropy_RT, batch.mask_RT)
  return loss_RT, metrics


def _exp_ratio(log_ratio: jax.Array) -> jax.Array:
  return jnp.exp(jnp.clip(log_ratio, -_MAX_LOG_RATIO, _MAX_LOG_RATIO))


def _check_rank(ratio_RT: jax.Array, adv_RT: jax.Array) -> None:
  if adv_RT.ndim != ratio_RT.ndim:
    raise ValueError(
      f"adv_RT has shape {adv_RT.shape} and ratio_RT {ratio_RT.shape};"
      " expected as many dimensions. Write adv_R[:, None] for one per row."
    )
