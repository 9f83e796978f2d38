"""Learning what to remember and what to fetch, on a laptop's two cores (RMM).

    python -m memjax.main --config=configs/memory_rmm_tiny.py --workdir=W
    python -m memjax.main --config=configs/memory_rmm_tiny.py:raw --workdir=W
    python -m memjax.main --config=configs/memory_rmm_tiny.py:all --workdir=W

A Qwen3 of 115 thousand parameters reads conversations of 8 sessions in which
five lines of six are gossip. Of the entries of its bank 20 are fetched by a
frozen topical encoder and 5 are shown. Arms:

    rmm            topic memories, and a reranker learnt from citations
    prospective    topic memories, plain retrieval
    retrospective  raw lines, and the reranker
    raw            raw lines, plain retrieval
    encoder        raw lines, and the encoder trained instead of a reranker
    all            these, two seeds each, compared with rmm question by question

The policy learns by GRPO in all of them; `--config.agent.trained='("rerank",)'`
freezes it. Hardware, figures, and how they came about:
experiments/03_rmm/README.md.
"""

import ml_collections

from memjax import config as config_lib

ARMS = ("rmm", "prospective", "retrospective", "raw", "encoder")


def get_config(arm: str = "rmm") -> ml_collections.ConfigDict:
  if arm == "all":
    config = get_config()
    config.update(name="memory_rmm_tiny", seeds=(11, 12))
    config.arms = tuple((name, _changes(config, name)) for name in ARMS)
    config.eval.every = 0
    return config
  if arm not in ARMS:
    raise ValueError(f"no arm {arm!r}: choose one of {', '.join(ARMS)}, all")
  config = config_lib.default()
  with config.unlocked():
    config.name = f"memory_rmm_tiny:{arm}"
    config.model.path = "experiments/03_rmm/base"
    config.model.dtype = "float32"
    config.model.scan_layers = False  # faster on CPU
    config.model.remat = "none"
    config.data = ml_collections.ConfigDict(
      {
        "name": "dialogues",
        "sessions": 8,
        "facts": 1,  # told in each session, beside gossip
        "gossip": 5,
        "questions": 4,  # about each conversation in training
        "eval_examples": 2048,  # interval of +-2 points at 95 %
        "scales": (1,),
        "reward_name": "reward_exact",
        "metric_name": "em",
      }
    )
  topics = arm in ("rmm", "prospective")
  config.agent.update(
    name="memory_rmm" if topics else "memory_r1",
    style="words",
    chunk_tokens=30,
    max_chunks=8,
    question_tokens=1,
    questions=4,
    stamp_tokens=1,
    candidates=4,
    retriever="embedding" if arm in ("prospective", "raw") else "rerank",
    embedder="experiments/03_rmm/embedder",
    fetched=20,
    retrieved=5,
    extract_tokens=22,
    update_tokens=6,
    answer_tokens=8,
  )
  # 48 entries of 6 tokens, of which 5 are shown: topics of 2 tokens (stamp and
  # text) with 4 of what was said, or stamped lines of up to 5.
  if topics:
    config.agent.update(
      entries=48,
      entry_tokens=1,
      kept_tokens=4,
      turns=6,
      turn_tokens=4,
      topics=4,
    )
  else:
    config.agent.update(
      extractor="turns",
      updater="append",
      entries=48,
      entry_tokens=5,
      facts=6,
    )
  config.reranker.update(
    tunes="encoder" if arm == "encoder" else "map",
    # Where the policy writes what is reranked, draws that often miss teach it
    # to write everything twice.
    tau=0.02 if arm == "rmm" else 0.1,
    mean_baseline=True,
    learning_rate=1e-3 if arm == "encoder" else 3e-3,
    micro_batch=768,
  )
  config.rollout.update(
    questions=24,
    wave_questions=24,
    group_size=8,
  )
  # Without it malformed lines, which cost nothing, become the rule.
  config.reward.update(extract_format=0.2, update_format=0.2)
  config.objective.update(
    std_normalize=True,
    clip_high=0.28,
    dual_clip=0.0,
    kl_coef=0.0,
    entropy_coef=0.002,
    old_logp="sampler",
  )
  config.train.update(
    steps=60,
    minibatches=2,
    micro_batch=160,
    learning_rate=4e-4,
    schedule="cosine",
    warmup_steps=0,
    b2=0.95,
  )
  config.eval.update(every=20, examples=512, batch_size=512, samples=0)
  config.checkpoint.every = 20
  return config


def _changes(
  config: ml_collections.ConfigDict, arm: str
) -> tuple[tuple[str, object], ...]:
  """The keys in which an arm differs."""
  other = get_config(arm)
  return tuple(
    (f"{section}.{key}", value)
    for section in ("agent", "reranker")
    for key, value in other[section].items()
    if config[section][key] != value
  )
