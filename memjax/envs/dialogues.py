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
from collections.abc import Sequence

import numpy as np

from memjax import rewards
from memjax.envs import example as example_lib
from memjax.envs import homes

KINDS = ("unchanged", "updated", "deleted", "never", "dependent", "when")

# Independent streams of one seed.
SPLITS = {"train": 0, "eval": 1, "demo": 2}


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
    if not 2 <= self.people < len(homes.NAMES):
      raise ValueError(
        f"config.data.people={self.people}: expected 2 to "
        f"{len(homes.NAMES) - 1}, so that somebody is never mentioned"
      )
    if self.sessions * max(self.scales) > homes.MAX_SESSIONS:
      raise ValueError(
        f"config.data.scales={self.scales}: {homes.MAX_SESSIONS} sessions have "
        f"stamps, {self.sessions * max(self.scales)} are asked for"
      )

  def rng(self, *path: int) -> np.random.Generator:
    """Where worlds and questions are drawn from; a subclass may change it."""
    return np.random.default_rng([self.seed, *path])

  def world(self, split: str, index: int, scale: int = 1) -> homes.World:
    """Conversation `index` of a split."""
    rng = self.rng(SPLITS[split], scale, index)
    people = [
      homes.NAMES[i] for i in rng.permutation(len(homes.NAMES))[: self.people]
    ]
    held: list[str] = []
    since: dict[str, int] = {}
    past: dict[str, tuple[str, ...]] = {}
    sessions, texts = [], []
    for number in range(1, self.sessions * scale + 1):
      said = []
      for _ in range(self.facts):
        fact = self._next_fact(rng, people, held)
        name = homes.person(fact)
        before = [x for x in held if homes.person(x) == name]
        held = homes.settle(held, [fact])
        after = [x for x in held if homes.person(x) == name]
        if before != after:
          past[name] = past.get(name, ()) + tuple(before)
          since[name] = number
        said.append(fact)
      for _ in range(self.gossip):
        word = f"{_pick(rng, people)}~{_pick(rng, homes.GOSSIP)}"
        said.insert(int(rng.integers(0, len(said) + 1)), word)
      sessions.append(tuple(said))
      texts.append(self._text(rng, said))
    return homes.World(tuple(sessions), tuple(texts), tuple(held), since, past)

  def _next_fact(self, rng, people, held) -> str:
    """What is said next."""
    known = [
      name for name in people if any(homes.person(x) == name for x in held)
    ]
    unknown = [name for name in people if name not in known]
    draw = rng.random()
    if known and draw < self.repeat + self.correct + self.retract:
      name = _pick(rng, known)
      if draw < self.repeat:
        return [x for x in held if homes.person(x) == name][-1]
      if draw < self.repeat + self.retract:
        return f"{name}!"
    else:
      name = _pick(rng, unknown or people)
    old = [x for x in held if homes.person(x) == name]
    if rng.random() < self.together:
      # Chains of two at most, and no circles: with somebody who has a city.
      hosts = [x for x in known if x != name and f"{x}=" in " ".join(held)]
      guests = any(x.endswith(f"@{name}") for x in held)
      if hosts and not guests:
        fact = f"{name}@{_pick(rng, hosts)}"
        if fact not in old:
          return fact
    cities = [c for c in homes.CITIES if f"{name}={c}" not in old]
    return f"{name}={_pick(rng, cities)}"

  def _text(self, rng, said) -> str:
    """The words of a session, one line for each fact."""
    spoken = []
    for i, fact in enumerate(said):
      words = [fact]
      for _ in range(min(rng.poisson(self.filler), 2)):
        place = int(rng.integers(0, len(words) + 1))
        words.insert(place, _pick(rng, homes.FILLERS))
      spoken.append(f"{homes.SPEAKERS[i % 2]} {' '.join(words)} <nl>")
    return " ".join(spoken)

  def _ask(self, rng, world: homes.World, kind: str) -> tuple[str, str] | None:
    """(question, answer) of a kind, or None if the world has none."""
    if kind == "when":
      names = [homes.person(x) for x in world.held if "=" in x]
      if not names:
        return None
      name = _pick(rng, names)
      return f"when-{name}?", f"s{world.since[name]}"
    names = [name for name in homes.NAMES if world.kind(name) == kind]
    if not names:
      return None
    name = _pick(rng, names)
    return f"{name}?", homes.home(world.held, name)

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
      rng = self.rng(9, SPLITS[split], scale, number)
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

  def _oracle(self, world: homes.World) -> tuple[str, ...]:
    """The entries that a perfect bank ends with."""
    return tuple(f"s{world.since[homes.person(x)]} {x}" for x in world.held)

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
    held = [homes.fact_of(entry) for entry in before]
    told = example.meta["world"].sessions[session]
    right = homes.settle(held, told)
    return _changes(held, right), _changes(held, map(homes.fact_of, after))

  def health(
    self, example: example_lib.Example, entries: Sequence[str]
  ) -> dict[str, float]:
    """How good a final bank is; shares in [0, 1], and its size."""
    world: homes.World = example.meta["world"]
    facts = [homes.fact_of(entry) for entry in entries]
    true = set(world.held)
    told = {x for session in world.sessions for x in session}
    known = {homes.person(x) for x in world.held}
    lost = [name for name in world.past if name not in known]
    values: dict[str, set[str]] = {}
    for fact in facts:
      if fact and not homes.is_gossip(fact):
        values.setdefault(homes.person(fact), set()).add(fact)
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
        "gossip": sum(map(homes.is_gossip, facts)) / n,
        "stale": sum(
          x in told and x not in true and not homes.is_gossip(x) for x in facts
        )
        / n,
      }
    if lost:
      found["deletions obeyed"] = sum(x not in values for x in lost) / len(lost)
    return found

  def evidence(self, example: example_lib.Example) -> tuple[str, ...]:
    """The facts that must be at hand to answer, as words.

    For `kim?` and `when-kim?` the current fact about kim; if it says with whom
    she lives, also the host's, unless there is none any more. For a deleted
    fact the retraction `kim!`; for one that was never told, nothing.
    """
    name = example.question.removeprefix("when-").removesuffix("?")
    if example.meta["kind"] == "deleted":
      return (f"{name}!",)
    return tuple(homes.chain(example.meta["world"].held, name))

  def recall(
    self, example: example_lib.Example, texts: Sequence[str]
  ) -> float | None:
    """The share of the evidence that stands as a word in any of the texts.

    None where there is nothing to find: no fact was told, or it was deleted.
    Raw lines still hold the retraction then, but a bank that obeyed it rightly
    holds nothing, and a share would call that a miss.
    """
    wanted = self.evidence(example)
    if not wanted or example.meta["kind"] == "deleted":
      return None
    words = {word for text in texts for word in text.split()}
    return sum(fact in words for fact in wanted) / len(wanted)

  def banks(
    self, example: example_lib.Example, entries: int, tokens: int
  ) -> dict[str, list[str]]:
    """Banks that simple rules leave, at equal budget of entries * tokens.

    "keep until full" adds each fact in order, gossip included, until there is
    no room; "raw turns" keeps the latest lines as they were said, as many as
    the budget's tokens hold.
    """
    world: homes.World = example.meta["world"]
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
