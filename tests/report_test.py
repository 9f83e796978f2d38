import html.parser
import io
import re

import numpy as np
import rich.console

from memjax import report
from memjax import report_figures

_EVIL = "<script>alert('x' & \"y\")</script>"


def _cell(accuracy, n=512, **more):
  return {
    "accuracy": accuracy,
    "low": max(0.0, accuracy - 0.02),
    "high": min(1.0, accuracy + 0.01),
    "n": n,
    **more,
  }


def _summary():
  return {
    "config": "tiny <recall>",
    "seconds": 3725.4,
    "seed": 17,
    "device": "NVIDIA H100",
    "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    "train_chunks": 4,
    "base": {"x1": _cell(0.125), "x2": _cell(0.1)},
    "trained": {"x1": _cell(0.953, sampled=0.9), "x16": _cell(0.75, n=128)},
    "controls": {"empty_memory": {"x1": _cell(0.11)}},
    "breakdown": {
      "base": {"one hop": _cell(0.2, n=64)},
      "trained": {"one hop": _cell(0.99, n=64), "two hops": _cell(0.9, n=60)},
    },
  }


def _records():
  records = []
  for step in range(200):
    record = {
      "step": step,
      "rollout/reward": step / 200,
      "train/kl": 0.01 * step if step != 50 else "nan",
      "rollout/truncated": 0.5,
    }
    records.append(record)
    if step % 50 == 0:
      records.append({"step": step, "eval/x1/accuracy": step / 200})
  return records


def _turn(memory, response=None, **flags):
  return {
    "chunk": f"Chunk text. The key of Ada is 73. {_EVIL}",
    "response": memory if response is None else response,
    "memory": memory,
    "truncated": False,
    "malformed": False,
    **flags,
  }


def _rollouts():
  before = {
    "turns": [_turn("", "no idea", truncated=True), _turn("Ada has a key")],
    "answer": "12",
    "reward": 0.0,
  }
  after = {
    "turns": [_turn("Ada 73"), _turn(f"Ada 73, Bob 1 {_EVIL}")],
    "answer": "73",
    "reward": 1.0,
  }
  question = {"question": f"What is the key? {_EVIL}", "answers": ["73", _EVIL]}
  return [
    {"id": 3, **question, "before": before, "after": after},
    {"id": 41, **question, "after": after},
    {"id": 59, **question, "before": before},
  ]


def _html(tmp_path, summary=None, records=None, rollouts=None):
  path = report.write_html(
    tmp_path,
    _summary() if summary is None else summary,
    _records() if records is None else records,
    _rollouts() if rollouts is None else rollouts,
  )
  assert path == tmp_path / "report.html"
  return path.read_text(encoding="utf-8")


class _Tags(html.parser.HTMLParser):
  """Collects tags and attributes, and checks that tags close in order."""

  VOID = ("meta", "link", "img", "br")

  def __init__(self, text):
    super().__init__()
    self.found, self.stack = [], []
    self.feed(text)
    self.close()
    assert self.stack == []

  def handle_starttag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))
    if tag not in self.VOID:
      self.stack.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.found.append((tag, dict(attrs)))

  def handle_endtag(self, tag):
    assert self.stack.pop() == tag


class TestHtml:
  def test_loads_nothing(self, tmp_path):
    text = _html(tmp_path)
    assert "http://" not in text and "https://" not in text
    assert "@import" not in text
    for target in re.findall(r"url\(([^)]*)\)", text):
      assert target.startswith("#")
    for tag, attributes in _Tags(text).found:
      assert tag not in ("script", "link", "iframe", "object", "base")
      for name, value in attributes.items():
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href"):
          assert value.startswith(("#", "data:"))

  def test_texts_are_escaped(self, tmp_path):
    text = _html(tmp_path)
    assert "<script" not in text
    # Question in 3 rollouts, chunk (once per turn) and so on.
    escaped = "&lt;script&gt;alert(&#x27;x&#x27; &amp; &quot;y&quot;)"
    assert text.count(escaped) >= 3 + 6
    assert "tiny &lt;recall&gt;" in text

  def test_a_placeholder_in_a_text_stays(self, tmp_path):
    rollouts = _rollouts()
    rollouts[0]["question"] = "costs $5, ${css} and $table"
    assert "costs $5, ${css} and $table" in _html(tmp_path, rollouts=rollouts)

  def test_every_rollout_with_its_sides(self, tmp_path):
    text = _html(tmp_path)
    parts = text.split('<details class="rollout"')[1:]
    assert [re.search(r"Task (\d+)", p).group(1) for p in parts] == [
      "3",
      "41",
      "59",
    ]
    both, after, before = parts
    for part, has_before, has_after in (
      (both, True, True),
      (after, False, True),
      (before, True, False),
    ):
      assert ("before: wrong" in part) == has_before
      assert ("after: right" in part) == has_after
      assert ("no idea" in part) == has_before
      assert ("wrong, reward 0<" in part) == has_before
      assert ("right, reward 1<" in part) == has_after
      assert ("truncated" in part) == has_before
      assert "malformed" not in part
      # A memory is compared with the one of its side before the chunk.
      assert (">Ada 73<ins>, Bob 1 " in part) == has_after
      # The sides share the text of a chunk.
      assert part.count("The key of Ada is <mark>73</mark>") == 2

  def test_sides_of_different_lengths(self, tmp_path):
    rollouts = _rollouts()[:1]
    rollouts[0]["before"]["turns"].pop()
    rollouts[0]["after"]["turns"][0]["chunk"] = "another text"
    text = _html(tmp_path, rollouts=rollouts)
    assert text.count("another text") == 1
    assert text.count('<div class="turn">') == 4
    _Tags(text)

  def test_table_and_facts(self, tmp_path):
    text = _html(tmp_path)
    assert text.index(">x1<") < text.index(">x2<") < text.index(">x16<")
    for part in (
      "<b>0.953</b>",
      "[0.933, 0.963]",
      "(sampled 0.90)",
      "control: oracle",
      "1:02:05",
      "jax 0.10.2, flax 0.12.8",
      "two hops (n = 60)",
    ):
      assert part in text
    oracle = text[text.index("control: oracle") :]
    assert oracle[: oracle.index("</tr>")].count("<b>-</b>") == 3

  def test_same_inputs_give_the_same_bytes(self, tmp_path):
    text = _html(tmp_path)
    assert text == _html(tmp_path)
    assert "dc:date" not in text

  def test_almost_nothing_is_a_page(self, tmp_path):
    text = _html(tmp_path, summary={}, records=[], rollouts=[])
    assert "No rollouts were recorded" in text
    assert "no metrics were recorded" in text
    _Tags(text)

  def test_half_a_surrogate_pair_is_written(self, tmp_path):
    rollouts = _rollouts()
    rollouts[0]["after"]["answer"] = "\ud83d"
    _html(tmp_path, rollouts=rollouts)


class TestTable:
  def _print(self, width):
    console = rich.console.Console(width=width, file=io.StringIO())
    report.print_table(_summary(), console)
    return console.file.getvalue()

  def test_wide(self):
    lines = self._print(160).splitlines()
    header = next(line for line in lines if line.split()[:1] == ["agent"])
    assert header.split() == ["agent", "x1", "x2", "x16"]
    rows = {
      name: next(line for line in lines if line.strip().startswith(name))
      for name in ("base", "trained", "control: empty", "control: oracle")
    }
    assert "0.953 [0.933, 0.963] (sampled 0.90)" in rows["trained"]
    assert rows["trained"].split()[-3:] == ["0.750", "[0.730,", "0.760]"]
    assert rows["base"].split()[-1] == "-"
    assert rows["control: oracle"].split()[2:] == ["-", "-", "-"]
    text = " ".join(" ".join(lines).split())
    assert "n = x1 512, x2 512, x16 128 tasks" in text
    assert "x1 = 4 chunks" in text

  def test_documents_and_memory_gain_are_told(self):
    summary = _summary()
    assert "documents" not in report._caption(summary)
    summary["trained"]["x1"]["documents"] = 40
    summary["trained"]["x16"]["documents"] = 128  # one a task
    summary["memory_gain"] = {
      "x1": {"gain": 0.75, "low": 0.5, "high": 1.0},
      "x16": {"gain": None, "reason": "oracle - none is 0"},
    }
    text = report._caption(summary)
    assert "; x1: 40 documents; [95 % interval]" in text
    assert "memory gain x1: 0.750 [0.500, 1.000]" in text
    assert "memory gain x16: none, as oracle - none is 0" in text

  def test_files_are_told(self):
    summary = _summary()
    assert "SHA-256" not in report._caption({**summary, "files": {}})
    summary["files"] = {"a.json": "0123456789abcdef", "b.json": "f" * 64}
    text = report._caption(summary)
    assert "SHA-256 of the data: a.json 0123456789ab, b.json ffffffffffff" in (
      text
    )

  def test_narrow_keeps_the_numbers(self):
    text = self._print(80)
    for part in ("0.953", "[0.933, 0.963]", "(sampled 0.90)"):
      assert part in text

  def test_not_a_terminal(self, capsys):
    report.print_table(_summary())
    assert "0.953 [0.933, 0.963] (sampled 0.90)" in capsys.readouterr().out


class TestCurves:
  def test_is_a_png(self, tmp_path):
    path = report.write_curves(tmp_path, _records())
    assert path == tmp_path / "curves.png"
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert data[-8:-4] == b"IEND"

  def test_panels_are_those_of_the_keys(self):
    axes = report_figures.curves(_records()).axes
    assert [ax.get_title(loc="left") for ax in axes] == [
      "Reward in training",
      "Evaluation",
      "Distance to the reference",
      "Truncated",
    ]
    for ax in axes:
      assert ax.get_xlabel() == "step" and ax.get_ylabel()
    # A smoothed curve of a constant is the constant, also at the ends.
    for line in axes[3].lines:
      np.testing.assert_allclose(line.get_ydata(), 0.5, rtol=1e-12)
    step, value = axes[2].lines[0].get_data()
    assert len(step) == 200 and np.isnan(value).sum() == 1
    assert np.isfinite(axes[2].lines[1].get_ydata()).all()

  def test_no_records(self, tmp_path):
    data = report.write_curves(tmp_path, []).read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
