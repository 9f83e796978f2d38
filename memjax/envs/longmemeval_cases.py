"""Answers of known truth for each prompt of LongMemEval's judge.

A judge's errors are those of a model with a prompt: by its rules the same
answer can be right or wrong. For each of `longmemeval_prompts.PROMPTS`, half of
the answers are right and half wrong by its rules, in our words:

  plain        right: as accepted, in other words, with more beside it, all the
               steps to it; wrong: another value, half of it, one of the steps
  temporal     right: as accepted, or a number that is off by one; wrong: off by
               three or more, another unit, the wrong one of two to be first
  update       right: the latest value, also with the earlier one; wrong: the
               earlier one, also with the latest as the earlier
  preference   right: uses what the rubric tells, or one point of it; wrong: of
               nobody in particular, of somebody else, against it, asks back
  abstention   right: sees that it was not told; wrong: makes it up, or tells
               what was told of something else

and, as wrong answers, to all but `preference` some that leave it open; to the
first three some that say that it is not known.
"""

import dataclasses
import functools

import numpy as np

from memjax import calibration
from memjax import judge
from memjax.envs import longmemeval_rubrics as rubrics

# Of a sum of two months: what, and what was done with it.
_COUNTED = (
  ("books", "read"),
  ("films", "watch"),
  ("concerts", "go to"),
  ("museums", "visit"),
  ("cakes", "bake"),
  ("letters", "write"),
  ("runs", "finish"),
  ("plants", "buy"),
)
_MONTHS = "January,March,April,June,July,August,October,November".split(",")

# What happened at some time; {my} is "your" in an answer.
_EVENTS = (
  "{my} visit to the dentist",
  "{my} cousin's wedding",
  "{my} trial lesson in pottery",
  "the sale of {my} car",
  "the move to {my} new flat",
  "{my} talk at the library",
  "the repair of {my} bicycle",
  "{my} trip to the coast",
  "the arrival of {my} new oven",
  "{my} interview at the bank",
  "the concert of {my} choir",
  "{my} sister's birthday",
  "the end of {my} French course",
  "{my} swim in the lake",
)
_UNITS = ("days", "weeks", "months")
_PASSED = (
  "{n} {unit} passed.",
  "There were {n} {unit} in between.",
  "It took {n} {unit} from {a} to {b}.",
  "Between {a} and {b} lay {n} {unit}.",
)
_SOME_TIME = (
  "Some {unit} passed between {a} and {b}.",
  "A good while, as {a} was in the spring.",
  "{b} was later than {a}.",
)
_FIRST = (
  "{a} came first.",
  "First {a}, then {b}.",
  "{b} came after {a}.",
  "Of the two, {a} was earlier.",
)

_LATEST = (
  "The latest that you told me is {x}.",
  "It is {x} by now.",
  "At the moment it is {x}.",
)


@dataclasses.dataclass(frozen=True)
class _State:
  """Something that changes.

  Attributes:
    question: about the latest value; {name} is a friend's.
    values: of which one is the earlier and another the latest.
    now: says that {x} is the latest.
    before: says that {x} is not any more.
    vague: leaves it open.
  """

  question: str
  values: tuple[str, ...]
  now: str
  before: str
  vague: str


_STATES = (
  _State(
    "Where does my friend {name} live now?",
    ("Oslo", "Bern", "Lima", "Quito", "Hanoi", "Accra", "Porto", "Riga"),
    "{name} lives in {x} now.",
    "{name} used to live in {x}.",
    "{name} moved to another city.",
  ),
  _State(
    "How much do I pay a month for the class with {name}?",
    ("$25", "$30", "$42", "$48", "$55", "$60", "$72", "$80"),
    "You now pay {x} a month.",
    "At first you paid {x} a month.",
    "The price of the class with {name} has changed.",
  ),
  _State(
    "On which day do I meet {name}?",
    ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"),
    "By now you meet {name} on {x}.",
    "In the beginning you met {name} on {x}.",
    "You and {name} found a better day.",
  ),
  _State(
    "What does my friend {name} do for a living?",
    ("nurse", "plumber", "teacher", "baker", "pilot", "translator", "dentist"),
    "{name} now works as a {x}.",
    "{name} once worked as a {x}.",
    "{name} has a new job and likes it.",
  ),
  _State(
    "What is my best time so far in the run with {name}?",
    ("24:10", "24:55", "25:30", "26:05", "26:40", "27:15", "28:20", "29:05"),
    "Your best time so far is {x}.",
    "Your best time used to be {x}.",
    "You have become faster since you run with {name}.",
  ),
)


def _plain(kind: str, rng: np.random.Generator) -> judge.Item:
  if kind in ("steps", "one step"):
    (a, b), (what, do) = rubrics.two(_MONTHS, rng), rubrics.pick(_COUNTED, rng)
    one, other = (int(x) for x in rng.integers(2, 20, 2))
    given = f"In {a} you had {one} {what}"
    given += f" and in {b} {other}." if kind == "steps" else "."
    return judge.Item(
      f"How many {what} did I {do} in {a} and {b} together?",
      (str(one + other),),
      given,
    )
  like = {"with more": "paraphrase", "unknown": "verbatim"}.get(kind, kind)
  item = calibration.item(like, rng)
  if kind == "with more":
    joint = " " if item.given.endswith(".") else ". "
    given = f"{item.given}{joint}{rubrics.pick(rubrics.ASIDES, rng)}"
    return dataclasses.replace(item, given=given)
  if kind == "unknown":
    return dataclasses.replace(item, given=rubrics.pick(rubrics.UNKNOWN, rng))
  return item


def _temporal(kind: str, rng: np.random.Generator) -> judge.Item:
  pair, (unit, other) = rubrics.two(_EVENTS, rng), rubrics.two(_UNITS, rng)
  (a, b), yours = (
    [event.replace("{my}", whose) for event in pair] for whose in ("my", "your")
  )
  if kind in ("order", "wrong order"):
    named = " or ".join(rng.permutation([a, b]))
    first, second = yours if kind == "order" else yours[::-1]
    given = rubrics.pick(_FIRST, rng).format(a=first, b=second)
    return judge.Item(f"Which came first, {named}?", (a,), rubrics.say(given))
  n = said = int(rng.integers(12, 41))
  sign = 1 if rng.integers(2) else -1
  if kind == "off by one":
    said += sign
  elif kind == "far off":
    said += sign * int(rng.integers(3, 11))
  form = rubrics.pick((*_PASSED, "{n} {unit}"), rng)
  if kind == "verbatim":
    form = "{n} {unit}"
  elif kind == "paraphrase":
    form = rubrics.pick(_PASSED, rng)
  elif kind == "vague":
    form = rubrics.pick(_SOME_TIME, rng)
  elif kind == "unknown":
    form = rubrics.pick(rubrics.UNKNOWN, rng)
  shown = other if kind == "other unit" else unit
  given = form.format(n=said, unit=shown, a=yours[0], b=yours[1])
  question = f"How many {unit} passed between {a} and {b}?"
  return judge.Item(question, (f"{n} {unit}",), rubrics.say(given))


def _update(kind: str, rng: np.random.Generator) -> judge.Item:
  state, name = rubrics.pick(_STATES, rng), rubrics.pick(calibration.NAMES, rng)
  old, new, third = (
    state.values[i] for i in rng.choice(len(state.values), 3, replace=False)
  )
  now = lambda x: state.now.replace("{x}", x)
  # All are made, though one is taken, for there are few.
  given = {
    "verbatim": [new],
    "paraphrase": [now(new), *(x.format(x=new) for x in _LATEST)],
    "with the earlier": _both(state, old, new),
    "the earlier": [old, now(old), *(x.format(x=old) for x in _LATEST)],
    "reversed": _both(state, new, old),
    "other value": [third, now(third)],
    "vague": [f"{state.vague} {x}" for x in rubrics.ASIDES],
    "unknown": rubrics.UNKNOWN,
  }[kind]
  question, given = (
    text.replace("{name}", name)
    for text in (state.question, rubrics.pick(given, rng))
  )
  return judge.Item(question, (new,), given)


def _both(state: _State, earlier: str, latest: str) -> list[str]:
  """Ways to say that one value came before the other."""
  now = state.now.replace("{x}", latest)
  before = state.before.replace("{x}", earlier)
  return [
    f"{before} {now}",
    f"{now} {before}",
    f"It was {earlier} before, and it is {latest} now.",
  ]


# {prompt: (what makes an item, shares of the right kinds, of the wrong ones)}
_KINDS = {
  "plain": (
    _plain,
    {"verbatim": 0.15, "paraphrase": 0.4, "with more": 0.25, "steps": 0.2},
    {
      "other value": 0.35,
      "vague": 0.15,
      "incomplete": 0.1,
      "one step": 0.2,
      "unknown": 0.2,
    },
  ),
  "temporal": (
    _temporal,
    {"verbatim": 0.1, "paraphrase": 0.25, "off by one": 0.45, "order": 0.2},
    {
      "far off": 0.35,
      "other unit": 0.15,
      "wrong order": 0.2,
      "vague": 0.15,
      "unknown": 0.15,
    },
  ),
  "update": (
    _update,
    {"verbatim": 0.1, "paraphrase": 0.35, "with the earlier": 0.55},
    {
      "the earlier": 0.3,
      "reversed": 0.25,
      "other value": 0.2,
      "vague": 0.1,
      "unknown": 0.15,
    },
  ),
  "preference": (
    rubrics.preference,
    {"all points": 0.6, "one point": 0.4},
    {
      "for everybody": 0.35,
      "misremembered": 0.25,
      "against it": 0.2,
      "asks back": 0.2,
    },
  ),
  "abstention": (
    rubrics.abstention,
    {"unknown": 0.3, "missing": 0.35, "other told": 0.35},
    {"made up": 0.4, "of another": 0.35, "vague": 0.25},
  ),
}


def _cases(prompt: str, n: int, seed: int) -> list[calibration.Case]:
  """n different answers to be judged by a prompt: see `calibration.draw`."""
  make, right, wrong = _KINDS[prompt]
  return calibration.draw(
    n,
    seed,
    right,
    wrong,
    lambda kind, rng: dataclasses.replace(make(kind, rng), kind=prompt),
  )


CASES = {prompt: functools.partial(_cases, prompt) for prompt in _KINDS}
