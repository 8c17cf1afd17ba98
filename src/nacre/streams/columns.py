"""Columns of the data that streams are cut by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from ..core.errors import BadData, UnknownName
from .from_data import Data


class Column(Protocol):
    """What is known of each row beside its numbers and its label: `nacre.data.Column`, or anything of that form."""

    @property
    def train(self) -> Tensor:
        """(training rows,) numbers of names, or numbers such as times."""
        ...

    @property
    def test(self) -> Tensor:
        """(test rows,) likewise."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The value k is called `names[k]`; empty where values are numbers."""
        ...


def columns_of(data: Data) -> Mapping[str, Column]:
    """The columns of the data by name."""
    held: Any = getattr(data, "columns", {})
    return held


def column(data: Data, name: str, named: bool) -> Column:
    """A column by its name.

    Args:
        data: Where it should be.
        name: What it is called.
        named: Whether its values must have names (a domain) or be numbers (a time).

    Raises:
        UnknownName: there is none of that name; the nearest is named.
        BadData: its values are of the other sort.
    """
    held = columns_of(data)
    if name not in held:
        raise UnknownName("column of the data", name, held)
    found = held[name]
    if bool(found.names) != named:
        held_there, needed = ("names", "numbers such as times") if found.names else ("numbers", "names such as domains")
        raise BadData(f"the column {name!r} holds {held_there} where {needed} are needed: say another column, with by")
    return found
