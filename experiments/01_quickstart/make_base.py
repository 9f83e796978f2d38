"""Builds the quickstart's base models: they follow the format, and forget.

    python experiments/01_quickstart/make_base.py --task=facts --out=DIR

A tiny Qwen3 is trained from scratch on demonstrations whose notes are careful
in a share of the turns only. The result is a Hugging Face directory.
"""

import functools
import time
from collections.abc import Callable

import jax
import numpy as np
import optax
from absl import app
from absl import flags

from memjax import hf
from memjax import prompts
from memjax import qwen3
from memjax import supervised
from memjax import tokenizer as tokenizer_lib
from memjax.envs import facts
from memjax.envs import prose
from memjax.envs import relations

_TASK = flags.DEFINE_enum(
  "task", "facts", ["facts", "hard", "text"], "what to build"
)
_STYLE = flags.DEFINE_enum(
  "style", "words", ["words", "words_chunk_first"], "key of prompts.STYLES"
)
_OUT = flags.DEFINE_string("out", None, "directory to write", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "of weights, texts and batches")
_STEPS = flags.DEFINE_integer("steps", 3000, "optimiser steps")
_TEXTS = flags.DEFINE_integer("texts", 20000, "demonstrated texts")
_BATCH = flags.DEFINE_integer("batch", 128, "pairs of each kind per step")
_ATTENTIVE = flags.DEFINE_float(
  "attentive", 0.45, "share of turns with careful notes"
)

_MEMORY_FACTS = 3


def make_model(vocab_size: int, num_layers: int) -> qwen3.Config:
  """The shape of a base model."""
  return qwen3.Config(
    vocab_size=vocab_size,
    width=64,
    num_layers=num_layers,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=192,
    rope_theta=100.0,  # rows have about 40 tokens; 100 in prose
    scan_layers=False,
  )


def _fill(tokenizer, text: str, slots: dict[str, list[int]]) -> list[int]:
  """Ids of a prompt, as `prompts.fill` makes it on the device."""
  ids = []
  for piece in prompts.compile_template(text, tokenizer).pieces:
    ids += slots[piece] if isinstance(piece, str) else piece
  return ids


def _turns_of_words(demonstrate, env, tokenizer, example, rng):
  """(memory, chunk ids or None, response, asked fact in sight) of each turn."""
  for turn in demonstrate(
    example, rng, env.chunk_tokens, _MEMORY_FACTS, _ATTENTIVE.value
  ):
    chunk = turn["chunk"]
    ids = None if chunk is None else tokenizer.encode(chunk)
    yield turn["memory"], ids, turn["response"], turn["seen"]


def _turns_of_prose(env, tokenizer, example, rng):
  """The same for prose, whose chunks end where tokens end."""
  name, memory = example.question.split()[2], ""
  ids = tokenizer.encode(example.context)
  for start in range(0, len(ids), env.chunk_tokens):
    chunk = ids[start : start + env.chunk_tokens]
    text = tokenizer.decode(chunk)
    note = prose.demonstrate(
      example.question, memory, text, rng, _ATTENTIVE.value
    )
    yield memory, chunk, note, name in note
    memory = note
  answer = prose.demonstrate_answer(example.question, memory)
  yield memory, None, answer, answer != "unknown"


def demonstrations(
  env: facts.Facts,
  turns_of: Callable,
  tokenizer,
  texts: int,
  seed: int,
) -> list[supervised.Pairs]:
  """Note-taking turns and answers of `texts` trajectories."""
  rng = np.random.default_rng([seed, 11])
  style = prompts.STYLES[_STYLE.value]
  notes, answers = ([], []), ([], [])
  for i in range(texts):
    example = env.example("demo", i)
    for memory, chunk, written, seen in turns_of(env, tokenizer, example, rng):
      slots = {
        "question": tokenizer.encode(example.question),
        "memory": tokenizer.encode(memory or style["empty_memory"]),
        "chunk": chunk,
      }
      kind = "answer" if chunk is None else "update"
      # Turns in which the asked fact is in sight are the rare ones.
      if kind == "update" and not seen and rng.random() < 0.5:
        continue
      prompt, response = notes if kind == "update" else answers
      prompt.append(_fill(tokenizer, style[kind], slots))
      response.append(tokenizer.encode(written))
  end = tokenizer.stop_ids[0]
  return [
    supervised.make_pairs(*notes, end, share=2.0),
    supervised.make_pairs(*answers, end, share=0.5),
  ]


def _task(name: str, seed: int):
  """(environment, turns, tokenizer, model) of a task."""
  if name == "text":
    tokenizer = prose.make_tokenizer(400)
    return (
      prose.Prose(seed=seed),
      _turns_of_prose,
      tokenizer,
      make_model(vocab_size=416, num_layers=3),
    )
  module = {"facts": facts, "hard": relations}[name]
  return (
    {"facts": facts.Facts, "hard": relations.Relations}[name](seed=seed),
    functools.partial(_turns_of_words, module.demonstrate),
    tokenizer_lib.from_words(module.vocabulary()),
    make_model({"facts": 256, "hard": 512}[name], num_layers=2),
  )


def main(argv):
  """Trains and writes the base."""
  del argv
  start = time.time()
  # No texts that a run with a small seed sees.
  env, turns_of, tokenizer, model = _task(_TASK.value, 1000 + _SEED.value)
  sets = demonstrations(env, turns_of, tokenizer, _TEXTS.value, _SEED.value)
  print(f"demonstrations: {time.time() - start:.0f} s", flush=True)
  params = qwen3.init(jax.random.key(_SEED.value), model)
  schedule = optax.warmup_cosine_decay_schedule(
    0.0, 3e-3, _STEPS.value // 20, _STEPS.value
  )
  params = supervised.fit(
    params,
    model,
    sets,
    tx=optax.chain(
      optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98)
    ),
    steps=_STEPS.value,
    batch_size=_BATCH.value,
    seed=_SEED.value,
    on_step=lambda step, losses: print(
      step,
      *(f"{x:.3f}" for x in losses),
      f"{time.time() - start:.0f} s",
      flush=True,
    ),
  )
  hf.save(_OUT.value, model, params)
  tokenizer.save(_OUT.value)


if __name__ == "__main__":
  app.run(main)
