"""Settings that every test runs under."""

import dataclasses
import os
import pathlib

# Of this process and of those that tests start, before jax is imported.
# A model library must not look for a hub, and a test never needs one.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
# Compiled programs are kept between runs of the suite.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(
  pathlib.Path(__file__).resolve().parent.parent / ".jax_cache"
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.5"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
# Most of the time is XLA's. Without LLVM's optimisations it takes two thirds,
# and half of that again with the older code generator for fused operations.
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_backend_optimization_level=0",
    "--xla_cpu_use_fusion_emitters=false",
  ]
)

import jax
import pytest
import tiny_config

from memjax import agents
from memjax import hf
from memjax import memory_agent
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax.envs import facts
from memjax.memory import recurrent


@pytest.fixture(scope="module", autouse=True)
def _programs_go_with_their_module():
  """Each compiled program maps memory, and Linux allows 65,530 maps a process.

  A worker that keeps those of all modules comes to that, and dies in the
  middle of a compile.
  """
  yield
  jax.clear_caches()


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
  """The folder of real data; the test is skipped where there is none."""
  path = os.environ.get("MEMJAX_DATA")
  if not path:
    pytest.skip("MEMJAX_DATA does not name a folder of real data")
  return pathlib.Path(path)


@pytest.fixture(scope="session")
def tokenizer():
  """The word-level tokenizer of the facts environment."""
  return tokenizer_lib.from_words(facts.vocabulary())


@pytest.fixture(scope="session")
def agent(tokenizer) -> memory_agent.MemoryAgent:
  """An agent with a model of a few thousand parameters, chunks of 6 words."""
  model = qwen3.Config(
    vocab_size=256,
    width=16,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    head_dim=8,
    mlp_dim=32,
    rope_theta=100.0,
    scan_layers=False,
  )
  op = recurrent.make_recurrent(tokenizer, "words", capacity=3)
  # Random weights hardly ever draw one end token in 256: take many.
  op = dataclasses.replace(op, stop_ids=(1, *range(200, 250)))
  return memory_agent.MemoryAgent(
    model,
    op,
    chunk_tokens=6,
    question_tokens=2,
    update_tokens=4,
    answer_tokens=2,
  )


@pytest.fixture(scope="session")
def params(agent):
  """Random weights."""
  return qwen3.init(jax.random.key(0), agent.model)


@pytest.fixture(scope="session")
def policies(params) -> agents.Policies:
  """The same, for all operations."""
  return agents.Policies(params)


@pytest.fixture(scope="session")
def model_dir(params, agent, tokenizer, tmp_path_factory) -> pathlib.Path:
  """The tiny model as a Hugging Face directory."""
  path = tmp_path_factory.mktemp("model") / "tiny"
  hf.save(path, agent.model, params)
  tokenizer.save(path)
  return path


@pytest.fixture
def config(model_dir):
  """A run of six iterations on the tiny model: all parts, seconds long."""
  config = tiny_config.get_config()
  config.model.path = str(model_dir)
  config.data.scales = (1, 2)
  config.objective.entropy_coef = 0.0
  config.train.update(
    steps=6, minibatches=2, learning_rate=1e-2, warmup_steps=2
  )
  config.eval.update(every=3, traces=1)
  return config
