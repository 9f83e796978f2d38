"""Builds the quickstart's base models: they follow the format, and forget.

    python experiments/01_quickstart/make_base.py --task=facts --out=DIR

A tiny Qwen3 is trained from scratch on demonstrations whose notes are careful
in a share of the turns only. The result is a Hugging Face directory.
"""

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
from memjax.envs import relations

_TASK = flags.DEFINE_enum("task", "facts", ["facts", "hard"], "what to build")
_OUT = flags.DEFINE_string("out", None, "directory to write", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "of weights, texts and batches")
_STEPS = flags.DEFINE_integer("steps", 3000, "optimiser steps")
_TEXTS = flags.DEFINE_integer("texts", 20000, "demonstrated texts")
_ATTENTIVE = flags.DEFINE_float(
  "attentive", 0.45, "share of turns with careful notes"
)

_MEMORY_FACTS = 3


def make_model(vocab_size: int) -> qwen3.Config:
  """The shape of a base model."""
  return qwen3.Config(
    vocab_size=vocab_size,
    width=64,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=192,
    rope_theta=100.0,  # rows have about 40 tokens
    scan_layers=False,
  )


def _fill(tokenizer, text: str, slots: dict[str, str]) -> list[int]:
  """Ids of a prompt made from strings, as `prompts.fill` makes it from ids."""
  template = prompts.compile_template(text, tokenizer)
  ids = []
  for piece in template.pieces:
    ids += tokenizer.encode(slots[piece]) if isinstance(piece, str) else piece
  return ids


def demonstrations(
  env: facts.Facts,
  demonstrate: Callable[..., list[dict]],
  tokenizer,
  texts: int,
  attentive: float,
  seed: int,
) -> list[supervised.Pairs]:
  """Note-taking turns and answers of `texts` trajectories."""
  rng = np.random.default_rng([seed, 11])
  style = prompts.STYLES["words"]
  notes, answers = ([], []), ([], [])
  for i in range(texts):
    example = env.example("demo", i)
    turns = demonstrate(
      example, rng, env.chunk_tokens, _MEMORY_FACTS, attentive
    )
    for turn in turns:
      slots = {
        "question": example.question,
        "memory": turn["memory"] or style["empty_memory"],
        "chunk": turn["chunk"],
      }
      kind = "answer" if turn["chunk"] is None else "update"
      # Turns in which the asked fact is in sight are the rare ones.
      if kind == "update" and not turn["seen"] and rng.random() < 0.5:
        continue
      prompt, response = notes if kind == "update" else answers
      prompt.append(_fill(tokenizer, style[kind], slots))
      response.append(tokenizer.encode(turn["response"]))
  end = tokenizer.stop_ids[0]
  return [
    supervised.make_pairs(*notes, end, share=2.0),
    supervised.make_pairs(*answers, end, share=0.5),
  ]


def main(argv):
  """Trains and writes the base."""
  del argv
  start = time.time()
  seed = 1000 + _SEED.value  # no texts that a run with a small seed sees
  if _TASK.value == "facts":
    env, words, vocab_size = facts.Facts(seed=seed), facts.vocabulary(), 256
    demonstrate = facts.demonstrate
  else:
    env, words, vocab_size = (
      relations.Relations(seed=seed),
      relations.vocabulary(),
      512,
    )
    demonstrate = relations.demonstrate
  model = make_model(vocab_size)
  tokenizer = tokenizer_lib.from_words(words)
  sets = demonstrations(
    env, demonstrate, tokenizer, _TEXTS.value, _ATTENTIVE.value, _SEED.value
  )
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
    batch_size=128,
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
