"""The report in a browser: what a reader sees, and what no text can do."""

import html
import re

import browser
import fake_rollouts
import pytest

from memjax import report
from memjax import report_rollouts

pytestmark = browser.needed

# Run in a copy of the page after its own script.
_PRESS = """<script>
  const seen = [];
  const press = (key, target = document.body) => {
    target.dispatchEvent(
      new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
    seen.push(location.hash.match(/\\d+/g).join("-"));
  };
  %s
  document.body.dataset.seen = seen.join(" ");
</script></body>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp("browser")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
  summary = {"config": f"name {fake_rollouts.EVIL}"}
  path = tmp_path_factory.mktemp("page")
  return report.write_html(path, summary, [], fake_rollouts.all_kinds())


def _texts(dom, css_class):
  """The visible text of each element of a class; of none inside another."""
  found = re.findall(
    rf'<(\w+)[^>]*class="{css_class}"[^>]*>(.*?)</\1>', dom, re.S
  )
  return [html.unescape(re.sub(r"<[^>]*>", "", text)) for _, text in found]


def _visible(shown):
  """The document without its records and its script, which name all places."""
  return re.sub(r"<script.*?</script>", "", shown.dom, flags=re.DOTALL)


def _clean(shown):
  """The same, of a page that kept to itself."""
  assert shown.console == []
  assert shown.requests == []
  # Nothing that a text asked for has become an element.
  tags = set(re.findall(r"<(\w+)", shown.dom.split("</head>")[1]))
  assert not tags & {"img", "iframe", "object", "link"}
  assert shown.dom.count("<script") == 2
  return _visible(shown)


def test_a_page_begins_at_its_first_turn(file, folder):
  dom = _clean(browser.show(file, folder))
  assert _texts(dom, "asked") == [f"What is the key? {fake_rollouts.EVIL}"]
  assert "Turn 1 of 3" in dom
  examples = re.findall(r'<button[^>]*class="example"[^>]*>', dom)
  assert len(examples) == 3
  assert ["aria-current" in x for x in examples] == [True, False, False]
  listed = dom.split("<nav")[1].split("</nav>")[0]
  marks = re.findall(r"mark-(\w+)|(\d of \d right)", listed)
  assert ["".join(x) for x in marks] == [
    *("wrong", "right", "right", "3 of 6 right")
  ]
  # No advantage, no choice.
  assert re.findall(r'data-key="color-(\w+)"', dom) == ["logp"]


def test_an_address_leads_to_a_turn(file, folder):
  place = "#example=3&rollout=2&turn=2&color=push"
  dom = _clean(browser.show(file, folder, place))
  assert "Turn 2 of 2" in dom
  tokens = re.findall(r'<span class="(token[^"]*)"[^>]*>([^<]*)</span>', dom)
  assert [html.unescape(text) for _, text in tokens] == [
    *("kim", "=", "oslo↵\n", "▫", fake_rollouts.EVIL)
  ]
  # The first was certain; a positive advantage pushes up.
  assert {kind for kind, _ in tokens} == {"token tint-plus"}
  shares = re.findall(r"--share: ([\d.]+)%", dom)
  assert shares[0] == "0" and float(shares[3]) > float(shares[1]) > 0
  title = 'token 2 of 4 "=": log-prob −0.50, p 0.61, A +0.25, push +0.10'
  assert title in html.unescape(dom)
  # The bank before and after.
  assert _texts(dom, "entry entry-changed") == ["~ 0kim=bern", "~ 0kim=oslo"]
  assert _texts(dom, "entry entry-deleted") == ["− 2old one"]
  assert _texts(dom, "entry entry-added") == [f"+ 3new {fake_rollouts.EVIL}"]
  assert "<del>bern</del>" in dom and "<ins>oslo</ins>" in dom
  # The group's rewards, with this rollout marked.
  assert "Rewards of the group: extract" in dom
  (row,) = re.findall(r'<tr aria-current="true">(.*?)</tr>', dom, re.S)[:1]
  cells = re.findall(r"<td[^>]*>([^<]*)</td>", row)
  assert cells == ["0.50", "−0.10", "0.40", "+0.25"]


def test_an_address_that_leads_nowhere_leads_to_the_nearest_place(file, folder):
  place = "#example=99&rollout=x&turn=-4&color=constructor"
  dom = _clean(browser.show(file, folder, place))
  assert "Example 41" in dom and "Turn 1 of 2" in dom


def test_keys_step_and_texts_stay_texts(file, folder, tmp_path):
  """Through every step of every rollout, which must not say anything."""
  keys = """
    for (let example = 0; example < 3; example += 1) {
      for (let rollout = 0; rollout < 3; rollout += 1) {
        for (let turn = 0; turn < 5; turn += 1) press("ArrowRight");
        press("l");
        for (let turn = 0; turn < 5; turn += 1) press("ArrowLeft");
      }
      press("j");
    }
    press("h"); press("ArrowRight");
    press("ArrowRight", document.querySelector(".token"));
    press("k");
    document.querySelectorAll(".step")[1].click();
    press("ArrowLeft"); press("ArrowLeft");
  """
  text = file.read_text(encoding="utf-8").replace("</body>", _PRESS % keys)
  text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
  copy = tmp_path / "copy.html"
  copy.write_text(text, encoding="utf-8")
  shown = browser.show(copy, folder)
  assert shown.console == [] and "<img" not in shown.dom.split("</head>")[1]
  seen = re.search(r'data-seen="([^"]*)"', shown.dom).group(1).split()
  assert seen[:7] == [
    *("1-1-2", "1-1-3", "1-1-4", "1-1-4", "1-1-4", "1-2-4", "1-2-3")
  ]
  # Past the last example, back by a rollout and on by a turn; a token's arrows
  # are its own; the example before begins at its beginning.
  assert seen[-7:] == [
    *("3-3-1", "3-2-1", "3-2-2", "3-2-2", "2-1-1", "2-1-1", "2-1-1")
  ]
  assert len(set(seen)) == 3 + 4 + 2 + 3 * 4


def test_no_other_script_runs(file, folder, tmp_path):
  """Where escaping failed, the page's policy would still hold."""
  copy = tmp_path / "copy.html"
  text = file.read_text(encoding="utf-8")
  evil = "<script>document.body.dataset.evil = 'ran'</script></body>"
  copy.write_text(text.replace("</body>", evil), encoding="utf-8")
  shown = browser.show(copy, folder)
  assert "data-evil" not in shown.dom
  assert "violates" in " ".join(shown.console)


def test_a_notebook_shows_it_in_a_frame(folder, tmp_path):
  shown = report_rollouts.page(fake_rollouts.all_kinds())
  file = tmp_path / "frame.html"
  file.write_text(
    "<!doctype html><meta charset=utf-8>" + shown._repr_html_(),
    encoding="utf-8",
  )
  found = browser.show(file, folder)
  assert found.console == [] and found.requests == []
