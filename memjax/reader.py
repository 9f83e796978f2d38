"""An agent with its parameters, for people: reads a text and answers.

reader = memjax.load("Qwen3-1.7B")
answer, memories = reader.read(text, question)
"""

import dataclasses
import functools
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import jax

from memjax import agents
from memjax import build_agent
from memjax import config as config_lib
from memjax import hf
from memjax import reranker as reranker_lib
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib


def text_id(text: str) -> int:
  """A stable 31-bit id of a text, for the keys of texts without an id."""
  return zlib.crc32(text.encode()) & 0x7FFFFFFF


@dataclasses.dataclass(frozen=True)
class Reader:
  """Reads texts of any length with any agent.

  Attributes:
    policies: the parameters.
    agent: how memory is kept.
    tokenizer: the policy's.
    temperature: of sampling; 0 takes the most likely tokens.
    key: of sampling.
  """

  policies: agents.Policies
  agent: agents.Agent
  tokenizer: tokenizer_lib.Tokenizer
  temperature: float = 0.0
  key: jax.Array = dataclasses.field(
    default_factory=functools.partial(jax.random.key, 0)
  )

  def read(
    self,
    text: str,
    question: str,
    on_memory: Callable[[int, int, str], None] | None = None,
  ) -> tuple[str, list[str]]:
    """Answers a question about a text.

    Args:
      text: of any length; an empty one is answered from an empty memory.
      question: at most agent.question_tokens long.
      on_memory: called after each chunk with (chunk, how many, memory).

    Returns:
      (answer, the memory after each chunk), decoded for people; the entries of
      a bank are lines.
    """
    agent = self.agent
    if agent.questions != 1:
      agent = dataclasses.replace(agent, questions=1)
    example = example_lib.Example(text_id(question), question, text, ())
    task = tasks.make_task([example], self.tokenizer, agent)
    key_B = agents.row_keys(self.key, task)
    state, memories = agent.init(self.policies, task), []
    count = task.chunks.length.shape[0]
    for number in range(count):
      turn = tasks.turn_at(task, number)
      state, _ = agents.read_jit(
        self.policies, agent, state, turn, key_B, self.temperature
      )
      shown = agent.shown(state, 0)
      memories.append("\n".join(map(self.tokenizer.decode, shown)))
      if on_memory:
        on_memory(number + 1, count, memories[-1])
    asked = agents.answer_jit(
      self.policies, agent, state, task.query, key_B, self.temperature
    )
    answer = token_lib.to_lists(asked["answer"].result)[0]
    return self.tokenizer.decode(answer), memories


def load(
  path: str | os.PathLike,
  agent: str = "memory",
  *,
  reranker: str | os.PathLike = "",
  dtype: str = "bfloat16",
  temperature: float = 0.0,
  **settings: Any,
) -> Reader:
  """An agent with the model and tokenizer of a Hugging Face directory.

  Args:
    path: of the model.
    agent: key of build_agent.AGENTS.
    reranker: directory with a trained map, for retriever="rerank"; without, the
      one that --mode=export wrote into `path`, or else zeros.
    dtype: of parameters and products.
    temperature: of sampling.
    **settings: keys of config.agent; the defaults are those of the papers.

  Raises:
    ValueError: the directory holds no Qwen3, or no tokenizer; a setting that
      does not exist, or cannot be.
  """
  config = config_lib.default()
  config.model.update(path=str(path), dtype=dtype)
  config.agent.name = agent
  if not reranker and (pathlib.Path(path) / reranker_lib.FILE).exists():
    reranker = path
  config.reranker.path = str(reranker)
  for key, value in settings.items():
    if key not in config.agent:
      raise ValueError(
        f"{key}={value!r} is no setting of an agent: choose among "
        f"{', '.join(sorted(config.agent))}"
      )
    config.agent[key] = value
  config_lib.check(config)
  model, params = hf.load(path, dtype=dtype)
  tokenizer = tokenizer_lib.load(path)
  model = dataclasses.replace(
    model,
    **build_agent.arithmetic(config.model)
    | {"scan_layers": config.rollout.scan_layers},
  )
  made = build_agent.make(config, model, tokenizer)
  policies = dataclasses.replace(
    build_agent.load_retrieval(config, made),
    policy=build_agent.to_sample(params, model),
  )
  return Reader(policies, made, tokenizer, temperature)
