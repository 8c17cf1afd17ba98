"""Rows that are met once: what an online stream gives, and what keeps a second look at them from happening unseen."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .errors import BadSetting
from .rows import Batch, Rows, lengths_of


@dataclass(eq=False)
class Once:
    """Other rows, each of which can be taken once.

    Attributes:
        rows: The rows.
        task: Which task brings them, for messages.

    >>> from nacre.core.rows import TensorRows
    >>> rows = Once(TensorRows(torch.zeros(3, 2), torch.tensor([0, 1, 1])), task=4)
    >>> rows.take(torch.tensor([2, 0])).y.tolist()
    [1, 0]
    >>> try:
    ...     rows.take(torch.tensor([1, 2]))
    ... except BadSetting as error:
    ...     print(str(error).partition(":")[0])
    the rows of an online stream are met once, and 1 of task 4 are asked for again
    """

    rows: Rows
    task: int
    met: Tensor | None = field(init=False, repr=False, default=None)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Tensor | None:
        """See `lengths_of`; to know how long rows are is no look at them."""
        return lengths_of(self.rows)

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions.

        Raises:
            BadSetting: one of them was taken before.
        """
        met = self._met()
        if again := int(met[index].sum()):
            raise BadSetting(
                f"the rows of an online stream are met once, and {again} of task {self.task} are asked for again: train in one "
                "stage, for 1 epoch, with methods that learn from batches as they pass or keep rows in a memory; who reads "
                'the rows of a task at its end or its beginning needs arrival = "offline"'
            )
        met[index] = True
        return self.rows.take(index)

    def pass_over(self, index: Tensor) -> None:
        """Count rows as met that were taken before this process began."""
        self._met()[index] = True

    def _met(self) -> Tensor:
        if self.met is None:
            self.met = torch.zeros(len(self.rows), dtype=torch.bool)
        return self.met


def pass_over(rows: Rows | None, index: Tensor) -> None:
    """Count rows as met before, where they can be met once only."""
    if isinstance(rows, Once) and len(index):
        rows.pass_over(index)
