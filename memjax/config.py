"""What a run can be told, with the defaults, and the checks of plain numbers.

A file under configs/ takes `default()` and changes what differs. Keys are
locked: an unknown one is refused when the command line is read.
"""

import ml_collections

CONTROLS = (
  "empty_memory",
  "oracle",
  "last_window",
  "bm25_chunks",
  "full_context",
)


def default() -> ml_collections.ConfigDict:
  """All keys; the numbers are those of MemAgent (2507.02259) where it has any.

  Lengths are in tokens.
  """
  config = ml_collections.ConfigDict(
    {
      "name": "run",  # shown in tables and reports
      "seed": 0,  # of weights' order, rollouts, data order and shuffling
      # Runs to be compared: (name, ((key, value), ...)) and their seeds; in
      # training each arm is a run of its own (see compare.py).
      "arms": (),
      "seeds": (),
      # What others printed, shown beside the run's own table: "source",
      # "measure", and, of each held-out set, "base" and "trained".
      "published": {},
      # Permutes rewards within each group: a control that teaches nothing.
      "shuffle_rewards": False,
      "model": {
        "path": "",  # Hugging Face directory: config.json, *.safetensors
        "tokenizer": "",  # directory of the tokenizer; "": the model's
        # Parameters of operations that are not trained; "": those of path.
        "frozen": "",
        "dtype": "bfloat16",  # of matrix products; masters are float32
        # Of updates; False: unrolled, which compiles longer.
        "scan_layers": True,
        # Platform that unrolled layers are arranged for; auto: that of jax.
        "device": "auto",
        # What the backward pass computes again: "full", whole layers; "dots",
        # all but products with weights; "none".
        "remat": "full",
        "attention": "auto",  # or key of attention.KINDS; auto: by device
      },
      "lora": {  # trains adapters of the layers' matrices; the rest is frozen
        "rank": 0,  # 0: all parameters are trained
        "alpha": 32.0,  # adapters count alpha / rank times
        "targets": ("q", "k", "v", "o", "gate", "up", "down"),
      },
      "data": {
        "name": "long_context",  # key of build.ENVS; the rest are its fields
        "path": "",  # .parquet, .json or .jsonl with what is trained on
        "eval_path": "",  # the same for evaluation; "": hold some out
        "holdout": 128,  # questions held out of path without an eval_path
        "reward_name": "reward_boxed",
        "metric_name": "sub_em",
      },
      "agent": {
        "name": "memory",  # key of build.AGENTS
        # Or "words": key of prompts.STYLES and BANK_STYLES. "text_chunk_first"
        # and "words_chunk_first" let a group share what it reads in every turn.
        "style": "text",
        # What is trained, of what the agent has: calls of the policy, and
        # "rerank", the map (or the encoder) of retriever="rerank".
        "trained": ("extract", "update", "select", "answer", "rerank"),
        "thinking": False,  # chat templates that can open a reasoning block
        "chunk_tokens": 5000,
        "max_chunks": 8,  # in training; longer texts lose their middle
        "question_tokens": 1024,
        "memory_tokens": 1024,
        "update_tokens": 1024,  # written per memory turn, reasoning included
        "answer_tokens": 1024,
        # From here on: agents with a bank.
        "questions": 1,  # asked about each context in training
        # "bm25", "embedding", "recency"; "rerank": RMM's trained map of
        # embeddings, "select": the policy names entries; both on a first one.
        "retriever": "bm25",
        "first_search": "embedding",  # of rerank and select
        "embedder": "",  # Qwen3 directory for embeddings
        # MiniLM-class directory: what --mode=ask searches a stored bank with.
        "encoder": "",
        "names_entries": True,  # the answer begins with the entries it uses
        "entries": 256,  # slots of the bank
        "entry_tokens": 64,
        "stamp_tokens": 16,  # date before each entry; 0: none
        "full": "refuse",  # what an addition to a full bank does, or "evict"
        "facts": 8,  # of a chunk, at most
        "ops": 8,  # of a chunk, at most
        "candidates": 10,  # entries that an update is shown
        # Entries that an answer is shown; 0: 60 as in Memory-R1, and 5 as in
        # RMM where rerank or select choose them from what is fetched.
        "retrieved": 0,
        "fetched": 20,  # entries that rerank and select choose from
        "extract_tokens": 512,  # written per chunk
        "select_tokens": 128,  # written by retriever="select"
        # memory_r1 alone.
        "extractor": "policy",  # or "turns": the chunk's own lines
        "updater": "policy",  # or "append": every fact is added
        # memory_rmm alone.
        "turns": 40,  # of a session, numbered; what follows is left out
        "turn_tokens": 128,  # of a turn; what follows is cut
        "topics": 8,  # of a session and speaker, at most
        "kept_tokens": 256,  # of the turns that an entry comes from
      },
      "reranker": {  # of retriever="rerank" (RMM, 2503.08026)
        "path": "",  # exported map to begin with; "": zeros
        "tunes": "map",  # or "encoder": the embedder itself, an ablation
        "reading": "plackett_luce",  # or "softmax": key of rerank.READINGS
        "tau": 0.5,  # temperature of the draw
        "baseline": 0.5,  # b, a constant as the paper has it
        "mean_baseline": False,  # the iteration's mean reward instead
        "learning_rate": 1e-3,
        "micro_batch": 64,  # questions per pass; does not change the result
      },
      # What each operation is rewarded for: right answers, lines that keep to
      # the grammar, changes that were right (where the data know them), and, of
      # a choice among entries, the share of places that right answers cited.
      "reward": {
        "extract_outcome": 1.0,
        "extract_format": 0.0,
        "extract_truth": 0.0,
        "update_outcome": 1.0,
        "update_format": 0.0,
        "update_truth": 0.0,
        "select_outcome": 1.0,
        "select_format": 0.5,
        "select_citation": 1.0,
        "answer_outcome": 1.0,
        "answer_format": 0.0,
        "answer_truth": 0.0,
      },
      "judge": {  # a model that says whether an answer is right (judge.py)
        "reward": False,  # train on its verdicts, not on data.reward_name
        "metric": False,  # evaluate by them, with data.metric_name beside it
        # One of the two: a model behind an OpenAI-compatible endpoint, or a
        # Hugging Face directory that memjax runs itself.
        "url": "",  # http://host:port/v1
        "path": "",
        "model": "",  # as the endpoint names it
        # Environment variable that holds the key; "": the endpoint needs none.
        "key_env": "OPENAI_API_KEY",
        "prompt": "",  # a text file with {question}, {answers}, {given}
        "cache": "runs/judge.sqlite",  # its verdicts, for all runs
        # What is asked before it is used, by each prompt: generated answers of
        # known truth.
        "examples": 400,  # half of them right, half wrong but on the topic
        "seed": 0,  # of these
        # What it may err on them. A wrong answer that is accepted is what a
        # policy learns to write; a right one that is not costs precision.
        "max_false_accept": 0.05,
        "max_false_reject": 0.10,
        "allow_poor": False,  # use it, although it errs more often
        # Of an endpoint.
        "temperature": 0.0,  # less than 0: not sent
        "max_tokens": 512,  # of a reply, reasoning included
        "limit_name": "max_tokens",  # or "max_completion_tokens"
        "asks": 3,  # until a reply is a verdict
        "concurrency": 8,  # requests at a time
        "timeout": 60.0,  # seconds
        "retries": 6,  # of a request that failed
        "price_in": 0.0,  # of a million tokens of prompts, for the summary
        "price_out": 0.0,  # of replies
        # Of a directory.
        "batch_size": 4,  # prompts that are read at once
      },
      "rollout": {
        "questions": 16,  # groups per iteration
        "wave_questions": 1,  # of these sampled at once; bounds the KV cache
        "group_size": 16,
        # What a group reads alike is read once: the beginnings of its prompts,
        # or the first ones, when all memories are empty.
        "share_prefix": False,
        # False: unrolled, and a token reads keys, values and matrices in place;
        # True: each layer's are copied first, and it compiles in a third.
        "scan_layers": False,
        "temperature": 1.0,
        "dynamic_sampling": False,  # DAPO: only groups with two rewards count
        "max_waves": 48,  # at most so many per iteration to find them
        "overlong_buffer": 0,  # DAPO's penalty begins so early; 0 is none
        "traces": 2,  # groups of the last iteration shown in the report
      },
      "objective": {
        "name": "multi_conv_dapo",  # key of losses.OBJECTIVES
        "std_normalize": False,
        "clip_low": 0.2,
        "clip_high": 0.2,
        "dual_clip": 3.0,  # 0 turns it off
        "kl_coef": 1e-3,  # k3 to the model of model.path
        "entropy_coef": 0.0,
        "old_logp": "trainer",  # or "sampler"
      },
      "train": {
        "steps": 200,  # iterations: rollouts, then `minibatches` updates
        "minibatches": 1,
        "micro_batch": 8,  # rows per forward and backward pass
        # Rows are cut to the least of so many widths that holds them.
        "widths": 1,
        "learning_rate": 1e-6,
        "schedule": "constant",  # linear or cosine: down to 0
        "warmup_steps": 20,
        "b1": 0.9,  # of adamw, and of what muon leaves to it
        "b2": 0.999,
        "weight_decay": 0.0,
        "grad_clip": 1.0,  # global norm
        # Beside a float32 parameter adamw holds 8 bytes, with moments in
        # bfloat16 4, in int8 2.03; adafactor almost none; muon 4 of matrices,
        # 8 of embeddings, head and norms.
        "optimizer": "adamw",  # or "adafactor", "muon": optimizer.OPTIMIZERS
        "moments": "float32",  # of adamw, or "bfloat16", "int8" between updates
        "moments_on_host": False,  # in host memory between updates
      },
      "eval": {
        "every": 10,  # iterations; 0: only before and after training
        "examples": 128,  # greedy, during training
        "batch_size": 32,
        "samples": 1,  # answers per question at temperature; 0: greedy alone
        "traces": 3,  # of the first held-out set, shown in the report
        # Other memories than the agent's own, see memjax/controls.py.
        "controls": CONTROLS,
        "full_tokens": 4096,  # longer texts have no full_context
      },
      "checkpoint": {"every": 10},  # iterations
      # Devices along each axis of the mesh (sharding.py); 1, 1, 1: one device.
      "mesh": {
        "data": 1,  # cuts the batch
        "fsdp": 1,  # cuts the batch, parameters and optimiser's state
        "tensor": 1,  # cuts heads, the MLP's width and the vocabulary
      },
      "sft": {  # --mode=sft, a supervised warm start
        "path": "",  # JSONL of {"prompt": ..., "response": ...}
        "steps": 100,
        "batch_size": 8,
        "learning_rate": 1e-5,
      },
    }
  )
  return config.lock()


# Lower bounds of numbers; (key, least, why).
_AT_LEAST = (
  ("agent.chunk_tokens", 1),
  ("agent.max_chunks", 1),
  ("agent.question_tokens", 1),
  ("agent.memory_tokens", 1),
  ("agent.update_tokens", 1),
  ("agent.answer_tokens", 1),
  ("agent.questions", 1),
  ("agent.entries", 1),
  ("agent.entry_tokens", 1),
  ("agent.stamp_tokens", 0),
  ("agent.facts", 1),
  ("agent.ops", 1),
  ("agent.candidates", 1),
  ("agent.retrieved", 0),
  ("agent.fetched", 1),
  ("agent.select_tokens", 1),
  ("agent.turns", 1),
  ("agent.turn_tokens", 1),
  ("agent.topics", 1),
  ("agent.kept_tokens", 0),
  ("reranker.micro_batch", 1),
  ("agent.extract_tokens", 1),
  ("judge.max_tokens", 1),
  ("judge.asks", 1),
  ("judge.concurrency", 1),
  ("judge.retries", 0),
  ("judge.price_in", 0),
  ("judge.price_out", 0),
  ("judge.batch_size", 1),
  ("rollout.questions", 1),
  ("rollout.wave_questions", 1),
  ("rollout.group_size", 2),
  ("rollout.max_waves", 1),
  ("rollout.overlong_buffer", 0),
  ("rollout.traces", 0),
  ("train.steps", 1),
  ("train.minibatches", 1),
  ("train.micro_batch", 1),
  ("train.widths", 1),
  ("lora.rank", 0),
  ("train.warmup_steps", 0),
  ("eval.every", 0),
  ("eval.examples", 1),
  ("eval.batch_size", 1),
  ("eval.samples", 0),
  ("eval.traces", 0),
  ("eval.full_tokens", 0),
  ("checkpoint.every", 1),
  ("mesh.data", 1),
  ("mesh.fsdp", 1),
  ("mesh.tensor", 1),
  ("sft.steps", 1),
  ("sft.batch_size", 1),
)
_POSITIVE = (
  "lora.alpha",
  "judge.timeout",
  "rollout.temperature",
  "train.learning_rate",
  "train.grad_clip",
  "reranker.tau",
  "reranker.learning_rate",
  "sft.learning_rate",
)


def _get(config: ml_collections.ConfigDict, key: str):
  for part in key.split("."):
    config = config[part]
  return config


def check(config: ml_collections.ConfigDict) -> None:
  """Refuses numbers that cannot work, before anything is loaded.

  Raises:
    ValueError: names the key, the value and what was expected.
  """
  _check_keys(config, default(), "config")
  _check_published(config.published)
  for key, least in _AT_LEAST:
    if _get(config, key) < least:
      raise ValueError(
        f"config.{key}={_get(config, key)}: expected at least {least}"
      )
  for key in _POSITIVE:
    if not _get(config, key) > 0:
      raise ValueError(
        f"config.{key}={_get(config, key)}: expected more than 0"
      )
  rollout, train = config.rollout, config.train
  if rollout.questions % rollout.wave_questions:
    raise ValueError(
      f"config.rollout.questions={rollout.questions} is not a multiple of "
      f"config.rollout.wave_questions={rollout.wave_questions}"
    )
  rows = rollout.questions * rollout.group_size
  if train.minibatches > rows:
    raise ValueError(
      f"config.train.minibatches={train.minibatches} is more than the {rows} "
      "trajectories of an iteration"
    )
  choices = {
    "config.objective.old_logp": (
      config.objective.old_logp,
      ("trainer", "sampler"),
    ),
    "config.model.dtype": (config.model.dtype, ("float32", "bfloat16")),
    "config.model.remat": (config.model.remat, ("full", "dots", "none")),
    "config.model.device": (
      config.model.device,
      ("auto", "cpu", "gpu", "tpu"),
    ),
  }
  for key, (value, valid) in choices.items():
    if value not in valid:
      raise ValueError(f"{key}={value!r}: choose one of {', '.join(valid)}")
  for name in config.eval.controls:
    if name not in CONTROLS:
      raise ValueError(
        f"config.eval.controls: {name!r} is none of {', '.join(CONTROLS)}"
      )


def _check_published(published) -> None:
  """Refuses numbers that do not say where they are from."""
  known = ("source", "measure", "base", "trained")
  for key in published:
    if key not in known:
      raise ValueError(
        f"config.published.{key} is not a key: choose one of {', '.join(known)}"
      )
  for key in ("source", "measure"):
    if len(published) and not published.get(key):
      raise ValueError(
        f"config.published.{key} is missing: say where the numbers are from "
        "and what they measure"
      )


def _check_keys(config, known, path: str) -> None:
  """Compares keys, for configs that were not made from `default()`."""
  for key in known:
    if key not in config:
      raise ValueError(
        f"{path}.{key} is missing: start from memjax.config.default()"
      )
  for key in config:
    # An environment has its own fields; what was published is checked apart.
    if key not in known and path not in ("config.data", "config.published"):
      raise ValueError(
        f"{path}.{key} is not a key: choose one of {', '.join(sorted(known))}"
      )
    if (
      key in known
      and hasattr(known[key], "keys")
      and f"{path}.{key}" != "config.data"
    ):
      _check_keys(config[key], known[key], f"{path}.{key}")
