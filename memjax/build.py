"""From a config to the objects of a run: everything is checked here.

What can be refused is refused in `make`, before the first compile: after it,
an exception is a bug or a fault of the machine, not of the user's input.
"""

import dataclasses
import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax

from memjax import agents
from memjax import build_agent
from memjax import build_judge
from memjax import build_mesh
from memjax import collect
from memjax import config as config_lib
from memjax import credit
from memjax import hf
from memjax import judged
from memjax import learner
from memjax import lora
from memjax import losses
from memjax import optimizer
from memjax import qwen3
from memjax import reranker
from memjax import sharding
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax.envs import dialogues
from memjax.envs import facts
from memjax.envs import locomo
from memjax.envs import long_context
from memjax.envs import longmemeval
from memjax.envs import memory_bank
from memjax.envs import msc
from memjax.envs import prose
from memjax.envs import relations
from memjax.envs.suite import env as suite

# An environment has train_examples, eval_sets, reward, metric and label. It may
# have rewards and metrics, too, which take many answers at once; files, {name:
# SHA-256} of what it read; judge_view, judge_prompts, judge_cases, judge_name
# (`judged`).
ENVS = {
  "facts": facts.Facts,
  "relations": relations.Relations,
  "prose": prose.Prose,
  "dialogues": dialogues.Dialogues,
  "long_context": long_context.make,
  "locomo": locomo.make,
  "longmemeval": longmemeval.make,
  "msc": msc.make,
  "memory_bank": memory_bank.make,
  "suite": suite.Suite,
}


@dataclasses.dataclass(frozen=True)
class Run:
  """What a config describes.

  Attributes:
    config: where it comes from.
    model: the policy's shape, as updates compute it.
    tokenizer: the policy's.
    agent: the agent; its model is that of rollouts, which `policies` go with.
    env: tasks, rewards, metrics; None where the mode needs none.
    collect: how experience is made.
    objective: what is minimised.
    schedule: learning rate by iteration.
    tx: the optimiser.
    trainer: of the reranker, or None where none is trained.
    mesh: on which all of this is held, or None for one device.
    adapters: what is trained of the model, or None where all of it is.
  """

  config: ml_collections.ConfigDict
  model: qwen3.Config
  tokenizer: tokenizer_lib.Tokenizer
  agent: agents.Agent
  env: Any
  collect: collect.CollectConfig
  objective: learner.Objective
  schedule: optax.Schedule
  tx: optax.GradientTransformation
  trainer: reranker.Trainer | None = None
  mesh: jax.sharding.Mesh | None = None
  adapters: lora.Shape | None = None

  @property
  def judged(self) -> judged.Judged | None:
    """The environment, if a model judges in it."""
    return self.env if isinstance(self.env, judged.Judged) else None

  @property
  def shares_base(self) -> bool:
    """What updates hold of the base serves operations that are not trained.

    They hold it below adapters, or as the reference of the KL term.
    """
    config = self.config
    other = config.model.frozen and config.model.frozen != config.model.path
    held = self.adapters or config.objective.kl_coef
    return bool(agents.frozen_ops(self.agent) and held and not other)

  def _load(self, path: str) -> qwen3.Params:
    return hf.load(path, self.model.dtype, self.mesh)[1]

  @functools.cached_property
  def base(self) -> qwen3.Params:
    """config.model.path in the dtype that the model computes in, held once."""
    return self._load(self.config.model.path)

  def load_params(self) -> qwen3.Params:
    """What training begins with: masters, or what adapters are adapters of."""
    if not self.adapters:
      return self.load_masters()
    return self.base if self.shares_base else self._load(self.config.model.path)

  def load_masters(self) -> qwen3.Params:
    """The parameters of config.model.path in float32."""
    return hf.load(self.config.model.path, jnp.float32, self.mesh)[1]

  @functools.cached_property
  def _frozen(self) -> qwen3.Params | None:
    """Of operations that are not trained, as rollouts read them."""
    model = self.config.model
    if not agents.frozen_ops(self.agent):
      return None
    path = model.frozen or model.path
    params = self.base if self.shares_base else self._load(path)
    return build_agent.to_sample(params, self.agent.model)

  @functools.cached_property
  def _retrieval(self) -> agents.Policies:
    return build_agent.load_retrieval(self.config, self.agent, self.mesh)

  def retrieval(self, reranker_params: Any = None) -> agents.Policies:
    """The parameters that find entries; they need no policy.

    Args:
      reranker_params: of a reranker; None: as training begins.
    """
    if reranker_params is None:
      return self._retrieval
    return self.trainer.policies(self._retrieval, reranker_params)

  def policies(
    self,
    params: qwen3.Params,
    adapters: qwen3.Params | None = None,
    reranker_params: Any = None,
  ) -> agents.Policies:
    """What rollouts read.

    Args:
      params: the policy's, as updates have them.
      adapters: of these parameters, if they are not all of the policy.
      reranker_params: of a reranker; None: as training begins.
    """
    is_frozen = self.shares_base and params is self.base
    model = self.agent.model
    policy = self._frozen if is_frozen else build_agent.to_sample(params, model)
    if adapters is not None:
      adapters = build_agent.to_sample(adapters, model)
      policy = lora.join(policy, adapters, self.adapters)
    return dataclasses.replace(
      self.retrieval(reranker_params), policy=policy, frozen=self._frozen
    )

  def abstract_params(self) -> qwen3.Params:
    """Shapes and dtypes of the parameters; allocates nothing."""
    shapes = jax.eval_shape(lambda: qwen3.init(jax.random.key(0), self.model))
    if not self.adapters:
      return shapes
    dtype = jnp.dtype(self.model.dtype)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype), shapes)

  def abstract_state(self) -> learner.TrainState:
    """Shapes, dtypes and places of the train state; allocates nothing."""
    other = self.trainer and self.trainer.abstract_params()
    state = jax.eval_shape(self._state, self.abstract_params(), other)
    return sharding.abstract(state, self.mesh)

  def init_state(self, params: qwen3.Params) -> learner.TrainState:
    """The state before the first iteration."""
    other = None
    if self.trainer:  # in buffers of its own: a step gives them away
      other = jax.tree.map(jnp.array, self.trainer.params(self._retrieval))
    state = sharding.put(self._state(params, other), self.mesh)
    return self.place(state)

  def place(self, state: learner.TrainState) -> learner.TrainState:
    """Moves the moments to where config.train.moments_on_host has them."""
    if not self.config.train.moments_on_host:
      return state
    moments = optimizer.to_host(state.opt_state)
    return dataclasses.replace(state, opt_state=moments)

  def _state(self, params: qwen3.Params, other: Any) -> learner.TrainState:
    """From the policy's parameters and those of a trained reranker."""
    key = jax.random.key(self.config.seed)
    if self.adapters:
      # Iterations draw from fold_in(key, i); this is none of them.
      params = lora.init(
        jax.random.fold_in(key, 2**32 - 1), params, self.adapters
      )
    return learner.TrainState(
      jnp.int32(0),
      params,
      self.tx.init(params),
      key,
      other and reranker.State(other, self.trainer.tx.init(other)),
    )


def make(config: ml_collections.ConfigDict, needs_data: bool = True) -> Run:
  """Builds everything but the parameters, and checks it.

  Raises:
    ValueError: something that the user gave cannot be; says what and why.
  """
  config_lib.check(config)
  model = _model(config.model)
  tokenizer = tokenizer_lib.load(config.model.tokenizer or config.model.path)
  if tokenizer.vocab_size > model.vocab_size:
    raise ValueError(
      f"the tokenizer of {config.model.tokenizer or config.model.path} has "
      f"{tokenizer.vocab_size} ids, the model only {model.vocab_size} "
      "embeddings: name the tokenizer that the model was trained with"
    )
  rollout, train = config.rollout, config.train
  optimizer.check_host(train)
  # What is wrong with a file is said before what an agent makes of it.
  env = _env(config) if needs_data else None
  sampled = dataclasses.replace(model, scan_layers=rollout.scan_layers)
  agent = build_agent.make(config, sampled, tokenizer)
  if rollout.share_prefix and not agent.alike:
    raise ValueError(
      f"config.rollout.share_prefix=True, but a group of "
      f"config.agent.name={config.agent.name!r} reads nothing alike, as its "
      "policy is not the extractor: leave it False"
    )
  ops = (*agent.turn_ops, *agent.answer_ops)
  if agents.frozen_ops(agent):
    _check_frozen(config.model)
  shortest = min(agent.limit(op) for op in ops)
  if rollout.overlong_buffer > shortest:
    raise ValueError(
      f"config.rollout.overlong_buffer={rollout.overlong_buffer} is more than "
      f"the {shortest} tokens of the shortest response limit of "
      f"{', '.join(ops)}"
    )
  if needs_data:
    env = build_judge.wrap(config, env)
    known = [example for x in env.eval_sets().values() for example in x]
    # A generated environment has no list of what it trains on.
    known += getattr(env, "train", ())
    tasks.check_questions(known, tokenizer, agent)
  schedule = optimizer.make_schedule(
    train.schedule, train.learning_rate, train.steps, train.warmup_steps
  )
  return Run(
    config,
    model,
    tokenizer,
    agent,
    env,
    collect.CollectConfig(
      questions=rollout.questions,
      wave_questions=rollout.wave_questions,
      group_size=rollout.group_size,
      max_chunks=config.agent.max_chunks,
      temperature=rollout.temperature,
      std_normalize=config.objective.std_normalize,
      dynamic_sampling=rollout.dynamic_sampling,
      max_waves=rollout.max_waves,
      overlong_buffer=rollout.overlong_buffer,
      shuffle_rewards=config.shuffle_rewards,
      weights=_weights(config, agent, env),
      reranks=build_agent.trains_reranker(agent),
      share_prefix=rollout.share_prefix,
    ),
    _objective(config),
    schedule,
    optimizer.make(train),
    _trainer(config, agent),
    build_mesh.make(config, model),
    lora.make(**config.lora.to_dict()),
  )


def _trainer(
  config: ml_collections.ConfigDict, agent: agents.Agent
) -> reranker.Trainer | None:
  """How the reranker is trained, if there is one that is."""
  if not build_agent.trains_reranker(agent):
    return None
  if not config.agent.names_entries:
    raise ValueError(
      "config.agent.names_entries=False: a reranker learns from the entries "
      "that answers name; set it, or take 'rerank' out of config.agent.trained"
    )
  tuned = config.reranker
  return reranker.Trainer(
    agent.retriever,
    tuned.tunes,
    tuned.reading,
    None if tuned.mean_baseline else tuned.baseline,
    tuned.micro_batch,
    optax.adam(tuned.learning_rate),
  )


def _model(config: ml_collections.ConfigDict) -> qwen3.Config:
  if not config.path:
    raise ValueError(
      "config.model.path is empty: name a Hugging Face model directory, for "
      "example --config.model.path=Qwen3-1.7B"
    )
  return dataclasses.replace(
    hf.load_config(config.path),
    remat=config.remat,
    **build_agent.arithmetic(config),
  )


def _check_frozen(config: ml_collections.ConfigDict) -> None:
  """Refuses another model of operations that are not trained."""
  if not config.frozen:
    return
  one, other = map(hf.load_config, (config.path, config.frozen))
  if one != other:
    raise ValueError(
      f"config.model.frozen={config.frozen}: its shape is not that of "
      f"{config.path}"
    )


def _weights(
  config: ml_collections.ConfigDict, agent: agents.Agent, env: Any
) -> tuple[tuple[str, credit.Weights], ...]:
  """What each trained operation is rewarded for."""
  found = []
  for op in agent.trained:
    fields = (field.name for field in dataclasses.fields(credit.Weights))
    weights = credit.Weights(
      **{x: config.reward.get(f"{op}_{x}", 0.0) for x in fields}
    )
    if not any(dataclasses.astuple(weights)):
      raise ValueError(
        f"config.reward.{op}_*: all weights are 0, but it is trained: "
        "set one, or take it out of config.agent.trained"
      )
    if weights.citation and not config.agent.names_entries:
      raise ValueError(
        f"config.reward.{op}_citation={weights.citation}, but with "
        "config.agent.names_entries=False nothing is cited: set one of them"
      )
    if weights.truth and env is not None and not hasattr(env, "judge"):
      raise ValueError(
        f"config.reward.{op}_truth={weights.truth}: the data "
        f"{config.data.name!r} do not know which changes are right; set 0"
      )
    found.append((op, weights))
  return tuple(found)


def _objective(config: ml_collections.ConfigDict) -> learner.Objective:
  objective = config.objective
  if objective.name not in losses.OBJECTIVES:
    raise ValueError(
      f"config.objective.name={objective.name!r}: choose one of "
      f"{', '.join(losses.OBJECTIVES)}"
    )
  try:
    loss = losses.LossConfig(
      clip_low=objective.clip_low,
      clip_high=objective.clip_high,
      dual_clip=objective.dual_clip or None,
      kl_coef=objective.kl_coef,
      max_length=max(config.agent.update_tokens, config.agent.answer_tokens),
      entropy_coef=objective.entropy_coef,
    )
  except ValueError as error:
    raise ValueError(f"config.objective: {error}") from error
  return learner.Objective(objective.name, loss, config.rollout.temperature)


def _env(config: ml_collections.ConfigDict) -> Any:
  fields = config.data.to_dict()
  name = fields.pop("name", None)
  if name not in ENVS:
    raise ValueError(
      f"config.data.name={name!r}: choose one of {', '.join(ENVS)}"
    )
  known = [x for x in inspect.signature(ENVS[name]).parameters if x != "seed"]
  for field in fields:
    if field not in known:
      raise ValueError(
        f"config.data.{field} is not a field of {name}: choose among "
        f"{', '.join(known)}"
      )
  return ENVS[name](**fields, seed=config.seed)
