"""The model against itself: causality, cache, remat, scan, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import qwen3

_CFG = qwen3.Config(
  vocab_size=31,
  width=16,
  num_layers=3,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  mlp_dim=24,
  rope_theta=1e3,
  tied_embeddings=False,
)


@pytest.fixture(scope="module")
def weights():
  return qwen3.init(jax.random.key(0), _CFG)


@pytest.fixture(scope="module")
def tokens():
  return jax.random.randint(jax.random.key(1), (2, 12), 0, _CFG.vocab_size)


@jax.jit(static_argnums=1)
def _loss_and_grad(params, cfg, tokens):
  def loss(params):
    hidden, _ = qwen3.forward(params, cfg, tokens)
    return jnp.sum(jnp.sin(qwen3.unembed(params, cfg, hidden)))

  return jax.value_and_grad(loss)(params)


def _assert_close(a, b, atol=1e-5):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=atol, rtol=1e-5)


def test_causality(weights, tokens):
  """The hidden state at t has a gradient to the inputs up to t, no further."""

  def hidden_at(embedded, t):
    params = weights | {"embed": embedded}
    rows = jnp.arange(12)[None, :]
    hidden, _ = qwen3.forward(params, _CFG, rows)
    return hidden[0, t].sum()

  embedded = weights["embed"][tokens[0]]
  for t in (0, 5, 11):
    grad = jax.grad(hidden_at)(embedded, t)
    reached = np.abs(np.asarray(grad)).max(1) > 0
    assert reached[: t + 1].all() and not reached[t + 1 :].any()


def test_padding_is_not_seen(weights, tokens):
  length = jnp.array([12, 7])
  whole = qwen3.logits(weights, _CFG, tokens, length)
  other = tokens.at[1, 7:].set(3)
  np.testing.assert_array_equal(
    whole, qwen3.logits(weights, _CFG, other, length)
  )
  assert not np.asarray(whole[1, 7:]).any()
  alone = qwen3.logits(weights, _CFG, tokens[1:, :7], length[1:])
  np.testing.assert_allclose(whole[1, :7], alone[0], atol=1e-5)


def test_cached_decoding_is_the_full_forward(weights, tokens):
  """Rows of different lengths go on, each at its own next slot."""
  length = jnp.array([4, 7])
  hidden, cache = qwen3.prefill(weights, _CFG, tokens[:, :7], length, 12)
  full, _ = qwen3.forward(weights, _CFG, tokens)
  step = jax.jit(
    lambda token, cache: qwen3.decode_step(weights, _CFG, token, cache)
  )
  for i in range(5):
    at = length + i
    for b in range(2):
      np.testing.assert_allclose(hidden[b], full[b, at[b] - 1], atol=1e-5)
    hidden, cache = step(tokens[jnp.arange(2), at], cache)
  np.testing.assert_array_equal(cache.length, length + 5)


@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("remat", [True, False])
def test_scan_and_remat_change_no_number(weights, tokens, scan_layers, remat):
  want = _loss_and_grad(weights, _CFG, tokens)
  cfg = dataclasses.replace(_CFG, scan_layers=scan_layers, remat=remat)
  _assert_close(_loss_and_grad(weights, cfg, tokens), want)


def test_unrolled_decoding_is_scanned_decoding(weights, tokens):
  cfg = dataclasses.replace(_CFG, scan_layers=False)
  length = jnp.array([4, 7])
  for a, b in zip(
    jax.tree.leaves(qwen3.prefill(weights, cfg, tokens, length, 14)),
    jax.tree.leaves(qwen3.prefill(weights, _CFG, tokens, length, 14)),
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  _, cache = qwen3.prefill(weights, _CFG, tokens, length, 14)
  _assert_close(
    qwen3.decode_step(weights, cfg, tokens[:, 0], cache),
    qwen3.decode_step(weights, _CFG, tokens[:, 0], cache),
  )


def _plain_logp(params, cfg, hidden, target, temperature):
  logits = qwen3.unembed(params, cfg, hidden) / temperature
  logp = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(logp, target[..., None], -1)[..., 0]
  return chosen, -jnp.sum(jnp.exp(logp) * logp, -1)


@pytest.mark.parametrize("chunk", [1, 5, 24, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_chunked_logp_is_log_softmax(weights, tokens, chunk, temperature):
  hidden, _ = qwen3.forward(weights, _CFG, tokens)
  target = jnp.roll(tokens, -1, 1)

  def both(fn):
    def scalar(params, hidden):
      logp, entropy = fn(params, hidden)
      return jnp.sum(jnp.sin(logp) + entropy**2), (logp, entropy)

    return jax.grad(scalar, argnums=(0, 1), has_aux=True)(weights, hidden)

  got = both(
    lambda p, h: qwen3.token_logp(p, _CFG, h, target, temperature, chunk)
  )
  want = both(lambda p, h: _plain_logp(p, _CFG, h, target, temperature))
  _assert_close(got, want)


def test_logp_never_holds_all_logits(weights):
  """No [rows, tokens, vocabulary] in the program, nor in its gradient."""
  cfg = dataclasses.replace(_CFG, vocab_size=997)
  params = qwen3.init(jax.random.key(0), cfg)
  hidden = jnp.ones((4, 32, cfg.width))
  target = jnp.zeros((4, 32), jnp.int32)
  loss = lambda p: qwen3.token_logp(p, cfg, hidden, target, chunk=16)[0].sum()
  text = jax.jit(jax.grad(loss)).lower(params).as_text()
  assert "16x997" in text
  assert "128x997" not in text and "4x32x997" not in text


def test_bfloat16_keeps_log_probabilities_in_float32(weights, tokens):
  cfg = dataclasses.replace(_CFG, dtype="bfloat16")
  hidden, _ = qwen3.forward(weights, cfg, tokens)
  assert hidden.dtype == jnp.bfloat16
  logp, entropy = qwen3.token_logp(weights, cfg, hidden, tokens)
  assert logp.dtype == entropy.dtype == jnp.float32
  exact, _ = qwen3.forward(weights, _CFG, tokens)
  want, _ = qwen3.token_logp(weights, _CFG, exact, tokens)
  assert 1e-6 < float(jnp.abs(logp - want).max()) < 0.1


def test_rope_turns_by_position():
  """q.k depends on the distance alone; position 0 is not turned."""
  q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
  at = lambda x, p: qwen3.rope(x, jnp.array([[p]]), 1e3)
  np.testing.assert_allclose(at(q, 0), q, atol=1e-6)
  dot = lambda i, j: float(jnp.sum(at(q, i) * at(k, j)))
  np.testing.assert_allclose(dot(7, 3), dot(14, 10), atol=1e-5)
  assert abs(dot(7, 3) - dot(7, 4)) > 1e-3


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="num_heads=3.*num_kv_heads=2"):
    dataclasses.replace(_CFG, num_heads=3)
  with pytest.raises(ValueError, match="head_dim=7 must be even"):
    dataclasses.replace(_CFG, head_dim=7)
