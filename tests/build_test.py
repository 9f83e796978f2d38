import json
import shutil
import types

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

import memjax
from memjax import attention
from memjax import build
from memjax import build_mesh
from memjax import config as config_lib
from memjax import hf
from memjax import lora
from memjax import qwen3
from memjax import reranker
from memjax import run_folder
from memjax import tokenizer as tokenizer_lib
from memjax.envs import demos
from memjax.memory import rerank


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
    ("model.path", "/nowhere", "/nowhere is no folder"),
    ("model.dtype", "float8", "'float8'.*float32, bfloat16"),
    ("model.device", "cuda", "'cuda'.*auto, cpu, gpu, tpu"),
    ("data.name", "squad", "'squad'.*facts.*long_context"),
    ("data.reward_name", "bleu", "'bleu'.*reward_boxed"),
    ("agent.style", "haiku", "'haiku'.*text, .*words"),
    ("agent.chunk_tokens", 0, "chunk_tokens=0: expected at least 1"),
    ("rollout.group_size", 1, "group_size=1: expected at least 2"),
    ("rollout.wave_questions", 3, "questions=4 is not a multiple of.*=3"),
    ("rollout.temperature", 0.0, "temperature=0.0: expected more than 0"),
    ("rollout.overlong_buffer", 3, "overlong_buffer=3.*2 tokens.*answer"),
    ("objective.name", "ppo", "'ppo'.*grpo, dr_grpo, dapo"),
    ("objective.clip_low", 2.0, "config.objective: clip_low is 2.0"),
    ("objective.old_logp", "mine", "'mine'.*trainer, sampler"),
    ("train.minibatches", 17, "minibatches=17.*16 trajectories"),
    ("train.schedule", "step", "'step'.*constant, linear, cosine"),
    ("train.warmup_steps", 6, "warmup_steps=6"),
    ("eval.batch_size", 0, "batch_size=0"),
    ("agent.trained", ("write",), "'write' is none of .*update.*rerank"),
    ("agent.trained", ("extract",), "none of this agent's operations"),
    (
      "reward.update_outcome",
      0.0,
      r"config.reward.update_\*: all weights are 0",
    ),
    ("reward.update_truth", 1.0, "'facts' do not know"),
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
  run_folder.claim(tmp_path / "w", config)
  run_folder.claim(tmp_path / "w", config)
  config.train.steps = 99  # may grow
  run_folder.claim(tmp_path / "w", config)
  # Of a commit that did not have these keys.
  path = tmp_path / "w" / "config.json"
  old = json.loads(path.read_text())
  del old["model"]["device"], old["rollout"]["scan_layers"]
  path.write_text(json.dumps(old))
  run_folder.claim(tmp_path / "w", config)
  # How many rows at once, as on a larger mesh.
  config.train.micro_batch = config.eval.batch_size = 16
  config.rollout.wave_questions = 2
  run_folder.claim(tmp_path / "w", config)
  config.rollout.wave_questions, config.shuffle_rewards = 1, True
  with pytest.raises(ValueError, match="wave_questions=2, not 1"):
    run_folder.claim(tmp_path / "w", config)
  config.rollout.wave_questions, config.shuffle_rewards = 2, False
  config.seed = 5
  with pytest.raises(ValueError, match="config.seed=0, not 5"):
    run_folder.claim(tmp_path / "w", config)


def test_operations_that_are_not_trained_are_frozen(config, params):
  config.agent.trained = ("update",)
  run = build.make(config)
  assert run.agent.trained == ("update",)
  changed = jax.tree.map(lambda x: x + 1, params)
  policies = run.policies(changed)
  for op, stacked in (("update", changed), ("answer", params)):
    found = policies.of(op, run.agent.trained)
    want = qwen3.unstacked(stacked, run.agent.model)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, want))


def test_adapters_below_which_layers_are_apart_change_nothing(config):
  config.lora.rank, config.agent.trained = 2, ("update",)
  config.model.scan_layers, config.rollout.scan_layers = True, False
  run = build.make(config)
  base = run.load_params()
  adapters = run.init_state(base).params
  adapters = jax.tree.map(lambda x: x + 0.5, adapters)
  got = run.policies(base, adapters).policy
  want = lora.join(base, adapters, run.adapters)
  want = qwen3.unstacked(want, run.agent.model)
  assert jax.tree.all(jax.tree.map(np.array_equal, got, want))


@pytest.mark.parametrize("scan_layers", [True, False])
def test_layers_that_sample_may_be_unrolled_alone(config, scan_layers):
  config.agent.trained = ("update",)
  config.model.scan_layers = True
  config.rollout.scan_layers = scan_layers
  run = build.make(config)
  assert run.model.scan_layers and run.agent.model.scan_layers == scan_layers
  params = run.load_params()
  policies, again = run.policies(params), run.policies(params)
  assert policies.frozen is again.frozen  # it is not made for each iteration
  if scan_layers:
    assert policies.policy is params
    return
  with pytest.raises(ValueError, match="such as run.agent.model"):
    qwen3.unstacked(policies.policy, run.model)
  for one in (policies.policy, policies.frozen):
    assert len(one["layers"]) == run.model.num_layers
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *one["layers"])
    same = jax.tree.map(np.array_equal, stacked, params["layers"])
    assert jax.tree.all(same)


def test_without_frozen_operations_nothing_is_loaded(config):
  run = build.make(config)
  policies = run.policies(run.load_params())
  assert policies.frozen is None and policies.embedder is None


def test_a_frozen_model_of_another_shape_is_refused(config, tmp_path):
  cfg = qwen3.Config(256, 8, 1, 2, 1, 4, 16)
  hf.save(tmp_path / "other", cfg, qwen3.init(jax.random.key(0), cfg))
  config.agent.trained = ("answer",)
  config.model.frozen = str(tmp_path / "other")
  with pytest.raises(ValueError, match="config.model.frozen=.*shape"):
    build.make(config)


def test_raw_lines_need_room(config):
  config.agent.update(name="memory_r1", style="words", extractor="turns")
  config.agent.update(facts=2, entry_tokens=2, chunk_tokens=6)
  with pytest.raises(ValueError, match="cannot hold chunk_tokens=6"):
    build.make(config, needs_data=False)


@pytest.fixture(scope="module")
def bank_dir(tmp_path_factory):
  """A model that knows the words of a bank; it is its own embedder."""
  path = tmp_path_factory.mktemp("bank") / "tiny"
  words = tokenizer_lib.from_words(demos.words())
  cfg = qwen3.Config(words.vocab_size, 16, 1, 2, 1, 8, 16, scan_layers=False)
  hf.save(path, cfg, qwen3.init(jax.random.key(0), cfg))
  words.save(path)
  return str(path)


def test_who_reads_nothing_alike_is_told(config, bank_dir):
  config.model.path = bank_dir
  config.rollout.share_prefix = True
  config.agent.update(name="memory_r1", chunk_tokens=6, retrieved=3)
  config.agent.update(candidates=2, turns=4)
  assert build.make(config, needs_data=False).collect.share_prefix
  config.agent.extractor = "turns"
  with pytest.raises(ValueError, match="share_prefix=True.*nothing alike"):
    build.make(config, needs_data=False)


@pytest.fixture(params=["memory_r1", "memory_rmm"])
def reranking(request, config, bank_dir):
  """A bank agent with a trained reranker."""
  config.model.path = bank_dir
  config.agent.update(
    name=request.param,
    retriever="rerank",
    embedder=bank_dir,
    fetched=5,
    retrieved=3,
    candidates=2,
    turns=4,
  )
  return config


def _made(config):
  return build.make(config, needs_data=False)


@pytest.mark.parametrize(
  "changes, message",
  [
    (
      {"agent.retriever": "dense"},
      "config.agent.retriever='dense': .*bm25, embedding, recency, rerank, sel",
    ),
    (
      {"agent.first_search": "rerank"},
      "config.agent.first_search='rerank': choose .*bm25, embedding, recency$",
    ),
    (
      {"agent.embedder": ""},
      "config.agent.retriever='rerank' needs config.agent.embedder, a Qwen3",
    ),
    (
      {"agent.embedder": "", "agent.retriever": "embedding"},
      "config.agent.retriever='embedding' needs config.agent.embedder",
    ),
    (
      {"agent.embedder": "", "agent.retriever": "select"},
      "config.agent.retriever='select' needs config.agent.embedder",
    ),
    ({"agent.embedder": "/nowhere"}, "/nowhere is no folder"),
    (
      {"agent.fetched": 2},
      "config.agent.fetched=2: expected more than the 3 of config.agent.retr",
    ),
    (
      {"agent.fetched": 2, "agent.retriever": "select"},
      "config.agent.fetched=2: expected more than the 3 of config.agent.retr",
    ),
    (
      {"agent.names_entries": False},
      "config.agent.names_entries=False: .*take 'rerank' out of .*trained",
    ),
    (
      {"reranker.path": "/nowhere"},
      "config.reranker.path=/nowhere: no reranker.safetensors.*--mode=export",
    ),
    (
      {"reranker.tunes": "all"},
      "config.reranker.tunes='all': choose one of map, encoder",
    ),
    (
      {"reranker.reading": "paper"},
      "config.reranker.reading='paper': choose one of plackett_luce, softmax",
    ),
    ({"reranker.tau": 0.0}, "config.reranker.tau=0.0: expected more than 0"),
    ({"reranker.tau": -1.0}, "config.reranker.tau=-1.0: expected more than 0"),
    (
      {"reranker.learning_rate": 0.0},
      "config.reranker.learning_rate=0.0: expected more than 0",
    ),
    ({"reranker.micro_batch": 0}, "micro_batch=0: expected at least 1"),
    (
      {"agent.trained": ()},
      r"config.agent.trained=\(\) names none of .*extract, update, answer",
    ),
    (
      {"agent.trained": ("rerank",), "agent.retriever": "bm25"},
      r"config.agent.trained=\('rerank',\) names none of .*extract, update, a",
    ),
    (
      {"agent.trained": ("reranker",)},
      "'reranker' is none of .*select.*rerank",
    ),
  ],
)
def test_a_retriever_that_cannot_work_is_refused(reranking, changes, message):
  reranking.update_from_flattened_dict(changes)
  with pytest.raises(ValueError, match=message):
    _made(reranking)


def test_a_map_of_another_width_is_refused(reranking, tmp_path):
  reranker.save(tmp_path, rerank.init(8))
  reranking.reranker.path = str(tmp_path)
  with pytest.raises(
    ValueError, match="config.reranker.path=.*width 16.*config.agent.embedder"
  ):
    _made(reranking)


def test_an_embedder_with_fewer_words_is_refused(reranking, model_dir):
  reranking.agent.embedder = str(model_dir)
  with pytest.raises(
    ValueError, match="embedder=.* has 256 embeddings, .*same"
  ):
    _made(reranking)


def test_every_model_attends_as_the_device_can(reranking, monkeypatch):
  """On an NVIDIA GPU the embedder, too, by the fused kernel."""
  monkeypatch.setattr(attention, "resolve", lambda kind, dtype: "plain")
  path = reranking.model.path
  agent = _made(reranking).agent
  few = {"candidates": 2, "retrieved": 3, "turns": 4}
  name = reranking.agent.name
  loaded = memjax.load(path, agent=name, style="words", **few)
  assert isinstance(loaded.policies.policy["layers"], tuple)
  models = agent.model, agent.retriever.embedder, loaded.agent.model
  assert {x.attention for x in models} == {"plain"}


def test_a_reranker_s_trainer_is_what_the_config_says(reranking):
  reranking.reranker.update(
    tunes="encoder", reading="softmax", tau=0.2, baseline=0.1, micro_batch=5
  )
  trainer = _made(reranking).trainer
  assert (trainer.tunes, trainer.reading) == ("encoder", "softmax")
  assert (trainer.baseline, trainer.micro_batch) == (0.1, 5)
  retriever = trainer.retriever
  assert (retriever.fetched, retriever.retrieved) == (5, 3)
  assert retriever.reranks and retriever.tau == 0.2
  reranking.reranker.mean_baseline = True
  assert _made(reranking).trainer.baseline is None


def test_a_mesh_divides_what_the_reranker_learns_from(reranking):
  reranking.reranker.micro_batch = 5
  reranking.eval.batch_size = 4
  run, mesh = _made(reranking), {"data": 2, "fsdp": 1, "tensor": 1}
  mesh = types.SimpleNamespace(shape=mesh)
  with pytest.raises(ValueError, match="reranker.micro_batch=5.*multiple of 2"):
    build_mesh.check(reranking, run.model, mesh)
  reranking.agent.trained = ("answer",)
  build_mesh.check(reranking, run.model, mesh)


@pytest.mark.parametrize(
  "retriever, first, shown",
  [("bm25", "bm25", 3), ("embedding", "embedding", 3), ("select", "bm25", 5)],
)
def test_without_a_map_nothing_reranks(reranking, retriever, first, shown):
  reranking.agent.update(retriever=retriever, first_search="bm25")
  run = _made(reranking)
  found = run.agent.retriever
  assert (found.first, found.fetched, found.reranks) == (first, shown, False)
  assert run.trainer is None and run.retrieval().reranker is None
  # An embedder is there where it is needed.
  assert (found.embedder is None) == (retriever != "embedding")
  assert ("select" in run.agent.trained) == (retriever == "select")


def test_what_trains_nothing_but_the_map_freezes_the_policy(reranking):
  reranking.agent.trained = ("rerank",)
  run = _made(reranking)
  assert run.agent.trained == () and run.trainer and run.collect.reranks
  policies = run.policies(run.load_params())
  assert policies.of("answer", ()) is policies.frozen
  reranking.agent.trained = ("answer",)
  run = _made(reranking)
  assert run.agent.retriever.reranks and not run.collect.reranks
  assert run.trainer is None
  # A map that is not trained needs no names of entries.
  reranking.agent.names_entries = False
  _made(reranking)


def test_every_key_can_be_reached_as_the_command_line_does():
  """A key named like a method of a config, such as update, cannot."""

  def walk(node):
    for key in node:
      assert not callable(getattr(node, key)), key
      if isinstance(node[key], ml_collections.ConfigDict):
        walk(node[key])

  walk(config_lib.default())
