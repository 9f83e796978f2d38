"""Conversations in files."""

import json

import pytest

from memjax import conversation


def test_sessions_of_messages(tmp_path):
  path = tmp_path / "a.jsonl"
  rows = [
    {"role": "A", "content": "x\ny", "timestamp": "2024-01-02T10:00"},
    {"speaker": "B", "text": "z", "date": "2024-01-02T11:00"},
    {"role": "A", "content": "w", "timestamp": "2024-01-03"},
  ]
  path.write_text("\n".join(map(json.dumps, rows)))
  assert conversation.read_sessions(path) == [
    ("2024-01-02", "2024-01-02T10:00", "A: x y\nB: z"),
    ("2024-01-03", "2024-01-03", "A: w"),
  ]


@pytest.mark.parametrize(
  "text,match",
  [
    ("", "not JSON"),
    ("[]", "found none"),
    ("[1]", "message 1: expected an object"),
    ('[{"role": "A"}]', "message 1: expected a text in one of content"),
    ('[{"content": "x"}]', "expected a text in one of role"),
    ('{"role": "A", "content": "x"}\n{', "line 2: not JSON"),
  ],
)
def test_what_is_no_conversation(tmp_path, text, match):
  path = tmp_path / "a.json"
  path.write_text(text)
  with pytest.raises(ValueError, match=match):
    conversation.read_sessions(path)
