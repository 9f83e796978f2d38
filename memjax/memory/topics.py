"""Topic memories: summaries with the turns they come from (RMM, 2503.08026).

Prospective reflection, at the end of a session:

    build_notes(turns, speaker)     -> prompt: what is worth remembering?
    parse_notes(response)           -> up to F summaries, each with its turns
    build_merge(summary, entries)   -> prompt: a new topic, or one that is held?
    parse_merge(response)           -> an addition, or a change of an entry

The paper's formats are JSON and `Add()` / `Merge(index, summary)`; here they
are lines, `NOTE 1 3: text`, `ADD` and `MERGE 2 text`, as `lines` has them.
There is no deletion: what is out of date is merged away.

Dimension key: B rows, P turns of a session, L tokens of a turn, F topics, K
listed entries, M tokens of a summary, V tokens of an entry's turns.
"""

import dataclasses

import jax
import jax.numpy as jnp

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import bank as bank_lib
from memjax.memory import grammar as grammar_lib
from memjax.memory import lines
from memjax.memory import listing as listing_lib
from memjax.memory import update as update_lib


@dataclasses.dataclass(frozen=True)
class Topics:
  """Static parts of both steps.

  Attributes:
    notes: template of the first step.
    merge: template of the second.
    listing: numbers of turns and of entries.
    everyone: stands for the speaker where a conversation names none.
    turns: P.
    turn_tokens: L.
    topics: F.
    text_tokens: M, without a stamp.
  """

  notes: prompts.Template
  merge: prompts.Template
  listing: listing_lib.Listing
  everyone: tuple[int, ...]
  turns: int
  turn_tokens: int
  topics: int
  text_tokens: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Notes:
  """What was extracted.

  Attributes:
    text: ids [B, F, M] and length [B, F]; empty where there is no topic.
    sources: bool [B, F, P], the turns that each comes from.
    malformed: bool [B], a line was in error, or nothing was written at all.
    counts: int [B] by name, for metrics.
  """

  text: token_lib.Tokens
  sources: jax.Array
  malformed: jax.Array
  counts: dict[str, jax.Array]


def make(
  tokenizer: tokenizer_lib.Tokenizer,
  style: str,
  places: int,
  turns: int,
  turn_tokens: int,
  topics: int,
  text_tokens: int,
  thinking: bool = False,
) -> Topics:
  """Compiles the templates of a style; lists show up to `places` entries."""
  text = prompts.BANK_STYLES[style]
  return Topics(
    prompts.compile_template(text["topics"], tokenizer, thinking),
    prompts.compile_template(text["merge"], tokenizer, thinking),
    listing_lib.make_listing(tokenizer, style, max(places, turns)),
    tuple(tokenizer.encode(text["everyone"])),
    turns,
    turn_tokens,
    topics,
    text_tokens,
  )


def split(
  op: Topics, chunk: token_lib.Tokens
) -> tuple[token_lib.Tokens, dict[str, jax.Array]]:
  """The turns of a session.

  A line is a turn; what is longer than L is cut, what follows the P-th turn is
  left out.

  Returns:
    (ids [B, P, L] and length [B, P], int [B] of turns that were cut and left
    out, by name).
  """
  closed = jnp.zeros(chunk.length.shape, bool)
  # Whatever its words: a turn that says NONE is one.
  spans = grammar_lib.find_lines(op.listing.grammar, chunk, closed, op.turns)
  stop = jnp.where(spans.there, spans.end, spans.begin)
  turns, cut = listing_lib.cut(chunk, spans.begin, stop, op.turn_tokens)
  return turns, {
    "turns_cut": (cut & spans.there).sum(1),
    "turns_left_out": spans.extra,
  }


def build_notes(
  op: Topics,
  turns: token_lib.Tokens,
  speaker: token_lib.Tokens,
  stamp: token_lib.Tokens,
  group: int = 1,
) -> token_lib.Tokens | token_lib.Grouped:
  """The prompt that asks what a session [B, P, L] tells about a speaker.

  `group` as in `prompts.fill`.
  """
  return prompts.fill(
    op.notes,
    group,
    stamp=stamp,
    turns=listing_lib.write(op.listing, turns, numbered=True),
    speaker=speaker,
  )


def parse_notes(
  op: Topics,
  body: token_lib.Tokens,
  truncated_B: jax.Array,
  turns: token_lib.Tokens,
) -> Notes:
  """Topics of a response without end token and reasoning.

  A line in error gives no topic; lines beyond F are left out and counted. A
  response without any line is malformed: who has nothing to note says NONE.

  Args:
    op: the operation.
    body: responses.
    truncated_B: bool [B], cut at the limit.
    turns: those that the prompt showed, [B, P, L].
  """
  found, sources = lines.parse_notes(
    op.listing.grammar,
    body,
    truncated_B,
    (turns.length > 0).sum(1),
    op.turns,
    op.topics,
  )
  good = found.there & (found.error == lines.OK)
  noted = good & (found.verb == lines.NOTE)
  text, long = listing_lib.cut(
    body,
    found.start,
    jnp.where(noted, found.stop, found.start),
    op.text_tokens,
  )
  wrong = found.there & ~good
  empty = ~found.there.any(1)
  return Notes(
    text,
    sources & noted[..., None],
    wrong.any(1) | empty | (found.extra > 0),
    {
      "topics": noted.sum(1),
      "sources": (sources & noted[..., None]).sum((1, 2)),
      "errors": wrong.sum(1),
      "empty": empty.astype(jnp.int32),
      "left_out": found.extra,
      "cut": (long & noted).sum(1),
    },
  )


def build_merge(
  op: Topics, summary: token_lib.Tokens, entries: token_lib.Tokens
) -> token_lib.Tokens:
  """The prompt that shows K numbered entries [B, K, M] and a new one [B, M]."""
  return prompts.fill(
    op.merge,
    entries=listing_lib.write(op.listing, entries, numbered=True),
    summary=summary,
  )


def parse_merge(
  op: Topics,
  body: token_lib.Tokens,
  truncated_B: jax.Array,
  id_BK: jax.Array,
  summary: token_lib.Tokens,
) -> update_lib.Plan:
  """One operation of a response without end token and reasoning.

  ADD adds the summary as it is, MERGE replaces the text of an entry. A line in
  error does nothing: the topic is lost, and the response malformed.

  Args:
    op: the operation.
    body: responses.
    truncated_B: bool [B], cut at the limit.
    id_BK: entry ids in the order of the prompt, -1 behind the last.
    summary: the new topics, [B, M].
  """
  listed_B = (id_BK >= 0).sum(1)
  found = lines.parse_merge(op.listing.grammar, body, truncated_B, listed_B)
  good = found.there & (found.error == lines.OK)
  merges = good & (found.verb == lines.MERGE)
  text, long = listing_lib.cut(
    body,
    found.start,
    jnp.where(merges, found.stop, found.start),
    op.text_tokens,
  )
  one = jax.tree.map(lambda x: x[:, None], summary)
  place = jnp.clip(found.number - 1, 0, id_BK.shape[1] - 1)
  entry = jnp.take_along_axis(id_BK, place, axis=1)
  wrong = (found.there & ~good).any(1)
  empty = ~found.there.any(1)
  return update_lib.Plan(
    jnp.select([merges, good], [bank_lib.UPDATE, bank_lib.ADD], bank_lib.NOOP),
    jnp.where(merges, entry, -1),
    token_lib.Tokens(
      jnp.where(merges[..., None], text.ids, one.ids),
      jnp.where(merges, text.length, one.length),
    ),
    wrong | empty | (found.extra > 0),
    {
      "add": (good & ~merges).sum(1),
      "merge": merges.sum(1),
      "errors": wrong.astype(jnp.int32),
      "empty": empty.astype(jnp.int32),
      "left_out": found.extra,
      "cut": (long & merges).sum(1),
    },
  )


def cited(
  op: Topics, turns: token_lib.Tokens, sources_BP: jax.Array
) -> token_lib.Tokens:
  """The turns [B, P, L] that a topic comes from, one a line."""
  length = jnp.where(sources_BP, turns.length, 0)
  kept = dataclasses.replace(turns, length=length)
  written = listing_lib.write(op.listing, kept, numbered=False)
  there = (length > 0).any(1)
  return token_lib.Tokens(written.ids, jnp.where(there, written.length, 0))


def append_turns(
  op: Topics, held: token_lib.Tokens, new: token_lib.Tokens, capacity: int
) -> token_lib.Tokens:
  """New turns behind those held; if they do not fit, the oldest lines go.

  A single turn that is longer than V loses its beginning.
  """
  both = token_lib.concat([held, new])
  position = jnp.arange(both.capacity)[None, :]
  least = jnp.maximum(both.length - capacity, 0)[:, None]
  ends = op.listing.grammar.ends_line(both.ids) & both.mask
  begins = jnp.pad(ends, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
  able = begins & (position >= least) & both.mask
  start = jnp.where(able.any(1), jnp.argmax(able, axis=1), least[:, 0])
  return token_lib.truncate(
    token_lib.slice_rows(both, start, both.length), capacity
  )
