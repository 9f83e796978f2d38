"""The second table of a comparison: what stands behind each accuracy.

One row for each arm (and set): how far another seed may be off, what the same
policies score from other memories (`controls`), and the memory gain.
"""

from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from memjax import contrast

TITLE = "what stands behind the accuracy"
_SAID = {
  "another seed": "another seed: standard deviation of one run's accuracy [95 "
  "% interval], and how much of its square is due to seeds, not to questions",
  "controls": "controls: the same policies with other memories",
  "memory gain": "memory gain = (accuracy - empty memory) / (oracle - empty "
  "memory), of these runs on other questions",
}


def table(
  arms: Mapping[str, Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
  """Head and rows; columns that no arm has are left out.

  Args:
    arms: {label: {"trained": cell of `contrast.accuracy` or None, "controls"
      and "memory_gain": as `contrast.behind` has them}}.
  """
  names = dict.fromkeys(x for arm in arms.values() for x in arm["controls"])
  columns = {"another seed": [_seeds(arm["trained"]) for arm in arms.values()]}
  for name in names:
    columns[name.replace("_", " ")] = [
      contrast.text(x["controls"][name], "accuracy")
      if name in x["controls"]
      else "-"
      for x in arms.values()
    ]
  columns["memory gain"] = [_gain(x["memory_gain"]) for x in arms.values()]
  columns = {k: x for k, x in columns.items() if set(x) != {"-"}}
  rows = [[label, *line] for label, *line in zip(arms, *columns.values())]
  return ["arm", *columns], rows if columns else []


def _seeds(cell: Mapping[str, Any] | None) -> str:
  if not cell or "between_seeds" not in cell:
    return "-"
  found = cell["between_seeds"]
  text = f"{found['sd']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"
  share = found["share"]
  return text if share is None else f"{text}, seeds {share:.0%}"


def _gain(found: Mapping[str, Any] | None) -> str:
  if not found:
    return "-"
  return "none" if found["gain"] is None else contrast.text(found, "gain")


def caption(head: Sequence[str]) -> str:
  """Says what the columns of `table` are."""
  of = [x if x in _SAID else "controls" for x in head[1:]]
  return "; ".join(_SAID[x] for x in dict.fromkeys(of))
