import functools
import json

import pytest

from memjax.envs import files

_READERS = {".json": files.json_list, ".jsonl": files.json_lines}


def _read(path, readers=_READERS):
  return list(files.records(path, readers))


def test_each_record_has_its_place(tmp_path):
  rows = [{"a": 1}, {"b": [2]}]
  (tmp_path / "a.json").write_text(json.dumps(rows))
  (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
  for name, word in (("a.json", "record"), ("a.jsonl", "line")):
    path = tmp_path / name
    places = [f"{path}, {word} {number}" for number in (1, 2)]
    assert _read(path) == list(zip(places, rows))


def test_blank_lines_may_be_passed_over_and_count(tmp_path):
  path = tmp_path / "a.jsonl"
  path.write_text('\n{"a": 1}\n \n{"a": 2}\n\n')
  lines = functools.partial(files.json_lines, skip_blank=True)
  assert _read(path, {".jsonl": lines}) == [
    (f"{path}, line 2", {"a": 1}),
    (f"{path}, line 4", {"a": 2}),
  ]
  with pytest.raises(ValueError, match="line 1 is not JSON"):
    _read(path)


@pytest.mark.parametrize("separator", ["\u2028", "\u0085", "\x0c", "\r"])
def test_lines_end_at_line_feeds_alone(tmp_path, separator):
  record = {"context": f"one{separator}two"}
  # U+2028 and U+0085 may stand in JSON as they are, the others escaped.
  line = json.dumps(record, ensure_ascii=False)
  path = tmp_path / "a.jsonl"
  path.write_bytes(f"{line}\r\n{line}\n".encode())
  assert [found for _, found in _read(path)] == [record] * 2


@pytest.mark.parametrize(
  "name, content, message",
  [
    ("a.json", b"", "is empty"),
    ("a.jsonl", b"", "is empty"),
    ("a.json", b"[]", "is empty"),
    ("a.jsonl", b"\n", "is empty"),
    ("a.json", b"{}", "holds a JSON dict, expected a list"),
    ("a.json", b"[{", "is not JSON"),
    ("a.json", b"[" * 100_000, "is not JSON"),
    ("a.json", b'{"a": 1}\n{"a": 2}\n', "is not JSON.*is called .jsonl"),
    ("a.json", b"[{}, [1]]", "record 2: expected an object, found list"),
    ("a.jsonl", b"[1]", "line 1: expected an object, found list"),
    ("a.jsonl", b"{}\n{]\n", "line 2 is not JSON"),
    ("a.json", b"\xff\xfe", "is not UTF-8"),
    ("a.csv", b"x", "unknown kind of file; expected one of .json, .jsonl"),
  ],
)
def test_a_file_that_cannot_be_read_is_refused(
  tmp_path, name, content, message
):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    _read(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no such file"):
    _read(tmp_path / "a.json")
