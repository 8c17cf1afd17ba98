"""Cells of a table's column: there, or numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..core.errors import BadData
from .tables import Table, listed


def column_of(table: Table, name: str) -> Any:
    """A column that the training rows have.

    Raises:
        BadData: this table has none of that name.
    """
    if name not in table.columns:
        raise BadData(
            f"{table.source} has no column {name!r}, which the training rows have: it has {listed(table.columns)}"
        )
    return table.columns[name]


def refuse_missing(table: Table, name: str, column: Any) -> None:
    """See that every row has a cell.

    Raises:
        BadData: one has none.
    """
    missing = [row for row, cell in enumerate(column, 1) if cell is None] if isinstance(column, list) else []
    if missing:
        raise BadData(
            f"{table.source}: {len(missing)} of {len(table)} rows have nothing in the column {name!r}, the first is row "
            f"{missing[0]}: fill it or leave these rows out"
        )


def numbers_of(table: Table, name: str) -> Any:
    """A column as float64, missing cells as NaN; None where a cell is no number, or none is there."""
    column = table.columns[name]
    if isinstance(column, np.ndarray):
        return column.astype(np.float64) if column.dtype.kind in "iuf" else None
    values = [np.nan if cell is None else number_of(cell, table.written) for cell in column]
    there = any(cell is not None for cell in column)
    return None if not there or None in values else np.array(values, dtype=np.float64)


def number_of(cell: Any, written: bool = False) -> float | None:
    """A cell as a number, None where it is none; `written` says that cells are texts because files know nothing else."""
    if isinstance(cell, str) and (not written or "_" in cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None
