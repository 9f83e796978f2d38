"""A task as host data: strings, before anything is tokenised."""

import dataclasses
import hashlib
import json
from collections.abc import Hashable
from collections.abc import Iterable
from collections.abc import Mapping
from typing import Any

# Ids of held-out examples begin here, so that none is a training example's.
EVAL_ID = 1 << 24


@dataclasses.dataclass(frozen=True)
class Example:
  """One question about one text or conversation.

  Attributes:
    id: names the example; random keys are made from it.
    question: what is asked.
    context: what is read chunk by chunk; may be empty. A tuple has one part
      for each session: a chunk never spans two of them. Of long texts that are
      generated or stay in a file (`Deferred`) it is made whenever it is read.
    answers: the accepted answers.
    meta: whatever a data set knows beside that.
    stamps: what to write before entries of each part (its date, say); as many
      as the context has parts, or none.
    bank: entries that a bank holds beforehand.
  """

  id: int
  question: str
  context: str | tuple[str, ...]
  answers: tuple[str, ...]
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  stamps: tuple[str, ...] = ()
  bank: tuple[str, ...] = ()

  @property
  def parts(self) -> tuple[str, ...]:
    """The context as a tuple, whichever it is; an empty text has none."""
    context = self.context  # once: it may be made on the spot
    if isinstance(context, str):
      return (context,) if context else ()
    return context

  @property
  def about(self) -> Hashable:
    """Equal for examples that are answered from one reading; None: of nothing.

    A digest, as a context can have millions of words.
    """
    parts = self.parts
    if not parts and not self.bank:
      return None
    read = json.dumps([parts, self.stamps, self.bank])
    return hashlib.sha256(read.encode()).digest()


class Deferred(Example):
  """An example whose context is made each time it is read, and not kept."""

  def __init__(self, id, question, context, answers, meta, stamps=(), bank=()):
    """As Example has it, but `context` may be a function without arguments."""
    fields = {
      "id": id,
      "question": question,
      "_context": context,
      "answers": answers,
      "meta": meta,
      "stamps": stamps,
      "bank": bank,
    }
    for name, value in fields.items():
      object.__setattr__(self, name, value)

  def with_id(self, id: int) -> "Deferred":
    """The same under another id."""
    return Deferred(
      id,
      self.question,
      self._context,
      self.answers,
      self.meta,
      self.stamps,
      self.bank,
    )

  @property
  def context(self) -> str | tuple[str, ...]:
    """The text."""
    return self._context() if callable(self._context) else self._context

  @property
  def about(self) -> Hashable:
    """What makes the text, which therefore is not made to compare it."""
    return self._context if callable(self._context) else super().about


def documents(examples: Iterable[Example]) -> list[int]:
  """Numbers what the examples are about, in order of appearance.

  Questions about the same context have the same number: they are answered from
  one reading, and their scores hang together. A question without any context
  stands alone.
  """
  numbers: dict[Hashable, int] = {}
  found = []
  for place, x in enumerate(examples):
    about = x.about
    key = place if about is None else about
    found.append(numbers.setdefault(key, len(numbers)))
  return found


def fingerprint(examples: Iterable[Example]) -> str:
  """SHA-256 of questions, contexts, answers, stamps and banks, in order.

  Two runs with the same fingerprint were evaluated on the same data, whatever
  their agents made of it.
  """
  digest = hashlib.sha256()
  for x in examples:
    row = [x.id, x.question, x.parts, x.answers, x.stamps, x.bank]
    digest.update(json.dumps(row).encode())
  return digest.hexdigest()
