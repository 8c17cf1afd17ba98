"""Trained heads: linear layers that gain rows as classes arrive.

Shapes: features (rows, width), logits (rows, classes).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.dice import dice


class GrowingLinear(nn.Linear):
    """A linear layer that gains rows; old rows keep their weights bit for bit.

    New rows are drawn uniformly from +-1/sqrt(width) by counted dice of (seed, first new class), so growth does not touch
    the global generator and does not depend on how many classes come at once.

    Args:
        width: Features read.
        classes: Classes known at the start.
        seed: Seeds the new rows.

    >>> head = GrowingLinear(3, classes=2)
    >>> head.grow(4), tuple(head.weight.shape)
    (True, (4, 3))
    """

    takes_task = False

    def __init__(self, width: int, classes: int = 0, seed: int = 0):
        super().__init__(width, 0)
        self.seed = seed
        self.grow(classes)

    def reset_parameters(self) -> None:
        """Nothing to draw: rows are made by `grow`."""

    def grow(self, classes: int) -> bool:
        """Add rows until the layer answers for `classes` classes; True if any was added."""
        if classes <= self.out_features:
            return False
        weight, bias = [self.weight.detach()], [self.bias.detach()]
        bound = self.in_features**-0.5
        for c in range(self.out_features, classes):
            row = torch.empty(self.in_features + 1).uniform_(-bound, bound, generator=dice(self.seed, "head", c))
            weight.append(row[None, :-1].to(self.weight))
            bias.append(row[-1:].to(self.bias))
        self.weight = nn.Parameter(torch.cat(weight), requires_grad=self.weight.requires_grad)
        self.bias = nn.Parameter(torch.cat(bias), requires_grad=self.bias.requires_grad)
        self.out_features = classes
        return True


class GrowingCosine(GrowingLinear):
    """Logits scale * cos(features, weight of the class): rows count by their direction alone.

    Args:
        width: Features read.
        classes: Classes known at the start.
        seed: Seeds the new rows.
        scale: What cosines are multiplied by, the inverse of a temperature.

    >>> head = GrowingCosine(2, classes=1, scale=20.0)
    >>> round(head(head.weight.detach() * 7).item(), 4)
    20.0
    """

    def __init__(self, width: int, classes: int = 0, seed: int = 0, scale: float = 20.0):
        super().__init__(width, classes, seed)
        self.scale = scale
        self.bias.requires_grad_(False)  # it is not read

    def forward(self, input: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(input, dim=-1), F.normalize(self.weight, dim=-1))


class MultiHead(GrowingLinear):
    """One head per task over shared features: told the task, it answers among that task's classes only.

    Logits of other tasks' classes are set to -1e4, which is 0 after any softmax in any precision and stays finite. Where the
    task is not told, all classes compete. A class that several tasks have in common competes in every task.

    >>> head = MultiHead(3, classes=4)
    >>> head.own((0, 1), 0), head.own((2, 3), 1)
    (None, None)
    >>> head(torch.zeros(1, 3), torch.tensor([1]))[0, :2].tolist()
    [-10000.0, -10000.0]
    """

    takes_task = True
    announced = ("owner",)  # buffers that stay as they are where weights are put back
    OTHER = -1e4
    NOBODY, EVERYBODY = -2, -1
    owner: Tensor  # (classes,) the task id of each class, or one of the two above

    def __init__(self, width: int, classes: int = 0, seed: int = 0):
        super().__init__(width, 0, seed)
        self.register_buffer("owner", torch.empty(0, dtype=torch.long))
        self.grow(classes)

    def grow(self, classes: int) -> bool:
        """Add rows that belong to nobody yet; True if any was added."""
        known = self.out_features
        if not super().grow(classes):
            return False
        fresh = torch.full((classes - known,), self.NOBODY, device=self.weight.device)
        self.owner = torch.cat([self.owner.to(fresh), fresh])
        return True

    def own(self, members: Sequence[int], task_id: int) -> None:
        """Say that these classes are the task's."""
        mine = torch.as_tensor(members, device=self.owner.device, dtype=torch.long)
        free = (self.owner[mine] == self.NOBODY) | (self.owner[mine] == task_id)
        self.owner[mine] = torch.where(free, task_id, self.EVERYBODY)

    def forward(self, input: Tensor, task: Tensor | None = None) -> Tensor:
        logits = super().forward(input)
        if task is None:
            return logits
        other = (self.owner != task[:, None]) & (self.owner >= 0) & (task >= 0)[:, None]
        return logits.masked_fill(other, self.OTHER)
