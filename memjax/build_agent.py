"""From a config to an agent, and to the parameters that it needs."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from memjax import agents
from memjax import attention
from memjax import hf
from memjax import memory_agent
from memjax import memory_r1
from memjax import memory_rmm
from memjax import prompts
from memjax import qwen3
from memjax import reranker as reranker_lib
from memjax import retriever as retriever_lib
from memjax import sharding
from memjax import tokenizer as tokenizer_lib
from memjax.memory import answer as answer_lib
from memjax.memory import bank as bank_lib
from memjax.memory import extract as extract_lib
from memjax.memory import recurrent
from memjax.memory import rerank
from memjax.memory import retrieve
from memjax.memory import select as select_lib
from memjax.memory import topics as topics_lib
from memjax.memory import update as update_lib

# What can be trained: calls of the policy, and the reranker.
TRAINED = ("extract", "update", "select", "answer", "rerank")
# First searches, and rerankers on top of one: a trained map, the policy.
RETRIEVERS = (*retriever_lib.FIRST, "rerank", "select")


def make(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> agents.Agent:
  """The agent of config.agent.

  Raises:
    ValueError: a key has a value that cannot be; says which there are.
  """
  name = config.agent.name
  if name not in AGENTS:
    raise ValueError(
      f"config.agent.name={name!r}: choose one of {', '.join(AGENTS)}"
    )
  return AGENTS[name](config, model, tokenizer)


def arithmetic(model: ml_collections.ConfigDict) -> dict[str, Any]:
  """Fields of `qwen3.Config` that config.model has for all models of a run."""
  auto = model.device == "auto"
  return {
    "dtype": model.dtype,
    "scan_layers": model.scan_layers,
    "device": jax.default_backend() if auto else model.device,
    "attention": attention.resolve(model.attention, model.dtype),
  }


@functools.partial(jax.jit, static_argnames="cfg")
def _apart(layers: Any, cfg: qwen3.Config) -> Any:
  layers = qwen3.cast(layers, cfg.dtype)
  return qwen3.unstacked({"layers": layers}, cfg)["layers"]


def to_sample(params: qwen3.Params, cfg: qwen3.Config) -> qwen3.Params:
  """Parameters, or adapters, as rollouts read them.

  In the dtype that the model computes in, and each of unrolled layers in arrays
  of its own, which are read in place. What is as it is to be is not copied.
  """
  if cfg.scan_layers:
    return qwen3.cast(params, cfg.dtype)
  others = {name: x for name, x in params.items() if name != "layers"}
  layers = _apart(params["layers"], cfg)
  return qwen3.cast(others, cfg.dtype) | {"layers": layers}


def trains_reranker(agent: agents.Agent) -> bool:
  """The agent has a reranker, and it is trained."""
  return hasattr(agent, "retriever") and agent.retriever.explores


def load_retrieval(
  config: ml_collections.ConfigDict,
  agent: agents.Agent,
  mesh: jax.sharding.Mesh | None = None,
) -> agents.Policies:
  """Parameters that find entries, on the mesh: an embedder's, a reranker's.

  Raises:
    ValueError: they do not fit the agent.
  """
  embedder = reranker = None
  retriever = getattr(agent, "retriever", None)
  if retriever and retriever.embedder:
    # What is trained has float32 masters.
    tuned = retriever.explores and config.reranker.tunes == "encoder"
    dtype = jnp.float32 if tuned else config.model.dtype
    embedder = hf.load(config.agent.embedder, dtype, mesh)[1]
    if retriever.reranks:
      reranker = rerank.init(retriever.width)
      if config.reranker.path:
        reranker = reranker_lib.load(config.reranker.path, retriever.width)
      reranker = sharding.put(reranker, mesh)
  return agents.Policies(None, None, embedder, reranker)


def _with_trained(
  config: ml_collections.ConfigDict, agent: agents.Agent
) -> agents.Agent:
  """The agent, with those of its model calls trained that the config names."""
  for op in config.agent.trained:
    if op not in TRAINED:
      raise ValueError(
        f"config.agent.trained: {op!r} is none of {', '.join(TRAINED)}"
      )
  ops = (*agent.turn_ops, *agent.answer_ops)
  trained = tuple(op for op in ops if op in config.agent.trained)
  if not trained and not trains_reranker(agent):
    raise ValueError(
      f"config.agent.trained={tuple(config.agent.trained)} names none of this "
      f"agent's operations, {', '.join(ops)}; 'rerank' is of "
      "config.agent.retriever='rerank'"
    )
  return dataclasses.replace(agent, trained=trained)


def _check(
  config: ml_collections.ConfigDict, section: str, **choices: tuple[str, ...]
) -> None:
  """Refuses values that are none of those there are."""
  for key, valid in choices.items():
    value = config[section][key]
    if value not in valid:
      raise ValueError(
        f"config.{section}.{key}={value!r}: choose one of {', '.join(valid)}"
      )


def _memory(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> memory_agent.MemoryAgent:
  """MemAgent's agent."""
  agent = config.agent
  found = memory_agent.MemoryAgent(
    model,
    recurrent.make_recurrent(
      tokenizer, agent.style, agent.memory_tokens, agent.thinking
    ),
    agent.chunk_tokens,
    agent.question_tokens,
    agent.update_tokens,
    agent.answer_tokens,
  )
  return _with_trained(config, found)


def _embedder(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> qwen3.Config:
  """The shape of the model that embeds."""
  agent = config.agent
  if not agent.embedder:
    raise ValueError(
      f"config.agent.retriever={agent.retriever!r} needs "
      "config.agent.embedder, a Qwen3 directory with the policy's tokenizer, "
      "such as Qwen3-Embedding"
    )
  embedder = dataclasses.replace(
    hf.load_config(agent.embedder), remat="none", **arithmetic(config.model)
  )
  if embedder.vocab_size < tokenizer.vocab_size:
    raise ValueError(
      f"config.agent.embedder={agent.embedder} has {embedder.vocab_size} "
      f"embeddings, the policy's tokenizer {tokenizer.vocab_size} ids: name "
      "an embedder with the same tokenizer"
    )
  return embedder


def _on_top(agent: ml_collections.ConfigDict) -> bool:
  """Something chooses among the entries that a first search fetches."""
  return agent.retriever in ("rerank", "select")


def _shown(agent: ml_collections.ConfigDict) -> int:
  """M, entries that an answer is shown."""
  return agent.retrieved or (5 if _on_top(agent) else 60)


def _retriever(
  config: ml_collections.ConfigDict, tokenizer: tokenizer_lib.Tokenizer
) -> retriever_lib.Retriever:
  """How entries are found."""
  agent, reranker = config.agent, config.reranker
  _check(
    config, "agent", retriever=RETRIEVERS, first_search=retriever_lib.FIRST
  )
  _check(config, "reranker", tunes=("map", "encoder"), reading=rerank.READINGS)
  on_top, shown = _on_top(agent), _shown(agent)
  first = agent.first_search if on_top else agent.retriever
  if on_top and agent.fetched <= shown:
    raise ValueError(
      f"config.agent.fetched={agent.fetched}: expected more than the "
      f"{shown} of config.agent.retrieved, which "
      f"config.agent.retriever={agent.retriever!r} chooses from them"
    )
  embeds = "embedding" in (first, agent.retriever) or (
    agent.retriever == "rerank"
  )
  found = retriever_lib.Retriever(
    first,
    retrieve.make_lexicon(tokenizer),
    _embedder(config, tokenizer) if embeds else None,
    tokenizer.stop_ids[0],
    agent.candidates,
    agent.fetched if on_top else shown,
    shown,
    agent.retriever == "rerank",
    reranker.tau,
    agent.retriever == "rerank" and "rerank" in agent.trained,
  )
  if found.reranks and reranker.path:  # small: refused before the first compile
    reranker_lib.load(reranker.path, found.width)
  return found


def _bank(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> dict[str, Any]:
  """What all bank agents take from a config."""
  agent = config.agent
  _check(
    config,
    "agent",
    full=bank_lib.FULL_RULES,
    style=tuple(prompts.BANK_STYLES),
  )
  select = None
  if agent.retriever == "select":
    select = select_lib.make(
      tokenizer, agent.style, agent.fetched, _shown(agent), agent.thinking
    )
  return {
    "model": model,
    "respond": answer_lib.make(
      tokenizer,
      agent.style,
      _shown(agent),
      agent.names_entries,
      agent.thinking,
    ),
    "retriever": _retriever(config, tokenizer),
    "select": select,
    "entries": agent.entries,
    "text_tokens": agent.entry_tokens,
    "full": agent.full,
    "chunk_tokens": agent.chunk_tokens,
    "question_tokens": agent.question_tokens,
    "stamp_tokens": agent.stamp_tokens,
    "extract_tokens": agent.extract_tokens,
    "update_tokens": agent.update_tokens,
    "answer_tokens": agent.answer_tokens,
    "select_tokens": agent.select_tokens,
    "stamp_text": prompts.BANK_STYLES[agent.style]["stamp"],
    "stop_ids": tokenizer.stop_ids,
    "think_ids": tokenizer.think_ids,
    "questions": agent.questions,
  }


def _memory_r1(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> memory_r1.MemoryR1Agent:
  """Memory-R1's agent, with the modules that the config names."""
  agent = config.agent
  _check(
    config,
    "agent",
    extractor=memory_r1.EXTRACTORS,
    updater=memory_r1.UPDATERS,
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
  shared = _bank(config, model, tokenizer)
  found = memory_r1.MemoryR1Agent(
    **shared,
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
    extractor=agent.extractor,
    updater=agent.updater,
  )
  return _with_trained(config, found)


def _memory_rmm(
  config: ml_collections.ConfigDict,
  model: qwen3.Config,
  tokenizer: tokenizer_lib.Tokenizer,
) -> memory_rmm.MemoryRMMAgent:
  """RMM's agent; with retriever='rerank' both of its reflections."""
  agent = config.agent
  shared = _bank(config, model, tokenizer)
  found = memory_rmm.MemoryRMMAgent(
    **shared,
    turn_tokens=agent.kept_tokens,
    topics=topics_lib.make(
      tokenizer,
      agent.style,
      agent.candidates,
      agent.turns,
      agent.turn_tokens,
      agent.topics,
      agent.entry_tokens,
      agent.thinking,
    ),
  )
  return _with_trained(config, found)


# Paradigms: from a config, the model's shape and the tokenizer to the agent.
AGENTS = {
  "memory": _memory,
  "memory_r1": _memory_r1,
  "memory_rmm": _memory_rmm,
}
