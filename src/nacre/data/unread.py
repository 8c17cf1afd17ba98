"""Labelled rows of which only the labels are known yet, such as pictures in files: they are read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData
from .source import Source
from .splitting import Part, parted, source_of


@dataclass(frozen=True)
class Unread:
    """Rows that are not read before somebody asks.

    Attributes:
        name: What the data are called.
        labels: (rows,) labels by part. Rows have places 0, 1, ... over all parts, one after the other.
        classes: Label k is `classes[k]`.
        read: The row at a place, (channels, height, width) in uint8, 1 or 3 channels, or (width,).
        called: What the row at a place is called in messages, such as its file.
        done: What was done to the rows so far, for the note.
        beside: What else is known of each row, by part and column.
    """

    name: str
    labels: Mapping[str, Tensor]
    classes: Sequence[str]
    read: Callable[[int], Tensor]
    called: Callable[[int], str]
    done: Sequence[str] = ()
    beside: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.labels.values()))

    @cached_property
    def first(self) -> Tensor:
        """The row at place 0, whose size all others have."""
        return self.read(0)

    def rows(self, places: Sequence[int]) -> Iterator[Tensor]:
        """Rows as they are read, one after the other.

        Raises:
            BadData: a picture is of another size than the first, or cannot be read.
        """
        sides = self.first.shape[1:]
        for place in places:
            row = self.first if place == 0 else self.read(place)
            if row.shape[1:] != sides:
                raise BadData(
                    f"{self.called(place)} has {row.shape[2]}x{row.shape[1]} pixels, {self.called(0)} {sides[1]}x{sides[0]}: "
                    "give pictures of one size, or say one, such as size = 64, and they are stretched to it"
                )
            yield row

    def parted(self, seed: int, test_share: float) -> tuple[dict[str, Part], list[str]]:
        """Places and labels by part, some of them for testing, and what was done."""
        ends = torch.arange(len(self)).split([len(y) for y in self.labels.values()])
        parts = {
            part: Part(places, y, self.beside.get(part, {}))
            for (part, y), places in zip(self.labels.items(), ends, strict=True)
        }
        return parted(self.name, parts, self.classes, seed, test_share, self.done)

    def source(self, seed: int, test_share: float) -> Source:
        """All rows, read into memory.

        Raises:
            BadData: they do not fit into it, one cannot be read, or `Source` refuses them.
            BadSetting: `test_share` is not between 0 and 1.
        """
        return source_of(self.name, self._parts(self._all()), self.classes, seed, test_share, self.done)

    def _parts(self, x: Tensor) -> dict[str, Part]:
        cut = x.split([len(y) for y in self.labels.values()])
        pairs = zip(self.labels.items(), cut, strict=True)
        return {part: Part(held, y, self.beside.get(part, {})) for (part, y), held in pairs}

    def _all(self) -> Tensor:
        """All rows in one tensor; as soon as one picture has colours, all have three channels."""
        first = self.first
        try:
            x = torch.empty(len(self), *first.shape, dtype=torch.uint8)
        except RuntimeError as error:
            raise BadData(
                f"{len(self)} pictures of {first.shape[2]}x{first.shape[1]} do not fit into memory: say a smaller size, such "
                "as size = 64, or make blocks of them, which stay on disk (nacre.data.make_blocks)"
            ) from error
        for place, row in enumerate(self.rows(range(len(self)))):
            if len(row) > x.shape[1]:
                x = x.expand(-1, len(row), -1, -1).clone()
            x[place] = row
        return x
