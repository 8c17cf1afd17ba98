"""A copy of a model: what teachers are made of, and what a model is put back to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from .errors import BadSetting
from .in_use import in_use, plain, tensors_of
from .model import Outputs, bare, evaluating, forward
from .rows import Batch
from .shards import is_sharded
from .state import Stateful, Tensors, state


@dataclass
class Snapshot(Stateful):
    """The weights and buffers of a model as they were, kept as state.

    It answers through the modules of the live model, which are lent its tensors: in eval mode, without a graph, and with as
    many classes as its head had. Adapters and what else stands beside a weight count as the weights that they made: they have
    no say in the answer, neither those of then nor those of now. Another module that was put in later answers as it was when
    the snapshot first met it.

    >>> model, rows = nn.Linear(2, 3), Batch(torch.ones(1, 2), torch.zeros(1))
    >>> then = Snapshot()
    >>> then.take(model)
    >>> before = model(rows.x)
    >>> _ = nn.init.zeros_(model.weight)
    >>> torch.equal(then.answer(model, rows).logits, before), then.answer(model, rows).logits.requires_grad
    (True, False)
    """

    tensors: Tensors = state()

    @property
    def taken(self) -> bool:
        """Whether it is a copy of anything yet."""
        return bool(self.tensors)

    def take(self, model: nn.Module) -> None:
        """Copy the model as it is now: the weights that it uses.

        Raises:
            BadSetting: each rank holds a part of its weights.
        """
        _refuse_parts(model)
        self.tensors = {n: t.detach().clone() for n, t in in_use(model).items()}

    def extend(self, model: nn.Module) -> None:
        """Add what the model has gained since, as it is now: modules, adapters too, and rows of a head; at first all of it."""
        if not self.taken:
            _refuse_parts(model)
        for n, t in tensors_of(model).items():
            kept = self.tensors.get(n)
            if kept is None:
                self.tensors[n] = t.detach().clone()
            elif kept.ndim and len(kept) < len(t):
                self.tensors[n] = torch.cat([kept, t.detach()[len(kept) :]])

    @torch.no_grad()
    def put_back(self, model: nn.Module) -> None:
        """Make the model what it was; what it has gained since stays as it is.

        So do buffers that a module names in `announced`: what tasks have said, which nothing has learned.
        """
        modules = bare(model).named_modules()
        said = {f"{n}.{buffer}" if n else buffer for n, m in modules for buffer in getattr(m, "announced", ())}
        for n, t in tensors_of(model).items():
            if n in self.tensors and n not in said:
                kept = self.tensors[n]
                (t[: len(kept)] if kept.ndim else t).copy_(kept)

    def answer(self, model: nn.Module, batch: Batch) -> Outputs:
        """What the model answered for `batch` when it was copied."""
        model = bare(model)
        with plain(model) as beside, evaluating(model), torch.no_grad():
            for n, t in tensors_of(model).items():
                if n not in self.tensors and n not in beside:
                    self.tensors[n] = t.detach().clone()
            return forward(Lent(model, self.tensors | beside), batch)


class Lent(nn.Module):
    """A model that answers with other tensors than its own, by name; those that are not given are its own."""

    def __init__(self, model: nn.Module, tensors: Tensors):
        super().__init__()
        # a module of two names is lent its tensors once: lent twice, it would keep them
        places = {f"{n}.{leaf}".lstrip(".") for n, m in model.named_modules() for leaf in (*m._parameters, *m._buffers)}
        self.model, self.tensors = model, {n: t for n, t in tensors.items() if n in places}
        self.takes_task = getattr(model, "takes_task", False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.model, self.tensors, args, kwargs, tie_weights=False)


def _refuse_parts(model: nn.Module) -> None:
    if parts := [n for n, t in tensors_of(model).items() if is_sharded(t)]:
        raise BadSetting(
            f"of {parts[0]} each rank holds a part, and a copy of the model (a teacher, a fresh start) needs whole "
            "weights: train this method without fully_shard"
        )
