"""The quickstart in prose: names of several tokens, sentences that distract.

    python -m memjax.main --config=configs/quickstart_text.py --workdir=W

A byte-pair tokenizer of 407 ids cuts names and cities into pieces, chunks of
40 tokens end inside sentences, half of the sentences say nothing about anybody,
and a memory of 24 tokens holds two notes.

Hardware: 2 CPU cores, 380 s. Expected: nothing yet. .164 -> .156 (n = 256, one
seed): the base notes names badly, see experiments/01_quickstart/README.md.
"""

import ml_collections

from memjax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.default()
  with config.unlocked():
    config.name = "quickstart_text"
    config.model.path = "experiments/01_quickstart/base_text"
    config.model.dtype = "float32"
    config.model.scan_layers = False  # faster on CPU
    config.model.remat = "none"
    config.data = ml_collections.ConfigDict(
      {
        "name": "prose",
        "chunks": 5,
        "chunk_tokens": 40,
        "eval_examples": 256,
        "scales": (1, 2),
        "reward_name": "reward_exact",
        "metric_name": "em",
      }
    )
  config.agent.update(
    style="words",
    chunk_tokens=40,
    max_chunks=6,  # 5 and a bit
    question_tokens=16,
    memory_tokens=24,
    update_tokens=25,
    answer_tokens=8,
  )
  config.rollout.update(
    questions=16,
    wave_questions=16,
    group_size=8,
    dynamic_sampling=True,
    max_waves=1,
  )
  config.objective.update(
    std_normalize=True,
    clip_high=0.28,
    dual_clip=0.0,
    kl_coef=0.0,
    old_logp="sampler",
  )
  config.train.update(
    steps=100,
    minibatches=2,
    micro_batch=64,
    learning_rate=1e-3,
    schedule="cosine",
    warmup_steps=0,
    b2=0.95,
  )
  config.eval.update(every=20, examples=128, batch_size=256)
  config.checkpoint.every = 20
  return config
