"""What a page is made of, before anybody decides how it looks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from .colours import step
from .figures import Grid, Value
from .sheet import Sheet


@dataclass(frozen=True)
class Piece:
    """Something in a section; the template goes by its `kind`."""

    kind: ClassVar[str] = ""


@dataclass(frozen=True)
class Text(Piece):
    """A paragraph."""

    kind: ClassVar[str] = "text"

    text: str


@dataclass(frozen=True)
class Callout(Piece):
    """A statement that is to be seen.

    Attributes:
        mood: `good`, `bad` or `plain`.
    """

    kind: ClassVar[str] = "callout"

    title: str
    text: str = ""
    mood: str = "plain"


@dataclass(frozen=True)
class Card:
    """A figure with its name, in large letters."""

    name: str
    value: str
    unit: str = ""
    spread: str = ""
    about: str = ""


@dataclass(frozen=True)
class Cards(Piece):
    """Figures side by side."""

    kind: ClassVar[str] = "cards"

    cards: Sequence[Card]


@dataclass(frozen=True)
class Table(Piece):
    """A sheet as a table."""

    kind: ClassVar[str] = "table"

    sheet: Sheet
    wraps: bool = False  # whether its cells are texts, and no numbers
    code: bool = False  # whether its title stands in a config


@dataclass(frozen=True)
class Plot(Piece):
    """A plot, what it shows, and its numbers."""

    kind: ClassVar[str] = "plot"

    title: str
    about: str
    svg: str
    numbers: Sheet | None = None
    wide: bool = False


@dataclass(frozen=True)
class Side(Piece):
    """Plots side by side, where there is room."""

    kind: ClassVar[str] = "side"

    plots: Sequence[Plot]


@dataclass(frozen=True)
class Cell:
    """A value with the step of the scale that it has; none where it was not measured."""

    text: str
    colour: str = ""


@dataclass(frozen=True)
class Heat(Piece):
    """A table whose cells are coloured by their values."""

    kind: ClassVar[str] = "heat"

    title: str
    about: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    scale: str
    ends: tuple[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Fold(Piece):
    """What is there for who asks for it."""

    kind: ClassVar[str] = "fold"

    title: str
    pieces: Sequence[Piece]


@dataclass(frozen=True)
class Share:
    """A part of a bar."""

    name: str
    text: str
    percent: float
    colour: str


@dataclass(frozen=True)
class Bar(Piece):
    """What a whole is made of."""

    kind: ClassVar[str] = "bar"

    title: str
    shares: Sequence[Share]


@dataclass(frozen=True)
class Reference:
    """A method, where it comes from and how sure we are of it."""

    method: str
    fidelity: str
    meaning: str
    text: str
    link: str = ""


@dataclass(frozen=True)
class References(Piece):
    """The papers."""

    kind: ClassVar[str] = "references"

    entries: Sequence[Reference]


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading."""

    key: str
    title: str
    pieces: Sequence[Piece]
    lead: str = ""


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        kicker: What kind of page it is.
        title: Its name.
        status: How the run stands; empty for a comparison.
        facts: Short facts below the title.
        paragraphs: What it is about.
        sections: In order.
        made_of: What it was made of.
    """

    kicker: str
    title: str
    status: str
    facts: Sequence[str]
    paragraphs: Sequence[str]
    top: Sequence[Piece]
    sections: Sequence[Section]
    made_of: str = ""
    problem: str = field(default="")


def heat(
    grid: Grid,
    say: Callable[[Value], str],
    share: Callable[[float], float],
    *,
    title: str,
    about: str,
    corner: str,
    scale: str,
    ends: tuple[str, str],
    what: tuple[str, str] = ("moments", "test sets"),
) -> Heat:
    """A grid as a table with coloured cells; where it holds some of the rows or columns alone, a note says how many.

    Args:
        grid: The values.
        say: A value in words.
        share: Where on the scale a number lies, 0 to 1.
        title: What it shows.
        about: How it is read.
        corner: What rows and columns are.
        scale: `score` or `motion`.
        ends: What the ends of the scale mean.
        what: What rows and columns are called in notes.
    """
    rows = [
        (name, [Cell(say(v), "" if math.isnan(v.mean) else f"{scale}-{step(share(v.mean))}") for v in row])
        for name, row in zip(grid.rows, grid.cells, strict=True)
    ]
    counts = zip((len(grid.rows), len(grid.columns)), grid.counts, what, strict=True)
    notes = [
        f"{few} of {all_} {of} are shown, evenly spread; run.json holds all." for few, all_, of in counts if few < all_
    ]
    return Heat(title, about, corner, grid.columns, rows, scale, ends, notes)
