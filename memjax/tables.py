"""Tables: for a terminal, or a log that has no width, in Markdown and HTML."""

import html
from collections.abc import Iterable
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

_LOG_WIDTH = 200


def console() -> rich.console.Console:
  """The terminal, or the log in its place."""
  found = rich.console.Console()
  if found.is_terminal:
    return found
  return rich.console.Console(width=_LOG_WIDTH)


def show(
  title: str,
  head: Sequence[str],
  rows: Iterable[Sequence[str]],
  caption: str,
  to: rich.console.Console | None = None,
) -> None:
  """Prints a table; nothing in its cells is markup."""
  table = rich.table.Table(
    box=rich.box.SIMPLE_HEAD,
    title=rich.text.Text(title),
    caption=rich.text.Text(caption),
  )
  for name in head:
    table.add_column(rich.text.Text(name))
  for row in rows:
    table.add_row(*map(rich.text.Text, row))
  (to or console()).print(table)


def to_markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
  """A table of Markdown."""
  lines = [head, ["---"] * len(head), *rows]
  return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def to_html(
  columns: Sequence[str],
  rows: Iterable[tuple[str, Sequence[str]]],
  dense: bool = False,
) -> str:
  """A table of HTML.

  Args:
    columns: names of all columns but the first, as text.
    rows: the label of each, as text, and its cells, as HTML.
    dense: in small type.
  """
  cells = lambda tag, texts: "".join(
    f"<{tag}>{x}</{tag.split()[0]}>" for x in texts
  )
  head = cells('th scope="col"', map(html.escape, columns))
  kind = ' class="dense"' if dense else ""
  lines = [f"<table{kind}><thead><tr><td></td>{head}</tr></thead><tbody>"]
  for label, values in rows:
    first = cells('th scope="row"', [html.escape(label)])
    lines.append(f"<tr>{first}{cells('td', values)}</tr>")
  return "\n".join(lines) + "</tbody></table>"
