import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from memjax import per_token

LN2 = np.log(2.0)
# Rows of 2, 1 and 0 tokens.
MASK_RT = jnp.array([[True, True], [True, False], [False, False]])


class PerTokenTest(parameterized.TestCase):
  def test_kl_by_hand(self):
    # pi = 1/2, ref = 1/4: log ratio log 2, d = -log 2.
    logp_RT, ref_RT = jnp.log(jnp.array([[0.5]])), jnp.log(jnp.array([[0.25]]))
    np.testing.assert_allclose(
      per_token.kl_k1(logp_RT, ref_RT), [[LN2]], rtol=1e-6
    )
    np.testing.assert_allclose(
      per_token.kl_k2(logp_RT, ref_RT), [[LN2**2 / 2]], rtol=1e-6
    )
    np.testing.assert_allclose(
      per_token.kl_k3(logp_RT, ref_RT), [[LN2 - 0.5]], rtol=1e-6
    )

  def test_k3_is_not_negative(self):
    ref_RT = jnp.concatenate(
      [jnp.linspace(-30, 30, 601), jnp.linspace(-1e-3, 1e-3, 601)]
    )[None]
    k3_RT = per_token.kl_k3(jnp.zeros_like(ref_RT), ref_RT)
    self.assertGreaterEqual(jnp.min(k3_RT), 0.0)
    self.assertEqual(per_token.kl_k3(ref_RT, ref_RT).max(), 0.0)

  def test_k3_bounds_d_at_ten(self):
    # exp(10) - 10 - 1 = 22015.466; exp(-10) + 10 - 1 = 9.0000454.
    ref_RT = jnp.array([[1e3, -jnp.inf]])
    k3 = lambda x_RT: jnp.sum(per_token.kl_k3(x_RT, ref_RT))
    value, grad_RT = jax.value_and_grad(k3)(jnp.zeros((1, 2)))
    np.testing.assert_allclose(value, 22015.466 + 9.0000454, rtol=1e-6)
    np.testing.assert_array_equal(grad_RT, [[0.0, 0.0]])

  def test_k1_and_k3_are_unbiased(self):
    # Expectations over three outcomes under p, without sampling.
    p, q = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.25, 0.25])
    logp_RT, ref_RT = jnp.log(p)[None], jnp.log(q)[None]
    kl = np.sum(p * np.log(p / q))
    for k in (per_token.kl_k1, per_token.kl_k3):
      np.testing.assert_allclose(
        jnp.sum(p * k(logp_RT, ref_RT)[0]), kl, rtol=1e-5
      )

  def test_ratio_is_exactly_one_on_policy(self):
    logp_RT = -10 * jax.random.uniform(jax.random.key(1), (8, 33))
    mask_RT = jnp.ones(logp_RT.shape, bool)
    np.testing.assert_array_equal(per_token.token_ratio(logp_RT, logp_RT), 1.0)
    np.testing.assert_array_equal(
      per_token.sequence_ratio(logp_RT, logp_RT, mask_RT), 1.0
    )

  def test_sequence_ratio_is_the_geometric_mean(self):
    # (2 * 8)^(1/2) = 4; a row of one token keeps its ratio; an empty row is 1.
    ratio_RT = jnp.array([[2.0, 8.0], [3.0, jnp.inf], [jnp.nan, 5.0]])
    s_RT = per_token.sequence_ratio(
      jnp.log(ratio_RT), jnp.zeros((3, 2)), MASK_RT
    )
    np.testing.assert_allclose(s_RT, [[4, 4], [3, 3], [1, 1]], rtol=1e-6)

  def test_sequence_ratio_gradient_reaches_every_token(self):
    # d s / d logp_t = s / |o| = 4 / 2 for both tokens of row 0, 3 / 1 in row 1.
    logp_RT = jnp.log(jnp.array([[2.0, 8.0], [3.0, 7.0], [1.0, 1.0]]))
    first = lambda x: jnp.sum(
      per_token.sequence_ratio(x, jnp.zeros((3, 2)), MASK_RT)[:, 0]
    )
    np.testing.assert_allclose(
      jax.grad(first)(logp_RT), [[2, 2], [3, 0], [0, 0]], rtol=1e-6
    )

  @parameterized.parameters(
    # ratio, adv, low, high, dual -> objective, d objective / d ratio
    (1.1, 1.0, 0.2, 0.2, None, 1.1, 1.0),  # inside
    (1.1, -1.0, 0.2, 0.2, None, -1.1, -1.0),
    (5.0, 1.0, 0.2, 0.2, None, 1.2, 0.0),  # clipped above
    (5.0, 1.0, 0.2, 0.28, None, 1.28, 0.0),  # asymmetric: the high width
    (1.25, 1.0, 0.2, 0.28, None, 1.25, 1.0),
    (0.1, -1.0, 0.2, 0.28, None, -0.8, 0.0),  # asymmetric: the low width
    (0.1, -1.0, 0.3, 0.2, None, -0.7, 0.0),
    (0.1, 1.0, 0.2, 0.2, None, 0.1, 1.0),  # pessimistic: not clipped
    (10.0, -1.0, 0.2, 0.2, None, -10.0, -1.0),  # no bound without dual clip
    (10.0, -1.0, 0.2, 0.2, 3.0, -3.0, 0.0),  # dual clip
    (2.5, -2.0, 0.2, 0.2, 3.0, -5.0, -2.0),  # below c: as before
    (10.0, 1.0, 0.2, 0.2, 3.0, 1.2, 0.0),  # positive: as before
    (0.1, 1.0, 0.2, 0.2, 3.0, 0.1, 1.0),
  )
  def test_surrogate(self, ratio, adv, low, high, dual, want, want_grad):
    f = lambda x: per_token.clipped_surrogate(
      x[None, None], jnp.array([[adv]]), low, high, dual
    )[0, 0]
    value, grad = jax.value_and_grad(f)(jnp.float32(ratio))
    np.testing.assert_allclose(value, want, rtol=1e-6)
    np.testing.assert_allclose(grad, want_grad, rtol=1e-6)
    active_RT = per_token.clip_active(
      jnp.array([[ratio]]), jnp.array([[adv]]), low, high, dual
    )
    self.assertEqual(bool(active_RT[0, 0]), want_grad == 0.0)

  def test_surrogate_refuses_adv_without_token_axis(self):
    # [2] against [2, 2] would broadcast along the tokens.
    with pytest.raises(ValueError, match=r"adv_R\[:, None\]"):
      per_token.clipped_surrogate(jnp.ones((2, 2)), jnp.ones(2), 0.2, 0.2)
