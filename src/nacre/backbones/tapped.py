"""Any module as a body: its features are what one of its layers puts out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting, UnknownName
from ..core.model import evaluating

Pool = Literal["auto", "mean", "first"]
UNHEARD = "unheard"  # no layer puts out this


class Ear:
    """A forward hook that keeps what a layer put out, while it is asked to listen; copied together with the layer."""

    def __init__(self) -> None:
        self.listens = False
        self.heard: Any = UNHEARD

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        if self.listens:
            self.heard = out


class Tapped(nn.Module):
    """Runs a module and hands out what one of its layers put out; its weights are named `net.<own name>`.

    The module's own use, its state dict and its names are what they were, and copies listen to their own layer. Layers
    behind the tapped one still run.

    Args:
        net: The module.
        layer: The name of the layer, as `net.named_modules()` spells it; `""` is the module itself.
        width: Features of a row.
        pool: How tokens (rows, tokens, width) become one row: `"first"`, or their `"mean"`, which `"auto"` also takes.
            Maps (rows, width, height, width of the map) are always averaged.

    Raises:
        UnknownName: no layer of that name; the nearest is named.
        BadSetting: an unknown way to pool.
    """

    def __init__(self, net: nn.Module, layer: str, width: int = 0, pool: Pool = "auto"):
        super().__init__()
        if layer not in (known := dict(net.named_modules())):
            raise UnknownName(f"layer of {type(net).__name__}", layer, [n for n in known if n])
        if pool not in ("auto", "mean", "first"):
            raise BadSetting(f"tokens are pooled by 'auto', 'mean' or 'first', not {pool!r}")
        self.net, self.layer, self.width, self.pool, self.ear = net, layer, width, pool, Ear()
        known[layer].register_forward_hook(self.ear)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Features (rows, width) of whatever the module reads.

        Raises:
            BadData: the layer did not run, or put out something that cannot be pooled to (rows, width).
        """
        self.ear.listens = True
        try:
            self.net(*args, **kwargs)
        finally:
            self.ear.listens = False
        heard, self.ear.heard = self.ear.heard, UNHEARD
        if isinstance(heard, str):
            raise BadData(f"layer {self.layer!r} did not run for this input: tap one that does")
        return self._pooled(heard)

    def _pooled(self, out: Any) -> Tensor:
        if not isinstance(out, Tensor):
            inner = getattr(out, "last_hidden_state", None)
            several = out.values() if isinstance(out, Mapping) else out if isinstance(out, (tuple, list)) else ()
            out = inner if inner is not None else next(iter(several), None)
        if not isinstance(out, Tensor) or out.ndim not in (2, 3, 4):
            got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise BadData(
                f"layer {self.layer!r} puts out {got}; features are made of (rows, width), (rows, tokens, width) or "
                "(rows, width, height, width of the map): tap another layer"
            )
        if out.ndim == 3:
            out = out[:, 0] if self.pool == "first" else out.mean(1)
        elif out.ndim == 4:
            out = out.mean((2, 3))
        if self.width and out.shape[1] != self.width:
            raise BadData(
                f"layer {self.layer!r} gives features of width {out.shape[1]}, but width={self.width} was said: say the other"
            )
        return out


def tapped(
    module: nn.Module, layer: str, *, width: int | None = None, example: Any = None, pool: Pool = "auto"
) -> Tapped:
    """A body whose features are the output of the named layer of any module.

    Args:
        module: The module; it is used, not copied.
        layer: The name of the layer, as `module.named_modules()` spells it; `""` is the module itself.
        width: Features of a row; None finds out by running `example`.
        example: An input of the module, a row or two.
        pool: See `Tapped`.

    Raises:
        UnknownName: no layer of that name.
        BadSetting: neither `width` nor `example` was given.

    >>> net = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> body = tapped(net, "1", example=torch.zeros(1, 8))
    >>> body.width, body(torch.zeros(3, 8)).shape
    (4, torch.Size([3, 4]))
    """
    body = Tapped(module, layer, width or 0, pool)
    if not width and example is None:
        raise BadSetting(
            f"how wide is layer {layer!r} of {type(module).__name__}? Give width=..., or example=... (an input to run once)"
        )
    if example is not None:
        with evaluating(body), torch.no_grad():
            body.width = body(**example).shape[1] if isinstance(example, dict) else body(example).shape[1]
    return body
