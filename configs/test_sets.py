"""Memory-R1's agent on published test sets; nothing is trained here.

    python -m memjax.main --config=configs/test_sets.py:longmemeval \
      --config.model.path=Qwen3-1.7B --workdir=W --mode=eval --checkpoint=base \
      --config.data.path=longmemeval_oracle.json

and the same with `msc` and msc_self_instruct.jsonl. A policy that was trained
with `configs/memory_r1_locomo.py` is named by its --workdir and
--checkpoint=last, or by its export as model.path. The result is
W/eval_base.json, with the SHA-256 of the file that was read.

The published score of LongMemEval is a judge's:

      --config.judge.metric=True --config.judge.url=... --config.judge.model=...

For one accelerator of 80 GB. NOT RUN: no GPU has been at hand. Sizes are those
of `configs/memory_r1_locomo.py`; a session that is longer than chunk_tokens is
read in several chunks.
"""

import ml_collections

from memjax import config as config_lib


def get_config(name: str = "longmemeval") -> ml_collections.ConfigDict:
  if name not in ("longmemeval", "msc"):
    raise ValueError(f"no test set {name!r}: choose :longmemeval or :msc")
  config = config_lib.default()
  with config.unlocked():
    config.name = f"test_sets_{name}"
    config.data = ml_collections.ConfigDict(
      {"name": name, "path": "", "metric_name": "f1"}
    )
  config.agent.update(
    name="memory_r1",
    chunk_tokens=1536,
    question_tokens=256,  # LongMemEval's have the date, and are sentences
    entries=512,
    entry_tokens=48,
    stamp_tokens=16,  # "[2023/05/20 (Sat)] " has 15
    facts=16,
    ops=16,
    candidates=20,
    retrieved=60,
    extract_tokens=512,
    update_tokens=512,
    answer_tokens=128,
  )
  config.eval.update(batch_size=8, samples=0, traces=1)
  return config
