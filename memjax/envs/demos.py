"""What somebody who keeps a memory of `homes` would write, careful or not.

For warm starts: a demonstrator is careful (notes what will be asked for,
corrects and merges, names what an answer rests on), or has bad habits (notes
gossip, misses facts, only ever adds). Texts are words as prompts show them.
"""

from collections.abc import Sequence

import numpy as np

from memjax import prompts
from memjax import supervised
from memjax import tokenizer as tokenizer_lib
from memjax.envs import homes


class Pairs:
  """Prompts and responses by operation, in the style "words"."""

  def __init__(self):
    """Nothing yet."""
    self.prompts: dict[str, list[str]] = {}
    self.responses: dict[str, list[str]] = {}

  def add(self, op: str, template: str, response: str, **slots: str) -> None:
    """One pair: a template's text with its slots filled."""
    for slot, value in slots.items():
      template = template.replace("{" + slot + "}", value)
    self.prompts.setdefault(op, []).append(" ".join(template.split()))
    self.responses.setdefault(op, []).append(response)

  def packed(
    self, tokenizer: tokenizer_lib.Tokenizer
  ) -> dict[str, supervised.Pairs]:
    """The pairs of each operation for `supervised.fit`, equally weighted."""
    return {
      op: supervised.make_pairs(
        tokenizer.encode_batch(self.prompts[op]),
        tokenizer.encode_batch(self.responses[op]),
        tokenizer.stop_ids[0],
      )
      for op in self.prompts
    }


def words() -> list[str]:
  """The vocabulary of all agents, with numbers for long lists."""
  numbers = [str(n) for n in range(1, 25)]
  return list(
    dict.fromkeys([*homes.vocabulary(), *prompts.TOPIC_WORDS, *numbers])
  )


def words_of(text: str) -> set[str]:
  """What lexical retrieval compares."""
  for mark in "=@~!?-":
    text = text.replace(mark, " ")
  return set(text.split())


def shown(listed: Sequence[str], numbered: bool) -> str:
  """A list as prompts show it; a text that ends its line gets no other end."""
  closed = [x if x.endswith("<nl>") else f"{x} <nl>" for x in listed]
  rows = [f"{n} {x}" if numbered else x for n, x in enumerate(closed, 1)]
  return " ".join(rows) or "<none>"


def noted(
  facts: Sequence[str], careful: bool, rng: np.random.Generator, most: int
) -> list[str]:
  """Which of a session's facts are written down."""
  if careful:
    kept = [x for x in facts if not homes.is_gossip(x)]
  else:
    kept = [x for x in facts if rng.random() < (0.3 if x[-1] == "!" else 0.7)]
  return kept[:most]


def lines(texts: Sequence[str]) -> str:
  """Facts as the response of an extraction."""
  return " ".join(f"{x} <nl>" for x in texts) or "NONE <nl>"


def notes(facts: Sequence[str], turns: Sequence[str]) -> str:
  """Facts with the numbers of the turns that say them, as RMM's extraction."""
  rows = []
  for fact in facts:
    said = [str(n) for n, turn in enumerate(turns, 1) if fact in turn.split()]
    rows.append(f"NOTE {' '.join(said)} : {fact} <nl>")
  return " ".join(rows) or "NONE <nl>"


def update(
  facts: Sequence[str], listed: Sequence[str], careful: bool, most: int
) -> list[tuple[str, int, str]]:
  """Operations on listed entries, as (verb, number, text)."""
  if not careful:
    return [("ADD", 0, x) for x in facts if not x.endswith("!")]
  ops: list[tuple[str, int, str]] = []
  for name in dict.fromkeys(map(homes.person, facts)):
    about = [
      (n, homes.fact_of(text))
      for n, text in enumerate(listed, 1)
      if homes.person(homes.fact_of(text)) == name and not homes.is_gossip(text)
    ]
    now = homes.settle([x for _, x in about], facts)
    now = [x for x in now if homes.person(x) == name]
    if not now:
      ops += [("DELETE", n, "") for n, _ in about]
    elif not about:
      ops.append(("ADD", 0, now[0]))
    elif now[0] not in [x for _, x in about]:
      ops.append(("UPDATE", about[0][0], now[0]))
      ops += [("DELETE", n, "") for n, _ in about[1:]]
  return ops[:most]


def operations(ops: Sequence[tuple[str, int, str]]) -> str:
  """Operations as a response."""
  rows = [
    " ".join(x for x in (verb, str(n) if n else "", text, "<nl>") if x)
    for verb, n, text in ops
  ]
  return " ".join(rows) or "NOOP <nl>"


def merge(
  fact: str, listed: Sequence[str], careful: bool
) -> list[tuple[str, int, str]]:
  """One addition, or the change of the entry about the same person."""
  for n, text in enumerate(listed, 1):
    held = homes.fact_of(text)
    same = homes.person(held) == homes.person(fact)
    if careful and same and homes.is_gossip(held) == homes.is_gossip(fact):
      return [("UPDATE", n, fact)]
  return [("ADD", 0, fact)]


def action(op: tuple[str, int, str]) -> str:
  """An addition or change as RMM's update writes it."""
  verb, number, text = op
  return "ADD <nl>" if verb == "ADD" else f"MERGE {number} {text} <nl>"


def apply(
  bank: Sequence[tuple[int, str]],
  ids: Sequence[int],
  ops: Sequence[tuple[str, int, str]],
  stamp: str,
  entries: int,
) -> list[tuple[int, str]]:
  """The bank, (id, text) in order, after operations on listed ids."""
  bank = list(bank)
  for verb, number, text in ops:
    if verb == "ADD" and len(bank) < entries:
      new = max([i for i, _ in bank], default=-1) + 1
      bank.append((new, f"{stamp} {text}"))
    elif verb in ("UPDATE", "DELETE"):
      at = next(k for k, (i, _) in enumerate(bank) if i == ids[number - 1])
      changed = [(ids[number - 1], f"{stamp} {text}")]
      bank[at : at + 1] = changed if verb == "UPDATE" else []
  return bank


def answer(
  question: str, listed: Sequence[str], names_gone: bool = True
) -> tuple[list[int], str]:
  """(numbers used, answer) from listed entries: the latest holds.

  Args:
    question: "kim?" or "when-kim?".
    listed: entries with a stamp and at least one fact.
    names_gone: an "unknown" that rests on a retraction names it.
  """
  name = question.removesuffix("?").removeprefix("when-")
  place = lambda text: int(text.split()[0][1:])
  facts = sorted(
    (place(text), n, homes.fact_of(text))
    for n, text in enumerate(listed, 1)
    if not homes.is_gossip(homes.fact_of(text))
  )
  about = [x for x in facts if homes.person(x[2]) == name]
  if not about:
    return [], homes.UNKNOWN
  if about[-1][2].endswith("!"):
    return [about[-1][1]] * names_gone, homes.UNKNOWN
  when, number, fact = about[-1]
  if question.startswith("when-"):
    return [number], f"s{when}"
  if "=" in fact:
    return [number], fact.split("=")[1]
  host = [
    x for x in facts if homes.person(x[2]) == fact.split("@")[1] and "=" in x[2]
  ]
  if not host:
    return [number], homes.UNKNOWN
  return [number, host[-1][1]], host[-1][2].split("=")[1]


def remember(
  question: str, held: Sequence[str], told: Sequence[str], stamp: str
) -> list[str]:
  """A recurrent memory for one question: its person's fact, and the host's.

  Args:
    question: known while reading.
    held: "stamp fact" of the memory so far.
    told: the facts of a session.
    stamp: of the session.
  """
  name = question.removesuffix("?").removeprefix("when-")
  for fact in told:
    if homes.is_gossip(fact):
      continue
    if all(homes.fact_of(x) != fact for x in held):
      who = homes.person(fact)
      held = [x for x in held if homes.person(homes.fact_of(x)) != who]
      held = [*held, f"{stamp} {fact}"]
  mine = [x for x in held if homes.person(homes.fact_of(x)) == name]
  hosts = {homes.fact_of(x).split("@")[-1] for x in mine}
  others = [x for x in held if homes.person(homes.fact_of(x)) in hosts]
  return mine + [x for x in others if x not in mine]


def raw_lines(world: homes.World) -> list[str]:
  """All that was said, one stamped line each."""
  return [
    f"s{k + 1} {line.strip()}"
    for k, text in enumerate(world.texts)
    for line in text.split("<nl>")
    if line.strip()
  ]


def style(op: str) -> str:
  """The template of an operation of a bank."""
  return prompts.BANK_STYLES["words"][op]
