"""Evaluation: the compiled turn fed chunk by chunk from the host.

No length needs a new compile, and a text of 4M tokens needs no more device
memory than one of 4K. Every accuracy comes with a 95 % interval over questions.

Dimension key: N examples, K samples of each, B rows of a batch.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memjax import agents
from memjax import build
from memjax import scores
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax import traces as traces_lib
from memjax.envs import example as example_lib


def answer(
  policies: agents.Policies,
  agent: agents.Agent,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[example_lib.Example],
  *,
  key: jax.Array,
  batch_size: int,
  temperature: float = 0.0,
  samples: int = 1,
  memories: Sequence[Sequence[Sequence[int]]] | None = None,
  traces: int = 0,
  judge: traces_lib.Judge | None = None,
) -> scores.Answers:
  """Lets the agent read and answer.

  Examples with the same context share one reading where the agent's state does
  not depend on the question.

  Args:
    policies: the policy, and whatever else the agent needs.
    agent: the agent.
    tokenizer: the policy's.
    examples: N examples, of any lengths.
    key: a row draws from (key, example id, sample, turn).
    batch_size: B; the last batch is filled up with idle rows.
    temperature: 0 is greedy.
    samples: K answers to each example.
    memories: instead of reading, answer from N states that hold these texts,
      each as ids.
    traces: record the turns of the first sample of so many first examples; of
      those that share a reading, of the first.
    judge: says of each session which changes were right.

  Raises:
    ValueError: there is no example.
  """
  if not examples:
    raise ValueError("there is no example to evaluate on")
  agent = (
    dataclasses.replace(agent, questions=1) if agent.shares_state else agent
  )
  texts = [[""] * samples for _ in examples]
  finals: list[list[str]] = [[] for _ in examples]
  listed: dict[int, list[str]] = {}
  recorded: dict[int, dict[str, Any]] = {}
  # Two questions about a text may be given two memories.
  shares = agent.shares_state and memories is None
  for units in _batches(shares, examples, samples, batch_size):
    state, turns = None, []
    firsts = [examples[unit.members[0]] for unit in units]
    filled = firsts + [_asked(firsts[-1])] * (batch_size - len(units))
    watched = [
      b for b, u in enumerate(units) if not u.sample and u.members[0] < traces
    ]
    task = _task(filled, units, tokenizer, agent)
    if memories is None:
      state, turns = _read(policies, agent, task, key, temperature, watched)
    else:
      given = [memories[unit.members[0]] for unit in units]
      given += [given[-1]] * (batch_size - len(units))
      state = agent.given(policies, given)
    for b, unit in enumerate(units):
      if not unit.sample:
        held = [tokenizer.decode(ids) for ids in agent.shown(state, b)]
        for n in unit.members:
          finals[n] = held
    asked = [(b, n) for b, unit in enumerate(units) for n in unit.members]
    for start in range(0, len(asked), batch_size):
      part = asked[start : start + batch_size]
      rows = [b for b, _ in part] + [part[-1][0]] * (batch_size - len(part))
      seen = [b in watched and n == units[b].members[0] for b, n in part]
      found = _ask_states(
        policies,
        agent,
        _rows(state, rows),
        [examples[n] for _, n in part],
        [units[b].sample for b, _ in part],
        tokenizer,
        key,
        temperature,
        np.flatnonzero(seen),
      )
      for (b, n), (text, shown, record) in zip(part, found):
        texts[n][units[b].sample] = text
        if not units[b].sample:
          listed |= {n: shown} if shown is not None else {}
        if record:
          recorded[n] = record
    for b in watched:
      n = units[b].members[0]
      recorded[n]["start"] = (
        list(examples[n].bank) if agent.holds_entries else []
      )
      recorded[n]["turns"] = traces_lib.turns(
        turns, b, batch_size, task, b, tokenizer, agent, examples[n], judge
      )
  return scores.Answers(
    examples,
    texts,
    finals,
    [listed[n] for n in sorted(listed)],
    [recorded[n] for n in sorted(recorded)],
  )


@dataclasses.dataclass(frozen=True)
class _Unit:
  """One reading: the examples that it serves, and which sample it is."""

  members: tuple[int, ...]
  sample: int


def _batches(shares, examples, samples, batch_size) -> list[list[_Unit]]:
  """Readings in batches; long contexts together, so that few rows idle."""
  groups: dict[Any, list[int]] = {}
  lengths = []
  for n, example in enumerate(examples):
    # Not kept: together long texts would fill the memory.
    lengths.append(sum(map(len, example.parts)))
    same = example.about if shares else n
    groups.setdefault(same, []).append(n)
  ordered = sorted(groups.values(), key=lambda x: (-lengths[x[0]], x[0]))
  units = [
    _Unit(tuple(members), sample)
    for members in ordered
    for sample in range(samples)
  ]
  return [units[i : i + batch_size] for i in range(0, len(units), batch_size)]


def _task(filled, units, tokenizer, agent) -> tasks.Task:
  """A batch's readings; rows that only fill it up idle."""
  task = tasks.make_task(filled, tokenizer, agent)
  samples = [unit.sample for unit in units]
  samples += [samples[-1]] * (len(filled) - len(units))
  idle = np.arange(len(filled)) >= len(units)
  length_CB = np.where(idle, 0, task.chunks.length)
  return dataclasses.replace(
    task,
    sample=np.array(samples, np.int32),
    chunks=dataclasses.replace(task.chunks, length=length_CB),
  )


def _read(policies, agent, task, key, temperature, watched):
  """Feeds one batch; keeps all turns only if rows are watched.

  Returns:
    (the last state, [(state, segments) of each turn]).
  """
  key_B = agents.row_keys(key, task)
  state, turns = agent.init(policies, task), []
  for number in range(task.chunks.length.shape[0]):
    state, segments = agents.read_jit(
      policies, agent, state, tasks.turn_at(task, number), key_B, temperature
    )
    if watched:
      turns.append((state, segments))
  return state, turns


def _rows(state: Any, rows: Sequence[int]) -> Any:
  index = np.array(rows)
  return jax.tree.map(lambda x: x[index], state)


def _ask_states(
  policies,
  agent,
  state,
  examples,
  samples,
  tokenizer,
  key,
  temperature,
  watched,
) -> list[tuple[str, list[str] | None, dict[str, Any] | None]]:
  """(answer, entries shown, record if watched) to a question of each row."""
  fill = jax.tree.leaves(state)[0].shape[0] - len(examples)
  asked = [_asked(x) for x in [*examples, *[examples[-1]] * fill]]
  task = tasks.make_task(asked, tokenizer, agent)
  sample = np.array([*samples, *[samples[-1]] * fill], np.int32)
  key_N = agents.row_keys(key, dataclasses.replace(task, sample=sample))
  segments = agents.answer_jit(
    policies, agent, state, task.query, key_N, temperature
  )
  segment = segments["answer"]
  answers = [
    tokenizer.decode(ids) for ids in token_lib.to_lists(segment.result)
  ]
  listed: list[list[str] | None] = [None] * len(asked)
  records: list[dict[str, Any] | None] = [None] * len(asked)
  if segment.listed is not None:
    state = jax.device_get(state)
    for row, ids in enumerate(np.asarray(segment.listed[: len(examples)])):
      held = agent.held(state, row)
      listed[row] = [tokenizer.decode(held[i]) for i in ids[ids >= 0]]
  if len(watched):
    segments = jax.device_get(segments)
    for row in map(int, watched):
      records[row] = traces_lib.answered(
        segments, row, agent, state, row, tokenizer
      )
  return list(zip(answers, listed, records))[: len(examples)]


def _asked(example: example_lib.Example) -> example_lib.Example:
  """Only its question: the context has been read, or need not be."""
  return dataclasses.replace(example, context="", stamps=(), bank=())


def suite(run: build.Run, policies: agents.Policies) -> dict[str, Any]:
  """Evaluates on all held-out sets.

  Returns:
    {"sets": {name: cell}, "scores": {name: of each question}, "documents":
    {name: number of what each question is about}, "metric": of the scores,
    "seed", "recall": {name: cell} where it is known what an answer needs,
    "breakdown": {label: cell} and "health": {name: mean over final states} of
    the first set, "traces": rollouts of its first examples, "verified": {name:
    cell} by the metric of the environment, where a judge is used,
    "data_sha256": {name: fingerprint of the set}, "files": {name: SHA-256} of
    what the environment read}; plain JSON.
  """
  cells, by_question, documents, hashes, recall = {}, {}, {}, {}, {}
  parts, health, traces, verified = {}, {}, [], {}
  for number, (name, examples) in enumerate(run.env.eval_sets().items()):
    greedy = ask(
      run, policies, examples, traces=0 if number else run.config.eval.traces
    )
    sampled = None
    if samples := run.config.eval.samples:
      sampled = scores.measure(
        run.env,
        ask(
          run,
          policies,
          examples,
          temperature=run.config.rollout.temperature,
          samples=samples,
        ),
      )
    score_N = scores.measure(run.env, greedy)[:, 0]
    documents[name] = example_lib.documents(examples)
    cells[name] = scores.cell(score_N, sampled, documents[name])
    by_question[name] = score_N.tolist()
    if run.judged:  # what the judge is to be compared with
      own_N = greedy.scores(run.judged.env.metric)[:, 0]
      verified[name] = scores.interval(own_N, documents[name])
    hashes[name] = example_lib.fingerprint(examples)
    if found := scores.recall(run.env, greedy):
      recall[name] = found
    if number == 0:
      parts = scores.breakdown(greedy, run.env.label)
      health = scores.memory_health(run.env, greedy)
      traces = [
        {
          "id": example.id,
          "question": example.question,
          "answers": list(example.answers),
          "rollout": {
            **trace,
            "reward": run.env.reward(example, trace["answer"]),
          },
        }
        for example, trace in zip(examples, greedy.traces)
      ]
  return {
    "sets": cells,
    "recall": recall,
    "scores": by_question,
    "documents": documents,
    "metric": getattr(run.env, "metric_name", None),
    "seed": run.config.seed,
    "breakdown": parts,
    "health": health,
    "traces": traces,
    "verified": verified,
    "data_sha256": hashes,
    "files": dict(getattr(run.env, "files", {})),
  }


def first_set(run: build.Run) -> str:
  """The held-out set that training looks at."""
  return next(iter(run.env.eval_sets()))


def quick(run: build.Run, policies: agents.Policies) -> dict[str, Any]:
  """Greedy accuracy on a part of the first held-out set: {name: cell}."""
  name = first_set(run)
  examples = run.env.eval_sets()[name][: run.config.eval.examples]
  answers = ask(run, policies, examples)
  score_N = scores.measure(run.env, answers)[:, 0]
  return {name: scores.interval(score_N, example_lib.documents(examples))}


def ask(
  run: build.Run,
  policies: agents.Policies,
  examples: Sequence[example_lib.Example],
  **changes: Any,
) -> scores.Answers:
  """`answer` with a run's settings, but for `changes`."""
  settings = {
    # Not the key of training: the same questions, whatever was trained.
    "key": jax.random.key(run.config.seed + 1),
    "batch_size": run.config.eval.batch_size,
    "judge": getattr(run.env, "judge", None),
  }
  return answer(
    policies, run.agent, run.tokenizer, examples, **settings | changes
  )
