"""The line grammar: device and host agree, and every slip has a result."""

import collections
import functools

import jax
import lines_host
import numpy as np
import pytest

from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.memory import lines

_T, _N, _K = 32, 4, 12


def _words(without: str = "") -> tokenizer_lib.Tokenizer:
  words = [*lines.VERBS, ":", "1:", ":a", "<nl>", "a", "b", "1234"]
  words += map(str, range(1, 13))
  return tokenizer_lib.from_words(
    [word for word in words if word not in without.split()]
  )


def _bpe() -> tokenizer_lib.Tokenizer:
  text = "ADD Kim lives in Bern.\nUPDATE 12 x\nDELETE 3\nNOOP\nNONE\nUSE 1 3\n"
  text += "NOTE 1 3: Kim\nMERGE 2 x\n"
  return tokenizer_lib.train_bpe([text] * 4, 330)


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
  args = grammar, tokens, truncated_B, listed_B
  return {
    "ops": lines.parse_ops(*args, _N),
    "texts": lines.parse_texts(grammar, tokens, truncated_B, _N),
    "notes": lines.parse_notes(*args, _K, _N),
    "merge": lines.parse_merge(*args),
    "use": lines.parse_use(*args, _K),
  }


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
    for n in np.flatnonzero(found.there[b])
  ]


def _compare(grammar, parser, pieces_of, rows, truncated, listed):
  """Asserts that both agree; returns how often a parser met an error."""
  device = _run(grammar, rows, truncated, listed)
  used, answer, malformed = device["use"]
  notes, sources = device["notes"]
  assert sources.shape == (len(rows), _N, _K)
  met = collections.Counter()
  for b, row in enumerate(rows):
    pieces = [pieces_of(i) for i in row]
    args = pieces, truncated[b], listed[b]
    noted = parser.notes(*args)
    for name, found, expected in (
      ("ops", device["ops"], parser.ops(*args)),
      ("texts", device["texts"], parser.texts(*args[:2])),
      ("notes", notes, [line for line, _ in noted]),
      ("merge", device["merge"], parser.merge(*args)),
    ):
      most = found.there.shape[1]
      assert _listed(found, b) == expected[:most], (name, args)
      assert found.extra[b] == max(len(expected) - most, 0), (name, args)
      met.update((name, line.error) for line in expected[:most])
    pairs = {(n, k - 1) for n, (_, x) in enumerate(noted[:_N]) for k in x}
    assert set(map(tuple, np.argwhere(sources[b]))) == pairs, args
    met.update(("sources", len(numbers)) for _, numbers in noted[:_N])
    numbers, where, bad = parser.use(*args)
    assert set(np.flatnonzero(used[b]) + 1) == numbers, args
    assert answer.ids[b][: answer.length[b]].tolist() == row[where], args
    assert malformed[b] == bad, args
  return met


# What a policy may write, and what it should not.
_SNIPPETS = (
  "ADD", "ADD a", "UPDATE 1 a", "UPDATE 2 b a", "UPDATE 12 a", "DELETE 1",
  "DELETE 3", "NOOP", "NOOP 2", "NONE", "USE", "USE 1 3", "USE 2 2", "USE 12",
  "UPDATE", "DELETE", "DELETE 1 a", "UPDATE a", "a", "b a", "1", "1234",
  "NOTE 1 : a", "NOTE 1 3 : b a", "NOTE 12 2 : 3 a", "NOTE 2 2 : a", "NOTE 1",
  "NOTE : a", "NOTE 1 :", "NOTE 2 a", "NOTE", "MERGE 1 a", "MERGE 2", "MERGE",
  "MERGE a", "MERGE 12 a b",
)  # fmt: skip


def _samples(tokenizer, newline, rng, count):
  """Responses: snippets joined by newlines, then mutated token by token."""
  gap = f" {newline} " if tokenizer.parts_words else newline
  encoded = [tokenizer.encode(x) for x in _SNIPPETS]
  ends = [tokenizer.encode(gap), tokenizer.encode(gap + gap)]
  if not tokenizer.parts_words:
    encoded += [tokenizer.encode(" " + x) for x in _SNIPPETS]
    encoded += [tokenizer.encode(x + ".") for x in _SNIPPETS]
    tight = [x.replace(" :", ":") for x in _SNIPPETS if ":" in x]
    encoded += [tokenizer.encode(x) for x in tight]
    encoded += [tokenizer.encode(x.replace(": ", ":")) for x in tight]
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
  met = collections.Counter()
  for _ in range(count // batch):
    rows = _samples(tokenizer, newline, rng, batch)
    met += _compare(
      grammar,
      parser,
      piece,
      rows,
      (rng.random(batch) < 0.3).tolist(),
      rng.integers(0, _K + 1, batch).tolist(),
    )
  return met


def test_device_and_host_agree(language):
  met = _agree(language, 8192, seed=0)
  # Nothing is compared that does not occur.
  slips = set(range(len(lines.ERRORS)))
  once = {lines.DUPLICATE, lines.NO_COLON}
  for name, errors in (
    ("ops", slips - {lines.NO_COLON}),
    ("texts", {lines.OK, lines.EXTRA_TEXT, lines.CUT}),
    ("notes", slips),
    ("merge", slips - once),
  ):
    assert {error for of, error in met if of == name} == errors
    assert min(met[name, error] for error in errors) > 20
  assert min(met["sources", count] for count in (1, 2)) > 20


@pytest.mark.slow
def test_device_and_host_agree_on_a_million(language):
  _agree(language, 340_000, seed=1)


def _parse(language, text, listed=3, truncated=False):
  tokenizer, newline, grammar, _ = language
  if tokenizer.parts_words:
    text = text.replace("\n", f" {newline} ")
  row = tokenizer.encode(text)
  return row, _run(grammar, [row], [truncated], [listed])


def _read(language, row, found):
  """[(verb, number, text, error)] of the first response."""
  return [
    (
      lines.VERBS[line.verb] if line.verb >= 0 else None,
      line.number,
      language[0].decode(row[line.start : line.stop]).strip(),
      lines.ERRORS[line.error],
    )
    for line in _listed(found, 0)
  ]


def _ops(language, text, **kwargs):
  row, found = _parse(language, text, **kwargs)
  return _read(language, row, found["ops"])


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
    ("NOTE 1 : a\n", "no verb"),
    ("MERGE 1 a\n", "no verb"),
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


def _notes(language, text, **kwargs):
  """[(verb, 0, text, error, turns)] of the first response."""
  row, found = _parse(language, text, **kwargs)
  notes, sources = found["notes"]
  turns = [(np.flatnonzero(x) + 1).tolist() for x in sources[0]]
  return [(*line, x) for line, x in zip(_read(language, row, notes), turns)]


def test_notes_name_their_turns(language):
  # The same turn may stand behind two topics, and a text begin with a number.
  text = "NOTE 1 3 : a b\n\nNOTE 3 : 12 b\nNOTE 12 : 1 : a"
  if not language[0].parts_words:
    text = text.replace(" :", ":", 2)
  assert _notes(language, text, listed=12) == [
    ("NOTE", 0, "a b", "ok", [1, 3]),
    ("NOTE", 0, "12 b", "ok", [3]),
    ("NOTE", 0, language[0].decode(language[0].encode("1 : a")), "ok", [12]),
  ]


@pytest.mark.parametrize(
  "error,texts",
  [
    ("no verb", ("a b", "1 : a", "ADD a", "USE 1", "MERGE 1 a")),
    ("bad number", ("NOTE", "NOTE : a", "NOTE a 1 : a", "NOTE 1 4 : a")),
    ("bad number", ("NOTE 1234 : a", "NOTE 4 4")),
    ("number used before", ("NOTE 1 3 1 : a", "NOTE 1 1")),
    ("no colon", ("NOTE 1", "NOTE 1 3 a", "NOTE 1 a : b")),
    ("no text", ("NOTE 1 :", "NOTE 1 : ")),
    ("text where none belongs", ("NONE a", "NONE 1 : a")),
  ],
)
def test_malformed_notes(language, error, texts):
  for text in texts:
    assert [x[3:] for x in _notes(language, text + "\n")] == [(error, [])]


def test_no_colon_but_a_colon(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  qwen3 = tokenizer, "\n", lines.make_grammar(tokenizer), None
  for text, error in (
    ("NOTE 1:Kim\n", "ok"),
    ("NOTE 1 : Kim", "ok"),
    ("NOTE 1:\n", "no text"),
    ("NOTE 0: Kim", "bad number"),
    *((f"NOTE 1{x} Kim", "no colon") for x in ("::", ":)", ", 3:", "a:")),
  ):
    assert [line[3] for line in _notes(qwen3, text)] == [error], text


def test_none_stands_alone(language):
  assert _notes(language, "NONE\n") == [("NONE", 0, "", "ok", [])]
  for text in ("NOTE 1 : a\nNONE\n", "NOTE 1 : a\nNONE a\n"):
    error = ("text where none belongs", [])
    assert [x[3:] for x in _notes(language, text)] == [("ok", [1]), error]


def test_a_note_that_was_cut_has_no_turns(language):
  for text in ("NOTE 1 : a\nNOTE 2 : b", "NOTE 1 : a\nNONE"):
    found = _notes(language, text, truncated=True)
    assert [x[3:] for x in found] == [("ok", [1]), ("cut at the limit", [])]


def test_notes_beyond_the_limit_are_counted(language):
  notes, sources = _parse(language, "a\n" * 3 + "NOTE 1 : a\n" * 2)[1]["notes"]
  assert notes.extra.tolist() == [1] and notes.error[0].tolist() == [1, 1, 1, 0]
  assert np.argwhere(sources[0]).tolist() == [[3, 0]]


def _merge(language, text, **kwargs):
  row, found = _parse(language, text, **kwargs)
  return _read(language, row, found["merge"]), int(found["merge"].extra[0])


def test_an_addition_or_a_merge(language):
  for text in ("ADD\n", "ADD", "\nADD"):
    assert _merge(language, text) == ([("ADD", 0, "", "ok")], 0)
  for text in ("MERGE 2 3 a\n", "MERGE 2 3 a"):
    assert _merge(language, text) == ([("MERGE", 2, "3 a", "ok")], 0)


@pytest.mark.parametrize(
  "error,texts",
  [
    ("no verb", ("a", "NOOP", "UPDATE 2 a", "NOTE 1 : a")),
    ("bad number", ("MERGE", "MERGE a", "MERGE 4 a", "MERGE 1234 a")),
    ("no text", ("MERGE 2",)),
    ("text where none belongs", ("ADD a", "ADD 2")),
  ],
)
def test_malformed_merge(language, error, texts):
  for text in texts:
    assert [x[3] for x in _merge(language, text + "\n")[0]] == [error]


def test_merge_is_one_line(language):
  text = "MERGE 1 a\nADD\nMERGE 2 b"
  assert _merge(language, text) == ([("MERGE", 1, "a", "ok")], 2)
  cut = [("ADD", 0, "", "cut at the limit")]
  assert _merge(language, "ADD", truncated=True) == (cut, 0)


def test_a_vocabulary_without_these_words():
  tokenizer = _words(without="MERGE :")
  mute = tokenizer, "<nl>", lines.make_grammar(tokenizer, "<nl>"), None
  assert _ops(mute, "UPDATE 2 a\n") == [("UPDATE", 2, "a", "ok")]
  assert _merge(mute, "ADD\n") == ([("ADD", 0, "", "ok")], 0)
  assert _notes(mute, "NONE\n")[0][3] == "ok"
  for text in ("NOTE 1 a\n", "NOTE 1 :a\n", "NOTE 2\n"):
    assert _notes(mute, text)[0][3:] == ("no colon", [])


def test_an_entry_keeps_the_token_that_ends_its_line(data_dir):
  tokenizer = tokenizer_lib.load(data_dir / "qwen3_tokenizer")
  grammar = lines.make_grammar(tokenizer)
  row = tokenizer.encode("ADD Kim lives in Bern.\nADD x\n")
  ops = _run(grammar, [row], [False], [0])["ops"]
  texts = [
    tokenizer.decode(row[line.start : line.stop]) for line in _listed(ops, 0)
  ]
  assert texts == [" Kim lives in Bern.\n", " x"]
