"""What is read off a record for a report: means over seeds, curves over tasks, drops behind borders, motion by layers.

Numbers only; what is not known is NaN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from ..core.run import NAN, Result, Run

START = "start"  # the moment before the first task


@dataclass(frozen=True)
class Value:
    """A number over the seeds.

    Attributes:
        mean: NaN where no seed has it.
        spread: The sample standard deviation; None where fewer than two seeds have it.
    """

    mean: float = NAN
    spread: float | None = None


def over(values: Iterable[float | None]) -> Value:
    """The mean and spread of what is known.

    >>> over([1.0, None, 3.0]).mean, over([2.0]).spread
    (2.0, None)
    """
    known = [v for v in values if v is not None and math.isfinite(v)]
    count = len(known)
    mean = math.fsum(known) / count if known else NAN
    return Value(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (count - 1)) if count > 1 else None)


def evenly(count: int, most: int) -> list[int]:
    """All places, or so many of them, evenly spread, the first and the last among them.

    >>> evenly(3, 5), evenly(100, 3)
    ([0, 1, 2], [0, 50, 99])
    """
    if count <= most:
        return list(range(count))
    return [round(k * (count - 1) / max(most - 1, 1)) for k in range(most)]


@dataclass(frozen=True)
class Grid:
    """Values by row and column; of many rows or columns some, evenly spread.

    Attributes:
        rows: Names of the rows.
        columns: Names of the columns.
        cells: A row a list.
        counts: How many rows and columns there are in all.
    """

    rows: list[str]
    columns: list[str]
    cells: list[list[Value]]
    counts: tuple[int, int]


def fullest(run: Run) -> Result | None:
    """The result of the seed that came farthest; None where there is none."""
    return max(run.results.values(), key=lambda r: len(r.moments), default=None)


def scores(run: Run, most: int, seed: int | None = None) -> Grid:
    """The matrix of a seed, or its mean over the seeds that measured at each place, with `most` rows and columns at most."""
    results = [run.results[seed]] if seed is not None else list(run.results.values())
    shape = max(results, key=lambda r: len(r.moments))
    counts = (len(shape.moments), len(shape.tests))
    down, across = (evenly(count, most) for count in counts)
    cells = [[over(_cell(r, i, j) for r in results) for j in across] for i in down]
    names = [shape.tests[j]["name"] for j in across]
    return Grid([shape.moments[i] for i in down], names, cells, counts)


def over_tasks(result: Result) -> list[float]:
    """After each task, the mean score over the tasks learned by then."""
    place = {moment: i for i, moment in enumerate(result.moments)}
    learned = [place.get(t["learned"], math.inf) for t in result.tests]
    found = []
    for i, row in enumerate(result.matrix):
        if result.moments[i] != START:
            found.append(over(v for v, since in zip(row, learned, strict=True) if since <= i).mean)
    return found


def by_task(run: Run) -> list[tuple[str, Value, Value, Value, Value]]:
    """For each test set: its name, the score when learned, the best, the last, and what was forgotten (best - last).

    The best is taken from when the task was learned to the last moment but one, as the record's `forgetting` takes it; a
    task that was learned last has forgotten nothing that could be measured.
    """
    shape = fullest(run)
    found = []
    for j, test in enumerate(shape.tests if shape is not None else []):
        each = [_of_test(r, j, run.score.get("better") == "lower") for r in run.results.values() if j < len(r.tests)]
        columns = [over(values) for values in zip(*each, strict=True)]
        found.append((str(test["name"]), columns[0], columns[1], columns[2], columns[3]))
    return found


def _of_test(result: Result, j: int, lower: bool) -> tuple[float, float, float, float]:
    learned = result.tests[j]["learned"]
    if learned not in result.moments:
        return NAN, NAN, _cell(result, len(result.moments) - 1, j), NAN
    first = result.moments.index(learned)
    seen = [row[j] if j < len(row) else NAN for row in result.matrix[first:]]
    earlier = [v for v in seen[:-1] if not math.isnan(v)]
    best = (min(earlier) if lower else max(earlier)) if earlier else seen[0]
    lost = ((seen[-1] - best) if lower else (best - seen[-1])) if earlier else NAN
    return seen[0], best, seen[-1], lost


def _cell(result: Result, i: int, j: int) -> float:
    """One score, NaN where there is none."""
    inside = 0 <= i < len(result.matrix) and j < len(result.matrix[i])
    return result.matrix[i][j] if inside else NAN


# ------------------------------------------------------------------------------------------------------------ while it trains


@dataclass(frozen=True)
class Drop:
    """What happened to earlier tasks behind a border.

    Attributes:
        task: The task that began.
        before: Mean score of the watch sets of earlier tasks, when they were scored last before it.
        lowest: The lowest mean while it was learned.
        after: The mean when it had been learned.
        at: Steps of the whole run at the lowest.
    """

    task: int
    before: float
    lowest: float
    after: float
    at: float


@dataclass(frozen=True)
class Watch:
    """The watch curves of a seed over the steps of the whole run.

    Attributes:
        curves: Test set -> steps and scores.
        old: Steps, and the mean over the tasks learned before.
        borders: Where tasks began: step and task.
        drops: What happened behind each border but the first.
    """

    curves: dict[str, tuple[list[float], list[float]]]
    old: tuple[list[float], list[float]]
    borders: list[tuple[float, int]]
    drops: list[Drop]


def starts(result: Result) -> dict[tuple[int, int], float]:
    """How many steps of the whole run were done before each stage that is held."""
    found, done = {}, 0.0
    for curve in result.curves.get("loss") or []:
        found[curve["task"], curve["stage"]] = done
        done += curve.get("steps") or 0
    return found


def losses(result: Result) -> tuple[list[float], list[float]]:
    """Steps of the whole run, and the losses there; NaN between stages."""
    begun, x, y = starts(result), [], []
    for curve in result.curves.get("loss") or []:
        first = begun[curve["task"], curve["stage"]]
        x += [*(first + s for s in curve["step"]), first + (curve["steps"] or 0)]
        y += [*(NAN if v is None else v for v in curve["loss"]), NAN]
    return x, y


def watch(result: Result) -> Watch:
    """The watch curves, and the drops behind borders."""
    begun, learned = starts(result), {t["name"]: t["learned"] for t in result.tests}
    curves: dict[str, tuple[list[float], list[float]]] = {}
    means: dict[int, list[tuple[float, float, dict[str, float]]]] = {}
    for part in result.curves.get("watch") or []:
        first = begun.get((part["task"], part["stage"]), 0.0)
        new = {name for name, moment in learned.items() if moment == f"task{part['task']}"}
        for k, step in enumerate(part["step"]):
            at = {n: s[k] for n, s in part["scores"].items() if k < len(s) and s[k] is not None}
            for name, score in at.items():
                x, y = curves.setdefault(name, ([], []))
                x.append(first + step)
                y.append(score)
            earlier = {n: v for n, v in at.items() if n not in new}
            means.setdefault(part["task"], []).append((first + step, over(earlier.values()).mean, at))
    old_x = [x for points in means.values() for x, mean, _ in points if not math.isnan(mean)]
    old_y = [mean for points in means.values() for _, mean, _ in points if not math.isnan(mean)]
    borders: dict[int, float] = {}  # tasks, and where their first stage begins
    for (task, _), first in sorted(begun.items()):
        borders.setdefault(task, first)
    return Watch(curves, (old_x, old_y), sorted((first, task) for task, first in borders.items()), _drops(means))


def _drops(means: dict[int, list[tuple[float, float, dict[str, float]]]]) -> list[Drop]:
    """Each task's lowest mean of earlier tasks, beside the same tasks' mean when they were scored last before it."""
    found, tasks = [], sorted(means)
    for previous, task in pairwise(tasks):
        points = [(x, mean) for x, mean, _ in means[task] if not math.isnan(mean)]
        if points:
            at, lowest = min(points, key=lambda p: p[1])
            before = over(means[previous][-1][2].values()).mean
            found.append(Drop(task, before, lowest, points[-1][1], at))
    return found


# ------------------------------------------------------------------------------------------------------------------ motion


@cache
def layer_of(tensor: str) -> str:
    """The layer that a tensor belongs to: its name up to the first number, else the module that holds it.

    >>> layer_of("body.net.layers.3.mlp.fc1.weight"), layer_of("layer1.0.conv1.weight"), layer_of("head.bias")
    ('body.net.layers.3', 'layer1.0', 'head')
    """
    numbered = re.match(r"(.*?\.\d+)(\.|$)", tensor)
    return numbered[1] if numbered else tensor.rpartition(".")[0] or tensor


def _layers(result: Result, moment: str) -> dict[str, dict[str, float]]:
    """Each layer's share of entries that moved and relative distance, in a task; empty where its tensors are not held."""
    together: dict[str, list[dict[str, Any]]] = {}
    for tensor, held in (result.motion.get(moment, {}).get("tensors") or {}).items():
        together.setdefault(layer_of(tensor), []).append(held)
    return {layer: _together(held) for layer, held in together.items()}


def _together(held: Sequence[dict[str, Any]]) -> dict[str, float]:
    entries = sum(row["entries"] for row in held)
    moved = sum((row["moved"] or 0.0) * row["entries"] for row in held)
    far = math.sqrt(sum((row["distance"] if row["distance"] is not None else NAN) ** 2 for row in held))
    size = math.sqrt(sum((row["size"] if row["size"] is not None else NAN) ** 2 for row in held))
    return {"entries": entries, "moved": moved / entries if entries else 0.0, "relative": far / size if size else 0.0}


def motion(run: Run, keys: Sequence[str], most: tuple[int, int]) -> list[Grid]:
    """Figures by layer and task, `moved` or `relative`, over the seeds; with so many layers and tasks at most."""
    results = list(run.results.values())
    moments = list(dict.fromkeys(m for r in results for m, row in r.motion.items() if row.get("tensors")))
    shown = [moments[k] for k in evenly(len(moments), most[1])]
    each = [{m: _layers(r, m) for m in shown} for r in results]
    names = list(dict.fromkeys(name for held in each for layers in held.values() for name in layers))
    kept = [names[k] for k in evenly(len(names), most[0])]
    return [
        Grid(
            kept,
            shown,
            [[over(held[m].get(name, {}).get(key) for held in each) for m in shown] for name in kept],
            (len(names), len(moments)),
        )
        for key in keys
    ]


def total_motion(run: Run, key: str) -> list[tuple[str, Value]]:
    """`moved` or `relative` of all tensors as one, by task."""
    moments = list(dict.fromkeys(m for r in run.results.values() for m in r.motion))
    return [(m, over(_total(r, m, key) for r in run.results.values())) for m in moments]


def _total(result: Result, moment: str, key: str) -> float | None:
    return result.motion.get(moment, {}).get("total", {}).get(key)


def paired(one: Run, other: Run, figure: str) -> list[tuple[int, float]]:
    """Seeds that both runs have, and the figure of the one minus that of the other."""
    pairs = [
        (s, r.figure(figure) - other.results[s].figure(figure)) for s, r in one.results.items() if s in other.results
    ]
    return [(seed, gain) for seed, gain in pairs if not math.isnan(gain)]


def mean_curve(run: Run, of: Callable[[Result], list[float]] = over_tasks) -> list[Value]:
    """A curve over tasks, its mean and spread over the seeds."""
    each = [of(r) for r in run.results.values()]
    longest = max(map(len, each), default=0)
    return [over(c[i] for c in each if i < len(c)) for i in range(longest)]
