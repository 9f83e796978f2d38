"""Answers of known truth where there is no accepted answer to compare with.

What LongMemEval calls the answer is a rubric where a wish for advice is to be
met as the user would like it ("preference"), and an explanation where nothing
was told of what is asked for ("abstention"). `longmemeval_cases` says which
kinds of answers are right.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import judge

UNKNOWN = (
  "I do not know that.",
  "You have not told me.",
  "That never came up in our chats.",
  "I have no information about it.",
  "From what you told me I cannot say.",
  "Sorry, our chats do not say anything about it.",
)
ASIDES = (
  "You told me so a while ago.",
  "I remember that from one of our chats.",
  "Let me know if you want to change something about it.",
  "Is there anything else that I can help you with?",
  "I hope that helps.",
  "It was nice to hear about it.",
)


@dataclasses.dataclass(frozen=True)
class _Taste:
  """A wish for advice, to which users have told what they like.

  Attributes:
    question: asks for it.
    what: is recommended.
    likes: of which the user has told one.
    dislikes: of which the user has told another.
  """

  question: str
  what: str
  likes: tuple[str, ...]
  dislikes: tuple[str, ...]


def _taste(question: str, what: str, likes: str, dislikes: str) -> _Taste:
  return _Taste(
    question, what, tuple(likes.split(", ")), tuple(dislikes.split(", "))
  )


_TASTES = (
  _taste(
    "Can you suggest something for dinner tonight?",
    "dishes",
    "Thai curries, Greek salads, noodles, Mexican soups, stews, dumplings",
    "nuts, mushrooms, coriander, cheese, olives, eggs",
  ),
  _taste(
    "Which book should I read next?",
    "books",
    "sea voyages, family sagas, detectives, astronomy, short stories, chess",
    "violence, sad endings, long descriptions, time travel, romance, dragons",
  ),
  _taste(
    "What could I do this weekend?",
    "plans",
    "hikes, board games, flea markets, bird watching, concerts, sketching",
    "crowds, long drives, early mornings, steep climbs, loud bars, queues",
  ),
  _taste(
    "Where should I go on holiday?",
    "trips",
    "old harbours, train rides, hot springs, vineyards, coral reefs, caves",
    "long flights, big hotels, humid weather, cruise ships, theme parks, snow",
  ),
  _taste(
    "How can I get fitter?",
    "exercises",
    "swimming, cycling, yoga, dancing, rowing, fencing",
    "running, heavy weights, gyms, team sports, jumping, skipping ropes",
  ),
  _taste(
    "What music would go well with my work?",
    "pieces",
    "string quartets, jazz trios, film scores, tangos, fugues, harp solos",
    "singing, drum solos, live recordings, loud parts, accordions, choirs",
  ),
)
_RUBRIC = (
  "The user would prefer {what} that have to do with {like}, which they enjoy, "
  "and that go without {dislike}. They would not prefer {what} for everybody."
)
_USES = {
  "all points": (
    "Since you enjoy {like} and not {dislike}, take {what} with the former.",
    "You like {like}: I would look for {what} of that sort without {dislike}.",
    "As {dislike} are not for you, I thought of {what} around {like}.",
    "How about {like}? It suits your taste, and you will be spared {dislike}.",
  ),
  "one point": (
    "Since you enjoy {like}, take {what} that have to do with that.",
    "You like {like}, so I would look for {what} of that sort.",
    "How about {like}? You have told me how much you enjoy that.",
    "With your love of {like}, choose {what} that build on it.",
  ),
  # Filled with something that the user did not tell.
  "misremembered": (
    "Since you enjoy {other}, take {what} that have to do with that.",
    "You like {other}, so I would look for {what} of that sort.",
    "With your love of {other}, choose {what} that build on it.",
  ),
  "for everybody": (
    "There are many good {what}; see what other people recommend.",
    "Look for popular {what} on the web and try what has good reviews.",
    "It depends: {what} should be varied and not too expensive.",
  ),
  "against it": (
    "I would go for {what} with plenty of {dislike}.",
    "How about {dislike}? There is nothing better.",
    "Choose {what} that have a lot to do with {dislike}.",
  ),
  "asks back": (
    "Tell me first what you enjoy, then I can suggest {what}.",
    "I know nothing of your taste. Which {what} do you like?",
    "What do you like, and what not? I have no idea of it yet.",
  ),
}


@dataclasses.dataclass(frozen=True)
class _Untold:
  """What was told of one thing and is asked of another.

  Attributes:
    question: about {thing}.
    things: of which one was told about.
    values: of which one was told.
    says: that {thing} has {value}.
    vague: leaves it open, as if it were known.
  """

  question: str
  things: tuple[str, ...]
  values: tuple[str, ...]
  says: str
  vague: str


_UNTOLD = (
  _Untold(
    "What is the name of my {thing}?",
    ("hamster", "rabbit", "parrot", "tortoise", "cat"),
    ("Pixel", "Biscuit", "Nero", "Waffle", "Comet", "Juno", "Ziggy", "Olive"),
    "Your {thing} is called {value}.",
    "You named your {thing} after somebody in a book.",
  ),
  _Untold(
    "How much did I pay for my {thing}?",
    ("jacket", "lamp", "suitcase", "kettle", "desk"),
    ("$35", "$40", "$59", "$64", "$78", "$85", "$99", "$120"),
    "You paid {value} for your {thing}.",
    "Your {thing} cost less than you had feared.",
  ),
  _Untold(
    "When is my {thing}?",
    ("piano lesson", "drawing lesson", "chess lesson", "Spanish lesson"),
    ("Monday at six", "Tuesday at five", "Friday at noon", "Sunday at ten"),
    "Your {thing} is on {value}.",
    "Your {thing} is at the time that suits you best.",
  ),
  _Untold(
    "Where does my {thing} live?",
    ("uncle", "aunt", "niece", "grandmother", "nephew"),
    ("Oslo", "Bern", "Lima", "Quito", "Hanoi", "Accra", "Porto", "Riga"),
    "Your {thing} lives in {value}.",
    "Your {thing} lives in a town by the water.",
  ),
  _Untold(
    "What did I give my {thing} as a present?",
    ("brother", "sister", "colleague", "boss", "flatmate"),
    ("a scarf", "a kite", "a teapot", "a puzzle", "a diary", "a globe"),
    "You gave your {thing} {value}.",
    "You gave your {thing} something that had long been wished for.",
  ),
)
_EXPLAINED = (
  "You did not tell this. You spoke of your {other} ({value}), not of your "
  "{thing}.",
  "There is not enough information: the {thing} was never a topic, though the "
  "{other} was ({value}).",
)
_MISSING = (
  "You have not told me that about your {thing}.",
  "Our chats say nothing of the kind about your {thing}.",
  "I cannot say, since you never spoke of your {thing}.",
)
_OTHER_TOLD = (
  "{told} But of your {thing} you have told me nothing.",
  "I only know of your {other}: {told}",
  "You never spoke of your {thing}. {told}",
)


def pick(options: Sequence[Any], rng: np.random.Generator) -> Any:
  """One of several."""
  return options[int(rng.integers(len(options)))]


def two(options: Sequence[Any], rng: np.random.Generator) -> list[Any]:
  """Two different ones, in any order."""
  return [options[i] for i in rng.choice(len(options), 2, replace=False)]


def say(text: str) -> str:
  """A sentence, from what begins in the middle of one."""
  return text[:1].upper() + text[1:]


def preference(kind: str, rng: np.random.Generator) -> judge.Item:
  """An answer to a wish for advice."""
  taste = pick(_TASTES, rng)
  like, other = two(taste.likes, rng)
  told = {
    "what": taste.what,
    "like": like,
    "other": other,
    "dislike": pick(taste.dislikes, rng),
  }
  given = say(pick(_USES[kind], rng).format(**told))
  if rng.integers(2):
    given += f" {pick(ASIDES[2:5], rng)}"  # that claim to remember nothing
  return judge.Item(taste.question, (_RUBRIC.format(**told),), given)


def abstention(kind: str, rng: np.random.Generator) -> judge.Item:
  """An answer to a question about what was not told."""
  untold = pick(_UNTOLD, rng)
  thing, other = two(untold.things, rng)
  value, invented = two(untold.values, rng)
  aside = pick(("", *(f" {x}" for x in ASIDES)), rng)
  told = {
    "thing": thing,
    "other": other,
    "value": value,
    "told": untold.says.format(thing=other, value=value),
  }
  given = {
    "unknown": lambda: pick(UNKNOWN, rng),
    "missing": lambda: pick(_MISSING, rng),
    "other told": lambda: pick(_OTHER_TOLD, rng),
    "made up": lambda: f"{untold.says.replace('{value}', invented)}{aside}",
    "of another": lambda: f"{untold.says}{aside}",
    "vague": lambda: f"{untold.vague}{aside}",
  }[kind]().format(**told)
  return judge.Item(
    untold.question.format(**told),
    (pick(_EXPLAINED, rng).format(**told),),
    say(given),
  )
