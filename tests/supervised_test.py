import json

import jax
import numpy as np
import optax
import pytest

from memjax import qwen3
from memjax import sampling
from memjax import supervised
from memjax import tokens as token_lib


def _pairs(tokenizer):
  prompts = [tokenizer.encode(f"<ask> {name}?") for name in ("kim", "leo")]
  answers = [tokenizer.encode(city) for city in ("oslo", "rome")]
  return supervised.make_pairs(prompts, answers, tokenizer.stop_ids[0])


def test_pairs_are_learnt(params, agent, tokenizer):
  seen = []
  trained = supervised.fit(
    params,
    agent.model,
    [_pairs(tokenizer)],
    tx=optax.adamw(1e-2),
    steps=100,
    batch_size=4,
    on_step=lambda step, losses: seen.append((step, losses[0])),
  )
  assert [step for step, _ in seen] == [50, 100]
  assert seen[-1][1] < 0.1
  ids, _ = sampling.generate(
    trained,
    agent.model,
    [tokenizer.encode("<ask> kim?"), tokenizer.encode("<ask> leo?")],
    key=jax.random.key(0),
    max_new_tokens=3,
    temperature=0.0,
    stop_ids=tokenizer.stop_ids,
  )
  # The end token is learnt too.
  end = tokenizer.stop_ids[0]
  assert ids == [
    [*tokenizer.encode("oslo"), end],
    [*tokenizer.encode("rome"), end],
  ]
  # The start is not changed.
  assert params["embed"].is_deleted() is False


@jax.jit(static_argnums=1)
def _logp(params, cfg, rows):
  logits = qwen3.logits(params, cfg, rows.ids, rows.length)
  return jax.nn.log_softmax(logits)[0]


def test_the_loss_is_a_mean_over_response_tokens(params, agent, tokenizer):
  pairs = _pairs(tokenizer)
  rows = supervised._batch(pairs, np.random.default_rng(0), 4)
  loss = jax.jit(supervised.negative_log_likelihood, static_argnums=1)
  got = loss(params, agent.model, rows)
  total, count = 0.0, 0
  for b in range(4):
    n = int(rows.prompt.length[b])
    prompt = np.asarray(rows.prompt.ids)[b, :n].tolist()
    m = int(rows.response.length[b])
    response = np.asarray(rows.response.ids)[b, :m].tolist()
    row = token_lib.from_lists([prompt + response], 8)
    logp = _logp(params, agent.model, row)
    for t, token in enumerate(response):
      total -= float(logp[len(prompt) + t - 1, token])
      count += 1
  np.testing.assert_allclose(float(got), total / count, rtol=1e-5)


def test_a_diverging_loss_stops(params, agent, tokenizer):
  with pytest.raises(FloatingPointError, match="step 50"):
    supervised.fit(
      params,
      agent.model,
      [_pairs(tokenizer)],
      tx=optax.sgd(float("inf")),
      steps=50,
      batch_size=4,
    )


def test_pairs_from_a_file(tmp_path, tokenizer):
  path = tmp_path / "pairs.jsonl"
  path.write_text(
    json.dumps({"prompt": "<ask> kim?", "response": "oslo"})
    + "\n"
    + json.dumps({"prompt": "<ask> leo?", "response": "rome the"})
  )
  pairs = supervised.load_pairs(path, tokenizer)
  np.testing.assert_array_equal(pairs.prompt.length, [2, 2])
  np.testing.assert_array_equal(pairs.response.length, [2, 3])


@pytest.mark.parametrize(
  "content, message",
  [
    ('{"prompt": "a", "response": "b"}\n{"prompt": "a"}', "line 2.*'response'"),
    ('{"prompt": 3, "response": "b"}', "line 1.*'prompt'"),
    ("nonsense", "line 1: not JSON"),
    ("[1]", "line 1"),
    ("", "at least one pair"),
  ],
)
def test_malformed_pairs_are_refused(tmp_path, tokenizer, content, message):
  path = tmp_path / "pairs.jsonl"
  path.write_text(content.replace('"a"', '"the"').replace('"b"', '"of"'))
  with pytest.raises(ValueError, match=message):
    supervised.load_pairs(path, tokenizer)


def test_a_missing_file_is_refused(tmp_path, tokenizer):
  with pytest.raises(ValueError, match="no such file"):
    supervised.load_pairs(tmp_path / "pairs.jsonl", tokenizer)
