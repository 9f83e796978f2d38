"""Tables show what they are given, whatever it looks like."""

import io

import rich.console

from memjax import tables


def test_a_cell_is_text():
  """An interval in brackets, or a name that looks like markup, stays."""
  out = io.StringIO()
  tables.show(
    "[b]title[/b]",
    ["[i]head", "n"],
    [["[red]cell[/red]", "[1]"], ["/", "[/]"]],
    "[95 % interval]",
    rich.console.Console(file=out, width=60),
  )
  text = out.getvalue()
  for shown in (
    "[b]title[/b]",
    "[i]head",
    "[red]cell[/red]",
    "[1]",
    "[/]",
    "[95 % interval]",
  ):
    assert shown in text
