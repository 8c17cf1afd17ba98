"""Which modules of a model answer by being called: a weight of another is read past its own layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..core.model import bare, evaluating, forward
from ..core.stream import Task

SOME = 64  # rows that are read to see which layers are called; experts that none of them enters count as not called


@contextmanager
def layers_called(model: nn.Module) -> Iterator[set[str]]:
    """The names of the modules that are called inside: a weight of another that has a gradient is read past its own layer.

    >>> net = nn.ModuleDict({"called": nn.Linear(2, 2), "read": nn.Linear(2, 2)})
    >>> with layers_called(net) as names:
    ...     _ = net["called"](torch.ones(1, 2)) @ net["read"].weight
    >>> names
    {'called'}
    """
    names: set[str] = set()

    def heard(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def told(*args: Any, **kwargs: Any) -> Any:
            names.add(name)
            return answer(*args, **kwargs)

        return told

    own: list[tuple[dict[str, Any], Any]] = []
    for name, module in bare(model).named_modules():  # not by hooks: where any is, torch takes no fused path
        own.append((module.__dict__, module.__dict__.get("forward")))
        module.__dict__["forward"] = heard(name, module.forward)
    try:
        yield names
    finally:
        for attributes, before in own:
            if before is None:
                attributes.pop("forward", None)
            else:
                attributes["forward"] = before


def read_past(model: nn.Module, layers: list[str], task: Task) -> list[str]:
    """Of these layers those that do not answer by being called when the model reads rows of a task without a gradient.

    The model, or a fused path of torch, reads their weights itself, so that what is put in beside a weight is not heard there.
    Nothing is known of a task without rows.
    """
    if task.train is None or not task.rows:
        return []
    with layers_called(model) as names, evaluating(model), torch.no_grad():
        forward(model, task.train.take(torch.arange(min(task.rows, SOME))).to(task.device))
    return [name for name in layers if name not in names]
