"""The plots of what happens while a run trains: watch sets and losses over its steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .colours import of_task
from .drawing import colour, drawing
from .figures import Drop, Watch, evenly
from .plots import LINES, WIDE, legend, percents, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 600  # of a line at most
FEW = 40  # points that are drawn one by one
LOW = 0.12  # a score below which a label stands above its point, not on the axis


def watching(name: str, watch: Watch, order: Sequence[str], score: str) -> str:
    """The watch sets while training goes on; behind each border the lowest mean of earlier tasks is marked."""
    with drawing(name, WIDE, 340) as drawn:
        axes = drawn.axes
        place = {test: k for k, test in enumerate(order)}
        known = [test for test in order if test in watch.curves]
        for k in evenly(len(known), LINES):
            x, y = _thinned(*watch.curves[known[k]])
            hue = colour(of_task(place[known[k]], len(order)))
            told = {"color": hue, "linewidth": 1.1, "alpha": 0.75, "label": short(known[k], 14)}
            axes.plot(x, [100 * v for v in y], **told, **_dots(y))
        x, y = _thinned(*watch.old)
        if x:
            axes.plot(x, [100 * v for v in y], color=colour("ink"), linewidth=2.2, label="mean of earlier tasks")
        for k in evenly(len(watch.borders), 50):
            axes.axvline(watch.borders[k][0], color=colour("muted"), linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        marked = sorted(watch.drops, key=lambda d: d.lowest - d.before)[:20]
        for drop in marked:
            _mark(axes, drop)
        axes.set_xlabel("steps, over all tasks; dotted lines: a new task begins")
        percents(axes, score)
        axes.set_ylim(-4, 104)
        axes.margins(x=0.01)
        legend(axes, len(known) + 1, outside=True)
    return drawn.svg


def loss(name: str, x: Sequence[float], y: Sequence[float], borders: Sequence[tuple[float, int]]) -> str:
    """The loss over the steps of the whole run."""
    with drawing(name, WIDE, 230) as drawn:
        axes = drawn.axes
        x, y = _thinned(x, y, 2 * POINTS)
        known = [v for v in y if math.isfinite(v)]
        axes.plot(x, y, color=colour("c0"), linewidth=1.4, **_dots(y))
        for k in evenly(len(borders), 50):
            axes.axvline(borders[k][0], color=colour("muted"), linewidth=0.8, linestyle=(0, (2, 3)), zorder=1)
        if known and min(known) > 0 and max(known) > 50 * min(known):
            axes.set_yscale("log")
            axes.minorticks_off()
        axes.set_xlabel("steps, over all tasks")
        axes.set_ylabel("loss")
        axes.margins(x=0.01)
    return drawn.svg


def _mark(axes: Axes, drop: Drop) -> None:
    """The lowest point behind a border, and how deep it is."""
    depth = 100 * (drop.lowest - drop.before)
    if math.isnan(depth) or depth > -0.5:
        return
    axes.plot([drop.at], [100 * drop.lowest - 1.6], "^", color=colour("c1"), markersize=7, markeredgewidth=0, zorder=5)
    text = f"−{abs(depth):.0f}"
    at = (drop.at, 100 * drop.lowest)
    under = {"facecolor": colour("page"), "edgecolor": "none", "alpha": 0.8, "pad": 0.6}
    axes.annotate(
        text,
        at,
        (0, -20 if drop.lowest > LOW else 9),
        textcoords="offset points",
        ha="center",
        color=colour("c1"),
        fontsize=11.5,
        bbox=under,
        zorder=6,
    )


def _dots(y: Sequence[float]) -> dict[str, Any]:
    """Few points are drawn as such too: a line needs two."""
    return {"marker": "o", "markersize": 3.5} if sum(map(math.isfinite, y)) <= FEW else {}


def _thinned(x: Sequence[float], y: Sequence[float], most: int = POINTS) -> tuple[list[float], list[float]]:
    """At most so many points; of each stretch the lowest and the highest, so that no drop is lost."""
    if len(x) <= most:
        return list(x), list(y)
    kept: list[int] = []
    for low, high in pairwise(round(k * len(x) / (most // 2)) for k in range(most // 2 + 1)):
        known = [k for k in range(low, high) if math.isfinite(y[k])] or [low]
        kept += sorted({min(known, key=lambda k: y[k]), max(known, key=lambda k: y[k])})
    return [x[k] for k in kept], [y[k] for k in kept]
