"""Which columns of a table are texts, labels and numbers, and the rows that they make."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData, UnknownName, shown
from ..core.files import text_of
from .refusals import HALF
from .source import UNNAMEABLE, Source
from .splitting import Part, source_of
from .tables import Table, listed

LABELS = ("label", "labels", "class", "category", "intent", "target", "y")
TEXTS = ("text", "sentence", "utterance", "query", "question", "content", "review", "message")
LONGEST_LABEL = 200
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Chosen:
    """What the columns of a table mean.

    Attributes:
        label: The column of the labels.
        text: The column of the texts; None: rows are numbers.
        numbers: The columns of a row's numbers.
        note: What was guessed or left out, in a sentence.
    """

    label: str
    text: str | None
    numbers: tuple[str, ...]
    note: str


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
    parts = {part: Part(_inputs(table, chosen), labels[part]) for part, table in tables.items()}
    together = () if groups is None else _groups(groups, names)
    done = [note for note in (chosen.note, train.note) if note]
    return source_of(name, parts, names, seed, test_share, done, together)


def numbered(tables: Mapping[str, Table], label: str) -> tuple[dict[str, Tensor], list[str]]:
    """The labels of tables by part, as numbers from 0 without gaps, and the names of the classes.

    Args:
        tables: By part.
        label: The column of the labels.

    Raises:
        BadData: cells are missing or no labels, or some rows have one that no training row has.
    """
    train = tables["train"]
    labels = {part: _labels(table, label) for part, table in tables.items()}
    classes = sorted(set(labels["train"]), key=lambda c: (isinstance(c, str), c))
    number = {c: k for k, c in enumerate(classes)}
    known = train.names.get(label, ())

    def called(c: str | int) -> str:
        return known[c] if isinstance(c, int) and c < len(known) else str(c)

    for part, table in tables.items():
        if strange := sorted(map(called, set(labels[part]) - set(number))):
            raise BadData(
                f"{table.source}: rows have the label {strange[0]!r}, which no training row has: leave them out, or add such "
                "rows for training"
            )
    tensors = {part: torch.tensor([number[c] for c in held], dtype=torch.long) for part, held in labels.items()}
    return tensors, [called(c) for c in classes]


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
    numbers = tuple(n for n in others if _numbers(table, n) is not None)
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
    left = [n for n in others if n != text] if text is not None else []
    guessed += [f"other columns were left out: {listed(left)}"] if left else []
    guessed += [f"rows are the numbers in {listed(numbers)}"] if text is None else []
    return Chosen(found, text, () if text is not None else numbers, "; ".join(guessed))


def label_of(table: Table, *others: str | None) -> str | None:
    """The column that holds labels by its name, or as the only one whose numbers have names; None: neither tells."""
    left = [n for n in table.columns if n not in others]
    with_names = [n for n in left if n in table.names]
    return _named(LABELS, left) or (with_names[0] if len(with_names) == 1 else None)


def texts_in(table: Table, text: str | None = None) -> list[str]:
    """The texts of a table that may have no labels.

    Args:
        table: The table.
        text: Their column; None goes by the names of columns, else takes the only one that holds words.

    Raises:
        UnknownName: there is no column of that name.
        BadData: their names do not tell, or a cell holds no text.

    >>> texts_in(Table("a.csv", {"id": [1, 2], "query": ["to be", "or not"]}))
    ['to be', 'or not']
    """
    names = list(table.columns)
    if text is not None and text not in names:
        raise UnknownName(f"column of {table.source}", text, names)
    words = [n for n in names if n.strip().lower() not in LABELS and _numbers(table, n) is None]
    found = text if text is not None else _named(TEXTS, names) or (words[0] if len(words) == 1 else None)
    if found is None:
        raise BadData(
            f"{table.source} has the columns {listed(names)}, and none of them is called {', '.join(TEXTS[:-1])} or "
            f"{TEXTS[-1]}: say which one holds the texts, as --text COLUMN"
        )
    return _texts(table, found)


def _named(words: Sequence[str], names: Sequence[str]) -> str | None:
    """The column with the first of these names, in any case."""
    lowered = {name.strip().lower(): name for name in reversed(names)}
    return next((lowered[word] for word in words if word in lowered), None)


def _column(table: Table, name: str) -> Any:
    if name not in table.columns:
        raise BadData(
            f"{table.source} has no column {name!r}, which the training rows have: it has {listed(table.columns)}"
        )
    return table.columns[name]


def _refuse_missing(table: Table, name: str, column: Any) -> None:
    missing = [row for row, cell in enumerate(column, 1) if cell is None] if isinstance(column, list) else []
    if missing:
        raise BadData(
            f"{table.source}: {len(missing)} of {len(table)} rows have nothing in the column {name!r}, the first is row "
            f"{missing[0]}: fill it or leave these rows out"
        )


def _labels(table: Table, name: str) -> list[str | int]:
    """The labels of a table: names, or whole numbers from 0 on."""
    column = _column(table, name)
    _refuse_missing(table, name, column)
    cells: list[Any] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    if table.written and all(map(_is_whole, cells)):
        cells = [int(cell) for cell in cells]
    elif table.written and (values := _numbers(table, name)) is not None:
        cells = values.tolist()
    texts = any(isinstance(cell, str) for cell in cells)
    say = partial(_wrong_label, table.source, name)
    for row, cell in enumerate(cells, 1):
        if isinstance(cell, bool) or not isinstance(cell, (str, int)) or isinstance(cell, str) != texts:
            also = ", others are names" if texts and not isinstance(cell, str) else ""
            raise say(row, cell, f"labels are all whole numbers or all names{also}: write one kind")
        if isinstance(cell, int) and not 0 <= cell < 2**63:
            raise say(row, cell, "labels count from 0: leave rows without a label out")
        if isinstance(cell, str) and (len(cell) > LONGEST_LABEL or UNNAMEABLE.search(cell) or not cell.strip()):
            raise say(
                row, cell, f"a label is the name of a class, up to {LONGEST_LABEL} letters without line breaks: is it the "
                "right column?"
            )  # fmt: skip
    return cells


def _wrong_label(source: str, name: str, row: int, cell: Any, why: str) -> BadData:
    return BadData(f"{source}: row {row} has {shown(cell)} in the column {name!r}; {why}")


def _is_whole(cell: Any) -> bool:
    digits = cell.removeprefix("-")
    return len(digits) < 20 and digits.isascii() and digits.isdigit()


def _inputs(table: Table, chosen: Chosen) -> Tensor | list[str]:
    if chosen.text is not None:
        return _texts(table, chosen.text)
    columns = []
    for name in chosen.numbers:
        column = _column(table, name)
        _refuse_missing(table, name, column)
        values = _numbers(table, name)
        if values is None:
            row, cell = next((k, c) for k, c in enumerate(column, 1) if _number(c, table.written) is None)
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
    column = _column(table, name)
    _refuse_missing(table, name, column)
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


def _numbers(table: Table, name: str) -> Any:
    """A column as float64, missing cells as NaN; None where a cell is no number, or none is there."""
    column = table.columns[name]
    if isinstance(column, np.ndarray):
        return column.astype(np.float64) if column.dtype.kind in "iuf" else None
    values = [np.nan if cell is None else _number(cell, table.written) for cell in column]
    there = any(cell is not None for cell in column)
    return None if not there or None in values else np.array(values, dtype=np.float64)


def _number(cell: Any, written: bool = False) -> float | None:
    if isinstance(cell, str) and (not written or "_" in cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


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
