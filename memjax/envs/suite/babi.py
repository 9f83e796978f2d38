"""Worlds of bAbI's tasks qa1 to qa10, hidden in filler as in BABILong.

    text      ... Emma walked to the attic. ... Emma took the lamp. ...
    question  Where is the lamp?
    answer    attic
    oracle    the story without filler

bAbI: arXiv 1502.05698; BABILong: 2406.10149, where the facts of a story stand
in their order at random places of a text that has nothing to do with them. The
rules are those of bAbI, and tests check them on its files; simulator, names and
sentences are ours. What differs: one question at the end of a story, and
answers that cannot be told from the surface.

- yes, no and maybe, the numbers and the sets of things are drawn beforehand and
  are equally likely; nobody is asked about who carries three things.
- A place that is asked for with the answer no was named with that person, in
  qa10 as one of two, so that it does not help to look whether it was.
- A cheat (the last value of the story, the first, the most frequent, whatever
  was named with the person) is right as often as a guess without the text: for
  which cheats a story is to be such is drawn beforehand, and stories are drawn
  until one is.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping

from memjax.envs.suite import babi_cheats
from memjax.envs.suite import babi_rules
from memjax.envs.suite import babi_text
from memjax.envs.suite import babi_worlds
from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import philox
from memjax.envs.suite import words

# Stories that are drawn before a draw is given up; some need hundreds.
_ATTEMPTS = 20_000

_YES_NO = ("yes", "no")
_MAYBE = ("yes", "no", "maybe")
_COUNTS = babi_rules.NUMBERS[:3]
# Of one thing there are three sets, of two as many; none is likelier.
_SIZES = ("none", *3 * ("one",), *3 * ("two",))
_SETS = ("nothing", *babi_text.THINGS) + tuple(
  f"{a},{b}"
  for i, a in enumerate(babi_text.THINGS)
  for b in babi_text.THINGS[i + 1 :]
)


_MOVES = ("move", "move", "take", "drop")


@dataclasses.dataclass(frozen=True)
class _Kind:
  """One of bAbI's tasks.

  Attributes:
    story: stream -> events.
    questions: (events, wanted answer) -> those that can be asked.
    labels: the answers that there are; those that a question names are none.
    odds: a guess is right once in so many times.
    wanted: the answers, or how many there are of them, where that is drawn
      beforehand.
    guesses: what to guess from; without any, from the names of the kind.
    cheats: what must not help: (question, events) -> answer.
    balanced: (cheat, odds, answers): stories are drawn so that the cheat is
      right once in so many times for these answers, otherwise never.
  """

  story: Callable[[philox.Stream], babi_rules.Events]
  questions: Callable[[babi_rules.Events, str], babi_rules.Events]
  labels: tuple[str, ...]
  odds: int
  cheats: Mapping[str, babi_cheats.Cheat]
  balanced: tuple[tuple[str, int, tuple[str, ...]], ...]
  wanted: tuple[str, ...] = ("",)
  guesses: tuple[str, ...] = ()


def _balanced(
  odds: int, *names: str, answers: tuple[str, ...] = ("",)
) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
  return tuple((name, odds, answers) for name in names)


_ALL = tuple(cheats.RULES)
_WHERE = {
  "labels": babi_text.PLACES,
  "odds": 6,
  "cheats": babi_cheats.PICKED,
  "balanced": _balanced(6, *_ALL),
}
KINDS = {
  "babi_qa1": _Kind(
    babi_worlds.walk(("move",), 4, 12), babi_worlds.where, **_WHERE
  ),
  "babi_qa2": _Kind(
    babi_worlds.walk(_MOVES, 8, 24), babi_worlds.where_thing, **_WHERE
  ),
  "babi_qa3": _Kind(
    babi_worlds.walk(_MOVES, 16, 40),
    babi_worlds.before,
    labels=babi_text.PLACES,
    odds=5,
    cheats=babi_cheats.PICKED,
    balanced=_balanced(5, *_ALL),
  ),
  "babi_qa4": _Kind(
    babi_worlds.sides,
    babi_worlds.beside,
    labels=babi_text.PLACES,
    odds=5,
    # Only two places are named beside the one that is asked about.
    cheats=babi_cheats.PICKED | babi_cheats.BLIND,
    balanced=_balanced(2, "last"),
  ),
  "babi_qa5": _Kind(
    babi_worlds.walk(("move", "take", "give", "give", "give", "drop"), 10, 24),
    babi_worlds.gift,
    labels=babi_text.PEOPLE + babi_text.THINGS,
    odds=3,
    cheats=babi_cheats.PICKED,
    balanced=_balanced(3, *_ALL),
  ),
  "babi_qa6": _Kind(
    babi_worlds.walk(_MOVES, 6, 16),
    babi_worlds.inside,
    labels=_YES_NO,
    odds=2,
    cheats=babi_cheats.IS_PICKED | {"together": babi_cheats.together},
    balanced=_balanced(2, *babi_cheats.IS_PICKED, answers=_YES_NO),
    wanted=_YES_NO,
    guesses=_YES_NO,
  ),
  "babi_qa7": _Kind(
    babi_worlds.walk(("move", "take", "take", "give", "drop"), 8, 20),
    babi_worlds.count,
    labels=babi_rules.NUMBERS,
    odds=3,
    cheats={"named": babi_cheats.count_named},
    balanced=_balanced(3, "named", answers=_COUNTS),
    wanted=_COUNTS,
    guesses=_COUNTS,
  ),
  "babi_qa8": _Kind(
    babi_worlds.walk(("move", "take", "take", "take", "drop", "drop"), 14, 24),
    babi_worlds.carried,
    labels=("nothing", *babi_text.THINGS),
    odds=7,
    cheats=babi_cheats.PICKED | {"named": babi_cheats.all_named},
    balanced=_balanced(7, "named", answers=_COUNTS)
    # One thing is only right where one is carried: three answers of seven.
    + _balanced(3, *_ALL, answers=("one",)),
    wanted=_SIZES,
    guesses=_SETS,
  ),
  "babi_qa9": _Kind(
    babi_worlds.told(("move", "in", "not in"), 6, 14),
    babi_worlds.inside,
    labels=_YES_NO,
    odds=2,
    cheats=babi_cheats.IS_PICKED
    | {"together": babi_cheats.together, "negated": babi_cheats.negated},
    balanced=_balanced(2, *babi_cheats.IS_PICKED, "negated", answers=_YES_NO),
    wanted=_YES_NO,
    guesses=_YES_NO,
  ),
  "babi_qa10": _Kind(
    babi_worlds.told(("move", "in", "either"), 6, 14),
    babi_worlds.perhaps,
    labels=_MAYBE,
    odds=3,
    cheats=babi_cheats.IS_PICKED
    | {"together": babi_cheats.together, "either": babi_cheats.either},
    # Neither says maybe: two answers of three.
    balanced=_balanced(2, *babi_cheats.IS_PICKED, answers=_YES_NO),
    wanted=_MAYBE,
    guesses=_MAYBE,
  ),
}


def _story(
  kind: _Kind, stream: philox.Stream
) -> tuple[babi_rules.Events, babi_rules.Question, str]:
  """(events, question, answer) of which cheats are right as was drawn."""
  wanted = stream.pick(kind.wanted)
  right = {
    name: wanted in answers and not stream.integer(odds)
    for name, odds, answers in kind.balanced
  }
  for _ in range(_ATTEMPTS):
    events = kind.story(stream)
    found = kind.questions(events, wanted)
    start = stream.integer(len(found)) if found else 0
    for question in found[start:] + found[:start]:
      answer = babi_rules.answer(events, question)
      if all(
        _same(kind.cheats[name](question, events), answer) == bit
        for name, bit in right.items()
      ):
        return events, question, answer
  raise RuntimeError(f"no story of {_ATTEMPTS} has {wanted!r} with {right}")


def _same(one: str, other: str) -> bool:
  """Whether two answers have the same parts, in any order."""
  return sorted(one.split(",")) == sorted(other.split(","))


def _task(kind: _Kind) -> draft.Task:
  def draw(stream: philox.Stream, length: int) -> draft.Draft:
    events, question, answer = _story(kind, stream)
    lines = [babi_text.sentence(event, stream) for event in events]
    tokens = sum(map(words.plain, lines))
    hidden = stream.child("text")
    return draft.Draft(
      babi_text.ask(question),
      (answer,),
      tuple(f"{line}\n" for line in lines),
      1 / kind.odds,
      lambda: draft.hide(hidden.fresh(), lines, tokens, length, "essay"),
      {"labels": kind.labels},
    )

  def read(question: str, text: str) -> str | None:
    """Reads the events and applies the rules."""
    events = babi_text.events(text)
    return babi_rules.answer(events, babi_text.asked(question))

  def guess(question: str, stream: philox.Stream) -> str:
    asked = babi_text.asked(question)
    return stream.pick(kind.guesses or babi_text.candidates(asked))

  def as_text(cheat: babi_cheats.Cheat) -> cheats.Cheat:
    return lambda question, text, count: cheat(
      babi_text.asked(question), babi_text.events(text)
    )

  rules = {name: as_text(cheat) for name, cheat in kind.cheats.items()}
  return draft.Task(draw, read, guess, rules, "only", least=512)


TASKS = {name: _task(kind) for name, kind in KINDS.items()}
