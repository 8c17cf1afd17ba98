"""Which columns of a table are texts, labels and numbers, and the rows that they make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData, UnknownName, shown
from ..core.files import text_of
from .cells import column_of, number_of, numbers_of, refuse_missing
from .labels import numbered
from .refusals import HALF
from .source import Source
from .splitting import Part, source_of
from .tables import Table, listed

LABELS = ("label", "labels", "class", "category", "intent", "target", "y")
TEXTS = ("text", "sentence", "utterance", "query", "question", "content", "review", "message")
DOMAIN, TIME = "domain", "time"  # columns that streams look for
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Chosen:
    """What the columns of a table mean.

    Attributes:
        label: The column of the labels.
        text: The column of the texts; None: rows are numbers.
        numbers: The columns of a row's numbers.
        note: What was guessed or left out, in a sentence.
        beside: Columns that streams are cut by, by what they are: domain or time.
    """

    label: str
    text: str | None
    numbers: tuple[str, ...]
    note: str
    beside: Mapping[str, str] = field(default_factory=dict)


def from_tables(
    tables: Mapping[str, Table],
    name: str,
    seed: int,
    test_share: float,
    *,
    text: str | None = None,
    label: str | None = None,
    groups: Path | None = None,
) -> Source:
    """A source of the rows of tables.

    Args:
        tables: By part: train, and perhaps test and validation.
        name: What the source is called.
        seed: Draws the test rows where there are none.
        test_share: How many of each class they are.
        text: The column of the texts; None guesses.
        label: The column of the labels; None guesses.
        groups: A JSON file that says which classes belong together.

    Raises:
        BadData: cells are missing, are no numbers, or the data cannot be learned from.
        UnknownName: there is no such column; the nearest is named.
    """
    train = tables["train"]
    if not len(train):
        raise BadData(f"{train.source} has no rows: give at least two of each class")
    chosen = choose(train, text, label)
    labels, names = numbered(tables, chosen.label)
    beside = {
        kind: column
        for kind, column in chosen.beside.items()
        if all(column in table.columns and _holds(kind, table, column) for table in tables.values())
    }
    parts = {part: Part(_inputs(table, chosen), labels[part], _beside(table, beside)) for part, table in tables.items()}
    together = () if groups is None else _groups(groups, names)
    done = [note for note in (chosen.note, train.note) if note]
    return source_of(name, parts, names, seed, test_share, done, together)


def choose(table: Table, text: str | None = None, label: str | None = None) -> Chosen:
    """What the columns of a table mean, as said or as their names tell.

    Raises:
        UnknownName: there is no column of that name.
        BadData: their names do not tell.
    """
    names = list(table.columns)
    for column in (text, label):
        if column is not None and column not in names:
            raise UnknownName(f"column of {table.source}", column, names)
    found = label if label is not None else label_of(table, text)
    if found is None:
        raise BadData(
            f"{table.source} has the columns {listed(names)}, and none of them is called {', '.join(LABELS[:-1])} or "
            f'{LABELS[-1]}: say which one holds the labels, as label = "..."'
        )
    if text == found:
        raise BadData(f"{table.source}: {text!r} cannot be both the texts and the labels: say two columns")
    guessed = [] if label is not None else [f"labels are in {found!r}"]
    others = [n for n in names if n != found]
    domain = _named((DOMAIN,), [n for n in others if n != text and numbers_of(table, n) is None])
    others = [n for n in others if n != domain] or others  # the only other column is what is learned from
    numbers = tuple(n for n in others if numbers_of(table, n) is not None)
    words = [n for n in others if n not in numbers]
    if text is None:
        text = _named(TEXTS, others)
        text = text if text is not None or len(words) != 1 or numbers else words[0]
        guessed += [] if text is None else [f"texts are in {text!r}"]
    if text is None and (words or not numbers):
        strange = (
            f"{listed(words)} {'is' if len(words) == 1 else 'are'} no numbers" if words else "there is no other column"
        )
        raise BadData(
            f"{table.source} has the columns {listed(names)}; beside the labels in {found!r} {strange}: say which one holds "
            'texts, as text = "...", or leave those out that are no numbers'
        )
    beside = {} if domain is None or domain in others else {DOMAIN: domain}
    left = [n for n in others if n != text] if text is not None else []
    beside |= {
        kind: n for kind in (DOMAIN, TIME) if (n := _named((kind,), left)) is not None and _holds(kind, table, n)
    }
    left = [n for n in left if n not in beside.values()]
    guessed += [f"streams may be cut by {listed(beside.values())}"] if beside else []
    guessed += [f"other columns were left out: {listed(left)}"] if left else []
    guessed += [f"rows are the numbers in {listed(numbers)}"] if text is None else []
    return Chosen(found, text, () if text is not None else numbers, "; ".join(guessed), beside)


def label_of(table: Table, *others: str | None) -> str | None:
    """The column that holds labels by its name, or as the only one whose numbers have names; None: neither tells."""
    left = [n for n in table.columns if n not in others]
    with_names = [n for n in left if n in table.names]
    return _named(LABELS, left) or (with_names[0] if len(with_names) == 1 else None)


def texts_in(table: Table, text: str | None = None) -> list[str | None]:
    """The texts of a table that may have no labels; None where a cell holds none.

    Args:
        table: The table.
        text: Their column; None goes by the names of columns, else takes the only one that holds words.

    Raises:
        UnknownName: there is no column of that name.
        BadData: their names do not tell.

    >>> texts_in(Table("a.csv", {"id": [1, 2, 3], "query": ["to be", "or not", None]}))
    ['to be', 'or not', None]
    """
    names = list(table.columns)
    if text is not None and text not in names:
        raise UnknownName(f"column of {table.source}", text, names)
    words = [n for n in names if n.strip().lower() not in LABELS and numbers_of(table, n) is None]
    found = text if text is not None else _named(TEXTS, names) or (words[0] if len(words) == 1 else None)
    if found is None:
        raise BadData(
            f"{table.source} has the columns {listed(names)}, and none of them is called {', '.join(TEXTS[:-1])} or "
            f"{TEXTS[-1]}: say which one holds the texts, as --text COLUMN"
        )
    return [cell if isinstance(cell, str) and not HALF.search(cell) else None for cell in column_of(table, found)]


def _named(words: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the first of these names, in any case."""
    lowered = {name.strip().lower(): name for name in reversed(names)}
    return next((lowered[word] for word in words if word in lowered), None)


def _holds(kind: str, table: Table, column: str) -> bool:
    """Whether a column can be what its name says: a time is a number, a domain may be called anything."""
    return kind == DOMAIN or numbers_of(table, column) is not None


def _beside(table: Table, columns: Mapping[str, str]) -> dict[str, list[Any]]:
    """What streams are cut by: domains as names, times as numbers."""
    found: dict[str, list[Any]] = {}
    for kind, name in columns.items():
        column = table.columns[name]
        refuse_missing(table, name, column)
        if kind == TIME:
            values = numbers_of(table, name)
            whole = bool(np.all(values == np.floor(values))) and bool(np.all(np.abs(values) < 2**53))
            found[kind] = list(values.astype(np.int64) if whole else values)
        else:
            known = dict(enumerate(table.names.get(name, ())))
            found[kind] = [known.get(cell, str(cell)) if known else str(cell) for cell in column]
    return found


def _inputs(table: Table, chosen: Chosen) -> Tensor | list[str]:
    if chosen.text is not None:
        return _texts(table, chosen.text)
    columns = []
    for name in chosen.numbers:
        column = column_of(table, name)
        refuse_missing(table, name, column)
        values = numbers_of(table, name)
        if values is None:
            row, cell = next((k, c) for k, c in enumerate(column, 1) if number_of(c, table.written) is None)
            raise BadData(
                f"{table.source}: row {row} has {shown(cell)} in the column {name!r}, which holds numbers elsewhere"
            )
        if len(wrong := np.flatnonzero(~(np.abs(values) <= LARGEST))):
            raise BadData(
                f"{table.source}: {len(wrong)} of {len(values)} rows have no finite number in the column {name!r}, the first "
                f"is row {wrong[0] + 1} with {values[wrong[0]]}: repair them or leave them out"
            )
        columns.append(torch.from_numpy(values.astype(np.float32)))
    return torch.stack(columns, 1)


def _texts(table: Table, name: str) -> list[str]:
    column = column_of(table, name)
    refuse_missing(table, name, column)
    for row, cell in enumerate(column, 1):
        if not isinstance(cell, str):
            raise BadData(
                f"{table.source}: row {row} has {shown(cell)} in the column {name!r}, which is no text: give texts"
            )
        if HALF.search(cell):
            raise BadData(
                f"{table.source}: row {row} holds half a letter (a surrogate without its other half): repair it"
            )
    return list(column)


def _groups(path: Path, classes: list[str]) -> list[tuple[int, ...]]:
    """The classes that belong together: an object of lists of their names."""
    try:
        held = json.loads(text_of(path, "JSON"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{path} is no JSON ({error}): write an object of lists of class names, or delete it") from error
    lists: list[Any] = list(held.values()) if isinstance(held, dict) else [None]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise BadData(
            f'{path} is no object of lists of class names, such as {{"animals": ["cat", "dog"]}}: repair or delete it'
        )
    number = {name: k for k, name in enumerate(classes)}
    listed_names = [name for names in lists for name in names]
    if sorted(listed_names) != sorted(classes) or not all(lists):
        strange = sorted(set(listed_names) ^ set(classes))[:3] or ["the same class twice, or an empty group"]
        raise BadData(
            f"{path} does not hold each class exactly once ({listed(strange)}): name each one once, or delete it"
        )
    return [tuple(number[name] for name in names) for names in lists]
