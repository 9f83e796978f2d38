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


def _write(path, text):
  path.write_bytes(text.encode())
  return path


# Bytes and characters differ, and white space stands wherever it may.
_RECORDS = [
  {"a": "é\u2028" * 9},
  {"b": [1, {"c": "}]"}], "d": '\\"'},
  {},
  {"e": "😀"},
]


@pytest.mark.parametrize("piece", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_items_are_read_one_by_one_and_again(
  tmp_path, monkeypatch, piece, indent
):
  monkeypatch.setattr(files, "_PIECE", piece)
  text = json.dumps(_RECORDS, ensure_ascii=False, indent=indent)
  path = _write(tmp_path / "a.json", f"\n {text}\r\n")
  found = list(files.json_items(path))
  assert [record for _, record, _ in found] == _RECORDS
  assert [place for place, _, _ in found] == [
    f"{path}, record {number}" for number in (1, 2, 3, 4)
  ]
  for _, record, span in reversed(found):
    assert files.item_at(path, span) == record


def test_no_more_is_read_than_is_asked_for(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "_PIECE", 64)
  rows = ", ".join(json.dumps({"a": "x" * 20}) for _ in range(50))
  path = _write(tmp_path / "a.json", f"[{rows}, oops")
  items = files.json_items(path)
  assert all(next(items)[1] == {"a": "x" * 20} for _ in range(50))
  with pytest.raises(ValueError, match="record 51: found 'oops'"):
    next(items)


def test_a_record_without_an_end_is_not_looked_for_for_ever(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(files, "_PIECE", 8)
  monkeypatch.setattr(files, "_LONGEST", 100)
  path = _write(tmp_path / "a.json", '[{"a": ' + "\n" * 10_000)
  read = []
  original = files._Source._more
  monkeypatch.setattr(
    files._Source, "_more", lambda self: (read.append(1), original(self))
  )
  with pytest.raises(ValueError, match="record 1 is not JSON"):
    list(files.json_items(path))
  assert len(read) < 10


@pytest.mark.parametrize(
  "content, message",
  [
    (b"", "found '', expected a list of records"),
    (b'{"a": 1}', "a list of records"),
    (b"[]", r"record 1: found '\]', expected an object"),
    (b"[1]", "record 1: found '1]', expected an object"),
    (b"[{}, [1]]", "record 2: found '.1..', expected an object"),
    (b"[{},]", r"record 2: found '\]', expected an object"),
    (b"[{} {}]", r"behind record 1: found '\{}\]', expected ',' or '\]'"),
    (b"[{}", "behind record 1: found '', expected ',' or"),
    (b"[{}] x", "behind record 1: found 'x', expected the end of the file"),
    (b'[{"a": }]', "record 1 is not JSON"),
    (b'[{}, {"a": "x', "record 2 is not JSON"),
    (b'[{"a": ' + b"[" * 100_000, "record 1 is not JSON"),
    (b'[{"a": "\xff"}]', "is not UTF-8"),
  ],
)
def test_a_list_that_cannot_be_read_is_refused(tmp_path, content, message):
  (tmp_path / "a.json").write_bytes(content)
  with pytest.raises(ValueError, match=message):
    list(files.json_items(tmp_path / "a.json"))


def test_a_missing_list_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no such file"):
    list(files.json_items(tmp_path / "a.json"))


def test_a_file_that_changed_is_refused(tmp_path):
  path = _write(tmp_path / "a.json", '[{"a": 1}, {"b": 2}]')
  *_, (_, _, span) = files.json_items(path)
  path.write_text('[{"b": 2}]')
  with pytest.raises(ValueError, match="was changed or removed during"):
    files.item_at(path, span)
  path.unlink()
  with pytest.raises(ValueError, match="was changed or removed during"):
    files.item_at(path, span)


# FIPS 180-2's "abc".
_ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_digests(tmp_path, caplog):
  path = _write(tmp_path / "a.json", "abc")
  assert files.digests(path, "", path, published=(_ABC,)) == {"a.json": _ABC}
  assert not caplog.records
  assert files.digests(path) == {"a.json": _ABC} and not caplog.records
  assert files.digests("") == {}


def test_another_file_than_the_published_one_is_told(tmp_path, caplog):
  path = _write(tmp_path / "a.json", "abd")
  found = files.digests(path, published=(_ABC,))
  (record,) = caplog.records
  said = record.getMessage()
  assert f"{path}: not the file that papers' numbers are of" in said
  assert found["a.json"] in said and _ABC in said


def test_two_files_of_one_name_go_by_their_paths(tmp_path):
  for folder in "ab":
    (tmp_path / folder).mkdir()
  first = _write(tmp_path / "a" / "x.json", "abc")
  second = _write(tmp_path / "b" / "x.json", "abd")
  found = files.digests(first, second)
  assert list(found) == [str(first), str(second)]
