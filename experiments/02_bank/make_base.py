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
from memjax import prompts
from memjax import qwen3
from memjax import supervised
from memjax import tokenizer as tokenizer_lib
from memjax.envs import dialogues

_OUT = flags.DEFINE_string("out", None, "directory to write", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "of weights, texts and batches")
_SKILL = flags.DEFINE_integer("skill_steps", 3500, "steps of the first part")
_HABIT = flags.DEFINE_integer("habit_steps", 600, "steps of the second part")
_WORLDS = flags.DEFINE_integer("worlds", 12000, "demonstrated conversations")
_BATCH = flags.DEFINE_integer("batch", 96, "pairs of each kind per step")
_CAREFUL = flags.DEFINE_float("careful", 0.4, "share of careful sessions")
_LAYERS = flags.DEFINE_integer("layers", 2, "of the model")

_ENTRIES, _FACTS, _OPS, _PLACES = 6, 3, 4, 4


def extract(facts, careful, rng):
  """The lines that a demonstrator notes of a session's facts."""
  if careful:
    kept = [x for x in facts if not dialogues.is_gossip(x)]
  else:
    kept = [x for x in facts if rng.random() < (0.3 if x[-1] == "!" else 0.7)]
  return kept[:_FACTS]


def update(facts, listed, careful, rng):
  """The operations on listed entries, as (verb, number, text)."""
  if not careful:
    return [("ADD", 0, x) for x in facts if not x.endswith("!")]
  ops = []
  for name in dict.fromkeys(map(dialogues.person, facts)):
    about = [
      (n, dialogues.fact_of(text))
      for n, text in enumerate(listed, 1)
      if dialogues.person(dialogues.fact_of(text)) == name
      and not dialogues.is_gossip(text)
    ]
    now = dialogues.settle([x for _, x in about], facts)
    now = [x for x in now if dialogues.person(x) == name]
    if not now:
      ops += [("DELETE", n, "") for n, _ in about]
    elif not about:
      ops.append(("ADD", 0, now[0]))
    elif now[0] not in [x for _, x in about]:
      ops.append(("UPDATE", about[0][0], now[0]))
      ops += [("DELETE", n, "") for n, _ in about[1:]]
  return ops[:_OPS]


def apply(bank, ids, ops, stamp):
  """The bank, a list of [id, text], after the operations."""
  bank = [list(entry) for entry in bank]
  for verb, number, text in ops:
    if verb == "ADD" and len(bank) < _ENTRIES:
      bank.append([max([i for i, _ in bank], default=-1) + 1, text])
      bank[-1][1] = f"{stamp} {text}"
    elif verb == "UPDATE":
      next(e for e in bank if e[0] == ids[number - 1])[1] = f"{stamp} {text}"
    elif verb == "DELETE":
      bank = [e for e in bank if e[0] != ids[number - 1]]
  return bank


def words_of(text):
  """What lexical retrieval compares."""
  for mark in "=@~!?-":
    text = text.replace(mark, " ")
  return set(text.split())


def answer(question, listed):
  """(numbers used, answer) from listed entries: the latest holds."""
  name = question.removesuffix("?").removeprefix("when-")
  place = lambda text: int(text.split()[0][1:])
  facts = sorted(
    (
      (place(text), n, dialogues.fact_of(text))
      for n, text in enumerate(listed, 1)
      if not dialogues.is_gossip(dialogues.fact_of(text))
    ),
  )
  about = [x for x in facts if dialogues.person(x[2]) == name]
  if not about or about[-1][2].endswith("!"):
    return [], dialogues.UNKNOWN
  when, number, fact = about[-1]
  if question.startswith("when-"):
    return [number], f"s{when}"
  if "=" in fact:
    return [number], fact.split("=")[1]
  host = [
    x
    for x in facts
    if dialogues.person(x[2]) == fact.split("@")[1] and "=" in x[2]
  ]
  if not host:
    return [number], dialogues.UNKNOWN
  return [number, host[-1][1]], host[-1][2].split("=")[1]


def shown(listed, numbered):
  """A list as prompts show it."""
  rows = [
    f"{n} {text} <nl>" if numbered else f"{text} <nl>"
    for n, text in enumerate(listed, 1)
  ]
  return " ".join(rows) or "<none>"


def demonstrations(envs, tokenizer, worlds, seed, careful_share, others):
  """Pairs for extraction, update and answer, from environments in turn.

  `others` is the share of updates whose list holds unrelated entries too.
  """
  style = prompts.BANK_STYLES["words"]
  found = {op: ([], []) for op in ("extract", "update", "answer")}

  def add(op, response, **slots):
    text = style[op]
    for slot, value in slots.items():
      text = text.replace("{" + slot + "}", value)
    found[op][0].append(text)
    found[op][1].append(response)

  rng = np.random.default_rng([seed, 11])
  for index in range(worlds):
    env = envs[index % len(envs)]
    examples = env.examples("demo", index, 4)
    world, bank = examples[0].meta["world"], []
    for number, told in enumerate(world.sessions):
      stamp = f"s{number + 1}"
      noted = extract(told, rng.random() < careful_share, rng)
      chunk = f"{stamp} {world.texts[number]}"
      lines = " ".join(f"{x} <nl>" for x in noted) or "NONE <nl>"
      add("extract", lines, chunk=chunk)
      if not noted:
        continue
      near = [
        e for e in bank if any(words_of(e[1]) & words_of(x) for x in noted)
      ]
      if rng.random() < others:
        near = near[:_PLACES] + [e for e in bank if e not in near]
        near = near[:_PLACES]
      near = [near[i] for i in rng.permutation(len(near))][:_PLACES]
      listed, ids = [e[1] for e in near], [e[0] for e in near]
      ops = update(noted, listed, rng.random() < careful_share, rng)
      lines = " ".join(
        " ".join(x for x in (verb, str(n) if n else "", text, "<nl>") if x)
        for verb, n, text in ops
      )
      add(
        "update",
        lines or "NOOP <nl>",
        facts=shown(noted, False),
        entries=shown(listed, True),
      )
      bank = apply(bank, ids, ops, stamp)
    for example in examples:
      entries = [e[1] for e in bank]
      if rng.random() < 0.5:
        entries = list(example.meta["oracle"])
      elif rng.random() < 0.4:
        entries = env.banks(example, _ENTRIES, 2)["raw turns"]
        entries = [e for e in entries if rng.random() < 0.8]
      asked = words_of(example.question)
      near = [e for e in entries if words_of(e) & asked]
      near = [near[i] for i in rng.permutation(len(near))]
      listed = (near + [e for e in entries if e not in near])[:_ENTRIES]
      used, text = answer(example.question, listed)
      add(
        "answer",
        " ".join(["USE", *map(str, used), "<nl>", text]),
        entries=shown(listed, True),
        question=example.question,
      )
  end = tokenizer.stop_ids[0]
  return [
    supervised.make_pairs(
      tokenizer.encode_batch(found[op][0]),
      tokenizer.encode_batch(found[op][1]),
      end,
      share=1.0,
    )
    for op in found
  ]


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
  tokenizer = tokenizer_lib.from_words(dialogues.vocabulary())
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
      sets,
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
