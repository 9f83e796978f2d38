import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from memjax import build
from memjax import config as config_lib
from memjax import hf
from memjax import qwen3


def test_the_defaults_are_memagent_s(model_dir):
  config = config_lib.default()
  assert config.agent.chunk_tokens == 5000
  assert config.agent.memory_tokens == config.agent.answer_tokens == 1024
  assert config.rollout.group_size == 16
  assert config.objective.kl_coef == 1e-3
  assert not config.objective.std_normalize
  config_lib.check(config)


def test_a_run_is_what_the_config_says(config):
  config.objective.dual_clip = 0.0
  config.rollout.temperature = 0.7
  run = build.make(config)
  assert run.agent.chunk_tokens == 6
  assert run.agent.op.capacity == 3
  assert run.objective.loss.dual_clip is None
  assert run.objective.temperature == run.collect.temperature == 0.7
  assert run.model.dtype == "float32"
  assert float(run.schedule(0)) == pytest.approx(0.005)  # 2 steps of warm-up
  params = run.load_params()
  assert params["embed"].dtype == jnp.float32
  shapes = lambda tree: build.jax.tree.map(lambda x: x.shape, tree)
  assert shapes(params) == shapes(run.abstract_params())


@pytest.mark.parametrize(
  "key, value, message",
  [
    ("model.path", "", "config.model.path is empty"),
    ("model.path", "/nowhere", "/nowhere has no config.json"),
    ("model.dtype", "float8", "'float8'.*float32, bfloat16"),
    ("data.name", "squad", "'squad'.*facts.*long_context"),
    ("data.reward_name", "bleu", "'bleu'.*reward_boxed"),
    ("agent.style", "haiku", "'haiku'.*text, words"),
    ("agent.chunk_tokens", 0, "chunk_tokens=0: expected at least 1"),
    ("rollout.group_size", 1, "group_size=1: expected at least 2"),
    ("rollout.wave_questions", 3, "questions=4 is not a multiple of.*=3"),
    ("rollout.temperature", 0.0, "temperature=0.0: expected more than 0"),
    ("rollout.overlong_buffer", 3, "overlong_buffer=3.*2 tokens"),
    ("objective.name", "ppo", "'ppo'.*grpo, dr_grpo, dapo"),
    ("objective.clip_low", 2.0, "config.objective: clip_low is 2.0"),
    ("objective.old_logp", "mine", "'mine'.*trainer, sampler"),
    ("train.minibatches", 17, "minibatches=17.*16 trajectories"),
    ("train.schedule", "step", "'step'.*constant, linear, cosine"),
    ("train.warmup_steps", 6, "warmup_steps=6"),
    ("eval.batch_size", 0, "batch_size=0"),
    ("agent.trained", ("write",), "'write' is none of extract, update, answer"),
    ("agent.trained", ("extract",), "none of this agent's operations"),
    ("reward.update.outcome", 0.0, "config.reward.update: all weights are 0"),
    ("reward.update.truth", 1.0, "'facts' do not know"),
  ],
)
def test_what_cannot_work_is_refused(config, key, value, message):
  *parents, last = key.split(".")
  node = config
  for parent in parents:
    node = node[parent]
  node[last] = value
  with pytest.raises(ValueError, match=message):
    build.make(config)


def test_an_unknown_key_is_refused(config):
  with config.unlocked():
    config.train.lr = 1.0
  with pytest.raises(ValueError, match=r"config.train.lr.*learning_rate"):
    build.make(config)


def test_a_missing_key_is_refused(config):
  with config.unlocked():
    del config.train.steps
  with pytest.raises(ValueError, match="config.train.steps is missing"):
    build.make(config)


def test_an_unknown_field_of_the_data_is_refused(config):
  with config.unlocked():
    config.data.chunk = 3
  with pytest.raises(ValueError, match="config.data.chunk .*chunks"):
    build.make(config)


def test_a_tokenizer_that_is_too_large_is_refused(config, model_dir, tmp_path):
  small = tmp_path / "small"
  shutil.copytree(model_dir, small)
  found = json.loads((small / "config.json").read_text())
  (small / "config.json").write_text(json.dumps(found | {"vocab_size": 100}))
  config.model.path = str(small)
  with pytest.raises(ValueError, match="241 ids, the model only 100"):
    build.make(config)


def test_heads_that_do_not_divide_are_refused(config, model_dir, tmp_path):
  odd = tmp_path / "odd"
  shutil.copytree(model_dir, odd)
  found = json.loads((odd / "config.json").read_text())
  found |= {"num_attention_heads": 3, "num_key_value_heads": 2}
  (odd / "config.json").write_text(json.dumps(found))
  config.model.path = str(odd)
  with pytest.raises(ValueError, match="num_heads=3.*num_kv_heads=2"):
    build.make(config)


def test_a_question_that_is_too_long_is_refused(config, tmp_path):
  records = [
    {"context": "the", "input": "kim?", "answers": ["oslo"]},
    {"context": "the", "input": "kim? leo?", "answers": ["oslo"]},
  ]
  (tmp_path / "a.json").write_text(json.dumps(records))
  with config.unlocked():
    config.data = config_lib.default().data
  config.data.path = str(tmp_path / "a.json")
  config.data.holdout = 1
  with pytest.raises(ValueError, match="'kim. leo.' has 2 tokens, expected 1"):
    build.make(config)


def test_a_mode_without_data_needs_none(config):
  with config.unlocked():
    config.data = config_lib.default().data
  assert build.make(config, needs_data=False).env is None
  with pytest.raises(ValueError, match="config.data.path is empty"):
    build.make(config)


def test_a_workdir_belongs_to_one_config(config, tmp_path):
  build.claim(tmp_path / "w", config)
  build.claim(tmp_path / "w", config)
  config.train.steps = 99  # may grow
  build.claim(tmp_path / "w", config)
  config.seed = 5
  with pytest.raises(ValueError, match="config.seed=0, not 5"):
    build.claim(tmp_path / "w", config)


def test_operations_that_are_not_trained_are_frozen(config, params):
  config.agent.trained = ("update",)
  run = build.make(config)
  assert run.agent.trained == ("update",)
  policies = run.policies(None)
  assert policies.of("update", run.agent.trained) is None
  frozen = policies.of("answer", run.agent.trained)
  assert jax.tree.all(jax.tree.map(np.array_equal, frozen, params))


def test_without_frozen_operations_nothing_is_loaded(config):
  policies = build.make(config).policies(None)
  assert policies.frozen is None and policies.embedder is None


def test_a_frozen_model_of_another_shape_is_refused(config, tmp_path):
  cfg = qwen3.Config(256, 8, 1, 2, 1, 4, 16)
  hf.save(tmp_path / "other", cfg, qwen3.init(jax.random.key(0), cfg))
  config.agent.trained = ("answer",)
  config.model.frozen = str(tmp_path / "other")
  with pytest.raises(ValueError, match="config.model.frozen=.*shape"):
    build.make(config).policies(None)


def test_raw_lines_need_room(config):
  config.agent.update(name="memory_r1", style="words", extractor="turns")
  config.agent.update(facts=2, entry_tokens=2, chunk_tokens=6)
  with pytest.raises(ValueError, match="cannot hold chunk_tokens=6"):
    build.make(config, needs_data=False)
