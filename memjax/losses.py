"""Policy-gradient objectives: `per_token` values and an explicit reduction.

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

from memjax import per_token
from memjax import reductions


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
  ratio_RT = per_token.token_ratio(batch.logp_RT, batch.old_logp_RT)
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
  ratio_RT = per_token.token_ratio(batch.logp_RT, batch.old_logp_RT)
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
  ratio_RT = per_token.token_ratio(batch.logp_RT, batch.old_logp_RT)
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
  ratio_RT = per_token.sequence_ratio(batch.logp_RT, batch.old_logp_RT, mask_RT)
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
  loss_RT = -per_token.clipped_surrogate(ratio_RT, batch.adv_R1, *clip)
  active_RT = per_token.clip_active(ratio_RT, batch.adv_R1, *clip)
  metrics = {
    "ratio": reductions.token_mean(ratio_RT, batch.mask_RT),
    "clip_frac": reductions.token_mean(active_RT, batch.mask_RT),
  }
  if batch.ref_logp_RT is not None:
    kl_RT = per_token.kl_k3(batch.logp_RT, batch.ref_logp_RT)
    loss_RT = loss_RT + cfg.kl_coef * kl_RT
    metrics["kl"] = reductions.token_mean(kl_RT, batch.mask_RT)
  if batch.entropy_RT is not None:
    if cfg.entropy_coef:  # or the backward pass would run for nothing
      loss_RT = loss_RT - cfg.entropy_coef * batch.entropy_RT
    metrics["entropy"] = reductions.token_mean(batch.entropy_RT, batch.mask_RT)
  return loss_RT, metrics
