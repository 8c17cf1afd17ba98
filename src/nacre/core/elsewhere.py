"""A model that answers with other weights than its own, which stay where they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.func import functional_call

from .errors import BadSetting
from .shards import gradients
from .state import Tensors

T = TypeVar("T")


class _Run(nn.Module):
    """Whatever is run inside it sees the model with the tensors that were lent to it."""

    def __init__(self, model: nn.Module, run: Callable[[], Any]):
        super().__init__()
        self.model, self.run = model, run

    def forward(self) -> Any:
        return self.run()


def lending(model: nn.Module, tensors: Mapping[str, Tensor], run: Callable[[], T]) -> T:
    """What `run` gives while the model has these tensors in place of its own, by name; wherever a tied one is used, too.

    >>> import torch
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> lending(layer, {"weight": torch.full((1, 1), 5.0)}, lambda: layer(torch.ones(1, 1)).item())
    5.0
    """
    held = _Run(model, run)
    by_place = {id(t): tensors[n] for n, t in _named(model) if n in tensors}
    lent = {n: by_place[id(t)] for n, t in _each(held) if id(t) in by_place}
    with (
        warnings.catch_warnings()
    ):  # torch.compile looks for a gradient on what is lent, and warns itself that there is none
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf Tensor")
        return functional_call(held, lent, (), tie_weights=False)


def elsewhere(
    model: nn.Module, params: Mapping[str, nn.Parameter], far: Tensors, run: Callable[[], T], wrapped: bool = False
) -> T:
    """What `run` gives with the model's weights `far` away; the gradient reaches the weights themselves.

    The sums are tensors of their own, lent to the model while `run` lasts. A model that computes activations again in the
    backward pass (gradient checkpointing) would do so with its own weights: leave that out.

    Args:
        model: The bare model.
        params: Its parameters by name.
        far: Distances by name, of the parameters' shapes.
        run: Calls the model, wrapped or not.
        wrapped: Whether it calls a wrapper, such as that of torch.compile.

    >>> import torch
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> def loss() -> Tensor:
    ...     return layer(torch.ones(1, 1)).square().sum()
    >>> elsewhere(layer, dict(layer.named_parameters()), {"weight": torch.ones(1, 1)}, loss).backward()
    >>> layer.weight.item(), layer.weight.grad.item()
    (3.0, 8.0)
    """
    lent = {n: params[n] + distance.to(params[n].dtype) for n, distance in far.items()}
    if not wrapped:
        return lending(model, lent, run)
    with (
        warnings.catch_warnings()
    ):  # torch.compile looks for a gradient on what is lent, and warns itself that there is none
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf Tensor")
        return lending(model, lent, run)


def slopes_of(model: nn.Module, params: Mapping[str, nn.Parameter], loss: Callable[[], Tensor]) -> Tensors:
    """The gradient of a loss at the weights as they are, by name; buffers and `.grad` stay what they were."""
    value = lending(model, {n: b.detach().clone() for n, b in model.named_buffers()}, loss)
    found = gradients(value, list(params.values())) if value.requires_grad else []
    return {n: g for n, g in zip(params, found, strict=False) if g is not None}


def _named(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers by all their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _each(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every place of a tensor once: of one that two modules share both, of a module that is there twice only the first.

    torch's own way of lending tied weights leaves the lent one in place of the weight where a module is there twice.
    """
    for path, module in model.named_modules():
        for name, t in (*module.named_parameters("", False, False), *module.named_buffers("", False, False)):
            yield f"{path}.{name}", t


def refuse_parts(method: Any) -> None:
    """See that weights of which each rank holds a part are not lent.

    Raises:
        BadSetting: always.
    """
    named = " and ".join(type(m).__name__ for m in getattr(method, "members", (method,)) if m.overrides("offset"))
    raise BadSetting(
        f"{named} takes gradients away from the weights, and of these each rank holds a part: train without fully_shard"
    )
