"""Kinds of streams by name: what can be set of each, and the stream that is made of the data.

It is over 300 lines because every kind stands here, with its paper and its settings.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Literal

import torch

from ..core.dice import dice
from ..core.errors import BadData, BadSetting, UnknownName
from ..core.paper import Fidelity, Paper
from ..core.state import check_settings, setting
from .arrival import arriving
from .blurry import blurred
from .changed import Changed, Map, padded, permutation, rotation
from .columns import columns_of
from .domains import by_class, by_column
from .from_data import Data, FromData, row_shape
from .periods import periods
from .placed import Placed
from .returning import Returning
from .split import Split, split

USUAL = 5  # tasks where nothing says how many
TASKS = "how many tasks, or how many classes each has; none = the groups of the data, else 5 tasks"
ORDER = '"seed" draws it, "given" takes it as it is, or a list of classes'
SCENARIO = '"domain": labels are shared; "class": each task\'s are new; "task": they are, and the task is told'
KEEP = "whether the first task sees the rows as they are"


@dataclass(frozen=True)
class Kind(ABC):
    """What can be set of a kind of stream.

    Attributes:
        paper: Where it comes from.
        fidelity: How sure we are that it is what was published.
    """

    paper: ClassVar[Paper | None] = None
    fidelity: ClassVar[Fidelity] = "faithful"

    def __post_init__(self) -> None:
        check_settings(self)

    @abstractmethod
    def over(self, data: Data, seed: int = 0) -> FromData:
        """The stream over these data.

        Raises:
            BadSetting: what is set does not fit the data.
            BadData: the data lack what the stream needs.
        """

    def row_shape(self, data: Data) -> tuple[int, ...]:
        """The shape of a row's numbers as tasks bring it; empty where rows are not one tensor, as tokens are."""
        return row_shape(data)


@dataclass(frozen=True)
class ClassIncremental(Kind):
    """New classes in each task; at test time all classes seen so far compete and the task is not told."""

    tasks: int | list[int] | None = setting(None, TASKS)
    order: str | list[str | int] = setting("seed", ORDER)

    def over(self, data: Data, seed: int = 0) -> Split:
        return split(data, _usual(self.tasks, data), order=self.order, seed=seed)


@dataclass(frozen=True)
class TaskIncremental(Kind):
    """New classes in each task; at test time the task is told, so only its own classes compete."""

    tasks: int | list[int] | None = setting(None, TASKS)
    order: str | list[str | int] = setting("seed", ORDER)

    def over(self, data: Data, seed: int = 0) -> Split:
        return split(data, _usual(self.tasks, data), order=self.order, seed=seed, told=True)


@dataclass(frozen=True)
class DomainIncremental(Kind):
    """The same labels in each task, and rows of another domain; the task is not told.

    Domains are the values of a column of the data. Without one, classes are grouped onto a fixed set of labels: each task
    brings new classes, and its k-th class is label k, as in split MNIST, where the answer is "first or second digit".
    """

    by: str | None = setting(
        None, 'the column of the domains, or "classes"; none = the column "domain" where there is one, else "classes"'
    )
    tasks: int | list[int] | None = setting(
        None, "how many tasks, or how many domains (or classes) each has; none = a task a domain, or 5 tasks"
    )
    order: str | list[str | int] = setting("seed", '"seed" draws it, "given", or a list of domains (or classes)')

    def over(self, data: Data, seed: int = 0) -> Placed:
        by = self.by or ("domain" if "domain" in columns_of(data) else "classes")
        if by == "classes":
            return by_class(data, self.tasks, self.order, seed, USUAL)
        return by_column(data, by, self.tasks, self.order, seed)


@dataclass(frozen=True)
class Permuted(Kind):
    """Every task brings all rows, with their pixels in another order; the channels of a pixel stay together.

    Training and test rows of a task are permuted alike. Of vectors, the numbers are permuted.
    """

    paper: ClassVar[Paper | None] = Paper(
        "An Empirical Investigation of Catastrophic Forgetting in Gradient-Based Neural Networks", 2013, "1312.6211"
    )

    tasks: int = setting(10, "how many tasks, each with an order of its own", low=1)
    pad: int = setting(0, "pixels of 0 around pictures before they are permuted: 2 makes 28x28 into 32x32", low=0)
    keep_first: bool = setting(False, KEEP)
    scenario: Literal["domain", "class", "task"] = setting("domain", SCENARIO)

    def row_shape(self, data: Data) -> tuple[int, ...]:
        shape = row_shape(data)
        return (*shape[:1], *(n + 2 * self.pad for n in shape[1:]))

    def over(self, data: Data, seed: int = 0) -> Changed:
        shape = row_shape(data)
        if len(shape) not in (1, 3) or (self.pad and len(shape) != 3):
            what = "pictures, to be padded" if self.pad else "pictures or vectors"
            raise BadData(f"permuted streams are made of {what}, not of rows of shape {shape}: take other data")

        def view(task: int) -> Map:
            plain = self.keep_first and not task
            return padded(self.pad) if plain else permutation(shape, self.pad, seed, task)

        about = {"pad": self.pad, "keep_first": self.keep_first}
        return Changed(data, "permuted", self.tasks, view, self.scenario, seed, about)


@dataclass(frozen=True)
class Rotated(Kind):
    """Every task brings all pictures, turned by another angle; training and test pictures of a task alike."""

    paper: ClassVar[Paper | None] = Paper("Gradient Episodic Memory for Continual Learning", 2017, "1706.08840")

    tasks: int | None = setting(None, "how many tasks; none = one for each of `angles`, else 10", low=1)
    angles: list[float] | None = setting(
        None, "degrees of each task, counter-clockwise; none draws them from 0 to `most`"
    )
    most: float = setting(180.0, "degrees that are drawn at most", low=0, high=360)
    smooth: bool = setting(False, "whether turned pixels are interpolated, or each is that of the nearest place")
    scenario: Literal["domain", "class", "task"] = setting("domain", SCENARIO)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.angles is None:
            return
        if not self.angles:
            raise BadSetting("Rotated.angles is empty: give one for each task, or none to have them drawn")
        for angle in self.angles:
            if isinstance(angle, bool) or not isinstance(angle, (int, float)) or not -1e6 < angle < 1e6:
                raise BadSetting(f"Rotated.angles are numbers of degrees, not {angle!r}: write angles = [0, 80, 160]")
        if self.tasks not in (None, len(self.angles)):
            raise BadSetting(
                f"Rotated.angles has {len(self.angles)} of them, for {self.tasks} tasks: leave tasks out, or give as many"
            )

    def over(self, data: Data, seed: int = 0) -> Changed:
        shape = row_shape(data)
        if len(shape) != 3:
            raise BadData(f"rotated streams are made of pictures, not of rows of shape {shape}: take other data")
        angles = self.angles
        if angles is None:
            angles = [self.most * _chance(seed, "rotated", k) for k in range(self.tasks or 2 * USUAL)]
        about = {"angles": angles, "smooth": self.smooth}
        view = partial(_turned, shape, angles, self.smooth)
        return Changed(data, "rotated", len(angles), view, self.scenario, seed, about)


@dataclass(frozen=True)
class Blurry(Kind):
    """Some classes come in one task alone; of the others, some rows come in any task (Si-Blurry).

    A share of the classes is disjoint, the others are blurry: each has a task, and a share of the rows of all of them is
    pooled and dealt out again, each task getting as many as it gave. Si-Blurry draws how many classes of either sort a task
    has, and how many rows it gives; without `stochastic` these are equal, as in i-Blurry. Tasks may be small, or empty.

    The public code of Si-Blurry drops classes that do not divide by the number of tasks, and gives away the first rows of a
    class; here no class is dropped, and the rows are drawn.
    """

    paper: ClassVar[Paper | None] = Paper(
        "Online Class Incremental Learning on Stochastic Blurry Task Boundary via Mask and Visual Prompt Tuning", 2023,
        "2308.09303",
    )  # fmt: skip

    tasks: int = setting(USUAL, "how many tasks", low=1)
    disjoint: float = setting(
        0.5, "share of the classes that come in one task alone: N = 50 in the paper", low=0, high=1
    )
    blur: float = setting(
        0.1, "share of the other classes' rows that change places: M = 10 in the paper", low=0, high=1
    )
    stochastic: bool = setting(True, "whether sizes are drawn (Si-Blurry) or equal (i-Blurry)")

    def over(self, data: Data, seed: int = 0) -> Placed:
        return blurred(data, self.tasks, self.disjoint, self.blur, self.stochastic, seed)


@dataclass(frozen=True)
class TimeIncremental(Kind):
    """Each task is a period of time; test rows are those of the period. Met once, rows keep their order."""

    tasks: int = setting(USUAL, "how many periods", low=1)
    by: str | None = setting(
        None, 'the column of the times; none = the column "time" where there is one, else the order of the rows'
    )
    cut: Literal["rows", "span"] = setting("rows", 'periods of equally many "rows", or of an equal "span" of time')

    def over(self, data: Data, seed: int = 0) -> Placed:
        by = self.by or ("time" if "time" in columns_of(data) else None)
        return periods(data, self.tasks, by, self.cut)


@dataclass(frozen=True)
class Reoccurring(Kind):
    """A long stream of small tasks: a few classes at a time, drawn anew each time, so that they come back (SCoLe).

    Each task is tested on the same test set, `all`: all test rows. How that score rises over the tasks is how knowledge
    accumulates.
    """

    paper: ClassVar[Paper | None] = Paper(
        "Challenging Common Assumptions about Catastrophic Forgetting and Knowledge Accumulation", 2023, "2207.04543"
    )

    tasks: int = setting(100, "how many tasks", low=1)
    classes: int = setting(2, "classes of each task", low=1)
    rows: int | None = setting(None, "training rows of each of its classes, drawn anew; none = all", low=1)
    imbalance: float = setting(
        0.0, "how unequally often classes come: the exponent of their falling chances; 0 = equally", low=0, high=100
    )

    def over(self, data: Data, seed: int = 0) -> Returning:
        return Returning(data, self.tasks, self.classes, self.rows, self.imbalance, seed)


STREAMS: dict[str, type[Kind]] = {
    "class-incremental": ClassIncremental,
    "task-incremental": TaskIncremental,
    "domain-incremental": DomainIncremental,
    "permuted": Permuted,
    "rotated": Rotated,
    "blurry": Blurry,
    "time-incremental": TimeIncremental,
    "re-occurring": Reoccurring,
}
"""The kinds by name."""


def stream(kind: str, data: Data, *, arrival: str = "offline", seed: int = 0, **settings: Any) -> Any:
    """A stream of that kind over the data.

    Args:
        kind: One of `STREAMS`.
        data: What to make it of.
        arrival: How its rows arrive, one of `ARRIVALS`.
        seed: Draws whatever is drawn.
        **settings: Settings of that kind, such as `tasks` and `order`.

    Raises:
        UnknownName: no kind, arrival or setting of it has that name; the nearest is named.
        BadSetting: a setting does not fit.
        BadData: the data lack what the stream needs.

    >>> from nacre.data import load
    >>> long = stream("re-occurring", load("digits"), tasks=1000)
    >>> len(long), long[999].task.classes, list(long[999].tests)
    (1000, (0, 5), ['all'])
    """
    check_names(kind, settings)
    return arriving(STREAMS[kind](**settings).over(data, seed), arrival, seed)


def check_names(kind: str, settings: Any) -> None:
    """There is such a kind, and it has settings of these names.

    Raises:
        UnknownName: there is not; the nearest is named.
    """
    if kind not in STREAMS:
        raise UnknownName("stream", kind, STREAMS)
    known = [f.name for f in fields(STREAMS[kind])]
    for name in settings:
        if name not in known:
            raise UnknownName(f"setting of the {kind} stream", name, known)


def _usual(tasks: int | Sequence[int] | None, data: Data) -> int | Sequence[int]:
    """How many tasks, where nothing says so."""
    return tasks if tasks is not None else len(data.groups) or min(USUAL, len(data.classes))


def _chance(*place: int | str) -> float:
    """A number drawn uniformly from 0 to 1."""
    return float(torch.rand((), generator=dice(*place)))


def _turned(shape: tuple[int, ...], angles: Sequence[float], smooth: bool, task: int) -> Map:
    return rotation(shape, angles[task], smooth)
