"""The model against itself: causality, cache, remat, scan, precision."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import attention_blocks
from memjax import qwen3
from memjax import qwen3_block
from memjax import qwen3_cache
from memjax import qwen3_head
from memjax import sharding
from memjax import tokens as token_lib

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
  return jax.jit(qwen3.init, static_argnums=1)(jax.random.key(0), _CFG)


@pytest.fixture(scope="module")
def tokens():
  rows = np.random.default_rng(1).integers(0, _CFG.vocab_size, (2, 12))
  return jnp.asarray(rows, jnp.int32)


# One compiled program for each config and shape.
_logits = jax.jit(qwen3.logits, static_argnums=1)
_read = jax.jit(qwen3.read, static_argnums=1)
_decode_step = jax.jit(qwen3.decode_step, static_argnums=1)


@jax.jit(static_argnums=1)
def _hidden(params, cfg, tokens):
  return qwen3.forward(params, cfg, tokens)


@jax.jit(static_argnums=1)
def _loss_and_grad(params, cfg, tokens):
  def loss(params):
    hidden = qwen3.forward(params, cfg, tokens)
    return jnp.sum(jnp.sin(qwen3_head.unembed(params, cfg, hidden)))

  return jax.value_and_grad(loss)(params)


def _assert_close(a, b):
  """Within 1e-5 of each array's largest entry: sums in float32 round so."""
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
    np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


def test_causality(weights, tokens):
  """The hidden state at t has a gradient to the inputs up to t, no further."""

  @jax.jit
  @jax.grad
  def grad_at(embedded, t):
    params = weights | {"embed": embedded}
    rows = jnp.arange(12)[None, :]
    hidden = qwen3.forward(params, _CFG, rows)
    # The plain sum of a normalised vector could hide a gradient.
    return jnp.sum(jnp.sin(hidden[0, t]))

  embedded = weights["embed"][tokens[0]]
  for t in (0, 5, 11):
    reached = np.abs(np.asarray(grad_at(embedded, t))).max(1) > 0
    assert reached[: t + 1].all() and not reached[t + 1 :].any()


def test_padding_is_not_seen(weights, tokens):
  length = jnp.array([12, 7])
  whole = np.asarray(_logits(weights, _CFG, tokens, length))
  other = tokens.at[1, 7:].set(3)
  np.testing.assert_array_equal(whole, _logits(weights, _CFG, other, length))
  assert not whole[1, 7:].any() and whole[0].any(-1).all()
  alone = _logits(weights, _CFG, tokens[1:, :7], length[1:])
  np.testing.assert_allclose(whole[1, :7], alone[0], atol=1e-5)


def test_cached_decoding_is_the_full_forward(weights, tokens):
  """Prompts of different lengths go on, each at its own next position."""
  length = np.array([4, 7])
  hidden, prompt = _read(weights, _CFG, tokens[:, :7], length)
  cache = qwen3_cache.room(_CFG, 2, 5)
  full = _logits(weights, _CFG, tokens, jnp.array([12, 12]))
  full = np.asarray(jax.nn.log_softmax(full))
  for i in range(5):
    logp = jax.nn.log_softmax(qwen3_head.unembed(weights, _CFG, hidden))
    want = full[np.arange(2), length + i - 1]
    np.testing.assert_allclose(logp, want, atol=1e-5)
    np.testing.assert_array_equal(logp.argmax(-1), want.argmax(-1))
    token = tokens[np.arange(2), length + i]
    hidden, cache = _decode_step(weights, _CFG, token, cache, [prompt])
  assert cache.length == 5


@pytest.fixture(scope="module")
def plain_loss_and_grad(weights, tokens):
  assert _CFG.scan_layers and _CFG.remat == "none"
  return _loss_and_grad(weights, _CFG, tokens)


@pytest.mark.parametrize(
  "scan_layers, remat",
  [(True, "full"), (True, "dots"), (False, "none"), (False, "full")],
)
def test_scan_and_remat_change_no_number(
  weights, tokens, plain_loss_and_grad, scan_layers, remat
):
  cfg = dataclasses.replace(_CFG, scan_layers=scan_layers, remat=remat)
  _assert_close(_loss_and_grad(weights, cfg, tokens), plain_loss_and_grad)


@jax.jit(static_argnums=1)
def _grad_of_rows(params, cfg, rows, place, shared):
  """Loss of the hidden states at each row's places, and its gradient."""

  def loss(params):
    hidden = qwen3.forward(params, cfg, rows, shared)
    hidden = jnp.take_along_axis(hidden, place[..., None], axis=1)
    return jnp.sum(jnp.sin(qwen3_head.unembed(params, cfg, hidden)))

  return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
  "scan_layers, remat", [(True, "full"), (True, "none"), (False, "none")]
)
def test_shared_text_is_as_if_each_row_had_it(
  weights, tokens, scan_layers, remat
):
  """Two texts of 3 and 5 tokens, three rows of 4 behind each."""
  cfg = dataclasses.replace(_CFG, scan_layers=scan_layers, remat=remat)
  length = np.array([3, 5])
  shared = token_lib.Tokens(tokens[:, :5], jnp.asarray(length))
  rows = jnp.tile(tokens, (3, 1))[:, 6:10].at[:, 0].set(jnp.arange(6))
  whole = [
    [*tokens[i // 3, : length[i // 3]], *rows[i], *[0] * (2 - i // 3 * 2)]
    for i in range(6)
  ]
  own = np.tile(np.arange(4), (6, 1))
  got = _grad_of_rows(weights, cfg, rows, own, shared)
  behind = own + np.repeat(length, 3)[:, None]
  want = _grad_of_rows(weights, _CFG, jnp.array(whole), behind, None)
  _assert_close(got, want)


@jax.jit(static_argnums=(1, 4))
def _grad_of_wanted(params, cfg, rows, start, asks):
  """The same loss of two tokens from start on, asked for or taken."""
  shared = token_lib.Tokens(rows[::2, :3], jnp.array([3]))

  def loss(params):
    wanted = (start, 2) if asks else None
    hidden = qwen3.forward(params, cfg, rows, shared, wanted)
    if not asks:
      place = start[:, None] + jnp.arange(2)[None, :]
      hidden = jnp.take_along_axis(hidden, place[..., None], axis=1)
    return jnp.sum(jnp.sin(qwen3_head.unembed(params, cfg, hidden)))

  return jax.value_and_grad(loss)(params)


@pytest.mark.parametrize(
  "scan_layers, remat", [(True, "none"), (False, "none"), (False, "full")]
)
def test_wanted_tokens_are_those_of_all(weights, tokens, scan_layers, remat):
  cfg = dataclasses.replace(_CFG, scan_layers=scan_layers, remat=remat)
  start = jnp.array([0, 10])
  got, want = (
    _grad_of_wanted(weights, cfg, tokens, start, asks) for asks in (True, False)
  )
  _assert_close(got, want)


def test_the_last_layer_computes_what_is_wanted(tokens):
  """One layer: keys and values of all tokens, the rest of two of 12."""
  cfg = dataclasses.replace(_CFG, num_layers=1, scan_layers=False)
  params = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), cfg))

  def flops(count):
    run = lambda params, start: qwen3.forward(
      params, cfg, tokens, wanted=count and (start, count)
    )
    start = jax.ShapeDtypeStruct((2,), jnp.int32)
    return jax.jit(run).lower(params, start).compile().cost_analysis()["flops"]

  # Of the products' 2,304 weights 384 are those of keys and values.
  assert flops(2) < flops(None) / 2


@pytest.mark.parametrize("scan_layers", [True, False])
def test_remat_stores_less(scan_layers):
  """Counts what the backward pass is handed; nothing is computed."""

  def stored(remat):
    cfg = dataclasses.replace(_CFG, scan_layers=scan_layers, remat=remat)
    params = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), cfg))
    rows = jax.ShapeDtypeStruct((4, 64), jnp.int32)
    backward = lambda p, t: jax.vjp(lambda p: qwen3.forward(p, cfg, t), p)[1]
    residuals = jax.tree.leaves(jax.eval_shape(backward, params, rows))
    return sum(x.size for x in residuals)

  assert stored("full") < stored("dots") / 2
  assert stored("dots") < stored("none") / 1.5


def _stacked(cache, slots):
  """So many keys and values of all layers, and the lengths."""
  layers = cache.layers
  if isinstance(layers[0], tuple):
    layers = tuple(map(jnp.stack, zip(*layers)))
  keys, values = layers
  return keys[..., :slots], values[..., :slots, :], cache.length


def test_unrolled_decoding_is_scanned_decoding(weights, tokens, monkeypatch):
  """With joined matrices and prefixes in tiles, against all as it is."""
  monkeypatch.setattr(attention_blocks, "_TILE", 3)
  cfg = dataclasses.replace(_CFG, scan_layers=False)
  length, prompt = np.array([4, 7]), tokens[:, :7]
  found = []
  for x in (cfg, _CFG):
    _, shared = _read(weights, x, tokens[:1, 7:], np.array([4]))
    hidden, read = _read(weights, x, prompt, length, [shared])
    arranged, prefixes = qwen3_cache.for_decoding(
      qwen3.unstacked(weights, x), x, [shared, read]
    )
    new, cache = _decode_step(
      arranged, x, tokens[:, 0], qwen3_cache.room(x, 2, 3), prefixes
    )
    found.append((hidden, new, _stacked(read, 7), _stacked(cache, 3)))
    tiles = [x.layers[0][1].shape[1] for x in prefixes]
    assert tiles == ([2 * 2, 2 * 3] if x is cfg else [2, 2])
  _assert_close(*found)


def _loops(fn, *args):
  """How often each scan goes round."""
  found = jax.make_jaxpr(fn)(*args).eqns
  return [x.params["length"] for x in found if x.primitive.name == "scan"]


@pytest.mark.parametrize(
  "device, rows, texts, at_once, parts",
  [
    ("cpu", 6, 0, 16, [2]),
    ("cpu", 5, 0, 8, [5]),
    ("cpu", 5, 0, 16, []),  # a row each where four would do
    ("cpu", 2, 0, 3, [2]),  # a row is longer
    ("cpu", 6, 1, 16, [2]),
    ("cpu", 6, 2, 16, []),  # of two texts
    ("gpu", 6, 1, 32, [2]),  # of 8 slots each
  ],
)
def test_rows_read_in_parts_are_those_read_at_once(
  weights, tokens, monkeypatch, device, rows, texts, at_once, parts
):
  """Rows of 4 tokens, behind shared texts."""
  cfg = dataclasses.replace(_CFG, scan_layers=False, device=device)
  row = jnp.tile(tokens[:1], (rows, 1))[:, :4] + jnp.arange(rows)[:, None]
  row %= _CFG.vocab_size
  length, before = jnp.arange(rows) % 4 + 1, []
  if texts:
    shared = _read(weights, cfg, tokens[:texts, :3], jnp.array([3, 2])[:texts])
    before = [shared[1]]
  read = lambda *args: qwen3.read(args[0], cfg, *args[1:])
  args = weights, row, length, before
  whole = jax.jit(read)(*args)
  assert not _loops(read, *args)
  name = "_AT_ONCE_CPU" if device == "cpu" else "_AT_ONCE"
  monkeypatch.setattr(qwen3, name, at_once)
  again = lambda *args: read(*args)  # or jit would find what it has compiled
  assert _loops(again, *args) == parts
  _assert_close(jax.jit(again)(*args), whole)
  on_mesh = lambda *args: read(*args)
  kinds = (jax.sharding.AxisType.Auto,) * 3
  with sharding.use(jax.make_mesh((1, 1, 1), sharding.AXES, axis_types=kinds)):
    assert not _loops(on_mesh, *args)


def _plain_logp(params, cfg, hidden, target, temperature):
  logits = qwen3_head.unembed(params, cfg, hidden) / temperature
  logp = jax.nn.log_softmax(logits)
  chosen = jnp.take_along_axis(logp, target[..., None], -1)[..., 0]
  return chosen, -jnp.sum(jnp.exp(logp) * logp, -1)


@jax.jit(static_argnums=(0,))
def _logp_and_grad(fn, params, hidden, temperature):
  def scalar(params, hidden):
    logp, entropy = fn(params, _CFG, hidden, temperature=temperature)
    return jnp.sum(jnp.sin(logp) + entropy**2), (logp, entropy)

  return jax.grad(scalar, argnums=(0, 1), has_aux=True)(params, hidden)


@pytest.fixture(scope="module")
def hidden(weights, tokens):
  return _hidden(weights, _CFG, tokens)


# 24 tokens: pieces that divide them, that leave a rest, that are larger.
@pytest.mark.parametrize("chunk", [1, 5, 8, 24, 1000])
def test_chunked_logp_is_log_softmax(weights, tokens, hidden, chunk):
  target = jnp.roll(tokens, -1, 1)
  chunked = functools.partial(
    qwen3_head.token_logp, target_RT=target, chunk=chunk
  )
  plain = functools.partial(_plain_logp, target=target)
  for temperature in (1.0, 0.5):
    got = _logp_and_grad(chunked, weights, hidden, temperature)
    assert got[1][0].shape == tokens.shape
    _assert_close(got, _logp_and_grad(plain, weights, hidden, temperature))


def test_entropy_by_hand():
  """Hidden states that are the logits: width 2, identity embedding."""
  cfg = dataclasses.replace(_CFG, vocab_size=2, width=2, tied_embeddings=True)
  # Probabilities 1/2, 1/2; then 3/4, 1/4: 0.75 ln(4/3) + 0.25 ln 4.
  logits = jnp.array([[[5.0, 5.0], [np.log(3.0), 0.0]]])
  logp, entropy = qwen3_head.token_logp(
    {"embed": jnp.eye(2)}, cfg, logits, jnp.array([[1, 0]])
  )
  np.testing.assert_allclose(logp, [np.log([0.5, 0.75])], atol=1e-6)
  np.testing.assert_allclose(entropy, [[0.6931472, 0.5623351]], atol=1e-6)


def test_logp_never_holds_all_logits(weights):
  """No [rows, tokens, vocabulary] in the program, nor in its gradient."""
  cfg = dataclasses.replace(_CFG, vocab_size=997)
  params = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), cfg))
  hidden = jnp.ones((4, 32, cfg.width))
  target = jnp.zeros((4, 32), jnp.int32)

  def loss(params):
    logp, _ = qwen3_head.token_logp(params, cfg, hidden, target, chunk=16)
    return logp.sum()

  text = jax.jit(jax.grad(loss)).lower(params).as_text()
  assert "16x997" in text
  assert "128x997" not in text and "4x32x997" not in text


def test_bfloat16_keeps_log_probabilities_in_float32(weights, tokens, hidden):
  cfg = dataclasses.replace(_CFG, dtype="bfloat16")
  rough = _hidden(weights, cfg, tokens)
  assert rough.dtype == jnp.bfloat16
  token_logp = jax.jit(qwen3_head.token_logp, static_argnums=1)
  logp, entropy = token_logp(weights, cfg, rough, tokens)
  assert logp.dtype == entropy.dtype == jnp.float32
  # Rounding to bfloat16 (2**-8) would leave no finer digits than that.
  assert (logp != logp.astype(jnp.bfloat16).astype(jnp.float32)).any()
  want, _ = token_logp(weights, _CFG, hidden, tokens)
  assert 1e-6 < float(jnp.abs(logp - want).max()) < 0.1


def test_rope_turns_by_position():
  """q.k depends on the distance alone; position 0 is not turned."""
  q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8))
  rope = jax.jit(qwen3_block.rope)
  at = lambda x, p: rope(x, np.array([[p]]), 1e3)
  np.testing.assert_allclose(at(q, 0), q, atol=1e-6)
  dot = lambda i, j: float(jnp.sum(at(q, i) * at(k, j)))
  np.testing.assert_allclose(dot(7, 3), dot(14, 10), atol=1e-5)
  assert abs(dot(7, 3) - dot(7, 4)) > 1e-3


def test_sizes_that_do_not_divide_are_refused():
  with pytest.raises(ValueError, match="num_heads=3.*num_kv_heads=2"):
    dataclasses.replace(_CFG, num_heads=3)
  with pytest.raises(ValueError, match="head_dim=7 must be even"):
    dataclasses.replace(_CFG, head_dim=7)
