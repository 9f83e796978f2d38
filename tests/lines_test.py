"""The line grammar: device and host agree, and every slip has a result."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import lines
from memjax.memory import lines_host

_T, _N, _K = 32, 4, 12


def _words() -> tokenizer_lib.Tokenizer:
  return tokenizer_lib.from_words(
    [*lines.VERBS, "<nl>", "a", "b", *map(str, range(1, 13)), "1234"]
  )


def _bpe() -> tokenizer_lib.Tokenizer:
  text = "ADD Kim lives in Bern.\nUPDATE 12 x\nDELETE 3\nNOOP\nNONE\nUSE 1 3\n"
  return tokenizer_lib.train_bpe([text] * 4, 320)


def _tokenizer(name: str, data_dir) -> tuple[tokenizer_lib.Tokenizer, str]:
  if name == "words":
    return _words(), "<nl>"
  if name == "bpe":
    return _bpe(), "\n"
  return tokenizer_lib.load(data_dir / "qwen3_tokenizer"), "\n"


@pytest.fixture(scope="module", params=["words", "bpe", "qwen3"])
def language(request):
  name = request.param
  data_dir = request.getfixturevalue("data_dir") if name == "qwen3" else None
  tokenizer, newline = _tokenizer(name, data_dir)
  return (
    tokenizer,
    newline,
    lines.make_grammar(tokenizer, newline),
    lines_host.make_parser(tokenizer, newline),
  )


@functools.partial(jax.jit, static_argnames="grammar")
def _device(grammar, tokens, truncated_B, listed_B):
  return (
    lines.parse_ops(grammar, tokens, truncated_B, listed_B, _N),
    lines.parse_texts(grammar, tokens, truncated_B, _N),
    lines.parse_use(grammar, tokens, truncated_B, listed_B, _K),
  )


def _run(grammar, rows, truncated, listed):
  tokens = token_lib.from_lists(rows, _T)
  found = _device(grammar, tokens, np.array(truncated), np.array(listed))
  return jax.tree.map(np.asarray, found)


def _listed(found: lines.Lines, b: int) -> list[lines_host.Line]:
  return [
    lines_host.Line(
      *(
        int(getattr(found, name)[b, n])
        for name in ("verb", "number", "start", "stop", "error")
      )
    )
    for n in range(_N)
    if found.there[b, n]
  ]


def _compare(grammar, parser, pieces_of, rows, truncated, listed):
  ops, texts, (used, answer, malformed) = _run(grammar, rows, truncated, listed)
  for b, row in enumerate(rows):
    pieces = [pieces_of(i) for i in row]
    for found, expected in (
      (ops, parser.ops(pieces, truncated[b], listed[b])),
      (texts, parser.texts(pieces, truncated[b])),
    ):
      where = (pieces, truncated[b], listed[b])
      assert _listed(found, b) == expected[:_N], where
      assert found.extra[b] == max(len(expected) - _N, 0), where
    numbers, where, bad = parser.use(pieces, truncated[b], listed[b])
    assert set(np.flatnonzero(used[b]) + 1) == numbers, pieces
    assert answer.ids[b][: answer.length[b]].tolist() == row[where], pieces
    assert malformed[b] == bad, pieces


# What a policy may write, and what it should not.
_SNIPPETS = (
  "ADD", "ADD a", "UPDATE 1 a", "UPDATE 2 b a", "UPDATE 12 a", "DELETE 1",
  "DELETE 3", "NOOP", "NOOP 2", "NONE", "USE", "USE 1 3", "USE 2 2", "USE 12",
  "UPDATE", "DELETE", "DELETE 1 a", "UPDATE a", "a", "b a", "1", "1234",
)  # fmt: skip


def _samples(tokenizer, newline, rng, count):
  """Responses: snippets joined by newlines, then mutated token by token."""
  gap = f" {newline} " if tokenizer.parts_words else newline
  encoded = [tokenizer.encode(x) for x in _SNIPPETS]
  ends = [tokenizer.encode(gap), tokenizer.encode(gap + gap)]
  if not tokenizer.parts_words:
    encoded += [tokenizer.encode(" " + x) for x in _SNIPPETS]
    encoded += [tokenizer.encode(x + ".") for x in _SNIPPETS]
    ends += [tokenizer.encode(x) for x in (".\n", " \n", "\n \n", ");\n")]
  alphabet = sorted({i for ids in encoded + ends for i in ids})
  rows = []
  for _ in range(count):
    row = []
    for _ in range(rng.integers(0, 7)):
      row += encoded[rng.integers(len(encoded))]
      if rng.random() < 0.85:
        row += ends[rng.integers(len(ends))]
    for _ in range(rng.integers(0, 4) if rng.random() < 0.6 else 0):
      where = int(rng.integers(0, len(row) + 1))
      token = (
        alphabet[rng.integers(len(alphabet))]
        if rng.random() < 0.7
        else int(rng.integers(tokenizer.vocab_size + 3))
      )
      how = rng.integers(3)
      if how == 0 or where == len(row):
        row.insert(where, token)
      elif how == 1:
        row[where] = token
      else:
        del row[where]
    rows.append(row[:_T])
  return rows


def _agree(language, count, seed, batch=2048):
  tokenizer, newline, grammar, parser = language
  rng = np.random.default_rng(seed)
  pieces = tokenizer.pieces
  # An id beyond the vocabulary is text.
  piece = lambda i: pieces[i] if i < len(pieces) else "?"
  for _ in range(count // batch):
    rows = _samples(tokenizer, newline, rng, batch)
    _compare(
      grammar,
      parser,
      piece,
      rows,
      (rng.random(batch) < 0.3).tolist(),
      rng.integers(0, _K + 1, batch).tolist(),
    )


def test_device_and_host_agree(language):
  _agree(language, 8192, seed=0)


@pytest.mark.slow
def test_device_and_host_agree_on_a_million(language):
  _agree(language, 340_000, seed=1)


def _ops(language, text, listed=3, truncated=False):
  tokenizer, newline, grammar, _ = language
  if tokenizer.parts_words:
    text = text.replace("\n", f" {newline} ")
  row = tokenizer.encode(text)
  ops, _, _ = _run(grammar, [row], [truncated], [listed])
  return [
    (
      lines.VERBS[line.verb] if line.verb >= 0 else None,
      line.number,
      tokenizer.decode(row[line.start : line.stop]).strip(),
      lines.ERRORS[line.error],
    )
    for line in _listed(ops, 0)
  ]


def test_well_formed(language):
  assert _ops(language, "ADD a b\nUPDATE 2 b\n\nDELETE 3\nNOOP\n") == [
    ("ADD", 0, "a b", "ok"),
    ("UPDATE", 2, "b", "ok"),
    ("DELETE", 3, "", "ok"),
    ("NOOP", 0, "", "ok"),
  ]


def test_two_digits(language):
  assert _ops(language, "UPDATE 12 a", listed=12) == [("UPDATE", 12, "a", "ok")]


@pytest.mark.parametrize(
  "text,error",
  [
    ("a b\n", "no verb"),
    ("USE 1\n", "no verb"),
    ("UPDATE 4 a\n", "bad number"),
    ("UPDATE a\n", "bad number"),
    ("DELETE\n", "bad number"),
    ("DELETE 1234\n", "bad number"),
    ("ADD\n", "no text"),
    ("UPDATE 1\n", "no text"),
    ("DELETE 1 a\n", "text where none belongs"),
    ("NOOP a\n", "text where none belongs"),
  ],
)
def test_malformed(language, text, error):
  assert [line[3] for line in _ops(language, text)] == [error]


def test_a_number_twice(language):
  found = _ops(language, "UPDATE 1 a\nDELETE 1\nDELETE 2\n")
  assert [x[3] for x in found] == ["ok", "number used before", "ok"]


def test_cut_at_the_limit(language):
  for truncated, last in ((True, "cut at the limit"), (False, "ok")):
    found = _ops(language, "ADD a\nADD b", truncated=truncated)
    assert [x[3] for x in found] == ["ok", last]


def test_nothing_is_no_line(language):
  assert _ops(language, "") == [] == _ops(language, "\n \n")


def test_an_entry_keeps_the_token_that_ends_its_line(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  grammar = lines.make_grammar(tokenizer)
  row = tokenizer.encode("ADD Kim lives in Bern.\nADD x\n")
  ops, _, _ = _run(grammar, [row], [False], [0])
  texts = [
    tokenizer.decode(row[line.start : line.stop]) for line in _listed(ops, 0)
  ]
  assert texts == [" Kim lives in Bern.\n", " x"]


def test_newlines_of_the_real_tokenizer(data_dir):
  grammar = lines.make_grammar(tokenizer_lib.load(data_dir / "qwen3_tokenizer"))
  assert (grammar.classes.array & lines._NEWLINE > 0).sum() == 2178
  assert (grammar.classes.array & lines._NUMBER > 0).sum() == 10


def test_a_vocabulary_without_lines_is_refused():
  with pytest.raises(ValueError, match="no token with"):
    lines.make_grammar(tokenizer_lib.from_words(["a", "1"]))


def test_tables_compare_by_content():
  grammar = lines.make_grammar(_words(), "<nl>")
  same = lines.make_grammar(_words(), "<nl>")
  assert grammar == same and hash(grammar) == hash(same)
  other = dataclasses.replace(
    grammar, value=token_lib.Table(grammar.value.array + 1)
  )
  assert grammar != other
