"""How a bank lies in the one table of `lance_store`, as Arrow has it.

  kind     key               carries
  entry    entry/<id>        an entry, its digest and embedding
  session  session/<key>     number, log and largest id of a session
  meta     meta              the settings that the bank was claimed with

Dimension keys: E entries, D width of an embedding.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memjax import store

VERSION = b"1"
# What an entry is made of; the embedding follows, once there is one.
ENTRY = ("number", "text", "ids", "created", "updated", "source")


def schema(width: int | None = None) -> pa.Schema:
  """Of the table; without embeddings as long as their width is not known."""
  fields = [
    *(pa.field(name, pa.string()) for name in ("key", "kind")),
    *(pa.field(name, pa.int64()) for name in ("number", "last_id")),
    *(pa.field(name, pa.int64()) for name in ("created", "updated")),
    *(pa.field(name, pa.string()) for name in ("source", "text", "payload")),
    pa.field("ids", pa.list_(pa.int64())),
    pa.field("digest", pa.binary()),
  ]
  if width:
    fields.append(embedding_field(width))
  return pa.schema(fields, metadata={b"memjax": VERSION})


def embedding_field(width: int) -> pa.Field:
  """The column of the embeddings, which is added with the first of them."""
  return pa.field("embedding", pa.list_(pa.float32(), width))


def from_entries(
  entries: Sequence[store.Entry], width: int | None, other: Mapping[str, Any]
) -> pa.Table:
  """Rows of the entries, and one row of another kind."""
  columns = {
    "key": [f"entry/{e.id}" for e in entries],
    "kind": ["entry"] * len(entries),
    "number": [e.id for e in entries],
    "ids": [e.ids for e in entries],
    **{
      name: [getattr(e, name) for e in entries]
      for name in ("created", "updated", "source", "text", "digest")
    },
  }
  arrays = [
    pa.array(columns.get(field.name, [None] * len(entries)), field.type)
    for field in schema()
  ]
  if width:
    none_E = np.array([e.embedding is None for e in entries], bool)
    flat_ED = np.zeros((len(entries), width), np.float32)
    for row, entry in enumerate(entries):
      if entry.embedding is not None:
        flat_ED[row] = entry.embedding
    arrays.append(
      pa.FixedSizeListArray.from_arrays(
        pa.array(flat_ED.reshape(-1)), width, mask=pa.array(none_E)
      )
    )
  return pa.concat_tables(
    [
      pa.Table.from_arrays(arrays, schema=schema(width)),
      pa.Table.from_pylist([dict(other)], schema=schema(width)),
    ]
  )


def to_entries(found: pa.Table) -> list[store.Entry]:
  """Entries by ascending id, of rows with or without embeddings."""
  embedding = [None] * len(found)
  if "embedding" in found.column_names:
    column = found["embedding"].combine_chunks()
    # An Arrow row of null has numbers too, whatever they are.
    flat_ED = column.values.to_numpy(zero_copy_only=False)
    flat_ED = flat_ED.reshape(-1, column.type.list_size)[column.offset :]
    for row in np.flatnonzero(column.is_valid().to_numpy(False)):
      embedding[row] = flat_ED[row]
  rows = zip(*(found[name].to_pylist() for name in ENTRY), embedding)
  return sorted((store.Entry(*row) for row in rows), key=lambda e: e.id)
