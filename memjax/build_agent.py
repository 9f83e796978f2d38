"""From a config to an agent's spec."""

import dataclasses

import ml_collections

from memjax import agents
from memjax import hf
from memjax import memory_agent
from memjax import memory_r1
from memjax import prompts
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax.memory import answer as answer_lib
from memjax.memory import bank as bank_lib
from memjax.memory import extract as extract_lib
from memjax.memory import recurrent
from memjax.memory import retrieve
from memjax.memory import update as update_lib


def make(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> agents.Spec:
  """The spec of config.agent.

  Raises:
    ValueError: a key has a value that cannot be; says which there are.
  """
  name = config.agent.name
  if name not in AGENTS:
    raise ValueError(
      f"config.agent.name={name!r}: choose one of {', '.join(AGENTS)}"
    )
  return AGENTS[name](config, model, tokenizer)


def _trained(
  config: ml_collections.ConfigDict, ops: tuple[str, ...]
) -> tuple[str, ...]:
  """The agent's operations that are trained, in its order."""
  known = ("extract", "update", "answer")
  for op in config.agent.trained:
    if op not in known:
      raise ValueError(
        f"config.agent.trained: {op!r} is none of {', '.join(known)}"
      )
  trained = tuple(op for op in ops if op in config.agent.trained)
  if not trained:
    raise ValueError(
      f"config.agent.trained={tuple(config.agent.trained)} names none of this "
      f"agent's operations, {', '.join(ops)}"
    )
  return trained


def _memory(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> memory_agent.Spec:
  """MemAgent's agent."""
  agent = config.agent
  return memory_agent.Spec(
    model,
    recurrent.make_recurrent(
      tokenizer, agent.style, agent.memory_tokens, agent.thinking
    ),
    agent.chunk_tokens,
    agent.question_tokens,
    agent.update_tokens,
    agent.answer_tokens,
    _trained(config, ("update", "answer")),
  )


def _memory_r1(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> memory_r1.Spec:
  """Memory-R1's agent, with the modules that the config names."""
  agent = config.agent
  for key, valid in (
    ("extractor", memory_r1.EXTRACTORS),
    ("updater", memory_r1.UPDATERS),
    ("retriever", memory_r1.RETRIEVERS),
    ("full", bank_lib.FULL_RULES),
    ("style", tuple(prompts.BANK_STYLES)),
  ):
    if agent[key] not in valid:
      raise ValueError(
        f"config.agent.{key}={agent[key]!r}: choose one of {', '.join(valid)}"
      )
  if agent.extractor == "turns" and (
    agent.facts * agent.entry_tokens < agent.chunk_tokens
  ):
    raise ValueError(
      f"config.agent.extractor='turns' keeps the lines of a chunk, but "
      f"facts={agent.facts} entries of entry_tokens={agent.entry_tokens} "
      f"cannot hold chunk_tokens={agent.chunk_tokens}: raise "
      "config.agent.entry_tokens or config.agent.facts (and lower entries, to "
      "keep the budget)"
    )
  embedder = None
  if agent.retriever == "embedding":
    if not agent.embedder:
      raise ValueError(
        "config.agent.retriever='embedding' needs config.agent.embedder, a "
        "Qwen3 directory with the policy's tokenizer, such as Qwen3-Embedding"
      )
    embedder = dataclasses.replace(
      hf.load_config(agent.embedder), dtype=config.model.dtype, remat=False
    )
    if embedder.vocab_size < tokenizer.vocab_size:
      raise ValueError(
        f"config.agent.embedder={agent.embedder} has {embedder.vocab_size} "
        f"embeddings, the policy's tokenizer {tokenizer.vocab_size} ids: name "
        "an embedder with the same tokenizer"
      )
  ops = tuple(
    op
    for op, by in (("extract", agent.extractor), ("update", agent.updater))
    if by == "policy"
  )
  return memory_r1.Spec(
    model=model,
    extract=extract_lib.make(
      tokenizer, agent.style, agent.facts, agent.entry_tokens, agent.thinking
    ),
    update=update_lib.make(
      tokenizer,
      agent.style,
      agent.candidates,
      agent.ops,
      agent.entry_tokens,
      agent.thinking,
    ),
    respond=answer_lib.make(
      tokenizer,
      agent.style,
      agent.retrieved,
      agent.names_entries,
      agent.thinking,
    ),
    retriever=memory_r1.Retriever(
      agent.retriever,
      retrieve.make_lexicon(tokenizer),
      embedder,
      tokenizer.stop_ids[0],
      agent.candidates,
      agent.retrieved,
    ),
    extractor=agent.extractor,
    updater=agent.updater,
    entries=agent.entries,
    full=agent.full,
    chunk_tokens=agent.chunk_tokens,
    question_tokens=agent.question_tokens,
    stamp_tokens=agent.stamp_tokens,
    extract_tokens=agent.extract_tokens,
    update_tokens=agent.update_tokens,
    answer_tokens=agent.answer_tokens,
    stamp_text=prompts.BANK_STYLES[agent.style]["stamp"],
    stop_ids=tokenizer.stop_ids,
    think_ids=tokenizer.think_ids,
    trained=_trained(config, (*ops, "answer")),
    questions=agent.questions,
  )


# Paradigms: from a config, the model's shape and the tokenizer to the spec.
AGENTS = {"memory": _memory, "memory_r1": _memory_r1}
