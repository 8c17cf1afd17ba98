"""The sweep: settings chosen on validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.durable import write_text
from ..experiment import Sweep
from ..experiment.sweep import BEST
from ..report import grid, show
from .progress import rows_progress
from .work import folder_for, refuse_ranks, run_one, signals_heard, title_of, workers_for


def sweep(
    path: Path,
    axes: Sequence[str],
    select: str,
    by: str,
    changes: Sequence[str],
    out: Path | None,
    workers: int | None,
    test: bool,
) -> None:
    """Run the grid, tell which point is best, and run that one on the test rows if asked to."""
    several = Sweep.over(path, axes, select, by, changes)
    out = out if out is not None else folder_for(f"{several.best_differs['run']['name']}-sweep")
    run_sweep(several, out, workers)
    if test:
        run_one(out / BEST, (), out / "test")


def run_sweep(several: Sweep, out: Path, workers: int | None = None) -> None:
    """Run every point that is not finished, and tell."""
    refuse_ranks("a sweep")
    workers = workers or workers_for(several.configs)
    with signals_heard(out), rows_progress(workers) as told:
        points = several.run(out, workers, told)
    place, _ = several.best(points)
    title = f"{title_of(points[place].run)}, scored on validation rows"
    sheet = grid(
        [axis.name for axis in several.axes], [(point.values, point.run) for point in points], several.by, place, title
    )
    chosen = ", ".join(f"{a.place}={v}" for a, v in zip(several.axes, points[place].values, strict=True))
    edge = [
        f"the best value of {name} is the last that was tried: try values beyond" for name in several.at_edge(place)
    ]
    write_text(out / "sweep.md", "\n\n".join([sheet.markdown(), f"best: {chosen}", *edge]) + "\n")
    show(sheet, f"best: {chosen}", *edge, f"kept in {out}; `nacre run {out / BEST}` runs it on the test rows")
