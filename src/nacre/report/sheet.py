"""A table before anybody decides how it looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, TextIO

from ..core.run import aligned

WIDTH = 120  # characters a line of notes


@dataclass
class Sheet:
    """Rows of cells under a header; the first column is flush left, the others flush right.

    Attributes:
        header: Names of the columns.
        rows: Cells, as many as the header has.
        title: What it shows.
        notes: Lines below it.
        left: How many columns are flush left.

    >>> print(Sheet(["", "last"], [["a", "73.4"]]).markdown())
    |  | last |
    |:--|--:|
    | a | 73.4 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""
    notes: list[str] = field(default_factory=list)
    left: int = 1

    def text(self) -> str:
        """Aligned columns of plain text."""
        parts = [self.title] if self.title else []
        notes = [line for note in self.notes for line in wrap(note, WIDTH)]
        return "\n".join([*parts, aligned([self.header, *self.rows], self.left), *notes])

    def markdown(self) -> str:
        """A markdown table."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"

        sides = "|" + "|".join(":--" if i < self.left else "--:" for i in range(len(self.header))) + "|"
        parts = [f"**{self.title}**", ""] if self.title else []
        notes = ["", *(note if note.startswith("- ") else f"{note}\n" for note in self.notes)] if self.notes else []
        return "\n".join([*parts, line(self.header), sides, *map(line, self.rows), *notes]).rstrip()

    def rich(self) -> Any:
        """A table of the package rich."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        caption = Text("\n".join(self.notes)) if self.notes else None
        title = Text(self.title) if self.title else None
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", caption=caption, caption_justify="left")
        for i, name in enumerate(self.header):
            left = i < self.left
            table.add_column(Text(name), justify="left" if left else "right", overflow="fold", no_wrap=not left)
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table


def show(*parts: Sheet | str, to: TextIO | None = None) -> None:
    """Print sheets and texts: with rich on a terminal, plain elsewhere."""
    stream = to if to is not None else sys.stdout
    if stream.isatty():
        from rich.console import Console

        console = Console(file=stream)
        for part in parts:
            console.print(part.rich() if isinstance(part, Sheet) else part, markup=False, highlight=False)
        return
    print("\n\n".join(part.text() if isinstance(part, Sheet) else part for part in parts), file=stream)
