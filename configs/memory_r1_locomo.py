"""Memory-R1 (2508.19828) on LoCoMo: extract, update, answer, trained by GRPO.

    python -m memjax.main --config=configs/memory_r1_locomo.py \
      --config.model.path=Qwen3-1.7B --workdir=W \
      --config.data.path=locomo10.json

Split by conversation as in the paper: conv-26 trains (152 questions, of which
125 have their evidence within 50 turns), conv-30 validates (81), the other
eight test (1,307); adversarial questions are dropped; results are keyed by
category number. The two stages of the paper, the second from the first's
export:

    --config.agent.trained='("extract","update")' --workdir=W1
    --config.agent.trained='("answer",)' --config.model.path=W1/export \
      --config.model.frozen=W1/export --workdir=W2

For one accelerator of 80 GB, by `memjax.plan`. NOT RUN: no GPU has been at
hand. The pipeline is tested with random weights of the real vocabulary.
Lengths fit the longest session (1,528 tokens with the Qwen3 tokenizer), the
longest question (32) and the longest answer (68).
"""

import ml_collections

from memjax import config as config_lib


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.default()
  with config.unlocked():
    config.name = "memory_r1_locomo"
    config.data = ml_collections.ConfigDict(
      {
        "name": "locomo",
        "path": "",
        "window_turns": 50,  # the paper's prebuilt banks; 0: all sessions
        "reward_name": "reward_exact",  # the paper's EM
        "metric_name": "locomo_f1",
      }
    )
  config.agent.update(
    name="memory_r1",
    chunk_tokens=1536,  # the longest session
    max_chunks=4,  # a window of 50 turns spans at most 4 sessions
    question_tokens=64,
    entries=512,
    entry_tokens=48,
    stamp_tokens=12,
    facts=16,
    ops=16,
    candidates=20,
    retrieved=60,  # 30 for each speaker
    extract_tokens=512,
    update_tokens=512,
    answer_tokens=128,
  )
  for op in ("extract", "update", "answer"):
    # A little for lines that keep to the grammar: the base knows no such rule.
    config.reward[f"{op}_format"] = 0.1
  config.rollout.update(questions=8, wave_questions=1, group_size=16)
  config.objective.update(name="grpo", std_normalize=True)
  config.train.update(steps=100, micro_batch=2, warmup_steps=5)
  config.eval.update(every=10, examples=81, batch_size=8, traces=1)
  return config
