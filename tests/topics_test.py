"""Topic memories: both prompts, both grammars, and turns kept with entries."""

import jax
import numpy as np
import pytest

from memjax import prompts
from memjax import tokenizer as tokenizer_lib
from memjax import tokens as token_lib
from memjax.envs import demos
from memjax.memory import bank as bank_lib
from memjax.memory import topics

# Turns of a session, topics, listed entries, capacity of a response.
_P, _F, _K, _T = 3, 2, 3, 40
# Tokens of a turn and of a summary.
_L = {"words": 4, "text": 9}
_M = {"words": 2, "text": 6}
# Entry ids in the order of the prompt; the third place is free.
_LISTED = (7, 4, -1)


@pytest.fixture(scope="module", params=["words", "text"])
def language(request):
  """(style, tokenizer, operation): word-level, and the real tokenizer."""
  style = request.param
  if style == "words":
    tokenizer = tokenizer_lib.from_words(demos.words())
  else:
    path = request.getfixturevalue("data_dir") / "qwen3_tokenizer"
    tokenizer = tokenizer_lib.load(path)
  op = topics.make(tokenizer, style, _K, _P, _L[style], _F, _M[style])
  return style, tokenizer, op


_split = jax.jit(topics.split, static_argnums=0)
_build_notes = jax.jit(topics.build_notes, static_argnums=0)
_parse_notes = jax.jit(topics.parse_notes, static_argnums=0)
_build_merge = jax.jit(topics.build_merge, static_argnums=0)
_parse_merge = jax.jit(topics.parse_merge, static_argnums=0)
_cited = jax.jit(topics.cited, static_argnums=0)
_append = jax.jit(topics.append_turns, static_argnums=(0, 3))


def _encode(language, text) -> list[int]:
  """Ids of a text; words have their own newline, and part off colons."""
  style, tokenizer, _ = language
  if style == "words":
    text = text.replace("\n", " <nl> ").replace(": ", " : ")
  return tokenizer.encode(text)


def _pack(language, rows, capacity=None) -> token_lib.Tokens:
  ids = [language[1].encode_batch(list(row)) for row in rows]
  return token_lib.from_nested(ids, capacity)


def _texts(language, tokens) -> list[str]:
  """The texts of the first row, as they are."""
  row = jax.tree.map(lambda x: x[0], tokens)
  decode = language[1].backend.decode
  return [decode(ids) for ids in token_lib.to_lists(row)]


def _show(language, rows, numbered) -> str:
  """A section of a prompt: lines, each ended once."""
  style = language[0]
  there = [(n, x) for n, x in enumerate(rows, 1) if x]
  if style == "words":
    lines = [f"{n} {x} <nl>" if numbered else f"{x} <nl>" for n, x in there]
    return " ".join(lines) or "<none>"
  lines = [f"{n}: {x}\n" if numbered else f"{x}\n" for n, x in there]
  return "".join(x.replace("\n\n", "\n") for x in lines) or "(empty)\n"


def _check_prompts(language, found, name, slots):
  style, tokenizer, _ = language
  for b, ids in enumerate(token_lib.to_lists(found)):
    text = prompts.BANK_STYLES[style][name]
    for slot, values in slots.items():
      text = text.replace("{" + slot + "}", values[b])
    text = tokenizer.chat(text, False)
    if style == "words":
      text = " ".join(text.split())
      assert ids == tokenizer.encode(text)
    assert tokenizer.backend.decode(ids) == text


def test_the_prompt_for_notes_equals_its_string(language):
  style, tokenizer, op = language
  turns = [["A: ada=bern", "B: of bob!", ""], ["", "", ""]]
  speakers, stamps = ["ada?", "<all>"], ["s3", ""]
  if style == "text":
    turns[0] = ["Kim: I left Bern.\n", "Leo: Oh", ""]
    speakers, stamps = ["Kim", "the speakers"], ["8 May: ", ""]
  rows = lambda x: token_lib.from_lists(tokenizer.encode_batch(x), 5, pad_id=5)
  found = _build_notes(
    op, _pack(language, turns, _L[style]), rows(speakers), rows(stamps)
  )
  shown = [_show(language, x, True) for x in turns]
  slots = {"turns": shown, "speaker": speakers, "stamp": stamps}
  _check_prompts(language, found, "topics", slots)
  if style == "words":
    one = "<turns> s3 1 A: ada=bern <nl> 2 B: of bob! <nl> <of> ada? <topics>"
    assert tokenizer.decode(token_lib.to_lists(found)[0]) == one
  # Who stands for a speaker where a conversation names none.
  assert tokenizer.decode(op.everyone) == speakers[1]


def test_the_prompt_for_a_merge_equals_its_string(language):
  style, tokenizer, op = language
  entries = [["s1 ada=bern", "s2 bob!", "s3 cat@ada"], ["", "", ""]]
  new = ["ada=rome of", "eve@ada"]
  if style == "text":
    entries[0] = ["8 May: Kim lives in Bern.\n", "Leo", "1: Leo"]
    new = ["Kim left Bern", "Leo is 30"]
  found = _build_merge(
    op,
    token_lib.from_lists(tokenizer.encode_batch(new), 8, pad_id=5),
    _pack(language, entries, 12),
  )
  slots = {"entries": [_show(language, x, True) for x in entries]}
  _check_prompts(language, found, "merge", slots | {"summary": new})
  if style == "words":
    one = "<memory> 1 s1 ada=bern <nl> 2 s2 bob! <nl> 3 s3 cat@ada <nl> "
    one += "<new> ada=rome of <merge>"
    assert tokenizer.decode(token_lib.to_lists(found)[0]) == one


def _notes(language, text, truncated=False, turns=_P):
  """([(summary, turns that it comes from)], slips) of one response."""
  op = language[2]
  body = token_lib.from_lists([_encode(language, text)], _T, pad_id=5)
  length = (np.arange(_P)[None] < turns).astype(np.int32)
  shown = token_lib.Tokens(np.ones((1, _P, op.turn_tokens), np.int32), length)
  found = _parse_notes(op, body, np.array([truncated]), shown)
  found = jax.tree.map(np.asarray, found)
  summaries = [x.strip() for x in _texts(language, found.text)]
  sources = [(np.flatnonzero(x) + 1).tolist() for x in found.sources[0]]
  slips = {name: int(x[0]) for name, x in found.counts.items() if x[0]}
  topics_, sources_ = slips.pop("topics", 0), slips.pop("sources", 0)
  assert topics_ == sum(x != "" for x in summaries)
  assert sources_ == sum(map(len, sources))
  assert bool(found.malformed[0]) == bool(set(slips) - {"cut"})
  return list(zip(summaries, sources)), slips


_NOTHING = ("", [])


def test_notes_name_the_turns_that_they_come_from(language):
  notes, slips = _notes(language, "NOTE 1 3: ada=bern\nNOTE 3: of bob!\n")
  assert notes == [("ada=bern", [1, 3]), ("of bob!", [3])] and not slips
  # The order of the numbers means nothing, and the last line may stay open.
  notes, slips = _notes(language, "\nNOTE 3 2 1: ada!")
  assert notes == [("ada!", [1, 2, 3]), _NOTHING] and not slips


def test_who_has_nothing_to_note_says_none(language):
  assert _notes(language, "NONE\n") == ([_NOTHING] * 2, {})
  for text in ("", "\n"):
    assert _notes(language, text) == ([_NOTHING] * 2, {"empty": 1})
  notes, slips = _notes(language, "NONE\nNOTE 1: ada!\n")
  assert notes == [_NOTHING, ("ada!", [1])] and slips == {"errors": 1}


@pytest.mark.parametrize(
  "line",
  [
    "ada!",
    "ADD ada!",
    "NOTE: ada!",
    "NOTE 1 ada!",
    "NOTE 12: ada!",
    "NOTE 1 4: ada!",
    "NOTE 2 2: ada!",
    "NOTE 2: ",
    "NONE ada!",
  ],
)
def test_a_line_in_error_gives_no_topic(language, line):
  # A topic keeps its place, whatever becomes of the lines before.
  notes, slips = _notes(language, f"{line}\nNOTE 2: bob!\n")
  assert notes == [_NOTHING, ("bob!", [2])] and slips == {"errors": 1}


def test_only_turns_that_were_shown_have_numbers(language):
  text = "NOTE 2: ada!\nNOTE 3: bob!\n"
  both = [("ada!", [2]), ("bob!", [3])]
  assert _notes(language, text, turns=3) == (both, {})
  found = _notes(language, text, turns=2)
  assert found == ([both[0], _NOTHING], {"errors": 1})
  assert _notes(language, text, turns=0) == ([_NOTHING] * 2, {"errors": 2})


def test_lines_beyond_the_topics_are_counted(language):
  notes, slips = _notes(language, "NOTE 1: ada!\n" * 4)
  assert notes == [("ada!", [1])] * _F and slips == {"left_out": 2}


def test_a_note_that_was_cut_is_lost(language):
  text = "NOTE 1: ada!\nNOTE 2: bob!"
  notes, slips = _notes(language, text, truncated=True)
  assert notes == [("ada!", [1]), _NOTHING] and slips == {"errors": 1}
  # One that is closed counts, though the response was cut behind it.
  notes, slips = _notes(language, text + "\n", truncated=True)
  assert notes[1] == ("bob!", [2]) and not slips


def test_long_summaries_are_cut_and_counted(language):
  style, tokenizer, _ = language
  words = " the of ada=bern and bob=lima"
  cut = tokenizer.decode(tokenizer.encode(words)[: _M[style]]).strip()
  notes, slips = _notes(language, f"NOTE 1:{words}\nNOTE 2: the of\n")
  assert notes == [(cut, [1]), ("the of", [2])] and slips == {"cut": 1}
  assert cut != words.strip()


def _merge(language, text, truncated=False, listed=_LISTED):
  """((kind, entry id, text), slips) of one response; the topic is "of ada!"."""
  tokenizer, op = language[1:]
  body = token_lib.from_lists([_encode(language, text)], _T, pad_id=5)
  topic = token_lib.from_lists([tokenizer.encode("of ada!")], op.text_tokens)
  plan = _parse_merge(
    op, body, np.array([truncated]), np.array([listed]), topic
  )
  plan = jax.tree.map(np.asarray, plan)
  assert plan.kind.shape == (1, 1)
  slips = {name: int(x[0]) for name, x in plan.counts.items() if x[0]}
  verbs = {name: slips.pop(name, 0) for name in ("add", "merge")}
  kind = int(plan.kind[0, 0])
  assert verbs == {
    "add": int(kind == bank_lib.ADD),
    "merge": int(kind == bank_lib.UPDATE),
  }
  assert bool(plan.malformed[0]) == bool(set(slips) - {"cut"})
  (text,) = _texts(language, plan.text)
  return (kind, int(plan.id[0, 0]), text.strip()), slips


def test_an_addition_takes_the_summary(language):
  for text in ("ADD\n", "ADD", "\nADD\n"):
    assert _merge(language, text) == ((bank_lib.ADD, -1, "of ada!"), {})
  # Nothing needs to be held for that.
  found = _merge(language, "ADD\n", listed=(-1, -1, -1))
  assert found == ((bank_lib.ADD, -1, "of ada!"), {})


def test_a_merge_names_a_place_and_brings_its_text(language):
  for number, entry in ((1, 7), (2, 4)):
    found = _merge(language, f"MERGE {number} eve@ada\n")
    assert found == ((bank_lib.UPDATE, entry, "eve@ada"), {})
  found = _merge(language, "MERGE 3 ada!", listed=(0, 12, 5))
  assert found == ((bank_lib.UPDATE, 5, "ada!"), {})


@pytest.mark.parametrize(
  "line",
  [
    "MERGE 3 ada!",
    "MERGE 12 ada!",
    "MERGE ada!",
    "MERGE 1",
    "MERGE",
    "ADD ada!",
    "ADD 1",
    "DELETE 1",
    "NOOP",
    "NONE",
    "ada!",
  ],
)
def test_what_is_no_action_changes_nothing(language, line):
  (kind, entry, _), slips = _merge(language, f"{line}\n")
  assert (kind, entry, slips) == (bank_lib.NOOP, -1, {"errors": 1})


def test_saying_nothing_or_more_than_one_line_is_malformed(language):
  for text in ("", "\n"):
    (kind, entry, _), slips = _merge(language, text)
    assert (kind, entry, slips) == (bank_lib.NOOP, -1, {"empty": 1})
  found = _merge(language, "MERGE 2 bob!\nADD\nMERGE 1 ada!\n")
  assert found == ((bank_lib.UPDATE, 4, "bob!"), {"left_out": 2})


def test_an_action_that_was_cut_changes_nothing(language):
  for text in ("ADD", "MERGE 2 bob!"):
    (kind, entry, _), slips = _merge(language, text, truncated=True)
    assert (kind, entry, slips) == (bank_lib.NOOP, -1, {"errors": 1})
  found = _merge(language, "MERGE 2 bob!\n", truncated=True)
  assert found == ((bank_lib.UPDATE, 4, "bob!"), {})


def test_a_long_merge_is_cut_and_counted(language):
  style, tokenizer, _ = language
  words = " the of ada=bern and bob=lima"
  cut = tokenizer.decode(tokenizer.encode(words)[: _M[style]]).strip()
  found = _merge(language, f"MERGE 1{words}\n")
  assert found == ((bank_lib.UPDATE, 7, cut), {"cut": 1})
  assert cut != words.strip()


def _turns(language, text) -> list[str]:
  """The turns of a session."""
  if language[0] == "words":
    text = text.replace("\n", " <nl> ")
  chunk = token_lib.from_lists([language[1].encode(text)], _T, pad_id=5)
  found, lost = _split(language[2], chunk)
  lines = [x for x in text.replace(" <nl> ", "\n").split("\n") if x.strip()]
  assert int(lost["turns_left_out"][0]) == max(len(lines) - _P, 0)
  assert found.ids.shape == (1, _P, _L[language[0]])
  return [x.strip() for x in _texts(language, found)]


def test_a_line_is_a_turn(language):
  for text in (
    "A: ada!\nB: bob!\n",
    "A: ada!\nB: bob!",
    "\nA: ada!\n\nB: bob!",
  ):
    assert _turns(language, text) == ["A: ada!", "B: bob!", ""]
  assert _turns(language, "") == [""] * _P


def test_turns_beyond_the_last_are_left_out(language):
  found = _turns(language, "ada!\nbob!\ncat!\ndan!\n")
  assert found == ["ada!", "bob!", "cat!"]


def test_a_long_turn_is_cut(language):
  style, tokenizer, _ = language
  words = "the of and to a in is it and in"
  cut = tokenizer.decode(tokenizer.encode(words)[: _L[style]])
  assert _turns(language, f"{words}\nbob!") == [cut, "bob!", ""]
  assert cut != words


def test_a_turn_may_say_none(language):
  assert _turns(language, "ada!\nNONE\nbob!") == ["ada!", "NONE", "bob!"]
  assert _turns(language, "NONE\n") == ["NONE", "", ""]


def test_cited_turns_stand_one_a_line(language):
  style, _, op = language
  rows = ["A: ada!", "bob!", "the cat!"]
  if style == "text":
    rows = ["Kim: I left.\n", "Leo: Oh", "Kim: Yes!\n"]
  turns = _pack(language, [rows] * 3, _L[style])
  places = np.array([[True, False, True], [False] * 3, [False, True, False]])
  found = token_lib.to_lists(_cited(op, turns, places))
  told = [_show(language, np.where(x, rows, ""), False) for x in places]
  told[1] = ""  # and no word for that
  assert [language[1].backend.decode(ids) for ids in found] == told


_V = 6


def test_turns_are_put_behind_those_held(language):
  """By hand, in one batch; a bar is a line's end, V has room for six tokens."""
  end = language[2].listing.grammar.newline[0]
  cases = [
    ("a|", "bc|", "a|bc|"),  # fits
    ("ab|", "cd|", "ab|cd|"),  # to the last token
    ("a|b|", "cd|", "b|cd|"),  # the oldest line goes
    ("a|b|c|", "def|", "c|def|"),  # two lines go
    ("ab|c|", "def|", "c|def|"),
    ("abcde|", "f|", "f|"),  # a whole line, for a single token too many
    ("ab|", "cdefg|", "cdefg|"),  # all that was held
    ("a|", "bcdefgh|", "defgh|"),  # a single turn keeps its end
    ("a|", "bcdefgh|i|", "i|"),
    ("", "ab|", "ab|"),
    ("ab|c|", "", "ab|c|"),
    ("", "", ""),
  ]
  ids = lambda text: [end if x == "|" else 30 + ord(x) for x in text]
  rows = lambda k, n: token_lib.from_lists([ids(x[k]) for x in cases], n, 5)
  found = _append(language[2], rows(0, _V), rows(1, 12), _V)
  assert found.capacity == _V
  assert token_lib.to_lists(found) == [ids(x[2]) for x in cases]


def test_where_no_turns_are_kept_none_are_held(language):
  end = language[2].listing.grammar.newline[0]
  new = token_lib.from_lists([[7, end], []], 4)
  found = _append(language[2], token_lib.empty(2, 0), new, 0)
  assert found.ids.shape == (2, 0) and found.length.tolist() == [0, 0]
