"""A checkpoint on the generated suite: one table with its controls.

    python -m memjax.main --mode=eval --checkpoint=base \
      --config=configs/eval_suite.py --config.model.path=Qwen3-1.7B \
      --workdir=runs/suite

model.path is a Hugging Face directory, also one that --mode=export wrote. With
--checkpoint=last it is the base of a run whose folder --workdir names, and that
run's policy is evaluated. The agent is MemAgent's, chunks of 5,000 tokens and a
memory of 1,024; give another one its keys, as in --config.agent.name=memory_r1.

RULER's tasks but for the one that needs a file, values that are overwritten,
ways of two and three hops, and bAbI's first three worlds, at the lengths where
chunking begins to matter. --config.data.lengths=(131072,1048576) takes longer
ones, up to 4M tokens; --config.data.tasks others (memjax/envs/suite/tasks.py).
With 128 questions a set, two runs are told apart if they differ by more than
about .12; the first line of the log says it exactly.

Hardware: one 80 GB device. Not run with a real model yet: no time, no accuracy.
"""

import ml_collections

from memjax import config as config_lib
from memjax.envs.suite import tasks


def get_config() -> ml_collections.ConfigDict:
  config = config_lib.default()
  with config.unlocked():
    config.name = "eval_suite"
    config.data = ml_collections.ConfigDict(
      {
        "name": "suite",
        "tasks": (
          *tasks.RULER,
          "mqar_overwrite",
          "hops_2",
          "hops_3",
          "babi_qa1",
          "babi_qa2",
          "babi_qa3",
        ),
        "lengths": (8192, 32768),
        "eval_examples": 128,
        "reward_name": "task",
        "metric_name": "task",
      }
    )
  config.agent.update(question_tokens=128)
  config.eval.update(batch_size=16, samples=0, full_tokens=32768, traces=2)
  return config
