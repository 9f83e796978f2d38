import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import attention_blocks
from memjax import qwen3
from memjax import qwen3_cache
from memjax import sampling
from memjax import tokens as token_lib

_CFG = qwen3.Config(
  vocab_size=19,
  width=16,
  num_layers=2,
  num_heads=2,
  num_kv_heads=1,
  head_dim=8,
  mlp_dim=24,
  rope_theta=1e3,
)
_PROMPTS = [[3, 4, 5], [7], [1, 2, 3, 4, 5, 6], [9, 9]]
_STOPS = (0, 1, 2)
_A = 6


@pytest.fixture(scope="module")
def weights():
  params = jax.jit(qwen3.init, static_argnums=1)(jax.random.key(0), _CFG)
  return params | {"embed": 2 * params["embed"]}


def _keys(count, seed=5):
  return jax.random.split(jax.random.key(seed), count)


def _compiled(cfg):
  def decode(params, prompt, key_B, temperature, active_B):
    return sampling.decode(
      params,
      cfg,
      prompt,
      key_B,
      max_new_tokens=_A,
      stop_ids=_STOPS,
      temperature=temperature,
      active_B=active_B,
    )

  return jax.jit(decode)


_decode = _compiled(_CFG)


def _sample(weights, prompts=_PROMPTS, keys=None, temperature=1.0, active=None):
  count = len(prompts)
  rows = token_lib.from_lists(prompts, 8)
  keys = _keys(count) if keys is None else keys
  active = np.ones(count, bool) if active is None else np.array(active)
  return _decode(weights, rows, keys, temperature, active)


@jax.jit
def _padded_logp(params, rows):
  logits = qwen3.logits(params, _CFG, rows.ids, rows.length)
  return jax.nn.log_softmax(logits)[0]


def _all_logp(weights, ids):
  """Log-probabilities behind each token, by one forward pass."""
  return _padded_logp(weights, token_lib.from_lists([ids], 8 + _A))


def _logp(weights, prompt, response):
  """Log-probability of each token of a response by a full forward pass."""
  logp = _all_logp(weights, prompt + response)
  return [
    float(logp[len(prompt) + t - 1, token]) for t, token in enumerate(response)
  ]


def test_temperature_0_takes_the_most_likely_token(weights):
  got = token_lib.to_lists(_sample(weights, temperature=0.0).tokens)
  for prompt, response in zip(_PROMPTS, got):
    ids = list(prompt)
    for _ in range(_A):
      ids.append(int(jnp.argmax(_all_logp(weights, ids)[len(ids) - 1])))
      if ids[-1] in _STOPS:
        break
    assert response == ids[len(prompt) :]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_recorded_logp_is_that_of_the_forward_pass(weights, temperature):
  got = _sample(weights, temperature=temperature)
  for b, response in enumerate(token_lib.to_lists(got.tokens)):
    np.testing.assert_allclose(
      got.logp[b, : len(response)],
      _logp(weights, _PROMPTS[b], response),
      atol=1e-5,
    )


def test_rows_end_with_a_stop_token_or_at_the_limit(weights):
  prompts = [[i % 19, (3 * i) % 19] for i in range(4)] * 8
  got = _sample(weights, prompts, _keys(32))
  ended = truncated = 0
  for b, response in enumerate(token_lib.to_lists(got.tokens)):
    assert not set(response[:-1]) & set(_STOPS)
    if got.truncated[b]:
      # Nothing is put behind a response that was cut.
      assert len(response) == _A and response[-1] not in _STOPS
      truncated += 1
    else:
      assert response[-1] in _STOPS
      ended += 1
  assert ended > 5 and truncated > 5


def test_a_row_depends_on_its_prompt_and_key_alone(weights):
  keys = _keys(4)
  whole = token_lib.to_lists(_sample(weights, keys=keys).tokens)
  order = np.array([2, 0, 3, 1])
  moved = _sample(weights, [_PROMPTS[i] for i in order], keys[order])
  assert token_lib.to_lists(moved.tokens) == [whole[i] for i in order]
  others = [_PROMPTS[0], [8, 8, 8], [5], [2, 2]]
  changed = _sample(weights, others, keys)
  assert token_lib.to_lists(changed.tokens)[0] == whole[0]
  assert token_lib.to_lists(_sample(weights, keys=_keys(4, 6)).tokens) != whole


def test_a_cache_that_grows_changes_nothing(weights, monkeypatch):
  cfg = dataclasses.replace(_CFG, scan_layers=False)
  rows, keys = token_lib.from_lists(_PROMPTS, 8), _keys(4)
  # A row that is idle, and one that goes on to the end.
  active = np.array([True, True, False, True])
  args = weights, rows, keys, 1.0, active
  whole = _compiled(cfg)(*args)
  assert max(whole.tokens.length) > 4
  monkeypatch.setattr(attention_blocks, "_LEAST_SPAN", 2)
  assert qwen3_cache.capacities(cfg, _A) == [2, 4, 6]
  assert qwen3_cache.capacities(_CFG, _A) == [6]
  on_gpu = dataclasses.replace(cfg, device="gpu")
  assert qwen3_cache.capacities(on_gpu, _A) == [6]
  assert qwen3_cache.slots(on_gpu, _A) == qwen3_cache.slots(_CFG, _A) == 8
  assert qwen3_cache.slots(cfg, _A) == 6
  for x in (cfg, on_gpu):
    found = _compiled(x)(*args)
    np.testing.assert_array_equal(found.tokens.ids, whole.tokens.ids)
    np.testing.assert_allclose(found.logp, whole.logp, atol=1e-6)


def test_idle_rows_write_nothing(weights):
  keys = _keys(4)
  whole = token_lib.to_lists(_sample(weights, keys=keys).tokens)
  got = _sample(weights, keys=keys, active=[True, False, True, False])
  assert token_lib.to_lists(got.tokens) == [whole[0], [], whole[2], []]
  np.testing.assert_array_equal(np.asarray(got.truncated)[[1, 3]], False)
  assert not np.asarray(got.logp)[[1, 3]].any()


def test_draws_follow_the_distribution():
  """20,000 draws at two temperatures; each frequency within 5 sigma."""
  logits = jnp.array([0.0, 1.0, -1.0, 2.0, 0.5])
  n = 20_000
  draw = jax.jit(sampling.draw)
  rows = jnp.broadcast_to(logits, (n, 5))
  for temperature in (1.0, 0.5):
    token, logp = draw(rows, _keys(n), temperature)
    p = np.asarray(jax.nn.softmax(logits / temperature))
    count = np.bincount(token, minlength=5)
    sigma = np.sqrt(n * p * (1 - p))
    assert (np.abs(count - n * p) < 5 * sigma).all()
    np.testing.assert_allclose(logp, np.log(p)[np.asarray(token)], atol=1e-5)


def test_generate_takes_and_gives_lists(weights):
  ids, logp = sampling.generate(
    weights,
    _CFG,
    _PROMPTS,
    key=jax.random.key(3),
    max_new_tokens=5,
    temperature=1.0,
    stop_ids=_STOPS,
  )
  assert len(ids) == len(logp) == 4
  for prompt, response, values in zip(_PROMPTS, ids, logp):
    assert 1 <= len(response) <= 5 and len(values) == len(response)
    np.testing.assert_allclose(
      values, _logp(weights, prompt, response), atol=1e-5
    )
  again, _ = sampling.generate(
    weights,
    _CFG,
    _PROMPTS[:2],
    key=jax.random.key(3),
    max_new_tokens=5,
    temperature=1.0,
    stop_ids=_STOPS,
  )
  assert again == ids[:2]


@pytest.mark.parametrize("prompts", [[], [[1], []]])
def test_generate_refuses_empty_prompts(weights, prompts):
  with pytest.raises(ValueError, match="at least one prompt and no empty"):
    sampling.generate(
      weights, _CFG, prompts, key=jax.random.key(0), max_new_tokens=2
    )
