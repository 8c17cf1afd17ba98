"""The section on class statistics: which of them are stale, and how well others were taken along as the backbone moved."""

from __future__ import annotations

import math

from ..core.run import Run, percent
from .figures import evenly, over
from .pieces import Callout, Piece, Section, Table
from .sheet import Sheet

ROWS = 200  # of a table
ABOUT = "A head that reads class statistics knows which backbone they are valid for."
CURE = (
    'Answer with a method whose statistics follow the backbone, tune on the first task only (when = "first"), or expect these '
    "tasks to seem forgotten."
)


def statistics_section(run: Run) -> Section:
    """Answers that stood on statistics of an older backbone, and statistics that were taken along to the present one."""
    found = [(s, m, tasks) for s, r in run.results.items() for m, tasks in r.stale.items() if tasks]
    moved = [(s, task, told) for s, r in run.results.items() for task, told in r.drift.items()]
    pieces: list[Piece] = []
    if found:
        pieces += _stale(run, found)
    elif not moved:
        pieces.append(Callout("No answer stood on statistics of an older backbone", ABOUT, "good"))
    if moved:
        pieces += _followed(moved, bool(found))
    return Section("stale", "Stale statistics" if found or not moved else "Statistics that follow", pieces)


def _stale(run: Run, found: list[tuple[int, str, list[int]]]) -> list[Piece]:
    rows = [
        [str(s), m, str(len(tasks)), ", ".join(map(str, tasks[:12])) + (", …" if len(tasks) > 12 else "")]
        for s, m, tasks in (found[k] for k in evenly(len(found), ROWS))
    ]
    sheet = Sheet(
        ["seed", "after", "stale", "tasks"], rows, "Tasks answered with statistics of another backbone", left=2
    )
    last = over(r.figure("stale") for r in run.results.values())
    title = f"At the end {last.mean:g} tasks were answered with statistics of an older backbone"
    if not last.mean:
        title = "At some moments before the end tasks were answered with statistics of an older backbone"
    return [Callout(title, f"{ABOUT} {CURE}", "bad"), Table(sheet)]


def _followed(moved: list[tuple[int, str, dict[str, float]]], stale: bool) -> list[Piece]:
    explained = over(told.get("explained", math.nan) for _, _, told in moved)
    known = "" if math.isnan(explained.mean) else f": {percent(explained.mean)} % of the drift could be explained"
    title = f"Statistics were taken along to the present backbone {len(moved)} times{known}"
    text = (
        "In the mean, on classes that the drift map was not fitted on. The map is fitted on rows of the task at hand, seen "
        "through the backbone before and after it; the rows of earlier tasks are gone."
    )
    rows = [
        [
            str(seed),
            task,
            f"{told.get('rows', math.nan):.0f}",
            *(_number(told.get(key)) for key in ("cosine", "explained", "r2")),
            ", ".join(f"{key} {told[key]:.3g}" for key in ("ridge", "width") if key in told) or "-",
        ]
        for seed, task, told in (moved[k] for k in evenly(len(moved), ROWS))
    ]
    notes = [
        "cosine: of a row's features before and after, in the mean; explained: share of the squared drift of classes left out "
        "that the map takes away; R2: the same of the drift around its mean.",
    ]
    header = ["seed", "task", "rows", "cosine", "explained", "R2", "chosen"]
    sheet = Sheet(header, rows, "Drift of the features on each task, and how well it was mapped", notes, left=2)
    return [Callout(title, text, "plain" if stale else "good"), Table(sheet)]


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
