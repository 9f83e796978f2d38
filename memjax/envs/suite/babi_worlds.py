"""A simulator of the worlds of `babi_rules`: stories, and what can be asked.

Who is where, and where things lie, is settled before the first event, so that a
story is always possible; a reader knows of it only what the events say.
"""

from collections.abc import Callable
from collections.abc import Sequence

from memjax.envs.suite import babi_rules
from memjax.envs.suite import philox
from memjax.envs.suite.babi_text import PEOPLE
from memjax.envs.suite.babi_text import PLACES
from memjax.envs.suite.babi_text import THINGS


class _Simulator:
  """People who walk about and carry things."""

  def __init__(self, stream: philox.Stream):
    self.stream = stream
    self.at = {person: stream.pick(PLACES) for person in PEOPLE}
    self.lies = {thing: stream.pick(PLACES) for thing in THINGS}
    self.holder: dict[str, str] = {}
    self.events: babi_rules.Events = []

  def move(self, person: str | None = None, place: str | None = None) -> None:
    person = person or self.stream.pick(PEOPLE)
    others = [x for x in PLACES if x != self.at[person]]
    self.at[person] = place or self.stream.pick(others)
    self.events.append(("move", person, self.at[person]))

  def take(self) -> None:
    found = [
      (person, thing)
      for thing, place in self.lies.items()
      for person in PEOPLE
      if self.at[person] == place
    ]
    if not found:
      return self.move()
    person, thing = self.stream.pick(found)
    del self.lies[thing]
    self.holder[thing] = person
    self.events.append(("take", person, thing))

  def drop(self) -> None:
    if not self.holder:
      return self.move()
    thing = self.stream.pick(list(self.holder))
    person = self.holder.pop(thing)
    self.lies[thing] = self.at[person]
    self.events.append(("drop", person, thing))

  def give(self) -> None:
    """Somebody gives something to whoever is there, or waits for somebody."""
    if not self.holder:
      return self.take()
    thing = self.stream.pick(list(self.holder))
    person = self.holder[thing]
    others = [x for x in PEOPLE if x != person]
    near = [x for x in others if self.at[x] == self.at[person]]
    if not near:
      return self.move(self.stream.pick(others), self.at[person])
    self.holder[thing] = self.stream.pick(near)
    self.events.append(("give", person, thing, self.holder[thing]))


def walk(
  kinds: Sequence[str], least: int, most: int
) -> Callable[[philox.Stream], babi_rules.Events]:
  """Stories of least to most events, of kinds that are equally likely."""

  def story(stream: philox.Stream) -> babi_rules.Events:
    world = _Simulator(stream)
    for _ in range(least + stream.integer(most - least + 1)):
      getattr(world, stream.pick(kinds))()
    return world.events

  return story


def told(
  kinds: Sequence[str], least: int, most: int
) -> Callable[[philox.Stream], babi_rules.Events]:
  """Stories about places in which some events say less than where one is.

  Somebody whose place is known is only said not to be in that one.
  """

  def story(stream: philox.Stream) -> babi_rules.Events:
    world = babi_rules.World()
    events: babi_rules.Events = []
    for _ in range(least + stream.integer(most - least + 1)):
      kind, person = stream.pick(kinds), stream.pick(PEOPLE)
      known = world.sure.get(person)
      if kind == "not in":
        rest = (known or stream.pick(PLACES),)
      else:
        others = [x for x in PLACES if x != known]
        rest = (stream.pick(others),)
        if kind == "either":
          rest += (stream.pick([x for x in others if x != rest[0]]),)
      events.append((kind, person, *rest))
      world.add(events[-1])
    return events

  return story


def sides(stream: philox.Stream) -> babi_rules.Events:
  """Two places on opposite sides of a third one."""
  first, middle, last = (PLACES[i] for i in stream.permutation(len(PLACES))[:3])
  one, other = stream.pick(
    (("north", "south"), ("south", "north"), ("east", "west"), ("west", "east"))
  )
  events: babi_rules.Events = []
  for place, direction, opposite in ((first, one, other), (last, other, one)):
    # Either way round.
    if stream.integer(2):
      events.append(("side", place, direction, middle))
    else:
      events.append(("side", middle, opposite, place))
  return events


# Of each task, all questions about a story that have the wanted answer, or any
# answer where `wanted` is empty.


def where(events: babi_rules.Events, wanted: str) -> list[babi_rules.Question]:
  """qa1: people who were named."""
  del wanted
  return [("where", x) for x in babi_rules.World(events).sure]


def where_thing(
  events: babi_rules.Events, wanted: str
) -> list[babi_rules.Question]:
  """qa2: things whose place is known."""
  del wanted
  world = babi_rules.World(events)
  return [("where thing", x) for x in THINGS if world.place(x)]


def before(events: babi_rules.Events, wanted: str) -> list[babi_rules.Question]:
  """qa3: a thing, and a place where it has been after another one."""
  del wanted
  return [
    ("before", thing, place)
    for thing, trail in babi_rules.World(events).trail.items()
    for place in dict.fromkeys(trail[1:])
    if babi_rules.before(trail, place)
  ]


def beside(events: babi_rules.Events, wanted: str) -> list[babi_rules.Question]:
  """qa4: what lies on one side of the middle."""
  del wanted
  found = list(babi_rules.World(events).sides)
  middle = next(x for _, x in found if [y for _, y in found].count(x) == 2)
  directions = [direction for direction, x in found if x == middle]
  return [("beside", x, middle) for x in directions] + [
    ("of", middle, babi_rules.OPPOSITE[x]) for x in directions
  ]


def gift(events: babi_rules.Events, wanted: str) -> list[babi_rules.Question]:
  """qa5: a part of a gift, if it was the same in all gifts that fit."""
  del wanted
  found: dict[babi_rules.Question, set[str]] = {}
  for giver, thing, to in babi_rules.World(events).gifts:
    found.setdefault(("given", giver, to), set()).add(thing)
    found.setdefault(("giver", thing, to), set()).add(giver)
    found.setdefault(("receiver", thing, giver), set()).add(to)
  return [question for question, parts in found.items() if len(parts) == 1]


def inside(events: babi_rules.Events, wanted: str) -> list[babi_rules.Question]:
  """qa6, qa9: a person, and a place that was named with that person."""
  return _inside(events, wanted, ("move", "in", "not in"))


def perhaps(
  events: babi_rules.Events, wanted: str
) -> list[babi_rules.Question]:
  """qa10: a person, and a place that was once named as one of two."""
  return _inside(events, wanted, ("either",))


def _inside(
  events: babi_rules.Events, wanted: str, kinds: Sequence[str]
) -> list[babi_rules.Question]:
  world = babi_rules.World(events)
  pairs = dict.fromkeys(
    (event[1], place)
    for event in events
    if event[0] in kinds
    for place in event[2:]
  )
  return [("in", *x) for x in pairs if world.is_in(*x) == wanted]


def count(events: babi_rules.Events, wanted: str) -> list[babi_rules.Question]:
  """qa7: people who carry so many things."""
  return _carriers(events, wanted, "count")


def carried(
  events: babi_rules.Events, wanted: str
) -> list[babi_rules.Question]:
  """qa8: the same; asked is which."""
  return _carriers(events, wanted, "carried")


def _carriers(
  events: babi_rules.Events, wanted: str, kind: str
) -> list[babi_rules.Question]:
  carried = babi_rules.World(events).carried
  size = babi_rules.NUMBERS.index(wanted)
  return [(kind, x) for x, held in carried.items() if len(held) == size]
