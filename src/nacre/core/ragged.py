"""Rows of different lengths, such as tokenised texts: held one after the other, padded a batch at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .errors import BadData

MASK = "attention_mask"
"""The field that says which places of a padded row are its own."""


@dataclass(frozen=True)
class Ragged:
    """All rows of some fields, without an object a row.

    Attributes:
        fields: Name -> (places,), the rows one after the other; all fields have the same lengths.
        ends: (rows,) int64, where each row ends.

    Raises:
        BadData: the ends are not those of the fields.

    >>> held = Ragged({"input_ids": torch.tensor([5, 6, 7, 8, 9, 4], dtype=torch.int32)}, torch.tensor([3, 4, 6]))
    >>> held.padded(torch.tensor([2, 0]))["input_ids"].tolist()
    [[9, 4, 0], [5, 6, 7]]
    """

    fields: Mapping[str, Tensor]
    ends: Tensor

    def __post_init__(self) -> None:
        places = int(self.ends[-1]) if len(self.ends) else 0
        if wrong := [name for name, flat in self.fields.items() if flat.ndim != 1 or len(flat) != places]:
            raise BadData(f"the rows end at {places}, but {wrong[0]} does not: give each field as one long vector")

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def begins(self) -> Tensor:
        """(rows,) where each row begins."""
        return torch.cat([self.ends.new_zeros(1), self.ends[:-1]])

    @cached_property
    def lengths(self) -> Tensor:
        """(rows,) places of each row."""
        return self.ends - self.begins

    def chosen(self, index: Tensor) -> Ragged:
        """The rows at these positions, as rows of different lengths again."""
        lengths = self.lengths[index]
        ends = lengths.cumsum(0)
        place = torch.arange(int(lengths.sum())) - (ends - lengths).repeat_interleave(lengths)
        at = self.begins[index].repeat_interleave(lengths) + place
        return Ragged({name: flat[at] for name, flat in self.fields.items()}, ends)

    def padded(self, index: Tensor) -> dict[str, Tensor]:
        """The rows at these positions: each field (chosen, places of the longest), 0 behind a row's end, and `MASK`."""
        lengths = self.lengths[index]
        place = torch.arange(int(lengths.max()) if len(index) else 0)
        mask = place < lengths[:, None]
        at = (self.begins[index, None] + place).mul_(mask)
        return {**{name: flat[at].mul_(mask) for name, flat in self.fields.items()}, MASK: mask}
