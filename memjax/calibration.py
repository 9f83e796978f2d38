"""How often a judge errs: asked about generated answers whose truth is known.

Half of the answers are right: as the reference has it ("verbatim"), and in
other words ("paraphrase"). Half are wrong but on the topic: the same sentence
with another value ("other value"), the topic without an answer ("vague"), the
right value and another one to choose from ("hedged"), half of what was asked
for ("incomplete"). Who accepts the latter scores anything that sounds right.

These are for the general prompt. Who judges by other rules must be asked about
answers of which those rules say which are right: an environment that brings its
own prompts brings such answers, too (`judged`), which `draw` draws.

The rates are of these answers, in plain English. They say what a judge does to
yours as far as yours resemble them.
"""

import dataclasses
from collections.abc import Callable
from collections.abc import Mapping
from typing import Any

import numpy as np

from memjax import judge
from memjax import scores

# Shares of the kinds within their half.
_RIGHT = {"verbatim": 0.25, "paraphrase": 0.75}
_WRONG = {"other value": 0.4, "vague": 0.25, "hedged": 0.2, "incomplete": 0.15}

# So many draws in a row without a new answer: there is none left.
_REPEATED = 10_000

NAMES = (
  "Amina Bruno Chiara Dmitri Elif Farid Greta Hiro Ines Jamal Kaja Luis Mara "
  "Nadia Omar Petra Quentin Rosa Stefan Tove Usha Viktor Wanda Yusuf"
).split()


@dataclasses.dataclass(frozen=True)
class Case:
  """An answer whose truth is known: what is judged, its kind, the truth."""

  item: judge.Item
  kind: str
  truth: bool


@dataclasses.dataclass(frozen=True)
class _Template:
  """Questions of one form.

  Attributes:
    question: with the slot {name}.
    values: each in the forms that say the same, the reference's form first.
    sentences: with {name} and {x}, a value; each says what was asked for.
    vague: with {name}; each speaks of the topic and leaves the answer open.
    halves: values are two things, {x} both: (first, second) instead of forms.
  """

  question: str
  values: tuple[tuple[str, ...], ...]
  sentences: tuple[str, ...]
  vague: tuple[str, ...]
  halves: bool = False


def _single(words: str) -> tuple[tuple[str, ...], ...]:
  return tuple((word.strip(),) for word in words.split(","))


_NUMBERS = "two three four five six seven eight nine ten eleven".split()
_MONTHS = (
  "January February March April May June July August September October "
  "November December"
).split()
_SPORTS = "rowing,fencing,judo,archery,tennis,climbing,diving,golf".split(",")


def _ordinal(day: int) -> str:
  """4th, 22nd; the 11th to the 13th are no 1st to 3rd."""
  ending = {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
  return f"{day}{'th' if 10 < day < 14 else ending}"


_TEMPLATES = (
  _Template(
    "Where does {name} live now?",
    _single(
      "Oslo, Bern, Lima, Quito, Hanoi, Accra, Porto, Tartu, Riga, Cairo, Sofia"
    ),
    (
      "{name} lives in {x}.",
      "The place that {name} calls home is {x}.",
      "{name}'s home is in {x} these days.",
    ),
    (
      "{name} moved to another city some time ago.",
      "In a city that {name} has come to like.",
    ),
  ),
  _Template(
    "When did {name} start the new job?",
    tuple(
      (
        f"{day} {month} {year}",
        f"{month} {_ordinal(day)}, {year}",
        f"{year}-{number:02d}-{day:02d}",
      )
      for number, month in enumerate(_MONTHS, 1)
      for day, year in ((3 + number, 2022), (2 * number, 2023))
    ),
    (
      "{name} started on {x}.",
      "It was on {x} that {name} began to work there.",
    ),
    (
      "{name} started the new job some weeks after the interview.",
      "As soon as the old contract had come to its end.",
    ),
  ),
  _Template(
    "How many cousins does {name} have?",
    tuple((str(n), word) for n, word in enumerate(_NUMBERS, 2)),
    (
      "{name} has {x} cousins.",
      "There are {x} of them.",
      "If you count {name}'s cousins, you come to {x}.",
    ),
    (
      "{name} has cousins on both sides of the family.",
      "More than most people that {name} knows.",
    ),
  ),
  _Template(
    "What does {name} do for a living?",
    _single(
      "nurse, plumber, teacher, baker, pilot, translator, gardener, dentist"
    ),
    (
      "{name} works as a {x}.",
      "By profession {name} is a {x}.",
      "A {x}, that is what {name} does for a living.",
    ),
    (
      "{name} has a job with long hours.",
      "Something that {name} was trained for after school.",
    ),
  ),
  _Template(
    "What is the name of {name}'s dog?",
    _single("Pixel, Biscuit, Nero, Waffle, Comet, Juno, Ziggy, Olive, Fargo"),
    (
      "The dog is called {x}.",
      "{name} named the dog {x}.",
      "It answers to the name of {x}.",
    ),
    (
      "{name} named the dog after somebody in a book.",
      "{name} takes the dog for a walk twice a day.",
    ),
  ),
  _Template(
    "What did {name} get as a birthday present?",
    tuple(
      (f"a {color} {thing}", f"a {thing}, a {color} one")
      for color in ("red", "green", "white", "black")
      for thing in ("bicycle", "guitar", "kettle", "backpack")
    ),
    (
      "{name} got {x}.",
      "{x} was what {name} was given.",
      "The present was {x}.",
    ),
    (
      "{name} was very happy about the present.",
      "Something that {name} had wanted for years.",
    ),
  ),
  _Template(
    "How long has {name} been learning to sail?",
    (
      ("6 months", "half a year"),
      ("12 months", "one year"),
      ("18 months", "a year and a half"),
      ("2 weeks", "fourteen days"),
      ("24 months", "two years"),
      ("3 months", "a quarter of a year"),
    ),
    (
      "{name} has been at it for {x}.",
      "For {x} now.",
      "By now it has been {x} since {name} began.",
    ),
    (
      "Since {name} found a good teacher.",
      "{name} has been learning to sail for a while now.",
    ),
  ),
  _Template(
    "Which two sports does {name} do?",
    tuple((a, b) for i, a in enumerate(_SPORTS) for b in _SPORTS[i + 1 :]),
    (
      "{name} does {x}.",
      "{x} are the two.",
      "The sports that {name} does are {x}.",
    ),
    (
      "{name} does two sports, one of them since childhood.",
      "{name} trains three evenings a week.",
    ),
    halves=True,
  ),
)
_PAIRED = tuple(t for t in _TEMPLATES if t.halves)
_PLAIN = tuple(t for t in _TEMPLATES if not t.halves)


def cases(n: int, seed: int) -> list[Case]:
  """n different answers to be judged by the general prompt: see `draw`."""
  return draw(n, seed, _RIGHT, _WRONG, item)


def draw(
  n: int,
  seed: int,
  right: Mapping[str, float],
  wrong: Mapping[str, float],
  make: Callable[[str, np.random.Generator], judge.Item],
) -> list[Case]:
  """n different answers, half of them right; a function of what is given.

  Args:
    n: how many.
    seed: of all draws.
    right: {kind: share of the right ones}.
    wrong: the same of the wrong ones.
    make: (kind, random numbers) -> what is judged.

  Raises:
    ValueError: n is odd, or so small that a kind would be missing, or so large
      that there are not as many different ones.
  """
  if not 40 <= n <= 10_000 or n % 2:
    raise ValueError(
      f"config.judge.examples={n}: expected an even number from 40 to 10000"
    )
  rng = np.random.default_rng([seed, 0])
  found: dict[judge.Item, Case] = {}
  for truth, shares in ((True, right), (False, wrong)):
    ends = np.round(np.cumsum(list(shares.values())) * n / 2).astype(int)
    first = len(found)
    for kind, end in zip(shares, ends):
      repeated = 0
      while len(found) - first < end:
        made, before = make(kind, rng), len(found)
        found.setdefault(made, Case(made, kind, truth))
        repeated = repeated + 1 if len(found) == before else 0
        if repeated > _REPEATED:
          raise ValueError(
            f"config.judge.examples={n}: there are not as many different "
            f"answers of kind {kind!r}: take fewer"
          )
  return list(found.values())


def item(kind: str, rng: np.random.Generator) -> judge.Item:
  """A question with an answer of a kind that `cases` has."""
  pick = lambda options: options[int(rng.integers(len(options)))]
  pool = {"incomplete": _PAIRED, "hedged": _PLAIN}.get(kind, _TEMPLATES)
  template, name = pick(pool), pick(NAMES)
  i, j = rng.choice(len(template.values), 2, replace=False)
  value, other = template.values[i], template.values[j]
  forms, wrongs = value, other
  if template.halves:
    forms = (f"{value[0]} and {value[1]}", f"{value[1]} and {value[0]}")
    # Either nothing is right, or one of the two.
    third = next(x for x in other if x not in value)
    wrongs = (f"{other[0]} and {other[1]}", f"{pick(value)} and {third}")
  sentence = pick(template.sentences)
  if kind == "verbatim":
    given = forms[0]
  elif kind == "paraphrase":
    # Where there is another form it may stand alone.
    bare = ("{x}",) if forms[1:] else ()
    given = pick((sentence, *bare)).replace("{x}", pick(forms[1:] or forms))
  elif kind == "other value":
    given = pick((sentence, "{x}")).replace("{x}", pick(wrongs))
  elif kind == "vague":
    given = pick(template.vague)
  elif kind == "hedged":
    form = pick(("{0} or {1}", "Either {0} or {1}.", "Maybe {0}, maybe {1}."))
    given = form.format(*rng.permutation([forms[0], wrongs[0]]))
  else:
    given = pick((sentence, "{x}")).replace("{x}", pick(value))
  if kind != "verbatim":
    given = given[:1].upper() + given[1:]
  question, given = (
    text.replace("{name}", name) for text in (template.question, given)
  )
  return judge.Item(question, (forms[0],), given)


def measure(
  by: judge.Judge,
  n: int,
  seed: int,
  draw_cases: Callable[[int, int], list[Case]] = cases,
) -> dict[str, Any]:
  """Asks a judge about generated answers.

  Args:
    by: the judge.
    n: how many answers.
    seed: of these.
    draw_cases: (n, seed) -> the answers; they name the prompt that they take.

  Returns:
    {"false_accept": {"rate", "low", "high", "n"} of the wrong answers,
    "false_reject": the same of the right ones, "kinds": {kind: {"accepted",
    "n"}}, "examples": {error: an answer, or None}, "seed"}

  Raises:
    JudgeError: an answer was not judged.
  """
  asked = draw_cases(n, seed)
  accepted = np.array(by.verdicts([case.item for case in asked]))
  truth = np.array([case.truth for case in asked])
  kinds: dict[str, dict[str, int]] = {}
  for case, yes in zip(asked, accepted):
    kind = kinds.setdefault(case.kind, {"accepted": 0, "n": 0})
    kind["accepted"] += int(yes)
    kind["n"] += 1
  wrong_N = accepted != truth
  errors = {"false_accept": ~truth, "false_reject": truth}
  return {
    **{name: _rate(wrong_N[rows]) for name, rows in errors.items()},
    "kinds": kinds,
    "examples": {
      name: next(
        (
          dataclasses.asdict(asked[i].item)
          for i in np.flatnonzero(rows & wrong_N)
        ),
        None,
      )
      for name, rows in errors.items()
    },
    "seed": seed,
  }


def _rate(error_N: np.ndarray) -> dict[str, Any]:
  found = scores.interval(error_N.astype(np.float64))
  return {"rate": found.pop("accuracy"), **found}
