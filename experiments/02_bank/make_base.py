"""Builds the base of configs/memory_r1_tiny.py: it follows the grammar, badly.

    python experiments/02_bank/make_base.py --out=DIR

A tiny Qwen3 is trained from scratch on demonstrations of extraction, update
and answer, in two parts. In the first every session is careful, and lists hold
entries that have nothing to do with the facts: so it learns to tell which entry
a fact is about. In the second, short one a share of the sessions is careful
only: otherwise gossip is noted, facts are missed, and everything is added. What
GRPO has to bring back is the care.
"""

import time

import jax
import numpy as np
import optax
from absl import app
from absl import flags

from memjax import hf
from memjax import qwen3
from memjax import supervised
from memjax import tokenizer as tokenizer_lib
from memjax.envs import demos
from memjax.envs import dialogues
from memjax.envs import homes

_OUT = flags.DEFINE_string("out", None, "directory to write", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "of weights, texts and batches")
_SKILL = flags.DEFINE_integer("skill_steps", 3500, "steps of the first part")
_HABIT = flags.DEFINE_integer("habit_steps", 600, "steps of the second part")
_WORLDS = flags.DEFINE_integer("worlds", 12000, "demonstrated conversations")
_BATCH = flags.DEFINE_integer("batch", 96, "pairs of each kind per step")
_CAREFUL = flags.DEFINE_float("careful", 0.4, "share of careful sessions")
_LAYERS = flags.DEFINE_integer("layers", 2, "of the model")

_ENTRIES, _FACTS, _OPS, _PLACES = 6, 3, 4, 4


def demonstrations(envs, tokenizer, worlds, seed, careful_share, others):
  """Pairs for extraction, update and answer, from environments in turn.

  `others` is the share of updates whose list holds unrelated entries too.
  """
  pairs, rng = demos.Pairs(), np.random.default_rng([seed, 11])
  for index in range(worlds):
    env = envs[index % len(envs)]
    examples = env.examples("demo", index, 4)
    world, bank = examples[0].meta["world"], []
    for number, told in enumerate(world.sessions):
      stamp = f"s{number + 1}"
      noted = demos.noted(told, rng.random() < careful_share, rng, _FACTS)
      pairs.add(
        "extract",
        demos.style("extract"),
        demos.lines(noted),
        chunk=f"{stamp} {world.texts[number]}",
      )
      if not noted:
        continue
      words = set().union(*map(demos.words_of, noted))
      near = [e for e in bank if demos.words_of(e[1]) & words]
      if rng.random() < others:
        near = near[:_PLACES] + [e for e in bank if e not in near]
        near = near[:_PLACES]
      near = [near[i] for i in rng.permutation(len(near))][:_PLACES]
      listed, ids = [e[1] for e in near], [e[0] for e in near]
      ops = demos.update(noted, listed, rng.random() < careful_share, _OPS)
      pairs.add(
        "update",
        demos.style("update"),
        demos.operations(ops),
        facts=demos.shown(noted, False),
        entries=demos.shown(listed, True),
      )
      bank = demos.apply(bank, ids, ops, stamp, _ENTRIES)
    for example in examples:
      entries = [e[1] for e in bank]
      if rng.random() < 0.5:
        entries = list(example.meta["oracle"])
      elif rng.random() < 0.4:
        entries = env.banks(example, _ENTRIES, 2)["raw turns"]
        entries = [e for e in entries if rng.random() < 0.8]
      asked = demos.words_of(example.question)
      near = [e for e in entries if demos.words_of(e) & asked]
      near = [near[i] for i in rng.permutation(len(near))]
      listed = (near + [e for e in entries if e not in near])[:_ENTRIES]
      used, text = demos.answer(example.question, listed, names_gone=False)
      pairs.add(
        "answer",
        demos.style("answer"),
        " ".join(["USE", *map(str, used), "<nl>", text]),
        entries=demos.shown(listed, True),
        question=example.question,
      )
  return pairs.packed(tokenizer)


def main(argv):
  """Trains and writes the base."""
  del argv
  start = time.time()
  # No conversations that a run with a small seed sees.
  # One fact a session, as the tiny config has, and two, for a harder one.
  seed = 1000 + _SEED.value
  envs = [
    dialogues.Dialogues(seed=seed),
    dialogues.Dialogues(seed=seed + 1),
    dialogues.Dialogues(seed=seed + 2, sessions=6, facts=2),
  ]
  tokenizer = tokenizer_lib.from_words(homes.vocabulary())
  model = qwen3.Config(
    vocab_size=320,
    width=64,
    num_layers=_LAYERS.value,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=192,
    rope_theta=100.0,  # rows have about 50 tokens
    scan_layers=False,
  )
  params = qwen3.init(jax.random.key(_SEED.value), model)
  for seed, steps, careful, others, rate in (
    (_SEED.value, _SKILL.value, 1.0, 0.8, 3e-3),
    (_SEED.value + 1, _HABIT.value, _CAREFUL.value, 0.0, 1e-3),
  ):
    sets = demonstrations(envs, tokenizer, _WORLDS.value, seed, careful, others)
    print(f"demonstrations: {time.time() - start:.0f} s", flush=True)
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, steps // 20, steps)
    params = supervised.fit(
      params,
      model,
      list(sets.values()),
      tx=optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98)
      ),
      steps=steps,
      batch_size=_BATCH.value,
      seed=seed,
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
