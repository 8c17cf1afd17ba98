"""A head that grows while a stage runs: the optimizer goes on with the parameters that took the place of others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .rule import COPIES, Site


@torch.no_grad()
def go_on_with(site: Site, named: dict[str, nn.Parameter]) -> None:
    """Put parameters that gained rows where shorter ones were: in the optimizer, with its state, and at the site.

    State of new rows begins at 0, like that of weights which never had a gradient; state that is itself weights begins at
    the new weights.

    Args:
        site: Where the stage steps.
        named: The parameters as they are now, by name.
    """
    for name, old in list(site.params.items()):
        new = named.get(name, old)
        if new is old:
            continue
        for group in site.optimizer.param_groups:
            group["params"] = [new if p is old else p for p in group["params"]]
        state: dict[str, Any] | None = site.optimizer.state.pop(old, None)
        if state is not None:
            site.optimizer.state[new] = {key: _longer(key, value, old, new) for key, value in state.items()}
        if old.grad is not None:
            new.grad = _padded(old.grad, new.new_zeros(len(new) - len(old), *new.shape[1:]))
        site.params[name] = new
    site.looked = None  # where learning rates are found is asked again


def _longer(key: str, value: Any, old: Tensor, new: Tensor) -> Any:
    """State of one key: what has a row for each row of the parameter gets further ones."""
    if not isinstance(value, Tensor) or not value.ndim or not old.ndim or len(value) != len(old):
        return value
    rows = len(new) - len(old)
    copied = key in COPIES and value.shape[1:] == new.shape[1:]
    return _padded(value, new[-rows:] if copied else value.new_zeros(rows, *value.shape[1:]))


def _padded(value: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([value, rows.to(value)])
