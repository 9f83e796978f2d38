"""Controls: what answers score from other memories than the agent's own.

    empty_memory  nothing: what a question alone gives away
    oracle        what is enough, where examples know it
    last_window   the last tokens, as many as a chunk has
    bm25_chunks   the pieces of the text that are closest to the question, as
                  many tokens as a chunk has
    full_context  the whole text, in sets without a longer one than
                  config.eval.full_tokens

and the rules that an environment names, for agents with a bank. The same policy
answers all of them with the agent's own prompt, and has read nothing. The first
two and the rules are held by the agent as it is, an oracle even where it is
longer than its memory; the others are one text that is shown whole.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from memjax import agents
from memjax import build
from memjax import evaluate
from memjax import scores
from memjax import tasks
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import example as example_lib
from memjax.memory import bank as bank_lib
from memjax.memory import retrieve

# Those that are made of the text.
_OF_TEXTS = {"last_window", "bm25_chunks", "full_context"}
# Pieces of a chunk that BM25 chooses among.
_PIECES = 8
# The most ids that are searched at once.
_SEARCHED = 2**22


def evaluate_all(
  run: build.Run, policies: agents.Policies
) -> tuple[dict[str, dict[str, Any]], ...]:
  """The controls of config.eval.controls on all held-out sets.

  A control that does not apply to a set is left out of it.

  Returns:
    ({control: {set: cell}}, {control: breakdown of the first set}, {control:
    {set: score of each question}}).
  """
  found: dict[str, dict[str, Any]] = {}
  by_question: dict[str, dict[str, Any]] = {}
  parts: dict[str, dict[str, Any]] = {}
  for number, (name, examples) in enumerate(run.env.eval_sets().items()):
    for control, agent, held in memories(run, examples):
      answers = evaluate.ask(
        dataclasses.replace(run, agent=agent),
        policies,
        examples,
        memories=held,
        batch_size=_batch_size(run, agent),
      )
      score_N = scores.measure(run.env, answers)[:, 0]
      found.setdefault(control, {})[name] = scores.interval(
        score_N, example_lib.documents(examples)
      )
      by_question.setdefault(control, {})[name] = score_N.tolist()
      if number == 0:
        parts[control] = scores.breakdown(answers, run.env.label)
  return found, parts, by_question


def memories(
  run: build.Run, examples: Sequence[example_lib.Example]
) -> Iterator[tuple[str, agents.Agent, list[Sequence[Sequence[int]]]]]:
  """(control, agent, ids that it holds for each example) of what applies."""
  wanted, encode = run.config.eval.controls, run.tokenizer.encode_batch
  if "empty_memory" in wanted:
    yield "empty_memory", run.agent, [()] * len(examples)
  if "oracle" in wanted and all("oracle" in x.meta for x in examples):
    told = [encode(list(x.meta["oracle"])) for x in examples]
    yield "oracle", run.agent, told
  if hasattr(run.env, "banks") and hasattr(run.agent, "entries"):
    size = run.agent.entries, run.agent.entry_tokens
    banks = [run.env.banks(example, *size) for example in examples]
    for rule in banks[0]:
      yield rule, run.agent, [encode(list(texts[rule])) for texts in banks]
  if not hasattr(run.agent, "holding") or not _OF_TEXTS & set(wanted):
    return
  window = run.agent.chunk_tokens
  texts = [_text(x, run.tokenizer, window) for x in examples]
  if "last_window" in wanted:
    last = [[text.ids[-window:].tolist()] for text in texts]
    yield "last_window", run.agent.holding(window), last
  if "bm25_chunks" in wanted:
    close = [[row] for row in _closest(run, examples, texts)]
    yield "bm25_chunks", run.agent.holding(window), close
  longest = max(len(text.ids) for text in texts)
  if "full_context" in wanted and longest <= run.config.eval.full_tokens:
    room = -(-longest // window) * window
    whole = [[text.ids.tolist()] for text in texts]
    yield "full_context", run.agent.holding(room), whole


@dataclasses.dataclass(frozen=True)
class _Text:
  """All that an example tells; arrays, as lists would be nine times the size.

  Attributes:
    ids: int32 [T].
    chunks: (start, end) of each.
  """

  ids: np.ndarray
  chunks: list[tuple[int, int]]

  def pieces(self, size: int) -> list[np.ndarray]:
    """Its chunks in pieces of `size` ids."""
    return [
      self.ids[i : min(i + size, end)]
      for start, end in self.chunks
      for i in range(start, end, size)
    ]


def _text(
  example: example_lib.Example, tokenizer: tokenizer_lib.Tokenizer, window: int
) -> _Text:
  chunks = tasks.whole(example, tokenizer, window)
  ends = np.cumsum([0, *map(len, chunks)]).tolist()
  ids = np.fromiter(itertools.chain.from_iterable(chunks), np.int32, ends[-1])
  return _Text(ids, list(itertools.pairwise(ends)))


def _batch_size(run: build.Run, agent: agents.Agent) -> int:
  """Fewer rows where prompts are longer: scores of attention are T by T."""
  ratio = max(agent.budget[1] / run.agent.chunk_tokens, 1.0)
  return max(int(run.config.eval.batch_size / ratio**2), 1)


def _closest(
  run: build.Run,
  examples: Sequence[example_lib.Example],
  texts: Sequence[_Text],
) -> list[list[int]]:
  """The best pieces of each text by BM25, in the order of the text."""
  room = run.agent.chunk_tokens
  size = max(room // _PIECES, 1)
  pieces = [text.pieces(size) for text in texts]
  questions = tasks.check_questions(examples, run.tokenizer, run.agent)
  lexicon = retrieve.make_lexicon(run.tokenizer)
  places = max(max(map(len, pieces)), 1)
  batch = min(max(_SEARCHED // (places * size), 1), len(examples))
  found: list[list[int]] = []
  for start in range(0, len(examples), batch):
    rows = pieces[start : start + batch]
    asked = questions[start : start + batch]
    fill = batch - len(rows)
    order = _ranked(
      lexicon,
      token_lib.from_lists([*asked, *[[]] * fill], run.agent.question_tokens),
      token_lib.from_nested(
        [[*row, *[[]] * (places - len(row))] for row in [*rows, *[[]] * fill]],
        size,
      ),
    )
    for row, slots in zip(rows, np.asarray(order)):
      slots = slots[(slots >= 0) & (slots < len(row))]
      taken, left = [], room
      for slot in slots.tolist():
        if len(row[slot]) <= left:
          taken.append(slot)
          left -= len(row[slot])
      found.append([i for slot in sorted(taken) for i in row[slot].tolist()])
  return found


@functools.partial(jax.jit, static_argnums=0)
def _ranked(
  lexicon: retrieve.Lexicon,
  question: token_lib.Tokens,
  pieces: token_lib.Tokens,
) -> jax.Array:
  """int32 [B, P]: pieces that share a word with the question, best first."""
  B, P = pieces.length.shape
  bank = dataclasses.replace(
    bank_lib.init(B, P, pieces.capacity, 0),
    text=pieces,
    valid=pieces.length > 0,
    id=jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32), (B, P)),
  )
  return retrieve.top(retrieve.bm25(lexicon, question, bank), bank, P, 0.0)
