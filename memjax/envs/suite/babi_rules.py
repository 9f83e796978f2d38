"""The rules of the worlds of bAbI's tasks qa1 to qa10 (arXiv 1502.05698).

A story is a list of events, a question is a tuple; both are of plain strings:

    ("move", person, place)   ("in", person, place)   ("not in", person, place)
    ("either", person, place, place)
    ("take", person, thing)   ("drop", person, thing)
    ("give", person, thing, to)
    ("side", place, direction, of)    the place lies, say, north of the other

    ("where", person)           qa1: where is Emma?
    ("where thing", thing)      qa2: where is the lamp?
    ("before", thing, place)    qa3: where was the lamp before the attic?
    ("beside", direction, of)   qa4: what is north of the attic?
    ("of", place, direction)    qa4: what is the attic north of?
    ("given", person, to)       qa5: what did Emma give to Peter?
    ("giver", thing, to)        qa5: who gave the lamp (to Peter)? "": anybody
    ("receiver", thing, giver)  qa5: who received the lamp (from Emma)?
    ("in", person, place)       qa6, qa9, qa10: is Emma in the attic?
    ("count", person)           qa7: how many things does Emma carry?
    ("carried", person)         qa8: what does Emma carry?

The rules know no names, so that they answer bAbI's own files as well.
"""

from collections.abc import Sequence

Event = tuple[str, ...]
Events = list[Event]
Question = tuple[str, ...]

NUMBERS = ("none", "one", "two", "three")
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


class World:
  """What is known after some events.

  Attributes:
    sure: person -> place, where it is known.
    possible: person -> places one of which it is.
    excluded: person -> the place where one is known not to be.
    carried: person -> things in the order in which they came first.
    had: person -> all things that came, in that order.
    left: thing -> place where it lies, if nobody carries it.
    trail: thing -> places where it has been, in order.
    sides: (direction, of) -> place.
    gifts: (giver, thing, receiver) in order.
  """

  def __init__(self, events: Sequence[Event] = ()):
    """The world after these events."""
    self.sure: dict[str, str] = {}
    self.possible: dict[str, tuple[str, ...]] = {}
    self.excluded: dict[str, str] = {}
    self.carried: dict[str, list[str]] = {}
    self.had: dict[str, list[str]] = {}
    self.left: dict[str, str] = {}
    self.trail: dict[str, list[str]] = {}
    self.sides: dict[tuple[str, str], str] = {}
    self.gifts: list[tuple[str, str, str]] = []
    for event in events:
      self.add(event)

  def add(self, event: Event) -> None:
    """Lets one thing happen."""
    kind, *rest = event
    if kind == "side":
      place, direction, of = rest
      self.sides[direction, of] = place
      self.sides[OPPOSITE[direction], place] = of
      return
    person, *rest = rest
    held = self.carried.setdefault(person, [])
    if kind in ("move", "in"):
      self._forget(person)
      self.sure[person] = rest[0]
      for thing in held:
        self._pass(thing, rest[0])
    elif kind == "not in":
      self._forget(person)
      self.excluded[person] = rest[0]
    elif kind == "either":
      self._forget(person)
      self.possible[person] = tuple(rest)
    elif kind == "take":
      self._receive(person, rest[0])
      self.left.pop(rest[0], None)
      self._pass(rest[0], self.sure.get(person))
    elif kind == "drop":
      held.remove(rest[0])
      if person in self.sure:
        self.left[rest[0]] = self.sure[person]
    elif kind == "give":
      thing, to = rest
      held.remove(thing)
      self._receive(to, thing)
      self.gifts.append((person, thing, to))
      self._pass(thing, self.sure.get(to))
    else:
      raise ValueError(f"{event}: no such event")

  def _forget(self, person: str) -> None:
    for known in (self.sure, self.possible, self.excluded):
      known.pop(person, None)

  def _receive(self, person: str, thing: str) -> None:
    """Somebody has a thing; one that comes back takes its old place."""
    held = self.carried.setdefault(person, [])
    had = self.had.setdefault(person, [])
    if thing not in had:
      had.append(thing)
    held.append(thing)
    held.sort(key=had.index)

  def _pass(self, thing: str, place: str | None) -> None:
    """Notes where a thing is, if that is known and new."""
    trail = self.trail.setdefault(thing, [])
    if place is not None and trail[-1:] != [place]:
      trail.append(place)

  def holder(self, thing: str) -> str | None:
    """Who carries a thing."""
    return next((p for p, held in self.carried.items() if thing in held), None)

  def place(self, thing: str) -> str | None:
    """Where a thing is."""
    holder = self.holder(thing)
    return self.left.get(thing) if holder is None else self.sure.get(holder)

  def is_in(self, person: str, place: str) -> str | None:
    """yes, no, maybe; None where nothing was said of somebody."""
    if person in self.sure:
      return "yes" if self.sure[person] == place else "no"
    if person in self.possible:
      return "maybe" if place in self.possible[person] else "no"
    if person in self.excluded:
      return "no" if self.excluded[person] == place else None
    return None


def answer(events: Sequence[Event], question: Question) -> str | None:
  """What the events say; None where they say nothing.

  Several things that are carried are joined with commas, in the order in which
  they came first.
  """
  world = World(events)
  kind, *rest = question
  if kind == "where":
    return world.sure.get(rest[0])
  if kind == "where thing":
    return world.place(rest[0])
  if kind == "before":
    return before(world.trail.get(rest[0], []), rest[1])
  if kind == "beside":
    return world.sides.get((rest[0], rest[1]))
  if kind == "of":
    return world.sides.get((OPPOSITE[rest[1]], rest[0]))
  if kind in ("given", "giver", "receiver"):
    return _gift(world, kind, *rest)
  if kind == "in":
    return world.is_in(*rest)
  if kind == "count":
    return NUMBERS[len(world.carried.get(rest[0], ()))]
  if kind == "carried":
    return ",".join(world.carried.get(rest[0], ())) or "nothing"
  raise ValueError(f"{question}: no such question")


def before(trail: Sequence[str], place: str) -> str | None:
  """Where a thing was before its last time in a place."""
  last = max((i for i, x in enumerate(trail) if x == place), default=0)
  return trail[last - 1] if last else None


def _gift(world: World, kind: str, one: str, other: str) -> str | None:
  """One part of the latest gift that fits the others; "" fits any."""
  for giver, thing, to in reversed(world.gifts):
    if kind == "given" and (one, other) == (giver, to):
      return thing
    if kind == "giver" and one == thing and other in ("", to):
      return giver
    if kind == "receiver" and one == thing and other in ("", giver):
      return to
  return None
