import re

import numpy as np
import pytest

from memjax.envs import prose


@pytest.fixture(scope="module")
def env():
  return prose.Prose(seed=3, eval_examples=2)


@pytest.fixture(scope="module")
def tokenizer():
  return prose.make_tokenizer(400)


def _homes(example):
  name = example.question.split()[2]
  forms = "now lives in|has moved to|settled in"
  return re.findall(rf"{name} (?:{forms}) (\w+)\.", example.context)


def test_the_last_home_wins(env):
  kinds = []
  for i in range(400):
    example = env.example("train", i)
    homes = _homes(example)
    assert example.answers == (homes[-1],)
    assert example.meta["stale"] == tuple(homes[:-1])
    # One text that says it, not the letters of one.
    (told,) = example.meta["oracle"]
    assert example.question.split()[2] in told and homes[-1] in told
    assert example.meta["kind"] == (
      "updated" if len(homes) > 1 else "unchanged"
    )
    kinds.append(example.meta["kind"])
  assert abs(kinds.count("updated") / 400 - 0.5) < 0.1


def test_text_survives_the_tokenizer(env, tokenizer):
  example = env.example("train", 0)
  ids = tokenizer.encode(example.context)
  assert tokenizer.decode(ids) == example.context
  # Several tokens to a name; chunks of 40 end where they end.
  assert np.mean([len(tokenizer.encode(name)) for name in prose.NAMES]) > 3
  assert any(
    not tokenizer.decode(ids[i : i + 40]).endswith(".")
    for i in range(0, len(ids), 40)
  )


def test_lengths(env, tokenizer):
  for scale in (1, 4):
    lengths = [
      len(tokenizer.encode(env.example("eval", i, scale).context))
      for i in range(50)
    ]
    # 5 chunks of 40 tokens, times the scale: sentences vary.
    assert 130 * scale < np.mean(lengths) < 210 * scale


def test_the_demonstrator_follows_the_format():
  rng = np.random.default_rng(0)
  note = prose.demonstrate(
    "Where does Marlow live?",
    "Marlow: Tessin. Zelda: Lundby.",
    "The old mill was quiet. Marlow has moved to Ovieda. Rub",
    rng,
    attentive=1.0,
  )
  assert note.startswith("Marlow: Ovieda.")
  assert prose.demonstrate_answer("Where does Marlow live?", note) == "Ovieda"
  assert prose.demonstrate_answer("Where does Ruben live?", note) == "unknown"
