"""What is recorded is what was sampled, rewarded and trained on."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from memjax import collect
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax import traces
from memjax.envs import example as example_lib

_CFG = collect.CollectConfig(
  questions=4, wave_questions=2, group_size=3, max_chunks=2
)


class _Env:
  """Examples 1, 2 and 3 reward answers of an odd length, example 0 none."""

  def train_examples(self, start, count):
    return [
      example_lib.Example(i, "kim?", "the of and to a in is", ("oslo",))
      for i in range(start, start + count)
    ]

  def reward(self, example, text):
    return float(len(text) % 2) if example.id else 0.0


def _collect(policies, agent, tokenizer, cfg=_CFG, record=0):
  return collect.collect(
    policies,
    agent,
    _Env(),
    tokenizer,
    cfg,
    key=jax.random.key(0),
    seed=(0, 0),
    cursor=0,
    record=record,
  )


@pytest.fixture(scope="module")
def bpe():
  return tokenizer_lib.train_bpe(["the cat sat on the mat"], 280)


class TestPieces:
  @pytest.mark.parametrize(
    "text", ["the cat", "na\u00efve \U0001f600 caf\u00e9", ""]
  )
  def test_they_join_to_the_text(self, bpe, text):
    ids = bpe.encode(text)
    found = traces.pieces(bpe, ids)
    assert len(found) == len(ids) and "".join(found) == text

  def test_a_character_stands_at_its_last_token(self, bpe):
    assert traces.pieces(bpe, bpe.encode("a\U0001f600b")) == [
      *("a", "", "", "", "\U0001f600", "b")
    ]
    # Bytes that are no character are shown, and hold nothing back.
    cut = traces.pieces(bpe, bpe.encode("\U0001f600")[:2])
    assert len(cut) == 2 and cut[-1]
    bad = bpe.encode("\U0001f600")[:1] * 5 + bpe.encode("ok")
    assert "".join(traces.pieces(bpe, bad)).endswith("ok")

  def test_words_and_end_tokens(self, tokenizer):
    ids = [*tokenizer.encode("kim=oslo the"), tokenizer.stop_ids[0]]
    assert traces.pieces(tokenizer, ids) == [" kim=oslo", " the", " <end>"]


def test_calls_of_a_row_are_those_of_every_batch_that_took_place():
  segment = lambda *active: types.SimpleNamespace(active=np.array(active))
  segments = {
    "extract": segment(True, False),  # once for each of two rows
    "update": segment(True, True, False, True, True, False),  # three times
  }
  calls = lambda row: [
    (op, at) for op, _, at in traces.active_calls(segments, row, 2)
  ]
  assert calls(0) == [("extract", 0), ("update", 0), ("update", 4)]
  assert calls(1) == [("update", 1), ("update", 3)]


@pytest.mark.parametrize("length", [600, 601, 900])
def test_a_long_prompt_loses_its_middle(tokenizer, length):
  words = (["of", "and", "to"] * 300)[:length]
  response = types.SimpleNamespace(
    tokens=token_lib.from_lists([tokenizer.encode("the")], 2),
    logp=np.zeros((1, 2)),
    truncated=[False],
  )
  prompt = token_lib.from_lists([tokenizer.encode(" ".join(words))], 900)
  found = traces.call(
    "update",
    types.SimpleNamespace(prompt=prompt, response=response, malformed=[False]),
    0,
    tokenizer,
  )
  assert found["prompt_tokens"] == length
  assert found["prompt_left_out" if length > 600 else "op"] in (
    *(length - 600, "update"),
  )
  kept = [*found["prompt"].split(), *found.get("prompt_end", "").split()]
  want = words if length == 600 else [*words[:300], *words[-300:]]
  assert kept == want


class TestGroups:
  def test_recording_changes_nothing(self, policies, agent, tokenizer):
    plain = _collect(policies, agent, tokenizer)
    kept = _collect(policies, agent, tokenizer, record=3)
    assert plain.groups == [] and plain.metrics == kept.metrics
    for a, b in zip(jax.tree.leaves(plain.rows), jax.tree.leaves(kept.rows)):
      np.testing.assert_array_equal(a, b)

  def test_live_groups_come_first(self, policies, agent, tokenizer):
    cfg = dataclasses.replace(_CFG, group_size=8)
    groups = _collect(policies, agent, tokenizer, cfg, record=3).groups
    # The first wave has 0, which is dead, and 1; the second 2 and 3.
    assert [group["id"] for group in groups][:2] == [1, 0]
    assert len(groups) == 3

  @pytest.mark.parametrize("shuffle", [False, True])
  def test_they_are_the_rows_of_the_update(
    self, policies, agent, tokenizer, shuffle
  ):
    cfg = dataclasses.replace(
      _CFG, shuffle_rewards=shuffle, overlong_buffer=2, std_normalize=True
    )
    got = _collect(policies, agent, tokenizer, cfg, record=4)
    Q, G = 4, 3
    assert [len(group["group"]) for group in got.groups] == [G] * Q
    for group in got.groups:
      assert group["chunks"] == ["the of and to a in", "is"]
      for g, rollout in enumerate(group["group"]):
        (asked,) = rollout["asked"]
        at = group["id"] * G + g
        for op, record, row in (
          ("update", rollout["turns"][0], at),
          ("update", rollout["turns"][1], Q * G + at),
          ("answer", asked, at),
        ):
          (call,) = record["calls"]
          rows = got.rows[op]
          ids = token_lib.to_lists(rows.response)[row]
          assert call["tokens"] == traces.pieces(tokenizer, ids)
          np.testing.assert_allclose(
            call["logp"], rows.old_logp[row, : len(ids)], atol=1e-4
          )
          assert call["adv"] == pytest.approx(float(rows.adv[row]), abs=1e-4)
      # The advantage is that of the rewards that stand beside it.
      for reads in (lambda x: x["rewards"], lambda x: x["asked"][0]["rewards"]):
        for op in reads(group["group"][0]):
          shown = [reads(rollout)[op] for rollout in group["group"]]
          reward = np.array([x["reward"] for x in shown])
          spread = reward.std(ddof=1)
          want = (reward - reward.mean()) / (spread if spread else 1)
          np.testing.assert_allclose([x["adv"] for x in shown], want, atol=1e-3)
          for x in shown:
            assert sum(x["terms"].values()) == pytest.approx(x["reward"])
    found = {
      name
      for group in got.groups
      for x in group["group"]
      for name, value in x["rewards"]["update"]["terms"].items()
      if value
    }
    assert found == {"outcome", "penalty"}
