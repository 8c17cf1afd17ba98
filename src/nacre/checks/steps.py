"""Single steps of a part, with any optimizer, and a partner that notes what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.drive import Drive
from ..core.model import grow
from ..core.rows import Batch
from ..core.rule import Rule, Site
from ..core.state import Tensors, state
from .runs import SGD, as_met, copied
from .worlds import SHORT, VECTORS, shaken

STEPS = 10


MakeOptimizer = Callable[[dict[str, nn.Parameter]], Optimizer]


@dataclass
class Watch(Rule):
    """Does nothing, and notes what it is given; composed before or behind a part it sees what that was given or gave."""

    grads: list[Tensors] = state(list)
    steps: int = state(int)

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        self.grads.append({n: g.clone() for n, g in grads.items()})
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        self.steps += 1
        return new

    def needs_old(self, name: str) -> bool:
        return False


@contextmanager
def second_task(part: Rule, make: MakeOptimizer, dropout: float = 0.0, **changes: Any) -> Iterator[Drive]:
    """A part that has learned the first task with plain SGD, at the beginning of the second with an optimizer of choice."""
    model, stream = VECTORS.model(dropout=dropout), as_met(part, VECTORS.stream(SHORT))
    for met in stream[:-1]:
        with Drive(part, model, SGD, met.task, augment=shaken, seed=0) as drive:
            take_steps(drive, 2)
    if "frozen" in changes:
        dict(model.named_parameters())[changes["frozen"]].requires_grad_(False)
    grow(model, 1 + max(stream[-1].task.classes))
    with Drive(part, model, make, stream[-1].task, augment=shaken, seed=0) as drive:
        yield drive


def take_steps(
    drive: Drive,
    steps: int,
    each: Callable[[], None] = lambda: None,
    how: Literal["plain", "closure", "pieces", "scaler"] = "plain",
    noted: list[Tensors] | None = None,
) -> None:
    """So many optimizer steps of six rows each.

    Args:
        drive: What drives them.
        steps: How many.
        each: Called after every one.
        how: With a plain `step()`, with a closure, with two micro-batches, or through a GradScaler.
        noted: Takes each step's gradients as they are just before the optimizer is called.
    """
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=how == "scaler")
    for batch in islice(_six_rows(drive), steps):

        def backward(batch: Batch = batch) -> Tensor:
            drive.optimizer.zero_grad()
            drive.pending, drive.pieces, drive.shared = [], 0, 0.0
            half = -(-len(batch) // 2)
            pieces = [batch.pick(slice(0, half)), batch.pick(slice(half, None))] if how == "pieces" else [batch]
            losses = [drive.loss(piece, len(piece) / len(batch)) for piece in pieces]
            for loss in losses:
                scaler.scale(loss).backward()
            if how == "scaler":
                scaler.unscale_(drive.optimizer)
            if noted is not None:
                grads = {n: p.grad for n, p in drive.site.params.items() if p.grad is not None}
                noted.append(copied(grads))
            return torch.stack([loss.detach() for loss in losses]).sum()

        if how == "closure":
            drive.optimizer.step(backward)  # pyright: ignore[reportCallIssue, reportArgumentType]  typed for floats
        else:
            backward()
            scaler.step(drive.optimizer)
            if how == "scaler":
                scaler.update()
        drive.stepped()
        each()


def _six_rows(drive: Drive) -> Iterator[Batch]:
    """Batches of six rows without an end."""
    return (batch for epoch in count() for batch in drive.batches(epoch, 6))
