"""Tasks: examples as arrays, cut into the chunks that an agent reads.

Dimension key: B contexts, N questions (N = B times questions per context), C
chunks, S chunk tokens, D stamp tokens.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import jax
import numpy as np

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib


class Shape(Protocol):
  """What of an agent decides how examples become arrays.

  Attributes:
    chunk_tokens: S, tokens read per turn.
    question_tokens: the most tokens of a question.
    questions: asked about each context.
    stamp_tokens: D, the most tokens of a session's stamp; 0: entries get none.
    stamp_text: how a stamp is written before an entry, with {stamp}.
    reads_stamps: a session's stamp stands at the head of what is read.
    holds_entries: the state can hold entries beforehand; an agent whose state
      cannot reads them first.
  """

  chunk_tokens: int
  question_tokens: int
  questions: int
  stamp_tokens: int
  stamp_text: str
  reads_stamps: bool
  holds_entries: bool


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Query:
  """N questions.

  Attributes:
    question: rows [N] of capacity question_tokens.
    speakers: names of the conversation's speakers, ids [N, P, T] and length
      [N, P]; P is 0 where there are none.
  """

  question: token_lib.Tokens
  speakers: token_lib.Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Task:
  """B contexts as arrays, with N questions about them in order.

  Attributes:
    query: the N questions.
    chunks: ids [C, B, S] and length [C, B]; shorter contexts have trailing
      chunks of length 0, which are not read.
    stamps: ids [C, B, D] and length [C, B], of each chunk's session.
    session: int32 [C, B], the number of each chunk's session.
    prior: ids [B, P, M] and length [B, P], entries held beforehand.
    id: int32 [N], the examples' ids.
    sample: int32 [N], which of its group's rollouts a row is.
  """

  query: Query
  chunks: token_lib.Tokens
  stamps: token_lib.Tokens
  session: jax.Array
  prior: token_lib.Tokens
  id: jax.Array
  sample: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Turn:
  """What an agent is given to read at once.

  Attributes:
    question: of each row; agents whose memory must serve any question do not
      look at it.
    chunk: rows of capacity S.
    stamp: of the chunk's session.
    session: int32 [B], its number.
    number: int32, the chunk's.
    speakers: names, ids [B, P, T] and length [B, P].
  """

  question: token_lib.Tokens
  chunk: token_lib.Tokens
  stamp: token_lib.Tokens
  session: jax.Array
  number: jax.Array | int
  speakers: token_lib.Tokens


def check_questions(
  examples: Sequence[example_lib.Example],
  tokenizer: tokenizer_lib.Tokenizer,
  agent: Shape,
) -> list[list[int]]:
  """The questions' ids.

  Raises:
    ValueError: a question is longer than question_tokens, or empty.
  """
  questions = tokenizer.encode_batch([e.question for e in examples])
  for example, ids in zip(examples, questions):
    if not 1 <= len(ids) <= agent.question_tokens:
      raise ValueError(
        f"example {example.id}: the question {example.question[:60]!r} has "
        f"{len(ids)} tokens, expected 1 to {agent.question_tokens}: raise "
        "config.agent.question_tokens or shorten the question"
      )
  return questions


def contexts(
  examples: Sequence[example_lib.Example], questions: int
) -> list[example_lib.Example]:
  """The first example of each context, `questions` of them to each.

  Raises:
    ValueError: neighbours do not share their context.
  """
  first = list(examples[::questions])
  read = lambda example: (example.context, example.stamps, example.bank)
  for i, example in enumerate(examples):
    if i % questions and read(example) != read(first[i // questions]):
      raise ValueError(
        f"examples {first[i // questions].id} and {example.id} differ in their "
        f"context, but {questions} questions are asked about each: set "
        "config.agent.questions=1, or the environment's number to the same"
      )
  return first


def make_task(
  examples: Sequence[example_lib.Example],
  tokenizer: tokenizer_lib.Tokenizer,
  agent: Shape,
  max_chunks: int | None = None,
  num_chunks: int | None = None,
) -> Task:
  """Tokenises examples and cuts their contexts into chunks (host, numpy).

  A part of n tokens has ceil(n / chunk_tokens) chunks, none if it is empty; a
  stamp stands at the head of its part. With `max_chunks`, a longer context
  loses its middle: the first and the last half stay (MemAgent's training rule;
  of a context of several parts, whole chunks go). With `num_chunks`, C is
  padded to it.

  Raises:
    ValueError: a question is longer than question_tokens, or empty; a stamp
      does not fit; questions of one context differ in it.
  """
  S, B = agent.chunk_tokens, len(examples) // agent.questions
  firsts = contexts(examples, agent.questions)
  questions = check_questions(examples, tokenizer, agent)
  if not agent.holds_entries:
    firsts = [_read_first(example) for example in firsts]
  stamped = agent.reads_stamps
  cut = [_chunks(e, tokenizer, S, stamped, max_chunks) for e in firsts]
  C = max([len(x) for x in cut] + [num_chunks or 0])
  ids_CBS = np.full((C, B, S), tokenizer.pad_id, np.int32)
  length_CB = np.zeros((C, B), np.int32)
  session_CB = np.zeros((C, B), np.int32)
  for b, chunks in enumerate(cut):
    for c, (session, chunk) in enumerate(chunks):
      ids_CBS[c, b, : len(chunk)] = chunk
      length_CB[c, b] = len(chunk)
      session_CB[c, b] = session
  speakers = [example.meta.get("speakers", ()) for example in examples]
  return Task(
    Query(
      token_lib.from_lists(questions, agent.question_tokens, tokenizer.pad_id),
      _nested(speakers, tokenizer),
    ),
    token_lib.Tokens(ids_CBS, length_CB),
    _stamps(firsts, tokenizer, session_CB, agent),
    session_CB,
    _nested([example.bank for example in firsts], tokenizer),
    np.array([e.id for e in examples], np.int32),
    np.zeros((len(examples),), np.int32),
  )


def _read_first(example: example_lib.Example) -> example_lib.Example:
  """The entries held beforehand as the first part of what is read."""
  if not example.bank:
    return example
  return dataclasses.replace(
    example,
    context=("\n".join(example.bank), *example.parts),
    stamps=("", *example.stamps) if example.stamps else (),
    bank=(),
  )


def whole(
  example: example_lib.Example,
  tokenizer: tokenizer_lib.Tokenizer,
  chunk_tokens: int,
) -> list[list[int]]:
  """All that an example tells, in chunks: prior entries, stamps, texts."""
  found = _chunks(_read_first(example), tokenizer, chunk_tokens, True)
  return [ids for _, ids in found]


def _chunks(
  example, tokenizer, size, stamped, max_chunks=None
) -> list[tuple[int, list[int]]]:
  """(session, ids) of each chunk."""
  texts = example.parts
  stamps = example.stamps if stamped else ()
  stamps = stamps or ("",) * len(texts)
  parts = tokenizer.encode_batch(
    [f"{a}\n{b}" if a else b for a, b in zip(stamps, texts)]
  )
  limit = (max_chunks or 0) * size
  if limit and len(parts) == 1 and len(parts[0]) > limit:
    ids = parts[0]
    parts = [ids[: limit - limit // 2] + ids[len(ids) - limit // 2 :]]
  chunks = [
    (session, ids[i : i + size])
    for session, ids in enumerate(parts)
    for i in range(0, len(ids), size)
  ]
  if max_chunks and len(chunks) > max_chunks:
    last = max_chunks // 2
    chunks = chunks[: max_chunks - last] + chunks[len(chunks) - last :]
  return chunks


def _stamps(firsts, tokenizer, session_CB, agent) -> token_lib.Tokens:
  """The stamp of each chunk's session."""
  C, B = session_CB.shape
  ids = np.zeros((C, B, agent.stamp_tokens), np.int32)
  length = np.zeros((C, B), np.int32)
  for b, example in enumerate(firsts if agent.stamp_tokens else ()):
    texts = [agent.stamp_text.format(stamp=x) for x in example.stamps]
    for session, row in enumerate(tokenizer.encode_batch(texts)):
      if len(row) > agent.stamp_tokens:
        raise ValueError(
          f"example {example.id}: the stamp {texts[session]!r} has {len(row)} "
          f"tokens, expected at most {agent.stamp_tokens}: raise "
          "config.agent.stamp_tokens"
        )
      at = session_CB[:, b] == session
      ids[at, b, : len(row)] = row
      length[at, b] = len(row)
  return token_lib.Tokens(ids, length)


def _nested(
  texts: Sequence[Sequence[str]], tokenizer: tokenizer_lib.Tokenizer
) -> token_lib.Tokens:
  """Several texts a row; capacities are those of the longest."""
  rows = [tokenizer.encode_batch(list(x)) for x in texts]
  return token_lib.from_nested(rows)


def repeat(task: Task, group_size: int, questions: int = 1) -> Task:
  """Each context `group_size` times in a row, samples numbered (host)."""
  twice = lambda x, axis: np.repeat(np.asarray(x), group_size, axis)
  N = len(task.id)

  def grouped(x):
    """Questions stay together: [B, q, ...] -> [B, G, q, ...]."""
    x = np.asarray(x).reshape(N // questions, questions, *x.shape[1:])
    return twice(x, 0).reshape(N * group_size, *x.shape[2:])

  sample = np.arange(group_size, dtype=np.int32).repeat(questions)
  return Task(
    jax.tree.map(grouped, task.query),
    *(
      jax.tree.map(lambda x: twice(x, 1), part)
      for part in (task.chunks, task.stamps, task.session)
    ),
    jax.tree.map(lambda x: twice(x, 0), task.prior),
    grouped(task.id),
    np.tile(sample, N // questions),
  )


def turn_at(task: Task, number: jax.Array | int, questions: int = 1) -> Turn:
  """What is read in a turn, one row for each context."""
  return Turn(
    jax.tree.map(lambda x: x[::questions], task.query.question),
    *(
      jax.tree.map(lambda x: x[number], part)
      for part in (task.chunks, task.stamps, task.session)
    ),
    number,
    jax.tree.map(lambda x: x[::questions], task.query.speakers),
  )
