"""A task as host data: strings, before anything is tokenised."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Example:
  """One question about one text.

  Attributes:
    id: names the example; random keys are made from it.
    question: what is asked.
    context: the text that is read chunk by chunk; may be empty.
    answers: the accepted answers.
    meta: whatever a data set knows beside that.
  """

  id: int
  question: str
  context: str
  answers: tuple[str, ...]
  meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
