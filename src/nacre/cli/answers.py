"""Answers to rows, as lines, a table, CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import click

Format = Literal["lines", "table", "csv", "jsonl"]


@dataclass(frozen=True)
class Answer:
    """What a row most likely is.

    Attributes:
        file: Where the row comes from.
        place: Its number there.
        name: What it is called.
        best: Names of classes with their scores, best first.
    """

    file: str
    place: int
    name: str
    best: Sequence[tuple[str, float]]


@contextmanager
def written(form: Format, top: int) -> Iterator[Callable[[Answer], None]]:
    """What writes answers to the standard output; a table comes at the end."""
    if form == "table":
        held: list[Answer] = []
        yield held.append
        _show(held, top)
    elif form == "csv":
        out = csv.writer(_Echo(), lineterminator="\n")
        numbered = [f"{word}{k}" for k in range(1, top + 1) for word in ("class", "score")]
        out.writerow(["file", "row", *numbered])
        yield lambda one: out.writerow([one.file, one.place, *_padded(one, top)])
    else:
        yield _json if form == "jsonl" else lambda one: _line(one, top)


def _line(one: Answer, top: int) -> None:
    told = (f"{name} ({value:.3g})" if top > 1 else name for name, value in one.best)
    click.echo(f"{one.name}: {', '.join(told)}")


def _json(one: Answer) -> None:
    named = [{"class": name, "score": value} for name, value in one.best]
    click.echo(json.dumps({"file": one.file, "row": one.place, "top": named}, ensure_ascii=False))


def _padded(one: Answer, top: int) -> list[Any]:
    """Classes and scores in turn; empty cells where a told task leaves fewer classes."""
    cells = [cell for name, value in one.best for cell in (name, repr(value))]
    return [*cells, *[""] * (2 * top - len(cells))]


def _show(answers: Sequence[Answer], top: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("row", "class", "score", *(w for k in range(2, top + 1) for w in (f"{k}.", "score")))
    for one in answers:
        cells = [cell for name, value in one.best for cell in (name, f"{value:.3g}")]
        table.add_row(*map(Text, [one.name, *cells, *[""] * (2 * top - len(cells))]))
    wide = None if sys.stdout.isatty() else 200
    Console(file=sys.stdout, width=wide).print(table)


class _Echo:
    """A file that hands on what is written."""

    def write(self, text: str) -> None:
        click.echo(text, nl=False)
