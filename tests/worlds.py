"""Tiny seeded models and streams. A growing head, BatchNorm, dropout and augmentation are the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nacre.core.dice import dice, mix
from nacre.core.drive import Drive
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Experience, Task
from nacre.heads import GrowingLinear, MultiHead


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


class Net(nn.Module):
    """Width 8 -> 32 -> 16 -> a growing head."""

    def __init__(self, norm: bool = True, dropout: float = 0.2, seed: int = 0, heads: bool = False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(mix("net", seed))
            self.body = nn.Sequential(
                nn.Linear(8, 32),
                nn.BatchNorm1d(32) if norm else nn.Identity(),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(32, 16),
                nn.ReLU(),
            )
        self.head = (MultiHead if heads else GrowingLinear)(16, seed=seed)
        self.takes_task = heads

    def forward(self, x: Tensor, task: Tensor | None = None) -> Answer:
        z = self.body(x)
        return Answer(self.head(z, task) if self.takes_task else self.head(z), z)


class Past(nn.Module):
    """A model that calls `a` and reads the weight of `b` itself; or calls both, and torch's fused path reads `encoder`."""

    def __init__(self, fused: bool = False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 16)
            self.encoder = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True) if fused else None
            self.head = GrowingLinear(16)

    def forward(self, x: Tensor) -> Answer:
        z = self.a(x).relu()
        z = F.linear(z, self.b.weight, self.b.bias) if self.encoder is None else self.encoder(self.b(z)[:, None])[:, 0]
        return Answer(self.head(z), z)


CENTRES = torch.randn(8, 8, generator=dice("centres")) * 1.5


def rows(classes: Sequence[int], per_class: int, *place: int | str, task: int | None = None) -> TensorRows:
    y = torch.tensor(classes, dtype=torch.long).repeat_interleave(per_class)
    return TensorRows(CENTRES[y] + torch.randn(len(y), 8, generator=dice(*place)), y, task)


def stream(
    per_class: int = 20, told: bool = False, splits=((0, 1), (2, 3), (4, 5)), double: bool = False
) -> list[Experience]:
    def cast(r: TensorRows) -> TensorRows:
        return TensorRows(r.x.double(), r.y, r.task) if double else r

    return [
        Experience(
            Task(i, cast(rows(c, per_class, i, "train", task=i if told else None)), tuple(c), i if told else None),
            {f"task{i}": cast(rows(c, 50, i, "test", task=i if told else None))},
        )
        for i, c in enumerate(splits)
    ]


def noise(batch: Batch, generator: torch.Generator) -> Batch:
    """An augmentation: every row, also of a second view, is shaken by its own draw."""
    return replace(batch, x=batch.x + 0.1 * torch.randn(batch.x.shape, generator=generator).to(batch.x))


def steps(drive: Drive, epochs: int = 1) -> None:
    """A loop of one's own, by batches of 8."""
    for epoch in range(epochs):
        for batch in drive.batches(epoch, 8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
