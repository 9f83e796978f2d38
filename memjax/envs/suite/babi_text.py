"""Worlds of `babi_rules` in English: sentences, questions, and back.

All names are ours, and every word costs one token. What is written here is read
by `events` and `question`, whatever filler stands around it.
"""

import re

from memjax.envs.suite import babi_rules
from memjax.envs.suite import philox

PEOPLE = ("Emma", "Peter", "Laura", "Simon")
PLACES = ("attic", "cellar", "library", "workshop", "terrace", "stable")
THINGS = ("lamp", "basket", "hammer")

# Of each event: the sentence, and the verbs that it can have.
_FORMS = {
  "move": (
    "{0} {verb} the {1}.",
    ("walked to", "hurried to", "returned to", "headed to", "ran to"),
  ),
  "take": ("{0} {verb} the {1}.", ("took", "lifted", "collected", "fetched")),
  "drop": (
    "{0} {verb} the {1}.",
    ("dropped", "laid down", "set down", "left behind"),
  ),
  "give": ("{0} {verb} the {1} to {2}.", ("gave", "handed", "passed")),
  "in": ("{0} {verb} the {1}.", ("is in",)),
  "not in": ("{0} {verb} the {1}.", ("is no longer in", "is not in")),
  "either": ("{0} {verb} the {1} or the {2}.", ("is either in",)),
  "side": ("The {0} {verb} {1} of the {2}.", ("is",)),
}
_QUESTIONS = {
  "where": "Where is {0}?",
  "where thing": "Where is the {0}?",
  "before": "Where was the {0} before the {1}?",
  "beside": "What is {0} of the {1}?",
  "of": "What is the {0} {1} of?",
  "given": "What did {0} give to {1}?",
  "giver": "Who gave the {0} to {1}?",
  "receiver": "Who received the {0} from {1}?",
  "in": "Is {0} in the {1}? Answer yes, no or maybe.",
  "count": "How many things does {0} carry? Answer none, one, two or three.",
  "carried": "What does {0} carry? Name all, or answer nothing.",
}


def _pattern(form: str, verbs: tuple[str, ...] = ()) -> re.Pattern:
  """What reads the names out of a form."""
  form = re.sub(r"([.?])", r"\\\1", form)
  form = form.replace("{verb}", f"(?:{'|'.join(verbs)})")
  return re.compile(re.sub(r"\{\d\}", r"(\\w+)", form))


_READERS = {kind: _pattern(*form) for kind, form in _FORMS.items()}
_ASKERS = {kind: _pattern(form) for kind, form in _QUESTIONS.items()}
_SENTENCE = re.compile(
  rf"(?:{'|'.join(PEOPLE)}) [^.]*\.|The \w+ is \w+ of the \w+\."
)


def sentence(event: babi_rules.Event, stream: philox.Stream) -> str:
  """An event as a sentence, in one of several ways."""
  form, verbs = _FORMS[event[0]]
  return form.format(*event[1:], verb=stream.pick(verbs))


def sentences(text: str) -> list[str]:
  """Those of a text that tell events, in order."""
  return _SENTENCE.findall(text)


def events(text: str) -> babi_rules.Events:
  """The events that a text tells, in order."""
  return [
    (kind, *match.groups())
    for line in sentences(text)
    for kind, reader in _READERS.items()
    if (match := reader.fullmatch(line))
  ]


def ask(question: babi_rules.Question) -> str:
  """A question in English."""
  return _QUESTIONS[question[0]].format(*question[1:])


def asked(text: str) -> babi_rules.Question:
  """The question that `ask` wrote."""
  for kind, reader in _ASKERS.items():
    match = reader.fullmatch(text)
    if match:
      return (kind, *match.groups())
  raise ValueError(f"{text!r}: no such question")


def candidates(question: babi_rules.Question) -> tuple[str, ...]:
  """The names of the kind that is asked for, but those of the question."""
  names = PLACES
  if question[0] in ("given", "count", "carried"):
    names = THINGS
  elif question[0] in ("giver", "receiver"):
    names = PEOPLE
  return tuple(x for x in names if x not in question)
