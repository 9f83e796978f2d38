"""MemFactory's experiment (arXiv 2603.29493), beside the numbers it printed.

    python -m memjax.main --config=configs/reproduce_memfactory.py:1p7b \
      --config.model.path=Qwen3-1.7B \
      --config.data.path=D/converted_hotpotqa_2000.json \
      --config.data.eval_paths.eval_50=D/eval_50.json \
      --config.data.eval_paths.eval_100=D/eval_100.json \
      --config.data.eval_paths.eval_fwe_16384=D/eval_fwe_16384.json \
      --workdir=runs/memfactory_1p7b

and `:4b` for Qwen3-4B-Instruct. Files are MemFactory's as they are, and
`config.published` is its Table 2: one run of each model, 128 questions with
four answers each. A cell has a standard error of 2.2 to 4.4 points; no interval
was printed, so no difference from it is called better or worse. With a judge,
as there (gpt-4.1-nano):

      --config.judge.reward=True --config.judge.metric=True \
      --config.judge.url=URL --config.judge.model=NAME

Taken over from the scripts: groups of 16, an update from 24 questions whose
groups have two rewards, advantages divided by the deviation, means of
sequences' means, clip 0.2, KL 1e-3, Adam at 5e-6 without warm-up or decay,
gradient norm 1, chunks of 2,500 and at most 6, responses of 2,500 tokens (1.7B,
which reasons) or 1,500 (4B), temperature 1, avg@4. Their 250 steps are 250
questions, of which 24 make an update: 10 updates, which is `train.steps` here.
`--config.train.steps=250` is what the word says elsewhere.

What differs, and why:
  - Old log-probs are made once for a batch. There they are made again from the
    current model before each update, so that the clip never acts; with one
    update to a batch it does not act here either, with more minibatches it
    does.
  - Masters and moments are float32 (of 4B the moments are int8, to fit an 80 GB
    device). There Adam works on bfloat16 weights, of
    which a rate of 5e-6 changes 5 to 8 %.
  - The ids that were sampled are trained on. There they are decoded, encoded
    again, and end with an end token even where they were cut.
  - Sampling is from the policy itself. There top-k and top-p of the
    checkpoint's generation_config stay on, but not in the loss.
  - Log-probabilities are float32, there bfloat16.
  - An unclosed reasoning block keeps the old memory; there the last 100
    characters are the memory.
  - All accepted answers count, there the first. What was left over at the end
    is not dropped, and errors of a judge stop the run; there they score 0.
  - Longer texts lose their middle in training; there the run ends.
  - Prompts have the blocks of MemAgent, not its words.
  - Without a judge: rewards are exact boxed answers, the metric is sub_em, and
    all three words of eval_fwe must be named (there one judged text). With a
    judge, any one of its accepted answers is enough.
  - Evaluation has the response limits of training, there 2,048. Greedy
    accuracy is the main number of a cell; avg@4, which was published, is the
    one in brackets after it.
  - The order of training is shuffled, there the file's.

Hardware: one 80 GB device. Not run: there are no weights and no data here.
What it holds, `memjax.plan` says. The data path is run in
tests/reproduce_memfactory_test.py, on generated records and on real questions
that `memjax.envs.hotpotqa` packs.
"""

import ml_collections

from memjax import config as config_lib

# Table 2 of 2603.29493v2.
_PUBLISHED = {
  "1p7b": {
    "base": {"eval_50": 0.4727, "eval_100": 0.4297, "eval_fwe_16384": 0.0332},
    "trained": {
      "eval_50": 0.5684,
      "eval_100": 0.4863,
      "eval_fwe_16384": 0.0195,
    },
  },
  "4b": {
    "base": {"eval_50": 0.6523, "eval_100": 0.5645, "eval_fwe_16384": 0.6270},
    "trained": {
      "eval_50": 0.7051,
      "eval_100": 0.6309,
      "eval_fwe_16384": 0.6426,
    },
  },
}
_TOKENS = {"1p7b": 2500, "4b": 1500}  # of a response, reasoning included


def get_config(model: str = "1p7b") -> ml_collections.ConfigDict:
  if model not in _PUBLISHED:
    raise ValueError(
      f"no model {model!r}: choose one of {', '.join(_PUBLISHED)}"
    )
  config = config_lib.default()
  with config.unlocked():
    config.name = f"reproduce_memfactory:{model}"
    config.data = ml_collections.ConfigDict(
      {
        "name": "long_context",
        "path": "",  # converted_hotpotqa_2000.json: 50 to 80 documents
        "eval_path": "",
        "eval_paths": {"eval_50": "", "eval_100": "", "eval_fwe_16384": ""},
        "holdout": 0,
        "reward_name": "reward_boxed",
        "metric_name": "sub_em",
        "eval_metrics": {"eval_fwe_16384": "ruler_all"},
      }
    )
    config.published = ml_collections.ConfigDict(
      {
        "source": "Table 2 of MemFactory, arXiv 2603.29493v2, one run",
        "measure": "avg@4 of 128 questions, gpt-4.1-nano as judge",
        **_PUBLISHED[model],
      }
    )
  config.agent.update(
    thinking=model == "1p7b",
    chunk_tokens=2500,
    max_chunks=6,
    # The memory has no limit of its own there.
    memory_tokens=_TOKENS[model],
    update_tokens=_TOKENS[model],
    answer_tokens=_TOKENS[model],
  )
  config.rollout.update(
    questions=24,
    wave_questions=1,
    group_size=16,
    dynamic_sampling=True,  # groups with one reward are passed over
    max_waves=240,
  )
  config.objective.update(
    name="grpo",
    std_normalize=True,
    clip_low=0.2,
    clip_high=0.2,
    dual_clip=0.0,
    kl_coef=1e-3,
  )
  config.train.update(
    steps=10,
    minibatches=1,
    micro_batch=4,
    learning_rate=5e-6,
    schedule="constant",
    warmup_steps=0,
    # 8 GB of moments instead of 32, or 4B does not fit 80.
    moments="int8" if model == "4b" else "float32",
  )
  config.eval.update(every=5, examples=128, batch_size=16, samples=4)
  config.checkpoint.every = 1  # an iteration is 384 rollouts
  return config
