import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from memjax import advantages


class GroupRelativeTest(parameterized.TestCase):
  @parameterized.product(compile_fn=(jax.jit, lambda f: f))
  def test_mean_subtraction_by_hand(self, compile_fn):
    # Means: (1+0+0+1)/4 = 0.5 and (2+0+1+5)/4 = 2.
    reward_QG = jnp.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 1.0, 5.0]])
    adv_QG = compile_fn(advantages.group_relative)(reward_QG)
    np.testing.assert_array_equal(
      adv_QG, [[0.5, -0.5, -0.5, 0.5], [0.0, -2.0, -1.0, 3.0]]
    )

  def test_std_by_hand(self):
    # Row 0: squares 4 * 0.25 = 1, unbiased variance 1/3, std 0.57735;
    #   0.5 / 0.57735 = sqrt(3) / 2.
    # Row 1: squares 0 + 4 + 1 + 9 = 14, variance 14/3, std 2.160247.
    reward_QG = jnp.array([[1.0, 0.0, 0.0, 1.0], [2.0, 0.0, 1.0, 5.0]])
    adv_QG = advantages.group_relative(reward_QG, std_normalize=True, eps=0.0)
    h = np.sqrt(3) / 2
    s = np.sqrt(14 / 3)
    np.testing.assert_allclose(
      adv_QG, [[h, -h, -h, h], [0, -2 / s, -1 / s, 3 / s]], rtol=1e-6
    )

  def test_eps_is_added_to_the_std(self):
    # Rewards 0, 2: mean 1, unbiased std sqrt(2); eps 1 gives 1/(1.41421+1).
    adv_QG = advantages.group_relative(jnp.array([[0.0, 2.0]]), True, eps=1.0)
    np.testing.assert_allclose(adv_QG, [[-0.41421357, 0.41421357]], rtol=1e-6)

  @parameterized.product(std_normalize=(False, True), group=(1, 3, 7, 10, 16))
  def test_zero_variance_is_exactly_zero(self, std_normalize, group):
    # Not representable rewards, whose mean over a group can round.
    value_Q1 = jnp.array([0.1, 0.7, 1 / 3, 1e7 + 1, -2.3])[:, None]
    reward_QG = jnp.tile(value_Q1, (1, group))
    for eps in (1e-6, 0.0):
      adv_QG = advantages.group_relative(reward_QG, std_normalize, eps)
      np.testing.assert_array_equal(adv_QG, np.zeros((5, group)))

  def test_rounding_makes_the_exact_zero_necessary(self):
    # The case above is not vacuous: the plain formula misses 0 somewhere.
    value_Q1 = jnp.array([0.1, 0.7, 1 / 3, 1e7 + 1, -2.3])[:, None]
    residual = [
      jnp.max(jnp.abs(x - jnp.mean(x, axis=1, keepdims=True)))
      for x in (jnp.tile(value_Q1, (1, g)) for g in (3, 7, 10))
    ]
    self.assertGreater(max(residual), 0.0)

  def test_groups_do_not_mix(self):
    reward_QG = jax.random.uniform(jax.random.key(0), (4, 6))
    together = advantages.group_relative(reward_QG, True)
    alone = [advantages.group_relative(r[None], True)[0] for r in reward_QG]
    np.testing.assert_allclose(together, jnp.stack(alone), rtol=1e-6)

  @parameterized.parameters(jnp.int32, jnp.bfloat16, jnp.bool_)
  def test_is_float32(self, dtype):
    reward_QG = jnp.array([[1, 0, 0, 1]]).astype(dtype)
    adv_QG = advantages.group_relative(reward_QG)
    self.assertEqual(adv_QG.dtype, jnp.float32)
    np.testing.assert_array_equal(adv_QG, [[0.5, -0.5, -0.5, 0.5]])

  def test_nan_reward_is_not_hidden(self):
    adv_QG = advantages.group_relative(jnp.array([[1.0, jnp.nan]]))
    self.assertTrue(jnp.all(jnp.isnan(adv_QG)))

  def test_flat_rewards_are_refused(self):
    with pytest.raises(ValueError, match="group_size"):
      advantages.group_relative(jnp.ones(4))


class LiveGroupsTest(parameterized.TestCase):
  def test_by_hand(self):
    reward_QG = jnp.array([[0, 0, 0], [0.1, 0.1, 0.1], [0, 1, 0], [1, 1, 1]])
    np.testing.assert_array_equal(
      advantages.live_groups(reward_QG), [False, False, True, False]
    )


class OverlongPenaltyTest(parameterized.TestCase):
  @parameterized.product(compile_fn=(jax.jit, lambda f: f))
  def test_by_hand(self, compile_fn):
    # max_length 10, buffer 4: free up to 6, then a quarter per token.
    penalty = compile_fn(
      lambda length: advantages.overlong_penalty(length, 10, 4)
    )
    length = jnp.array([0, 6, 7, 8, 9, 10, 11, 500])
    np.testing.assert_array_equal(
      penalty(length), [0, 0, -0.25, -0.5, -0.75, -1, -1, -1]
    )

  @parameterized.parameters(0, -1, 11)
  def test_bad_buffer_is_refused(self, buffer):
    with pytest.raises(ValueError, match="buffer"):
      advantages.overlong_penalty(jnp.array([1]), 10, buffer)
