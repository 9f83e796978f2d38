"""Text that says nothing: what facts are hidden in.

    noise     the same five sentences again and again, a line each time
    essay     sentences of five parts, each drawn from 32: 33 million of them

Both take the place of RULER's haystacks (arXiv 2404.06654, section 3): noise
that of its repeated sentences, in words of our own, essay that of Paul Graham's
essays, which are not ours to give. RULER's third, needles that are not asked
for, is in `needles`. Neither has a digit, a name or a word of `words`.
"""

import numpy as np

from memjax.envs.suite import philox
from memjax.envs.suite import words

NOISE = (
  "The kettle is warm. The window is open. The street is quiet. "
  "Nothing came in the post. Tomorrow will be much the same."
)
# Of a sentence, in order; the second is plural throughout.
PARTS = (
  (
    "In most towns,|After a long winter,|As a rule,|By the end of the day,|"
    "For many years,|In the early morning,|On a quiet street,|Once a week,|"
    "At the edge of the valley,|During the harvest,|In a small shop,|"
    "Before the first snow,|Without much noise,|Over the years,|Now and then,|"
    "Late in the evening,|In an old house,|When the weather turns,|"
    "On the way home,|Near the river,|Behind the market,|Even in summer,|"
    "Under a grey sky,|Since last spring,|Between two meetings,|"
    "With some luck,|At a slow pace,|In the long run,|From a distance,|"
    "After the holidays,|On rainy days,|Until recently,"
  ),
  (
    "most farmers|the owners of small shops|people who repair clocks|"
    "young teachers|old sailors|careful readers|the best builders|"
    "many night workers|good listeners|those who bake bread|quiet neighbours|"
    "the parents of twins|people with large families|patient drivers|"
    "our oldest friends|the members of the choir|beginners|"
    "writers of long letters|those who travel alone|experienced nurses|"
    "the children of the village|honest traders|owners of horses|"
    "the winners of small prizes|retired engineers|amateur painters|"
    "the staff of the museum|students of history|those who wake early|"
    "tired travellers|people from the coast|the makers of simple tools"
  ),
  (
    "learn to trust|rarely talk about|tend to notice|begin with|"
    "seldom forget|come to respect|often return to|like to explain|"
    "quietly protect|slowly discover|keep looking for|prefer to avoid|"
    "sometimes question|always remember|hardly ever mention|try to improve|"
    "hope to find|want to understand|usually start from|gladly share|"
    "quietly repair|take pride in|worry less about|spend hours on|"
    "pay attention to|find comfort in|learn a lot from|give up on|"
    "make room for|wait patiently for|argue about|look after"
  ),
  (
    "the part that nobody else wanted to do|small errors before they grow|"
    "the sound of a well made door|work that can be done by hand|"
    "the advice of a stranger|a plan that fits on one page|"
    "the habits of their teachers|problems without a clear answer|"
    "the order in which things happen|a task that seems too simple|"
    "the reasons behind an old custom|whatever is on the table|"
    "the difference between good and useful|things that last|"
    "an idea that others found boring|the smell of fresh wood|"
    "tools that have been used for years|the long way round|"
    "a question that has no owner|what the weather will bring|"
    "the value of a free afternoon|stories that change with each telling|"
    "the limits of a good memory|the price of doing nothing|"
    "a promise made in passing|the first draft of anything|"
    "rules that nobody wrote down|a letter that was never sent|"
    "the shape of the hills|the work of many hands|"
    "a story with an open end|the details of a plain meal"
  ),
  (
    "because the reward comes late.|even when nobody is watching.|"
    "until the habit holds.|as if there were no other choice.|"
    "while the rest of us look away.|though few would admit it.|"
    "and the results speak for themselves.|without saying a word.|"
    "since there is always another season.|long before anyone asks.|"
    "and nobody seems to mind.|which is harder than it sounds.|"
    "as long as there is time.|if the light is good enough.|"
    "and then they do it again.|but only for a while.|"
    "whether or not it pays.|and that is often enough.|"
    "even if it takes all week.|so that others can rest.|"
    "when the day is almost over.|and they are seldom wrong.|"
    "although the cost is real.|and not for the money.|"
    "for as long as they can.|where others would have stopped.|"
    "and it shows in the end.|before the doubt returns.|"
    "even though it may fail.|and they do so in peace.|"
    "with a kind of quiet joy.|because somebody has to."
  ),
)

_NOISE_TOKENS = words.plain(NOISE)
_BITS = 5
_SPLIT = [part.split("|") for part in PARTS]
_TEXTS = [
  np.array([" " * (i > 0) + x for x in part], object)
  for i, part in enumerate(_SPLIT)
]
_TOKENS = [np.array([words.plain(x) for x in part]) for part in _SPLIT]
# Tokens of a sentence, to draw about as many as are needed.
_MEAN = sum(int(tokens.sum()) for tokens in _TOKENS) // 32


def noise(budget: int) -> tuple[np.ndarray, int]:
  """As many lines of noise as fit.

  Returns:
    (lines without their ends, their tokens).
  """
  count = budget // _NOISE_TOKENS
  lines = np.empty(count, object)
  lines[:] = NOISE
  return lines, count * _NOISE_TOKENS


def sentences(
  stream: philox.Stream, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Sentences of an essay, and the tokens of each.

  One number draws a sentence: five bits for each part.
  """
  number = stream.below(1 << _BITS * len(PARTS), count)
  texts, tokens = "", 0
  for i, (part, costs) in enumerate(zip(_TEXTS, _TOKENS)):
    which = number >> _BITS * i & (1 << _BITS) - 1
    texts, tokens = texts + part[which], tokens + costs[which]
  return texts, tokens


def essay(stream: philox.Stream, budget: int) -> tuple[np.ndarray, int]:
  """Sentences up to the first one that does not fit.

  Returns:
    (sentences, their tokens).
  """
  found, total = [], 0
  while True:
    texts, tokens = sentences(stream, (budget - total) // _MEAN + 8)
    ends = total + np.cumsum(tokens)
    fit = int(np.searchsorted(ends, budget, side="right"))
    found.append(texts[:fit])
    if fit < len(texts):
      return np.concatenate(found), int(ends[fit - 1]) if fit else total
    total = int(ends[-1])
