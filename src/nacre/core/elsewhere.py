"""A model that answers with other weights than its own, which stay where they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_forward_pre_hook

from .errors import BadSetting
from .shards import gradients
from .state import Tensors

T = TypeVar("T")
SWITCHES = ("is_gradient_checkpointing", "gradient_checkpointing", "grad_checkpointing")
"""What modules of transformers and timm call that they compute activations again."""


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
    backward pass (gradient checkpointing) would do so with its own weights: see `refuse_recomputed`.

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


def refuse_recomputed(model: nn.Module, run: Callable[[], tuple[Tensor, T]]) -> tuple[Tensor, T]:
    """What `run` gives, a loss and more, where the backward pass computes none of it again (gradient checkpointing).

    Models that say that they do are known, and so is `torch.utils.checkpoint` around modules, of both kinds.

    Raises:
        BadSetting: it does: it would compute with the model's own weights, and gradients would be wrong.
    """
    found = [
        f"{type(m).__name__}.{name}" for m in model.modules() for name in SWITCHES if getattr(m, name, False) is True
    ]

    inside: Any = torch._C
    top = inside._autograd._top_saved_tensors_default_hooks

    def look(module: nn.Module, args: Any) -> None:
        packs = top(True)
        if packs is not None and packs[0].__module__ == torch.utils.checkpoint.__name__:
            found.append(f"torch.utils.checkpoint around {type(module).__name__}")

    handle = register_module_forward_pre_hook(look)
    try:
        loss, more = run()
    finally:
        handle.remove()
    if not found and _again(loss):
        found = ["torch.utils.checkpoint"]
    if found:
        raise BadSetting(
            f"gradients are taken away from the weights, and the backward pass of the model computes activations again, "
            f"at the weights ({found[0]}): switch gradient checkpointing off, such as by gradient_checkpointing_disable()"
        )
    return loss, more


def _again(loss: Tensor) -> bool:
    """Whether the graph of a loss holds a checkpoint of the reentrant kind."""
    seen, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        if node.name() == "CheckpointFunctionBackward":
            return True
        seen.add(node)
        left += [following for following, _ in node.next_functions]
    return False


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
