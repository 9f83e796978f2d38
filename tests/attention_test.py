"""Attention in blocks and behind a prefix, against all scores at once."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import attention
from memjax import attention_blocks

_B, _T, _K, _G, _H, _W, _P = 4, 7, 2, 3, 8, 2, 5
_LENGTH = np.array([5, 3])


def _draw(dtype="float32"):
  keys = iter(jax.random.split(jax.random.key(0), 5))
  one = lambda *shape: jax.random.normal(next(keys), shape).astype(dtype)
  own = one(_B, _T, _K, _G, _H), one(_B, _K, _H, _T), one(_B, _K, _T, _H)
  return own, (one(_W, _K, _H, _P), one(_W, _K, _P, _H))


def _by_hand(own, *prefixes):
  """Softmax over what each token sees, in numpy and float64."""
  query, key, value = (np.asarray(x, np.float64) for x in own)
  out = np.zeros(query.shape)
  for b, t, k, g in np.ndindex(query.shape[:4]):
    keys, values = [], []
    for first_keys, first_values, length in prefixes:
      w = b // (_B // len(length))
      keys.append(np.float64(first_keys[w, k, :, : length[w]]).T)
      values.append(np.float64(first_values[w, k, : length[w]]))
    keys = np.concatenate([*keys, key[b, k, :, : t + 1].T])
    values = np.concatenate([*values, value[b, k, : t + 1]])
    score = keys @ query[b, t, k, g] / np.sqrt(_H)
    weight = np.exp(score - score.max())
    out[b, t, k, g] = weight @ values / weight.sum()
  return out


def _prefixes(before):
  """With the lengths of the prefixes, if there are any."""
  return [(*before, np.asarray(_LENGTH))] if before else []


def _attend(own, before, kind):
  """Compiled anew for each test, as the sizes of blocks differ."""
  run = lambda *x: attention.causal(*x, kind)
  return jax.jit(run)(*own, _prefixes(before))


@pytest.fixture(params=[(3, 7), (2, 4), (3, 2)])
def small_blocks(request, monkeypatch):
  """Seven queries: in blocks, in two spans of blocks, in four spans."""
  block, span = request.param
  monkeypatch.setattr(attention, "BLOCK_SCORES", 1)
  monkeypatch.setattr(attention, "_LEAST_BLOCK", block)
  monkeypatch.setattr(attention_blocks, "_LEAST_SPAN", span)


def _check_what_is_seen(kind, with_prefix):
  own, before = _draw()
  before = before if with_prefix else None
  got = _attend(own, before, kind)
  np.testing.assert_allclose(got, _by_hand(own, *_prefixes(before)), atol=1e-6)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_each_token_sees_what_is_before_it(with_prefix):
  _check_what_is_seen("plain", with_prefix)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_so_it_does_in_blocks(small_blocks, with_prefix):
  _check_what_is_seen("blocks", with_prefix)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_gradients_of_blocks(small_blocks, with_prefix):
  """Those of all scores at once; nothing flows to a prefix's padding."""
  own, before = _draw()
  before = before if with_prefix else None

  def loss(kind):
    scalar = lambda x: jnp.sum(jnp.sin(3 * _attend(*x, kind)))
    return jax.jit(jax.grad(scalar))((own, before))

  got, want = loss("blocks"), loss("plain")
  for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, atol=1e-5)
  if with_prefix:
    assert not np.asarray(got[1][0])[1, :, :, _LENGTH[1] :].any()
    assert not np.asarray(got[1][1])[1, :, _LENGTH[1] :].any()


def test_half_precision_is_near(small_blocks):
  own, before = _draw("bfloat16")
  for kind in ("plain", "blocks"):
    got = _attend(own, before, kind)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(
      np.asarray(got, np.float64), _by_hand(own, *_prefixes(before)), atol=0.03
    )


@pytest.mark.parametrize("fewer", [0, 1])
@pytest.mark.parametrize("with_prefix", [False, True])
def test_the_fused_kernel_is_given_the_same(monkeypatch, with_prefix, fewer):
  """Its layout and mask, with XLA's attention in place of the kernel."""
  fused = jax.nn.dot_product_attention
  asked = []

  def with_xla(query, key, *args, implementation, **kwargs):
    asked.append(implementation)
    # Of odd numbers cuDNN has no gradient.
    assert query.shape[1] % 2 == key.shape[1] % 2 == 0
    return fused(query, key, *args, implementation="xla", **kwargs)

  monkeypatch.setattr(jax.nn, "dot_product_attention", with_xla)
  (query, key, value), before = _draw()
  short = query.shape[1] - fewer
  own = query[:, :short], key[..., :short], value[:, :, :short]
  before = before if with_prefix else None
  got = _attend(own, before, "cudnn")
  assert asked == ["cudnn"]
  np.testing.assert_allclose(got, _by_hand(own, *_prefixes(before)), atol=1e-6)


@pytest.mark.parametrize("with_prefix", [False, True])
def test_a_cache_is_seen_up_to_its_length(with_prefix):
  """Behind prompts of different lengths, and what groups share before them."""
  (query, key, value), before = _draw()
  prompt = [
    jax.random.normal(jax.random.key(i), shape)
    for i, shape in enumerate([(_B, _K, _H, 5), (_B, _K, 5, _H)])
  ]
  prefixes = _prefixes(before) if with_prefix else []
  prefixes.append((*prompt, np.array([5, 1, 3, 4])))
  for n in (1, 3, 7):
    got = attention.cached(query[:, -1:], key, value, jnp.int32(n), prefixes)
    # Its token is the last that it sees.
    moved = query.at[:, n - 1].set(query[:, -1])
    want = _by_hand((moved, key, value), *prefixes)[:, n - 1]
    np.testing.assert_allclose(got[:, 0], want, atol=1e-6)


@pytest.mark.parametrize("P, n, p", [(5, 1, 5), (64, 1, 64), (131, 3, 44)])
def test_tiles_hold_the_same_keys(P, n, p):
  one = lambda i, *shape: jax.random.normal(jax.random.key(i), shape)
  query, keys = one(0, _B, 1, _K, _G, _H), one(1, _W, _K, _H, P)
  values, length = one(2, _W, _K, P, _H), np.array([P, P // 2])
  own = one(3, _B, _K, _H, 2), one(4, _B, _K, 2, _H), jnp.int32(1)
  tiles = attention_blocks.in_tiles(keys, values)
  assert tiles[0].shape == (_W, _K * n, _H, p)
  assert tiles[1].shape == (_W, _K * n, p, _H)
  # The last tile of the first head starts so many tokens in.
  start = (n - 1) * p
  np.testing.assert_array_equal(tiles[0][:, n - 1, :, 0], keys[:, 0, :, start])
  np.testing.assert_array_equal(tiles[1][:, n - 1, 0], values[:, 0, start])
  got = attention.cached(query, *own, [(*tiles, length)])
  want = attention.cached(query, *own, [(keys, values, length)])
  np.testing.assert_allclose(got, want, atol=1e-6)


def test_tiles_are_no_more_than_can_be_compiled(monkeypatch):
  monkeypatch.setattr(attention_blocks, "_TILES", 2)
  key, value = np.zeros((1, 1, 8, 131)), np.zeros((1, 1, 131, 8))
  tiles = attention_blocks.in_tiles(key, value)
  assert [x.shape for x in tiles] == [(1, 2, 8, 66), (1, 2, 66, 8)]


def test_scores_of_later_tokens_are_left_out():
  """Four spans compute 10 of 16 parts of the scores."""
  shape = lambda *x: jax.ShapeDtypeStruct(x, jnp.float32)
  args = shape(1, 256, 1, 4, 64), shape(1, 1, 64, 256), shape(1, 1, 256, 64)

  def flops(kind):
    run = jax.jit(lambda *x: attention.causal(*x, (), kind))
    return run.lower(*args).compile().cost_analysis()["flops"]

  assert 0.6 < flops("blocks") / flops("plain") < 0.65


def test_scores_of_all_tokens_are_never_there():
  """The memory that the compiler plans grows with T, not with its square."""

  def temporaries(kind, T):
    shape = lambda *x: jax.ShapeDtypeStruct(x, jnp.float32)
    args = shape(1, T, 1, 4, 8), shape(1, 1, 8, T), shape(1, 1, T, 8)
    grad = jax.grad(
      lambda q, k, v: attention.causal(q, k, v, (), kind).sum(), (0, 1, 2)
    )
    compiled = jax.jit(grad).lower(*args).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  # Blocks of 64 at 2,048 tokens and of 32 at 4,096: 4 heads, float32.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(attention, "BLOCK_SCORES", 4 * 64 * 2048)
    small, large = (temporaries("blocks", T) for T in (2048, 4096))
    assert large < 2.5 * small
    assert large < temporaries("plain", 4096) / 8


def test_kinds(monkeypatch):
  assert attention.resolve("auto", "bfloat16") == "blocks"  # on CPU
  card = dataclasses.make_dataclass("Card", ["platform", "device_kind"])
  monkeypatch.setattr(
    jax, "devices", lambda: [card("gpu", "NVIDIA H100 80GB HBM3")]
  )
  assert attention.resolve("auto", "bfloat16") == "cudnn"
  assert attention.resolve("auto", "float32") == "blocks"
  with pytest.raises(ValueError, match="config.model.attention='flash'"):
    attention.resolve("flash", "float32")
  with pytest.raises(ValueError, match="'cudnn' with .*'float32'"):
    attention.resolve("cudnn", "float32")
