"""Optimizers by name: plain settings in, a function from named parameters to a torch optimizer out."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .errors import BadSetting, UnknownName

OPTIMIZERS: dict[str, type[Optimizer]] = {
    name.lower(): kind
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type) and issubclass(kind, Optimizer) and name not in ("Optimizer", "SparseAdam", "LBFGS")
}
"""torch's optimizers by their name in small letters; without those that need a closure or sparse gradients."""


@dataclass(frozen=True)
class MadeOptimizer:
    """Makes a torch optimizer whose parameter groups are chosen by name.

    Attributes:
        name: A torch optimizer in small letters: adamw, sgd, ...
        lr: The peak learning rate.
        groups: `{"match": regular expression, "lr": ..., ...}`; the first group whose expression is found in a parameter's
            name takes it, the rest take the settings above.
        options: Further settings of the optimizer, such as weight_decay.

    >>> make = MadeOptimizer("sgd", 0.1, [{"match": "bias", "lr": 0.5}], {"momentum": 0.9})
    >>> [(g["lr"], len(g["params"])) for g in make(dict(nn.Linear(2, 1).named_parameters())).param_groups]
    [(0.5, 1), (0.1, 1)]
    """

    name: str = "adamw"
    lr: float = 1e-3
    groups: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in OPTIMIZERS:
            raise UnknownName("optimizer", self.name, OPTIMIZERS)
        known = set(inspect.signature(OPTIMIZERS[self.name]).parameters) - {"params"}
        for key in self.options:
            if key not in known:
                raise UnknownName(f"setting of optimizer {self.name!r}", key, known)
        for group in self.groups:
            if not isinstance(group.get("match"), str):
                raise BadSetting(
                    f"an optimizer group needs match = a regular expression of parameter names, not {group}"
                )
            try:
                re.compile(group["match"])
            except re.error as error:
                raise BadSetting(f"match = {group['match']!r} is no regular expression ({error}): repair it") from error
            for key in group.keys() - {"match"}:
                if key not in known:
                    raise UnknownName(f"setting of optimizer {self.name!r}", key, known)
        for lr in (self.lr, *(g.get("lr", self.lr) for g in self.groups)):
            if isinstance(lr, bool) or not isinstance(lr, (int, float)) or not 0 <= lr < math.inf:
                raise BadSetting(f"a learning rate is a number of at least 0, not {lr!r}")

    def __call__(self, params: dict[str, nn.Parameter]) -> Optimizer:
        """The optimizer over these parameters.

        Raises:
            BadSetting: a group matches no parameter, or there is nothing to train.
        """
        if not params:
            raise BadSetting("nothing to train: every parameter is frozen (requires_grad is False)")
        left, groups = dict(params), []
        for group in self.groups:
            mine = {n: p for n, p in left.items() if re.search(group["match"], n)}
            if not mine:
                raise BadSetting(
                    f"the optimizer group {group['match']!r} matches no parameter of {sorted(params)[:6]} ...: name a "
                    "part of one"
                )
            left = {n: p for n, p in left.items() if n not in mine}
            groups.append({"params": list(mine.values()), **{k: v for k, v in group.items() if k != "match"}})
        if left:
            groups.append({"params": list(left.values())})
        make: Any = OPTIMIZERS[self.name]
        return make(groups, lr=self.lr, **self.options)


def inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer that steps, inside a wrapper such as accelerate's: hooks around its steps are the ones that fire."""
    while isinstance(wrapped := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = wrapped
    return optimizer
