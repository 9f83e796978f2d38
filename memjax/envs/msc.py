"""MSC-Self-Instruct: 500 questions about five chats of two people (MemGPT).

    config.data.name = "msc"
    config.data.path = "msc_self_instruct.jsonl"

A test set (arXiv 2310.08560; Apache-2.0, not part of this package), an object
per line:

    {"previous_dialogs": [{"dialog": [{"text"}], "time_back"}],
     "dialog": [{"text"}], "self_instruct": {"B": question, "A": answer},
     "metadata": {"initial_data_id"}, personas, summaries, ...}

Sessions are the previous dialogs in their order, and then `dialog`. Speakers
alternate and the first one is "Speaker 1", unless a turn says its speaker in
"id". Of the other fields nothing is read: personas and summaries, which stand
in the previous dialogs as well, have many an answer word for word.

Published scores: ROUGE-L recall and a judge (MemGPT), F1, BLEU-1 and a judge
(Memory-R1). The table by kind has all three of the former whatever
`metric_name` is. No field of a line says which session or turn an answer is
from, so there is no oracle.
"""

import collections
import os
import pathlib
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from memjax import rewards
from memjax.envs import benchmark
from memjax.envs import example as example_lib
from memjax.envs import files as files_lib

# SHA-256 of msc_self_instruct.jsonl as public repositories record it.
PUBLISHED = (
  "d3dbea36848b41dc46c0f1548d0ebf74eeaf6390d6f3fe9318e8480dc984495e",
)
SCORES = ("f1", "bleu1", "rouge_l")
COUNTS = (
  "empty_turns",  # turns without a text, dropped; the speaker changes anyway
  "empty_sessions",  # sessions without a turn, dropped
  "undated_sessions",  # previous ones without a time_back
  "odd_speakers",  # turns whose "id" is not the speaker whose turn it is
  "number_answers",  # answers that are numbers, made texts
)

_SPEAKERS = ("Speaker 1", "Speaker 2")


class Msc(benchmark.Benchmark):
  """The environment; `counts` are those of COUNTS."""

  name = "msc"

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """The published scores that need no judge."""
    return {
      name: rewards.METRICS[name](text, example.answers) for name in SCORES
    }


def load(
  path: str | os.PathLike, counts: collections.Counter[str]
) -> list[example_lib.Example]:
  """Reads a file.

  Args:
    path: of the file, .jsonl.
    counts: filled in while reading.

  Raises:
    ValueError: names the file, the line, what it has and what it should.
  """
  counts.update(dict.fromkeys(COUNTS, 0))
  records = files_lib.records(
    pathlib.Path(path), {".jsonl": files_lib.json_lines}
  )
  return [
    _example(record, example_lib.EVAL_ID + i, where, counts)
    for i, (where, record) in enumerate(records)
  ]


def _example(
  record: Mapping[str, Any],
  id: int,
  where: str,
  counts: collections.Counter[str],
) -> example_lib.Example:
  asked = files_lib.field(record, "self_instruct", Mapping, where)
  answer = files_lib.field(asked, "A", (str, int, float), f"{where}, answer")
  counts["number_answers"] += not isinstance(answer, str)
  if not str(answer).strip():
    raise ValueError(
      f"{where}: the answer (A of self_instruct) is empty, expected a text; "
      "remove the line"
    )
  parts, stamps = [], []
  dialogs = files_lib.field(record, "previous_dialogs", list, where)
  for number, session in enumerate([*dialogs, record], start=1):
    at = f"{where}, session {number}"
    turns = files_lib.field(session, "dialog", list, at)
    lines = _lines(turns, at, counts)
    if not lines:
      counts["empty_sessions"] += 1
      continue
    stamp = "now"
    if session is not record:
      stamp = session.get("time_back") or ""
      if not isinstance(stamp, str):
        raise ValueError(
          f"{at}: time_back is {stamp!r:.60}, expected a text such as "
          "'3 days ago'"
        )
      counts["undated_sessions"] += not stamp.strip()
      stamp = stamp.strip() or "earlier"
    parts.append("\n".join(lines))
    stamps.append(stamp)
  if not parts:
    raise ValueError(
      f"{where}: no session has a turn, expected at least one; remove the line"
    )
  source = record.get("metadata")
  source = source.get("initial_data_id") if isinstance(source, Mapping) else ""
  return example_lib.Example(
    id,
    files_lib.text(asked, "B", f"{where}, question"),
    tuple(parts),
    (str(answer).strip(),),
    {"source": str(source or ""), "speakers": _SPEAKERS},
    tuple(stamps),
  )


def _lines(
  turns: Sequence[Any], where: str, counts: collections.Counter[str]
) -> list[str]:
  """`Speaker 1: text` of each turn."""
  lines = []
  for number, turn in enumerate(turns):
    at = f"{where}, turn {number + 1}"
    text = " ".join(files_lib.field(turn, "text", str, at).split())
    speaker = _SPEAKERS[number % 2]
    if turn.get("id") in _SPEAKERS:
      counts["odd_speakers"] += turn["id"] != speaker
      speaker = turn["id"]
    counts["empty_turns"] += not text
    if text:
      lines.append(f"{speaker}: {text}")
  return lines


def make(
  path: str,
  reward_name: str = "reward_f1",
  metric_name: str = "f1",
  seed: int = 0,
) -> Msc:
  """Loads the file.

  Args:
    path: of msc_self_instruct.jsonl.
    reward_name: key of `rewards.REWARDS`, for the rollouts of the report.
    metric_name: key of `rewards.METRICS`.
    seed: not used; nothing is drawn.

  Raises:
    ValueError: the file is malformed, or a name is unknown.
  """
  del seed
  return Msc.of(path, "msc", load, PUBLISHED, reward_name, metric_name)
