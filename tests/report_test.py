import base64
import hashlib
import html.parser
import io
import re

import fake_rollouts
import numpy as np
import pytest
import rich.console

from memjax import report
from memjax import report_figures
from memjax import report_rows


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


def _html(tmp_path, summary=None, records=None, rollouts=None):
  path = report.write_html(
    tmp_path,
    _summary() if summary is None else summary,
    _records() if records is None else records,
    fake_rollouts.all_kinds() if rollouts is None else rollouts,
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
    tags = _Tags(text).found
    for tag, attributes in tags:
      assert tag not in ("iframe", "object", "base", "img")
      for name, value in attributes.items():
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href"):
          assert value.startswith(("#", "data:"))
    # The records and one script, whose hash the page's policy names.
    assert [x.get("type") for tag, x in tags if tag == "script"] == [
      *("application/json", None)
    ]
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest())
    assert f"script-src 'sha256-{digest.decode()}';" in text

  def test_texts_are_escaped(self, tmp_path):
    summary = _summary() | {"config": fake_rollouts.EVIL}
    summary["breakdown"] = {"base": {fake_rollouts.EVIL: _cell(0.2, n=64)}}
    text = _html(tmp_path, summary)
    _Tags(text)
    escaped = "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;&lt;!--"
    # Title, heading, and the kind of task.
    assert text.count(escaped) == 3
    assert text.count("<script") == text.count("</script>") == 2

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
    assert "memory gain" not in text

  def test_memory_gain_is_a_row(self, tmp_path):
    gain = {
      "x1": {"gain": 0.75, "low": 0.5, "high": 1.0},
      "x16": {"gain": None, "reason": "oracle - none is <0"},
    }
    text = _html(tmp_path, _summary() | {"memory_gain": gain})
    row = text[text.index(">memory gain<") :]
    row = row[: row.index("</tr>")]
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == [
      '<b>0.750</b> <span class="interval">[0.500, 1.000]</span>',
      "<b>-</b>",
      '<span class="none">none: oracle - none is &lt;0</span>',
    ]

  def test_many_sets_are_rows(self, tmp_path):
    for count in (6, 7):
      sets = {f"recall_{2**i}": _cell(0.5) for i in range(count)}
      text = _html(tmp_path, {"trained": sets, "controls": {"oracle": sets}})
      table = text[text.index("<table") : text.index("</table>")]
      heads = re.findall(r'<th scope="(\w+)">(.*?)</th>', table)
      columns = [name for scope, name in heads if scope == "col"]
      wanted = list(sets) if count == 6 else ["trained", "control: oracle"]
      assert columns == wanted
      assert table.count("<b>0.500</b>") == 2 * count

  def test_same_inputs_give_the_same_bytes(self, tmp_path):
    text = _html(tmp_path)
    assert text == _html(tmp_path)
    assert "dc:date" not in text

  def test_almost_nothing_is_a_page(self, tmp_path):
    text = _html(tmp_path, summary={}, records=[], rollouts=[])
    assert "No rollouts were recorded" in text
    # Nothing was trained, and nothing differs in length.
    assert "Training" not in text and "By length" not in text
    _Tags(text)


class TestTable:
  def _print(self, width, summary=None):
    console = rich.console.Console(width=width, file=io.StringIO())
    report.print_table(summary or _summary(), console)
    return console.file.getvalue()

  def test_wide(self):
    lines = self._print(160).splitlines()
    header = next(line for line in lines if line.split()[:1] == ["x1"])
    assert header.split() == ["x1", "x2", "x16"]
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
    assert "(agent - empty memory) / (oracle - empty memory)" in text
    lines = self._print(160, summary).splitlines()
    row = next(line for line in lines if line.strip().startswith("memory gain"))
    assert row.split()[2:] == ["0.750", "[0.500,", "1.000]", "-", "none"]

  def test_many_sets_are_rows(self):
    sets = {f"recall_{2**i}": _cell(0.5) for i in range(7)}
    summary = {"trained": sets, "controls": {"oracle": sets}}
    lines = [x.split() for x in self._print(160, summary).splitlines()]
    assert ["trained", "control:", "oracle"] in lines
    rows = [x for x in lines if x and x[0].startswith("recall_")]
    assert [x[0] for x in rows] == list(sets)
    assert all(x[1] == x[4] == "0.500" for x in rows)

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


class TestLengths:
  def _lines(self, axes):
    """label -> [(x, y)] of what is drawn, to the nearest power of two."""
    found = {}
    for line in axes.get_legend_handles_labels()[0]:
      x, y = line.lines[0].get_data()
      found[line.get_label()] = [
        *zip((2 ** np.round(np.log2(x))).tolist(), y.tolist())
      ]
    return found

  def test_scales_have_a_line_for_each_agent(self):
    (ax,) = report_figures.lengths(_summary()).axes
    found = self._lines(ax)
    assert list(found) == ["base", "trained", "control: empty memory"]
    assert found["trained"] == [(1.0, 0.953), (16.0, 0.75)]
    assert ax.get_xscale() == "log"

  def test_intervals_are_drawn(self):
    (ax,) = report_figures.lengths(_summary()).axes
    trained = ax.get_legend_handles_labels()[0][1]
    (bars,) = trained.lines[2]
    low_high = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(low_high, [[0.933, 0.963], [0.73, 0.76]])

  def test_tasks_have_a_line_each(self):
    tasks = ("babi_qa1", "babi_qa10", *(f"task{i}" for i in range(6)))
    sets = {
      f"{name}_{length}": _cell(0.1 * i + 0.05 * j)
      for i, name in enumerate(tasks)
      for j, length in enumerate((4096, 2**20))
    }
    figure = report_figures.lengths({"base": sets, "trained": {}})
    assert [len(self._lines(ax)) for ax in figure.axes] == [6, 2]
    found = self._lines(figure.axes[0]) | self._lines(figure.axes[1])
    assert sorted(found) == sorted(tasks)
    assert found["babi_qa10"] == [(4096.0, 0.1), (2.0**20, 0.1 + 0.05)]
    labels = [x.get_text() for x in figure.axes[0].get_xticklabels()]
    assert labels == ["4K", "1M"]
    assert "(base)" in figure.axes[0].get_xlabel()

  @pytest.mark.parametrize("names", [(), ("eval",), ("x1",), ("a_1", "b_1")])
  def test_one_length_is_no_figure(self, names):
    sets = {name: _cell(0.5) for name in names}
    assert report_figures.lengths({"trained": sets}) is None

  def test_shorter_texts_come_first_and_tasks_stay_together(self):
    names = ["eval", "x16", "x2", "b_4096", "b_512", "a_qa1_4096"]
    assert sorted(names, key=report_rows.scale_key) == [
      *("a_qa1_4096", "b_512", "b_4096", "x2", "x16", "eval")
    ]
