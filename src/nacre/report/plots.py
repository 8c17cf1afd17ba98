"""The plots of a report. Each takes figures and gives SVG; scores are shares, and are shown in percent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .colours import SERIES, of_task
from .drawing import colour, drawing
from .figures import Grid, Value, evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HALF = 460  # CSS pixels of a plot that has another one beside it
WIDE = 1060  # CSS pixels of a plot that takes the whole width
BARS = 60  # that stand side by side at most
LINES = 12  # tasks that are drawn one by one at most
LABEL = 24  # letters of a name in a plot
TALL = 210  # CSS pixels of the axis of `each_task`
LETTERS = 12  # CSS pixels that a line of text takes


@dataclass(frozen=True)
class Line:
    """A curve over tasks.

    Attributes:
        name: What it is called.
        values: One for each task.
        colour: A variable of the page.
        bound: Whether it is something to compare with.
    """

    name: str
    values: Sequence[Value]
    colour: str = "c0"
    bound: bool = False


@dataclass(frozen=True)
class Level:
    """A figure that is known only for the end: a line across.

    Attributes:
        name: What it is called.
        value: The figure, and its spread.
    """

    name: str
    value: Value


def short(name: str, most: int = LABEL) -> str:
    """A name that fits into a plot.

    >>> short("abcdefgh", 5)
    'abcd…'
    """
    plain = "".join(c if c.isprintable() else "·" for c in name)
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def over_tasks(name: str, lines: Sequence[Line], levels: Sequence[Level], score: str, width: float = HALF) -> str:
    """The mean score over the tasks learned so far, after each task; a band is the spread over the seeds."""
    with drawing(name, width, 270 if width == HALF else 300) as drawn:
        axes = drawn.axes
        longest = max((len(line.values) for line in lines), default=0)
        for line in lines:
            _line(axes, line, many=longest > 40)
        for k, level in enumerate(levels):
            _level(axes, level, f"c{(k + 6) % SERIES}")
        axes.set_xlabel("tasks learned")
        percents(axes, score)
        _whole(axes, longest)
        if len(lines) + len(levels) > 1:
            legend(axes, len(lines) + len(levels))
    return drawn.svg


def each_task(name: str, grid: Grid, score: str) -> str:
    """The score of each test set after each moment."""
    columns, cells = grid.columns, grid.cells
    moments = [k + 1 for k in evenly(grid.counts[0], len(grid.rows))]
    with drawing(name, HALF, 270) as drawn:
        axes = drawn.axes
        shown = evenly(len(columns), LINES)
        for j in shown:
            y = [100 * row[j].mean for row in cells]
            last = max((i for i, v in enumerate(y) if not math.isnan(v)), default=None)
            hue = colour(of_task(j, len(columns)))
            few = len(moments) <= 20
            axes.plot(moments, y, color=hue, marker="o" if few else "", markersize=3.5, linewidth=1.6)
            if last is not None and len(shown) <= LINES:
                axes.annotate(
                    short(columns[j], 9),
                    (moments[last], y[last]),
                    (5, 0),
                    textcoords="offset points",
                    va="center",
                    color=hue,
                    fontsize=11.5,
                    annotation_clip=False,
                )
        axes.set_xlabel("moment of measurement")
        percents(axes, score)
        _whole(axes, grid.counts[0])
        _apart(axes)
        axes.figure.subplots_adjust(right=1 - 66 / HALF)
    return drawn.svg


def forgetting(name: str, tests: Sequence[str], values: Sequence[Value]) -> str:
    """What each task lost, with its spread over the seeds."""
    with drawing(name, WIDE, 250) as drawn:
        axes = drawn.axes
        shown = evenly(len(tests), BARS)
        y = [100 * values[k].mean for k in shown]
        hues = [colour("c1") if v > 0 else colour("c2") for v in y]
        axes.bar(range(len(shown)), [0 if math.isnan(v) else v for v in y], 0.62, color=hues)
        for i, k in enumerate(shown):
            spread = values[k].spread
            if spread is not None and not math.isnan(y[i]):
                axes.errorbar(i, y[i], 100 * spread, color=colour("ink"), linewidth=1, capsize=3, capthick=1)
        few = len(shown) <= 20
        labels = [short(tests[k], 12 if few else 6) for k in shown]
        ticks = range(0, len(shown), 1 if len(shown) <= 30 else -(-len(shown) // 20))
        axes.set_xticks(list(ticks), [labels[i] for i in ticks])
        axes.axhline(0, color=colour("line"), linewidth=1)
        axes.set_ylabel("points lost")
        axes.set_xlim(-0.7, max(len(shown), 4) - 0.3)
        _room(axes, [v for v in y if not math.isnan(v)])
    return drawn.svg


def moved(name: str, values: Sequence[Value], label: str) -> str:
    """A figure of motion for each task."""
    with drawing(name, HALF, 190) as drawn:
        axes = drawn.axes
        _line(axes, Line("", values), many=len(values) > 40)
        axes.set_xlabel("task")
        axes.set_ylabel(label)
        _whole(axes, len(values))
        axes.set_ylim(0, 1.06 * axes.get_ylim()[1])
        known = [100 * v.mean for v in values if not math.isnan(v.mean)]
        if not known or max(known) <= 0:
            axes.set_ylim(0, 1)
    return drawn.svg


def paired(name: str, gains: Mapping[str, Sequence[float]], hues: Sequence[str]) -> str:
    """The difference of each pair of runs of equal seed, and its mean and spread."""
    with drawing(name, WIDE, 70 + 46 * len(gains)) as drawn:
        axes = drawn.axes
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        for k, (_, each) in enumerate(gains.items()):
            points = [100 * v for v in each]
            axes.plot(
                points, [k] * len(points), "o", color=colour(hues[k]), markersize=7, alpha=0.65, markeredgewidth=0
            )
            if points:
                mean = sum(points) / len(points)
                axes.plot([mean, mean], [k - 0.28, k + 0.28], color=colour("ink"), linewidth=2)
        axes.axvline(0, color=colour("muted"), linewidth=1)
        axes.set_yticks(range(len(gains)), [short(n, 26) for n in gains])
        axes.set_ylim(len(gains) - 0.5, -0.5)
        axes.set_xlabel("points more than the first run, a dot a seed, a bar their mean")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, -1), max(high, 1))
        axes.figure.subplots_adjust(left=190 / WIDE)
    return drawn.svg


# ---------------------------------------------------------------------------------------------------------------- the pieces


def _line(axes: Axes, line: Line, many: bool) -> None:
    x = list(range(1, len(line.values) + 1))
    y = [100 * v.mean for v in line.values]
    hue = colour(line.colour)
    spread = [100 * (v.spread or 0.0) for v in line.values]
    if any(spread):
        low, high = ([m + sign * s for m, s in zip(y, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(x, low, high, color=hue, alpha=0.16, linewidth=0)
    style = (0, (5, 3)) if line.bound else "-"
    lone = "o" if not many or len(x) == 1 else ""
    axes.plot(x, y, color=hue, linewidth=2, linestyle=style, marker=lone, markersize=4, label=short(line.name, 34))


def _level(axes: Axes, level: Level, name: str) -> None:
    mean, spread = 100 * level.value.mean, level.value.spread
    axes.axhline(mean, color=colour(name), linewidth=1.6, linestyle=(0, (5, 3)), label=short(level.name, 34))
    if spread:
        axes.axhspan(mean - 100 * spread, mean + 100 * spread, color=colour(name), alpha=0.13, linewidth=0)


def percents(axes: Axes, score: str) -> None:
    """Name the axis of a score, and keep an accuracy between 0 and 100."""
    axes.set_ylabel(f"{short(score, 30)}, %")
    if "accuracy" in score:
        low, high = axes.get_ylim()
        axes.set_ylim(max(min(low, 98), -3), min(max(high, 5), 103))


def _room(axes: Axes, known: Sequence[float]) -> None:
    low, high = min([0.0, *known]), max([0.0, *known])
    if high - low < 1:
        axes.set_ylim(low - 0.5, high + 0.5)


def _whole(axes: Axes, count: int) -> None:
    """Whole numbers from 1 below the plot."""
    step = max(1, -(-count // 10))
    ticks = [1, *range(step, count + 1, step)] if step > 1 else list(range(1, count + 1))
    axes.set_xticks(sorted(set(ticks)))
    axes.set_xlim(0.6, max(count, 2) + 0.4)


def legend(axes: Axes, count: int, outside: bool = False) -> None:
    """Say which line is which: where there is room, or to the right of a wide plot."""
    if outside:
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), handlelength=1.4, labelspacing=0.35)
        axes.figure.subplots_adjust(right=1 - 176 / WIDE)
    else:
        axes.legend(loc="best", handlelength=2.2, labelspacing=0.35, ncols=1 if count <= 6 else 2)


def _apart(axes: Axes) -> None:
    """Push the labels of lines apart where they end at the same place, inside the plot."""
    low, high = axes.get_ylim()
    pixels = TALL / (high - low)
    by_place: dict[float, list[Any]] = {}
    for text in axes.texts:
        by_place.setdefault(text.xy[0], []).append(text)  # pyright: ignore[reportAttributeAccessIssue]
    for held in by_place.values():
        held.sort(key=lambda text: text.xy[1])
        heights = [(text.xy[1] - low) * pixels for text in held]
        for k in range(1, len(held)):
            heights[k] = max(heights[k], heights[k - 1] + LETTERS)
        ceiling = TALL + LETTERS / 2
        for k in reversed(range(len(held))):
            heights[k] = ceiling = min(heights[k], ceiling)
            ceiling -= LETTERS
        for text, height in zip(held, heights, strict=True):
            text.set_position((5, height - (text.xy[1] - low) * pixels))
