"""Norms before the nonlinearities of a plain module, put in by an explicit call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadModel
from ..core.model import bare, device_of, evaluating, head_prefixes

_NONLINEAR = re.compile(r"(ReLU6?|GELU|SiLU|Swish|Mish|ELU|Tanh|Sigmoid|Softplus|Softsign)(Activation)?$")
_THROUGH = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d)  # what stands between a layer and its nonlinearity


class RowNorm(nn.Module):
    """Brings each row to unit size: over its last dimension, or over channels and places of a picture.

    Args:
        kind: `"rms"` divides by the root of the mean square; `"layer"` takes the mean away before.
        width: Channels that have a learned scale (and offset, for `"layer"`) each; None learns none.
        eps: Added to the mean square.
    """

    def __init__(self, kind: Literal["rms", "layer"] = "rms", width: int | None = None, eps: float = 1e-6):
        super().__init__()
        self.kind, self.eps = kind, eps
        self.weight = nn.Parameter(torch.ones(width)) if width else None
        self.bias = nn.Parameter(torch.zeros(width)) if width and kind == "layer" else None

    def forward(self, x: Tensor) -> Tensor:
        """The same shape, (rows, ..., width) or (rows, channels, height, width)."""
        picture = x.ndim > 3
        shape = list(x.shape[1:] if picture else x.shape[-1:])
        x = F.layer_norm(x, shape, eps=self.eps) if self.kind == "layer" else F.rms_norm(x, shape, eps=self.eps)
        places = [1] * (x.ndim - 2) if picture else []
        if self.weight is not None:
            x = x * self.weight.view(-1, *places)
        return x if self.bias is None else x + self.bias.view(-1, *places)

    def extra_repr(self) -> str:
        return self.kind if self.weight is None else f"{self.kind}, width={len(self.weight)}"


class Normed(nn.Module):
    """A nonlinearity behind a norm, in the place of the nonlinearity."""

    def __init__(self, norm: RowNorm, act: nn.Module):
        super().__init__()
        self.norm, self.act = norm, act

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return self.act(self.norm(x))


def insert_norms(
    model: nn.Module,
    kind: Literal["rms", "layer"] = "rms",
    *,
    learned: object | None = None,
    drop_biases: bool = False,
) -> list[str]:
    """Put a norm before each nonlinearity below the head, in place; what the model answers changes.

    Each nonlinearity gives its place to a module of the norm and itself, so weights keep their names, but for those that a
    nonlinearity has itself (PReLU). One that has a norm already, by this function or as the module before it in a
    `Sequential`, is left alone: a second call does nothing. A nonlinearity that several places share gets a norm at each.
    Nonlinearities that are called as functions are not seen.

    With `drop_biases` the bias of the layer before the norm goes, where the order is that of a `Sequential`: the answer then
    does not depend on the length of that layer's weight.

    Args:
        model: Any module.
        kind: `"rms"`, or `"layer"` to take the mean away too.
        learned: Inputs of a few rows that the model can be called with; each norm then learns a scale (and an offset) for each
            channel that these rows show. None = nothing is learned.
        drop_biases: Whether biases that the norms make redundant go.

    Returns:
        The names of the nonlinearities that got a norm now.

    Raises:
        BadModel: no nonlinearity is a module, or one module is used at places of different widths, so that it cannot learn.

    >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> insert_norms(net, drop_biases=True), insert_norms(net)
    (['1'], [])
    >>> near, far = net(torch.full((1, 3), 9.0)), net(torch.full((1, 3), 99.0))
    >>> list(dict(net.named_parameters())), bool(torch.allclose(near, far, atol=1e-4))
    (['0.weight', '2.weight', '2.bias'], True)
    """
    model = bare(model)
    found = {n: m for n, m in _nonlinear(model) if not isinstance(m, Normed)}
    if not found and not any(isinstance(m, Normed) for m in model.modules()) and not any(_nonlinear(model)):
        raise BadModel(
            f"insert_norms finds no nonlinearity in this {type(model).__name__}: one that is called as a function, such as "
            "F.relu, is not seen; make it a module, nn.ReLU()"
        )
    layers = _before(model)
    due = {n: m for n, m in found.items() if not _is_norm(layers.get(n))}
    widths = _widths(model, due, learned) if learned is not None else {}
    for name, act in due.items():
        norm = RowNorm(kind, widths.get(name)).to(device_of(model), _dtype(model))
        norm.train(act.training)
        _put(model, name, Normed(norm, act).train(act.training))
        layer = layers.get(name)
        if drop_biases and layer is not None and getattr(layer, "bias", None) is not None:
            layer.register_parameter("bias", None)
    return list(due)


def _nonlinear(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The nonlinearities below the head by place, of one that has its norm the module around both."""
    heads, inside, met = tuple(head_prefixes(model)), [], set[tuple[int, str]]()
    for name, module in model.named_modules(remove_duplicate=False):
        if any(name == h or name.startswith(f"{h}.") for h in (*heads, *inside)):
            continue
        holder, _, leaf = name.rpartition(".")
        place = id(model.get_submodule(holder)), leaf
        if place in met:  # inside a module that is there twice
            inside.append(name)
            continue
        met.add(place)
        if isinstance(module, Normed):
            inside.append(name)
            yield name, module
        elif name and _NONLINEAR.search(type(module).__name__):
            yield name, module


def _before(model: nn.Module) -> dict[str, nn.Module]:
    """By the name of each place in a `Sequential`, the layer before it."""
    found: dict[str, nn.Module] = {}
    for path, parent in model.named_modules():
        last: nn.Module | None = None
        for name, child in parent._modules.items() if isinstance(parent, nn.Sequential) else ():
            if last is not None:
                found[f"{path}.{name}".lstrip(".")] = last
            last = last if isinstance(child, _THROUGH) else child
    return found


def _is_norm(layer: nn.Module | None) -> bool:
    return layer is not None and "norm" in type(layer).__name__.lower()


def _widths(model: nn.Module, due: dict[str, nn.Module], rows: object) -> dict[str, int]:
    """How many channels each nonlinearity is given."""
    seen: dict[str, set[int]] = {n: set() for n in due}

    def watch(name: str, place: nn.Module) -> None:
        def hear(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            seen[name].add(given[0].shape[1] if given[0].ndim > 3 else given[0].shape[-1])

        place.register_forward_pre_hook(hear)
        _put(model, name, place)

    for name, act in due.items():  # one module may be at several places
        watch(name, nn.Sequential(act))
    try:
        with evaluating(model), torch.no_grad():
            model(**rows) if isinstance(rows, dict) else model(rows)
    finally:
        for name, act in due.items():
            _put(model, name, act)
    if unclear := [n for n, widths in seen.items() if len(widths) != 1]:
        raise BadModel(
            f"the nonlinearity {unclear[0]!r} is used at {len(seen[unclear[0]])} widths by these rows, so its norm cannot "
            "learn a scale: give each place a module of its own, or leave `learned` out"
        )
    return {n: widths.pop() for n, widths in seen.items()}


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    holder, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(holder), leaf, module)


def _dtype(model: nn.Module) -> torch.dtype:
    first = next(model.parameters(), None)
    return torch.float32 if first is None else first.dtype
