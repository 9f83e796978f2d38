"""Prompt templates: text with slots, compiled once into ids.

A template is text with slots in braces, such as {question}. Its literal parts
go through the chat template and the tokenizer when the template is compiled;
filling it in is a concatenation of token buffers that runs under jit, so the
ids in a slot stand in the prompt as they are.
"""

import dataclasses
import re

import jax

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib

SLOTS = (
  "question",
  "memory",
  "chunk",
  "entries",
  "facts",
  "turns",
  "speaker",
  "summary",
  "stamp",
)
# What all trajectories of a group read alike, and the long ones among it.
_OF_TASK = {"question", "chunk", "turns", "stamp", "speaker"}
_READ = {"chunk", "turns"}
_SLOT = re.compile(r"\{(" + "|".join(SLOTS) + r")\}")


@dataclasses.dataclass(frozen=True)
class Template:
  """Literal ids and slot names in order; hashable, so static under jit."""

  pieces: tuple[tuple[int, ...] | str, ...]

  def literal_length(self) -> int:
    """How many tokens the literal parts have."""
    return sum(len(p) for p in self.pieces if not isinstance(p, str))


_ANSWER = (
  "Solve the problem below with the help of your notes on a long text "
  "that you have read. Put the final answer in \\boxed{}.\n\n"
  "<problem>\n{question}\n</problem>\n\n"
  "<memory>\n{memory}\n</memory>\n\n"
  "Your answer:"
)

# Each style: the text of the memory update, the text of the answer, and what
# stands for a memory that holds nothing.
STYLES = {
  # The order of MemAgent's blocks (2507.02259): problem, memory, section.
  "text": {
    "update": (
      "Below are a problem, the notes you have kept so far, and the next "
      "section of a long text. Write the new notes: keep what still helps to "
      "solve the problem and add what this section brings. The new notes "
      "replace the old ones entirely.\n\n"
      "<problem>\n{question}\n</problem>\n\n"
      "<memory>\n{memory}\n</memory>\n\n"
      "<section>\n{chunk}\n</section>\n\n"
      "Updated memory:"
    ),
    "answer": _ANSWER,
    "empty_memory": "No previous memory",
  },
  # The chunk before the memory: what a group reads alike stands in front, so
  # that it is read once (config.rollout.share_prefix).
  "text_chunk_first": {
    "update": (
      "Below are a problem, the next section of a long text, and the notes "
      "you have kept so far. Write the new notes: keep what still helps to "
      "solve the problem and add what the section brings. The new notes "
      "replace the old ones entirely.\n\n"
      "<problem>\n{question}\n</problem>\n\n"
      "<section>\n{chunk}\n</section>\n\n"
      "<memory>\n{memory}\n</memory>\n\n"
      "Updated memory:"
    ),
    "answer": _ANSWER,
    "empty_memory": "No previous memory",
  },
  # For word-level vocabularies. The question is restated at the end: a small
  # model learns to look it up from there, hardly from the start.
  "words": {
    "update": (
      "<ask> {question} <memory> {memory} <chunk> {chunk} <write> {question}"
    ),
    "answer": "<ask> {question} <memory> {memory} <answer> {question}",
    "empty_memory": "<none>",
  },
  "words_chunk_first": {
    "update": (
      "<ask> {question} <chunk> {chunk} <memory> {memory} <write> {question}"
    ),
    "answer": "<ask> {question} <memory> {memory} <answer> {question}",
    "empty_memory": "<none>",
  },
}
# What a word-level vocabulary needs for the style "words".
STYLE_WORDS = ("<ask>", "<memory>", "<chunk>", "<write>", "<answer>", "<none>")


# Styles of the memory bank; what the policy writes is `memory.lines`.
BANK_STYLES = {
  # The tasks of Memory-R1's manager and answer agent (2508.19828), with lines
  # in place of its JSON.
  "text": {
    "extract": (
      "Below is a part of a conversation. Write down what it tells about the "
      "people that may be asked later: facts, plans, preferences, events with "
      "their dates, and what is no longer true. One fact a line, each with "
      "the name of the person it is about and understandable by itself. "
      "Leave small talk out. If there is nothing to note, write NONE.\n\n"
      "<conversation>\n{chunk}\n</conversation>\n\n"
      "Facts:"
    ),
    "update": (
      "You keep a memory of numbered entries. Below are the entries that are "
      "closest to some new facts, and the new facts. Write one operation a "
      "line:\n"
      "ADD text: for a fact that no entry holds\n"
      "UPDATE number text: for an entry that a fact corrects or completes\n"
      "DELETE number: for an entry that a fact says is no longer true\n"
      "NOOP: if there is nothing to change\n\n"
      "<entries>\n{entries}\n</entries>\n\n"
      "<facts>\n{facts}\n</facts>\n\n"
      "Operations:"
    ),
    "answer": (
      "Answer a question from the memory below. First write a line USE with "
      "the numbers of the entries that you need, then the answer in a few "
      "words. Where entries contradict each other the later one holds; give "
      "dates instead of words such as yesterday.\n\n"
      "<memory>\n{entries}\n</memory>\n\n"
      "<question>\n{question}\n</question>"
    ),
    "answer_plain": (
      "Answer a question from the memory below, in a few words. Where entries "
      "contradict each other the later one holds; give dates instead of words "
      "such as yesterday.\n\n"
      "<memory>\n{entries}\n</memory>\n\n"
      "<question>\n{question}\n</question>"
    ),
    # RMM's prospective reflection (2503.08026, sec. 4), in two steps.
    "topics": (
      "Below is a session of a conversation with numbered turns. Write down "
      "what it tells about {speaker} that may matter later, one topic a line: "
      "NOTE, the numbers of the turns that the topic comes from, a colon, and "
      "a summary in one sentence that names the person. Leave out what is "
      "small talk. If there is no such topic, write NONE.\n\n"
      "<session>\n{stamp}\n{turns}\n</session>\n\n"
      "Topics:"
    ),
    "merge": (
      "You keep a memory of numbered topics. Below are the topics that are "
      "closest to a new one, and the new one. Write one line:\n"
      "ADD: if none of them is about the same thing\n"
      "MERGE number text: if one is, with a summary of both; where they "
      "contradict each other the new one holds\n\n"
      "<topics>\n{entries}\n</topics>\n\n"
      "<new>\n{summary}\n</new>\n\n"
      "Action:"
    ),
    # A reranker that is a language model (MemFactory, 2603.29493).
    "select": (
      "Below are numbered memories and a question. Write one line USE with "
      "the numbers of those that help to answer it, none that do not.\n\n"
      "<memory>\n{entries}\n</memory>\n\n"
      "<question>\n{question}\n</question>"
    ),
    "everyone": "the speakers",
    "number": "{n}: ",
    "stamp": "{stamp}: ",
    "newline": "\n",
    "empty": "(empty)\n",
  },
  # For word-level vocabularies.
  "words": {
    "extract": "<chunk> {chunk} <write>",
    "update": "<memory> {entries} <facts> {facts} <ops>",
    "answer": "<memory> {entries} <answer> {question}",
    "answer_plain": "<memory> {entries} <plain> {question}",
    "topics": "<turns> {stamp} {turns} <of> {speaker} <topics>",
    "merge": "<memory> {entries} <new> {summary} <merge>",
    "select": "<memory> {entries} <select> {question}",
    "everyone": "<all>",
    "number": "{n}",
    "stamp": "{stamp}",
    "newline": "<nl>",
    "empty": "<none>",
  },
}
# What a word-level vocabulary needs for it, beside the numbers.
BANK_WORDS = (
  "<chunk> <write> <memory> <facts> <ops> <answer> <plain> <none> <nl> "
  "NOOP ADD UPDATE DELETE NONE USE"
).split()
# And for topic memories and rerankers.
TOPIC_WORDS = (
  "<turns> <of> <topics> <new> <merge> <select> <all> NOTE MERGE :"
).split()


def compile_template(
  text: str, tokenizer: tokenizer_lib.Tokenizer, thinking: bool = False
) -> Template:
  """Renders the chat template around a text and tokenises the literals.

  Raises:
    ValueError: if the text has no slot.
  """
  parts = _SLOT.split(tokenizer.chat(text, thinking))
  if len(parts) == 1:
    raise ValueError(
      f"the prompt {text!r} has no slot: write at least one of "
      + ", ".join("{" + slot + "}" for slot in SLOTS)
    )
  pieces = []
  for i, part in enumerate(parts):  # literal, slot, literal, slot, ..., literal
    if i % 2:
      pieces.append(part)
    elif ids := tokenizer.encode(part):
      pieces.append(tuple(ids))
  return Template(tuple(pieces))


def fill(
  template: Template, group: int = 1, **slots: token_lib.Tokens
) -> token_lib.Tokens | token_lib.Grouped:
  """Puts token buffers into the slots; runs under jit.

  Args:
    template: compiled.
    group: rows next to each other that read the same chunk; 1 for none.
    **slots: a buffer of B rows for each slot name of the template.

  Returns:
    B prompts; the capacity is the sum of all parts' capacities. Where groups
    begin with the same chunk, they share that beginning.
  """
  batch = next(iter(slots.values())).length.shape[0]

  def join(pieces):
    return token_lib.concat(
      [
        slots[piece]
        if isinstance(piece, str)
        else token_lib.constant(piece, batch)
        for piece in pieces
      ]
    )

  shared = shared_pieces(template) if group > 1 else 0
  if not shared:
    return join(template.pieces)
  first = jax.tree.map(lambda x: x[::group], join(template.pieces[:shared]))
  return token_lib.Grouped(first, join(template.pieces[shared:]))


def shared_pieces(template: Template) -> int:
  """How many pieces in front are the same for a whole group; 0 if not worth it.

  The last piece is each row's own in any case: a model that goes on writing
  needs a token of the row itself to go on from.
  """
  count = 0
  for piece in template.pieces[:-1]:
    if isinstance(piece, str) and piece not in _OF_TASK:
      break
    count += 1
  # Without the text that is read there is little to share.
  return count if _READ & set(template.pieces[:count]) else 0
