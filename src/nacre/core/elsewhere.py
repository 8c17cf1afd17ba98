"""A loss taken at other weights than the model's own, which stay where they are."""

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


def elsewhere(model: nn.Module, params: Mapping[str, nn.Parameter], far: Tensors, run: Callable[[], T]) -> T:
    """What `run` gives with the model's weights `far` away; the gradient reaches the weights themselves.

    The sums are tensors of their own, lent to the model while `run` lasts. A model that computes activations again in the
    backward pass (gradient checkpointing) would do so with its own weights: leave that out.

    Args:
        model: The bare model.
        params: Its parameters by name.
        far: Distances by name, of the parameters' shapes.
        run: Calls the model, wrapped or not.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> def loss() -> Tensor:
    ...     return layer(torch.ones(1, 1)).square().sum()
    >>> elsewhere(layer, dict(layer.named_parameters()), {"weight": torch.ones(1, 1)}, loss).backward()
    >>> layer.weight.item(), layer.weight.grad.item()
    (3.0, 8.0)
    """
    there = {id(params[n]): params[n] + distance.to(params[n].dtype) for n, distance in far.items()}
    lent = {n: there[id(p)] for n, p in _each(_Run(model, run)) if id(p) in there}
    with (
        warnings.catch_warnings()
    ):  # torch.compile looks for a gradient on what is lent, and warns itself that there is none
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf Tensor")
        return functional_call(_Run(model, run), lent, (), tie_weights=False)


def slopes_of(model: nn.Module, params: Mapping[str, nn.Parameter], loss: Callable[[], Tensor]) -> Tensors:
    """The gradient of a loss at the weights as they are, by name; buffers and `.grad` stay what they were."""
    buffers = {f"model.{n}": b.detach().clone() for n, b in model.named_buffers()}
    value = functional_call(_Run(model, loss), buffers, (), tie_weights=False)
    found = gradients(value, list(params.values())) if value.requires_grad else []
    return {n: g for n, g in zip(params, found, strict=False) if g is not None}


def _each(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every place of a parameter once: of one that two modules share both, of a module that is there twice only the first.

    torch's own way of lending tied weights puts the lent one back in place of the weight where a module is there twice.
    """
    for path, module in model.named_modules():
        for name, p in module.named_parameters(recurse=False, remove_duplicate=False):
            yield f"{path}.{name}", p


def refuse_parts(method: Any) -> None:
    """See that weights of which each rank holds a part are not lent.

    Raises:
        BadSetting: always.
    """
    named = " and ".join(type(m).__name__ for m in getattr(method, "members", (method,)) if m.overrides("offset"))
    raise BadSetting(
        f"{named} takes gradients away from the weights, and of these each rank holds a part: train without fully_shard"
    )
