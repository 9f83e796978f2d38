"""Answers to questions about a story that do without its meaning.

Functions of a question and of a story's events; stories are drawn so that none
of them is right more often than a guess (see `babi`).
"""

from collections.abc import Callable
from collections.abc import Sequence

from memjax.envs.suite import babi_rules
from memjax.envs.suite import babi_text
from memjax.envs.suite import cheats

Cheat = Callable[[babi_rules.Question, babi_rules.Events], str]


def _values(
  question: babi_rules.Question, events: babi_rules.Events
) -> list[str]:
  """What of the kind that is asked for a story names, but the question not."""
  names = babi_text.candidates(question)
  return [x for event in events for x in event[1:] if x in names]


def _about(
  question: babi_rules.Question,
  events: babi_rules.Events,
  names: Sequence[str],
) -> list[tuple[str, str]]:
  """What of some names is named with the person, and how: (event, name)."""
  return [
    (event[0], x)
    for event in events
    if question[1] in event
    for x in event
    if x in names
  ]


def together(question: babi_rules.Question, events: babi_rules.Events) -> str:
  """yes if an event names the person and the place."""
  found = _about(question, events, question[2:])
  return "yes" if found else "no"


def negated(question: babi_rules.Question, events: babi_rules.Events) -> str:
  """no if an event denies that the person is in the place."""
  found = _about(question, events, question[2:])
  return "no" if ("not in", question[2]) in found else "yes"


def either(question: babi_rules.Question, events: babi_rules.Events) -> str:
  """maybe if an event names the place as one of two."""
  found = _about(question, events, question[2:])
  if ("either", question[2]) in found:
    return "maybe"
  return "yes" if found else "no"


def count_named(
  question: babi_rules.Question, events: babi_rules.Events
) -> str:
  """How many things were named with the person."""
  found = {x for _, x in _about(question, events, babi_text.THINGS)}
  return babi_rules.NUMBERS[len(found)]


def all_named(question: babi_rules.Question, events: babi_rules.Events) -> str:
  """All things that were named with the person."""
  found = {x for _, x in _about(question, events, babi_text.THINGS)}
  return ",".join(sorted(found)) or "nothing"


def _is_value(rule: cheats.Rule) -> Cheat:
  """yes if the place that is asked for is the one that a rule picks."""

  def cheat(question: babi_rules.Question, events: babi_rules.Events) -> str:
    places = _values(("where",), events)
    return "yes" if question[2] in rule(places, 1) else "no"

  return cheat


def _picks(rule: cheats.Rule) -> Cheat:
  """What a rule picks of the values that a story names."""
  return lambda question, events: ",".join(rule(_values(question, events), 1))


PICKED = {name: _picks(rule) for name, rule in cheats.RULES.items()}
BLIND = {cheats.LEVEL: _picks(cheats.blind)}
# For questions about whether somebody is in a place.
IS_PICKED = {
  name: _is_value(cheats.RULES[name]) for name in ("last", "most frequent")
}
