"""Small runs over dialogue worlds, for the tests of exchange and training."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from memjax import hf
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax.envs import demos
from memjax.envs import homes

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def save_model(path, tokenizer, vocab_size, leans=(), seed=1):
  """Random weights; after a word of `leans` its followers are likely."""
  cfg = qwen3.Config(
    vocab_size, 16, 1, 2, 1, 8, 32, tied_embeddings=False, scan_layers=False
  )
  params = jax.tree.map(np.array, qwen3.init(jax.random.key(seed), cfg))
  ids = tokenizer.backend.convert_tokens_to_ids
  for kind, (words, after) in enumerate(leans):
    params["embed"][ids(words), kind] = 8.0
    for word in after:
      params["head"][kind, ids(word)] += 2.0
  hf.save(path, cfg, jax.tree.map(jnp.asarray, params))
  tokenizer.save(path)
  return str(path)


# What the grammar likes: notes and merges of RMM, and answers that cite.
_NUMBERS = ["1", "2", "3"]
_FACTS = ["ada=bern", "bob=rome", "cat=oslo"]
_LEANS = [
  (["<topics>"], ["NOTE"]),
  (["<merge>"], ["ADD", "MERGE"]),
  ([f"{name}?" for name in homes.NAMES], ["USE"]),
  (["NOTE", "MERGE", "USE"], _NUMBERS),
  (_NUMBERS, ["<nl>", ":"]),
  ([":"], _FACTS),
  ([*_FACTS, "ADD"], ["<nl>"]),
  (["<nl>"], ["bern", "rome", "<end>"]),
  (["bern", "rome"], ["<end>"]),
]


def dialogues(path):
  """`configs/memory_r1_tiny.py` on two sessions, with random weights."""
  scope = {}
  exec((_ROOT / "configs/memory_r1_tiny.py").read_text(), scope)
  config = scope["get_config"]()
  words = tokenizer_lib.from_words(demos.words())
  size = words.vocab_size
  config.model.path = save_model(path / "model", words, size, _LEANS)
  config.agent.embedder = save_model(path / "embedder", words, size, seed=2)
  config.data.eval_examples = 8
  config.data.scales = (1,)
  config.data.sessions = 2
  config.agent.max_chunks = 2
  config.agent.update(turns=4, turn_tokens=4, topics=2, kept_tokens=6)
  return config


def raw_lines(config):
  """Memory-R1's bank of what was said: no model call before the answer."""
  config.agent.update(
    name="memory_r1",
    extractor="turns",
    updater="append",
    facts=3,
    entry_tokens=4,
    chunk_tokens=12,
  )
