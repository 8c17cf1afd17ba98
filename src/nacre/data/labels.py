"""Labels in the column of a table: whole numbers or names, and the classes that they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData, shown
from .cells import column_of, number_of, refuse_missing
from .source import UNNAMEABLE
from .tables import Table

LONGEST_LABEL = 200


def numbered(tables: Mapping[str, Table], label: str) -> tuple[dict[str, Tensor], list[str]]:
    """The labels of tables by part, as numbers from 0 without gaps, and the names of the classes.

    Args:
        tables: By part.
        label: The column of the labels.

    Raises:
        BadData: cells are missing or no labels, or some rows have one that no training row has.
    """
    train = tables["train"]
    labels = _labels(tables, label)
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


def _labels(tables: Mapping[str, Table], name: str) -> dict[str, list[str | int]]:
    """The labels of tables by part, of one kind in all of them: names, or whole numbers from 0 on."""
    cells = {part: _cells(table, name) for part, table in tables.items()}
    written = [part for part, table in tables.items() if table.written]
    if not any(isinstance(cell, str) for part, held in cells.items() if part not in written for cell in held):
        number = _number_in({cell for part in written for cell in cells[part]})
        cells |= {part: list(map(number, cells[part])) for part in written}
    texts = any(isinstance(cell, str) for held in cells.values() for cell in held)
    for part, held in cells.items():
        _check(tables[part].source, name, held, texts)
    return cells


def _cells(table: Table, name: str) -> list[Any]:
    column = column_of(table, name)
    refuse_missing(table, name, column)
    return column.tolist() if isinstance(column, np.ndarray) else list(column)


def _number_in(written: Set[str]) -> Callable[[str], Any]:
    """What makes labels of written cells: 01 and 1 are two names, and so is each number where others are none."""
    if all(map(_is_whole, written)):
        return int if all(str(int(cell)) == cell for cell in written) else str
    return str if any(number_of(cell, written=True) is None for cell in written) else float


def _check(source: str, name: str, cells: list[Any], texts: bool) -> None:
    say = partial(_wrong_label, source, name)
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


def _wrong_label(source: str, name: str, row: int, cell: Any, why: str) -> BadData:
    return BadData(f"{source}: row {row} has {shown(cell)} in the column {name!r}; {why}")


def _is_whole(cell: str) -> bool:
    digits = cell.removeprefix("-")
    return len(digits) < 20 and digits.isascii() and digits.isdigit()
