import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.extend import core as jax_core

from memjax import quantized_adam

_BOTH = ("bfloat16", "int8")
_CODES = {jnp.int8: (127, 4), jnp.uint8: (255, 8)}


def _bits(key, shape):
  return jax.random.bits(key, shape) >> 16


def _values(shape, dtype, seed=0):
  """Over six orders of magnitude, some of them 0."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal(shape) * 10 ** rng.uniform(-6, 0, shape)
  x = np.where(rng.uniform(size=shape) < 0.1, 0, x)
  return jnp.asarray(np.abs(x) if dtype == jnp.uint8 else x, jnp.float32)


@pytest.mark.parametrize("dtype", list(_CODES))
@pytest.mark.parametrize(
  "shape", [(1,), (7,), (256,), (300,), (3, 513), (2, 3, 512)]
)
def test_what_comes_back_is_a_neighbouring_level(shape, dtype):
  x = _values(shape, dtype)
  stored = quantized_adam.quantize(x, dtype, _bits(jax.random.key(1), shape))
  assert stored.code.shape == shape and stored.code.dtype == dtype
  assert stored.scale.shape == (*shape[:-1], -(-shape[-1] // 256))
  back = np.asarray(quantized_adam.dequantize(stored), np.float64)
  n, power = _CODES[dtype]
  levels = (np.arange(n + 1) / n) ** power
  for start in range(0, shape[-1], 256):
    block = np.asarray(x, np.float64)[..., start : start + 256]
    top = np.abs(block).max(-1, keepdims=True)
    ratio = np.abs(block) / np.where(top > 0, top, 1)
    below = np.clip(np.searchsorted(levels, ratio, "right") - 1, 0, n - 1)
    got = back[..., start : start + 256]
    # Where x is a level but for a float32 rounding, one may be off by one.
    slack = 1e-5 * top * levels[below + 1]
    low, high = levels[below] * top - slack, levels[below + 1] * top + slack
    assert ((np.abs(got) >= low) & (np.abs(got) <= high)).all()
    assert (got * block >= 0).all()
    # The largest of a block is exact, and so is 0.
    np.testing.assert_allclose(np.abs(got).max(-1), top[..., 0], rtol=1e-6)
    assert (got[block == 0] == 0).all()


@pytest.mark.parametrize("moments", _BOTH)
@pytest.mark.parametrize("dtype", list(_CODES))
def test_rounding_is_right_on_average(moments, dtype):
  x = _values((512,), dtype)
  n = 4096

  def back(key):
    bits = _bits(key, x.shape)
    if moments == "bfloat16":
      return quantized_adam.round_to_bfloat16(x, bits).astype(jnp.float32)
    return quantized_adam.dequantize(quantized_adam.quantize(x, dtype, bits))

  drawn = jax.jit(jax.vmap(back))(jax.random.split(jax.random.key(0), n))
  drawn = np.asarray(drawn, np.float64)
  error = np.abs(drawn.mean(0) - np.asarray(x))
  # 16 random bits: a chance is off by up to 2^-16, on top of the draw's error.
  bound = 5 * drawn.std(0) / np.sqrt(n) + 2**-15 * np.ptp(drawn, axis=0)
  inside = error <= bound + 1e-7 * np.abs(x)
  if moments == "int8" and dtype == jnp.uint8:
    # Below the first level nu is rounded up, so that no root is 0.
    inside |= (np.asarray(x) > 0) & (drawn.min(0) == drawn.max(0))
  assert inside.all()


def test_bfloat16_is_one_of_the_two_neighbours():
  x = _values((4096,), jnp.int8)
  bits = _bits(jax.random.key(3), x.shape)
  got = quantized_adam.round_to_bfloat16(x, bits)
  assert got.dtype == jnp.bfloat16
  error = np.abs(np.asarray(got, np.float64) - np.asarray(x))
  assert (error <= 2**-7 * np.abs(x)).all()
  same = got.astype(jnp.float32)
  np.testing.assert_array_equal(
    quantized_adam.round_to_bfloat16(same, bits), got
  )


def test_no_second_moment_but_0_is_stored_as_0():
  x = jnp.array([1.0, 1e-6, 1e-12, 1e-24, 1e-37, 0.0])
  for seed in range(20):
    bits = _bits(jax.random.key(seed), x.shape)
    code = quantized_adam.quantize(x, jnp.uint8, bits).code
    assert (np.asarray(code[:5]) > 0).all() and code[5] == 0


@pytest.mark.parametrize("moments", _BOTH)
def test_second_moment_follows_the_exact_decay(moments):
  """0.999^2000 = 0.135; rounded to the nearest it would stay where it is."""
  tx = quantized_adam.scale_by_quantized_adam(0.9, 0.999, moments)
  first = jnp.ones((16, 256))
  # In each block one gradient goes on, and with it the scale.
  after = first.at[:, 0].set(1.0).at[:, 1:].set(0.0)

  @jax.jit
  def run(state):
    state = tx.update(first, state)[1]
    step = lambda state, _: (tx.update(after, state)[1], None)
    return jax.lax.scan(step, state, length=2000)[0]

  nu = run(tx.init(first)).nu
  nu = quantized_adam.dequantize(nu) if moments == "int8" else nu
  nu = np.asarray(nu, np.float64)
  np.testing.assert_allclose(nu[:, 1:].mean(), 0.001 * 0.999**2000, rtol=0.03)
  np.testing.assert_allclose(nu[:, 0].mean(), 1 - 0.999**2001, rtol=0.05)


def _gradients(shapes, steps):
  rng = np.random.default_rng(5)
  size = {k: 10 ** rng.uniform(-3, 0, shape) for k, shape in shapes.items()}
  draw = lambda x: jnp.asarray(x * (rng.standard_normal(x.shape) + 0.3))
  return [
    {k: draw(x).astype(jnp.float32) for k, x in size.items()}
    for _ in range(steps)
  ]


_SHAPES = {
  "scalar": (),
  "vector": (70,),
  "matrix": (9, 300),
  "layers": (3, 8, 257),
}


@pytest.mark.parametrize(
  "moments, rms, most", [("bfloat16", 0.01, 0.05), ("int8", 0.12, 0.8)]
)
def test_updates_stay_near_those_of_float32(moments, rms, most):
  """The first is the same; of ten, rms and largest error are bounded."""
  exact = optax.scale_by_adam(0.9, 0.999)
  coarse = quantized_adam.scale_by_quantized_adam(0.9, 0.999, moments)
  grads = _gradients(_SHAPES, 10)
  states = exact.init(grads[0]), coarse.init(grads[0])
  for i, grad in enumerate(grads):
    want, a = exact.update(grad, states[0])
    got, b = jax.jit(coarse.update)(grad, states[1])
    states = a, b
    for name in _SHAPES:
      assert got[name].shape == _SHAPES[name]
      error = np.asarray(got[name] - want[name])
      if i == 0:
        np.testing.assert_allclose(error, 0, atol=1e-5)
      scale = np.sqrt(np.mean(np.square(want[name])))
      assert np.abs(error).max() < most
      if error.size > 100:
        assert np.sqrt(np.mean(error**2)) < rms * scale


@pytest.mark.parametrize("moments", _BOTH)
def test_a_regression_is_learned_as_in_float32(moments):
  key = jax.random.key(2)
  x = jax.random.normal(key, (512, 32)) * jnp.logspace(-1, 0, 32)[None]
  true = jax.random.normal(jax.random.fold_in(key, 1), (32, 40))
  y = x @ true + 0.3 * jax.random.normal(jax.random.fold_in(key, 2), (512, 40))

  def loss(w, i):
    at = jax.random.randint(jax.random.fold_in(key, i), (64,), 0, 512)
    return jnp.mean((x[at] @ w - y[at]) ** 2)

  def final(rule):
    tx = optax.chain(rule, optax.scale_by_learning_rate(0.05))

    def step(carry, i):
      w, state = carry
      updates, state = tx.update(jax.grad(loss)(w, i), state)
      return (optax.apply_updates(w, updates), state), None

    w = jnp.zeros((32, 40))
    run = jax.jit(
      lambda: jax.lax.scan(step, (w, tx.init(w)), jnp.arange(200))[0]
    )
    return float(jnp.mean((x @ run()[0] - y) ** 2)), float(jnp.mean(y**2))

  want, start = final(optax.scale_by_adam(0.9, 0.999))
  got, _ = final(quantized_adam.scale_by_quantized_adam(0.9, 0.999, moments))
  assert want < 0.02 * start
  assert got == pytest.approx(want, rel=0.05)


@pytest.mark.parametrize("moments", _BOTH)
def test_the_same_update_gives_the_same_bits_and_another_one_others(moments):
  tx = quantized_adam.scale_by_quantized_adam(0.9, 0.999, moments)
  (grad,) = _gradients(_SHAPES, 1)
  update = jax.jit(tx.update)
  state = update(grad, tx.init(grad))[1]
  again, once = update(grad, state), update(grad, state)
  for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(once)):
    np.testing.assert_array_equal(a, b)
  later = update(grad, state._replace(count=state.count + 1))[1]
  same = [
    (np.asarray(a) == np.asarray(b)).mean()
    for a, b in zip(jax.tree.leaves(later.mu), jax.tree.leaves(once[1].mu))
    if a.dtype != jnp.float32 and a.size > 100
  ]
  assert max(same) < 0.99


def test_layers_draw_different_bits():
  tx = quantized_adam.scale_by_quantized_adam(0.9, 0.999, "int8")
  grad = jnp.tile(_values((1, 4, 256), jnp.int8), (2, 1, 1))
  code = tx.update(grad, tx.init(grad))[1].mu.code
  assert (np.asarray(code[0]) != np.asarray(code[1])).any()


def _whole(jaxpr, size):
  """Names of the operations that give float32 arrays of at least `size`."""
  found = set()
  for eqn in jaxpr.eqns:
    inner = [*jax_core.jaxprs_in_params(eqn.params)]
    for sub in inner:
      found |= _whole(sub, size)
    for x in eqn.outvars:
      if not inner and x.aval.size >= size and x.aval.dtype == jnp.float32:
        found.add(eqn.primitive.name)
  return found


@pytest.mark.parametrize("moments", _BOTH)
@pytest.mark.parametrize("shape", [(4, 8, 256), (2**15, 1024)])
def test_one_slab_at_a_time_is_in_float32(shape, moments):
  """A layer of stacked matrices, some rows of an embedding: no whole leaf."""
  tx = quantized_adam.scale_by_quantized_adam(0.9, 0.999, moments)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  jaxpr = jax.make_jaxpr(tx.update)(x, jax.eval_shape(tx.init, x)).jaxpr
  assert _whole(jaxpr, x.size) == {"dynamic_update_slice"}


def test_slabs_divide_the_rows():
  assert quantized_adam._slabs((36, 2560, 9728)) == 36
  assert quantized_adam._slabs((151936, 2560)) == 32
  assert quantized_adam._slabs((256, 64)) == 1
  assert quantized_adam._slabs((70,)) == 1


def test_other_moments_are_refused():
  with pytest.raises(ValueError, match="'int4'.*bfloat16, int8"):
    quantized_adam.scale_by_quantized_adam(0.9, 0.999, "int4")


@pytest.mark.parametrize("moments, want", [("bfloat16", 4), ("int8", 2.03125)])
def test_bytes_of_a_parameter(moments, want):
  params = {"a": jnp.zeros((4, 8, 512)), "b": jnp.zeros((16, 256))}
  tx = quantized_adam.scale_by_quantized_adam(0.9, 0.999, moments)
  held = sum(x.nbytes for x in jax.tree.leaves(tx.init(params)))
  assert held - 4 == want * (4 * 8 * 512 + 16 * 256)  # 4: the count
