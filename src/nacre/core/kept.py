"""How old values are kept over an optimizer step, and put back bit for bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .shards import local, shaped_like
from .state import grown

_CHUNK = 1 << 19  # entries that are selected at once on the CPU: they stay in its cache
_INTS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers as wide as a weight, by its bytes


class Kept:
    """The old value of one parameter, with views made once: at each step only the arithmetic is left.

    Of a parameter in parts it is this rank's part; `seen` is what rules are shown.
    """

    def __init__(self, param: nn.Parameter):
        self.param, self.live = param, local(param.data)
        self.place = _place(param)
        self.old = torch.empty_like(self.live)
        self.seen = shaped_like(self.old, param.data)
        self.asked: Tensor | None = None
        self.version = -1
        self.mask = torch.empty(0)
        self.views: tuple[Tensor, Tensor, Tensor] | None = None

    def fits(self) -> bool:
        """Whether the parameter's memory is where it was."""
        return self.place == _place(self.param)

    def rest(self, mask: Tensor) -> None:
        """Take the mask of this step; one that is the same as before is not looked at again."""
        if mask is self.asked and not mask.is_inference() and mask._version == self.version:
            return
        self.asked, self.version = mask, -1 if mask.is_inference() else mask._version
        self.mask = local(grown(mask.to(self.live.device), self.param.data, False))
        self.views = integers(self.live, self.old, self.mask)

    def put_back(self) -> None:
        """Undo the step where the mask says so."""
        if self.views is None:
            torch.where(self.mask, self.old, self.live, out=self.live)
        else:
            select(*self.views)


def _place(param: nn.Parameter) -> tuple[int, torch.Size]:
    return local(param.data).data_ptr(), param.shape


def integers(new: Tensor, old: Tensor, rests: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
    """Flat views of the bits, for `select`; None where `torch.where` is the better choice: off the CPU, or strided."""
    ints = _INTS.get(new.element_size())
    plain = new.device.type == "cpu" and new.is_contiguous() and old.is_contiguous() and rests.is_contiguous()
    if ints is None or not plain or rests.shape != new.shape or new.is_complex():
        return None
    return new.view(-1).view(ints), old.view(-1).view(ints), rests.view(-1)


def select(bits: Tensor, was: Tensor, rests: Tensor) -> None:
    """Take the old bits where `rests`: bits += (was - bits) * rests, as integers wrap around; `was` is used up.

    Twice as fast as `torch.where` and without memory of its own; large tensors go in pieces that stay in cache.
    """
    if len(bits) <= _CHUNK:
        bits.addcmul_(was.sub_(bits), rests)
        return
    for low in range(0, len(bits), _CHUNK):
        select(bits[low : low + _CHUNK], was[low : low + _CHUNK], rests[low : low + _CHUNK])
