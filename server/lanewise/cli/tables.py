"""The console and the tables of the commands."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

WIDTH_OF_PIPES = 240
"""Columns of a table that goes to a file or a pipe."""


def open_console() -> Console:
    """Get the console of this process; what is no terminal is wide enough for every table."""
    # Names that come from a model or a caller are text, whatever is in them.
    console = Console(markup=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDTH_OF_PIPES
    return console


def make_table(*columns: str) -> Table:
    """Make a table without lines."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column)
    return table
