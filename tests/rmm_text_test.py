"""RMM's formats: every rule by hand; any text parses; what is written reads."""

import json
import re
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from memjax.memory import rmm_text
from memjax.memory.rmm_text import Merge
from memjax.memory.rmm_text import Topic

_settings = hypothesis.settings(max_examples=100, deadline=None)

# Ids of turns; they need not follow each other.
_TURNS = (0, 1, 2, 4, 8)
_GOOD = {"summary": "Ada has a cat.", "reference": [4, 0]}


def _extraction(items, **kwargs):
  text = json.dumps({"extracted_memories": items}, **kwargs)
  return rmm_text.parse_extraction(text, _TURNS)


# What a model writes, if it does as it is told.


def _write_extraction(topics) -> str:
  items = [{"summary": x.summary, "reference": list(x.turns)} for x in topics]
  return json.dumps({"extracted_memories": items}) if items else "NO_TRAIT"


def _write_update(add, merges, first) -> str:
  lines = [f"Merge({x.place + first}, {x.summary})" for x in merges]
  return "\n".join(["Add()"] * add + lines)


def _write_citations(answer, places, first) -> str:
  marks = ", ".join(str(place + first) for place in sorted(places))
  return f"{answer} [{marks or 'NO_CITE'}]"


def test_extraction():
  items = [_GOOD, {"summary": 'Says "{no}".', "reference": [8], "more": 1}]
  for indent in (None, 2):
    found = _extraction(items, indent=indent)
    assert found.well_formed
    assert found.topics == (
      Topic("Ada has a cat.", (0, 4)),
      Topic('Says "{no}".', (8,)),
    )
  assert _extraction([]) == rmm_text.Extraction()


@pytest.mark.parametrize(
  "form",
  [
    "```json\n%s\n```",
    "For {SPEAKER_1}, rather than NO_TRAIT, I found:\n%s\nThat is all [0].",
    '{"result": %s}',
    '{"extracted_memories": []} Or better: %s',
    '%s {"extracted_memories": "NO_TRAIT"}',
  ],
)
def test_json_is_found_anywhere(form):
  text = form % json.dumps({"extracted_memories": [_GOOD]}, indent=1)
  found = rmm_text.parse_extraction(text, _TURNS)
  assert found.topics == (Topic("Ada has a cat.", (0, 4)),)
  assert found.well_formed


@pytest.mark.parametrize(
  "text",
  [
    "NO_TRAIT",
    " \nNO_TRAIT.\n",
    "no_trait",
    '"NO_TRAIT"',
    "```NO_TRAIT```",
    "```\nNO_TRAIT\n```",
    "```text\nNO_TRAIT\n```\n",
  ],
)
def test_no_trait(text):
  found = rmm_text.parse_extraction(text, _TURNS)
  assert found == rmm_text.Extraction() and found.well_formed


@pytest.mark.parametrize(
  "text, reason",
  [
    ("", "empty"),
    (" \n\t", "empty"),
    ("NO_TRAIT, for she says nothing.", "no JSON object"),
    ("I write NO_TRAIT", "no JSON object"),
    ("NO_TRAITS", "no JSON object"),
    ("NO_TRAIT NO_TRAIT", "no JSON object"),
    ('{"extracted_memories": [', "no JSON object"),
    ('{"memories": []}', "missing list"),
    ('[{"summary": "x", "reference": [0]}]', "missing list"),
    ('{"extracted_memories": "NO_TRAIT"}', "not a list"),
    ('{"extracted_memories": {"summary": "x"}}', "not a list"),
  ],
)
def test_no_list(text, reason):
  found = rmm_text.parse_extraction(text, _TURNS)
  assert found == rmm_text.Extraction(malformed=(reason,))
  assert not found.well_formed


@pytest.mark.parametrize(
  "item, reason",
  [
    ("x", "not an object"),
    (None, "not an object"),
    ([_GOOD], "not an object"),
    ({"reference": [0]}, "no summary"),
    ({"summary": " \n", "reference": [0]}, "no summary"),
    ({"summary": 5, "reference": [0]}, "no summary"),
    ({"summary": ["x"], "reference": [0]}, "no summary"),
    ({"summary": "x"}, "no reference"),
    ({"summary": "x", "reference": None}, "no reference"),
    ({"summary": "x", "reference": []}, "no reference"),
    ({"summary": "x", "reference": 0}, "reference is not a list"),
    ({"summary": "x", "reference": "0"}, "reference is not a list"),
    ({"summary": "x", "reference": {"0": 0}}, "reference is not a list"),
    ({"summary": "x", "reference": ""}, "reference is not a list"),
    ({"summary": "x", "reference": [3]}, "unknown turn"),
    ({"summary": "x", "reference": [0, 3, 5]}, "unknown turn"),
    ({"summary": "x", "reference": [-1]}, "unknown turn"),
    ({"summary": "x", "reference": [0.0]}, "unknown turn"),
    ({"summary": "x", "reference": [True]}, "unknown turn"),
    ({"summary": "x", "reference": [None]}, "unknown turn"),
    ({"summary": "x", "reference": [[0]]}, "unknown turn"),
    ({"summary": "x", "reference": ["0, 1"]}, "unknown turn"),
    ({"summary": "x", "reference": [""]}, "unknown turn"),
    (_GOOD, "duplicate summary"),
    ({"summary": "Ada  has\na cat.", "reference": [1]}, "duplicate summary"),
  ],
)
def test_malformed_topics_are_left_out(item, reason):
  found = _extraction([_GOOD, item, {"summary": "stays", "reference": [1]}])
  assert found.malformed == (reason,)
  assert [x.summary for x in found.topics] == ["Ada has a cat.", "stays"]


def test_turns_are_sorted_and_counted_once():
  item = {"summary": "x", "reference": ["8", 2, "[1]", " 2 ", 8, 1]}
  assert _extraction([item]).topics == (Topic("x", (1, 2, 8)),)
  assert _extraction([item]).well_formed


def test_what_was_left_out_is_no_duplicate():
  bad = {**_GOOD, "reference": [99]}
  found = _extraction([bad, _GOOD, _GOOD])
  assert len(found.topics) == 1
  assert found.malformed == ("unknown turn", "duplicate summary")


def test_summaries_are_one_line_and_can_be_encoded():
  wild = " a\n9: b\u2028c\ud800 "
  (topic,) = _extraction([{"summary": wild, "reference": [0]}]).topics
  assert topic.summary == "a 9: b c?"
  text = "Merge(0,  a\t9:  b\u2028c\ud800 )"
  assert rmm_text.parse_update(text, 1).merges == (Merge(0, "a 9: b c?"),)


def test_update():
  text = """
    Merge(2, Ada has a cat, Tom (a "tabby"), and a dog.)

    Add()
    Merge(0, "Ada lives in Bern")
    merge (1,x)
  """
  found = rmm_text.parse_update(text, 3)
  assert found.well_formed and found.add
  assert found.merges == (
    Merge(2, 'Ada has a cat, Tom (a "tabby"), and a dog.'),
    Merge(0, '"Ada lives in Bern"'),
    Merge(1, "x"),
  )
  assert rmm_text.parse_update("ADD( )", 0) == rmm_text.Update(add=True)


@pytest.mark.parametrize(
  "summary", ["a)", "(a", ":) b", "f(x), g(y)", "1, 2", "'", "a) b (c", "Add()"]
)
def test_a_summary_may_hold_marks(summary):
  found = rmm_text.parse_update(f"Merge(0, {summary})", 1)
  assert found == rmm_text.Update(merges=(Merge(0, summary),))


def test_update_counts_from_first():
  text = "Merge(1, one)\nMerge(3, three)"
  found = rmm_text.parse_update(text, 3)
  assert found.merges == (Merge(1, "one"),)
  assert found.malformed == ("unknown index",)
  found = rmm_text.parse_update(text, 3, first=1)
  assert found.merges == (Merge(0, "one"), Merge(2, "three"))
  assert found.well_formed
  found = rmm_text.parse_update("Merge(0, zero)", 3, first=1)
  assert found.malformed == ("unknown index",)


@pytest.mark.parametrize(
  "line, reason",
  [
    ("Merge(2, x)", "unknown index"),
    ("Merge(-1, x)", "unknown index"),
    ("Merge(two, x)", "unknown index"),
    ("Merge(, x)", "unknown index"),
    ("Merge([0], x)", "unknown index"),
    ("Merge(0.0, x)", "unknown index"),
    ("Merge(" + "9" * 5_000 + ", x)", "unknown index"),
    ("Merge(1, again)", "duplicate index"),
    ("Merge(1, )", "duplicate index"),
    ("Merge(0, )", "no summary"),
    ("Merge(0,)", "no summary"),
    ("Add()", "duplicate add"),
    ("Merge(0)", "not an action"),
    ("Merge()", "not an action"),
    ("Merge(0, cut", "not an action"),
    ("Merge(0, x).", "not an action"),
    ("- Merge(0, x)", "not an action"),
    ("Merge 0, x", "not an action"),
    ("Add", "not an action"),
    ("Add(x)", "not an action"),
    ("Delete(0)", "not an action"),
    ("```", "not an action"),
    ("They have nothing in common.", "not an action"),
    ("Merge(0, a) Merge(1, b)", "two actions in a line"),
    ("Merge(0, a), Add()", "two actions in a line"),
    ("Add(); Merge(0, a)", "two actions in a line"),
  ],
)
def test_malformed_lines_are_left_out(line, reason):
  found = rmm_text.parse_update(f"Add()\nMerge(1, stays)\n{line}", 2)
  assert found.malformed == (reason,) and not found.well_formed
  assert found.add and found.merges == (Merge(1, "stays"),)


def test_an_index_occurs_once_even_without_a_summary():
  found = rmm_text.parse_update("Merge(0, )\nMerge(0, x)", 1)
  assert found == rmm_text.Update(malformed=("no summary", "duplicate index"))


def test_a_merge_over_two_lines_is_none():
  found = rmm_text.parse_update("Merge(0, a\nb)", 1)
  assert found == rmm_text.Update(malformed=("not an action",) * 2)


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_empty(text):
  found = rmm_text.parse_update(text, 3)
  assert found == rmm_text.Update(malformed=("empty",))
  found = rmm_text.parse_citations(text, 3)
  assert found == rmm_text.Cited("", malformed=("empty",))
  assert not found.well_formed


@pytest.mark.parametrize(
  "text, answer, places",
  [
    ("In Bern [2].", "In Bern.", {2}),
    ("In Bern.[0, 2,1]", "In Bern.", {0, 1, 2}),
    ("[1] In Bern", "In Bern", {1}),
    ("In [0][1] Bern [1]", "In Bern", {0, 1}),
    ("In [ 0 ,\n1 ] Bern", "In Bern", {0, 1}),
    ("I cannot tell. [NO_CITE]", "I cannot tell.", set()),
    ("[no_cite]", "", set()),
    ("a [0]\n [1] b\n\n  c [2]", "a\nb\n\n  c", {0, 1, 2}),
    ("She said [sic] so [0].", "She said [sic] so.", {0}),
    ("x[i] = [] [a, b] [2 cats] [0]", "x[i] = [] [a, b] [2 cats]", {0}),
    ("On [2023-05-07] or [7 May] [0", "On [2023-05-07] or [7 May] [0", None),
    ("In Bern.", "In Bern.", None),
  ],
)
def test_citations(text, answer, places):
  found = rmm_text.parse_citations(text, 3)
  assert found.answer == answer
  assert found.places == (places or set())
  assert found.malformed == (() if places is not None else ("no citation",))


@pytest.mark.parametrize(
  "text, places, malformed",
  [
    ("a [3]", set(), ["citation out of range"]),
    ("a [0, 3, 9]", {0}, ["citation out of range"] * 2),
    ("a [01]", set(), ["citation out of range"]),
    ("a [" + "9" * 5_000 + "]", set(), ["citation out of range"]),
    ("a [\u0661]", set(), ["citation out of range"]),
    ("[0] a [NO_CITE]", {0}, ["NO_CITE beside a citation"]),
    ("a [NO_CITE, 0]", {0}, ["NO_CITE beside a citation"]),
    (
      "[NO_CITE] a [3]",
      set(),
      ["citation out of range", "NO_CITE beside a citation"],
    ),
    ("a [NO_CITE][NO_CITE]", set(), []),
    ("a [0-2]", set(), ["not a list of numbers"]),
    ("a [1 and 2] [0]", {0}, ["not a list of numbers"]),
    ("a [Memory 1]", set(), ["not a list of numbers"]),
    ("a [memories 1, 2]", set(), ["not a list of numbers"]),
    ("a [0; 1]", set(), ["not a list of numbers"]),
    ("a [0 1]", set(), ["not a list of numbers"]),
    ("a [1,]", set(), ["not a list of numbers"]),
    ("a [-1]", set(), ["not a list of numbers"]),
    ("a [NO CITE]", set(), ["not a list of numbers"]),
  ],
)
def test_malformed_citations(text, places, malformed):
  found = rmm_text.parse_citations(text, 3)
  assert found == rmm_text.Cited("a", frozenset(places), tuple(malformed))


def test_citations_count_from_first():
  found = rmm_text.parse_citations("a [1, 3]", 3, first=1)
  assert found == rmm_text.Cited("a", frozenset({0, 2}))
  found = rmm_text.parse_citations("a [0]", 3, first=1)
  assert found.malformed == ("citation out of range",)


_pieces = st.sampled_from(
  ["Add()", "Merge(", "0", "1", "7", ", ", ")", "\n", "[", "]", " ", "a", "-"]
  + ["NO_CITE", "NO_TRAIT", "```", '"', "{", "}", ": ", "\ud800", "Memory"]
  + [json.dumps(_GOOD), '{"extracted_memories": [', "]}"]
)
_texts = st.text() | st.lists(_pieces, max_size=25).map("".join)


@hypothesis.given(_texts, st.integers(0, 3), st.integers(0, 1))
@_settings
def test_any_text(text, count, first):
  extraction = rmm_text.parse_extraction(text, _TURNS)
  for topic in extraction.topics:
    assert topic.turns == tuple(sorted(set(topic.turns) & set(_TURNS))) != ()
  assert len({x.summary for x in extraction.topics}) == len(extraction.topics)

  update = rmm_text.parse_update(text, count, first)
  places = [merge.place for merge in update.merges]
  assert len(set(places)) == len(places) and set(places) <= set(range(count))
  # Nothing is lost: a line is an action or has a reason.
  lines = sum(bool(line.strip()) for line in text.split("\n"))
  done = update.add + len(update.merges) + len(update.malformed)
  assert done == max(lines, 1)
  for new in [*extraction.topics, *update.merges]:
    assert new.summary and new.summary == " ".join(new.summary.split())
    new.summary.encode()

  cited = rmm_text.parse_citations(text, count, first)
  assert cited.places <= set(range(count))
  assert not cited.places or cited.answer != text
  # Only marks and white space go.
  if "[" not in text:
    assert cited.answer == text.encode("utf-8", "replace").decode().strip()
  kept = iter(text.encode("utf-8", "replace").decode())
  assert all(character in kept for character in cited.answer)
  cited.answer.encode()

  for found in (extraction, update, cited):
    assert all(isinstance(reason, str) for reason in found.malformed)
    assert found.well_formed == (not found.malformed)


@hypothesis.given(
  st.recursive(
    st.none() | st.booleans() | st.integers(-1, 5) | st.floats() | st.text(),
    lambda inner: (
      st.lists(inner)
      | st.dictionaries(st.sampled_from(["summary", "reference"]), inner)
    ),
    max_leaves=12,
  )
)
@_settings
def test_any_json(value):
  found = _extraction(value)
  # Nothing is lost: an item is a topic or has a reason.
  count = len(value) if isinstance(value, list) else 1
  assert len(found.topics) + len(found.malformed) == count


# One line that can be encoded, as a summary is, and commas and marks in it.
_lines = (
  st.text(min_size=1) | st.text(st.sampled_from("ab ,()[]\"'{}"), min_size=1)
).map(lambda text: " ".join(text.encode("utf-8", "replace").decode().split()))
_summaries = _lines.filter(bool)


@hypothesis.given(
  st.lists(
    st.builds(
      Topic,
      _summaries,
      st.sets(st.sampled_from(_TURNS), min_size=1).map(
        lambda turns: tuple(sorted(turns))
      ),
    ),
    unique_by=lambda topic: topic.summary,
  )
)
@_settings
def test_what_is_extracted_reads_back(topics):
  text = _write_extraction(topics)
  found = rmm_text.parse_extraction(text, _TURNS)
  assert found == rmm_text.Extraction(tuple(topics))


@hypothesis.given(
  st.booleans(),
  st.lists(
    st.builds(Merge, st.integers(0, 4), _summaries),
    unique_by=lambda merge: merge.place,
  ),
  st.integers(0, 1),
)
@_settings
def test_an_update_reads_back(add, merges, first):
  hypothesis.assume(add or merges)
  text = _write_update(add, merges, first)
  found = rmm_text.parse_update(text, 5, first)
  assert found == rmm_text.Update(add, tuple(merges))


@hypothesis.given(
  _lines.map(lambda text: re.sub(r"[][]", "", text).strip()),
  st.frozensets(st.integers(0, 11)),
  st.integers(0, 1),
)
@_settings
def test_citations_read_back(answer, places, first):
  text = _write_citations(answer, places, first)
  found = rmm_text.parse_citations(text, 12, first)
  assert found == rmm_text.Cited(answer, places)


@pytest.mark.parametrize(
  "unit",
  ["[", "[0", "[0]", "a [0] ", " ", "\n", "(", ")", ",", "`", '"', "0", "and "]
  + ["Merge(", "Merge(0, ) ", "Add()", "NO_TRAIT", "[0 ", "[1-", "), ", "no "],
)
def test_long_texts_take_no_longer(unit):
  """100,000 characters: with quadratic patterns this takes minutes."""
  text = unit * (100_000 // len(unit))
  start = time.process_time()
  for wrapped in (text, f"[{text}]", f"Merge(0, {text}", f"``` {text}x"):
    rmm_text.parse_update(wrapped, 3)
    rmm_text.parse_citations(wrapped, 3)
    rmm_text.parse_extraction(wrapped, _TURNS)
  assert time.process_time() - start < 20
