"""Optimizer state that goes on from task to task, by the names of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from .errors import BadSetting
from .rule import Site
from .shards import cut_as
from .widen import longer

Kept = dict[str, dict[str, Any]]
"""Parameter name -> its `rows` and the optimizer's `state` for it."""


def kept_state(site: Site) -> Kept:
    """What the optimizer knows of each parameter: momenta, second moments, how many steps it took."""
    held = site.optimizer.state
    return {
        name: {"rows": len(p) if p.ndim else 0, "state": dict(held[p])} for name, p in site.params.items() if p in held
    }


@torch.no_grad()
def take_over(optimizer: Optimizer, named: dict[str, nn.Parameter], kept: Kept) -> Optimizer:
    """Give a new optimizer the state that one before it had for parameters of the same names.

    Rows that a parameter has gained since begin at 0, as after a first step without a gradient.

    Args:
        optimizer: Just made over the parameters.
        named: The parameters by name.
        kept: As `kept_state` gave it; perhaps on another device.

    Returns:
        The same optimizer.

    Raises:
        BadSetting: the optimizer also keeps state of its own, beside that of each weight.

    >>> w = nn.Parameter(torch.ones(2))
    >>> kept = {"w": {"rows": 2, "state": {"momentum_buffer": torch.full((2,), 2.0)}}}
    >>> optimizer = take_over(torch.optim.SGD([w], 0.1), {"w": w}, kept)
    >>> optimizer.state[w]["momentum_buffer"]
    tensor([2., 2.])
    """
    if hasattr(optimizer, "eval"):
        raise BadSetting(
            f'optimizer_state = "kept", but {type(optimizer).__name__} answers with other weights than it trains and counts '
            'steps for all of them together: set optimizer_state = "new", or take another optimizer'
        )
    name_of = {id(p): name for name, p in named.items()}
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tree = optimizer.state_dict()
    for place, p in enumerate(params):
        if (held := kept.get(name_of.get(id(p), ""))) is not None:
            tree["state"][place] = longer(held["state"], held["rows"], p)
    optimizer.load_state_dict(tree)
    for p, own in optimizer.state.items():
        own.update(cut_as(own, dict.fromkeys(own, p)))
    return optimizer
