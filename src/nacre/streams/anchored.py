"""A stream whose tasks also bring rows without labels."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, replace

from ..core.errors import BadData
from ..core.rows import Rows
from ..core.stream import Experience, Stream


@dataclass(frozen=True)
class Anchored:
    """Another stream, each task of which also brings the same rows to look at the backbone through (`Task.anchors`).

    Attributes:
        stream: The stream.
        anchors: The rows; their labels are not read.

    >>> import torch
    >>> from nacre.core.rows import TensorRows
    >>> from nacre.core.stream import Task
    >>> anchors = TensorRows(torch.ones(5, 3), torch.zeros(5))
    >>> len(Anchored([Experience(Task(0))], anchors)[0].task.anchors)
    5
    """

    stream: Stream
    anchors: Rows

    def __len__(self) -> int:
        if not isinstance(self.stream, Sized):
            raise BadData(
                f"the stream {type(self.stream).__name__} does not know its length: give it a __len__, or walk through it"
            )
        return len(self.stream)

    @property
    def told(self) -> bool:
        """Whether rows carry their task id."""
        return bool(getattr(self.stream, "told", False))

    @property
    def in_order(self) -> bool:
        """Whether rows lie in the order in which they arrived."""
        return bool(getattr(self.stream, "in_order", False))

    def __getitem__(self, index: int) -> Experience:
        """The experience at a place, counted from 0."""
        met = self.stream[index]
        return replace(met, task=replace(met.task, anchors=self.anchors))
