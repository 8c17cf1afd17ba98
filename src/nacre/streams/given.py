"""Streams of experiences that somebody made in Python, or makes when asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import overload

from ..core.errors import BadData, BadSetting
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
        _check_place(index, len(self))
        return self.experiences[index]


@dataclass(frozen=True)
class Made:
    """Experiences that a function makes when they are asked for; make it with `stream_of`.

    Attributes:
        make: The experience of a number, the same whenever it is asked for.
        length: How many there are.
    """

    make: Callable[[int], Experience]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Experience:
        """The experience at a place, counted from 0.

        Raises:
            BadData: what the function makes is none, or that of another place.
        """
        _check_place(index, self.length)
        met = self.make(index)
        _check(met, index)
        return met


@overload
def stream_of(experiences: Iterable[Experience]) -> Given: ...
@overload
def stream_of(experiences: Callable[[int], Experience], length: int) -> Made: ...


def stream_of(
    experiences: Iterable[Experience] | Callable[[int], Experience], length: int | None = None
) -> Given | Made:
    """A stream of these experiences, or of those that a function makes.

    An experience may bring no training rows (some settings send them on purpose); a test set may not be empty. A function
    keeps a long stream small: it is asked for an experience by its number, again and again, and has to give the same every
    time.

    Args:
        experiences: The experiences in order, or a function of their number.
        length: How many the function makes.

    Raises:
        BadData: there is none, one is no experience or stands at another place than its task says, a test set is empty, or
            two of them share a name.
        BadSetting: the length of a function is missing, or that of a list is given.

    >>> from nacre.core.stream import Task
    >>> len(stream_of([Experience(Task(0)), Experience(Task(1))]))
    2
    >>> stream_of(lambda i: Experience(Task(i)), length=1000)[999].task.index
    999
    """
    if callable(experiences):
        if length is None or isinstance(length, bool) or length < 1:
            raise BadSetting(
                f"a stream that a function makes has a length of at least 1, not {length!r}: say length=..."
            )
        return Made(experiences, length)
    if length is not None:
        raise BadSetting(
            f"length = {length!r} is for a stream that a function makes: leave it out, lists have their own"
        )
    held = tuple(experiences)
    if not held:
        raise BadData("a stream needs at least one experience, this list is empty: give one")
    where: dict[str, int] = {}
    for place, met in enumerate(held):
        _check(met, place)
        for name, rows in met.tests.items():
            if held[where.setdefault(name, place)].tests[name] is not rows:
                raise BadData(
                    f"experiences {where[name]} and {place} have different test sets called {name!r}: give each its own name"
                )
    return Given(held)


def _check_place(index: int, length: int) -> None:
    if not 0 <= index < length:
        raise IndexError(f"this stream has experiences 0..{length - 1}, not {index}")


def _check(met: object, place: int) -> None:
    """An experience that stands where it says, with test sets of at least one row."""
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
