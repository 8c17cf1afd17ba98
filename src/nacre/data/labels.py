"""Labels in the column of a table: whole numbers or names, and the classes that they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData, shown
from .cells import column_of, numbers_of, refuse_missing
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


def _labels(table: Table, name: str) -> list[str | int]:
    """The labels of a table: names, or whole numbers from 0 on."""
    column = column_of(table, name)
    refuse_missing(table, name, column)
    cells: list[Any] = column.tolist() if isinstance(column, np.ndarray) else list(column)
    if table.written and all(map(_is_whole, cells)):
        cells = [int(cell) for cell in cells]
    elif table.written and (values := numbers_of(table, name)) is not None:
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
