"""The weights that a forward pass uses, by the names that they had before anything was put into the model.

Of what is put in, PEFT's layers are known here. A module of the house that holds parameters beside its own says so itself:
`put_beside` names them, which do nothing at 0, and `weights_used()` gives the tensors that it answers with.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .model import bare
from .state import Tensors

BASE = ".base_layer"
"""What PEFT adds to the name of a layer that it wraps."""


def adapted(model: nn.Module) -> dict[str, Any]:
    """The layers of PEFT in a model, by name."""
    if "peft" not in sys.modules:  # then nobody has put any in
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in bare(model).named_modules() if isinstance(layer, BaseTunerLayer)}


@torch.no_grad()
def in_use(model: nn.Module) -> Tensors:
    """The weights that answer, by their names without what was put in; `nacre.adapters.effective` tells more."""
    model = bare(model)
    layers, answers = adapted(model), dict[int, Tensors]()
    for name, layer in layers.items():
        if not any(name.startswith(f"{other}.") for other in layers):  # what is inside another is merged with it
            answers.setdefault(id(layer.get_base_layer()), _merged(layer))
    with plain(model) as beside:
        found = {n: t for n, t in tensors_of(model).items() if n not in beside}
        for name, module in model.named_modules(remove_duplicate=False):
            used: Any = getattr(module, "weights_used", dict)
            for leaf, tensor in (answers.get(id(module)) or used()).items():
                own = f"{name}.{leaf}".lstrip(".").replace(f"{BASE[1:]}.", "")
                if own in found:
                    found[own] = tensor
    return found


def tensors_of(model: nn.Module) -> Tensors:
    """A model's weights and buffers by name, without what else its modules keep in their state."""
    return {n: t for n, t in bare(model).state_dict().items() if isinstance(t, Tensor)}


def unfuse(model: nn.Module) -> None:
    """Let torch's encoder layers call the adapters inside them without a gradient, too.

    There they take a fused path that reads the bare weights itself, unless a hook is anywhere inside.
    """
    encoders = (m for m in bare(model).modules() if isinstance(m, nn.TransformerEncoderLayer))
    for layer in {layer for encoder in encoders for layer in adapted(encoder).values()}:
        if _nothing not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_nothing)


def _nothing(layer: nn.Module, args: Any) -> None:
    """A hook that changes nothing."""


@contextmanager
def plain(model: nn.Module) -> Iterator[Tensors]:
    """Inside, nothing that PEFT has put in is there: layers stand in the places of what was put around them.

    Yields:
        What is to be lent to the model so that parameters beside its own do nothing, by name.
    """
    model = bare(model)
    layers = {id(layer) for layer in adapted(model).values()}
    places = [(m._modules, leaf, child) for m in model.modules() for leaf, child in m._modules.items()]
    held: list[tuple[Any, str, Any]] = [place for place in places if id(place[2]) in layers]
    try:
        for modules, leaf, layer in held:
            modules[leaf] = layer.get_base_layer()
        yield {
            f"{name}.{leaf}" if name else leaf: torch.zeros_like(param)
            for name, module in model.named_modules(remove_duplicate=False)
            for leaf in getattr(module, "put_beside", ())
            if (param := module._parameters.get(leaf)) is not None
        }
    finally:
        for modules, leaf, layer in held:
            modules[leaf] = layer


def _merged(layer: Any) -> Tensors:
    """The base layer's tensors with what answers merged in; empty where nothing does."""
    active = [name for name in layer.active_adapters if name in layer._all_available_adapter_names()]
    if not active or layer.disable_adapters or layer.merged:
        return {}
    twin = copy.deepcopy(layer)
    twin.merge(adapter_names=active)
    base = twin.get_base_layer()
    bared = {  # in attention PEFT makes plain tensors of them
        f"{name}.{leaf}".lstrip("."): t
        for name, module in base.named_modules()
        for leaf, t in vars(module).items()
        if isinstance(t, Tensor)
    }
    return {**base.state_dict(), **bared}
