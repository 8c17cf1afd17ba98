"""What every stream over one data set has in common: it is made of the data when asked, and is the same every time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadData, BadSetting, UnknownName
from ..core.rows import Picked, Rows
from ..core.stream import Experience, Task

Brings = Literal["each once", "all", "some"]
Scenario = Literal["domain", "class", "task"]


class Labelled(Rows, Protocol):
    """Rows whose labels can be read all at once."""

    @property
    def y(self) -> Tensor:
        """Labels, (rows,)."""
        ...


class Data(Protocol):
    """What streams are made of: `nacre.data.Source`, or anything of that form; `columns` may be missing."""

    @property
    def train(self) -> Labelled:
        """Training rows."""
        ...

    @property
    def test(self) -> Labelled:
        """Test rows."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Label k is called `classes[k]`."""
        ...

    @property
    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Classes that belong together; may be empty."""
        ...


class FromData(ABC):
    """A stream over one data set.

    Nothing is kept of an experience that was made: a stream of a thousand tasks is as large as one of two, but for what
    names them.

    Attributes:
        data: What it is made of.
        kind: The name under which `STREAMS` makes it.
        seed: Draws whatever is drawn.
        told: Whether rows carry their task id.
        class_names: The name of each label of the stream.
        brings: Which training rows tasks bring: `"each once"` (each row in exactly one task), `"all"` (every task brings
            every row, changed), or `"some"` (every task brings some, and rows may come back).
        in_order: Whether a task's rows lie in the order in which they arrived, which an online stream then keeps.
    """

    data: Data
    kind: str
    seed: int
    told: bool
    class_names: tuple[str, ...]
    brings: Brings = "each once"
    in_order: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """How many experiences there are."""

    @abstractmethod
    def _made(self, index: int) -> Experience:
        """The experience at a place that there is."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """The stream in words and numbers, ready for JSON; `length` is the number of its tasks."""

    def __getitem__(self, index: int) -> Experience:
        """The experience at a place, counted from 0."""
        if not 0 <= index < len(self):
            raise IndexError(f"this stream has experiences 0..{len(self) - 1}, not {index}")
        return self._made(index)

    def _about(self) -> dict[str, Any]:
        return {"kind": self.kind, "length": len(self), "seed": self.seed, "told": self.told}


def experience(
    index: int, train: Picked | None, test: Picked | None, classes: Sequence[int], told: bool, name: str
) -> Experience:
    """An experience with one test set; a test set of no row is none."""
    tests = {} if test is None or not len(test) else {name: test}
    return Experience(Task(index, train, tuple(classes), index if told else None), tests)


def check_classes(data: Data) -> None:
    """Names are given once, and labels are among them.

    Raises:
        BadData: they are not.
    """
    if twice := [c for c, n in Counter(data.classes).items() if n > 1]:
        raise BadData(f"two classes are called {twice[0]!r}: give each its own name")
    for what, rows in (("training", data.train), ("test", data.test)):
        y = rows.y
        if len(y) and (int(y.min()) < 0 or int(y.max()) >= len(data.classes)):
            raise BadData(
                f"{what} rows have labels {int(y.min())}..{int(y.max())}, the data name 0..{len(data.classes) - 1}: number "
                "them so"
            )


def row_shape(data: Data) -> tuple[int, ...]:
    """The shape of a row's numbers; empty where rows are not one tensor, as tokens are."""
    try:
        x = data.train.take(torch.zeros(1, dtype=torch.long)).x
    except BadData:  # texts that nobody has made tokens of yet
        return ()
    return tuple(x.shape[1:]) if isinstance(x, Tensor) else ()


def sizes_of(tasks: int | Sequence[int], units: int, what: str = "class") -> list[int]:
    """How many units each task has: 3 tasks of 7 units have 3, 2 and 2.

    Args:
        tasks: How many tasks, whose sizes then differ by one at most; or the number of units of each.
        units: How many units there are.
        what: What a unit is called in messages.

    Raises:
        BadSetting: tasks that cannot be made of them.
    """
    many = _plural(what)
    if isinstance(tasks, (bool, str)):
        raise BadSetting(f"tasks is a number, or a list of the {many} of each task, not {tasks!r}")
    if isinstance(tasks, int):
        if not 1 <= tasks <= units:
            raise BadSetting(f"{units} {many} cannot make {tasks} tasks: ask for 1 to {units}")
        return [units // tasks + (k < units % tasks) for k in range(tasks)]
    sizes = list(tasks)
    if not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in sizes) or sum(sizes) != units:
        whole = [s for s in sizes if isinstance(s, int)]
        raise BadSetting(
            f"tasks of {sizes} {many} make {sum(whole)}, but the data have {units}: give sizes of at least 1 that sum to "
            f"{units}, or a number of tasks"
        )
    return sizes


def arranged(
    order: str | Sequence[str | int], names: Sequence[str], seed: int, what: str = "class"
) -> tuple[list[int], str]:
    """The numbers of units in the order in which they shall come, and how that order is called.

    Args:
        order: Drawn by the `"seed"`, as `"given"`, or a list of names or numbers; whole numbers that are not all numbers of
            units are names.
        names: Of the units.
        seed: Draws the order.
        what: What a unit is called in messages.

    Raises:
        UnknownName: there is no unit of a name that is listed; the nearest is named.
        BadSetting: a unit is missing or is listed twice, or the order is none of them.
    """
    if not isinstance(order, str):
        return _listed(order, names, what), "listed"
    if order not in ("seed", "given"):
        raise BadSetting(f"order is 'seed', 'given' or a list of {_plural(what)}, not {order!r}")
    if order == "given":
        return list(range(len(names))), order
    return torch.randperm(len(names), generator=dice(seed, "split")).tolist(), order


def cut(units: Sequence[int], sizes: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The units one after the other as tasks of these sizes: 4, 2, 0, 1 in sizes 1 and 3 are (4) and (2, 0, 1)."""
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return tuple(tuple(units[end - size : end]) for end, size in zip(ends, sizes, strict=True))


def _listed(order: Sequence[str | int], names: Sequence[str], what: str) -> list[int]:
    number = {name: k for k, name in enumerate(names)}
    found = []
    by_number = all(isinstance(e, str) or 0 <= int(e) < len(names) for e in order)
    for entry in order:
        if not isinstance(entry, str) and by_number:
            found.append(int(entry))
        elif str(entry) in number:
            found.append(number[str(entry)])
        else:
            raise UnknownName(what, str(entry), names)
    if sorted(found) != list(range(len(names))):
        missing = [names[k] for k in range(len(names)) if k not in found]
        raise BadSetting(
            f"order lists {len(found)} {_plural(what)}, but must list each of the {len(names)} exactly once"
            + (f": {', '.join(missing[:5])} {'is' if len(missing) == 1 else 'are'} missing" if missing else "")
        )
    return found


def _plural(what: str) -> str:
    return {"class": "classes"}.get(what, f"{what}s")
