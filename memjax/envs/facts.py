"""Generated texts of facts, some of which later facts overrule.

A text is a list of words: `kim=bern` says that Kim lives in Bern, other words
say nothing. The question names one person; the answer is the city that the
text gave last. The same person may be placed again later, so a memory that
keeps the first city goes stale.

    question  kim?
    text      the kim=bern of and leo=rome ... kim=oslo ...
    answer    oslo
    oracle    kim=oslo       (the memory that is enough)

Every example is a function of (seed, split, index).
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from memjax import prompts
from memjax import rewards
from memjax.envs import example as example_lib

NAMES = (
  "ada bob cat dan eve fay gus hal ivy jon kim leo mia ned oda pam"
).split()
CITIES = (
  "accra bern cairo delhi hanoi lima minsk oslo paris quito rome tunis"
).split()
FILLERS = "the of and to a in is it on as at by".split()

# Independent streams of one seed.
SPLITS = {"train": 0, "eval": 1, "demo": 2}


def vocabulary() -> list[str]:
  """All words of texts, questions, answers and prompts."""
  facts = [f"{name}={city}" for name in NAMES for city in CITIES]
  asked = [f"{name}?" for name in NAMES]
  return [*prompts.STYLE_WORDS, *facts, *asked, *CITIES, "unknown", *FILLERS]


@dataclasses.dataclass(frozen=True)
class Facts:
  """The environment; also the protocol that `train` and `evaluate` expect.

  Attributes:
    seed: of all streams.
    chunks: chunks per text at scale 1.
    chunk_tokens: words per chunk; the last chunk may lack up to 4.
    filler: share of words that say nothing.
    mentions: probabilities that the asked person is placed 1, 2, 3, ... times.
    eval_examples: how many held-out examples each scale has.
    scales: multiples of `chunks` that are evaluated.
  """

  seed: int = 0
  chunks: int = 5
  chunk_tokens: int = 10
  filler: float = 0.25
  mentions: tuple[float, ...] = (0.5, 0.3, 0.2)
  eval_examples: int = 2048
  scales: tuple[int, ...] = (1, 2, 4, 8)
  reward_name: str = "reward_exact"
  metric_name: str = "em"

  def __post_init__(self):
    """Refuses settings that no text can have."""
    rewards.lookup(rewards.REWARDS, self.reward_name, "config.data.reward_name")
    rewards.lookup(rewards.METRICS, self.metric_name, "config.data.metric_name")
    if abs(sum(self.mentions) - 1) > 1e-6 or len(self.mentions) > len(CITIES):
      raise ValueError(
        f"config.data.mentions={self.mentions}: expected up to {len(CITIES)} "
        "probabilities that add up to 1"
      )

  def example(
    self, split: str, index: int, scale: int = 1
  ) -> example_lib.Example:
    """Example `index` of a split, with `scale` times as many chunks."""
    rng = np.random.default_rng([self.seed, SPLITS[split], scale, index])
    words = self.chunks * self.chunk_tokens * scale - int(rng.integers(0, 5))
    count = 1 + int(rng.choice(len(self.mentions), p=self.mentions))
    name = int(rng.integers(len(NAMES)))
    cities = rng.permutation(len(CITIES))[:count]
    # Everything else first, then the asked person's facts on top.
    other = rng.integers(0, len(NAMES) - 1, words)
    other += other >= name
    text_cities = rng.integers(0, len(CITIES), words)
    is_filler = rng.random(words) < self.filler
    fillers = rng.integers(0, len(FILLERS), words)
    text = [
      FILLERS[fillers[i]]
      if is_filler[i]
      else f"{NAMES[other[i]]}={CITIES[text_cities[i]]}"
      for i in range(words)
    ]
    places = np.sort(rng.choice(words, count, replace=False))
    facts = [f"{NAMES[name]}={CITIES[city]}" for city in cities]
    for place, fact in zip(places, facts):
      text[place] = fact
    return example_lib.Example(
      index,
      f"{NAMES[name]}?",
      " ".join(text),
      (CITIES[cities[-1]],),
      {
        "kind": "updated" if count > 1 else "unchanged",
        "stale": tuple(CITIES[city] for city in cities[:-1]),
        "oracle": (facts[-1],),
      },
    )

  def train_examples(self, start: int, count: int) -> list[example_lib.Example]:
    """Examples [start, start + count) of the training stream."""
    return [self.example("train", start + i) for i in range(count)]

  def eval_sets(self) -> dict[str, list[example_lib.Example]]:
    """Held-out examples at each scale, keyed x1, x2, ..."""
    return _eval_sets(self)

  def reward(self, example: example_lib.Example, text: str) -> float:
    """The training reward of an answer."""
    return rewards.REWARDS[self.reward_name](text, example.answers)

  def metric(self, example: example_lib.Example, text: str) -> float:
    """The evaluation metric of an answer."""
    return rewards.METRICS[self.metric_name](text, example.answers)

  def label(self, example: example_lib.Example, text: str) -> dict[str, float]:
    """Which parts of the table an answer counts in, and with what score."""
    right = self.metric(example, text)
    if example.meta["kind"] == "unchanged":
      return {"unchanged fact": right}
    return {
      "updated fact": right,
      "updated fact, stale answer": float(
        rewards.exact_match(text, example.meta["stale"])
      ),
    }


@functools.lru_cache(maxsize=1)
def _eval_sets(env: Facts) -> dict[str, list[example_lib.Example]]:
  """Made once: generating them takes seconds."""
  return {
    f"x{scale}": [
      env.example("eval", i, scale) for i in range(env.eval_examples)
    ]
    for scale in env.scales
  }


def demonstrate(
  example: example_lib.Example,
  rng: np.random.Generator,
  chunk_tokens: int,
  memory_facts: int,
  attentive: float,
) -> list[dict[str, object]]:
  """One trajectory of a demonstrator who follows the format and forgets.

  In each turn, with probability `attentive`, the demonstrator writes the
  latest asked fact that is in sight first and up to two random others;
  otherwise the last fact of the chunk and random ones, old notes forgotten.
  The answer is what the memory says, or `unknown`.

  Returns:
    One dict for each turn: memory, chunk, response (words as strings), seen
    (whether the asked fact was in sight); the last one is the answer, with
    chunk None.
  """
  name = example.question.removesuffix("?")
  about = lambda facts: [f for f in facts if f.startswith(name + "=")]
  words, memory, turns = example.context.split(), [], []
  for start in range(0, len(words), chunk_tokens):
    chunk = words[start : start + chunk_tokens]
    facts = [word for word in chunk if "=" in word]
    asked = (about(memory) + about(facts))[-1:]
    pool = [f for f in memory + facts if f not in about(memory + facts)]
    others = int(rng.integers(0, memory_facts))
    if rng.random() < attentive:
      note = asked + some(pool, others, rng)
    else:
      note = facts[-1:] + some(facts[:-1], others, rng)
    note = note[:memory_facts]
    turns.append(
      {
        "memory": " ".join(memory),
        "chunk": " ".join(chunk),
        "response": " ".join(note),
        "seen": bool(asked),
      }
    )
    memory = note
  known = about(memory)
  turns.append(
    {
      "memory": " ".join(memory),
      "chunk": None,
      "response": known[-1].split("=")[1] if known else "unknown",
      "seen": bool(known),
    }
  )
  return turns


def some(
  pool: Sequence[str], count: int, rng: np.random.Generator
) -> list[str]:
  """Up to `count` different members of the pool in random order."""
  order = rng.permutation(len(pool))[:count]
  return [pool[i] for i in order]
