"""Pages with rollouts: safe against what models write, and complete."""

import configparser
import fnmatch
import html
import json
import pathlib
import re

import fake_rollouts
import pytest

from memjax import report_rollouts

_ROOT = pathlib.Path(__file__).resolve().parent.parent


def _data(text):
  (found,) = re.findall(
    r'<script type="application/json" id="rollouts">(.*?)</script>', text, re.S
  )
  return json.loads(found)


class TestSection:
  def test_no_text_can_end_the_data(self):
    text = report_rollouts.section(fake_rollouts.all_kinds())
    script = report_rollouts._script()
    rest = text.replace(script, "")
    assert rest.count("<script") == rest.count("</script>") == 2
    assert "<img" not in rest and "<!--" not in rest
    # And nothing of it is lost.
    example = _data(text)["examples"][0]
    assert example["question"].endswith(fake_rollouts.EVIL)
    for separator in ("\u2028", "\u2029"):
      assert separator not in report_rollouts.section(
        [fake_rollouts.task(after=fake_rollouts.rollout([separator], "", 0.0))]
      )

  def test_a_placeholder_in_a_text_stays(self):
    task = fake_rollouts.task() | {"question": "costs $5, ${script} and $data"}
    found = _data(report_rollouts.section([task]))["examples"][0]
    assert found["question"] == "costs $5, ${script} and $data"

  def test_nothing_recorded_is_said(self):
    assert "No rollouts were recorded" in report_rollouts.section([])

  def test_the_script_has_no_way_to_write_html(self):
    script = report_rollouts._script()
    for way in ("innerHTML", "outerHTML", "insertAdjacent", "document.write"):
      assert way not in script
    for way in ("eval(", "Function(", "fetch(", "import(", "http"):
      assert way not in script


class TestPage:
  def test_a_frame_holds_the_document_and_nothing_else(self):
    shown = report_rollouts.page(fake_rollouts.all_kinds(), "20rem")
    frame = shown._repr_html_()
    (inside,) = re.findall(r'srcdoc="([^"]*)"', frame)
    assert html.unescape(inside) == shown.html
    # No quote, no bracket of the document ends the attribute or the tag.
    assert re.fullmatch(r"<iframe [^<>]*></iframe>", frame)
    assert "height: 20rem" in frame and 'sandbox="allow-scripts"' in frame

  def test_half_a_surrogate_pair_is_no_obstacle(self):
    rollout = fake_rollouts.rollout(["a"], "\ud83d rome", 1.0)
    text = report_rollouts.page([fake_rollouts.task(after=rollout)]).html
    text.encode("utf-8")
    found = _data(text)["examples"][0]["rollouts"][0]["steps"][-1]
    assert found["answer"]["text"].endswith(" rome")

  def test_nothing_to_show_is_refused(self):
    with pytest.raises(ValueError, match="no rollouts.*config.eval.traces"):
      report_rollouts.page([])


def test_what_a_page_is_made_of_is_packaged():
  """An installed memjax has the same files as the repository."""
  setup = configparser.ConfigParser()
  setup.read(_ROOT / "setup.cfg")
  patterns = setup["options.package_data"]["memjax"].split()
  files = [
    path.relative_to(_ROOT / "memjax").as_posix()
    for path in (_ROOT / "memjax").rglob("*")
    if path.suffix in (".html", ".css", ".js")
  ]
  assert {"templates/viewer.js", "templates/viewer.css"} < set(files)
  for name in files:
    assert any(fnmatch.fnmatch(name, pattern) for pattern in patterns), name
