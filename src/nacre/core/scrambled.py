"""Token sequences with tokens at random: rows that nobody wrote, through which a backbone can be looked at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .dice import dice
from .errors import BadSetting
from .ragged import MASK
from .rows import Batch, Rows, lengths_of

IDS = "input_ids"


@dataclass(frozen=True)
class Scrambled:
    """As many sequences as asked for, as long as those of other rows, the tokens between the first and the last at random.

    Attributes:
        rows: Rows of tokens; only their lengths, first and last tokens are used.
        count: How many sequences; more than there are rows go round.
        vocabulary: Tokens are drawn uniformly from the ids below it.
        place: Of the dice: sequence k is the same wherever it is read.

    Raises:
        BadSetting: when rows are taken that are no token sequences.

    >>> from nacre.core.rows import TensorRows
    >>> held = TensorRows({"input_ids": torch.tensor([[1, 8, 9, 2]])}, torch.tensor([0]))
    >>> Scrambled(held, 3, 100).take(torch.arange(3)).x["input_ids"][:, [0, 3]].tolist()
    [[1, 2], [1, 2], [1, 2]]
    """

    rows: Rows
    count: int
    vocabulary: int
    place: tuple[int | str, ...] = ()

    def __len__(self) -> int:
        return self.count if len(self.rows) else 0

    @property
    def lengths(self) -> Tensor | None:
        """See `lengths_of`."""
        known = lengths_of(self.rows)
        return None if known is None else known[torch.arange(len(self)) % len(self.rows)]

    def take(self, index: Tensor) -> Batch:
        """The sequences at these positions, all of class -1."""
        batch = self.rows.take(index % len(self.rows))
        if not isinstance(batch.x, Mapping) or IDS not in batch.x:
            raise BadSetting(
                "tokens can be put in at random only where rows are token sequences, and these carry no input_ids: leave "
                "scrambled out, or give anchors"
            )
        ids, mask = batch.x[IDS].clone(), batch.x.get(MASK)
        ends = torch.full((len(ids),), ids.shape[1]) if mask is None else mask.long().sum(1).cpu()
        for row, (k, end) in enumerate(zip(index.tolist(), ends.tolist(), strict=True)):
            inner = max(int(end) - 2, 0)
            drawn = torch.randint(self.vocabulary, (inner,), generator=dice(*self.place, "scrambled", k))
            ids[row, 1 : 1 + inner] = drawn.to(ids)
        return replace(batch, x={**batch.x, IDS: ids}, y=torch.full_like(batch.y, -1), ids=index)
