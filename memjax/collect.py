"""One iteration's experience: rollouts, rewards, advantages, rows for the loss.

Rollouts are sampled in waves of W questions with G trajectories each, until
there are Q groups. With dynamic sampling (DAPO, 2503.14476 sec. 3.2) groups
whose rewards are all equal are left out, and waves are sampled until Q groups
are live or `max_waves` is reached; then the update has fewer groups.

Dimension key: Q groups of an iteration, W of a wave, G trajectories of a group,
q questions about each context; B = W * G, trajectory b = w * G + g; C chunks.
Turn rows are numbered c * B + b (of an operation that is called n times a turn
(c * n + i) * B + b), those of questions b * q + i. Where the first turn has
rows of its own, c counts from the second.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memjax import advantages
from memjax import agents
from memjax import credit
from memjax import reranker
from memjax import rows as rows_lib
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax import traces as traces_lib
from memjax.envs import example as example_lib


@dataclasses.dataclass(frozen=True)
class CollectConfig:
  """How experience is made.

  Attributes:
    questions: Q, groups of an iteration: contexts, whatever number of questions
      is asked about each.
    wave_questions: W, sampled at once: what the KV cache must hold.
    group_size: G, trajectories of a group.
    max_chunks: C, chunks of a trajectory; longer texts lose their middle.
    temperature: of sampling.
    std_normalize: divide advantages by the group's standard deviation.
    dynamic_sampling: leave groups of equal rewards out and sample more.
    max_waves: at most so many waves with dynamic sampling.
    overlong_buffer: tokens before a response's limit from which DAPO's penalty
      rises to 1; 0 is no penalty. The longest response of a trajectory,
      relative to its limit, counts.
    shuffle_rewards: permute rewards within each group: a control that must
      teach nothing.
    weights: what each operation is rewarded for.
    reranks: keep what a trained reranker chose from.
    share_prefix: what a group reads alike is read once: the beginnings of
      prompts, or all of the first ones (`agents.Agent.alike`).
  """

  questions: int
  wave_questions: int
  group_size: int
  max_chunks: int
  temperature: float = 1.0
  std_normalize: bool = False
  dynamic_sampling: bool = False
  max_waves: int = 1
  overlong_buffer: int = 0
  shuffle_rewards: bool = False
  weights: tuple[tuple[str, credit.Weights], ...] = (
    ("update", credit.Weights()),
    ("answer", credit.Weights()),
  )
  reranks: bool = False
  share_prefix: bool = False


@dataclasses.dataclass(frozen=True)
class Experience:
  """What the update needs.

  Attributes:
    rows: by operation, as `rows.from_episode` names them; turns [C * Q * G] (of
      a first turn that is read once [Q * G], and of the others the rest),
      answers [Q * G * q].
    index: of each of them, the rows that count (host int arrays).
    cursor: how many training examples have been used up.
    metrics: floats, named rollout/...
    tokens: prompt and response tokens that the model has processed.
    choices: of the reranker, one for each wave.
    groups: some of the groups, for people; see `traces.groups`.
  """

  rows: dict[str, rows_lib.Rows]
  index: dict[str, np.ndarray]
  cursor: int
  metrics: dict[str, float]
  tokens: int
  choices: list[reranker.Choices]
  groups: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class _Wave:
  """What the host knows of one batch of rollouts."""

  adv: dict[str, np.ndarray]
  live_W: np.ndarray
  stats: dict[str, np.ndarray]
  choices: reranker.Choices | None
  task: tasks.Task
  rewards: dict[str, dict[str, np.ndarray]]


def collect(
  policies: agents.Policies,
  agent: agents.Agent,
  env: Any,
  tokenizer: tokenizer_lib.Tokenizer,
  cfg: CollectConfig,
  *,
  key: jax.Array,
  seed: Sequence[int],
  cursor: int,
  record: int = 0,
) -> Experience:
  """Samples rollouts and turns them into rows.

  Args:
    policies: the behaviour policy, and whatever else the agent needs.
    agent: the agent.
    env: gives training examples from a cursor on, and rewards: `reward` of an
      answer, or `rewards` of a wave's.
    tokenizer: of the policy.
    cfg: how much, and with which advantage.
    key: of this iteration; a trajectory draws from (key, example, sample).
    seed: of what the host draws in this iteration.
    cursor: the first unused training example.
    record: so many groups are kept for people, live ones before others.
  """
  Q, W, G, q = (
    cfg.questions,
    cfg.wave_questions,
    cfg.group_size,
    agent.questions,
  )
  if cfg.share_prefix:
    agent = dataclasses.replace(agent, group=G)
  filled, waves, rows, groups = 0, [], {}, []
  max_waves = cfg.max_waves if cfg.dynamic_sampling else Q // W
  sampled, drawn = collections.deque(), 0
  while filled < Q and len(waves) < max_waves:
    # While the host scores a wave the device samples the next, if it is known
    # that it will be needed.
    ahead = 1 + (filled + W < Q)
    while len(sampled) < ahead and drawn < max_waves:
      examples = env.train_examples(cursor, W * q)
      cursor, drawn = cursor + W * q, drawn + 1
      sampled.append(
        (examples, *_sample(policies, agent, tokenizer, cfg, examples, key))
      )
    examples, task, episode = sampled.popleft()
    wave = _score(agent, env, tokenizer, cfg, examples, task, episode, seed)
    waves.append(wave)
    live_W = wave.live_W if cfg.dynamic_sampling else np.ones(W, bool)
    keep = np.flatnonzero(live_W)[: Q - filled]
    target_W = np.full(W, -1)
    target_W[keep] = filled + np.arange(len(keep))
    filled += len(keep)
    shown = sorted(keep, key=lambda w: not wave.live_W[w])
    groups += traces_lib.groups(
      episode,
      agent,
      env,
      tokenizer,
      examples,
      wave.task,
      shown[: record - len(groups)],
      wave.stats["reward"],
      wave.rewards,
      wave.adv,
    )
    target_B = _spread(target_W, G)
    made = rows_lib.from_episode(agent, episode, wave.adv)
    for name, new in made.items():
      if name in episode.asked:
        target = _spread(target_B, q)
      else:
        calls = len(new.weight) // target_B.size
        turn = np.arange(calls)[:, None] * Q * G
        target = np.where(target_B >= 0, turn + target_B, -1).reshape(-1)
      if name not in rows:
        rows[name] = rows_lib.empty_like(new, len(new.weight) // W * Q)
      rows[name] = rows_lib.put(rows[name], new, target)
  return Experience(
    rows,
    {name: np.flatnonzero(np.asarray(x.weight)) for name, x in rows.items()},
    cursor,
    _metrics(waves, filled, cfg),
    sum(int(wave.stats["tokens"].sum()) for wave in waves),
    [wave.choices for wave in waves if wave.choices],
    groups,
  )


def _spread(target: np.ndarray, times: int) -> np.ndarray:
  """Group numbers to numbers of members; -1 stays -1."""
  first = target[:, None] * times + np.arange(times)
  return np.where(target[:, None] >= 0, first, -1).reshape(-1)


def _sample(
  policies: agents.Policies,
  agent: agents.Agent,
  tokenizer: tokenizer_lib.Tokenizer,
  cfg: CollectConfig,
  examples: Sequence[example_lib.Example],
  key: jax.Array,
) -> tuple[tasks.Task, agents.Episode]:
  """One wave's contexts, and its rollouts, which the device is yet to make."""
  task = tasks.make_task(
    examples, tokenizer, agent, cfg.max_chunks, cfg.max_chunks
  )
  rows = tasks.repeat(task, cfg.group_size, agent.questions)
  return task, agents.rollout_jit(policies, agent, rows, key, cfg.temperature)


def _score(agent, env, tokenizer, cfg, examples, task, episode, seed) -> _Wave:
  """Rewards and advantages of a wave."""
  q, G = agent.questions, cfg.group_size
  W = len(examples) // q
  texts = [
    tokenizer.decode(ids) for ids in token_lib.to_lists(episode.answer.result)
  ]
  asked = [x for w in range(W) for x in list(examples[w * q : (w + 1) * q]) * G]
  outcome_WGq = np.array(_rewards(env, asked, texts), np.float32)
  outcome_WGq = outcome_WGq.reshape(W, G, q)
  stats = _stats(episode, agent, cfg.overlong_buffer)
  stats["reward"] = outcome_WGq
  weights = {op: w for op, w in cfg.weights if op in agent.trained}
  truth = None
  if any(weight.truth for weight in weights.values()):
    firsts = tasks.contexts(examples, q)
    truth = truth_scores(episode, agent, env, tokenizer, firsts, task, G)
    stats["truth"] = truth
  formats = {}
  for op in weights:
    if op in episode.asked:
      formats[op] = ~np.asarray(episode.asked[op].malformed).reshape(W, G, q)
    else:
      segment = episode.turns[op]
      bad = np.asarray(segment.malformed & segment.active)
      bad = bad.reshape(-1, W, G).sum(0)
      calls = np.asarray(segment.active).reshape(-1, W, G).sum(0)
      formats[op] = 1 - bad / np.maximum(calls, 1)
  cited_WGq = 0.0
  if episode.answer.used is not None:
    well = ~np.asarray(episode.answer.malformed)
    cited_N = np.asarray(episode.answer.used).mean(1) * well
    cited_WGq = cited_N.reshape(W, G, q)
  shuffle = None
  if cfg.shuffle_rewards:
    shuffle = np.random.default_rng([*seed, examples[0].id, 5])
  rewards = credit.terms(
    weights,
    outcome_WGq,
    formats,
    truth,
    stats["penalty"].reshape(W, G),
    shuffle,
    cited_WGq,
  )
  adv, live_W = credit.compare(rewards, W, cfg.std_normalize)
  choices = None
  if cfg.reranks:
    choices = reranker.choices(episode.answer, (W, G, q), shuffle)
  return _Wave(adv, live_W, stats, choices, task, rewards)


def _rewards(
  env: Any, examples: Sequence[example_lib.Example], texts: Sequence[str]
) -> Sequence[float]:
  """The reward of each answer; all at once, if the environment can."""
  if hasattr(env, "rewards"):
    return env.rewards(examples, texts)
  return [env.reward(example, text) for example, text in zip(examples, texts)]


def truth_scores(
  episode: agents.Episode,
  agent: agents.Agent,
  env: Any,
  tokenizer: tokenizer_lib.Tokenizer,
  firsts: Sequence[example_lib.Example],
  task: tasks.Task,
  group_size: int,
) -> np.ndarray:
  """Mean F1 over sessions between right and made changes; [W, G].

  Args:
    episode: rollouts; `env.judge` compares the states around each session.
    agent: the agent.
    env: knows what should change.
    tokenizer: of the policy.
    firsts: W examples.
    task: of the W contexts.
    group_size: G.
  """
  states = jax.device_get(episode.states)
  W, C = len(firsts), task.chunks.length.shape[0]
  scores = np.zeros((W, group_size), np.float32)
  for w, example in enumerate(firsts):
    active = task.chunks.length[:, w] > 0
    session = task.session[:, w]
    last = {int(session[c]): c for c in range(C) if active[c]}
    for g in range(group_size):
      before, found = list(example.bank), []
      for number, c in sorted(last.items()):
        state = jax.tree.map(lambda x, c=c: x[c], states)
        shown = agent.shown(state, w * group_size + g)
        after = [tokenizer.decode(ids) for ids in shown]
        right, made = env.judge(example, number, before, after)
        found.append(credit.f1(len(right), len(made), len(right & made)))
        before = after
      scores[w, g] = np.mean(found) if found else 1.0
  return scores


def _stats(
  episode: agents.Episode, agent: agents.Agent, overlong_buffer: int
) -> dict[str, np.ndarray]:
  """Small host arrays that describe a wave."""
  segments = {**episode.turns, **episode.asked}
  B = episode.answer.active.shape[0] // agent.questions
  found = jax.device_get(
    {
      op: (
        segment.active,
        segment.response.truncated,
        segment.malformed,
        segment.prompt.length,
        segment.response.tokens.length,
        segment.counts,
      )
      for op, segment in segments.items()
    }
  )
  stats, tokens, penalty = {}, 0, 0.0
  for op, (active, truncated, bad, prompt, length, counts) in found.items():
    stats[f"{op}/truncated"] = truncated[active]
    stats[f"{op}/malformed"] = bad[active]
    stats[f"{op}/tokens"] = length[active]
    for name, count in counts.items():
      stats[f"{op}/{name}"] = count[active]
    tokens += prompt[active].sum() + length.sum()
    if op in episode.turns:
      stats[f"{op}/idle"] = ~active
    # What is decoded at once takes as many steps as its longest response.
    at_once = B if op in agent.one_by_one else length.shape[-1]
    longest = length.reshape(-1, at_once).max(1)
    slots = longest.sum() * at_once
    stats[f"{op}/idle_decoding"] = np.array([1 - length.sum() / max(slots, 1)])
    if overlong_buffer:
      over = np.asarray(
        advantages.overlong_penalty(length, agent.limit(op), overlong_buffer)
      )
      if op in episode.asked:
        over = over.reshape(B, -1).T
      over = over.reshape(-1, B)
      penalty = np.minimum(penalty, over.min(0, initial=0.0))
  stats["malformed"] = np.concatenate(
    [stats[f"{op}/malformed"] for op in segments]
  )
  stats["truncated"] = np.concatenate(
    [stats[f"{op}/truncated"] for op in episode.turns]
    or [stats["answer/truncated"]]
  )
  stats["penalty"] = np.broadcast_to(np.float32(penalty), (B,))
  stats["tokens"] = np.array([tokens])
  return stats


def _metrics(
  waves: Sequence[_Wave], filled: int, cfg: CollectConfig
) -> dict[str, float]:
  """Means over the waves of an iteration; live groups are counted."""
  names = [name for name in waves[0].stats if name != "tokens"]
  if not cfg.overlong_buffer:
    names.remove("penalty")
  mean = lambda name: np.concatenate(
    [wave.stats[name].reshape(-1) for wave in waves]
  )
  return {
    **{f"rollout/{n}": float(mean(n).mean()) for n in names if mean(n).size},
    "rollout/live_groups": float(np.mean([wave.live_W for wave in waves])),
    "rollout/groups": filled,
    "rollout/waves": len(waves),
  }
