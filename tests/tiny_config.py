"""A run of seconds, for tests that start processes: model.path is theirs."""

import ml_collections

from memjax import config as config_lib


def get_config():
  config = config_lib.default()
  with config.unlocked():
    config.data = ml_collections.ConfigDict(
      dict(
        name="facts",
        chunks=2,
        chunk_tokens=6,
        eval_examples=8,
        scales=(1,),
        # Random weights seldom name a city: any word of its letters will do.
        reward_name="reward_f1",
        metric_name="em",
      )
    )
  config.model.update(dtype="float32", scan_layers=False, remat="none")
  config.agent.update(
    style="words",
    chunk_tokens=6,
    max_chunks=2,
    question_tokens=1,
    memory_tokens=3,
    update_tokens=4,
    answer_tokens=2,
  )
  config.rollout.update(questions=4, wave_questions=4, group_size=4)
  config.objective.update(kl_coef=0.01, entropy_coef=0.01)
  config.train.update(
    steps=5, micro_batch=16, learning_rate=1e-3, warmup_steps=0
  )
  config.eval.update(every=2, examples=8, batch_size=8)
  config.checkpoint.every = 2
  return config
