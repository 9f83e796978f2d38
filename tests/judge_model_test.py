"""A checkpoint as judge."""

import dataclasses

import jax
import numpy as np
import pytest

from memjax import attention
from memjax import build_judge
from memjax import config as config_lib
from memjax import hf
from memjax import judge
from memjax import judge_cache
from memjax import judge_model
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import facts

_PROMPTS = ["Is it Oslo?", "No. " * 9, "x", "Is it Bern?", "Oslo! " * 5]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
  """Random weights under a byte-level vocabulary that knows the prompt."""
  path = tmp_path_factory.mktemp("judge") / "random"
  words = tokenizer_lib.train_bpe([judge.PROMPT] * 2, 400)
  cfg = qwen3.Config(
    512, 16, 1, 2, 1, 8, 32, tied_embeddings=False, scan_layers=False
  )
  params = qwen3.init(jax.random.key(3), cfg)
  # Predictions that differ from prompt to prompt, and clearly.
  params["head"] = params["head"] * 60.0
  hf.save(path, cfg, params)
  words.save(path)
  return str(path)


def _ask(path, prompts=_PROMPTS, **kwargs):
  backend = judge_model.Checkpoint(path, "float32", **kwargs)
  return backend, dict(backend.ask(prompts))


def _said(verdict):
  parts = verdict.reply.replace(",", "").split()
  return np.array([float(parts[3]), float(parts[5])])


def test_the_likelier_reply_is_the_verdict(path):
  """As the plain logits of prompt and reply have it, row by row."""
  cfg, params = hf.load(path, dtype="float32")
  cfg = dataclasses.replace(cfg, dtype="float32")
  tokenizer = tokenizer_lib.load(path)
  backend, found = _ask(path, batch_size=3)
  assert sorted(found) == list(range(len(_PROMPTS)))
  logits = jax.jit(
    lambda rows: qwen3.logits(params, cfg, rows.ids, rows.length)
  )
  for i, prompt in enumerate(_PROMPTS):
    start, want = tokenizer.encode(prompt), []
    for reply in judge.REPLIES.values():
      ids = start + tokenizer.encode(reply)
      rows = token_lib.from_lists([ids], 100)
      logp_TV = np.asarray(jax.nn.log_softmax(logits(rows)[0]))
      places = range(len(start), len(ids))
      want.append(sum(logp_TV[t - 1, ids[t]] for t in places))
    np.testing.assert_allclose(_said(found[i]), want, atol=2e-3)
    assert found[i].correct == (want[0] > want[1])
    assert found[i].tokens_in == len(start)
  assert backend.counts.calls == len(_PROMPTS)


def test_batches_move_no_verdict(path):
  _, one = _ask(path, batch_size=1)
  _, many = _ask(path, batch_size=4)
  for i, verdict in one.items():
    np.testing.assert_allclose(_said(verdict), _said(many[i]), atol=2e-3)


def test_exchanged_replies_exchange_the_verdicts(path, monkeypatch):
  _, found = _ask(path)
  turned = dict(zip((True, False), reversed(judge.REPLIES.values())))
  monkeypatch.setattr(judge, "REPLIES", turned)
  _, other = _ask(path)
  assert [found[i].correct for i in range(5)] == [
    not other[i].correct for i in range(5)
  ]


def test_it_attends_as_the_device_can(path, monkeypatch):
  monkeypatch.setattr(attention, "resolve", lambda kind, dtype: "plain")
  cfg, _ = judge_model.Checkpoint(path, "float32")._model
  assert cfg.attention == "plain"


def test_it_judges_through_the_same_prompt(path, tmp_path):
  backend = judge_model.Checkpoint(path, "float32", batch_size=2)
  by = judge.Judge(backend, judge_cache.Cache(tmp_path / "judge.sqlite"))
  items = [
    judge.Item("Where?", ("Oslo",), given)
    for given in ("Oslo", "Bern", "Oslo", " ")
  ]
  found = by.verdicts(items)
  assert found[0] == found[2] and found[3] is False
  assert by.verdicts(items) == found
  costs = by.costs()
  assert costs["calls"] == 2 and costs["cached"] == 2 and costs["tokens_in"]
  assert by.served == {backend.name}


def test_its_name_says_what_the_files_hold(path, tmp_path):
  name = judge_model.Checkpoint(path, "float32").name
  cfg, params = hf.load(path, dtype="float32")
  tokenizer = tokenizer_lib.load(path)
  for folder, scale in (("same", 1.0), ("other", 1.5)):
    there = tmp_path / folder / "random"
    hf.save(there, cfg, {**params, "head": params["head"] * scale})
    tokenizer.save(there)
    found = judge_model.Checkpoint(str(there), "float32").name
    assert found.startswith("random@")
    assert (found == name) == (folder == "same")


def test_a_checkpoint_must_spell_the_prompt(model_dir):
  with pytest.raises(ValueError, match="'Decide' is not in the tokenizer"):
    judge_model.Checkpoint(str(model_dir))
  with pytest.raises(ValueError, match="/nowhere is no folder"):
    judge_model.Checkpoint("/nowhere")


def test_a_real_tokenizer_and_its_chat_template(data_dir, tmp_path):
  """A random model of its vocabulary; reasoning is closed before the reply."""
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  cfg = qwen3.Config(151936, 8, 1, 1, 1, 8, 8, scan_layers=False)
  hf.save(tmp_path / "real", cfg, qwen3.init(jax.random.key(0), cfg))
  tokenizer.save(tmp_path / "real")
  backend = judge_model.Checkpoint(str(tmp_path / "real"), batch_size=1)
  by = judge.Judge(backend, judge_cache.Cache(":memory:"))
  by.verdicts([judge.Item("Where?", ("Oslo",), "In Oslo.")])
  prompt = tokenizer.chat(judge.PROMPT, thinking=False)
  assert prompt.endswith("<think>\n\n</think>\n\n")
  assert 150 < by.costs()["tokens_in"] < 300


def test_a_config_names_it_by_its_path(path, tmp_path):
  """A random one is refused, unless the user insists."""
  config = config_lib.default()
  config.model.dtype = "float32"
  config.judge.update(
    path=path,
    metric=True,
    examples=40,
    batch_size=10,
    cache=str(tmp_path / "judge.sqlite"),
  )
  env = facts.Facts(eval_examples=2, scales=(1,))
  example = env.train_examples(0, 1)[0]
  message = "the judge random@.* config.judge.max_false_"
  with pytest.raises(ValueError, match=message):
    build_judge.wrap(config, env).metric(example, "oslo")
  config.judge.allow_poor = True
  by = build_judge.wrap(config, env)
  assert by.metric(example, "oslo") in (0.0, 1.0)
  assert by.by.costs()["calls"] == 1  # the trial is in the cache
