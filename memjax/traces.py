"""What an agent did, for people: prompts, tokens and memories, turn by turn.

Evaluation records single rollouts with it, training whole groups with their
rewards and advantages; `report_rollouts` says what the records look like.

Dimension key: W contexts, G rollouts of each, q questions of each; B = W * G
rows of a batch, row b = w * G + g; answers are numbered b * q + i.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from memjax import agents
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib

Judge = Callable[
  [example_lib.Example, int, Sequence[str], Sequence[str]],
  tuple[set[str], set[str]],
]

# Longer prompts lose their middle; the template, the question and most of a
# memory stand in the first and the last half of what stays.
PROMPT_TOKENS = 600

# The bytes of a character, and so the most tokens that it can be parted into.
_CHARACTER_BYTES = 4


def pieces(tokenizer: tokenizer_lib.Tokenizer, ids: Sequence[int]) -> list[str]:
  """The text of each token; joined they are the whole, special tokens kept.

  A character of several tokens stands at its last one, the others are "".
  """
  gap = " " if tokenizer.parts_words else ""
  found, waiting = [], []
  for i in ids:
    waiting.append(int(i))
    text = tokenizer.backend.decode(waiting)
    if text.endswith("\ufffd") and len(waiting) < _CHARACTER_BYTES:
      found.append("")
      continue
    found.append(gap + text)
    waiting = []
  if waiting:  # cut at the limit, in the middle of a character
    found[-1] = gap + tokenizer.backend.decode(waiting)
  return found


def call(
  op: str,
  segment: agents.Segment,
  row: int,
  tokenizer: tokenizer_lib.Tokenizer,
  adv: float | None = None,
) -> dict[str, Any]:
  """One call to the model: its prompt, cut, and its tokens with log-probs.

  Args:
    op: name of the operation.
    segment: rows of calls.
    row: which.
    tokenizer: the policy's.
    adv: the advantage of its tokens, where there is one.
  """
  prompt = _prompt(segment, row)
  ids = _ids(segment.response.tokens, row)
  record = {
    "op": op,
    "prompt": tokenizer.decode(prompt),
    "prompt_tokens": len(prompt),
    "tokens": pieces(tokenizer, ids),
    "logp": _round(np.asarray(segment.response.logp[row])[: len(ids)]),
    "truncated": bool(segment.response.truncated[row]),
    "malformed": bool(segment.malformed[row]),
  }
  if len(prompt) > PROMPT_TOKENS:
    half = PROMPT_TOKENS // 2
    record["prompt"] = tokenizer.decode(prompt[:half])
    record["prompt_end"] = tokenizer.decode(prompt[-half:])
    record["prompt_left_out"] = len(prompt) - 2 * half
  if adv is not None:
    record["adv"] = _round(adv)
  return record


def active_calls(
  segments: Mapping[str, agents.Segment], row: int, batch: int
) -> list[tuple[str, agents.Segment, int]]:
  """(operation, segment, its row) of each call that took place for a row."""
  return [
    (op, segment, place)
    for op, segment in segments.items()
    for place in range(row, segment.active.shape[0], batch)
    if bool(segment.active[place])
  ]


def turns(
  history: Sequence[tuple[Any, Mapping[str, agents.Segment]]],
  row: int,
  batch: int,
  task: tasks.Task,
  context: int,
  tokenizer: tokenizer_lib.Tokenizer,
  agent: agents.Agent,
  example: example_lib.Example,
  judge: Judge | None,
  adv: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
  """The turns of one row.

  Args:
    history: the state after each turn, and its calls.
    row: of the states and the calls.
    batch: B, rows of a state.
    task: what was read.
    context: the column of the task that the row has read.
    tokenizer: the policy's.
    agent: the agent.
    example: the first of that context.
    judge: says of each session which changes were right.
    adv: the advantage of each operation that has one.
  """
  found, session_start = [], list(example.bank)
  count = int((np.asarray(task.chunks.length[:, context]) > 0).sum())
  for number, (state, segments) in enumerate(history[:count]):
    calls = [
      call(op, segment, place, tokenizer, (adv or {}).get(op))
      for op, segment, place in active_calls(segments, row, batch)
    ]
    texts = [
      (op, tokenizer.decode(_ids(segment.response.tokens, place)))
      for op, segment, place in active_calls(segments, row, batch)
    ]
    after = [tokenizer.decode(ids) for ids in agent.shown(state, row)]
    turn = {
      "chunk": tokenizer.decode(
        _ids(tasks.turn_at(task, number, agent.questions).chunk, context)
      ),
      "response": texts[0][1]
      if [op for op, _ in texts] == ["update"]
      else "\n".join(f"{op}: {text}" for op, text in texts),
      "memory": "\n".join(after),
      "truncated": any(x["truncated"] for x in calls),
      "malformed": any(x["malformed"] for x in calls),
      "calls": calls,
    }
    if hasattr(agent, "held"):
      # Where entries keep the turns that they come from, these too.
      held = agent.held(state, row)
      turn["entries"] = [[i, tokenizer.decode(x)] for i, x in held.items()]
      turn["memory"] = "\n".join(text for _, text in turn["entries"])
    session = int(task.session[number, context])
    ends = number + 1 == count
    ends = ends or int(task.session[number + 1, context]) != session
    if judge and ends:
      right, made = judge(example, session, session_start, after)
      turn["changes"] = [
        *(f"{x}: right" for x in sorted(made & right)),
        *(f"{x}: wrong" for x in sorted(made - right)),
        *(f"{x}: missed" for x in sorted(right - made)),
      ]
      session_start = after
    found.append(turn)
  return found


def groups(
  episode: agents.Episode,
  agent: agents.Agent,
  env: Any,
  tokenizer: tokenizer_lib.Tokenizer,
  examples: Sequence[example_lib.Example],
  task: tasks.Task,
  picked: Sequence[int],
  outcome_WGq: np.ndarray,
  rewards: Mapping[str, Mapping[str, np.ndarray]],
  adv: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
  """Some groups of a wave of training, all rollouts of each.

  Args:
    episode: of the wave.
    agent: the agent.
    env: may have `judge`.
    tokenizer: the policy's.
    examples: W * q, in order.
    task: of the W contexts.
    picked: which of these.
    outcome_WGq: what the verifier gave to each answer.
    rewards: by operation, what each term gave, as `credit.terms` has it.
    adv: by operation, [B] or, of calls that each question takes, [B * q].
  """
  if not len(picked):
    return []
  episode = jax.device_get(episode)
  history = [
    jax.tree.map(lambda x, c=c: x[c], (episode.states, episode.turns))
    for c in range(task.chunks.length.shape[0])
  ]
  q, B = agent.questions, episode.answer.active.shape[0] // agent.questions
  G, found = B // task.chunks.length.shape[1], []
  last = history[-1][0]
  for w in map(int, picked):
    asked, group = examples[w * q : (w + 1) * q], []
    for b in range(w * G, (w + 1) * G):
      mine = {op: x[b] for op, x in adv.items() if op not in episode.asked}
      group.append(
        {
          "turns": turns(
            history,
            b,
            B,
            task,
            w,
            tokenizer,
            agent,
            asked[0],
            getattr(env, "judge", None),
            mine,
          ),
          "rewards": _rewards(rewards, mine, (w, b - w * G)),
          "asked": [
            {
              "question": example.question,
              "answers": list(example.answers),
              **answered(episode.asked, b * q + i, agent, last, b, tokenizer),
            }
            for i, example in enumerate(asked)
          ],
        }
      )
      for i, record in enumerate(group[-1]["asked"]):
        record["reward"] = _round(outcome_WGq[w, b - w * G, i])
        mine = {op: adv[op][b * q + i] for op in episode.asked if op in adv}
        record["rewards"] = _rewards(rewards, mine, (w, b - w * G, i))
        for made in record["calls"]:
          if made["op"] in mine:
            made["adv"] = _round(mine[made["op"]])
    # All have read the same.
    chunks = [turn["chunk"] for turn in group[0]["turns"]]
    for turn in (turn for rollout in group for turn in rollout["turns"]):
      del turn["chunk"]
    found.append(
      {
        "id": asked[0].id,
        "question": asked[0].question,
        "answers": list(asked[0].answers),
        "start": list(asked[0].bank) if agent.holds_entries else [],
        "chunks": chunks,
        "group": group,
      }
    )
  return found


def answered(
  asked: Mapping[str, agents.Segment],
  row: int,
  agent: agents.Agent,
  state: Any,
  state_row: int,
  tokenizer: tokenizer_lib.Tokenizer,
) -> dict[str, Any]:
  """An answer with its calls, and the entries that it was shown.

  Args:
    asked: segments by operation, of the host.
    row: of these.
    agent: the agent.
    state: that the answer was given from, of the host.
    state_row: of the state.
    tokenizer: the policy's.
  """
  segment, listed = asked["answer"], []
  if segment.listed is not None:
    held = agent.held(state, state_row)
    ids = np.asarray(segment.listed[row])
    listed = [tokenizer.decode(held[int(i)]) for i in ids[ids >= 0]]
  return {
    "answer": tokenizer.decode(_ids(segment.result, row)),
    "response": tokenizer.decode(_ids(segment.response.tokens, row)),
    "listed": listed,
    "calls": [
      call(op, x, place, tokenizer)
      for op, x, place in active_calls(asked, row, segment.active.shape[0])
    ],
  }


def _rewards(
  rewards: Mapping[str, Mapping[str, np.ndarray]],
  adv: Mapping[str, float],
  place: tuple[int, ...],
) -> dict[str, Any]:
  """By operation: what each term gave, their sum and the advantage."""
  found = {}
  for op, value in adv.items():
    terms = {name: float(x[place]) for name, x in rewards[op].items()}
    found[op] = {
      "terms": {name: _round(x) for name, x in terms.items()},
      "reward": _round(sum(terms.values())),
      "adv": _round(value),
    }
  return found


def _prompt(segment: agents.Segment, row: int) -> list[int]:
  """The ids that a row has read."""
  shared, own = token_lib.parts(segment.prompt)
  first = _ids(shared, row // segment.prompt.group) if shared else []
  return first + _ids(own, row)


def _ids(tokens: Any, row: int) -> list[int]:
  """The ids of a row."""
  return np.asarray(tokens.ids[row])[: int(tokens.length[row])].tolist()


def _round(x: Any) -> Any:
  """Floats of JSON; 1e-4 nats are less than float32 makes of a long sum."""
  return np.round(np.asarray(x, np.float64), 4).tolist()
