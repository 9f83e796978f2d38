"""Tables for a terminal, or for a log that has no width to fold at."""

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
