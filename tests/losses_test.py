import dataclasses
import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from memjax import advantages
from memjax import losses

NAMES = tuple(losses.OBJECTIVES)
NO_KL = losses.LossConfig(kl_coef=0.0)
LN2 = np.log(2.0)

# The worked example. Row 0: A = 1, ratios 1.5 and 1.1. Row 1: A = -2, one token
# of ratio 0.5. Row 2: padding. With clip 0.2 / 0.2 the surrogates are
#   row 0: min(1.5, 1.2) = 1.2 and min(1.1, 1.1) = 1.1
#   row 1: min(-2 * 0.5, -2 * 0.8) = min(-1, -1.6) = -1.6
# d = log ref - log pi is log 2, 0 | -log 2, so that k3 is
#   row 0: 2 - log 2 - 1 = 1 - log 2 = 0.306853 and 0
#   row 1: 1/2 + log 2 - 1 = log 2 - 1/2 = 0.193147
MASK_RT = jnp.array([[True, True], [True, False], [False, False]])
OLD_RT = jnp.full((3, 2), -1.0)
LOGP_RT = OLD_RT + jnp.log(jnp.array([[1.5, 1.1], [0.5, 9.0], [9.0, 9.0]]))
REF_RT = LOGP_RT + jnp.array([[LN2, 0.0], [-LN2, 3.0], [3.0, 3.0]])
ADV_R = jnp.array([1.0, -2.0, 7.0])


def random_case(rows=4, tokens=5, key=0, dtype=jnp.float32):
  """Inputs with uneven lengths 5, 2, 3, 1, ... and ratios within [0.5, 2]."""
  logp_key, old_key, ref_key, adv_key = jax.random.split(jax.random.key(key), 4)
  shape = (rows, tokens)
  logp_RT = -2 * jax.random.uniform(logp_key, shape, dtype)
  noise = functools.partial(
    jax.random.uniform, shape=shape, dtype=dtype, minval=-0.7, maxval=0.7
  )
  length_R = jnp.array([5, 2, 3, 1, 4, 2])[:rows]
  return dict(
    logp_RT=logp_RT,
    old_logp_RT=logp_RT + noise(old_key),
    ref_logp_RT=logp_RT + noise(ref_key),
    adv_R=jax.random.normal(adv_key, (rows,), dtype),
    mask_RT=jnp.arange(tokens)[None, :] < length_R[:, None],
  )


def loss_and_grad(name, case, cfg):
  """The loss value and its gradient by logp_RT."""

  def f(logp_RT):
    loss, metrics = losses.OBJECTIVES[name](
      **{**case, "logp_RT": logp_RT}, cfg=cfg
    )
    return loss.value(), metrics

  (value, metrics), grad_RT = jax.value_and_grad(f, has_aux=True)(
    case["logp_RT"]
  )
  return value, grad_RT, metrics


class HandComputedTest(parameterized.TestCase):
  """The worked example at the head of this file."""

  @parameterized.named_parameters(
    # Rows: (1.2 + 1.1) / 2 = 1.15 and -1.6, mean -0.225.
    # k3 rows: (1 - log 2) / 2 and log 2 - 1/2, mean (log 2) / 4.
    ("grpo", "grpo", 0.225 + 0.1 * LN2 / 4),
    # Sum 1.2 + 1.1 - 1.6 = 0.7, sum of k3 = 1/2, over 2 rows * 4 tokens.
    ("dr_grpo", "dr_grpo", (-0.7 + 0.1 * 0.5) / 8),
    # The same sums over 3 tokens.
    ("dapo", "dapo", (-0.7 + 0.1 * 0.5) / 3),
    ("multi_conv_dapo", "multi_conv_dapo", (-0.7 + 0.1 * 0.5) / 3),
    # s_0 = sqrt(1.5 * 1.1) = 1.2845, clipped to 1.2; s_1 = 0.5 gives -1.6.
    # Mean -0.2; k3 as in grpo.
    ("gspo", "gspo", 0.2 + 0.1 * LN2 / 4),
  )
  def test_loss(self, name, want):
    cfg = losses.LossConfig(kl_coef=0.1, max_length=4)
    loss, metrics = losses.OBJECTIVES[name](
      LOGP_RT, OLD_RT, REF_RT, ADV_R, MASK_RT, cfg
    )
    np.testing.assert_allclose(loss.value(), want, rtol=1e-5)
    np.testing.assert_allclose(metrics["kl"].value(), 0.5 / 3, rtol=1e-5)

  @parameterized.named_parameters(
    # Sums with clip 0.2 / 0.28: 1.28 + 1.1 - 1.6 = 0.78.
    ("grpo", "grpo", -((1.28 + 1.1) / 2 - 1.6) / 2),
    ("dr_grpo", "dr_grpo", -0.78 / 8),
    ("dapo", "dapo", -0.78 / 3),
    ("multi_conv_dapo", "multi_conv_dapo", -0.78 / 3),
    ("gspo", "gspo", -(1.28 - 1.6) / 2),  # s_0 = 1.2845 > 1.28
  )
  def test_clip_higher_without_reference(self, name, want):
    cfg = losses.LossConfig(clip_high=0.28, kl_coef=0.0, max_length=4)
    loss, metrics = losses.OBJECTIVES[name](
      LOGP_RT, OLD_RT, None, ADV_R, MASK_RT, cfg
    )
    np.testing.assert_allclose(loss.value(), want, rtol=1e-5)
    self.assertNotIn("kl", metrics)

  @parameterized.parameters(*NAMES)
  def test_metrics(self, name):
    _, metrics = losses.OBJECTIVES[name](
      LOGP_RT, OLD_RT, None, ADV_R, MASK_RT, NO_KL
    )
    if name == "gspo":  # s twice in row 0, once in row 1; all three clipped
      ratio, clip_frac = (2 * np.sqrt(1.65) + 0.5) / 3, 1.0
    else:  # 1.5 > 1.2 and 0.5 < 0.8 are clipped, 1.1 is not
      ratio, clip_frac = (1.5 + 1.1 + 0.5) / 3, 2 / 3
    np.testing.assert_allclose(metrics["ratio"].value(), ratio, rtol=1e-5)
    np.testing.assert_allclose(
      metrics["clip_frac"].value(), clip_frac, rtol=1e-6
    )
    self.assertEqual(set(metrics), {"ratio", "clip_frac"})

  @parameterized.parameters(*NAMES)
  def test_dual_clip(self, name):
    # One token, A = -1, ratio 10: loss 10, or 3 and no gradient with c = 3.
    for dual_clip, want, want_grad in ((None, 10.0, 10.0), (3.0, 3.0, 0.0)):
      case = dict(
        logp_RT=jnp.log(jnp.array([[10.0]])),
        old_logp_RT=jnp.zeros((1, 1)),
        ref_logp_RT=None,
        adv_R=jnp.array([-1.0]),
        mask_RT=jnp.array([[True]]),
      )
      cfg = losses.LossConfig(dual_clip=dual_clip, kl_coef=0.0, max_length=1)
      value, grad_RT, _ = loss_and_grad(name, case, cfg)
      np.testing.assert_allclose(value, want, rtol=1e-5)
      np.testing.assert_allclose(grad_RT, [[want_grad]], rtol=1e-5)

  @parameterized.named_parameters(
    # Entropies 0.4, 0.8 | 0.1 weighed by 0.5, reduced like the rest.
    ("grpo", "grpo", 0.5 * (0.6 + 0.1) / 2),
    ("dr_grpo", "dr_grpo", 0.5 * 1.3 / 8),
    ("dapo", "dapo", 0.5 * 1.3 / 3),
    ("multi_conv_dapo", "multi_conv_dapo", 0.5 * 1.3 / 3),
    ("gspo", "gspo", 0.5 * (0.6 + 0.1) / 2),
  )
  def test_entropy_bonus(self, name, bonus):
    entropy_RT = jnp.array([[0.4, 0.8], [0.1, jnp.nan], [jnp.nan, 1.0]])
    args = (LOGP_RT, OLD_RT, None, ADV_R, MASK_RT)
    cfg = dataclasses.replace(NO_KL, max_length=4)
    plain, _ = losses.OBJECTIVES[name](*args, cfg)
    cfg = dataclasses.replace(cfg, entropy_coef=0.5)
    loss, metrics = losses.OBJECTIVES[name](*args, cfg, entropy_RT)
    np.testing.assert_allclose(plain.value() - loss.value(), bonus, rtol=1e-5)
    np.testing.assert_allclose(metrics["entropy"].value(), 1.3 / 3, rtol=1e-6)


class ObjectivePropertyTest(parameterized.TestCase):
  @parameterized.product(
    name=NAMES, compile_fn=(jax.jit, lambda f: f), dual_clip=(None, 1.3)
  )
  def test_gradient_is_finite_difference(self, name, compile_fn, dual_clip):
    cfg = losses.LossConfig(kl_coef=0.3, dual_clip=dual_clip, max_length=7)
    with jax.enable_x64(True):
      case = random_case(dtype=jnp.float64)
      logp_RT = case.pop("logp_RT")
      f = compile_fn(
        lambda x: losses.OBJECTIVES[name](x, **case, cfg=cfg)[0].value()
      )
      self.assertEqual(f(logp_RT).dtype, jnp.float64)
      # Central differences: the error is about step^2, far below rtol; the
      # kinks of the clip are not within 1e-6 of these random ratios.
      step = 1e-6
      step_NRT = step * jnp.eye(logp_RT.size).reshape(-1, *logp_RT.shape)
      up_N = jax.vmap(f)(logp_RT[None] + step_NRT)
      down_N = jax.vmap(f)(logp_RT[None] - step_NRT)
      want_N = (up_N - down_N) / (2 * step)
      np.testing.assert_allclose(
        jax.grad(f)(logp_RT).reshape(-1), want_N, rtol=1e-6, atol=1e-9
      )

  @parameterized.parameters(*NAMES)
  def test_on_policy_gradient_is_minus_advantage(self, name):
    # At ratio 1 nothing is clipped and d rho / d logp = 1: every objective is
    # -A times the weight its reduction gives to the token. For GSPO too: |o|
    # tokens of weight 1 / |o| each pass s / |o| to every token.
    case = random_case() | dict(ref_logp_RT=None)
    case["old_logp_RT"] = case["logp_RT"]
    cfg = losses.LossConfig(kl_coef=0.0, max_length=7)
    _, grad_RT, metrics = loss_and_grad(name, case, cfg)
    length_R1 = jnp.array([5, 2, 3, 1])[:, None]
    weight_R1 = {
      "grpo": 1 / (4 * length_R1),
      "gspo": 1 / (4 * length_R1),
      "dr_grpo": jnp.full((4, 1), 1 / (4 * 7)),
      "dapo": jnp.full((4, 1), 1 / 11),
      "multi_conv_dapo": jnp.full((4, 1), 1 / 11),
    }[name]
    want_RT = -case["adv_R"][:, None] * weight_R1 * case["mask_RT"]
    np.testing.assert_allclose(grad_RT, want_RT, rtol=1e-5)
    self.assertEqual(float(metrics["clip_frac"].value()), 0.0)
    self.assertEqual(float(metrics["ratio"].value()), 1.0)

  @parameterized.parameters(*NAMES)
  def test_old_and_ref_get_no_gradient(self, name):
    case = random_case()
    f = lambda old_RT, ref_RT: losses.OBJECTIVES[name](
      **case | dict(old_logp_RT=old_RT, ref_logp_RT=ref_RT),
      cfg=losses.LossConfig(kl_coef=0.3),
    )[0].value()
    for grad_RT in jax.grad(f, argnums=(0, 1))(
      case["old_logp_RT"], case["ref_logp_RT"]
    ):
      np.testing.assert_array_equal(grad_RT, np.zeros((4, 5)))

  @parameterized.product(name=NAMES, garbage=(jnp.nan, jnp.inf, -jnp.inf))
  def test_garbage_in_padding_changes_nothing(self, name, garbage):
    cfg = losses.LossConfig(kl_coef=0.3)
    clean = random_case()
    clean["mask_RT"] = clean["mask_RT"].at[2].set(False)  # one padding row
    mask_RT = clean["mask_RT"]
    dirty = dict(clean, adv_R=clean["adv_R"].at[2].set(garbage))
    for key in ("logp_RT", "old_logp_RT", "ref_logp_RT"):
      dirty[key] = jnp.where(mask_RT, clean[key], garbage)
    for other in (dirty, dirty | dict(old_logp_RT=clean["old_logp_RT"])):
      value, grad_RT, metrics = loss_and_grad(name, clean, cfg)
      got, got_grad_RT, got_metrics = loss_and_grad(name, other, cfg)
      self.assertTrue(jnp.isfinite(got))
      np.testing.assert_array_equal(got, value)
      np.testing.assert_array_equal(got_grad_RT, grad_RT)
      self.assertEqual(float(jnp.sum(jnp.abs(got_grad_RT * ~mask_RT))), 0.0)
      jax.tree.map(np.testing.assert_array_equal, got_metrics, metrics)

  @parameterized.parameters(*NAMES)
  def test_padding_rows_weigh_nothing(self, name):
    cfg = losses.LossConfig(kl_coef=0.3)
    case = random_case()
    padded = {
      k: jnp.concatenate([x, jnp.zeros((3, *x.shape[1:]), x.dtype)])
      for k, x in case.items()
    }
    padded["adv_R"] = padded["adv_R"].at[4:].set(100.0)
    want = losses.OBJECTIVES[name](**case, cfg=cfg)
    got = losses.OBJECTIVES[name](**padded, cfg=cfg)
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, want
    )

  @parameterized.product(name=NAMES, splits=((1, 1, 1, 1), (3, 1), (1, 3)))
  def test_micro_batches_equal_full_batch(self, name, splits):
    cfg = losses.LossConfig(kl_coef=0.3)
    case = random_case()
    bounds = np.cumsum((0, *splits))

    def num(logp_RT, part):
      loss, metrics = losses.OBJECTIVES[name](
        **part | dict(logp_RT=logp_RT), cfg=cfg
      )
      return loss.num, (loss, metrics)

    grads, means = [], []
    for start, stop in zip(bounds[:-1], bounds[1:]):
      part = {k: x[start:stop] for k, x in case.items()}
      grad_RT, mean = jax.grad(num, has_aux=True)(part["logp_RT"], part)
      grads.append(grad_RT)
      means.append(mean)
    loss = functools.reduce(operator.add, [loss for loss, _ in means])
    metrics = {
      k: functools.reduce(operator.add, [m[k] for _, m in means])
      for k in means[0][1]
    }

    value, grad_RT, want_metrics = loss_and_grad(name, case, cfg)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7)
    close(loss.value(), value)
    close(jnp.concatenate(grads) / loss.den, grad_RT)
    jax.tree.map(close, metrics, want_metrics)

  @parameterized.parameters(*NAMES)
  def test_duplicated_turns_do_not_move_the_group_mean(self, name):
    # Rewards 1, 0 give advantages 0.5, -0.5. On policy, the gradient of num by
    # a token is -A times a weight that only knows the row: it must not change
    # when trajectory 0 has three turns instead of one. Advantages after the
    # expansion (rewards 1, 1, 1, 0, mean 0.75) would give 0.25, -0.75.
    adv_QG = advantages.group_relative(jnp.array([[1.0, 0.0]]))
    cfg = losses.LossConfig(kl_coef=0.0, max_length=2)

    def row_gradients(trajectory_R):
      logp_RT = jnp.full((len(trajectory_R), 2), -1.0)
      f = lambda x_RT: (
        losses.OBJECTIVES[name](
          x_RT,
          logp_RT,
          None,
          adv_QG.reshape(-1)[jnp.array(trajectory_R)],
          jnp.ones(logp_RT.shape, bool),
          cfg,
        )[0].num
      )
      return jax.grad(f)(logp_RT)

    one_RT = row_gradients([0, 1])
    three_RT = row_gradients([0, 0, 0, 1])
    np.testing.assert_allclose(three_RT, one_RT[jnp.array([0, 0, 0, 1])])
    np.testing.assert_allclose(three_RT[0], -three_RT[3])

  @parameterized.product(name=NAMES, std_normalize=(False, True))
  def test_zero_variance_group_has_exactly_zero_gradient(
    self, name, std_normalize
  ):
    # 0.1 is not representable: its mean over 3 can round away from it.
    adv_QG = advantages.group_relative(jnp.full((2, 3), 0.1), std_normalize)
    case = random_case(rows=6) | dict(adv_R=adv_QG.reshape(-1))
    value, grad_RT, metrics = loss_and_grad(name, case, NO_KL)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad_RT, np.zeros((6, 5)))
    self.assertEqual(float(metrics["clip_frac"].value()), 0.0)

  @parameterized.product(
    name=NAMES, gap=(-1e4, -100.0, 100.0, 1e4), adv=(-1.0, 1.0)
  )
  def test_extreme_ratio_keeps_the_gradient_finite(self, name, gap, adv):
    # exp(100) overflows float32, and 0 * inf in the gradient would be NaN.
    case = dict(
      logp_RT=jnp.array([[gap, 0.0]]),
      old_logp_RT=jnp.zeros((1, 2)),
      ref_logp_RT=jnp.zeros((1, 2)),
      adv_R=jnp.array([adv]),
      mask_RT=jnp.ones((1, 2), bool),
    )
    for dual_clip in (None, 3.0):
      cfg = losses.LossConfig(dual_clip=dual_clip)
      value, grad_RT, _ = loss_and_grad(name, case, cfg)
      self.assertTrue(jnp.isfinite(value))
      self.assertTrue(jnp.all(jnp.isfinite(grad_RT)))

  @parameterized.parameters(*NAMES)
  def test_bfloat16_is_reduced_in_float32(self, name):
    case = {
      k: x.astype(jnp.bfloat16) if x.dtype == jnp.float32 else x
      for k, x in random_case().items()
    }
    wide = {
      k: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x
      for k, x in case.items()
    }
    cfg = losses.LossConfig(kl_coef=0.3)
    got = losses.OBJECTIVES[name](**case, cfg=cfg)
    want = losses.OBJECTIVES[name](**wide, cfg=cfg)
    self.assertTrue(all(x.dtype == jnp.float32 for x in jax.tree.leaves(got)))
    jax.tree.map(np.testing.assert_array_equal, got, want)


class ErrorTest(parameterized.TestCase):
  @parameterized.parameters(*NAMES)
  def test_kl_needs_a_reference(self, name):
    with pytest.raises(ValueError, match="ref_logp_RT is None"):
      losses.OBJECTIVES[name](
        LOGP_RT, OLD_RT, None, ADV_R, MASK_RT, losses.LossConfig()
      )

  def test_entropy_bonus_needs_entropy(self):
    cfg = losses.LossConfig(kl_coef=0.0, entropy_coef=0.1)
    with pytest.raises(ValueError, match="entropy_RT is None"):
      losses.grpo(LOGP_RT, OLD_RT, None, ADV_R, MASK_RT, cfg)

  @parameterized.parameters(
    ("old_logp_RT", OLD_RT[:, :1]),
    ("ref_logp_RT", OLD_RT[:1]),
    ("adv_R", ADV_R[:, None]),
    ("mask_RT", MASK_RT[:1]),
    ("mask_RT", MASK_RT.astype(jnp.float32)),
  )
  def test_wrong_input_is_named(self, key, x):
    case = random_case(rows=3, tokens=2) | {key: x}
    with pytest.raises(ValueError, match=key):
      losses.grpo(**case, cfg=losses.LossConfig())

  @parameterized.parameters(
    dict(clip_low=0.0),
    dict(clip_low=1.5),
    dict(clip_high=0.0),
    dict(dual_clip=1.0),
    dict(kl_coef=-1.0),
    dict(max_length=0),
    dict(entropy_coef=-0.1),
  )
  def test_config_out_of_range(self, **kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
      losses.LossConfig(**kwargs)
