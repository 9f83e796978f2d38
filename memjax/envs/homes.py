"""Who lives where: the words of conversations, and what follows from facts.

A fact is a word: kim=bern (Kim lives in Bern), leo@kim (Leo lives with Kim),
ada! (what was said of Ada holds no more) and, as gossip, kim~tea.
"""

import dataclasses
from collections.abc import Mapping
from collections.abc import Sequence

from memjax import prompts

NAMES = "ada bob cat dan eve fay gus hal".split()
CITIES = (
  "accra bern cairo delhi hanoi lima minsk oslo paris quito rome tunis"
).split()
GOSSIP = "tea golf jazz chess".split()
FILLERS = "the of and to a in is it".split()
SPEAKERS = ("A:", "B:")
UNKNOWN = "unknown"
MAX_SESSIONS = 40
MAX_NUMBER = 12


def vocabulary() -> list[str]:
  """All words of conversations, questions, answers, prompts of both agents."""
  facts = [f"{name}={city}" for name in NAMES for city in CITIES]
  facts += [f"{a}@{b}" for a in NAMES for b in NAMES if a != b]
  facts += [f"{name}~{x}" for name in NAMES for x in GOSSIP]
  facts += [f"{name}!" for name in NAMES]
  asked = [f"{name}?" for name in NAMES] + [f"when-{name}?" for name in NAMES]
  stamps = [f"s{i}" for i in range(1, MAX_SESSIONS + 1)]
  numbers = [str(i) for i in range(1, MAX_NUMBER + 1)]
  words = [*prompts.BANK_WORDS, *prompts.STYLE_WORDS, *numbers, *SPEAKERS]
  words += [*facts, *asked, *stamps, *CITIES, UNKNOWN, *FILLERS]
  return list(dict.fromkeys(words))


def person(word: str) -> str:
  """Whom a fact is about; "" for a word that is no fact."""
  for mark in "=@~!":
    if mark in word:
      return word.split(mark)[0]
  return ""


def is_gossip(word: str) -> bool:
  """A fact that is never asked about."""
  return "~" in word


def fact_of(entry: str) -> str:
  """The last fact in an entry's text, or ""."""
  found = [word for word in entry.split() if person(word)]
  return found[-1] if found else ""


def settle(held: Sequence[str], facts: Sequence[str]) -> list[str]:
  """What a list of facts should become when new facts are told in order.

  A fact replaces what is held about the person, a retraction removes it, and
  gossip changes nothing.
  """
  held = list(held)
  for fact in facts:
    if is_gossip(fact):
      continue
    about = [x for x in held if person(x) == person(fact) and not is_gossip(x)]
    if about == [fact]:
      continue
    held = [x for x in held if x not in about]
    if not fact.endswith("!"):
      held.append(fact)
  return held


def chain(held: Sequence[str], name: str) -> list[str]:
  """The facts that say where somebody lives; follows "lives with".

  Worked example: if leo@kim and kim=bern are held, both are leo's.
  """
  found, seen = [], set()
  while name not in seen:
    seen.add(name)
    facts = [x for x in held if person(x) == name and not is_gossip(x)]
    if not facts:
      break
    found.append(facts[-1])
    if "=" in facts[-1]:
      break
    name = facts[-1].split("@")[1]
  return found


def home(held: Sequence[str], name: str) -> str:
  """Where somebody lives by what is held."""
  facts = chain(held, name)
  return facts[-1].split("=")[1] if facts and "=" in facts[-1] else UNKNOWN


@dataclasses.dataclass(frozen=True)
class World:
  """One conversation.

  Attributes:
    sessions: the facts of each session in order, gossip included.
    texts: what is read, one text a session.
    held: what is true after the last session, in order.
    since: the session in which each person's fact came about, from 1.
    past: what was true of each person before.
  """

  sessions: tuple[tuple[str, ...], ...]
  texts: tuple[str, ...]
  held: tuple[str, ...]
  since: Mapping[str, int]
  past: Mapping[str, tuple[str, ...]]

  def kind(self, name: str) -> str:
    """Which kind of question `name?` is."""
    now = [x for x in self.held if person(x) == name]
    before = self.past.get(name, ())
    if not now:
      return "deleted" if before else "never"
    if "@" in now[0]:
      return "dependent"
    return "updated" if before else "unchanged"
