"""The rows of every class whose mean is nearest to the mean of all of its rows.

Shapes: features z (rows, width).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadSetting
from ..core.rows import Batch, Rows
from ..core.state import Tensors, state
from .block import fields_of
from .memory import Memory, Promise

FIELD = "herded"
"""The field in which the features lie that rows were chosen by."""


def herd(z: Tensor, count: int, mean: Tensor | None = None) -> Tensor:
    """Choose rows one after the other so that their mean stays as near as it can to a mean; positions, in that order.

    The k-th row is argmin_i |mean - (s + z_i) / k| among those left, with s the sum of the rows chosen before it. Of equal
    rows the first is taken.

    Args:
        z: Features, (rows, width).
        count: How many are chosen; all, where there are fewer.
        mean: What is to be met, (width,); by default the mean of z.

    Paper: Herding dynamical weights to learn (ICML 2009), as in iCaRL (arXiv 1611.07725).

    >>> herd(torch.tensor([[0.0], [1.0], [2.0], [9.0]]), 3).tolist()
    [2, 1, 3]
    """
    z = z.double()
    mean = z.mean(0) if mean is None else mean.to(z)
    size, wanted = (
        z.square().sum(1),
        torch.zeros_like(mean),
    )  # wanted: k mean - s, which the k-th row should be nearest to
    chosen: list[Tensor] = []
    for _ in range(min(count, len(z))):
        wanted += mean
        best = (size - 2 * (z @ wanted)).argmin()
        size[best] = torch.inf
        wanted -= z[best]
        chosen.append(best)
    return torch.stack(chosen) if chosen else torch.empty(0, dtype=torch.long, device=z.device)


@dataclass
class Herding(Memory):
    """Keeps, of each class, the rows whose mean feature is nearest to that of all its rows; the classes' shares are equal.

    Rows are chosen by herding, one after the other, and kept in that order: where a new class needs room, the last ones go.
    The features, scaled to length 1, are those that a method gives (`offer`); of rows that are only added they are the raw
    inputs themselves. A class that comes back is herded anew, its old rows and the new ones together, toward the mean of all
    its rows so far.

    Paper: iCaRL: Incremental Classifier and Representation Learning (arXiv 1611.07725). There a share is rounded down; here
    the classes that came first hold one row more until the memory is full.

    >>> memory = Herding(capacity=2)
    >>> memory.add(Batch(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 0, 0, 1])))
    >>> memory.take(torch.arange(2)).x.tolist()
    [[1.0, 1.0], [1.0, 0.0]]
    """

    promises: ClassVar[Promise] = "balanced"

    order: dict[str, list[int]] = state(dict)  # class -> its slots, in the order of herding; classes as they came
    sums: Tensors = state()  # class -> the sum of the features of all its rows, (width,)
    counts: dict[str, int] = state(dict)  # class -> how many rows that was

    def __len__(self) -> int:
        return sum(map(len, self.order.values()))

    def _slots(self, index: Tensor) -> Tensor:
        return torch.tensor([slot for slots in self.order.values() for slot in slots], dtype=torch.long)[index]

    def _slots_for(self, groups: Tensor) -> list[int | None]:
        raise NotImplementedError("herding chooses among all rows of a class at once")

    def add(self, batch: Batch, **extra: Tensor) -> None:
        if len(self):
            self.turn(batch)
        own = batch.own().nonzero().flatten()
        if not len(own):
            return
        fields = {n: v[own] for n, v in fields_of(batch, extra).items()}
        if "x" not in fields:
            raise BadSetting(
                "Herding chooses rows by features, and rows of several inputs (such as token ids and their mask) have none of "
                "themselves: give it features with offer(), as iCaRL does, or keep such rows in another memory"
            )
        self._choose(
            fields["x"].flatten(1).float(), fields["y"], lambda index: {n: v[index] for n, v in fields.items()}
        )

    def offer(self, rows: Rows, z: Tensor, y: Tensor) -> None:
        """Choose among rows by their features (rows, width) and classes (rows,); only those that are chosen are read."""
        self._choose(z, y, lambda index: fields_of(rows.take(index.cpu()).to(y.device), {}))

    def refresh(self, z: Tensor) -> None:
        """Give the rows held the features that a model now has of them, (rows held, width); their order stays."""
        self.fill(torch.arange(len(self)), **{FIELD: F.normalize(z, dim=1)})

    def _choose(self, z: Tensor, y: Tensor, read: Callable[[Tensor], Tensors]) -> None:
        z = F.normalize(z, dim=1)
        self.seen += len(y)
        fresh = {str(c): (y == c).nonzero().flatten() for c in y.unique().tolist()}
        for c, index in fresh.items():
            self.order.setdefault(c, [])
            self.sums[c] = self.sums.get(c, 0) + z[index].double().sum(0)
            self.counts[c] = self.counts.get(c, 0) + len(index)
        held = {c: self.block.rows(torch.tensor(self.order[c])) for c in fresh if self.order[c]}
        rooms = self._rooms()
        self.order = {c: [] if c in fresh else slots[: rooms[c]] for c, slots in self.order.items()}
        for c, index in fresh.items():
            self._herd(c, rooms[c], z[index], lambda best, index=index: read(index[best]), held.get(c, {}))

    def _herd(self, c: str, room: int, z: Tensor, read: Callable[[Tensor], Tensors], held: Tensors) -> None:
        """Fill the room of a class with the best of its new rows, whose features are z, and of those held so far."""
        before = held[FIELD].to(z) if held else z[:0]
        best = herd(torch.cat([before, z]), room, self.sums[c] / self.counts[c])
        taken = {slot for slots in self.order.values() for slot in slots}
        free = (slot for slot in range(self.capacity) if slot not in taken)
        self.order[c] = list(islice(free, len(best)))
        slots, again = torch.tensor(self.order[c], dtype=torch.long), best < len(before)
        old, new = best[again], best[~again] - len(before)
        if len(old):
            self.block.write(slots[again.cpu()], {n: v[old.to(v.device)] for n, v in held.items()}, self.capacity)
        if len(new):
            self.block.write(slots[~again.cpu()], {**read(new), FIELD: z[new]}, self.capacity)

    def _rooms(self) -> dict[str, int]:
        """How many rows of each class are held at most."""
        each, more = divmod(self.capacity, max(len(self.order), 1))
        return {c: each + (k < more) for k, c in enumerate(self.order)}
