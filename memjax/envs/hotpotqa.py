"""Packs HotpotQA questions into contexts of N documents, as MemAgent does.

    python -m memjax.envs.hotpotqa --input=hotpot_dev_distractor_v1.json \\
      --output=eval_50.json --num_docs=50

Each question keeps its own paragraphs (two that answer it, eight that
distract); paragraphs of other questions are added up to N, and all are shuffled
with random numbers of the question's own: with one order for all, a model could
learn where to look. Added paragraphs at N are also among those at any larger N.
Where the file has supporting facts, the paragraphs that they are from are
repeated in "gold_documents": what `long_context` offers as an oracle.
HotpotQA: arXiv 1809.09600, CC BY-SA 4.0.
"""

import itertools
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
_NUM_DOCS = flags.DEFINE_integer(
  "num_docs", 50, "documents per context", lower_bound=1
)
_SEED = flags.DEFINE_integer(
  "seed", 0, "of the choice and order of documents", lower_bound=0
)
_LIMIT = flags.DEFINE_integer(
  "limit", 0, "questions to pack; 0: all", lower_bound=0
)


def load(path: str | os.PathLike) -> list[dict[str, Any]]:
  """Reads either layout: [title, sentences] pairs, or a dict of lists.

  Returns:
    One dict for each question: question, answer, documents [(title, text)],
    supporting (titles of those that answer it; empty if the file has none).

  Raises:
    ValueError: not such a file, a record without one of the fields, or with
      supporting facts from elsewhere.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise ValueError(f"{path}: no such file")
  try:
    records = json.loads(path.read_text(encoding="utf-8"))
  except (OSError, ValueError, RecursionError) as error:
    raise ValueError(f"{path} cannot be read as JSON: {error}") from error
  if not isinstance(records, list) or not records:
    raise ValueError(f"{path}: expected a list of questions that is not empty")
  return [
    _item(record, f"{path}, record {number}")
    for number, record in enumerate(records, start=1)
  ]


def _item(record: Any, where: str) -> dict[str, Any]:
  if not isinstance(record, Mapping):
    raise ValueError(
      f"{where}: expected an object, found {type(record).__name__}"
    )
  for field in ("question", "answer", "context"):
    if field not in record:
      raise ValueError(
        f"{where}: no field {field!r}, only {', '.join(record) or 'none'}"
      )
  for field in ("question", "answer"):
    value = record[field]
    if not isinstance(value, str) or not value.strip():
      raise ValueError(
        f"{where}: field {field!r} is {value!r:.60}, expected a text that is "
        "not empty"
      )
  documents = _documents(record["context"], where)
  return {
    "question": record["question"],
    "answer": record["answer"],
    "documents": documents,
    "supporting": _supporting(record, documents, where),
  }


def _supporting(
  record: Mapping[str, Any], documents: Sequence[tuple[str, str]], where: str
) -> tuple[str, ...]:
  """Titles of the documents that supporting_facts names, each once."""
  if "supporting_facts" not in record:
    return ()
  facts = record["supporting_facts"]
  named = facts
  if isinstance(facts, Mapping):
    named = facts.get("title")
  elif isinstance(facts, list):
    named = [x[0] if isinstance(x, list) and x else x for x in facts]
  if not isinstance(named, list) or not named:
    raise ValueError(
      f"{where}: supporting_facts is {facts!r:.60}, expected a list of [title, "
      "sentence] that is not empty, or a dict with one of title"
    )
  known = {key(title) for title, _ in documents}
  for title in named:
    if not isinstance(title, str) or key(title) not in known:
      raise ValueError(
        f"{where}: supporting_facts names {title!r:.60}, which is none of the "
        f"{len(documents)} paragraphs of context: take HotpotQA's distractor "
        "file, or remove the field supporting_facts"
      )
  return tuple(dict.fromkeys(named))


def _documents(context: Any, where: str) -> list[tuple[str, str]]:
  if isinstance(context, Mapping):
    if not {"title", "sentences"} <= set(context):
      raise ValueError(
        f"{where}: context has the fields {', '.join(context)}, expected title "
        "and sentences"
      )
    titles, texts = context["title"], context["sentences"]
    if not isinstance(titles, list) or not isinstance(texts, list):
      raise ValueError(
        f"{where}: title and sentences of context are "
        f"{type(titles).__name__} and {type(texts).__name__}, expected lists"
      )
    if len(titles) != len(texts):
      raise ValueError(
        f"{where}: context has {len(titles)} titles but sentences of "
        f"{len(texts)} paragraphs, expected one of each"
      )
    context = [list(pair) for pair in zip(titles, texts)]
  if not isinstance(context, list) or not context:
    raise ValueError(
      f"{where}: context is {context!r:.60}, expected a list of [title, "
      "sentences] that is not empty"
    )
  for pair in context:
    if not _is_paragraph(pair):
      raise ValueError(
        f"{where}: a paragraph is {pair!r:.60}, expected [title, sentences]: a "
        "text that is not empty and a list of texts"
      )
  return [(title, "".join(sentences).strip()) for title, sentences in context]


def _is_paragraph(pair: Any) -> bool:
  if not isinstance(pair, list) or len(pair) != 2:
    return False
  title, sentences = pair
  return (
    isinstance(title, str)
    and bool(title.strip())
    and isinstance(sentences, list)
    and all(isinstance(sentence, str) for sentence in sentences)
  )


def key(title: str) -> str:
  """What two titles of one document have in common."""
  return " ".join(title.casefold().split())


def build(
  items: Sequence[Mapping[str, Any]], num_docs: int, seed: int, limit: int = 0
) -> list[dict[str, Any]]:
  """Contexts of `num_docs` documents, in MemAgent's layout.

  No title is added twice, nor that of one of the question's own documents, nor
  one that is the answer: that document could answer it.

  Args:
    items: from `load`.
    num_docs: documents of each context.
    seed: question i draws from (seed, i).
    limit: how many of the questions are packed, 0 for all; documents are drawn
      from all of them anyway.

  Returns:
    {"context", "input", "answers", "num_docs", "index"} for each question, and
    "gold_documents", in the order of the context, where an item has supporting
    ones.

  Raises:
    ValueError: a question has more documents of its own than that, or there are
      not enough others.
  """
  pool = {}
  for title, text in sorted({d for item in items for d in item["documents"]}):
    pool.setdefault(key(title), (title, text))
  keys = list(pool)
  records = []
  for index, item in enumerate(items[:limit] if limit else items):
    own = item["documents"]
    closed = {key(title) for title, _ in own} | {key(item["answer"])}
    others = len(pool) - len(closed & pool.keys())
    wanted = num_docs - len(own)
    if not 0 <= wanted <= others:
      raise ValueError(
        f"num_docs={num_docs}: question {index + 1} has {len(own)} documents "
        f"of its own and {others} others to draw from; choose between "
        f"{len(own)} and {len(own) + others}"
      )
    rng = np.random.default_rng([seed, index])
    drawn = (keys[i] for i in rng.permutation(len(keys)))
    added = itertools.islice((k for k in drawn if k not in closed), wanted)
    documents = [*own, *(pool[key] for key in added)]
    documents = [documents[i] for i in rng.permutation(num_docs)]
    told = [
      f"Document {number}:\n{title}\n{text}"
      for number, (title, text) in enumerate(documents, start=1)
    ]
    record = {
      "index": index,
      "input": item["question"],
      "answers": [item["answer"]],
      "context": "\n\n".join(told),
      "num_docs": num_docs,
    }
    # No added document has a title of the question's own.
    if gold := {key(title) for title in item.get("supporting", ())}:
      record["gold_documents"] = [
        text for text, (title, _) in zip(told, documents) if key(title) in gold
      ]
    records.append(record)
  return records


def _write(path: pathlib.Path, records: Sequence[Mapping[str, Any]]) -> None:
  """Writes a JSON file whole or not at all."""
  path.parent.mkdir(parents=True, exist_ok=True)
  temp = path.with_name(path.name + ".tmp")
  try:
    temp.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    os.replace(temp, path)
  finally:
    temp.unlink(missing_ok=True)


def main(argv: Sequence[str]) -> None:
  """Reads, packs, writes."""
  if len(argv) > 1:
    raise app.UsageError(f"unknown argument {argv[1]!r}")
  output = pathlib.Path(_OUTPUT.value)
  try:
    if output.suffix != ".json":
      raise ValueError(f"--output={output}: expected a name that ends in .json")
    records = build(
      load(_INPUT.value), _NUM_DOCS.value, _SEED.value, _LIMIT.value
    )
    _write(output, records)
  except (OSError, ValueError) as error:
    sys.exit(f"hotpotqa: {error}")
  print(f"{output}: {len(records)} questions of {_NUM_DOCS.value} documents")


if __name__ == "__main__":
  flags.mark_flags_as_required(["input", "output"])
  app.run(main)
