"""Linear layers whose frozen weights are rescaled by the product of two vectors: put in, merged and taken out."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.dice import dice
from ..core.errors import BadSetting
from ..core.model import bare
from ..core.state import Tensors

OUT, IN, SHIFT = "rescale_out", "rescale_in", "rescale_shift"


class Rescaled(nn.Module):
    """y = (W + W * (l r')) x + b + f, with l `rescale_out`, r `rescale_in` and f `rescale_shift`; W and b are frozen."""

    weight: nn.Parameter
    bias: nn.Parameter | None
    rescale_out: nn.Parameter
    rescale_in: nn.Parameter
    rescale_shift: nn.Parameter | None
    required: dict[str, bool]
    put_beside: ClassVar[tuple[str, ...]] = (OUT, IN, SHIFT)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.scaled(), self.shifted())

    def scaled(self) -> Tensor:
        """The weight that is used."""
        return self.weight + self.weight * (self.rescale_out[:, None] * self.rescale_in)

    def shifted(self) -> Tensor | None:
        """The bias that is used."""
        return None if self.bias is None or self.rescale_shift is None else self.bias + self.rescale_shift

    def weights_used(self) -> Tensors:
        """Both, by their names in the layer."""
        bias = self.shifted()
        return {"weight": self.scaled()} | ({} if bias is None else {"bias": bias})


def put_in_rescaling(model: nn.Module, names: Iterable[str], seed: int | str = 0, identity: bool = True) -> None:
    """Let two vectors rescale the weight of each of these linear layers, and a third shift its bias, in place.

    The layers' own weights are frozen, and keep their names. With `identity` l and f are 0, so that every answer stays as it
    is, bit for bit; else l is drawn from +-sqrt(6) as well, as r is from +-sqrt(6 / in).

    Args:
        model: Any module. Layers that are rescaled already stay as they are.
        names: Of the layers.
        seed: Seeds the draws.
        identity: Whether it starts at the answers of before.

    Raises:
        BadSetting: a layer is no plain linear layer.

    >>> layer = nn.Sequential(nn.Linear(3, 2))
    >>> put_in_rescaling(layer, ["0"])
    >>> [(name, tuple(p.shape)) for name, p in layer.named_parameters() if p.requires_grad]
    [('0.rescale_out', (2,)), ('0.rescale_in', (3,)), ('0.rescale_shift', (2,))]
    >>> merge_rescaling(layer)
    >>> [name for name, p in layer.named_parameters() if p.requires_grad]
    ['0.weight', '0.bias']
    """
    model = bare(model)
    for name in names:
        layer: Any = model.get_submodule(name)
        if isinstance(layer, Rescaled):
            continue
        if not rescalable(layer):
            raise BadSetting(
                f"{name} is a {type(layer).__name__}, and only plain linear layers can be rescaled by vectors: leave it out"
            )
        weight, bias = layer.weight, layer.bias
        layer.__dict__["required"] = {leaf: p.requires_grad for leaf, p in layer.named_parameters(recurse=False)}
        out = torch.zeros(len(weight))
        if not identity:
            out.uniform_(-math.sqrt(6), math.sqrt(6), generator=dice(seed, name, "out"))
        bound = math.sqrt(6 / weight.shape[1])
        inside = torch.empty(weight.shape[1]).uniform_(-bound, bound, generator=dice(seed, name, "in"))
        layer.__class__ = _rescaled(type(layer))
        for leaf, value in {OUT: out, IN: inside}.items():
            layer.register_parameter(leaf, nn.Parameter(value.to(weight)))
        layer.register_parameter(SHIFT, None if bias is None else nn.Parameter(torch.zeros_like(bias)))
        for p in (weight, bias):
            if p is not None:
                p.requires_grad_(False)


@torch.no_grad()
def merge_rescaling(model: nn.Module) -> None:
    """Write what is used into the weights and make ordinary layers of them again: no answer changes a bit."""
    for layer in bare(model).modules():
        if not isinstance(layer, Rescaled):
            continue
        weight, bias = layer.scaled(), layer.shifted()
        layer.weight.copy_(weight)
        if bias is not None and layer.bias is not None:
            layer.bias.copy_(bias)
        for leaf in (OUT, IN, SHIFT):
            layer._parameters.pop(leaf, None)
        for leaf, required in layer.required.items():
            layer.get_parameter(leaf).requires_grad_(required)
        del layer.required
        layer.__class__ = type(layer).__bases__[1]


def rescalable(layer: nn.Module) -> bool:
    """Whether it is a linear layer that answers as torch's own does."""
    return isinstance(layer, nn.Linear) and type(layer).forward is nn.Linear.forward


@cache
def _rescaled(kind: type) -> type:
    return type(f"Rescaled{kind.__name__}", (Rescaled, kind), {})
