"""Only the first tasks of a stream, as when settings are chosen on them."""

from __future__ import annotations

from typing import Any

from ..core.errors import BadSetting
from ..core.stream import Experience
from .from_data import FromData


class First(FromData):
    """The first tasks of another stream; of the others nothing is made or told.

    Args:
        stream: The whole stream.
        tasks: How many of its tasks, at least 1.

    Raises:
        BadSetting: the stream has not so many tasks.

    >>> from nacre.data import load
    >>> from nacre.streams import split
    >>> few = First(split(load("digits"), 5), 2)
    >>> len(few), len(few.describe()["tasks"])
    (2, 2)
    """

    def __init__(self, stream: FromData, tasks: int):
        if not 1 <= tasks <= len(stream):
            raise BadSetting(f"the stream has {len(stream)} tasks, so its first {tasks} cannot be taken: take fewer")
        self.stream, self.tasks = stream, tasks
        self.data, self.kind, self.seed, self.told = stream.data, stream.kind, stream.seed, stream.told
        self.class_names, self.in_order = stream.class_names, stream.in_order
        self.brings = "all" if stream.brings == "all" else "some"

    def __len__(self) -> int:
        return self.tasks

    def describe(self) -> dict[str, Any]:
        """The stream in words and numbers, ready for JSON."""
        about = self.stream.describe()
        if "tasks" in about:
            about["tasks"] = about["tasks"][: self.tasks]
        return {**about, "length": self.tasks, "whole": len(self.stream)}

    def _made(self, index: int) -> Experience:
        return self.stream[index]
