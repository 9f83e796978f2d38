"""Draws the figures of a report, as PNG or as SVG for a page of any colour.

The figures are made without pyplot: nothing global changes, and no display is
looked for.
"""

import io
import re
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.figure
import numpy as np

# Text and axes are drawn in this colour and an SVG then says "currentColor"
# instead, so that it follows the light or dark page around it.
_INK = "#1c2430"
_COLORS = ("#3d7fd0", "#e07b39", "#3f9e6d", "#b25fc4", "#c9504f", "#8a8f98")
_STYLE = {
  "font.family": "sans-serif",
  "font.size": 9,
  "text.color": _INK,
  "axes.edgecolor": _INK,
  "axes.labelcolor": _INK,
  "axes.titlesize": 10,
  "axes.titleweight": "bold",
  "axes.titlelocation": "left",
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.grid": True,
  "axes.prop_cycle": mpl.cycler(color=_COLORS),
  "grid.color": "#8a8f98",
  "grid.alpha": 0.25,
  "xtick.color": _INK,
  "ytick.color": _INK,
  "legend.frameon": False,
  "legend.fontsize": 8,
  # Text stays text; ids do not change from one run to the next.
  "svg.fonttype": "none",
  "svg.hashsalt": "memjax",
}

# Base, trained, and the controls of a report's lengths.
_LENGTH_COLORS = tuple(_COLORS[i] for i in (5, 0, 4, 2, 1, 3))

# title, key, label of the y axis
_PANELS = (
  ("Reward in training", "rollout/reward", "mean reward"),
  ("Evaluation", "eval/", "accuracy"),
  ("Distance to the reference", "train/kl", "KL, nats per token"),
  ("Clipped", "train/clip_frac", "fraction of tokens"),
  ("Truncated", "rollout/truncated", "fraction of responses"),
  ("Malformed", "rollout/malformed", "fraction of responses"),
  ("Entropy", "train/entropy", "nats per token"),
)


def rows(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
  """Returns the rows of the final table, label -> scale -> cell."""
  controls = {"empty_memory": {}, "oracle": {}}
  controls |= summary.get("controls") or {}
  judge = summary.get("judge") or {}
  corrected = judge.get("corrected") or {}
  return {
    "base": summary.get("base") or {},
    "trained": summary.get("trained") or {},
    **{
      f"control: {name.replace('_', ' ')}": cells or {}
      for name, cells in controls.items()
    },
    **{
      f"recall of what is needed, {side}": cells
      for side, cells in (summary.get("recall") or {}).items()
      if cells
    },
    **{
      f"{side}, corrected for the judge": corrected[side]
      for side in ("base", "trained")
      if side in corrected
    },
    **{
      f"{side}, by {judge['verifier']}": cells
      for side, cells in (judge.get("verified") or {}).items()
    },
  }


def scales(summary: Mapping[str, Any]) -> list[str]:
  """Returns the columns of the final table, shortest text first."""
  names = {scale for cells in rows(summary).values() for scale in cells}
  return sorted(names, key=scale_key)


def scale_key(scale: str) -> tuple[float, str]:
  """Orders "x2" before "x16", and names without a number last."""
  match = re.search(r"\d+(\.\d+)?", scale)
  return (float(match.group()) if match else float("inf"), scale)


def curves(records: Sequence[Mapping[str, Any]]) -> matplotlib.figure.Figure:
  """Draws one panel per metric of `_PANELS` that the records hold."""
  panels = []
  for title, key, label in _PANELS:
    keys = _eval_keys(records) if key == "eval/" else [key]
    series = {k: _series(records, k) for k in keys}
    series = {k: xy for k, xy in series.items() if len(xy[0])}
    if series:
      panels.append((title, label, series))
  with mpl.rc_context(_STYLE):
    if not panels:
      figure = matplotlib.figure.Figure(figsize=(4, 1))
      figure.text(0.5, 0.5, "no metrics were recorded", ha="center")
      return figure
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = matplotlib.figure.Figure(
      figsize=(3.6 * columns, 2.7 * lines), layout="constrained"
    )
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)  # inches
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, (title, label, series) in zip(axes, panels):
      ax.set(title=title, xlabel="step", ylabel=label)
      for key, (step, value) in series.items():
        _draw_series(ax, records, key, step, value)
      if len(series) > 1:
        ax.legend()
    for ax in axes[len(panels) :]:
      ax.remove()
    return figure


def lengths(summary: Mapping[str, Any]) -> matplotlib.figure.Figure:
  """Draws accuracy over the length of the text, with the intervals."""
  names = scales(summary)
  with mpl.rc_context(_STYLE):
    figure = matplotlib.figure.Figure(figsize=(5.4, 2.9), layout="constrained")
    ax = figure.subplots()
    ax.set(ylabel="accuracy", ylim=(-0.03, 1.03))
    ax.set_xlabel("length of the text, in multiples of the trained one")
    ax.set_xticks(range(len(names)), names)
    for i, (label, cells) in enumerate(rows(summary).items()):
      points = [
        (x, cell["accuracy"], cell.get("low"), cell.get("high"))
        for x, cell in enumerate(map(cells.get, names))
        if cell
      ]
      if not points:
        continue
      x, y, low, high = np.array(points, dtype=float).T
      is_control = label.startswith("control")
      ax.errorbar(
        x + 0.04 * (i - 1.5),  # beside each other where intervals overlap
        y,
        # An interval without the estimate inside would be a negative bar.
        yerr=np.maximum(0, np.nan_to_num([y - low, high - y])),
        label=label,
        marker="o",
        markersize=4,
        capsize=2,
        color=_LENGTH_COLORS[i % len(_LENGTH_COLORS)],
        linestyle="--" if is_control else "-",
        linewidth=1 if is_control else 1.6,
      )
    if ax.has_data():
      figure.legend(loc="outside right upper")
    return figure


def to_png(figure: matplotlib.figure.Figure) -> bytes:
  """Renders a figure with Agg on white."""
  file = io.BytesIO()
  with mpl.rc_context(_STYLE):
    figure.savefig(file, format="png", dpi=150, facecolor="white")
  return file.getvalue()


def to_svg(figure: matplotlib.figure.Figure) -> str:
  """Renders a figure as an <svg> element for HTML, in the page's text colour.

  HTML knows the namespaces of SVG, so the addresses that name them go, and
  with them every "http" of the file. So does the metadata, which has a date.
  """
  file = io.StringIO()
  with mpl.rc_context(_STYLE):
    figure.savefig(file, format="svg", transparent=True)
  text = file.getvalue()
  text = text[text.index("<svg") :]
  head, body = text.split(">", 1)
  # Without a size it fills the width it is given, by its viewBox.
  head = re.sub(r'\s(?:xmlns(?::\w+)?|width|height)="[^"]*"', "", head)
  body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
  return f'{head} role="img">{body}'.replace(_INK, "currentColor")


def _series(
  records: Sequence[Mapping[str, Any]], key: str
) -> tuple[np.ndarray, np.ndarray]:
  """Collects (step, value) of one key; "nan" and "inf" may be strings."""
  points = [(r["step"], float(r[key])) for r in records if key in r]
  step, value = np.array(points, dtype=float).reshape(-1, 2).T
  return step, np.where(np.isfinite(value), value, np.nan)


def _eval_keys(records: Sequence[Mapping[str, Any]]) -> list[str]:
  """Picks the accuracies of the evaluations, or all but counts and bounds."""
  keys = {key for r in records for key in r if key.startswith("eval/")}
  accuracies = {key for key in keys if key.endswith("accuracy")}
  others = {k for k in keys if k.split("/")[-1] not in ("n", "low", "high")}
  return sorted(accuracies or others, key=scale_key)


def _draw_series(
  ax: Any,
  records: Sequence[Mapping[str, Any]],
  key: str,
  step: np.ndarray,
  value: np.ndarray,
) -> None:
  """Draws a curve: an evaluation with its interval, a long one smoothed."""
  if key.startswith("eval/"):
    label = key.removeprefix("eval/").removesuffix("accuracy").strip("/")
    (line,) = ax.plot(step, value, marker="o", markersize=3, label=label)
    folder = key.rpartition("/")[0]
    low, high = (_series(records, f"{folder}/{k}") for k in ("low", "high"))
    if len(low[0]) == len(high[0]) == len(step):
      ax.fill_between(
        step, low[1], high[1], alpha=0.15, color=line.get_color(), linewidth=0
      )
    return
  width = len(step) // 20
  if width < 3:
    ax.plot(step, value, marker="o" if len(step) < 20 else "", markersize=3)
    return
  # A centred mean over a twentieth of the run, over fewer steps at its ends.
  ones = np.ones(width)
  total = np.convolve(np.nan_to_num(value), ones, "same")
  count = np.convolve(np.isfinite(value), ones, "same")
  mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
  (line,) = ax.plot(step, value, linewidth=0.7, alpha=0.35)
  ax.plot(step, mean, color=line.get_color(), linewidth=1.6)
