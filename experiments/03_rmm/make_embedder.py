"""Builds the text encoder that the reflective-memory experiments search with.

    python experiments/03_rmm/make_embedder.py --out=experiments/03_rmm/embedder

A tiny Qwen3 is trained from scratch by contrast, on lines that no conversation
holds together, in all forms that banks have: "s3 A: kim=bern the", "s3
kim=bern", "kim=bern". Three tasks make it an encoder of topics like any other:

    topic     a question about Kim and lines that name her are close, and so
              are two lines that name the same person, gossip and all
    instance  among the lines of a conversation, a line is closest to itself
              with other fillers; so its stamp counts too
    form      lines of one form (lives in, lives with, likes, no more) are close

Which lines a question needs is in none of them: that is left to a reranker. In
the end the encoder's recall on held-out conversations is printed, and BM25's.

Dimension key: B conversations, Q questions, R lines, H people, E entries, T
tokens, D embedding.
"""

import dataclasses
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app
from absl import flags

from memjax import hf
from memjax import qwen3
from memjax import scores
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import demos
from memjax.envs import dialogues
from memjax.envs import homes
from memjax.memory import bank as bank_lib
from memjax.memory import retrieve

_OUT = flags.DEFINE_string("out", None, "directory to write", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "of weights, lines and queries")
_STEPS = flags.DEFINE_integer("steps", 1500, "of training")

_CONVERSATIONS, _LINES, _SESSIONS = 4, 48, 8  # of a batch, of each
_STAMPED, _SPOKEN = 0.85, 0.6  # shares of lines
_TOPIC, _INSTANCE, _FORM = 0.2, 0.1, 0.2  # temperatures
_CAPACITY = 5  # stamp, speaker, fact, two fillers
_SHOWN = 5
_FORMS = [
  [f"{name}={city}" for name in homes.NAMES for city in homes.CITIES],
  [f"{a}@{b}" for a in homes.NAMES for b in homes.NAMES if a != b],
  [f"{name}~{word}" for name in homes.NAMES for word in homes.GOSSIP],
  [f"{name}!" for name in homes.NAMES],
]
_QUESTIONS = [f"{ask}{x}?" for ask in ("", "when-") for x in homes.NAMES]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
  """R lines, written twice.

  Attributes:
    first: rows [R].
    second: the same lines with other fillers.
    named_RH: float32, who is named.
    group_R: the conversation of each line.
    key_R: equal for lines that say the same in the same session.
    form_R: index of its form.
  """

  first: token_lib.Tokens
  second: token_lib.Tokens
  named_RH: np.ndarray
  group_R: np.ndarray
  key_R: np.ndarray
  form_R: np.ndarray


def named(text: str) -> list[float]:
  """Who is named: 1 or 0 for each of homes.NAMES."""
  found = demos.words_of(text)
  return [float(name in found) for name in homes.NAMES]


def draw(rng: np.random.Generator, tokenizer: tokenizer_lib.Tokenizer) -> Batch:
  """Random lines; the sessions of a conversation follow each other."""
  pick = lambda items: items[int(rng.integers(len(items)))]

  def write(head, fact):
    words = [fact]
    for _ in range(min(rng.poisson(0.5), 2)):
      place = int(rng.integers(len(words) + 1))
      words.insert(place, pick(homes.FILLERS))
    return " ".join([*head, *words])

  pairs, labels, numbers = [], [], {}
  for group in range(_CONVERSATIONS):
    start = rng.integers(1, homes.MAX_SESSIONS - _SESSIONS + 2)
    for _ in range(_LINES):
      form = int(rng.integers(len(_FORMS)))
      fact, head = pick(_FORMS[form]), []
      if rng.random() < _STAMPED:
        head.append(f"s{start + rng.integers(_SESSIONS)}")
      key = numbers.setdefault((*head, fact), len(numbers))
      if rng.random() < _SPOKEN:
        head.append(pick(homes.SPEAKERS))
      pairs.append([write(head, fact) for _ in range(2)])
      labels.append((named(fact), group, key, form))
  pack = lambda texts: token_lib.from_lists(
    tokenizer.encode_batch(texts), _CAPACITY
  )
  named_RH, *others = zip(*labels)
  return Batch(
    *map(pack, zip(*pairs)),
    np.array(named_RH, np.float32),
    *(np.array(x, np.int32) for x in others),
  )


def contrast(
  score_QR: jax.Array, positive_QR: jax.Array, able_QR: jax.Array
) -> jax.Array:
  """Mean over rows of the mean of -log softmax over a row's positives.

  Args:
    score_QR: cosines of questions, or of lines, over a temperature.
    positive_QR: bool, what should be close; a row without any counts nowhere.
    able_QR: bool, what the softmax runs over.
  """
  logp = jax.nn.log_softmax(jnp.where(able_QR, score_QR, -1e9))
  hit = positive_QR & able_QR
  count = hit.sum(-1)
  per_row = -jnp.where(hit, logp, 0.0).sum(-1) / jnp.maximum(count, 1)
  return per_row.sum() / jnp.maximum((count > 0).sum(), 1)


def losses(
  params: qwen3.Params,
  cfg: qwen3.Config,
  end_id: int,
  ask: token_lib.Tokens,
  batch: Batch,
) -> jax.Array:
  """Of topic, instance and form, float32 [3]."""
  rows = jax.tree.map(
    lambda *x: jnp.concatenate(x), ask, batch.first, batch.second
  )
  unit = retrieve.embed(params, cfg, rows, end_id)
  Q, R = ask.length.size, batch.key_R.size
  ask_QD, first_RD, second_RD = unit[:Q], unit[Q : Q + R], unit[Q + R :]
  equal = lambda x_R: x_R[:, None] == x_R[None]
  same = jnp.eye(R, dtype=bool)
  near = first_RD @ first_RD.T
  asked_QH = np.array([named(x) for x in _QUESTIONS], np.float32)
  about_QR = asked_QH @ batch.named_RH.T > 0
  shared_RR = batch.named_RH @ batch.named_RH.T > 0
  topic = contrast(
    ask_QD @ first_RD.T / _TOPIC, about_QR, jnp.ones_like(about_QR)
  ) + contrast(near / _TOPIC, shared_RR, ~same)
  others_RR = equal(batch.group_R) & ~equal(batch.key_R)
  instance = contrast(
    first_RD @ second_RD.T / _INSTANCE, same, same | others_RR
  )
  form = contrast(near / _FORM, equal(batch.form_R), ~same)
  return jnp.stack([topic, instance, form])


@functools.partial(jax.jit, static_argnames=("cfg", "end_id", "tx"))
def _step(params, opt_state, ask, batch, cfg, end_id, tx):
  def loss_fn(params):
    loss_3 = losses(params, cfg, end_id, ask, batch)
    return loss_3 @ jnp.array([1.0, 0.5, 0.5]), loss_3

  (_, loss_3), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
  updates, opt_state = tx.update(grads, opt_state, params)
  return optax.apply_updates(params, updates), opt_state, loss_3


def train(
  cfg: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  steps: int,
  seed: int,
) -> qwen3.Params:
  """The encoder's parameters.

  Raises:
    FloatingPointError: at the first loss read that is not finite.
  """
  rng, start = np.random.default_rng([seed, 13]), time.time()
  params = qwen3.init(jax.random.key(seed), cfg)
  schedule = optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 20, steps)
  tx = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98)
  )
  opt_state = tx.init(params)
  ask = token_lib.from_lists(tokenizer.encode_batch(_QUESTIONS), _CAPACITY)
  for step in range(1, steps + 1):
    params, opt_state, loss_3 = _step(
      params,
      opt_state,
      ask,
      draw(rng, tokenizer),
      cfg,
      tokenizer.stop_ids[0],
      tx,
    )
    if step % 300 == 0 or step == steps:
      if not np.isfinite(loss_3).all():
        raise FloatingPointError(f"losses {loss_3} at step {step}")
      names = ("topic", "instance", "form")
      told = [f"{name} {x:.3f}" for name, x in zip(names, loss_3)]
      print(step, *told, f"{time.time() - start:.0f} s", flush=True)
  return params


@functools.partial(jax.jit, static_argnames=("cfg", "end_id", "lexicon"))
def _found(params, query, bank, cfg, end_id, lexicon):
  """Slots [B, K] by cosine and by BM25."""
  (B, E), text = bank.valid.shape, bank.text
  flat = token_lib.Tokens(text.ids.reshape(B * E, -1), text.length.reshape(-1))
  embed = lambda rows: retrieve.embed(params, cfg, rows, end_id)
  bank = dataclasses.replace(bank, embedding=embed(flat).reshape(B, E, -1))
  return {
    "cosine": retrieve.top(retrieve.cosine(embed(query), bank), bank, _SHOWN),
    "bm25": retrieve.top(retrieve.bm25(lexicon, query, bank), bank, _SHOWN),
  }


def recall(
  params: qwen3.Params,
  cfg: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
  env: dialogues.Dialogues,
) -> dict[str, dict[str, float]]:
  """Recall among all raw lines, by cosine and by BM25, with its interval.

  Questions with nothing to find are left out.
  """
  (examples,) = env.eval_sets().values()
  lines = [demos.raw_lines(example.meta["world"]) for example in examples]
  text = token_lib.from_nested([tokenizer.encode_batch(x) for x in lines])
  B, E, T = text.ids.shape
  number = np.broadcast_to(np.arange(E, dtype=np.int32), (B, E))
  bank = dataclasses.replace(
    bank_lib.init(B, E, T), text=text, valid=text.length > 0, id=number
  )
  asked = tokenizer.encode_batch([example.question for example in examples])
  slots = _found(
    params,
    token_lib.from_lists(asked, _CAPACITY),
    bank,
    cfg,
    tokenizer.stop_ids[0],
    retrieve.make_lexicon(tokenizer),
  )
  found = {}
  for name, slot_BK in jax.device_get(slots).items():
    shares = [
      env.recall(example, [texts[slot] for slot in row if slot >= 0])
      for example, texts, row in zip(examples, lines, slot_BK)
    ]
    shares = np.array([x for x in shares if x is not None])
    found[name] = scores.interval(shares)
  return found


def main(argv):
  """Trains and writes the encoder, then says what it finds."""
  del argv
  out, seed = _OUT.value, _SEED.value
  hf.check_new(out)
  tokenizer = tokenizer_lib.from_words(demos.words())
  model = qwen3.Config(
    vocab_size=384,  # the policy's
    width=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=96,
    rope_theta=100.0,  # rows have at most 6 tokens
    scan_layers=False,
  )
  params = train(model, tokenizer, _STEPS.value, seed)
  hf.save(out, model, params)
  tokenizer.save(out)
  # No conversations that a run with a small seed sees.
  env = dialogues.Dialogues(seed=3000 + seed, gossip=5, scales=(1,))
  for name, found in recall(params, model, tokenizer, env).items():
    print(
      f"{name}: recall@{_SHOWN} {found['accuracy']:.3f} "
      f"[{found['low']:.3f}, {found['high']:.3f}], n = {found['n']}"
    )


if __name__ == "__main__":
  app.run(main)
