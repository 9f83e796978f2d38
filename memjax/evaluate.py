"""Evaluation: the compiled turn fed chunk by chunk from the host.

No length needs a new compile, and a text of 4M tokens needs no more device
memory than one of 4K. Every accuracy comes with a 95 % interval over questions.

Dimension key: N examples, K samples of each, B rows of a batch.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memjax import agents
from memjax import build
from memjax import metrics as metrics_lib
from memjax import qwen3
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import recurrent

Metric = Callable[[example_lib.Example, str], float]


@dataclasses.dataclass(frozen=True)
class Answers:
  """What an agent answered.

  Attributes:
    examples: N examples.
    texts: K answers to each of them, decoded.
    traces: what happened in each turn of the first rows, as the report wants.
  """

  examples: Sequence[example_lib.Example]
  texts: list[list[str]]
  traces: list[dict[str, Any]]

  def scores(self, metric: Metric) -> np.ndarray:
    """The metric of every answer, float64 [N, K]."""
    return np.array(
      [
        [metric(example, text) for text in texts]
        for example, texts in zip(self.examples, self.texts)
      ],
      np.float64,
    )


def answer(
  params: qwen3.Params,
  spec: agents.Spec,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[example_lib.Example],
  *,
  key: jax.Array,
  batch_size: int,
  temperature: float = 0.0,
  samples: int = 1,
  memories: Sequence[str] | None = None,
  traces: int = 0,
) -> Answers:
  """Lets the agent read and answer.

  Args:
    params: the policy.
    spec: the agent.
    tokenizer: the policy's.
    examples: N examples, of any lengths.
    key: a row draws from (key, example id, sample, turn).
    batch_size: B; the last batch is filled up with idle rows.
    temperature: 0 is greedy.
    samples: K answers to each example.
    memories: instead of reading, answer from these N memories.
    traces: record the turns of the first sample of so many first examples.

  Raises:
    ValueError: there is no example, or a given memory does not fit.
  """
  if not examples:
    raise ValueError("there is no example to evaluate on")
  count = len(examples) * samples
  texts = [[""] * samples for _ in examples]
  recorded: dict[int, dict[str, Any]] = {}
  # Long texts together, so that few rows idle.
  order = sorted(
    range(count), key=lambda i: (-len(examples[i // samples].context), i)
  )
  for start in range(0, count, batch_size):
    rows = order[start : start + batch_size]
    filled = rows + [rows[-1]] * (batch_size - len(rows))
    picked = [examples[i // samples] for i in filled]
    task = agents.make_task(picked, tokenizer, spec)
    sample = np.array([i % samples for i in filled], np.int32)
    idle = np.arange(batch_size) >= len(rows)
    length_CB = np.where(idle, 0, task.chunks.length)
    task = dataclasses.replace(
      task,
      sample=sample,
      chunks=dataclasses.replace(task.chunks, length=length_CB),
    )
    watched = [
      (b, i // samples)
      for b, i in enumerate(rows)
      if i % samples == 0 and i // samples < traces
    ]
    given = None
    if memories is not None:
      ids = tokenizer.encode_batch([memories[i // samples] for i in filled])
      given = token_lib.from_lists(ids, spec.op.capacity)
    turns, segment = _read(params, spec, task, key, temperature, given, watched)
    ids = token_lib.to_lists(segment.result)
    for b, i in enumerate(rows):
      texts[i // samples][i % samples] = tokenizer.decode(ids[b])
    for b, n in watched:
      recorded[n] = {
        "turns": _decoded(turns, b, task, tokenizer),
        "answer": texts[n][0],
      }
  return Answers(examples, texts, [recorded[n] for n in sorted(recorded)])


def _read(params, spec, task, key, temperature, given, watched):
  """Feeds one batch; keeps the segments of all turns only if rows are watched.

  Returns:
    (segments of the turns, segment of the answer).
  """
  key_B = agents.row_keys(key, task)
  turns, memory = [], given
  if given is None:
    memory = recurrent.init_memory(spec.op, len(task.id))
    for turn in range(task.chunks.length.shape[0]):
      segment = agents.read_turn_jit(
        params,
        spec,
        memory,
        task.question,
        agents.chunk_at(task, turn),
        turn,
        key_B,
        temperature,
      )
      memory = segment.result
      if watched:
        turns.append(segment)
  segment = agents.answer_turn_jit(
    params, spec, memory, task.question, key_B, temperature
  )
  return turns, segment


def _decoded(turns, row: int, task, tokenizer) -> list[dict[str, Any]]:
  """The turns of one row for people."""
  decoded = []
  at = lambda tokens: tokenizer.decode(
    np.asarray(tokens.ids[row])[: int(tokens.length[row])]
  )
  for turn, segment in enumerate(turns):
    if not bool(segment.active[row]):
      continue
    decoded.append(
      {
        "chunk": at(agents.chunk_at(task, turn)),
        "response": at(segment.response.tokens),
        "memory": at(segment.result),
        "truncated": bool(segment.response.truncated[row]),
        "malformed": bool(segment.malformed[row]),
      }
    )
  return decoded


def interval(score_N: np.ndarray) -> dict[str, Any]:
  """Mean of one score per question, its 95 % interval, and n.

  Wilson where all scores are 0 or 1; otherwise, for scores in between such as
  F1 or a mean over samples, mean +- 1.96 standard errors, cut to [0, 1].
  """
  n, mean = len(score_N), float(score_N.mean())
  if np.isin(score_N, (0.0, 1.0)).all():
    low, high = metrics_lib.wilson(float(score_N.sum()), n)
  else:
    # One score says nothing about the spread.
    spread = float(score_N.std(ddof=1)) if n > 1 else float("inf")
    half = 1.959964 * spread / n**0.5
    low, high = max(0.0, mean - half), min(1.0, mean + half)
  return {"accuracy": mean, "low": low, "high": high, "n": n}


def cell(
  greedy_N: np.ndarray, sampled_NK: np.ndarray | None = None
) -> dict[str, Any]:
  """A table's entry: greedy accuracy with interval, and avg@K if sampled."""
  entry = interval(greedy_N)
  if sampled_NK is not None:
    sampled = interval(sampled_NK.mean(axis=1))
    entry |= {
      "sampled": sampled["accuracy"],
      "sampled_low": sampled["low"],
      "sampled_high": sampled["high"],
      "sampled_n": sampled["n"],
      "samples": sampled_NK.shape[1],
    }
  return entry


def breakdown(
  answers: Answers,
  label: Callable[[example_lib.Example, str], Mapping[str, float]],
) -> dict[str, dict[str, Any]]:
  """One entry for each label that an environment gives to some answers."""
  scores: dict[str, list[float]] = {}
  for example, texts in zip(answers.examples, answers.texts):
    for name, score in label(example, texts[0]).items():
      scores.setdefault(name, []).append(score)
  return {name: interval(np.array(x)) for name, x in sorted(scores.items())}


def suite(run: build.Run, params: qwen3.Params) -> dict[str, Any]:
  """Evaluates on all held-out sets.

  Returns:
    {"sets": {name: cell}, "breakdown": {label: cell} of the first set,
    "traces": rollouts of its first examples}; plain JSON.
  """
  cells, parts, traces = {}, {}, []
  for number, (name, examples) in enumerate(run.env.eval_sets().items()):
    greedy = _ask(run, params, examples, traces=0 if number else -1)
    sampled = None
    if samples := run.config.eval.samples:
      sampled = _ask(
        run,
        params,
        examples,
        temperature=run.config.rollout.temperature,
        samples=samples,
      ).scores(run.env.metric)
    cells[name] = cell(greedy.scores(run.env.metric)[:, 0], sampled)
    if number == 0:
      parts = breakdown(greedy, run.env.label)
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
  return {"sets": cells, "breakdown": parts, "traces": traces}


def first_set(run: build.Run) -> str:
  """The held-out set that training looks at."""
  return next(iter(run.env.eval_sets()))


def quick(run: build.Run, params: qwen3.Params) -> dict[str, Any]:
  """Greedy accuracy on a part of the first held-out set: {name: cell}."""
  name = first_set(run)
  examples = run.env.eval_sets()[name][: run.config.eval.examples]
  answers = _ask(run, params, examples)
  return {name: interval(answers.scores(run.env.metric)[:, 0])}


def controls(run: build.Run, params: qwen3.Params) -> dict[str, dict[str, Any]]:
  """Accuracy with the memory blanked before the answer, and with the right one.

  The second needs examples that know their oracle memory; without it the
  control is left out.
  """
  found = {"empty_memory": {}, "oracle": {}}
  for name, examples in run.env.eval_sets().items():
    memories = {"empty_memory": [""] * len(examples)}
    if all("oracle" in example.meta for example in examples):
      memories["oracle"] = [example.meta["oracle"] for example in examples]
    for control, given in memories.items():
      answers = _ask(run, params, examples, memories=given)
      found[control][name] = interval(answers.scores(run.env.metric)[:, 0])
  return {control: cells for control, cells in found.items() if cells}


def _ask(run: build.Run, params, examples, traces=0, **kwargs) -> Answers:
  """`answer` with a run's settings; traces=-1 records as many as configured."""
  return answer(
    params,
    run.spec,
    run.tokenizer,
    examples,
    # Not the key of training: the same questions, whatever was trained.
    key=jax.random.key(run.config.seed + 1),
    batch_size=run.config.eval.batch_size,
    traces=run.config.eval.traces if traces else 0,
    **kwargs,
  )
