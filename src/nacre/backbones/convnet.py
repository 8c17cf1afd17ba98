"""A small convolutional net with batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting


class Halve(nn.Module):
    """The largest of each 2x2 positions, while both sides are above 2."""

    def forward(self, x: Tensor) -> Tensor:
        """(rows, channels, height / 2, width / 2), rounded up; small maps as they are."""
        return F.max_pool2d(x, 2, ceil_mode=True) if min(x.shape[-2:]) > 2 else x


class ConvNet(nn.Module):
    """Blocks of 3x3 convolution, batch norm and ReLU, halved between blocks, averaged over positions at the end.

    Pictures of any size are read; halving stops at two pixels, so that even one picture can be normalised.

    Args:
        channels: Channels of the pictures.
        widths: Channels of each block; the last is the width of the features.

    Raises:
        BadSetting: no block, or a width below 1.

    >>> import torch
    >>> ConvNet(1, (8, 16))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 16])
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (32, 64, 128, 128)):
        super().__init__()
        if not widths or min(widths) < 1 or channels < 1:
            raise BadSetting(
                f"a convnet needs pictures with channels and blocks with widths, got {channels} channels and widths "
                f"{list(widths)}: write convnet:32-64-128"
            )
        self.channels, self.width = channels, widths[-1]
        blocks: list[nn.Module] = []
        for before, after in zip((channels, *widths), widths, strict=False):
            halve = [Halve()] if blocks else []
            blocks.append(
                nn.Sequential(
                    *halve, nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
                )
            )
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, width) of pictures (rows, channels, height, width).

        Raises:
            BadData: `x` is no batch of pictures with that many channels.
        """
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise BadData(
                f"this convnet reads pictures (rows, {self.channels}, height, width), not {tuple(x.shape)}: let "
                f"Pixels(channels={self.channels}) adapt them, or make the net with channels={x.shape[1] if x.ndim > 1 else 1}"
            )
        return self.blocks(x).mean((2, 3))
