"""Generated texts in which an answer may take two facts: harder than `facts`.

`kim>leo` says that Kim follows Leo, `leo=bern` that Leo lives in Bern; both may
be overruled later. Half of the questions name a person (`kim?`, as in `facts`),
half ask where the person lives whom that one follows (`kim>?`).

    question  kim>?
    text      leo=bern the kim>ada of ... kim>leo ... ada=rome
    answer    bern
    oracle    kim>leo leo=bern

A reader who meets `leo=bern` before `kim>leo` cannot know that it matters, and
keeps fewer facts than there are people: nobody gets everything right.
"""

import dataclasses

import numpy as np

from memjax.envs import example as example_lib
from memjax.envs import facts
from memjax.envs.facts import CITIES
from memjax.envs.facts import FILLERS
from memjax.envs.facts import NAMES


def vocabulary() -> list[str]:
  """All words of texts, questions, answers and prompts."""
  links = [f"{a}>{b}" for a in NAMES for b in NAMES if a != b]
  return [*facts.vocabulary(), *links, *(f"{name}>?" for name in NAMES)]


@dataclasses.dataclass(frozen=True)
class Relations(facts.Facts):
  """The environment; fields as in `facts.Facts`.

  Attributes:
    mentions: probabilities that a relevant key is given 1, 2, 3, ... times.
    two_hops: share of the questions that take two facts.
    links: share of the other people's facts that say whom they follow.
  """

  mentions: tuple[float, ...] = (0.3, 0.3, 0.2, 0.2)
  two_hops: float = 0.5
  links: float = 0.3

  def rng(self, *path: int) -> np.random.Generator:
    """Where an example is drawn from; a subclass may draw from elsewhere."""
    return np.random.default_rng([self.seed, *path])

  def example(
    self, split: str, index: int, scale: int = 1
  ) -> example_lib.Example:
    """Example `index` of a split, with `scale` times as many chunks."""
    rng = self.rng(facts.SPLITS[split], scale, index, 2)
    words = self.chunks * self.chunk_tokens * scale - int(rng.integers(0, 5))
    count = lambda: 1 + int(rng.choice(len(self.mentions), p=self.mentions))
    people = rng.permutation(len(NAMES))
    asked = NAMES[people[0]]
    if rng.random() < self.two_hops:
      followed = [NAMES[i] for i in people[1 : 1 + count()]]
      links = [f"{asked}>{name}" for name in followed]
      question, resident = f"{asked}>?", followed[-1]
    else:
      question, resident, links = f"{asked}?", asked, []
    cities = [CITIES[i] for i in rng.permutation(len(CITIES))[: count()]]
    homes = [f"{resident}={city}" for city in cities]

    # Everything else first, then what matters on top of it.
    text = [
      self._other(rng, asked if links else None, resident) for _ in range(words)
    ]
    places = rng.choice(words, len(links) + len(homes), replace=False)
    link_places = np.sort(places[: len(links)])
    home_places = np.sort(places[len(links) :])
    for place, fact in zip([*link_places, *home_places], [*links, *homes]):
      text[place] = fact
    if not links:
      kind = "one hop"
    elif home_places[-1] > link_places[-1]:
      kind = "two hops, home after link"
    else:
      kind = "two hops, home before link"
    return example_lib.Example(
      index,
      question,
      " ".join(text),
      (cities[-1],),
      {
        "kind": kind,
        "stale": tuple(cities[:-1]),
        "oracle": (" ".join([*links[-1:], homes[-1]]),),
      },
    )

  def _other(
    self, rng: np.random.Generator, asked: str | None, resident: str
  ) -> str:
    """A word that does not touch the answer."""
    if rng.random() < self.filler:
      return FILLERS[rng.integers(len(FILLERS))]
    is_link = rng.random() < self.links
    closed = asked if is_link else resident
    names = [name for name in NAMES if name != closed]
    name = names[rng.integers(len(names))]
    if not is_link:
      return f"{name}={CITIES[rng.integers(len(CITIES))]}"
    others = [other for other in NAMES if other != name]
    return f"{name}>{others[rng.integers(len(others))]}"

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """Which part of the table an answer counts in, and with what score."""
    return {example.meta["kind"]: self.metric(example, text)}


def known(question: str, memory: list[str]) -> list[str]:
  """The facts of a memory that answer a question, the link first.

  Worked example: `kim>?` and [leo=bern, kim>leo] give [kim>leo, leo=bern].
  """
  name, two_hops = question.removesuffix("?"), question.endswith(">?")
  found = []
  if two_hops:
    links = [fact for fact in memory if fact.startswith(name)]
    if not links:
      return []
    found, name = links[-1:], links[-1].split(">")[1]
  return found + [fact for fact in memory if fact.startswith(name + "=")][-1:]


def demonstrate(
  example: example_lib.Example,
  rng: np.random.Generator,
  chunk_tokens: int,
  memory_facts: int,
  attentive: float,
) -> list[dict[str, object]]:
  """One careless trajectory, as `facts.demonstrate` writes it."""
  words, memory, turns = example.context.split(), [], []
  for start in range(0, len(words), chunk_tokens):
    chunk = words[start : start + chunk_tokens]
    new = [word for word in chunk if "=" in word or ">" in word]
    relevant = known(example.question, memory + new)
    pool = [fact for fact in memory + new if fact not in relevant]
    if rng.random() < attentive:
      note = relevant + facts.some(pool, int(rng.integers(0, 3)), rng)
    else:
      note = new[-1:] + facts.some(new[:-1], int(rng.integers(0, 3)), rng)
    note = note[:memory_facts]
    turns.append(
      {
        "memory": " ".join(memory),
        "chunk": " ".join(chunk),
        "response": " ".join(note),
        "seen": bool(relevant),
      }
    )
    memory = note
  found = known(example.question, memory)
  complete = bool(found) and "=" in found[-1]
  turns.append(
    {
      "memory": " ".join(memory),
      "chunk": None,
      "response": found[-1].split("=")[1] if complete else "unknown",
      "seen": complete,
    }
  )
  return turns
