import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from memjax.memory import json_ops
from memjax.memory.json_ops import Op

_settings = hypothesis.settings(max_examples=300, deadline=None)

_KNOWN = ("1", "2", "7")
_FACTS = {
  "memory_list": [
    {
      "key": "home",
      "memory_type": "UserMemory",
      "value": "Ada lives in {Bern}.",
      "tags": ["home", "city"],
    },
    {"value": "Ada has a cat."},
  ],
  "summary": "Ada.",
}
_PLAN = {
  "operations": [
    {"id": 1, "op": "DEL"},
    {"id": 2, "op": "NONE"},
    {"id": 3, "op": "ADD", "value": 'A {brace} and a "quote"'},
    {"id": 7, "operation": "update", "key": "k", "content": "new"},
  ]
}
_MANAGED = {
  "memory": [
    {"id": "1", "text": "old", "event": "NONE"},
    {"id": "2", "text": "both", "event": "UPDATE", "old_memory": "one"},
    {"id": "7", "text": "gone", "event": "DELETE"},
    {"id": "8", "text": "fresh", "event": "ADD"},
  ]
}


def _ops(items, known=_KNOWN, **kwargs):
  return json_ops.parse_operations(
    json.dumps({"operations": items}), known, **kwargs
  )


def test_facts():
  parsed = json_ops.parse_memory_list(json.dumps(_FACTS))
  assert parsed.well_formed and not parsed.empty and not parsed.ops
  assert parsed.facts == (
    json_ops.Fact(
      "Ada lives in {Bern}.", "home", "UserMemory", ("home", "city")
    ),
    json_ops.Fact("Ada has a cat."),
  )


def test_mem_factory_operations():
  parsed = json_ops.parse_operations(json.dumps(_PLAN), _KNOWN)
  assert parsed.well_formed and not parsed.facts
  assert parsed.ops == (
    Op("delete", "1", ""),
    Op("noop", "2", ""),
    Op("add", None, 'A {brace} and a "quote"'),
    Op("update", "7", "new"),
  )


def test_memory_r1_operations():
  parsed = json_ops.parse_operations(json.dumps(_MANAGED), (1, 2, 7))
  assert parsed.well_formed
  assert parsed.ops == (
    Op("noop", "1", ""),
    Op("update", "2", "both"),
    Op("delete", "7", ""),
    Op("add", None, "fresh"),
  )


@pytest.mark.parametrize(
  "form",
  [
    "```json\n%s\n```",
    "Here {as you asked} it is: {\n%s\nDone {}.",
    'First {"thought": "a {brace"}, then %s',
    '{"result": %s}',
    "[1, %s]",
    '{"operations": "none", "memory_list": "none"} %s',
    '{"operations": [1], "memory_list": [1]}\nNo, rather: %s',
    '%s {"operations": [{"op": "ADD", "text": "cut',
    '%s as opposed to {"operations": null, "memory_list": 0}',
  ],
)
def test_json_is_found_anywhere(form):
  for indent in (None, 2):
    text = form % json.dumps(_PLAN, indent=indent)
    want = json_ops.parse_operations(json.dumps(_PLAN), _KNOWN)
    assert json_ops.parse_operations(text, _KNOWN) == want
    text = form % json.dumps(_FACTS, indent=indent)
    want = json_ops.parse_memory_list(json.dumps(_FACTS))
    assert json_ops.parse_memory_list(text) == want


def test_braces_in_a_text_are_not_an_object():
  """A text that quotes an empty plan does not overrule the plan it is in."""
  inner = {"op": "ADD", "text": 'say {"operations": []}'}
  assert _ops([inner]).ops == (Op("add", None, 'say {"operations": []}'),)
  nested = {"op": "ADD", "text": "x", "operations": []}
  assert len(_ops([nested]).ops) == 1


@pytest.mark.parametrize(
  "text, reason",
  [
    ("", "empty"),
    (" \n\t", "empty"),
    ("nothing to do", "no JSON object"),
    ("5", "no JSON object"),
    ("null", "no JSON object"),
    ('"operations"', "no JSON object"),
    ("[1, 2]", "no JSON object"),
    ('{"operations": [}', "no JSON object"),
    ('{"operations": [{"op": "ADD"', "no JSON object"),
    ("{" * 5_000, "no JSON object"),
    ('{"operations": ' + "[" * 50_000, "no JSON object"),
    ('{"operations": ' + "9" * 5_000 + "}", "no JSON object"),
    ("{}", "missing list"),
    ('[{"op": "ADD", "text": "x"}]', "missing list"),
    ('{"operations": {}}', "not a list"),
    ('{"operations": null}', "not a list"),
    ('{"operations": 5}', "not a list"),
    ('{"memory": "text"}', "not a list"),
  ],
)
def test_no_list(text, reason):
  want = json_ops.Parsed(malformed=(reason,))
  assert json_ops.parse_operations(text, _KNOWN) == want
  text = text.replace("operations", "memory_list")
  text = text.replace('"memory"', '"memory_list"')
  assert json_ops.parse_memory_list(text) == want
  assert want.empty and not want.well_formed


@pytest.mark.parametrize(
  "items, reason",
  [
    ([{"op": "UPDATE", "id": 9, "text": "x"}], "unknown id"),
    ([{"op": "DELETE", "id": "x"}], "unknown id"),
    ([{"op": "NONE", "id": 9}], "unknown id"),
    ([{"op": "UPDATE", "text": "x"}], "missing id"),
    ([{"op": "DEL"}], "missing id"),
    ([{"op": "DEL", "id": None}], "missing id"),
    ([{"op": "DEL", "id": True}], "missing id"),
    ([{"op": "DEL", "id": 1.0}], "missing id"),
    ([{"op": "DEL", "id": [1]}], "missing id"),
    ([{"op": "ADD"}], "missing text"),
    ([{"op": "ADD", "text": " \n"}], "missing text"),
    ([{"op": "ADD", "text": 5}], "missing text"),
    ([{"op": "UPDATE", "id": 1}], "missing text"),
    ([{"op": "MERGE", "id": 1}], "unknown op"),
    ([{"id": 1, "text": "x"}], "unknown op"),
    ([{"op": ["ADD"], "text": "x"}], "unknown op"),
    (["ADD"], "not an object"),
    ([None], "not an object"),
    ([[{"op": "ADD", "text": "x"}]], "not an object"),
  ],
)
def test_malformed_operations_are_left_out(items, reason):
  good = {"op": "ADD", "text": "stays"}
  parsed = _ops([*items, good])
  assert parsed.malformed == (reason,)
  assert parsed.ops == (Op("add", None, "stays"),)
  assert _ops(items).empty


def test_an_id_occurs_once():
  first, again = {"op": "DEL", "id": 1}, {"op": "UPDATE", "id": "1", "text": ""}
  assert _ops([first, again]).ops == (Op("delete", "1", ""),)
  assert _ops([first, again]).malformed == ("duplicate id",)
  # Also where the first mention could not be used.
  assert _ops([again, first]).malformed == ("missing text", "duplicate id")
  # An addition's id is not looked at.
  add = {"op": "ADD", "id": 1, "text": "x"}
  assert [op.kind for op in _ops([add, add, first]).ops] == [
    "add",
    "add",
    "delete",
  ]
  none = {"op": "NOOP"}
  assert _ops([none, none]).ops == (Op("noop", None, ""),) * 2


def test_malformed_facts_are_left_out():
  items = [5, None, {"key": "k"}, {"value": 3}, {"value": " "}, {"value": "a"}]
  items.append({"value": "b", "tags": "x", "key": 7, "memory_type": None})
  items.append({"value": "c", "tags": [1, "t", None, " ", ["u"]]})
  parsed = json_ops.parse_memory_list(json.dumps({"memory_list": items}))
  assert parsed.facts == (
    json_ops.Fact("a"),
    json_ops.Fact("b"),
    json_ops.Fact("c", tags=("t",)),
  )
  assert parsed.malformed == ("not an object",) * 2 + ("missing text",) * 3


def test_an_empty_list_is_well_formed_but_empty():
  for parsed in (
    json_ops.parse_memory_list('{"memory_list": []}'),
    json_ops.parse_operations('{"operations": []}', _KNOWN),
    json_ops.parse_operations('{"memory": []}', _KNOWN),
  ):
    assert parsed.well_formed and parsed.empty
  assert not _ops([{"op": "NONE", "id": 1}]).empty


def test_texts_are_one_line_and_can_be_encoded():
  (op,) = _ops([{"op": "ADD", "text": " a\n9: b\u2028c\ud800 "}]).ops
  assert op.text == "a 9: b c?"


def test_candidates():
  """MemFactory's updater: the numbers after the bank's are new memories."""
  items = [
    {"id": 1, "op": "DEL"},
    {"id": 3, "op": "ADD"},
    {"id": 4, "op": "UPDATE", "value": "merged"},
    {"id": 5, "op": "NONE"},
    {"id": 3, "op": "ADD"},
    {"id": 6, "op": "DEL"},
  ]
  shown = {"3": "third", "4": "fourth", "5": "fifth", "6": "sixth"}
  parsed = _ops(items, ("1", "2"), candidates=shown)
  assert parsed.ops == (
    Op("delete", "1", ""),
    Op("add", None, "third"),
    Op("add", None, "merged"),
    Op("noop", None, ""),
  )
  assert parsed.malformed == ("duplicate id", "unknown id")
  with pytest.raises(ValueError, match="'1'.*also in known_ids"):
    _ops([], ("1",), candidates={"1": "x"})


def _check(text):
  """What holds of every text; the number of list items it was parsed from."""
  facts = json_ops.parse_memory_list(text)
  parsed = json_ops.parse_operations(text, _KNOWN)
  assert not facts.ops and not parsed.facts
  ids = [op.id for op in parsed.ops if op.id is not None]
  assert len(set(ids)) == len(ids) and set(ids) <= set(_KNOWN)
  for op in parsed.ops:
    assert op.kind in ("add", "update", "delete", "noop")
    assert bool(op.text) == (op.kind in ("add", "update"))
    assert op.id is None if op.kind == "add" else True
    assert op.id is not None or op.kind in ("add", "noop")
  for new in [*parsed.ops, *facts.facts]:
    assert new.text == " ".join(new.text.split())
    new.text.encode()
  for found in (facts, parsed):
    assert all(isinstance(reason, str) for reason in found.malformed)
    assert found.well_formed == (not found.malformed)
  return len(parsed.ops) + len(parsed.malformed), len(facts.facts) + len(
    facts.malformed
  )


@hypothesis.given(st.text())
@_settings
def test_any_text(text):
  _check(text)


_values = st.recursive(
  st.none()
  | st.booleans()
  | st.integers(-1, 9)
  | st.floats()
  | st.sampled_from(["ADD", "DEL", "UPDATE", "NONE", "1", "2", "text", ""])
  | st.text(),
  lambda inner: (
    st.lists(inner)
    | st.dictionaries(
      st.sampled_from(["id", "op", "event", "text", "value", "tags", "memory"]),
      inner,
    )
  ),
  max_leaves=12,
)


@hypothesis.given(_values)
@_settings
def test_any_json(value):
  _check(json.dumps(value))
  for ascii in (True, False):
    text = json.dumps(
      {"operations": value, "memory_list": value}, ensure_ascii=ascii
    )
    # Nothing is lost: an item is an operation or has a reason.
    count = len(value) if isinstance(value, list) else 1
    assert _check(text) == (count, count)


def test_mutated_outputs():
  """20,000 valid outputs with some characters cut, copied or replaced."""
  rng = np.random.default_rng(0)
  valid = [json.dumps(x) for x in (_FACTS, _PLAN, _MANAGED)]
  valid += [f"```json\n{json.dumps(_PLAN, indent=1)}\n```"]
  marks = [
    *'{}[]",:\\ \n0',
    "null",
    "\ud800",
    "{}",
    "[]",
    "1e999",
    "NaN",
    "DEL",
  ]
  broken = 0
  for case in range(20_000):
    text = valid[case % len(valid)]
    for _ in range(rng.integers(1, 4)):
      start, length = rng.integers(0, len(text) + 1), rng.integers(0, 5)
      part = (
        "",
        marks[rng.integers(len(marks))],
        text[: rng.integers(0, len(text) + 1)],
      )[rng.integers(3) if case % 5 == 0 else rng.integers(2)]
      text = text[:start] + part + text[start + length :]
    _check(text)
    broken += not json_ops.parse_operations(text, _KNOWN).well_formed
  # The cases are neither all broken nor all harmless.
  assert 5_000 < broken < 19_000
