"""Layers while some of their tensors have chosen entries: of the same name and kind, with another way to answer."""

from __future__ import annotations

import math
from functools import cache
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle

from .entries import VALUES, Entries, Lent, LinearByHand, PatchesByHand, TableByHand


class Followers:
    """The layers whose tensors follow their values after each step of any optimizer, by one hook for all of them."""

    def __init__(self) -> None:
        self.layers: WeakSet[Holding] = WeakSet()
        self.optimizers: WeakSet[Optimizer] = WeakSet()  # those that hold values
        self.handle: RemovableHandle | None = None

    def add(self, layer: Holding) -> None:
        """Let a layer follow."""
        self.layers.add(layer)
        if self.handle is None:
            self.handle = register_optimizer_step_post_hook(self._after_step)

    def discard(self, layer: Holding) -> None:
        """Let it follow no longer; without any layer there is no hook. Optimizers forget what they kept for its values."""
        self.layers.discard(layer)
        for optimizer in self.optimizers:
            for leaf in layer.held:
                if (values := layer.values_of(leaf)) is not None:
                    optimizer.state.pop(values, None)
        if self.handle is not None and not self.layers:
            self.handle.remove()
            self.handle = None

    def _after_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for layer in self.layers:
            if any(id(layer.values_of(leaf)) in stepped for leaf in layer.held):
                layer.write()
                self.optimizers.add(optimizer)


class Holding(nn.Module):
    """Comes before a layer's own class while some of its tensors have chosen entries; the layer keeps its name and kind."""

    held: dict[str, Entries]  # by the tensor's name in the layer

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own answer, with tensors whose gradient goes to the values."""
        before = {leaf: self._parameters[leaf] for leaf in self.held}
        params: dict[str, Any] = self._parameters
        params.update({leaf: self._lent(leaf) for leaf in self.held})
        try:
            return super().forward(*args, **kwargs)
        finally:
            params.update(before)

    def values_of(self, leaf: str) -> nn.Parameter | None:
        """The values of a tensor's chosen entries; None where none is chosen."""
        return self._parameters.get(leaf + VALUES)

    def write(self) -> None:
        """Put all values into their tensors."""
        for leaf, entries in self.held.items():
            if (values := self.values_of(leaf)) is not None:
                entries.write(values)

    def _lent(self, leaf: str) -> Tensor | None:
        """A tensor of the layer as its answer reads it."""
        weight, entries, values = self._parameters[leaf], self.held.get(leaf), self.values_of(leaf)
        if weight is None or entries is None or values is None:
            return weight
        if weight is not entries.weight:  # functional_call lends others
            return weight
        if _traced():
            flat = weight.detach().flatten().scatter(0, entries.index.long(), values)
            return flat.view(entries.shape)
        entries.write(values)
        lent: Any = Lent.apply(values, entries) if torch.is_grad_enabled() else weight
        return lent

    def _straight(self) -> bool:
        """Whether the weight's gradient is taken by hand: not where no gradient is, nor in a compiled model."""
        entries, values = self.held.get("weight"), self.values_of("weight")
        mine = entries is not None and values is not None and self._parameters["weight"] is entries.weight
        return mine and torch.is_grad_enabled() and not _traced()

    def _by_hand(self, function: Any, x: Tensor) -> Tensor:
        """The answer of one of the functions above, cast as autocast would."""
        entries, values = self.held["weight"], self.values_of("weight")
        assert values is not None
        entries.write(values)
        weight, bias, kind = entries.weight.detach(), self._lent("bias"), x.device.type
        if not torch.is_autocast_enabled(kind) or torch.float64 in (x.dtype, weight.dtype):
            return function.apply(x, values, bias, weight, entries)
        dtype = torch.get_autocast_dtype(kind)
        bias = None if bias is None else bias.to(dtype)
        with torch.autocast(kind, enabled=False):
            return function.apply(x.to(dtype), values, bias, weight.to(dtype), entries)

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        FOLLOWERS.add(self)  # a copy of one that does

    def train(self, mode: bool = True) -> Any:
        """Set the mode. Fused paths of torch read weights by themselves, in eval mode only: so they are written here."""
        self.write()
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        for leaf, entries in self.held.items():
            weight = self._parameters[leaf]
            assert weight is not None
            weight.data = weight.data.contiguous()  # places are counted in a flat tensor
            entries.weight = weight
            entries.to(weight.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self.write()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for leaf in self.held:
            destination.pop(prefix + leaf + VALUES, None)

    def _load_from_state_dict(
        self, state: Any, prefix: str, local: Any, strict: bool, missing: Any, *others: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, local, strict, missing, *others)
        for leaf, entries in self.held.items():
            weight, values = self._parameters[leaf], self.values_of(leaf)
            assert weight is not None
            weight.requires_grad_(False)
            entries.weight = weight  # another one, where it was assigned
            if prefix + leaf + VALUES in missing:
                missing.remove(prefix + leaf + VALUES)
            if values is not None:
                with torch.no_grad():
                    values.copy_(entries.read())

    def extra_repr(self) -> str:
        """What the layer says of itself, and how many entries of what are trained."""
        told = [f"{leaf}: {len(e.index)} of {math.prod(e.shape)} entries" for leaf, e in self.held.items()]
        own = super().extra_repr()
        return ", ".join([own, *told] if own else told)


FOLLOWERS = Followers()


class HoldingLinear(Holding):
    """A linear layer."""

    def forward(self, input: Tensor) -> Tensor:
        """The product with the weight, and the bias."""
        return self._by_hand(LinearByHand, input) if self._straight() else super().forward(input)


class HoldingPatches(Holding):
    """A convolution whose patches do not overlap."""

    def forward(self, input: Tensor) -> Tensor:
        """The convolution."""
        straight = self._straight() and input.ndim == len(self.held["weight"].shape)
        return self._by_hand(PatchesByHand, input) if straight else super().forward(input)


class HoldingTable(Holding):
    """An embedding."""

    padding_idx: int | None

    def forward(self, input: Tensor) -> Tensor:
        """Rows of the table."""
        if not self._straight():
            return super().forward(input)
        entries, values = self.held["weight"], self.values_of("weight")
        assert values is not None
        entries.write(values)
        rows: Any = TableByHand.apply(input, values, self.padding_idx, entries.weight.detach(), entries)
        return rows


@cache
def holding(base: type[nn.Module], straight: bool) -> type[nn.Module]:
    """A class of the same name and kind as a layer's, with `Holding` before it; `straight` where its weight is chosen from."""
    kind: type[Holding] = Holding
    if straight:
        own = base.forward
        pairs: list[tuple[type[nn.Module], type[Holding]]] = [
            (nn.Linear, HoldingLinear),
            (nn.Embedding, HoldingTable),
            (nn.Conv1d, HoldingPatches),
            (nn.Conv2d, HoldingPatches),
        ]
        kind = next((k for plain, k in pairs if own is plain.forward), Holding)
    about = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    return type(base.__name__, (kind, base), about)


def _traced() -> bool:
    """Whether somebody reads the operations themselves, such as a compiler or a transform of `torch.func`."""
    active: Any = torch._C._are_functorch_transforms_active
    return torch.compiler.is_compiling() or active()


def goes_straight(layer: nn.Module) -> bool:
    """Whether the weight of a layer has a gradient by hand, as far as its settings say."""
    if isinstance(layer, nn.Embedding):
        return layer.max_norm is None and not layer.scale_grad_by_freq and not layer.sparse
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        plain = layer.groups == 1 and not any(n != 1 for n in layer.dilation)
        return plain and layer.padding in ("valid", (0,) * len(layer.kernel_size)) and layer.stride == layer.kernel_size
    return isinstance(layer, nn.Linear)
