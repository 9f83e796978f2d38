"""Shows recorded rollouts: in the report, and in notebooks.

`traces` makes the records; a run's rollouts.json is a list of two kinds:

  a question as it was answered before and after training (either optional),
  {"id": int, "question": str, "answers": [str], "before": ROLLOUT,
    "after": ROLLOUT}
  ROLLOUT = {"turns": [TURN], "reward": float, **ANSWER,
    "start": [str], entries held beforehand}                      (optional)

  and a context of the last iteration of training, with all its rollouts,
  {"id", "iteration", "question", "answers", "start", "chunks": [str],
    "group": [{"turns": [TURN], "rewards": REWARDS, "asked": [{"question",
    "answers", "reward", "rewards": REWARDS, **ANSWER}]}]}
  REWARDS = {operation: {"terms": {name: float}, "reward", "adv"}}

  TURN = {"chunk": str (of a group, in "chunks"), "response": str, "memory":
    str, "truncated": bool, "malformed": bool,
    "entries": [[id, str]] of agents with a bank,                 (optional)
    "changes": ["+entry: right" or wrong or missed],              (optional)
    "calls": [CALL]}                                              (optional)
  ANSWER = {"answer": str, "response": str, "listed": [str], what it was shown,
    "calls": [CALL]}                                     (all but one optional)
  CALL = {"op", "prompt", "prompt_tokens": int, "tokens": [str], "logp":
    [float], "truncated", "malformed", "adv": float (optional),
    "prompt_end" and "prompt_left_out": int, of a prompt that was cut}

A page without the network or a framework: the records are JSON beside one
script, which makes text nodes of them. The page's policy lets no other script
run, so a text from a model can do nothing even where escaping fails.
`page` shows rollouts in a notebook:

  report_rollouts.page(json.loads((workdir / "rollouts.json").read_text()))
"""

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import json
import string
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from memjax import report_viewer


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
    """A frame that shares nothing with the notebook but the screen."""
    return (
      f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(self.html)}" '
      f'style="width: 100%; height: {html.escape(self.height)}; border: 0">'
      "</iframe>"
    )


def page(rollouts: Sequence[Mapping[str, Any]], height: str = "44rem") -> Page:
  """Rollouts for a notebook.

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
  return Page(document("rollouts", section(rollouts)), height)


def section(rollouts: Sequence[Mapping[str, Any]]) -> str:
  """The viewer with its records, for the body of a `document`."""
  if not rollouts:
    return '<p class="muted">No rollouts were recorded.</p>'
  text = json.dumps(report_viewer.view(rollouts), allow_nan=False)
  # As JSON's own escapes: nothing that ends or opens a tag is left.
  for sign in "<>&":
    text = text.replace(sign, f"\\u{ord(sign):04x}")
  return string.Template(template("viewer.html")).substitute(
    data=text, script=_script()
  )


def document(title: str, body: str) -> str:
  """A whole page that loads nothing and runs the viewer's script alone."""
  digest = hashlib.sha256(_script().encode()).digest()
  text = string.Template(template("page.html")).substitute(
    title=html.escape(title),
    policy=base64.b64encode(digest).decode(),
    css=template("report.css") + template("viewer.css"),
    body=body,
  )
  # A sampled text can hold half of a surrogate pair, which UTF-8 cannot.
  return text.encode("utf-8", "replace").decode("utf-8")


def _script() -> str:
  return template("viewer_parts.js") + template("viewer.js")


def template(name: str) -> str:
  """A file of memjax/templates."""
  folder = importlib.resources.files("memjax") / "templates"
  return (folder / name).read_text(encoding="utf-8")
