"""The weights that a forward pass uses, by the names that they had before anything was put into the model."""

from __future__ import annotations

from torch import nn

from ..core.in_use import in_use
from ..core.state import Tensors


def effective(model: nn.Module) -> Tensors:
    """What the model holds, where a layer with adapters of PEFT counts as one with the adapters that answer merged into it.

    What is put in has no names of its own here: what it does is seen in the weights that it changes. Weights tuned in compact
    form are whole in any case. Other tensors are the model's own, not copies.

    >>> effective(nn.Linear(2, 1)).keys()
    dict_keys(['weight', 'bias'])
    """
    return in_use(model)
