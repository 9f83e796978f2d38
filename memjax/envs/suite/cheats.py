"""Answers without understanding: what a task must not reward.

A cheat looks at the values that a text offers, and not at what they are values
of. Two levels to compare it with: `chance`, of those who see no text, and
`blind`, of those who take values of the text at random. Where a cheat is above
both, the task gives its answer away.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

from memjax.envs.suite import philox

# (values that a text offers, number of answers) -> some of them.
Rule = Callable[[Sequence[str], int], list[str]]
# (question, text) -> the values that the text offers, in order.
Values = Callable[[str, str], Sequence[str]]
# (question, text, number of answers) -> an answer.
Cheat = Callable[[str, str, int], str]

# How many values name the random stream of `blind`.
_NAME = 16


def last(values: Sequence[str], count: int) -> list[str]:
  """The last different values."""
  return list(dict.fromkeys(reversed(values)))[:count]


def first(values: Sequence[str], count: int) -> list[str]:
  """The first different values."""
  return list(dict.fromkeys(values))[:count]


def most_frequent(values: Sequence[str], count: int) -> list[str]:
  """The most frequent values; of equally frequent ones the first."""
  found: dict[str, int] = {}
  for value in values:
    found[value] = found.get(value, 0) + 1
  return sorted(found, key=found.get, reverse=True)[:count]


def blind(values: Sequence[str], count: int) -> list[str]:
  """Different values at random, each as likely as it is frequent."""
  stream = philox.Stream("blind", len(values), *values[:_NAME])
  return first([values[i] for i in stream.permutation(len(values))], count)


# What must not help, and `blind`, which says how much is to be had blindly.
RULES: Mapping[str, Rule] = {
  "last": last,
  "first": first,
  "most frequent": most_frequent,
}
LEVEL = "blind"


def of_values(values: Values) -> Mapping[str, Cheat]:
  """The rules of this file on the values that a text offers."""

  def make(rule: Rule) -> Cheat:
    return lambda question, text, count: ", ".join(
      rule(values(question, text), count)
    )

  rules = {**RULES, LEVEL: blind}
  return {name: make(rule) for name, rule in rules.items()}
