"""From raw pictures to what a body reads: numbers in 0..1, the right size, the right channels, normalised.

Shapes: pictures (rows, channels, height, width), uint8 in 0..255 or float in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting

MOST_PIXELS = 2**21  # more is no size that models are made for
LUMA = (0.299, 0.587, 0.114)  # how bright red, green and blue look (ITU-R BT.601)


class Pixels(nn.Module):
    """Turns raw pictures into a body's input; has no parameters and adds nothing to a state dict.

    uint8 is divided by 255, float is taken as it is. Then come channels (grey repeated, RGB to its luma), size (bicubic,
    with antialiasing where it shrinks) and (x - mean) / std, each only where it was asked for. The result has the dtype of
    the module: `model.double()` stays fp64 all the way.

    Args:
        channels: 1 or 3; None leaves channels as they are.
        size: Side in pixels, or (height, width); None leaves pictures as large as they are.
        mean: One number, or one a channel, in the scale 0..1; None subtracts nothing.
        std: The same, as a divisor.

    Raises:
        BadSetting: a setting is impossible, such as two means for three channels.

    >>> Pixels(channels=3, size=8)(torch.zeros(2, 1, 4, 4, dtype=torch.uint8)).shape
    torch.Size([2, 3, 8, 8])
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: int | None = None,
        size: int | Sequence[int] | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
    ):
        super().__init__()
        if channels not in (None, 1, 3):
            raise BadSetting(f"Pixels makes 1 channel (grey) or 3 (RGB), not {channels!r}: give 1, 3 or None")
        sides = (size, size) if isinstance(size, int) else size
        if sides is not None and (len(sides) != 2 or min(sides) < 1 or sides[0] * sides[1] > MOST_PIXELS):
            raise BadSetting(
                f"a size is a side in pixels or (height, width), each at least 1, of at most {MOST_PIXELS:,} pixels, not {size}"
            )
        self.channels = channels
        self.size: tuple[int, int] | None = None if sides is None else (int(sides[0]), int(sides[1]))
        self.normalises = mean is not None or std is not None
        self.given: dict[str, list[float] | None] = {"mean": None, "std": None}
        for name, given, fill in (("mean", mean, 0.0), ("std", std, 1.0)):
            values = torch.tensor(fill if given is None else given, dtype=torch.float32).flatten()
            if given is not None:
                self.given[name] = [float(v) for v in (given if isinstance(given, Sequence) else [given])]
            if channels and len(values) not in (1, channels):
                raise BadSetting(f"{len(values)} values of {name} for {channels} channels: give one, or one for each")
            self.register_buffer(name, values, persistent=False)
        if not bool((self.std > 0).all()):
            raise BadSetting(f"std divides pixels, so it must be above 0, not {std!r}")
        if not bool(self.std.isfinite().all() & self.mean.isfinite().all()):
            raise BadSetting(f"mean and std are finite numbers, not {mean!r} and {std!r}")

    def forward(self, x: Tensor) -> Tensor:
        """The input of the body.

        Args:
            x: Pictures; where nothing but the dtype is changed, rows of any shape.

        Raises:
            BadData: `x` is no batch of pictures, or has channels that cannot be adapted.
        """
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise BadData(
                f"pixels are uint8 in 0..255 or float in 0..1, not {x.dtype}: convert them with .to(torch.uint8)"
            )
        x = x.to(self.mean.dtype).div_(255) if x.dtype == torch.uint8 else x.to(self.mean.dtype)
        if self.channels is None and self.size is None and not self.normalises:
            return x
        if x.ndim != 4:
            raise BadData(
                f"pictures have the shape (rows, channels, height, width), not {tuple(x.shape)}: "
                "add what is missing, such as x[:, None] for grey pictures without channels"
            )
        x = self._fewer_channels(x)
        if self.size is not None and self.size != tuple(x.shape[-2:]):
            shrinks = self.size[0] < x.shape[-2] or self.size[1] < x.shape[-1]
            x = F.interpolate(x, self.size, mode="bicubic", align_corners=False, antialias=shrinks).clamp_(0, 1)
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)  # after resizing: a third of the work
        if self.normalises:
            if len(self.mean) not in (1, x.shape[1]) or len(self.std) not in (1, x.shape[1]):
                raise BadData(
                    f"mean or std has {max(len(self.mean), len(self.std))} channels, the pictures {x.shape[1]}: give one "
                    "number, or one a channel"
                )
            x = (x - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)
        return x

    def _fewer_channels(self, x: Tensor) -> Tensor:
        """RGB as grey where grey is asked for."""
        if self.channels in (None, x.shape[1]) or x.shape[1] == 1:
            return x
        if x.shape[1] == 3:
            return (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
        raise BadData(
            f"pictures of shape {tuple(x.shape)} have {x.shape[1]} channels; only 1 (grey) and 3 (RGB) can be turned into "
            f"{self.channels}: channels come before height and width, so pictures with channels last need "
            "x.permute(0, 3, 1, 2)"
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What `Pixels(**settings)` makes the same module from, ready for JSON."""
        return {"channels": self.channels, "size": None if self.size is None else list(self.size), **self.given}

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self.settings.items() if value is not None)
