"""Generated conversations over several sessions, with exact truth.

Two speakers talk about where people live. Facts are stated, repeated,
corrected and retracted; some depend on each other (Leo lives with Kim, so he
moves when she does); others are gossip that nobody will ask about. A word is a
token:

    session   A: the kim=bern <nl> B: kim~tea <nl> A: leo@kim <nl> B: ada! <nl>
    facts     kim=bern  leo@kim  ada!   (kim~tea is gossip; ada! retracts)
    bank      s2 kim=bern / s2 leo@kim  (stamps are written by the agent)
    question  kim?  bern      leo?  bern      ada?  unknown      when-kim?  s2

Of each session it is known what should change in a given bank, and of each
conversation what the bank should hold in the end.

Every example is a function of (seed, split, index).
"""

import dataclasses
import functools
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np

from memjax import prompts
from memjax import rewards
from memjax.envs import example as example_lib

NAMES = "ada bob cat dan eve fay gus hal".split()
CITIES = (
  "accra bern cairo delhi hanoi lima minsk oslo paris quito rome tunis"
).split()
GOSSIP = "tea golf jazz chess".split()
FILLERS = "the of and to a in is it".split()
SPEAKERS = ("A:", "B:")
UNKNOWN = "unknown"
MAX_SESSIONS = 40
MAX_NUMBER = 12

KINDS = ("unchanged", "updated", "deleted", "never", "dependent", "when")

# Independent streams of one seed.
SPLITS = {"train": 0, "eval": 1, "demo": 2}


def vocabulary() -> list[str]:
  """All words of conversations, questions, answers, prompts of both agents."""
  facts = [f"{name}={city}" for name in NAMES for city in CITIES]
  facts += [f"{a}@{b}" for a in NAMES for b in NAMES if a != b]
  facts += [f"{name}~{x}" for name in NAMES for x in GOSSIP]
  facts += [f"{name}!" for name in NAMES]
  asked = [f"{name}?" for name in NAMES] + [f"when-{name}?" for name in NAMES]
  stamps = [f"s{i}" for i in range(1, MAX_SESSIONS + 1)]
  numbers = [str(i) for i in range(1, MAX_NUMBER + 1)]
  words = [*prompts.BANK_WORDS, *prompts.STYLE_WORDS, *numbers, *SPEAKERS]
  words += [*facts, *asked, *stamps, *CITIES, UNKNOWN, *FILLERS]
  return list(dict.fromkeys(words))


def person(word: str) -> str:
  """Whom a fact is about; "" for a word that is no fact."""
  for mark in "=@~!":
    if mark in word:
      return word.split(mark)[0]
  return ""


def is_gossip(word: str) -> bool:
  """A fact that is never asked about."""
  return "~" in word


def fact_of(entry: str) -> str:
  """The last fact in an entry's text, or ""."""
  found = [word for word in entry.split() if person(word)]
  return found[-1] if found else ""


def settle(held: Sequence[str], facts: Sequence[str]) -> list[str]:
  """What a list of facts should become when new facts are told in order.

  A fact replaces what is held about the person, a retraction removes it, and
  gossip changes nothing.
  """
  held = list(held)
  for fact in facts:
    if is_gossip(fact):
      continue
    about = [x for x in held if person(x) == person(fact) and not is_gossip(x)]
    if about == [fact]:
      continue
    held = [x for x in held if x not in about]
    if not fact.endswith("!"):
      held.append(fact)
  return held


def home(held: Sequence[str], name: str) -> str:
  """Where somebody lives by what is held; follows "lives with"."""
  seen = set()
  while name not in seen:
    seen.add(name)
    facts = [x for x in held if person(x) == name and not is_gossip(x)]
    if not facts:
      return UNKNOWN
    if "=" in facts[-1]:
      return facts[-1].split("=")[1]
    name = facts[-1].split("@")[1]
  return UNKNOWN


@dataclasses.dataclass(frozen=True)
class World:
  """One conversation.

  Attributes:
    sessions: the facts of each session in order, gossip included.
    texts: what is read, one text a session.
    held: what is true after the last session, in order.
    since: the session in which each person's fact came about, from 1.
    past: what was true of each person before.
  """

  sessions: tuple[tuple[str, ...], ...]
  texts: tuple[str, ...]
  held: tuple[str, ...]
  since: Mapping[str, int]
  past: Mapping[str, tuple[str, ...]]

  def kind(self, name: str) -> str:
    """Which kind of question `name?` is."""
    now = [x for x in self.held if person(x) == name]
    before = self.past.get(name, ())
    if not now:
      return "deleted" if before else "never"
    if "@" in now[0]:
      return "dependent"
    return "updated" if before else "unchanged"


@dataclasses.dataclass(frozen=True)
class Dialogues:
  """The environment; also the protocol that `train` and `evaluate` expect.

  Attributes:
    seed: of all streams.
    sessions: of a conversation at scale 1.
    facts: told in each session, gossip not counted.
    gossip: of each session.
    people: who is talked about at scale 1.
    filler: mean words of a line that say nothing; at most 2.
    repeat, correct, retract: shares of what is said of somebody who is known;
      the rest are news about somebody else.
    together: share of facts that say who lives with whom.
    kinds: kinds of questions, drawn evenly.
    questions: about each conversation, in training.
    eval_examples: held-out conversations of each scale, one question each.
    scales: multiples of `sessions` that are evaluated.
  """

  seed: int = 0
  sessions: int = 8
  facts: int = 1
  gossip: int = 1
  people: int = 6
  filler: float = 0.5
  repeat: float = 0.15
  correct: float = 0.35
  retract: float = 0.12
  together: float = 0.2
  kinds: tuple[str, ...] = KINDS
  questions: int = 1
  eval_examples: int = 2048
  scales: tuple[int, ...] = (1, 2)
  reward_name: str = "reward_exact"
  metric_name: str = "em"

  def __post_init__(self):
    """Refuses settings that no conversation can have."""
    rewards.lookup(rewards.REWARDS, self.reward_name, "config.data.reward_name")
    rewards.lookup(rewards.METRICS, self.metric_name, "config.data.metric_name")
    for kind in self.kinds:
      if kind not in KINDS:
        raise ValueError(
          f"config.data.kinds: {kind!r} is none of {', '.join(KINDS)}"
        )
    if not 2 <= self.people < len(NAMES):
      raise ValueError(
        f"config.data.people={self.people}: expected 2 to {len(NAMES) - 1}, so "
        "that somebody is never mentioned"
      )
    if self.sessions * max(self.scales) > MAX_SESSIONS:
      raise ValueError(
        f"config.data.scales={self.scales}: {MAX_SESSIONS} sessions have "
        f"stamps, {self.sessions * max(self.scales)} are asked for"
      )

  def world(self, split: str, index: int, scale: int = 1) -> World:
    """Conversation `index` of a split."""
    rng = np.random.default_rng([self.seed, SPLITS[split], scale, index])
    people = [NAMES[i] for i in rng.permutation(len(NAMES))[: self.people]]
    held: list[str] = []
    since: dict[str, int] = {}
    past: dict[str, tuple[str, ...]] = {}
    sessions, texts = [], []
    for number in range(1, self.sessions * scale + 1):
      said = []
      for _ in range(self.facts):
        fact = self._next_fact(rng, people, held)
        before = [x for x in held if person(x) == person(fact)]
        held = settle(held, [fact])
        after = [x for x in held if person(x) == person(fact)]
        if before != after:
          past[person(fact)] = past.get(person(fact), ()) + tuple(before)
          since[person(fact)] = number
        said.append(fact)
      for _ in range(self.gossip):
        word = f"{_pick(rng, people)}~{_pick(rng, GOSSIP)}"
        said.insert(int(rng.integers(0, len(said) + 1)), word)
      sessions.append(tuple(said))
      texts.append(self._text(rng, said))
    return World(tuple(sessions), tuple(texts), tuple(held), since, past)

  def _next_fact(self, rng, people, held) -> str:
    """What is said next."""
    known = [name for name in people if any(person(x) == name for x in held)]
    unknown = [name for name in people if name not in known]
    draw = rng.random()
    if known and draw < self.repeat + self.correct + self.retract:
      name = _pick(rng, known)
      if draw < self.repeat:
        return [x for x in held if person(x) == name][-1]
      if draw < self.repeat + self.retract:
        return f"{name}!"
    else:
      name = _pick(rng, unknown or people)
    old = [x for x in held if person(x) == name]
    if rng.random() < self.together:
      # Chains of two at most, and no circles: with somebody who has a city.
      hosts = [x for x in known if x != name and f"{x}=" in " ".join(held)]
      guests = any(x.endswith(f"@{name}") for x in held)
      if hosts and not guests:
        fact = f"{name}@{_pick(rng, hosts)}"
        if fact not in old:
          return fact
    cities = [c for c in CITIES if f"{name}={c}" not in old]
    return f"{name}={_pick(rng, cities)}"

  def _text(self, rng, said) -> str:
    """The words of a session, one line for each fact."""
    spoken = []
    for i, fact in enumerate(said):
      words = [fact]
      for _ in range(min(rng.poisson(self.filler), 2)):
        words.insert(int(rng.integers(0, len(words) + 1)), _pick(rng, FILLERS))
      spoken.append(f"{SPEAKERS[i % 2]} {' '.join(words)} <nl>")
    return " ".join(spoken)

  def _ask(self, rng, world: World, kind: str) -> tuple[str, str] | None:
    """(question, answer) of a kind, or None if the world has none."""
    if kind == "when":
      names = [person(x) for x in world.held if "=" in x]
      if not names:
        return None
      name = _pick(rng, names)
      return f"when-{name}?", f"s{world.since[name]}"
    names = [name for name in NAMES if world.kind(name) == kind]
    if not names:
      return None
    name = _pick(rng, names)
    return f"{name}?", home(world.held, name)

  def examples(
    self, split: str, index: int, questions: int, scale: int = 1
  ) -> list[example_lib.Example]:
    """The questions about conversation `index`.

    The first is of kind kinds[index % len(kinds)]. Conversations without such
    a question are passed over, by a rule that depends on the index alone.
    """
    wanted = self.kinds[index % len(self.kinds)]
    for attempt in range(1000):
      number = index * 1000 + attempt
      world = self.world(split, number, scale)
      rng = np.random.default_rng([self.seed, 9, SPLITS[split], scale, number])
      first = self._ask(rng, world, wanted)
      if first is not None:
        break
    else:
      raise ValueError(
        f"config.data: no conversation of 1000 has a question of the kind "
        f"{wanted!r}: leave it out of kinds, or raise retract and correct"
      )
    asked = {first[0]: (wanted, first[1])}
    for _ in range(40):
      if len(asked) >= questions:
        break
      kind = _pick(rng, self.kinds)
      found = self._ask(rng, world, kind)
      if found and found[0] not in asked:
        asked[found[0]] = (kind, found[1])
    while len(asked) < questions:  # few people: ask again
      asked[f"{first[0]}{' ' * len(asked)}"] = (wanted, first[1])
    return [
      example_lib.Example(
        index * questions + i,
        question.strip(),
        world.texts,
        (answer,),
        {"kind": kind, "world": world, "oracle": self._oracle(world)},
        stamps=tuple(f"s{k + 1}" for k in range(len(world.texts))),
      )
      for i, (question, (kind, answer)) in enumerate(asked.items())
    ]

  def _oracle(self, world: World) -> tuple[str, ...]:
    """The entries that a perfect bank ends with."""
    return tuple(f"s{world.since[person(x)]} {x}" for x in world.held)

  def train_examples(self, start: int, count: int) -> list[example_lib.Example]:
    """Examples [start, start + count); `questions` neighbours share a world."""
    q = self.questions
    first, last = start // q, -(-(start + count) // q)
    found = [
      example
      for index in range(first, last)
      for example in self.examples("train", index, q)
    ]
    return found[start - first * q :][:count]

  def eval_sets(self) -> dict[str, list[example_lib.Example]]:
    """Held-out conversations of each scale, keyed x1, x2, ..."""
    return _eval_sets(self)

  def reward(self, example: example_lib.Example, text: str) -> float:
    """The training reward of an answer."""
    return rewards.REWARDS[self.reward_name](text, example.answers)

  def metric(self, example: example_lib.Example, text: str) -> float:
    """The evaluation metric of an answer."""
    return rewards.METRICS[self.metric_name](text, example.answers)

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """Which parts of the table an answer counts in, and with what score."""
    kind, world = example.meta["kind"], example.meta["world"]
    right = self.metric(example, text)
    found = {kind: right}
    if kind in ("updated", "deleted"):
      # Who knows nothing is right about what was deleted: look at both.
      found["updated or deleted"] = right
      name = example.question.removesuffix("?")
      old = [x.split("=")[1] for x in world.past[name] if "=" in x]
      old = [x for x in old if x not in example.answers]
      found[f"{kind}, stale answer"] = rewards.exact_match(text, old)
    return found

  def judge(
    self,
    example: example_lib.Example,
    session: int,
    before: Sequence[str],
    after: Sequence[str],
  ) -> tuple[set[str], set[str]]:
    """(changes that were right to make, changes that were made).

    A change is "+fact" or "-fact". What is right follows from the bank as it
    was before the session, so an earlier mistake is not counted again.
    """
    held = [fact_of(entry) for entry in before]
    told = example.meta["world"].sessions[session]
    right = settle(held, told)
    return _changes(held, right), _changes(held, map(fact_of, after))

  def health(
    self, example: example_lib.Example, entries: Sequence[str]
  ) -> dict[str, float]:
    """How good a final bank is; shares in [0, 1], and its size."""
    world: World = example.meta["world"]
    facts = [fact_of(entry) for entry in entries]
    true = set(world.held)
    told = {x for session in world.sessions for x in session}
    lost = [
      name for name in world.past if name not in {person(x) for x in world.held}
    ]
    values: dict[str, set[str]] = {}
    for fact in facts:
      if fact and not is_gossip(fact):
        values.setdefault(person(fact), set()).add(fact)
    found = {
      "size": float(len(facts)),
      "contradictions": float(sum(len(x) > 1 for x in values.values())),
      "recall": len(true & set(facts)) / max(len(true), 1),
    }
    if facts:
      n = len(facts)
      found |= {
        "precision": sum(x in true for x in facts) / n,
        "duplicates": 1 - len(set(facts)) / n,
        "gossip": sum(map(is_gossip, facts)) / n,
        "stale": sum(
          x in told and x not in true and not is_gossip(x) for x in facts
        )
        / n,
      }
    if lost:
      found["deletions obeyed"] = sum(x not in values for x in lost) / len(lost)
    return found

  def banks(
    self, example: example_lib.Example, entries: int, tokens: int
  ) -> dict[str, list[str]]:
    """Banks that simple rules leave, at equal budget of entries * tokens.

    "keep until full" adds each fact in order, gossip included, until there is
    no room; "raw turns" keeps the latest lines as they were said, as many as
    the budget's tokens hold.
    """
    world: World = example.meta["world"]
    told = [
      f"s{k + 1} {fact}"
      for k, session in enumerate(world.sessions)
      for fact in session
    ]
    turns, room = [], entries * tokens
    spoken = [
      f"s{k + 1} {line.strip()}"
      for k, text in enumerate(world.texts)
      for line in text.split("<nl>")
      if line.strip()
    ]
    for line in reversed(spoken):
      room -= len(line.split())
      if room < 0:
        break
      turns.insert(0, line)
    return {"keep until full": told[:entries], "raw turns": turns}


def _changes(before: Sequence[str], after) -> set[str]:
  before, after = set(before), set(after)
  return {f"+{x}" for x in after - before} | {f"-{x}" for x in before - after}


def _pick(rng: np.random.Generator, items: Sequence[str]) -> str:
  return items[int(rng.integers(len(items)))]


@functools.lru_cache(maxsize=1)
def _eval_sets(env: Dialogues) -> dict[str, list[example_lib.Example]]:
  """Made once: generating them takes seconds."""
  return {
    f"x{scale}": [
      env.examples("eval", i, 1, scale)[0] for i in range(env.eval_examples)
    ]
    for scale in env.scales
  }
