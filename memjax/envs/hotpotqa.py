"""Packs HotpotQA questions into contexts of N documents, as MemAgent does.

    python -m memjax.envs.hotpotqa --input=hotpot_dev_distractor_v1.json \\
      --output=eval_50.json --num_docs=50

Each question keeps its own paragraphs (two that answer it, eight that
distract); paragraphs of other questions are added up to N, and all are
shuffled with a seed of the question's own, so that neither the number of
documents nor the other questions move them. HotpotQA: arXiv 1809.09600, CC
BY-SA 4.0.
"""

import json
import os
import pathlib
import sys
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import app
from absl import flags

_INPUT = flags.DEFINE_string("input", None, "HotpotQA's distractor JSON")
_OUTPUT = flags.DEFINE_string("output", None, "the .json to write")
_NUM_DOCS = flags.DEFINE_integer("num_docs", 50, "documents per context")
_SEED = flags.DEFINE_integer("seed", 0, "of the choice and order of documents")
_LIMIT = flags.DEFINE_integer("limit", 0, "questions to take; 0: all")


def load(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads either layout: [title, sentences] pairs, or a dict of lists.

  Returns:
    One dict for each question: question, answer, documents [(title, text)].

  Raises:
    ValueError: not such a file, or a record without one of the fields.
  """
  path = pathlib.Path(path)
  try:
    records = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError) as error:
    raise ValueError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(records, list) or not records:
    raise ValueError(f"{path}: expected a list of questions that is not empty")
  items = []
  for number, record in enumerate(records, start=1):
    where = f"{path}, record {number}"
    for field in ("question", "answer", "context"):
      if not isinstance(record, Mapping) or field not in record:
        raise ValueError(f"{where}: no field {field!r}")
    items.append(
      {
        "question": record["question"],
        "answer": record["answer"],
        "documents": _documents(record["context"], where),
      }
    )
  return items


def _documents(context: Any, where: str) -> list[tuple[str, str]]:
  if isinstance(context, Mapping):
    if not {"title", "sentences"} <= set(context):
      raise ValueError(
        f"{where}: context has the fields {', '.join(context)}, expected title "
        "and sentences"
      )
    context = list(zip(context["title"], context["sentences"], strict=True))
  documents = []
  for pair in context:
    if len(pair) != 2 or not isinstance(pair[0], str):
      raise ValueError(
        f"{where}: a paragraph is {pair!r:.60}, expected [title, sentences]"
      )
    documents.append((pair[0], "".join(pair[1]).strip()))
  return documents


def build(
  items: Sequence[Mapping[str, Any]], num_docs: int, seed: int
) -> list[dict[str, Any]]:
  """Contexts of `num_docs` documents, in MemAgent's layout.

  Documents that are added never bear the title of one of the question's own.

  Args:
    items: from `load`.
    num_docs: documents of each context.
    seed: question i draws from (seed, i).

  Returns:
    {"context", "input", "answers", "num_docs", "index"} for each question.

  Raises:
    ValueError: a question has more documents of its own than that, or there are
      not enough others.
  """
  pool = sorted({document for item in items for document in item["documents"]})
  records = []
  for index, item in enumerate(items):
    own = item["documents"]
    titles = {title for title, _ in own}
    others = [document for document in pool if document[0] not in titles]
    wanted = num_docs - len(own)
    if not 0 <= wanted <= len(others):
      raise ValueError(
        f"num_docs={num_docs}: question {index + 1} has {len(own)} documents "
        f"of its own and {len(others)} others to draw from; choose between "
        f"{len(own)} and {len(own) + len(others)}"
      )
    rng = np.random.default_rng([seed, index])
    chosen = rng.permutation(len(others))[:wanted]
    documents = [*own, *(others[i] for i in chosen)]
    documents = [documents[i] for i in rng.permutation(num_docs)]
    records.append(
      {
        "index": index,
        "input": item["question"],
        "answers": [item["answer"]],
        "context": "\n\n".join(
          f"Document {number}:\n{title}\n{text}"
          for number, (title, text) in enumerate(documents, start=1)
        ),
        "num_docs": num_docs,
      }
    )
  return records


def main(argv: list[str]) -> None:
  """Reads, packs, writes."""
  del argv
  try:
    records = build(load(_INPUT.value), _NUM_DOCS.value, _SEED.value)
  except ValueError as error:
    sys.exit(f"hotpotqa: {error}")
  if _LIMIT.value:
    records = records[: _LIMIT.value]
  output = pathlib.Path(_OUTPUT.value)
  output.parent.mkdir(parents=True, exist_ok=True)
  temp = output.with_name(output.name + ".tmp")
  temp.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
  os.replace(temp, output)
  print(f"{output}: {len(records)} questions of {_NUM_DOCS.value} documents")


if __name__ == "__main__":
  flags.mark_flags_as_required(["input", "output"])
  app.run(main)
