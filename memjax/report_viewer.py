"""Shapes recorded rollouts for the viewer: differences, marks, cuts.

The script of the page (templates/viewer.js) lays out what `view` returns, and
computes nothing: {"examples": [EXAMPLE]}, with

  EXAMPLE = {"kind", "title", "question", "gold": [str], "right": "3 of 8" of a
    group, "rollouts": [ROLLOUT], "tables": [{"title", "columns": [str],
    "rows": [[number]]}]}
  ROLLOUT = {"label", "mark": "right", "wrong" or "2 of 4", "steps": [STEP]}
  STEP = {"label", "title", "skipped": turns left out before it, "flags":
    [[kind, str]], "calls": [CALL], "chunk": CUT or None, "memory": MEMORY,
    "answer": ANSWER or None, "tables": [indices of EXAMPLE's tables]}
  CALL = {"op", "prompt": CUT, "size": tokens of the prompt, "tokens": [str],
    "logp": [float], "adv": float or None, "flags"}
  CUT = {"text": SEGMENTS, "left_out": int, "unit": str, "end": SEGMENTS}
  MEMORY = {"same": bool, "before": SEGMENTS, "after": SEGMENTS} or
    {"same": bool, "entries": [[id, status, SEGMENTS, SEGMENTS]]}
  SEGMENTS = [["" or "mark", "ins", "del"; str]]
"""

import difflib
import math
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

Segments = list[list[str]]

# A rollout counts as right from this reward on: rewards here are 0 or 1, plus
# or minus small terms for format.
RIGHT_REWARD = 0.5

# Of a text that no prompt shows; longer ones lose their middle.
_CHUNK_CHARS = 2400
# Turns at the beginning, and as many at the end, of longer rollouts.
_TURNS = 24

# One word or one other sign, with the white space after it.
_WORD = re.compile(r"^\s+|(?:\w+|[^\w\s])\s*")

# JSON files have their keys sorted.
_TERMS = ("outcome", "format", "citation", "truth", "penalty")
_SIDES = {"before": "before training", "after": "after training"}
_CHANGES = {"right": "right", "wrong": "wrong", "missed": "flag"}
_FLAGS = ("truncated", "malformed")


def view(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """What the script lays out, of rollouts as `report_rollouts` describes."""
  shape = lambda x: _group(x) if "group" in x else _task(x)
  return {"examples": [shape(x) for x in rollouts]}


def diff(old: str, new: str) -> tuple[Segments, Segments]:
  """The old text with what goes marked "del", the new with what comes "ins".

  Words and signs are compared, not the white space between them. Worked
  example: "a b" and "a, c b" give [a b] and [a][ins , c][ b].
  """
  olds, news = _WORD.findall(old), _WORD.findall(new)
  matcher = difflib.SequenceMatcher(
    None,
    [word.strip() for word in olds],
    [word.strip() for word in news],
    autojunk=False,
  )
  before, after = [], []
  for op, i, i_end, j, j_end in matcher.get_opcodes():
    same = op == "equal"
    _add(before, "" if same else "del", "".join(olds[i:i_end]))
    _add(after, "" if same else "ins", "".join(news[j:j_end]))
  return before, after


def entries_diff(
  old: Sequence[Sequence[Any]], new: Sequence[Sequence[Any]]
) -> list[list[Any]]:
  """[id, status, text before, text after] of the entries of two banks.

  The status is "kept", "changed", "added" or "deleted"; the order that of ids.
  """
  olds, news = dict(map(tuple, old)), dict(map(tuple, new))
  rows = []
  for i in sorted(olds | news):
    if i not in news:
      rows.append([i, "deleted", [["del", olds[i]]], []])
    elif i not in olds:
      rows.append([i, "added", [], [["ins", news[i]]]])
    else:
      status = "kept" if olds[i] == news[i] else "changed"
      rows.append([i, status, *diff(olds[i], news[i])])
  return rows


def answers_pattern(answers: Sequence[str]) -> re.Pattern | None:
  """Matches a gold answer as whole words, in any case; None without one."""
  texts = sorted({a.strip() for a in answers if a.strip()}, key=len)
  if not texts:
    return None
  options = "|".join(map(re.escape, reversed(texts)))
  return re.compile(rf"(?<!\w)(?:{options})(?!\w)", re.IGNORECASE)


def marked(text: str, pattern: re.Pattern | None) -> Segments:
  """The text with what the pattern matches marked."""
  segments, end = [], 0
  for match in pattern.finditer(text) if pattern else ():
    _add(segments, "", text[end : match.start()])
    _add(segments, "mark", match.group())
    end = match.end()
  _add(segments, "", text[end:])
  return segments


def _add(segments: Segments, kind: str, text: str) -> None:
  """Appends a text; the white space behind a marked one is not marked."""
  body = text.rstrip() if kind else text
  for part, its_kind in ((body, kind), (text[len(body) :], "")):
    if part and segments and segments[-1][0] == its_kind:
      segments[-1][1] += part
    elif part:
      segments.append([its_kind, part])


def _task(task: Mapping[str, Any]) -> dict[str, Any]:
  """A held-out question as it was answered before and after training."""
  gold = list(task["answers"])
  rollouts = []
  for side, label in _SIDES.items():
    if not task.get(side):
      continue
    rollout = task[side]
    asked = [{"question": task["question"], "answers": gold, **rollout}]
    chunks = [turn["chunk"] for turn in rollout["turns"]]
    rollouts.append(
      {
        "label": label,
        "mark": _mark(asked),
        "steps": _steps(rollout, asked, chunks, rollout.get("start") or (), 0),
      }
    )
  return {
    "kind": "Held out",
    "title": f"Task {task['id']}",
    "question": task["question"],
    "gold": gold,
    "right": "",
    "rollouts": rollouts,
    "tables": [],
  }


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
  """A group of training, with the rewards that its advantages come from."""
  members = group["group"]
  tables = [
    _table(op, [member["rewards"][op] for member in members])
    for op in members[0]["rewards"]
  ]
  shared = len(tables)
  for i, asked in enumerate(members[0]["asked"]):
    many = len(members[0]["asked"]) > 1
    tables += [
      _table(
        f"{op}, question {i + 1}" if many else op,
        [member["asked"][i]["rewards"][op] for member in members],
      )
      for op in asked["rewards"]
    ]
  more = len(members[0]["asked"]) - 1
  return {
    "kind": f"Training, iteration {group['iteration']}",
    "title": f"Example {group['id']}",
    "question": group["question"] + (f" (and {more} more)" if more else ""),
    "gold": [] if more else list(group["answers"]),
    "right": _mark([x for member in members for x in member["asked"]]),
    "rollouts": [
      {
        "label": str(number),
        "mark": _mark(member["asked"]),
        "steps": _steps(
          member, member["asked"], group["chunks"], group["start"], shared
        ),
      }
      for number, member in enumerate(members, 1)
    ],
    "tables": tables,
  }


def _mark(asked: Sequence[Mapping[str, Any]]) -> str:
  """Says "right" or "wrong", or how many of several answers are right."""
  right = sum(x["reward"] >= RIGHT_REWARD for x in asked)
  if len(asked) == 1:
    return "right" if right else "wrong"
  return f"{right} of {len(asked)}"


def _table(title: str, rewards: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
  """Terms that any member has, the reward and the advantage of each."""
  names = [
    name for name in _TERMS if any(x["terms"].get(name) for x in rewards)
  ]
  return {
    "title": title,
    "columns": [*names, "reward", "advantage"],
    "rows": [
      [*(_number(x["terms"][name]) for name in names)]
      + [_number(x["reward"]), _number(x["adv"])]
      for x in rewards
    ],
  }


def _steps(
  rollout: Mapping[str, Any],
  asked: Sequence[Mapping[str, Any]],
  chunks: Sequence[str],
  start: Sequence[str],
  shared: int,
) -> list[dict[str, Any]]:
  """A step for each turn, and one for each question."""
  turns = rollout["turns"]
  pattern = answers_pattern([gold for x in asked for gold in x["answers"]])
  held = [{"memory": "\n".join(start), "entries": list(enumerate(start))}]
  held += turns
  steps = []
  for number, turn in enumerate(turns):
    if _TURNS <= number < len(turns) - _TURNS:
      continue
    jumps = number == len(turns) - _TURNS > _TURNS
    calls = [_call(x, pattern) for x in turn.get("calls") or ()]
    steps.append(
      {
        "label": str(number + 1),
        "title": f"Turn {number + 1} of {len(turns)}",
        "skipped": number - _TURNS if jumps else 0,
        "flags": _flags(turn, chunks[number], pattern),
        "calls": calls,
        # The prompt of the first call has it otherwise.
        "chunk": None if calls else _cut(chunks[number], pattern),
        "memory": _memory(held[number], turn, pattern),
        "answer": None,
        "tables": list(range(shared)),
      }
    )
  per_question = len(asked[0].get("rewards") or ())
  for i, x in enumerate(asked):
    pattern = answers_pattern(x["answers"])
    first = shared + i * per_question
    steps.append(
      {
        "label": "answer" if len(asked) == 1 else f"answer {i + 1}",
        "title": "Answer" if len(asked) == 1 else f"Answer {i + 1}",
        "skipped": 0,
        "flags": [],
        "calls": [_call(call, pattern) for call in x.get("calls") or ()],
        "chunk": None,
        "memory": _memory(held[-1], held[-1], pattern),
        "answer": {
          "question": x["question"],
          "gold": list(x["answers"]),
          "text": x["answer"],
          "response": x.get("response", ""),
          "listed": [marked(text, pattern) for text in x.get("listed") or ()],
          "mark": _mark([x]),
          "reward": _number(x["reward"]),
        },
        "tables": list(range(first, first + per_question)),
      }
    )
  return steps


def _flags(
  turn: Mapping[str, Any], chunk: str, pattern: re.Pattern | None
) -> list[list[str]]:
  """What a turn's head says of it, with the class that colours it."""
  flags = []
  if pattern and pattern.search(chunk):
    flags.append(["found", "answer in the text"])
  if pattern and pattern.search(turn["memory"]):
    flags.append(["found", "answer in memory"])
  flags += [["flag", name] for name in _FLAGS if turn.get(name)]
  for change in turn.get("changes") or ():
    verdict = change.rsplit(": ", 1)[-1]
    flags.append([_CHANGES.get(verdict, "plain"), change])
  return flags


def _call(
  call: Mapping[str, Any], pattern: re.Pattern | None
) -> dict[str, Any]:
  """A call to the model; what the prompt leaves out is counted."""
  left_out = call.get("prompt_left_out", 0)
  return {
    "op": call["op"],
    "prompt": {
      "text": marked(call["prompt"], pattern),
      "left_out": left_out,
      "unit": "tokens",
      "end": marked(call["prompt_end"], pattern) if left_out else [],
    },
    "size": call["prompt_tokens"],
    "tokens": list(call["tokens"]),
    "logp": [_number(x) for x in call["logp"]],
    "adv": _number(call["adv"]) if "adv" in call else None,
    "flags": [["flag", name] for name in _FLAGS if call[name]],
  }


def _cut(text: str, pattern: re.Pattern | None) -> dict[str, Any]:
  """A text without its middle, if it is long."""
  left_out = max(len(text) - _CHUNK_CHARS, 0)
  half = _CHUNK_CHARS // 2
  first, end = (text[:half], text[-half:]) if left_out else (text, "")
  return {
    "text": marked(first, pattern),
    "left_out": left_out,
    "unit": "characters",
    "end": marked(end, pattern),
  }


def _memory(
  before: Mapping[str, Any],
  after: Mapping[str, Any],
  pattern: re.Pattern | None,
) -> dict[str, Any]:
  """The memory around a turn; the answers are marked in one that stays."""
  if "entries" in after and ("entries" in before or not before["memory"]):
    rows = entries_diff(before.get("entries") or (), after["entries"])
    same = all(status == "kept" for _, status, _, _ in rows)
    if same:
      held = after["entries"]
      rows = [[i, "kept", [], marked(text, pattern)] for i, text in held]
    return {"same": same, "entries": rows}
  same = before["memory"] == after["memory"]
  old, new = diff(before["memory"], after["memory"])
  if same:
    new = marked(after["memory"], pattern)
  return {"same": same, "before": old, "after": new}


def _number(x: Any) -> float | None:
  """JSON has no NaN; four digits are enough to read."""
  return round(float(x), 4) if math.isfinite(float(x)) else None
