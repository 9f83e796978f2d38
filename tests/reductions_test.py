import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from memjax import reductions

# Rows of 2, 1 and 0 tokens.
MASK_RT = jnp.array([[True, True], [True, False], [False, False]])


class ReductionTest(parameterized.TestCase):
  # Row 0 holds 1, 3; row 1 holds 8; row 2 is padding.
  X_RT = jnp.array([[1.0, 3.0], [8.0, jnp.nan], [jnp.inf, 5.0]])

  @parameterized.named_parameters(
    # (1 + 3 + 8) / 3 tokens
    ("token", reductions.token_mean, 12.0, 3.0),
    # row means 2 and 8, two rows
    ("sequence", reductions.sequence_mean, 10.0, 2.0),
    # 12 over two rows of at most 4 tokens
    (
      "constant",
      functools.partial(reductions.constant_mean, max_length=4),
      12.0,
      8.0,
    ),
  )
  def test_by_hand(self, reduce, num, den):
    mean = reduce(self.X_RT, MASK_RT)
    self.assertEqual((float(mean.num), float(mean.den)), (num, den))
    self.assertEqual(float(mean.value()), num / den)

  def test_no_tokens_at_all(self):
    mask_RT = jnp.zeros((3, 2), bool)
    f = lambda x: reductions.token_mean(x, mask_RT).value()
    value, grad_RT = jax.value_and_grad(f)(self.X_RT)
    self.assertEqual(float(value), 0.0)
    np.testing.assert_array_equal(grad_RT, np.zeros((3, 2)))

  def test_mean_crosses_jit_and_scan(self):
    x_RT = jnp.array([[1.0, 3.0], [8.0, 0.0], [0.0, 0.0]])

    @jax.jit
    def scanned(x_RT, mask_RT):
      def step(total, row):
        x_T, mask_T = row
        return total + reductions.token_mean(x_T[None], mask_T[None]), None

      zero = reductions.Mean(num=jnp.float32(0), den=jnp.float32(0))
      return jax.lax.scan(step, zero, (x_RT, mask_RT))[0]

    self.assertEqual(float(scanned(x_RT, MASK_RT).value()), 4.0)
