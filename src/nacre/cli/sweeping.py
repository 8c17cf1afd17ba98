"""The sweep: settings chosen on validation rows."""

from __future__ import annotations

from pathlib import Path

from ..core.durable import write_text
from ..experiment import Finished, Sweep
from ..experiment.folder import CONFIG, Folder
from ..experiment.sweep import BEST, TEST
from ..report import grid, show
from .progress import rows_progress
from .work import folder_for, refuse_ranks, resume_one, run_one, signals_heard, title_of, workers_for


def run_sweep(several: Sweep, out: Path | None, workers: int | None = None) -> None:
    """Run every point that is not finished, tell which is best, and run that one on the test rows if that is asked for."""
    refuse_ranks("a sweep")
    out = out if out is not None else folder_for(f"{several.best_differs['run']['name']}-sweep")
    try:
        _run_grid(several, out, workers or workers_for(several.configs))
    except Finished:
        if not several.test or Folder(out / TEST).status() == "finished":
            raise
    if not several.test:
        return
    if (out / TEST / CONFIG).is_file():
        resume_one(out / TEST)
    else:
        run_one(out / BEST, (), out / TEST)


def _run_grid(several: Sweep, out: Path, workers: int) -> None:
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
