"""What the record says, as sheets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..core.run import Run, percent
from .sheet import Sheet

COLUMNS = ("last", "average", "union", "learning", "forgetting")
SHOWN = 40  # moments, or test sets, of a matrix
MEANING = (
    "last: mean over the tasks after the last one; average: the same, averaged over all moments; union: over all test rows; "
    "learning: each task just after it; forgetting: best minus last. All in percent.",
    "moved: entries that changed in the task with the most motion; how far: the length of that change by the length of the "
    "weights; stale: tasks answered with statistics of another backbone; memory: the most this process used.",
)


def comparison(runs: Sequence[Run], bounds: Iterable[Mapping[str, Any]] = (), title: str = "") -> Sheet:
    """A row a run: what was learned, what was forgotten, how far what moved, what it cost.

    Args:
        runs: Records, in order.
        bounds: Stored figures, `name`, `last`, perhaps `spread`, `seeds` and `command`; shown as such.
        title: Of the sheet.

    >>> from nacre.core.run import Result
    >>> run = Run("demo", "finished", seeds=[0], results={0: Result(summary={"last": 0.5})})
    >>> comparison([run]).rows[0][:2]
    ['demo', '50.0']
    """
    header = ["", *COLUMNS, "moved %", "how far %", "stale", "train s", "test s", "memory"]
    rows = [_row(run) for run in runs]
    notes = []
    for bound in bounds:
        last = percent(float(bound["last"]), bound.get("spread"))
        rows.append([f"{bound['name']} (stored)", last, *["-"] * (len(header) - 2)])
        seeds = ", ".join(map(str, bound.get("seeds", []))) or "unknown"
        notes.append(f"{bound['name']}: stored, not run here; seeds {seeds}; {bound.get('command', 'command unknown')}")
    return Sheet(header, rows, title, [*MEANING, *notes])


def matrix(run: Run, seed: int | None = None) -> Sheet:
    """The scores of one seed (by default the first), a row a moment and a column a test set; of many, some."""
    seed = seed if seed is not None else next(iter(run.results))
    result = run.results[seed]
    down, across = _some(len(result.moments)), _some(len(result.tests))
    rows = [[result.moments[i], *(percent(result.matrix[i][j]) for j in across)] for i in down]
    title = f"{run.name}, seed {seed}: {run.score['name']} in percent after each task (rows) on each test set (columns)"
    left = [(len(result.moments), down, "moments"), (len(result.tests), across, "test sets")]
    notes = [f"{len(shown)} of {count} {what} are shown." for count, shown, what in left if len(shown) < count]
    return Sheet(["", *(result.tests[j]["name"] for j in across)], rows, title, notes)


def grid(
    axes: Sequence[str], points: Sequence[tuple[Sequence[str], Run]], by: str, best: int, title: str = ""
) -> Sheet:
    """The points of a sweep: their values, the figure that they are judged by, and what else came of them.

    Args:
        axes: Names of what was varied.
        points: For each point its values and its record.
        by: The figure.
        best: The place of the point that was chosen.
        title: Of the sheet.

    >>> from nacre.core.run import Result
    >>> runs = [Run(n, "finished", seeds=[0], results={0: Result(summary={"last": v})}) for n, v in (("a", 0.5), ("b", 0.75))]
    >>> [row[:2] + row[-1:] for row in grid(["lr"], [(["0.1"], runs[0]), (["0.2"], runs[1])], "last", 1).rows]
    [['0.1', '50.0', ''], ['0.2', '75.0', 'best']]
    """
    others = [name for name in ("last", "learning", "forgetting") if name != by]
    rows = []
    for place, (values, run) in enumerate(points):
        figures = [percent(*run.figure(name)) for name in (by, *others)]
        state = run.status if run.status != "finished" else "best" if place == best else ""
        rows.append([*values, *figures, _seconds(run.figure("training")[0]), state])
    notes = [f"{run.name}: {run.error}" for _, run in points if run.error]
    return Sheet([*axes, by, *others, "train s", ""], rows, title, notes, left=len(axes))


def references(runs: Iterable[Run]) -> list[str]:
    """The papers of the methods that ran, each once, and how sure we are of each method."""
    lines = {}
    for run in runs:
        for name, paper in run.papers.items():
            lines[name] = f"{name} ({run.fidelity.get(name, '')}): {paper}"
    return list(lines.values())


def settings_sheet(settings: Iterable[tuple[str, str, str, str, str]], title: str = "") -> Sheet:
    """What can be set: name, default, type, range, meaning."""
    return Sheet(["setting", "default", "type", "range", "meaning"], [list(s) for s in settings], title, left=5)


def _some(count: int) -> list[int]:
    """All places, or so many of them as can be read, evenly spread, the first and the last among them."""
    if count <= SHOWN:
        return list(range(count))
    return [round(k * (count - 1) / (SHOWN - 1)) for k in range(SHOWN)]


def _row(run: Run) -> list[str]:
    shares = [percent(*run.figure(name)) for name in (*COLUMNS, "moved")]
    stale, training = run.figure("stale")[0], run.figure("training")[0]
    evaluation, peak = run.figure("evaluation")[0], run.figure("peak")[0]
    seconds = [_seconds(s) for s in (training, evaluation)]
    memory = "-" if math.isnan(peak) else f"{peak / 2**20:.0f} MB"
    state = "" if run.status == "finished" else f" ({run.status})"
    few = "-" if math.isnan(stale) else f"{stale:g}"
    return [run.name + state, *shares, _length(run.figure("relative")[0]), few, *seconds, memory]


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _length(value: float) -> str:
    """A relative length in percent, with two digits that count."""
    return "-" if math.isnan(value) else "0" if value == 0 else f"{100 * value:.2g}"
