"""Linear layers of which the part below the largest singular values trains, by PEFT's OSF: put in, merged and taken out.

PEFT decomposes by itself. Here the decomposition is given, so that a resumed run and every rank hold the same bits.

Shapes: weight (out, in), of which k singular values are protected and l = min(out, in) - k train.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.errors import BadSetting
from ..core.in_use import adapted
from ..core.model import bare, exact
from ..core.state import Tensors
from .layers import FACTORS, peft_for
from .rescaled import rescalable

LOW = ("U_low", "S_low", "V_low")


@torch.no_grad()
def decomposed(weight: Tensor, kept: int) -> Tensors:
    """The singular vectors of a weight, cut after the `kept` largest singular values, in fp32 or better.

    Returns:
        `U_high` (out, k) and `V_high` (k, in), which are protected; `U_low` (out, l), `S_low` (l,) and `V_low` (l, in), which
        train. They are the same on all ranks, which must all ask.

    >>> [tuple(t.shape) for t in decomposed(torch.eye(4, 3), 1).values()]
    [(4, 1), (1, 3), (4, 2), (2,), (2, 3)]
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    u, s, v = (t.contiguous() for t in torch.linalg.svd(weight.detach().to(wide), full_matrices=False))
    ranks.broadcast([u, s, v])
    cut = {"U_high": u[:, :kept], "V_high": v[:kept], "U_low": u[:, kept:], "S_low": s[kept:], "V_low": v[kept:]}
    return {leaf: t.clone(memory_format=torch.contiguous_format) for leaf, t in cut.items()}


def put_in_osf(model: nn.Module, splits: Mapping[str, Tensors]) -> None:
    """Let these linear layers answer by W + U S V - U0 S0 V0, in place; U, S and V train and start at U0, S0, V0.

    No answer changes by more than rounding. W is as free as it was: freeze it to train the factors alone. PEFT's hooks keep
    *gradients* of U and V out of the protected directions; moves are kept out by who reshapes steps.

    Args:
        model: Any module. Layers that have factors already stay as they are.
        splits: By the name of a layer, what `decomposed` gives for its weight.

    Raises:
        MissingExtra: PEFT is not installed.
        BadSetting: a layer is no plain linear layer.

    >>> net = nn.Sequential(nn.Linear(4, 3))
    >>> put_in_osf(net, {"0": decomposed(net[0].weight, 1)})
    >>> [tuple(p.shape) for name, p in net.named_parameters() if "low" in name]
    [(2,), (3, 2), (2, 4)]
    >>> merge_osf(net)
    >>> net
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    model = bare(model)
    there = _put_in(model)
    for name, cut in splits.items():
        layer = model.get_submodule(name)
        if name not in there:
            if not rescalable(layer):
                raise BadSetting(
                    f"{name} is a {type(layer).__name__}, and only linear layers that answer as torch's own are decomposed: "
                    "leave it out, or give the part that put it there a stage of its own"
                )
            _replace(model, name, _around(layer, cut))


@torch.no_grad()
def merge_osf(model: nn.Module) -> None:
    """Write what is used into the weights, and make ordinary layers of them again."""
    model = bare(model)
    for name, layer in _put_in(model).items():
        plain = layer.get_base_layer()
        with exact(plain.weight.device):
            plain.weight.copy_(plain.weight + layer.get_delta_weight(FACTORS))
        _replace(model, name, plain)


def factor(layer: str, leaf: str) -> str:
    """The name that the parameter `U_low`, `S_low` or `V_low` of a layer has."""
    return f"{layer}.osf_svd_params.{FACTORS}.{leaf}"


def _put_in(model: nn.Module) -> dict[str, Any]:
    """The layers that have factors, by name."""
    return {n: layer for n, layer in adapted(model).items() if FACTORS in getattr(layer, "osf_svd_params", ())}


def _replace(model: nn.Module, name: str, layer: nn.Module) -> None:
    holder, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(holder), leaf, layer)


def _around(layer: Any, cut: Tensors) -> nn.Module:
    """PEFT's layer around a plain one, with this decomposition in the place of its own."""
    peft_for("OSFT with factors")
    from peft.tuners.osf import Linear, OSFConfig

    out, width = layer.weight.shape
    with torch.device("meta"):  # PEFT's own decomposition costs nothing there
        around: Any = Linear(nn.Linear(width, out), FACTORS, OSFConfig(), effective_rank=cut["U_high"].shape[1])
    around._detach_hooks()
    cut = {leaf: t.to(layer.weight.device) for leaf, t in cut.items()}
    around.base_layer = layer
    around.osf_svd_params[FACTORS] = nn.ParameterDict({leaf: nn.Parameter(cut[leaf].clone()) for leaf in LOW})
    for leaf in (*LOW, "U_high", "V_high"):
        held = getattr(around, f"_osf_{leaf}_init" if leaf in LOW else f"_osf_{leaf}")
        if FACTORS in held:  # PEFT keeps no protected basis that follows from the rest
            held[FACTORS] = cut[leaf]
    around._attach_hooks(FACTORS)
    return around.train(layer.training)
