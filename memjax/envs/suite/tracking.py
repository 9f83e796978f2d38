"""RULER's variable tracking (arXiv 2404.06654, section 3 and appendix B).

    text      ... VAR KABAL = 40721. ... VAR NESON = VAR KABAL. ...
    question  Find all variables that are assigned the value 40721 ...
    answer    KABAL, NESON, FABUR, PIDAT, ZADES
    oracle    the assignments of that chain

`vt` has the published settings, one chain of four hops in noise: there every
variable of the text is right, so that to list them is enough. `vt_chains` has
four such chains, of which one is asked for. Assignments of a chain are in
order, chains are mixed.
"""

import re

from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import philox
from memjax.envs.suite import words

HOPS = 4

_FIRST = "VAR {} = {}."
_NEXT = "VAR {} = VAR {}."
_FIRST_TOKENS = words.plain(_FIRST.format("", 12345))
_NEXT_TOKENS = words.plain(_NEXT.format("", ""))
_FOUND = re.compile(r"VAR ([A-Z]+) = (?:VAR ([A-Z]+)|(\d+))\.")


def _make(chains: int) -> draft.Task:
  """Chains of HOPS hops, of which one is asked for."""
  size = HOPS + 1

  def draw(stream: philox.Stream, length: int) -> draft.Draft:
    names, name_tokens = words.variables(
      stream.distinct(len(words.ROOTS), chains * size)
    )
    values = stream.distinct(90_000, chains) + 10_000
    # Whose turn it is: every way of mixing the chains is equally likely.
    turns = stream.permutation(chains * size) // size
    done = [0] * chains
    facts = []
    for chain in turns.tolist():
      at = chain * size + done[chain]
      if done[chain]:
        facts.append((chain, _NEXT.format(names[at], names[at - 1])))
      else:
        facts.append((chain, _FIRST.format(names[at], values[chain])))
      done[chain] += 1
    # A name is written twice, but for the last of its chain.
    tokens = 2 * int(name_tokens.sum()) - int(name_tokens[HOPS::size].sum())
    tokens += chains * (_FIRST_TOKENS + HOPS * _NEXT_TOKENS)
    hidden = stream.child("text")
    return draft.Draft(
      f"Find all variables that are assigned the value {values[0]} in the text "
      f"above, directly or through others: there are {size}.",
      tuple(names[:size].tolist()),
      tuple(f"{fact}\n" for chain, fact in facts if not chain),
      size / len(words.ROOTS),
      lambda: draft.hide(
        hidden.fresh(), [fact for _, fact in facts], tokens, length, "noise"
      ),
    )

  return draft.Task(
    draw,
    _read,
    _guess,
    cheats.of_values(lambda question, text: _names(text)),
    "ruler",
  )


def _names(text: str) -> list[str]:
  return [name for name, _, _ in _FOUND.findall(text)]


def _guess(question: str, stream: philox.Stream) -> str:
  numbers = stream.distinct(len(words.ROOTS), HOPS + 1)
  return ", ".join(words.variables(numbers)[0])


def _read(question: str, text: str) -> str | None:
  """Follows the assignments."""
  wanted = re.search(r"value (\d+)", question)[1]
  values: dict[str, str] = {}
  for name, other, number in _FOUND.findall(text):
    values[name] = number or values.get(other, "")
  return ", ".join(x for x, value in values.items() if value == wanted) or None


TASKS = {"vt": _make(1), "vt_chains": _make(4)}
