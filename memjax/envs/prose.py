"""Generated prose: facts of several tokens among sentences that distract.

    question  Where does Marlow live?
    text      The old mill was quiet. Marlow has moved to Tessin. A cold wind
              passed the harbour. Ingrid now lives in Ovieda. ...
    answer    Tessin
    oracle    Marlow: Tessin.

The task is that of `facts`, as a real tokenizer meets it: names and cities are
several tokens, a chunk may end inside a sentence, and most of the text says
nothing about anybody.
"""

import dataclasses
import re

import numpy as np

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax.envs import example as example_lib
from memjax.envs import facts

NAMES = (
  "Marlow Ingrid Tobias Yolanda Casper Delphine Ruben Zelda "
  "Hamish Orsola Quentin Beatrix Lukas Fenella Viktor Simone"
).split()
CITIES = (
  "Tessin Ovieda Bergamo Kilmore Ravenna Lundby "
  "Zagora Morlaix Petrosk Almeria Finsbury Castelo"
).split()
_FORMS = ("{} now lives in {}.", "{} has moved to {}.", "{} settled in {}.")
_FACT = re.compile(r"(\w+) (?:now lives in|has moved to|settled in) (\w+)\.")
_SUBJECTS = "The old mill|A cold wind|The narrow street|The last train".split(
  "|"
)
_VERBS = "was quiet|passed the harbour|stood in the rain|was late again".split(
  "|"
)


def sentence(rng: np.random.Generator) -> str:
  """One that says nothing about anybody."""
  pick = lambda options: options[rng.integers(len(options))]
  return f"{pick(_SUBJECTS)} {pick(_VERBS)}."


@dataclasses.dataclass(frozen=True)
class Prose(facts.Facts):
  """The environment; fields as in `facts.Facts`, but for what a text has.

  Attributes:
    chunk_tokens: tokens of a chunk; a text has sentences for `chunks` of them.
    sentence_tokens: about how many tokens a sentence has.
    filler: share of sentences that say nothing about anybody.
  """

  chunk_tokens: int = 40
  sentence_tokens: int = 10
  filler: float = 0.5

  def example(
    self, split: str, index: int, scale: int = 1
  ) -> example_lib.Example:
    """Example `index` of a split, with `scale` times as many chunks."""
    rng = np.random.default_rng(
      [self.seed, facts.SPLITS[split], scale, index, 3]
    )
    count = self.chunks * self.chunk_tokens * scale // self.sentence_tokens
    mentions = 1 + int(rng.choice(len(self.mentions), p=self.mentions))
    name = NAMES[rng.integers(len(NAMES))]
    cities = [CITIES[i] for i in rng.permutation(len(CITIES))[:mentions]]
    others = [other for other in NAMES if other != name]
    state = lambda who, city: _FORMS[rng.integers(len(_FORMS))].format(
      who, city
    )
    text = [
      sentence(rng)
      if rng.random() < self.filler
      else state(
        others[rng.integers(len(others))], CITIES[rng.integers(len(CITIES))]
      )
      for _ in range(count)
    ]
    for place, city in zip(
      np.sort(rng.choice(count, mentions, replace=False)), cities
    ):
      text[place] = state(name, city)
    return example_lib.Example(
      index,
      f"Where does {name} live?",
      " ".join(text),
      (cities[-1],),
      {
        "kind": "updated" if mentions > 1 else "unchanged",
        "stale": tuple(cities[:-1]),
        "oracle": (f"{name}: {cities[-1]}.",),
      },
    )


def make_tokenizer(vocab_size: int, seed: int = 0) -> tokenizer_lib.Tokenizer:
  """A byte-pair tokenizer trained on such texts; names stay several tokens."""
  env = Prose(seed=seed)
  texts = [env.example("demo", i).context for i in range(500)]
  texts += [f"Where does {name} live?" for name in NAMES] + ["unknown"]
  return tokenizer_lib.train_bpe(texts, vocab_size, prompts.STYLE_WORDS)


def demonstrate(
  question: str,
  memory: str,
  chunk: str,
  rng: np.random.Generator,
  attentive: float,
  memory_facts: int = 2,
) -> str:
  """The note of a demonstrator who forgets, as in `facts.demonstrate`."""
  name = question.split()[2]
  noted = [
    tuple(n.split(": ")) for n in memory.rstrip(".").split(". ") if ": " in n
  ]
  read = _FACT.findall(chunk)
  about = [fact for fact in noted + read if fact[0] == name]
  pool = [fact for fact in noted + read if fact[0] != name]
  extra = int(rng.integers(0, 2))
  if rng.random() < attentive:
    note = about[-1:] + facts.some(pool, extra, rng)
  else:
    note = read[-1:] + facts.some(read[:-1], extra, rng)
  return " ".join(f"{who}: {city}." for who, city in note[:memory_facts])


def demonstrate_answer(question: str, memory: str) -> str:
  """What a memory says about a question."""
  name = question.split()[2]
  found = re.findall(rf"{name}: (\w+)\.", memory)
  return found[-1] if found else "unknown"
