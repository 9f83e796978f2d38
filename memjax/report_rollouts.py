"""Lays out a recorded task as HTML: what each call made of the memory.

  rollout = {"id": int, "question": str, "answers": [str],
    "before": ROLLOUT, "after": ROLLOUT}                     (either optional)
  ROLLOUT = {"turns": [{"chunk": str, "response": str, "memory": str,
    "truncated": bool, "malformed": bool,
    "changes": ["+entry: right" or wrong or missed]}],            (optional)
    "answer": str, "response": str (optional), "reward": float,
    "listed": [str], what the answer was shown}                   (optional)

The memories before and after training stand side by side, chunk by chunk. The
report holds such tasks; `page` shows them in a notebook:

  report_rollouts.page(json.loads((workdir / "rollouts.json").read_text()))
"""

import dataclasses
import difflib
import html
import importlib.resources
import itertools
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

# A rollout counts as right from this reward on: rewards here are 0 or 1, plus
# or minus small terms for format.
RIGHT_REWARD = 0.5

# Longer chunks are folded, in characters.
_FOLD_CHARS = 1200

# One word or one other sign, with the white space after it.
_WORD = re.compile(r"(?:\w+|[^\w\s])\s*")

_SIDES = {"before": "Before training", "after": "After training"}


@dataclasses.dataclass(frozen=True)
class Page:
  """A document that a notebook shows where it is the value of a cell.

  Attributes:
    html: the whole document; it loads nothing from elsewhere.
    height: of the frame that it is shown in, in CSS units.
  """

  html: str
  height: str

  def _repr_html_(self) -> str:
    """A frame without scripts, so that no style gets out or in."""
    return (
      f'<iframe sandbox="" srcdoc="{html.escape(self.html)}" '
      f'style="width: 100%; height: {html.escape(self.height)}; border: 0">'
      "</iframe>"
    )


def page(rollouts: Sequence[Mapping[str, Any]], height: str = "36rem") -> Page:
  """Tasks for a notebook, the first of them unfolded.

  Args:
    rollouts: as a run's rollouts.json has them, or made from the traces of
      `evaluate.answer`.
    height: of the frame, in CSS units.

  Raises:
    ValueError: there is no rollout.
  """
  if not rollouts:
    raise ValueError(
      "page got no rollouts: train with config.eval.traces of at least 1, or "
      "pass traces to evaluate.answer"
    )
  templates = importlib.resources.files("memjax") / "templates"
  css = (templates / "report.css").read_text(encoding="utf-8")
  body = "\n".join(to_html(x, is_open=i == 0) for i, x in enumerate(rollouts))
  text = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    f"<style>{css}</style></head><body>{body}</body></html>"
  )
  # A sampled text can hold half of a surrogate pair, which UTF-8 cannot.
  return Page(text.encode("utf-8", "replace").decode("utf-8"), height)


def _answers_pattern(answers: Sequence[str]) -> re.Pattern | None:
  """Matches a gold answer as whole words, in any case; None without one."""
  texts = sorted({a.strip() for a in answers if a.strip()}, key=len)
  if not texts:
    return None
  options = "|".join(map(re.escape, reversed(texts)))
  return re.compile(rf"(?<!\w)(?:{options})(?!\w)", re.IGNORECASE)


def _mark_html(text: str, pattern: re.Pattern | None) -> str:
  """Escapes a text and marks what the pattern matches."""
  if pattern is None:
    return html.escape(text)
  parts, end = [], 0
  for match in pattern.finditer(text):
    parts.append(html.escape(text[end : match.start()]))
    parts.append(f"<mark>{html.escape(match.group())}</mark>")
    end = match.end()
  return "".join(parts) + html.escape(text[end:])


def _diff_html(old: str, new: str) -> str:
  """Escapes the new text with added words in <ins> and removed ones in <del>.

  Words and signs are compared, not the white space between them. Worked
  example: from "a b" to "a, c b" gives "a<ins>, c</ins> b".
  """
  old_words = _WORD.findall(old)
  new_words = _WORD.findall(new)
  matcher = difflib.SequenceMatcher(
    None,
    [word.rstrip() for word in old_words],
    [word.rstrip() for word in new_words],
    autojunk=False,
  )
  diff = ""
  for op, i, i_end, j, j_end in matcher.get_opcodes():
    removed, added = "".join(old_words[i:i_end]), "".join(new_words[j:j_end])
    if op == "equal":
      diff += html.escape(added)
      continue
    if removed:
      diff += "" if diff[-1:].isspace() else " "
      text = removed.rstrip()
      space = removed[len(text) :] or (" " if added else "")
      diff += f"<del>{html.escape(text)}</del>{space}"
    if added:
      text = added.rstrip()
      diff += f"<ins>{html.escape(text)}</ins>{added[len(text) :]}"
  return diff.strip()


def _badge(kind: str, text: str) -> str:
  return f'<span class="badge {kind}">{html.escape(text)}</span>'


def _verdict(rollout: Mapping[str, Any]) -> str:
  """Says "right" or "wrong", which is also the CSS class."""
  return "right" if rollout["reward"] >= RIGHT_REWARD else "wrong"


def to_html(rollout: Mapping[str, Any], is_open: bool) -> str:
  """Lays out one task: chunks in order, the memories side by side."""
  sides = [side for side in _SIDES if rollout.get(side)]
  pattern = _answers_pattern(rollout["answers"])
  task, badges = html.escape(str(rollout["id"])), []
  for side in sides:
    verdict = _verdict(rollout[side])
    badges.append(_badge(verdict, f"{side}: {verdict}"))
  lines = [
    f'<details class="rollout" id="task-{task}"{" open" if is_open else ""}>',
    f'<summary><span class="id">Task {task}</span> '
    f'<span class="question">{html.escape(rollout["question"])}</span> '
    f'<span class="badges">{" ".join(badges)}</span></summary>',
    '<p class="gold">Gold answer: '
    + " <i>or</i> ".join(f"<b>{html.escape(a)}</b>" for a in rollout["answers"])
    + "</p>",
    f'<div class="sides sides-{len(sides)}">',
  ]
  lines += [f"<h4>{_SIDES[side]}</h4>" for side in sides]
  turns = [rollout[side]["turns"] for side in sides]
  memories = ["" for _ in sides]
  for i, row in enumerate(itertools.zip_longest(*turns)):
    chunks = [turn["chunk"] for turn in row if turn]
    # The text is that of the task; it differs only if the sides were cut
    # into chunks differently.
    if len(set(chunks)) == 1:
      lines.append(_chunk_html(i, chunks[0], pattern, "both"))
    else:
      lines += [
        _chunk_html(i, turn["chunk"] if turn else "", pattern, "one")
        for turn in row
      ]
    for j, turn in enumerate(row):
      lines.append(_turn_html(sides[j], turn, memories[j], pattern))
      memories[j] = turn["memory"] if turn else memories[j]
  for side in sides:
    verdict = _verdict(rollout[side])
    answer = rollout[side]["answer"]
    shown = html.escape(answer) if answer.strip() else "<i>(none)</i>"
    # What was written beside the answer, such as the entries it used.
    whole = rollout[side].get("response", "").strip()
    if whole and whole != answer.strip():
      shown += f'<div class="muted">written: {html.escape(whole)}</div>'
    shown += _listed_html(rollout[side].get("listed") or (), pattern)
    lines.append(
      f'<div class="final {verdict}"><h5>{_side_html(side)}Answer</h5>'
      f'<div class="text">{shown}</div>'
      f"<p>{verdict}, reward {rollout[side]['reward']:.3g}</p></div>"
    )
  return "\n".join([*lines, "</div></details>"])


def _listed_html(listed: Sequence[str], pattern: re.Pattern | None) -> str:
  """The entries that an answer was shown, by the numbers it cites them by."""
  if not listed:
    return ""
  items = "".join(f"<li>{_mark_html(text, pattern)}</li>" for text in listed)
  return f'<div class="muted">shown: <ol>{items}</ol></div>'


def _chunk_html(
  i: int, chunk: str, pattern: re.Pattern | None, width: str
) -> str:
  """Lays out the text of a chunk, folded where it is long."""
  if not chunk.strip():
    return f'<div class="chunk {width}"><i>No text in turn {i + 1}</i></div>'
  is_open = " open" if len(chunk) <= _FOLD_CHARS else ""
  found = pattern is not None and pattern.search(chunk)
  badge = " " + _badge("found", "holds the answer") if found else ""
  return (
    f'<details class="chunk {width}"{is_open}><summary>Chunk {i + 1} '
    f'<span class="muted">{len(chunk):,} characters</span>{badge}</summary>'
    f'<div class="text">{_mark_html(chunk, pattern)}</div></details>'
  )


def _side_html(side: str) -> str:
  """Names the side; shown on narrow screens, which have one column."""
  return f'<span class="side">{_SIDES[side]}: </span>'


def _turn_html(
  side: str,
  turn: Mapping[str, Any] | None,
  previous: str,
  pattern: re.Pattern | None,
) -> str:
  """Lays out what one call made of the memory, with its response."""
  if turn is None:
    return '<div class="turn"></div>'
  memory, response = turn["memory"], turn["response"]
  badges = [
    _badge("flag", flag)
    for flag in ("truncated", "malformed")
    if turn.get(flag)
  ]
  if memory == previous:
    badges.append(_badge("plain", "unchanged"))
  if pattern is not None and pattern.search(memory):
    badges.append(_badge("found", "holds the answer"))
  shown = _diff_html(previous, memory) or '<i class="muted">(empty)</i>'
  if response.strip() == memory.strip():
    raw = '<p class="muted">The response is the memory.</p>'
  else:
    raw = (
      f'<details class="response"><summary>Response</summary>'
      f'<div class="text">{html.escape(response)}</div></details>'
    )
  return (
    f'<div class="turn"><h5>{_side_html(side)}Memory {" ".join(badges)}</h5>'
    f'<div class="text memory">{shown}</div>{_changes_html(turn)}{raw}</div>'
  )


def _changes_html(turn: Mapping[str, Any]) -> str:
  """What was changed, and whether it should have been; or nothing."""
  if "changes" not in turn:
    return ""
  if not turn["changes"]:
    return '<p class="muted">Nothing was to be changed, and nothing was.</p>'
  kinds = {"right": "right", "wrong": "wrong", "missed": "flag"}
  badges = [
    _badge(kinds.get(change.rsplit(": ", 1)[-1], "plain"), change)
    for change in turn["changes"]
  ]
  return f'<p class="changes">{" ".join(badges)}</p>'
