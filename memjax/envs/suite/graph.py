"""Questions of two to four hops over documents about invented entities.

    text      Document 1: Tavor Belis
              The engineer Tavor Belis works for Moran Kelit. ...

              Document 2: ...
    question  In which town has the firm its seat that Tavor Belis works for?
    answer    Zavon Rimal
    oracle    the sentences along the way

What RULER asks over HotpotQA (arXiv 2404.06654), without its data: engineers
work for firms, firms have their seat in towns, towns lie on rivers, rivers flow
into lakes. All but lakes have a document of their own, and all relations are
one to one: each name of a kind is written as often as any other, and no
document has both the beginning and the end of a way. What room is left is
filled with documents about clubs, which lead nowhere. All are shuffled.

Dimension key: G chains of one engineer, firm, town, river and lake; K names of
a chain; D documents, C of them about clubs.
"""

import re

import numpy as np

from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import filler
from memjax.envs.suite import philox
from memjax.envs.suite import words

# Of each hop: the sentence, and what is asked of those that end there.
_HOPS = (
  ("The engineer {} works for {}.", ""),
  (
    "The firm {} has its seat in {}.",
    "In which town has the firm its seat that {} works for?",
  ),
  (
    "The town {} lies on the river {}.",
    "On which river lies the town of the firm that {} works for?",
  ),
  (
    "The river {} flows into the lake {}.",
    "Into which lake flows the river of the town of the firm that {} works "
    "for?",
  ),
)
_CLUB = "The club {} is open to all."
_TITLE = "Document {}:"
_FACT_TOKENS = [words.plain(x.format("", "")) for x, _ in _HOPS]
_CLUB_TOKENS = words.plain(_CLUB.format(""))
# Without the digits: the space before them, and the end of the title.
_TITLE_TOKENS = words.plain(_TITLE.format("")) + 2
_NAME = r"([A-Z][a-z]+ [A-Z][a-z]+)"
_READERS = [
  re.compile(x.format(_NAME, _NAME).replace(".", r"\.")) for x, _ in _HOPS
]
_KINDS = len(_HOPS)
_FILLERS = 2  # sentences of each document that say nothing
# Tokens of a short document: no document has fewer.
_SHORTEST = _TITLE_TOKENS + 1 + min(_FACT_TOKENS) + 3 * 2 + _FILLERS * 10
_CLUBS = 32  # more than fit where a chain does not


def _documents(
  stream: philox.Stream, subjects: np.ndarray, facts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """(documents without "Document 1:", tokens of their fillers)."""
  count = len(subjects)
  drawn = [filler.sentences(stream, count) for _ in range(_FILLERS)]
  (one, one_tokens), (two, two_tokens) = drawn
  # The fact stands at any place among them.
  place = stream.below(_FILLERS + 1, count)
  first = np.where(place == 0, facts, one)
  second = np.where(place == 1, facts, np.where(place == 0, one, two))
  third = np.where(place == 2, facts, two)
  texts = subjects + "\n" + first + " " + second + " " + third
  return texts, one_tokens + two_tokens


def _render(
  stream: philox.Stream, asked: np.ndarray, length: int
) -> tuple[str, int]:
  """A text around a chain of names that are given by their numbers."""
  most = length // (_KINDS * _SHORTEST) + 1
  number = stream.distinct(words.COMPOUNDS, (_KINDS + 1) * (most + 1) + _CLUBS)
  number = number[~np.isin(number, asked)]
  clubs, others = number[:_CLUBS], number[_CLUBS:]
  others = others[: (_KINDS + 1) * (most - 1)].reshape(-1, _KINDS + 1)
  number_GK = np.concatenate([asked[None], others])
  name_GK, tokens_GK = words.names(number_GK)
  texts, costs = [], 0
  for kind, (form, _) in enumerate(_HOPS):
    before, between, after = form.split("{}")
    subject_G = name_GK[:, kind]
    fact_G = before + subject_G + between + name_GK[:, kind + 1] + after
    text_G, filler_G = _documents(stream, subject_G, fact_G)
    texts.append(text_G)
    # The subject is also the title.
    names_G = 2 * tokens_GK[:, kind] + tokens_GK[:, kind + 1]
    costs += filler_G + names_G + _FACT_TOKENS[kind] + _TITLE_TOKENS
  digits_D = np.cumsum(words.digits(_KINDS * len(number_GK) + _CLUBS))
  ends_G = np.cumsum(costs) + digits_D[_KINDS - 1 :: _KINDS][: len(costs)]
  chains = int(np.searchsorted(ends_G, length, side="right"))
  if not chains:
    raise ValueError(
      f"length={length}: four documents have {ends_G[0]} tokens; choose a "
      "longer text"
    )
  club, club_tokens = words.names(clubs)
  before, after = _CLUB.split("{}")
  club_text, club_filler = _documents(stream, club, before + club + after)
  done = _KINDS * chains
  ends_C = np.cumsum(
    club_filler + 2 * club_tokens + _CLUB_TOKENS + _TITLE_TOKENS
  )
  ends_C += int(ends_G[chains - 1]) - digits_D[done - 1]
  ends_C += digits_D[done : done + _CLUBS]
  extra = int(np.searchsorted(ends_C, length, side="right"))
  document_D = np.concatenate(
    [*(text_G[:chains] for text_G in texts), club_text[:extra]]
  )
  listed = document_D[stream.permutation(len(document_D))].tolist()
  numbered = [f"{_TITLE.format(i)} {x}" for i, x in enumerate(listed, start=1)]
  used = ends_C[extra - 1] if extra else ends_G[chains - 1]
  return "\n\n".join(numbered), int(used)


def _make(hops: int) -> draft.Task:
  def draw(stream: philox.Stream, length: int) -> draft.Draft:
    asked = stream.distinct(words.COMPOUNDS, _KINDS + 1)
    names = words.names(asked)[0].tolist()
    hidden = stream.child("text")
    return draft.Draft(
      _HOPS[hops - 1][1].format(names[0]),
      (names[hops],),
      tuple(
        f"{_HOPS[i][0].format(names[i], names[i + 1])}\n" for i in range(hops)
      ),
      1 / words.COMPOUNDS,
      lambda: _render(hidden.fresh(), asked, length),
      {"hops": hops},
    )

  def read(question: str, text: str) -> str | None:
    """Follows the relations."""
    found = re.search(_NAME, question.removeprefix(question.split(" ")[0]))[1]
    for reader in _READERS[:hops]:
      found = dict(reader.findall(text)).get(found)
    return found

  def guess(question: str, stream: philox.Stream) -> str:
    return words.names(stream.below(words.COMPOUNDS, 1))[0][0]

  ends = _READERS[hops - 1]
  values = lambda question, text: [x for _, x in ends.findall(text)]
  return draft.Task(
    draw, read, guess, cheats.of_values(values), "ruler_any", least=1024
  )


TASKS = {f"hops_{hops}": _make(hops) for hops in (2, 3, 4)}
