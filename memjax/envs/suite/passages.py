"""RULER's question answering: given passages, packed to a length.

    text      Document 1:
              <title>
              <text>
    question  and answer: as the file has them

Questions, answers and passages are those of a HotpotQA file
(`hotpotqa.load`); a question's own passages are mixed with those of other
questions up to the length, as RULER does it (arXiv 2404.06654, section 3). What
passages cost is counted once, with a tokenizer that the user names. Questions
are parted between training and evaluation; passages are not.

No rule reads English: the oracle memory is a line that says the answer, and a
reader who sees the text says nothing.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from memjax import tokenizer as tokenizer_lib
from memjax.envs import hotpotqa
from memjax.envs.suite import cheats
from memjax.envs.suite import draft
from memjax.envs.suite import philox
from memjax.envs.suite import words

_TITLE = "Document {}:\n"
# Without the digits: the space before them too.
_TITLE_TOKENS = words.plain(_TITLE.format("")) + 1
_NOTE = re.compile(r"Answer: (.+)")
# Questions that are answered with yes or no begin with one of these.
_YES_NO = re.compile("(?i)(are|is|was|were|do|does|did|has|have|had|can) ")


@dataclasses.dataclass(frozen=True)
class Pool:
  """Passages of a file, and what they cost.

  Attributes:
    items: questions, as `hotpotqa.load` gives them.
    number: title in lower case -> number of the passage.
    texts: title and text of each.
    tokens: of each text with the empty line behind it.
  """

  items: Sequence[dict[str, Any]]
  number: dict[str, int]
  texts: np.ndarray
  tokens: np.ndarray


def load(path: str, tokenizer_path: str) -> Pool:
  """Reads a HotpotQA file, and counts the tokens of its passages.

  Raises:
    ValueError: a path is empty, or a file is malformed.
  """
  for field, value, what in (
    ("path", path, "a HotpotQA file, such as hotpot_dev_distractor_v1.json"),
    ("tokenizer", tokenizer_path, "the directory of Qwen3's tokenizer"),
  ):
    if not value:
      raise ValueError(
        f"config.data.{field} is empty: the task 'qa' needs {what}"
      )
  items = hotpotqa.load(path)
  tokenizer = tokenizer_lib.load(tokenizer_path)
  found = {}
  for title, text in sorted({d for item in items for d in item["documents"]}):
    found.setdefault(hotpotqa.key(title), f"{title}\n{text}")
  texts = list(found.values())
  # With the empty line: its tokens can depend on what is before it.
  ids = tokenizer.encode_batch([f"{x}\n\n" for x in texts])
  return Pool(
    items,
    {key: i for i, key in enumerate(found)},
    np.array(texts, object),
    np.array([*map(len, ids)], np.int64),
  )


def task(
  pool: Pool, held_out: int, lengths: Sequence[int], seed: int
) -> draft.Task:
  """The task on a file.

  Args:
    pool: of `load`.
    held_out: questions that are evaluated on; the rest are trained on.
    lengths: that will be asked for.
    seed: of the choice.

  Raises:
    ValueError: there are not so many questions, or passages do not make such a
      length.
  """
  size = len(pool.items)
  own = max(_own_tokens(pool, item) for item in pool.items)
  total = int(pool.tokens.sum())
  for length in lengths:
    if not own <= length <= total:
      raise ValueError(
        f"config.data.lengths has {length}: the passages of config.data.path "
        f"have {total} tokens, those of one question up to {own}; choose a "
        "length between"
      )
  if not 0 < held_out <= size:
    raise ValueError(
      f"config.data.eval_examples={held_out}: the file of config.data.path has "
      f"{size} questions; choose 1 to {size}"
    )
  order = philox.Stream(seed, "qa").permutation(size)
  shares = {"eval": order[:held_out], "train": order[held_out:]}

  def draw(stream: philox.Stream, length: int) -> draft.Draft:
    *_, split, index = stream.path
    share = shares[split]
    if not len(share):
      raise ValueError(
        f"config.data.eval_examples={held_out}: all questions of "
        "config.data.path are held out, none is left to train on"
      )
    item = pool.items[share[index % len(share)]]
    hidden = stream.child("text")
    answer = item["answer"]
    return draft.Draft(
      item["question"],
      (answer,),
      (f"Answer: {answer}\n",),
      0.5 if answer.lower() in ("yes", "no") else 0.0,
      lambda: _pack(hidden.fresh(), pool, item, length),
    )

  return dataclasses.replace(TASKS["qa"], draw=draw)


def _own(pool: Pool, item: dict[str, Any]) -> list[int]:
  """The numbers of a question's own passages."""
  return [pool.number[hotpotqa.key(title)] for title, _ in item["documents"]]


def _own_tokens(pool: Pool, item: dict[str, Any]) -> int:
  own = _own(pool, item)
  return int((pool.tokens[own] + words.digits(len(own)) + _TITLE_TOKENS).sum())


def _pack(
  stream: philox.Stream, pool: Pool, item: dict[str, Any], length: int
) -> tuple[str, int]:
  """A question's own passages among others, as many as fit."""
  own = _own(pool, item)
  # A passage that is named like the answer could give it away.
  closed = {*own, pool.number.get(hotpotqa.key(item["answer"]), own[0])}
  order = stream.permutation(len(pool.texts))
  others = order[~np.isin(order, list(closed))]
  chosen = np.concatenate([own, others])
  frame = words.digits(len(chosen)) + _TITLE_TOKENS
  ends = np.cumsum(pool.tokens[chosen] + frame)
  fit = int(np.searchsorted(ends, length, side="right"))
  fit = max(fit, len(own))
  mixed = chosen[:fit][stream.permutation(fit)]
  text = "".join(
    f"{_TITLE.format(i)}{x}\n\n"
    for i, x in enumerate(pool.texts[mixed].tolist(), start=1)
  )
  return text, int(ends[fit - 1])


def _read(question: str, text: str) -> str | None:
  found = _NOTE.search(text)
  return found[1] if found else None


def _guess(question: str, stream: philox.Stream) -> str:
  """yes or no where that is asked for, otherwise nothing."""
  return stream.pick(("yes", "no")) if _YES_NO.match(question) else ""


def _no_file(stream: philox.Stream, length: int) -> draft.Draft:
  raise ValueError(
    "the task 'qa' needs a file: name it in config.data.path, or see `task`"
  )


def _titles(question: str, text: str) -> list[str]:
  return re.findall(r"Document \d+:\n(.+)", text)


TASKS = {
  "qa": draft.Task(
    _no_file, _read, _guess, cheats.of_values(_titles), "ruler_any", least=1024
  )
}
