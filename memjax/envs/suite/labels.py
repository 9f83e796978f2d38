"""The metric of answers that are one of few words (BABILong, 2406.10149)."""

import re
from collections.abc import Sequence

from memjax import rewards


def only(
  text: str, answers: Sequence[str], labels: Sequence[str], question: str
) -> float:
  """1 if the labels that an answer names are those of the accepted one.

  As published: only the first sentence counts, in lower case, and labels that
  the question names are passed over, so that "the lamp is in the attic" will
  do, and "attic or cellar" will not. A question ends at its question mark; what
  follows says how to answer. Unlike the published one, a label is found
  as a word and not as a part of one ("no" is not in "know"), and an accepted
  answer of several labels, joined with commas, wants all of them in any order.
  """
  words = lambda x: set(re.findall(r"\w+", x.lower()))
  first = rewards.extract_answer(text).split(".")[0]
  known = {x.lower() for x in labels} - words(question.split("?")[0])
  found = words(first) & known
  return float(any(found == words(answer) for answer in answers))
