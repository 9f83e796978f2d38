"""MemAgent on Qwen3-1.7B: GRPO on a memory of 1,024 tokens, chunks of 5,000.

    python -m memjax.main --config=configs/memagent_qwen3_1p7b.py \
      --config.model.path=Qwen3-1.7B --config.data.path=train.parquet \
      --workdir=runs/memagent_1p7b

The settings are those of MemAgent (arXiv 2507.02259) and of MemFactory (arXiv
2603.29493): group of 16, KL 1e-3 (k3), clip 0.2, advantages without standard
deviation, 20 warm-up steps to 1e-6. What differs: 16 questions instead of 128
in an iteration and 4 updates instead of 16, for one device.

Hardware: one 80 GB device. `memjax.plan` says for an H100: 42.8 GB in
rollouts, 44.2 in gradients, 32.5 in the optimiser step, of 79. Not run yet: no
time, no accuracy. MemFactory's published result with 1.7B is .473 -> .568 (50
documents, 512 answers to 128 questions, an LLM as judge), which this run's
sub_em is not to be compared with.
"""

import ml_collections

from memjax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.default()
  config.name = "memagent_qwen3_1p7b"
  config.model.path = "Qwen3-1.7B"  # a directory
  config.rollout.update(
    questions=16,
    wave_questions=1,  # 16 rows of 8,200 tokens in the KV cache
    group_size=16,
    share_prefix=True,  # the first prompts of a group are read once
  )
  config.train.update(
    steps=250,
    minibatches=4,
    micro_batch=4,
    learning_rate=1e-6,
    warmup_steps=20,
    weight_decay=0.01,
  )
  config.eval.update(every=10, examples=64, batch_size=16, samples=4)
  return config
