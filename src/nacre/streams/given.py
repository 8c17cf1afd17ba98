"""A stream of experiences that somebody made in Python."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..core.errors import BadData
from ..core.stream import Experience


@dataclass(frozen=True)
class Given:
    """Experiences in a fixed order; make it with `stream_of`.

    Attributes:
        experiences: The k-th has `task.index == k`.
    """

    experiences: tuple[Experience, ...]

    def __len__(self) -> int:
        return len(self.experiences)

    def __getitem__(self, index: int) -> Experience:
        """The experience at a place, counted from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"this stream has experiences 0..{len(self) - 1}, not {index}")
        return self.experiences[index]


def stream_of(experiences: Iterable[Experience]) -> Given:
    """A stream of these experiences.

    An experience may bring no training rows (some settings send them on purpose); a test set may not be empty.

    Raises:
        BadData: there is none, one is no experience or stands at another place than its task says, a test set is empty, or
            two of them share a name.

    >>> from nacre.core.stream import Task
    >>> len(stream_of([Experience(Task(0)), Experience(Task(1))]))
    2
    """
    held = tuple(experiences)
    if not held:
        raise BadData("a stream needs at least one experience, this list is empty: give one")
    where: dict[str, int] = {}
    for place, met in enumerate(held):
        if not isinstance(met, Experience):
            raise BadData(
                f"place {place} holds a {type(met).__name__}: wrap it, Experience(Task({place}, rows, classes), tests)"
            )
        if met.task.index != place:
            raise BadData(
                f"the experience at place {place} has task.index {met.task.index}: number tasks 0, 1, ... in the order in "
                "which they arrive"
            )
        for name, rows in met.tests.items():
            if not len(rows):
                raise BadData(f"test set {name!r} of experience {place} is empty: leave it out, or give it rows")
            if held[where.setdefault(name, place)].tests[name] is not rows:
                raise BadData(
                    f"experiences {where[name]} and {place} have different test sets called {name!r}: give each its own name"
                )
    return Given(held)
