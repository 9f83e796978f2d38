"""Three paradigms, and their modules exchanged, on the same questions.

    python -m memjax.main --config=configs/compare_tiny.py --workdir=W

MemAgent's recurrent memory, Memory-R1's bank and RMM's topics start from one
base, are asked the same questions, are rewarded by the same answers and show
them eight tokens of memory; each bank agent is trained with each retriever. A
run that was stopped goes on. Eleven arms take 40 minutes on two busy cores;
figures: experiments/03_rmm/README.md.
"""

import ml_collections

from memjax import config as config_lib

_RETRIEVERS = ("bm25", "embedding", "recency", "rerank", "select")


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.default()
  with config.unlocked():
    config.name = "compare_tiny"
    config.model.path = "experiments/03_rmm/base"
    config.model.dtype = "float32"
    config.model.scan_layers = False  # faster on CPU
    config.model.remat = "none"
    config.data = ml_collections.ConfigDict(
      {
        "name": "dialogues",
        "sessions": 8,
        "facts": 1,  # told in each session, beside gossip
        "gossip": 3,
        "questions": 4,  # about each conversation in training
        "eval_examples": 2048,  # interval of +-2 points at 95 %
        "scales": (1,),
        "reward_name": "reward_exact",
        "metric_name": "em",
      }
    )
  # 96 questions an iteration: 96 readings where the memory depends on the
  # question, as with the first arm; or 24 contexts with four questions each.
  banks = (
    ("agent.questions", 4),
    ("rollout.questions", 24),
    ("rollout.wave_questions", 24),
  )
  config.arms = (("memory", ()),) + tuple(
    (
      f"{name}-{retriever}",
      (("agent.name", name), ("agent.retriever", retriever), *banks),
    )
    for name in ("memory_r1", "memory_rmm")
    for retriever in _RETRIEVERS
  )
  config.seeds = (11,)
  config.agent.update(
    style="words",
    chunk_tokens=20,
    max_chunks=8,
    question_tokens=1,
    stamp_tokens=1,
    memory_tokens=8,  # four facts with their stamps
    # 16 entries of two tokens, of which four are shown.
    entries=16,
    entry_tokens=1,
    retrieved=4,
    candidates=4,
    embedder="experiments/03_rmm/embedder",
    fetched=12,
    select_tokens=8,
    facts=4,
    ops=4,
    turns=4,
    turn_tokens=4,
    topics=4,
    kept_tokens=0,  # no turns beside a topic: the same room
    extract_tokens=22,
    update_tokens=17,
    answer_tokens=8,
  )
  config.reranker.update(
    tau=0.1, mean_baseline=True, learning_rate=3e-3, micro_batch=768
  )
  config.rollout.update(questions=96, wave_questions=96, group_size=8)
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
    steps=10,
    minibatches=2,
    micro_batch=160,
    learning_rate=4e-4,
    schedule="cosine",
    warmup_steps=0,
    b2=0.95,
  )
  config.eval.update(every=0, batch_size=512, samples=0)
  config.checkpoint.every = 20
  return config
