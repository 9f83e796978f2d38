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

from memjax import report_rows

# Text and axes are drawn in this colour and an SVG then says "currentColor"
# instead, so that it follows the light or dark page around it.
_INK = "#1c2430"
_COLORS = ("#3d7fd0", "#e07b39", "#3f9e6d", "#b25fc4", "#c9504f", "#8a8f98")
_BROWN = "#8c6a4a"
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

# Of the lines of lengths: base, trained, controls; or tasks.
_LENGTH_COLORS = (*(_COLORS[i] for i in (5, 0, 4, 2, 1, 3)), _BROWN)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Tasks that are drawn into one panel.
_PANEL = 6

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


def lengths(summary: Mapping[str, Any]) -> matplotlib.figure.Figure | None:
  """Draws accuracy over the length of the text, with the intervals.

  Sets are named by length ("x4": base, trained and controls are the lines) or
  by task and length ("recall_4096": each task is a line, of the trained policy
  or of whichever was evaluated). None where no two sets differ in length.
  """
  found = [
    report_rows.NUMBERED.fullmatch(x) for x in report_rows.scales(summary)
  ]
  found = [match for match in found if match]
  stems: dict[str, dict[float, str]] = {}
  for match in found:
    names = stems.setdefault(match["stem"], {})
    names[float(match["number"])] = match.string
  if max(map(len, stems.values()), default=0) < 2:
    return None
  with mpl.rc_context(_STYLE):
    if set(stems) == {"x"}:
      return _lengths_by_agent(summary, stems["x"])
    return _lengths_by_task(summary, stems)


def _lengths_by_agent(
  summary: Mapping[str, Any], names: Mapping[float, str]
) -> matplotlib.figure.Figure:
  """One line for each row of the table; sets by length."""
  figure = matplotlib.figure.Figure(figsize=(6.6, 3.1), layout="constrained")
  ax = figure.subplots()
  drawn = {
    label: cells for label, cells in report_rows.rows(summary).items() if cells
  }
  for i, (label, cells) in enumerate(drawn.items()):
    # Beside each other where intervals overlap.
    shift = 2 ** (0.03 * (i - (len(drawn) - 1) / 2))
    points = [
      (number * shift, cells[name])
      for number, name in names.items()
      if cells.get(name)
    ]
    control = label.startswith("control")
    _draw_points(ax, points, label, i, control)
  _finish_lengths(
    figure,
    [ax],
    list(names),
    "length of the text, in multiples of the trained one",
  )
  return figure


def _lengths_by_task(
  summary: Mapping[str, Any], stems: Mapping[str, Mapping[float, str]]
) -> matplotlib.figure.Figure:
  """One line for each task, a few to a panel; sets by task and length."""
  side = "trained" if summary.get("trained") else "base"
  tasks = list(stems)
  panels = [tasks[i : i + _PANEL] for i in range(0, len(tasks), _PANEL)]
  columns = min(len(panels), 2)
  lines = -(-len(panels) // columns)
  figure = matplotlib.figure.Figure(
    figsize=(6.2 * columns, 3.1 * lines), layout="constrained"
  )
  figure.get_layout_engine().set(w_pad=0.15, h_pad=0.1)  # inches
  axes = figure.subplots(lines, columns, squeeze=False).ravel()
  for ax, part in zip(axes, panels):
    for i, stem in enumerate(part):
      cells = {n: summary[side].get(x) for n, x in stems[stem].items()}
      points = [(n * 2 ** (0.04 * i), x) for n, x in cells.items() if x]
      _draw_points(ax, points, stem.strip("_"), i, False)
  for ax in axes[len(panels) :]:
    ax.remove()
  numbers = sorted({n for found in stems.values() for n in found})
  _finish_lengths(
    figure, axes[: len(panels)], numbers, f"length of the text ({side})"
  )
  return figure


def _draw_points(
  ax: Any,
  points: Sequence[tuple[float, Mapping[str, Any]]],
  label: str,
  number: int,
  control: bool,
) -> None:
  """Draws one line of cells with their intervals."""
  if not points:
    return
  x, y, low, high = np.array(
    [(x, c["accuracy"], c.get("low"), c.get("high")) for x, c in points], float
  ).T
  ax.errorbar(
    x,
    y,
    # An interval without the estimate inside would be a negative bar.
    yerr=np.maximum(0, np.nan_to_num([y - low, high - y])),
    label=label,
    marker=_MARKERS[number % len(_MARKERS)],
    markersize=4,
    capsize=2,
    color=_LENGTH_COLORS[number % len(_LENGTH_COLORS)],
    linestyle="--" if control else "-",
    linewidth=1 if control else 1.6,
  )


def _finish_lengths(
  figure: matplotlib.figure.Figure,
  axes: Sequence[Any],
  numbers: Sequence[float],
  xlabel: str,
) -> None:
  """Axes that double from mark to mark, and a legend beside each."""
  for ax in axes:
    ax.set_xscale("log", base=2)
    ax.set_xticks(numbers, [_short(n) for n in numbers])
    ax.minorticks_off()
    ax.set(ylabel="accuracy", ylim=(-0.03, 1.03), xlabel=xlabel)
    if ax.has_data():
      ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _short(number: float) -> str:
  """Writes 4096 as "4K" and 2 ** 22 as "4M", others as they are."""
  for unit, size in (("M", 2**20), ("K", 2**10)):
    if number >= size and number % size == 0:
      return f"{number / size:g}{unit}"
  return f"{number:.12g}"


def sweep(
  key: str, arms: Mapping[float, Mapping[str, Any]], reference: str
) -> matplotlib.figure.Figure:
  """Draws the accuracy of arms over the value of a key, with the intervals.

  Args:
    key: of the config.
    arms: by value, as `compare.summarize` has them.
    reference: name of the arm that is the config's own.
  """
  with mpl.rc_context(_STYLE):
    figure = matplotlib.figure.Figure(figsize=(5.4, 2.9), layout="constrained")
    ax = figure.subplots()
    ax.set(xlabel=f"config.{key}", ylabel="accuracy", ylim=(-0.03, 1.03))
    ax.set_title(f"reference: {reference}")
    values = sorted(arms)
    if values[0] > 0 and values[-1] >= 10 * values[0]:
      ax.set_xscale("log")
      ax.minorticks_off()
    ax.set_xticks(values, [f"{x:g}" for x in values])
    for side, color in (("base", _COLORS[5]), ("trained", _COLORS[0])):
      points = [
        (x, cell["accuracy"], cell["low"], cell["high"])
        for x in values
        if (cell := arms[x][side])
      ]
      if points:
        x, y, low, high = np.array(points, dtype=float).T
        ax.errorbar(
          x,
          y,
          yerr=np.maximum(0, [y - low, high - y]),
          label=side,
          marker="o",
          markersize=4,
          capsize=2,
          color=color,
        )
    lost = [x for x in values if arms[x]["diverged"]]
    if lost:
      ax.plot(
        lost,
        [0.0] * len(lost),
        "x",
        color=_COLORS[4],
        label="diverged, some or all seeds",
      )
    figure.legend(loc="outside right upper")
    return figure


def differences(
  arms: Mapping[str, Mapping[str, Any]], reference: str
) -> matplotlib.figure.Figure | None:
  """Draws each arm's difference from the reference, with its interval.

  Colour says what the verdict does, so that an interval which the table's
  correction leaves undecided is not seen as a win.

  Returns:
    None where nothing was compared.
  """
  shown = [(x, y["difference"]) for x, y in arms.items() if y["difference"]]
  if not shown:
    return None
  colors = {"better": _COLORS[2], "worse": _COLORS[4]}
  with mpl.rc_context(_STYLE):
    figure = matplotlib.figure.Figure(
      figsize=(5.4, 0.9 + 0.26 * len(shown)), layout="constrained"
    )
    ax = figure.subplots()
    for place, (_, cell) in enumerate(shown):
      low, value, high = cell["low"], cell["difference"], cell["high"]
      ax.errorbar(
        value,
        place,
        xerr=np.maximum(0, [[value - low], [high - value]]),
        marker="o",
        markersize=4,
        capsize=2,
        color=colors.get(cell["verdict"], _COLORS[5]),
      )
    ax.axvline(0, linewidth=0.8, color=_INK)
    ax.set_yticks(range(len(shown)), [name for name, _ in shown])
    ax.invert_yaxis()
    ax.set_xlabel(f"accuracy - that of {reference}")
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
  set_of = lambda key: (key.split("/") + [""])[1]
  return sorted(
    accuracies or others, key=lambda k: (report_rows.scale_key(set_of(k)), k)
  )


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
