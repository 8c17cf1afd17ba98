"""Augmentation, a whole batch at a time, each row by its own draw.

Small tensors are drawn from the CPU generator that is given and moved to the batch, so draws are equal on every device.
Shapes: pictures (rows, channels, height, width), uint8 in 0..255 or float in 0..1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadData, UnknownName
from ..core.rows import Augment, Batch
from ..core.state import check_settings, setting


@dataclass(frozen=True)
class Jitter:
    """Turn, stretch, slant and move pictures a little, and change their light; the result is float in 0..1.

    Beyond the border the picture's edge goes on. Every change is uniform in +- its setting.

    Attributes:
        turn: Rotation in degrees.
        zoom: Relative size.
        slant: Shear, as a slope.
        shift: Way to the side and up or down, as a part of the picture.
        light: Added brightness, in 0..1.
        contrast: Relative contrast about middle grey.

    >>> batch = Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    >>> Jitter()(batch, torch.Generator().manual_seed(0)).x.shape
    torch.Size([2, 1, 8, 8])
    """

    turn: float = setting(10.0, "rotation in degrees", low=0, high=180)
    zoom: float = setting(0.1, "relative change of size", low=0, high=0.9)
    slant: float = setting(0.1, "shear, as a slope", low=0, high=1)
    shift: float = setting(0.08, "way to the sides, as a part of the picture", low=0, high=1)
    light: float = setting(0.1, "added brightness", low=0, high=1)
    contrast: float = setting(0.2, "relative change of contrast", low=0, high=1)

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with changed pictures; draws 8 numbers a row."""
        x = pictures_of(batch, "Jitter")
        spans = [math.radians(self.turn), self.zoom, self.zoom, self.slant, 2 * self.shift, 2 * self.shift]
        drawn = torch.rand(len(x), 8, generator=generator).mul_(2).sub_(1)
        angle, wide, high, slant, right, down, light, contrast = drawn.mul_(
            torch.tensor([*spans, self.light, self.contrast])
        ).unbind(1)
        cos, sin, wide, high = angle.cos(), angle.sin(), 1 + wide, 1 + high
        across = torch.stack([wide * cos, wide * (slant * cos - sin), right], 1)
        along = torch.stack([high * sin, high * (slant * sin + cos), down], 1)
        places = torch.stack([across, along], 1).to(x.device)  # (rows, 2, 3): where each picture looks at the old one
        kind = x.dtype if x.is_floating_point() else torch.float32
        scale = 1.0 if x.is_floating_point() else 1 / 255
        gain, lift = (1 + contrast) * scale, light - 0.5 * contrast  # (x - 1/2) (1 + contrast) + 1/2 + light
        gain, lift = (t.to(x.device, kind).view(-1, 1, 1, 1) for t in (gain, lift))
        grid = F.affine_grid(places.to(kind), list(x.shape), align_corners=False)
        moved = F.grid_sample(x.to(kind), grid, padding_mode="border", align_corners=False)
        return replace(batch, x=moved.mul_(gain).add_(lift).clamp_(0, 1))


@dataclass(frozen=True)
class Shift:
    """Move pictures by whole pixels, as a random crop of a padded picture does; the dtype stays.

    Beyond the border the picture's edge goes on.

    Attributes:
        pixels: The farthest way in each direction.
    """

    pixels: int = setting(2, "the farthest way in each direction, in pixels", low=0)

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with moved pictures; draws 2 numbers a row."""
        x = pictures_of(batch, "Shift")
        rows, channels, height, width = x.shape
        ways = torch.randint(-int(self.pixels), int(self.pixels) + 1, (2, rows, 1), generator=generator)
        down = (torch.arange(height) + ways[0]).clamp_(0, height - 1).to(x.device)  # (rows, height)
        right = (torch.arange(width) + ways[1]).clamp_(0, width - 1).to(x.device)  # (rows, width)
        place = (down[:, :, None] * width + right[:, None, :]).view(rows, 1, -1).expand(-1, channels, -1)
        return replace(batch, x=x.flatten(2).gather(2, place).view_as(x))


@dataclass(frozen=True)
class Flip:
    """Mirror pictures left to right; the dtype stays.

    Attributes:
        share: The probability for each row.
    """

    share: float = setting(0.5, "the probability for each row", low=0, high=1)

    def __post_init__(self) -> None:
        check_settings(self)

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch with some pictures mirrored; draws 1 number a row."""
        x = pictures_of(batch, "Flip")
        flips = (torch.rand(len(x), generator=generator) < self.share).to(x.device).view(-1, 1, 1, 1)
        return replace(batch, x=torch.where(flips, x.flip(-1), x))


@dataclass(frozen=True)
class Compose:
    """Several augmentations, one after the other.

    Attributes:
        steps: In the order in which they happen.
    """

    steps: tuple[Augment, ...] = ()

    def __call__(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The batch after every step; all draw from the one generator, in order."""
        for step in self.steps:
            batch = step(batch, generator)
        return batch


AUGMENTS = {
    "none": "Pictures as they are.",
    "jitter": "Small rotation, zoom, shear, shift and change of light; for pictures of signs and digits.",
    "shift": "Random crop: up to 2 pixels to each side.",
    "flip": "Mirrored left to right, every other picture; not for letters and digits.",
}
"""The augmentations by name, with a line about each."""


def augmentation(name: str | Sequence[str] | None) -> Augment | None:
    """The augmentation of that name, several in their order, or None for `"none"`.

    Raises:
        UnknownName: no augmentation has that name; the nearest is named.

    >>> augmentation(["flip", "shift"])
    Compose(steps=(Flip(share=0.5), Shift(pixels=2)))
    """
    names = [] if name is None else [name] if isinstance(name, str) else list(name)
    makers: dict[str, type[Jitter] | type[Shift] | type[Flip]] = {"jitter": Jitter, "shift": Shift, "flip": Flip}
    steps: list[Augment] = []
    for each in map(str.lower, map(str, names)):
        if each not in AUGMENTS:
            raise UnknownName("augmentation", each, AUGMENTS)
        if each != "none":
            steps.append(makers[each]())
    return Compose(tuple(steps)) if len(steps) > 1 else steps[0] if steps else None


def pictures_of(batch: Batch, who: str) -> Tensor:
    """The pictures of a batch, (rows, channels, height, width).

    Raises:
        BadData: it holds something else.
    """
    x = batch.x
    if not isinstance(x, Tensor) or x.ndim != 4 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise BadData(
            f"{who} changes pictures (rows, channels, height, width) of uint8 or float, not {got}: use augmentation 'none'"
        )
    return x
