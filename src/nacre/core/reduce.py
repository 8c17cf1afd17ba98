"""One gradient out of the ranks' own, at the end of each backward pass; and one set of running statistics.

A loss is weighted by the number of ranks times its part of the step's rows, so the mean over the ranks is the gradient of the
whole step, and taking it twice changes nothing. All of it travels at once: gradients, which of them exist, the loss, and
what the norm layers have seen. Gradients of weights in parts are averaged by those who cut them (`core/shards.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from . import ranks
from .shards import is_sharded


class Reducer:
    """Averages what the backward passes of a step left behind.

    Args:
        params: What the optimizer holds.
    """

    def __init__(self, params: Iterable[nn.Parameter]):
        self.params = [p for p in params if not is_sharded(p)]
        self.norms: list[_Running] = []
        self.due = False  # whether gradients were added since
        self.lost: Tensor | None = None
        self.pieces: Sequence[int] = ()

    def follow(self, model: nn.Module) -> None:
        """Keep the running statistics of norm layers equal too, of those that train."""
        norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None and m.training]
        self.norms = [_Running(m) for m in norms]

    def watch(self, loss: Tensor, lost: Tensor, pieces: Sequence[int], last: bool) -> None:
        """Average at the end of the backward pass of this loss, if it is the step's last here.

        Args:
            loss: What `backward()` will be called on.
            lost: The loss of the step so far; becomes that of all ranks.
            pieces: How many pieces each rank has had of the step.
            last: Whether it is this rank's last piece of the step.
        """
        self.due, self.lost, self.pieces = True, lost, pieces

        def passing(_: Tensor) -> None:
            self.due = True
            if last:
                torch.autograd.Variable._execution_engine.queue_callback(self.reduce)

        if loss.requires_grad:
            loss.register_hook(passing)

    def before_step(self, *_: Any) -> None:
        """A hook before `optimizer.step()`, for loops that do not say which backward pass is the last."""
        if self.due:
            self.reduce()

    @torch.no_grad()
    def reduce(self) -> None:
        """Average over the ranks, which all come here."""
        self.due = False
        world = ranks.world()
        for p in self.params:
            if p.grad is not None and p.grad.is_sparse:  # the ranks' rows differ
                p.grad = p.grad.to_dense()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        missing = [k for k, p in enumerate(self.params) if p.grad is None]
        device = grads[0].device if grads else torch.device("cpu")
        there = torch.ones(len(grads), device=device)
        there[missing] = 0
        lost = torch.zeros((), device=device) if self.lost is None else self.lost
        own = [norm.own(ranks.rank(), self.pieces) for norm in self.norms]
        ranks.total([*grads, there, lost, *(t for tensors in own for t in tensors)])
        torch._foreach_div_([*grads, lost], world)
        if missing:  # what no rank used has no gradient: an optimizer leaves it alone
            for k, used in zip(missing, there[missing].tolist(), strict=True):
                self.params[k].grad = grads[k] if used else None
        for norm, tensors in zip(self.norms, own, strict=True):
            norm.take(tensors)


class _Running:
    """The running statistics of a norm layer, as if the pieces of all ranks had passed it one after the other.

    A pass is x <- (1 - m) x + m s, so n of them are x <- a x + b with a = (1 - m)^n; the ranks' (a, b) are chained in their
    order. Without a momentum the mean over the pieces is taken.
    """

    def __init__(self, norm: nn.Module):
        self.norm: Any = norm
        self.then = [t.clone() for t in self._tensors()]
        self.passed = self.norm.num_batches_tracked.clone()

    def own(self, rank: int, pieces: Sequence[int]) -> list[Tensor]:
        """What this rank adds to the sum over ranks: for each statistic, and how many passes there were."""
        passes = (self.norm.num_batches_tracked - self.passed).to(self.then[0].dtype)
        if not pieces[rank]:
            return [*(torch.zeros_like(t) for t in self.then), torch.zeros_like(passes)]
        if self.norm.momentum is None:
            share = pieces[rank] / sum(pieces)
            return [*(share * t for t in self._tensors()), passes]
        stays = 1 - self.norm.momentum
        later = stays ** (passes * (sum(pieces[rank + 1 :]) / pieces[rank]))
        before = 0.0 if rank == 0 else stays**passes  # the first rank, which always has a piece, brings what was before
        return [*(later * (t - before * then) for t, then in zip(self._tensors(), self.then, strict=True)), passes]

    def take(self, summed: list[Tensor]) -> None:
        """Take over the sum over ranks."""
        *statistics, passes = summed
        for t, then, value in zip(self._tensors(), self.then, statistics, strict=True):
            t.copy_(value)
            then.copy_(value)
        self.passed.add_(passes.round().to(self.passed.dtype))
        self.norm.num_batches_tracked.copy_(self.passed)

    def _tensors(self) -> list[Tensor]:
        return [self.norm.running_mean, self.norm.running_var]
