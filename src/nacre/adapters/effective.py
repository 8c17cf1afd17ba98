"""The weights that a forward pass uses, by the names that they had before anything was put into the model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from ..core.model import bare
from ..core.state import Tensors
from .layers import BASE, adapted


@torch.no_grad()
def effective(model: nn.Module) -> Tensors:
    """What the model holds, where a layer with adapters of PEFT counts as one with the adapters that answer merged into it.

    Adapters have no names of their own here: what they do is seen in the weights that they change. Weights tuned in compact
    form are whole in any case. Other tensors are the model's own, not copies.

    >>> effective(nn.Linear(2, 1)).keys()
    dict_keys(['weight', 'bias'])
    """
    model = bare(model)
    layers = adapted(model)
    found: Tensors = {}
    outer = {place for place in layers if not any(place.startswith(f"{other}.") for other in layers)}
    for name, tensor in model.state_dict().items():
        place = next((p for p in outer if name.startswith(f"{p}.")), None)
        if place is None:
            found[name] = tensor
        elif name.startswith(f"{place}{BASE}."):
            found[name.replace(BASE, "", 1)] = tensor
    for place in outer:
        for leaf, tensor in _merged(layers[place]).items():
            found[f"{place}.{leaf}"] = tensor
    return found


def _merged(layer: Any) -> Tensors:
    """The base layer's tensors with what answers merged in; empty where nothing does."""
    active = [name for name in layer.active_adapters if name in layer._all_available_adapter_names()]
    if not active or layer.disable_adapters or layer.merged:
        return {}
    twin = copy.deepcopy(layer)
    twin.merge(adapter_names=active)
    return dict(twin.get_base_layer().state_dict())
