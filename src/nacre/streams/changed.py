"""Streams whose tasks bring the same rows, seen in another way each: permuted and rotated pictures.

Shapes: `x` is a batch of pictures (rows, channels, height, width) or of vectors (rows, width); a map of pixels works on all
rows and channels alike, a batch at a time, and keeps the type of the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.dice import dice
from ..core.rows import Batch, Picked, Rows
from ..core.stream import Experience
from .from_data import Brings, Data, FromData, Scenario, check_classes, experience

Map = Callable[[Tensor], Tensor]
"""What happens to a batch of inputs."""


@dataclass(frozen=True)
class Seen:
    """Rows whose inputs pass through a map when they are taken.

    Attributes:
        rows: The rows.
        map: What happens to their inputs.
    """

    rows: Rows
    map: Map

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions, seen through the map."""
        batch = self.rows.take(index)
        return replace(batch, x=self.map(batch.x))


@dataclass(frozen=True, eq=False)
class Changed(FromData):
    """A stream of all rows, again and again; what a task sees of them, `view` says.

    Attributes:
        data: What it is made of.
        kind: The name under which `STREAMS` makes it.
        length: How many tasks there are.
        view: The map of each task, by its number.
        scenario: `"domain"`: all tasks share the labels; `"class"`: each task's classes are new; `"task"`: they are, and the
            task is told.
        seed: What the maps were drawn with.
        about: What else `describe` says.
    """

    data: Data
    kind: str
    length: int
    view: Callable[[int], Map] = field(repr=False)
    scenario: Scenario = "domain"
    seed: int = 0
    about: dict[str, Any] = field(default_factory=dict)
    brings: Brings = field(default="all", init=False)

    def __post_init__(self) -> None:
        check_classes(self.data)

    def __len__(self) -> int:
        return self.length

    def _made(self, index: int) -> Experience:
        view, own = self.view(index), self.scenario != "domain"
        count = len(self.data.classes)
        first = index * count if own else 0
        labels = torch.arange(first, first + count) if own else None
        task_id = index if self.told else None
        train, test = (
            Picked(Seen(rows, view), all_rows, labels, task_id)
            for rows, all_rows in zip((self.data.train, self.data.test), self._all, strict=True)
        )
        return experience(index, train, test, [first + c for c in self._present], self.told, f"task{index}")

    @property
    def told(self) -> bool:
        """Whether rows carry their task id."""
        return self.scenario == "task"

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The name of each label of the stream."""
        if self.scenario == "domain":
            return tuple(self.data.classes)
        return tuple(f"task{k}: {name}" for k in range(len(self)) for name in self.data.classes)

    def describe(self) -> dict[str, Any]:
        """The stream in words and numbers, ready for JSON."""
        rows = {"train_rows": len(self.data.train), "test_rows": len(self.data.test)}
        return {**self._about(), "scenario": self.scenario, **self.about, "each_task": rows}

    @cached_property
    def _all(self) -> tuple[Tensor, Tensor]:
        return torch.arange(len(self.data.train)), torch.arange(len(self.data.test))

    @cached_property
    def _present(self) -> list[int]:
        return self.data.train.y.unique().tolist()


def permutation(shape: tuple[int, ...], pad: int, seed: int, task: int) -> Map:
    """Puts pixels, or the numbers of a vector, in another order, the same for all channels.

    Args:
        shape: Of a row: (channels, height, width) or (width,).
        pad: Pixels of 0 that are put around a picture before.
        seed: Draws the order, with the task.
        task: Which task it is for.
    """
    pixels = math.prod(n + 2 * pad for n in shape[1:]) if len(shape) == 3 else shape[0]
    order = torch.randperm(pixels, generator=dice(seed, "permuted", task))

    def permuted(x: Tensor) -> Tensor:
        x = padded(pad)(x)
        return _from(x, order).view(x.shape)

    return permuted


def padded(pad: int) -> Map:
    """Puts pixels of 0 around pictures."""
    return lambda x: F.pad(x, (pad,) * 4) if pad else x


def rotation(shape: tuple[int, ...], degrees: float, smooth: bool) -> Map:
    """Turns pictures around their middle, counter-clockwise; what comes from outside is 0.

    A turned pixel is read from where it was: from the nearest pixel, or, if `smooth`, from the four around, bilinearly. Turns
    by 90 degrees of square pictures are exact either way.
    """
    _, height, width = shape
    turn = math.radians(degrees)
    down, right = torch.meshgrid(
        torch.arange(height).double() - (height - 1) / 2, torch.arange(width).double() - (width - 1) / 2, indexing="ij"
    )
    across = (right * math.cos(turn) - down * math.sin(turn) + (width - 1) / 2).flatten()
    along = (right * math.sin(turn) + down * math.cos(turn) + (height - 1) / 2).flatten()
    # what should be a whole number is one: cosines of right angles are off by 1e-16
    across, along = ((p * 1e6).round() / 1e6 for p in (across, along))
    if not smooth:
        nearest = [(_index(along.round(), across.round(), height, width), None)]
        return lambda x: _sum_of(x, nearest)
    low, left = along.floor(), across.floor()
    corners = []
    for below in (0, 1):
        for beside in (0, 1):
            weight = (1 - (along - low - below).abs()) * (1 - (across - left - beside).abs())
            corners.append((_index(low + below, left + beside, height, width), weight.float()))
    return lambda x: _sum_of(x, corners)


def _index(along: Tensor, across: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Which pixel stands there, (pixels,), and whether any does."""
    inside = (along >= 0) & (along < height) & (across >= 0) & (across < width)
    place = (along * width + across).long()
    return torch.where(inside, place, 0), inside


def _sum_of(x: Tensor, parts: Sequence[tuple[tuple[Tensor, Tensor], Tensor | None]]) -> Tensor:
    """Pixels that are each read from one place, or as the weighted sum of several."""
    (place, inside), weight = parts[0]
    if weight is None:
        return (_from(x, place) * inside.to(x)).view(x.shape)
    found = torch.zeros(len(x) * x.shape[1], len(place), device=x.device)
    for (place, inside), weight in parts:
        if weight is not None:
            found.addcmul_(_from(x, place).float(), (weight * inside).to(found))
    if not x.is_floating_point():
        found = found.round_()
    return found.to(x.dtype).view(x.shape)


def _from(x: Tensor, places: Tensor) -> Tensor:
    """The pixels at these places, (rows * channels, places) or, of vectors, (rows, places)."""
    flat = x.reshape(-1, x.shape[-1]) if x.ndim == 2 else x.flatten(2).flatten(0, 1)
    return flat.gather(1, places.to(x.device).expand(len(flat), -1))
