"""The plot of the study of update magnitudes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .claim import Study
from .linear_tasks import LinearTasks, crossovers


def figure(study: Study, path: Path) -> None:
    """Draw the curves into a file, in the format that its ending names; the same file for the same figures."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    curves = study.curves
    drawn = Figure(figsize=(9.2, 3.8), layout="constrained")
    tasks = LinearTasks()
    grid = [k / 50 * 2.2 for k in range(51)]
    hues = {"initialised": "C0", "frozen": "C1", "oracle": "C2", "gradient": "C3"}
    closed: dict[str, Callable[[LinearTasks], tuple[float, float]]] = {
        "initialised": LinearTasks.initialised,
        "frozen": LinearTasks.frozen,
    }
    for k, (what, at) in enumerate(zip(("forgetting", "risk"), crossovers(tasks.left, tasks.tasks), strict=True)):
        axes = drawn.add_subplot(1, 2, k + 1)
        for name, hue in hues.items():
            if name in closed:
                axes.plot(grid, [closed[name](LinearTasks(far=d))[k] for d in grid], color=hue, lw=1)
            means, errors = zip(*curves[name][what], strict=True)
            style = "o" if name in closed else "o--"
            axes.errorbar(
                curves["distance"], means, [2 * e for e in errors], fmt=style, color=hue, ms=4, lw=1, label=name
            )
        axes.axvline(at, color="0.6", lw=1, ls=":")
        axes.set_xlabel("squared distance of tasks")
        axes.set_title(f"{what} after {tasks.tasks} tasks; extremes cross at {at:.3f}", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    with mpl.rc_context({"svg.hashsalt": "nacre"}):
        drawn.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
