"""A table before anybody decides how it looks."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any, TextIO

from ..core.run import aligned

WIDTH = 120  # characters a line of notes
PADDING = 3  # characters around a cell on a terminal


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
            return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"

        sides = "|" + "|".join(":--" if i < self.left else "--:" for i in range(len(self.header))) + "|"
        parts = [f"**{self.title}**", ""] if self.title else []
        notes = ["", *(note if note.startswith("- ") else f"{note}\n" for note in self.notes)] if self.notes else []
        return "\n".join([*parts, line(self.header), sides, *map(line, self.rows), *notes]).rstrip()

    def latex(self) -> str:
        r"""A table for LaTeX with the package booktabs; its title is a comment above it.

        >>> print(Sheet(["", "last_1"], [["a & b", "73.4 ± 0.1"]]).latex())
        \begin{tabular}{lr}
        \toprule
         & last\_1 \\
        \midrule
        a \& b & $73.4 \pm 0.1$ \\
        \bottomrule
        \end{tabular}
        """
        sides = "l" * self.left + "r" * (len(self.header) - self.left)
        title = [f"% {' '.join(self.title.split())}"] if self.title else []
        head, *body = (" & ".join(map(_latex, row)) + r" \\" for row in (self.header, *self.rows))
        begin, end = rf"\begin{{tabular}}{{{sides}}}", r"\end{tabular}"
        notes = [f"% {note}" for note in self.notes]
        return "\n".join([*title, begin, r"\toprule", head, r"\midrule", *body, r"\bottomrule", end, *notes])

    def fitting(self, width: int) -> list[Sheet]:
        """The same as several sheets that are not wider; each begins with the columns that are flush left."""
        sizes = [max(map(len, column)) + PADDING for column in zip(self.header, *self.rows, strict=True)]
        left = list(range(self.left))
        if sum(sizes) <= width or len(sizes) == self.left:
            return [self]
        groups: list[list[int]] = [[]]
        for i in range(self.left, len(sizes)):
            if groups[-1] and sum(sizes[k] for k in (*left, *groups[-1], i)) > width:
                groups.append([])
            groups[-1].append(i)
        parts = []
        for group in groups:
            picked = [*left, *group]
            rows = [[row[i] for i in picked] for row in self.rows]
            parts.append(Sheet([self.header[i] for i in picked], rows, left=self.left))
        parts[0].title, parts[-1].notes = self.title, self.notes
        return parts

    def rich(self) -> Any:
        """A table of the package rich, without the notes."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        title = Text(self.title) if self.title else None
        table = Table(box=SIMPLE_HEAD, title=title, title_justify="left")
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
            for piece in part.fitting(console.width) if isinstance(part, Sheet) else [part]:
                console.print(piece.rich() if isinstance(piece, Sheet) else piece, markup=False, highlight=False)
            for note in part.notes if isinstance(part, Sheet) else ():
                console.print(note, markup=False, highlight=False)
            console.print()
        return
    print("\n\n".join(part.text() if isinstance(part, Sheet) else part for part in parts), file=stream)


LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "−": "$-$", "±": r"$\pm$"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}"}
    | {sign: f"\\{sign}" for sign in "&%$#_{}"}
)


def _latex(cell: str) -> str:
    """A cell as LaTeX reads it; a mean and its spread become one formula."""
    number = re.fullmatch(r"([+−-]?[\d.]+) ± ([\d.]+)", cell)
    if number:
        return rf"${number[1].replace('−', '-')} \pm {number[2]}$"
    return " ".join(cell.translate(LATEX).split())
