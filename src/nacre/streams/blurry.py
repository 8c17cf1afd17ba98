"""Streams with blurry borders: some classes belong to one task alone, and of the others some rows come in any task."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadSetting
from .from_data import Data, check_classes, sizes_of
from .placed import Placed

KIND = "blurry"


def blurred(data: Data, tasks: int, disjoint: float, blur: float, stochastic: bool, seed: int) -> Placed:
    """Classes are shared out over the tasks; then rows of the blurry ones change places.

    Labels are numbered in the order in which their first rows come. The test set of a task holds the classes that came up in
    it for the first time; all of them together are what had come up so far.

    Args:
        data: What to cut.
        tasks: How many tasks.
        disjoint: Which share of the classes comes in one task alone.
        blur: Which share of the other classes' rows changes places.
        stochastic: Whether sizes are drawn (Si-Blurry) or equal (i-Blurry).
        seed: Draws everything.
    """
    check_classes(data)
    count = len(data.classes)
    if not 1 <= tasks <= count:
        raise BadSetting(f"{count} classes cannot make {tasks} blurry tasks: ask for 1 to {count}")
    order = torch.randperm(count, generator=dice(seed, KIND, "classes"))
    apart = int(count * disjoint + 1e-9)
    home = torch.empty(count, dtype=torch.long)
    for name, classes in (("disjoint", order[:apart]), ("blurry", order[apart:])):
        sizes = _drawn(len(classes), tasks, seed, name) if stochastic else _equal(len(classes), tasks)
        home[classes] = torch.arange(tasks).repeat_interleave(torch.tensor(sizes))
    y = data.train.y.cpu()
    place = home[y]
    movable = torch.zeros(count, dtype=torch.bool).index_fill_(0, order[apart:], True)[y]
    _change_places(place, movable, tasks, blur, stochastic, seed)
    first = torch.full((count,), tasks).scatter_reduce_(0, y, place, "amin")  # the task in which each class comes up
    arrival = order[first[order].argsort(stable=True)]
    about = {
        "disjoint": disjoint, "blur": blur, "stochastic": stochastic,
        "disjoint_classes": [data.classes[c] for c in order[:apart].tolist()],
        "rows_moved": int((place != home[y]).sum()),
    }  # fmt: skip
    return Placed(
        data, KIND, tasks, place, first[data.test.y.cpu()], tuple(data.classes[c] for c in arrival.tolist()),
        arrival.argsort(), seed, may_lack=True, about=about,
    )  # fmt: skip


def _equal(units: int, tasks: int) -> list[int]:
    return sizes_of(tasks, units) if units >= tasks else [int(k < units) for k in range(tasks)]


def _drawn(units: int, tasks: int, seed: int, name: str) -> list[int]:
    """Sizes between cuts that are drawn uniformly; some may be 0."""
    cuts = torch.randint(0, units + 1, (tasks - 1,), generator=dice(seed, KIND, "cuts", name)).sort().values.tolist()
    return [end - begin for begin, end in zip([0, *cuts], [*cuts, units], strict=True)]


def _change_places(place: Tensor, movable: Tensor, tasks: int, blur: float, stochastic: bool, seed: int) -> None:
    """Let a share of the movable rows change places, (rows,) in `place`: each task gives away as many as it gets."""
    counts = torch.bincount(place[movable], minlength=tasks).tolist()
    if stochastic:
        asked = _drawn(int(sum(counts) * blur + 1e-9), tasks, seed, "rows")
        given = [min(a, n) for a, n in zip(asked, counts, strict=True)]
    else:
        given = [int(n * blur + 1e-9) for n in counts]
    pool = []
    for index, size in enumerate(given):
        mine = (movable & (place == index)).nonzero().flatten()
        pool.append(mine[torch.randperm(len(mine), generator=dice(seed, KIND, "given", index))[:size]])
    rows = torch.cat(pool)
    rows = rows[torch.randperm(len(rows), generator=dice(seed, KIND, "taken"))]
    place[rows] = torch.arange(tasks).repeat_interleave(torch.tensor(given))
