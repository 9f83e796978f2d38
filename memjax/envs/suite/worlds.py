"""The worlds of `relations` and `dialogues`, hidden in filler.

    relations   ... Note: kim>leo the leo=bern of ada=oslo. ...
                kim>?   bern
    dialogues   sessions, each with what was said in it among filler:
                ... A: the kim=bern <nl> B: kim~tea <nl> ...
                kim?   bern      when-kim?   s2

The worlds are those of their modules at their usual size, to the word; only
what stands around them grows with the length, and they are drawn from the
suite's counter instead of numpy. Worlds of `relations` are taken so that the
last, the first and the most frequent city are each the answer once in twelve
times, as a guess is; those of `dialogues` so that every session is as likely to
be asked for as any other.
"""

import re

from memjax.envs import dialogues
from memjax.envs import homes
from memjax.envs import relations
from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import generator
from memjax.envs.suite import philox

# Words of a line of `relations`.
_LINE = 10
# Worlds drawn before a draw is given up; the rarest kind is one of 190.
_ATTEMPTS = 1 << 13

# Tokens of names, cities and gossip behind each mark; of all other words 1.
TOKENS = {
  " ": {2: "fay gus ivy oda"},
  "=": {
    2: "bern cairo hanoi minsk oslo quito rome",
    3: "accra delhi lima paris tunis",
  },
  ">": {
    2: "ada bob cat dan eve fay hal ivy jon kim leo mia ned oda pam",
    3: "gus",
  },
  "@": {2: "ada bob cat dan eve gus hal", 3: "fay"},
  "~": {2: "tea", 3: "golf jazz chess"},
}
_TOKENS = {
  mark + word: count
  for mark, groups in TOKENS.items()
  for count, words in groups.items()
  for word in words.split()
}
_PIECE = re.compile(r"[ =>@~]?[a-z]+|[A-Z][a-z]*|[^\sA-Za-z]")


def tokens(text: str) -> int:
  """Tokens of words of these worlds, behind a space."""
  return sum(_TOKENS.get(x, 1) for x in _PIECE.findall(f" {text}"))


class _Relations(relations.Relations):
  """Drawn from the suite's counter."""

  def rng(self, *path: int) -> generator.Generator:
    return generator.Generator(
      philox.Stream("relations", "world", self.seed, *path)
    )


class _Dialogues(dialogues.Dialogues):
  """Drawn from the suite's counter."""

  def rng(self, *path: int) -> generator.Generator:
    return generator.Generator(
      philox.Stream("dialogues", "world", self.seed, *path)
    )


def _cities(question: str, text: str) -> list[str]:
  return re.findall(r"=([a-z]+)", text)


_CITIES = dict(cheats.of_values(_cities))


def _relations(stream: philox.Stream, length: int) -> draft.Draft:
  seed, _, _, split, index = stream.path
  env = _Relations(seed=seed)
  right = {x: not stream.integer(len(relations.CITIES)) for x in cheats.RULES}
  for attempt in range(_ATTEMPTS):
    world = env.example(split, index * _ATTEMPTS + attempt)
    if all(
      (_CITIES[name]("", world.context, 1) in world.answers) == bit
      for name, bit in right.items()
    ):
      break
  else:
    raise RuntimeError(f"no world of {_ATTEMPTS} has {right}")
  said = world.context.split()
  lines = [
    f"Note: {' '.join(said[i : i + _LINE])}."
    for i in range(0, len(said), _LINE)
  ]
  cost = sum(map(tokens, lines))
  hidden = stream.child("text")
  return draft.Draft(
    world.question,
    world.answers,
    tuple(f"{line}\n" for line in world.meta["oracle"]),
    1 / len(relations.CITIES),
    lambda: draft.hide(hidden.fresh(), lines, cost, length, "essay"),
    {"kind": world.meta["kind"]},
  )


def _read_relations(question: str, text: str) -> str | None:
  found = relations.known(question, re.findall(r"[a-z]+[=>][a-z]+", text))
  return found[-1].split("=")[1] if found and "=" in found[-1] else None


def _guess_city(question: str, stream: philox.Stream) -> str:
  return stream.pick(relations.CITIES)


def _dialogues(stream: philox.Stream, length: int) -> draft.Draft:
  seed, _, _, split, index = stream.path
  env = _Dialogues(seed=seed)
  kinds = len(env.kinds)
  # Which session it was is drawn: recent ones would be likelier.
  session = f"s{1 + stream.integer(env.sessions)}"
  for attempt in range(_ATTEMPTS):
    number = index // kinds * _ATTEMPTS + attempt
    (world,) = env.examples(split, number * kinds + index % kinds, 1)
    if world.meta["kind"] != "when" or world.answers == (session,):
      break
  else:
    raise RuntimeError(f"no world of {_ATTEMPTS} has a change in {session}")
  hidden = stream.child("text")

  def render() -> tuple[tuple[str, ...], int]:
    rest = hidden.fresh()
    parts = [
      draft.hide(rest, [x], tokens(x), length // len(world.context), "essay")
      for x in world.context
    ]
    return tuple(text for text, _ in parts), sum(cost for _, cost in parts)

  when = world.meta["kind"] == "when"
  # Of five kinds of questions about a name, two are answered with "unknown".
  return draft.Draft(
    world.question,
    world.answers,
    tuple(f"{entry}\n" for entry in world.meta["oracle"]),
    1 / env.sessions if when else 2 / (kinds - 1),
    render,
    {"kind": world.meta["kind"], "world": world.meta["world"]},
    world.stamps,
  )


def _read_dialogues(question: str, text: str) -> str | None:
  """What holds after all that was said; stamps stand before it."""
  held: list[str] = []
  since: dict[str, str] = {}
  stamp = ""
  for word in text.split():
    if re.fullmatch(r"s\d+", word):
      stamp = word
    elif homes.person(word) in homes.NAMES:
      now = homes.settle(held, [word])
      if now != held:
        since[homes.person(word)] = stamp
      held = now
  name = question.removeprefix("when-").removesuffix("?")
  if question.startswith("when-"):
    return since.get(name)
  return homes.home(held, name)


def _guess_dialogues(question: str, stream: philox.Stream) -> str:
  if question.startswith("when-"):
    return f"s{1 + stream.integer(dialogues.Dialogues().sessions)}"
  return homes.UNKNOWN


TASKS = {
  "relations": draft.Task(
    _relations, _read_relations, _guess_city, _CITIES, "em", least=512
  ),
  "dialogues": draft.Task(
    _dialogues, _read_dialogues, _guess_dialogues, _CITIES, "em", least=1024
  ),
}
