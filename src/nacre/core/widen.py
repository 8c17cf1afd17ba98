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
            site.optimizer.state[new] = longer(state, len(old) if old.ndim else 0, new)
        if old.grad is not None:
            new.grad = _padded(old.grad, new.new_zeros(len(new) - len(old), *new.shape[1:]))
        site.params[name] = new
    site.looked = None  # where learning rates are found is asked again


BY_ROW = {
    *("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_inf", "momentum_buffer", "square_avg", "acc_delta"),
    *("grad_avg", "sum", "prev", "mu_product", "eta", "mu", "variance", "row_var", "col_var", *COPIES),
}
"""Optimizer state of which 0 says that a row is new, or that has nothing to do with rows."""


def longer(state: dict[str, Any], rows: int, new: Tensor) -> dict[str, Any]:
    """An optimizer's state for a parameter that had `rows` rows: what has a row for each of them gets those of `new`.

    State that is not known to be of such a form (step sizes) begins anew where the parameter grew.
    """
    if new.ndim and rows != len(new) and not state.keys() <= BY_ROW:
        return {}
    return {key: _longer(key, value, rows, new) for key, value in state.items()}


def _longer(key: str, value: Any, rows: int, new: Tensor) -> Any:
    if (
        key == "col_var"
        or not isinstance(value, Tensor)
        or not value.ndim
        or not new.ndim
        or len(value) != rows
        or rows == len(new)
    ):
        return value
    more = len(new) - rows
    copied = key in COPIES and value.shape[1:] == new.shape[1:]
    return _padded(value, new[-more:] if copied else value.new_zeros(more, *value.shape[1:]))


def _padded(value: Tensor, rows: Tensor) -> Tensor:
    return torch.cat([value, rows.to(value)])
