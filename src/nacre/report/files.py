"""Records as files and as text that other programs read: pages, CSV, markdown, LaTeX."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..core.durable import write_text
from ..core.run import Run
from . import figures, words
from .comparison_page import comparison_page, distinct
from .figures import Value
from .plots import Level, Line
from .rendering import html
from .run_page import MATRIX, run_page
from .sheet import Sheet
from .tables import comparison, references

PAGE, COMPARED = "report.html", "compare.html"
COLUMNS = ("run", "seed", "figure", "moment", "of", "value")
FIGURES = ("moved", "relative", "stale", "training", "evaluation", "saving", "peak")


def write_report(run: Run, to: Path, bounds: Sequence[Run] = (), levels: Sequence[Level] = ()) -> Path:
    """Write the page of a run; where it lies.

    Args:
        run: The record.
        to: The file.
        bounds: Records to compare its accuracy with, such as a joint training and plain fine-tuning.
        levels: Figures of bounds that are known only for the end.

    Raises:
        NotSaved: the file could not be written.
    """
    lines, flat = [], list(levels)
    for k, bound in enumerate(distinct([run, *bounds])[1:]):
        curve = figures.mean_curve(bound)
        if len(curve) == 1:  # a joint training has one moment: it bounds the end
            flat.append(Level(bound.name, curve[0]))
        else:
            lines.append(Line(bound.name, curve, f"c{(k + 1) % 8}", bound=True))
    write_text(to, html(run_page(run, lines, flat)))
    return to


def write_comparison(runs: Sequence[Run], to: Path, levels: Sequence[Level] = (), text: str = "") -> Path:
    """Write the page of several runs, the first of which the others are compared with; where it lies.

    Raises:
        NotSaved: the file could not be written.
    """
    write_text(to, html(comparison_page(runs, levels, text)))
    return to


def level(bound: dict[str, object]) -> Level:
    """A stored figure, `name`, `last` and perhaps `spread`, as a level to be drawn."""
    spread = bound.get("spread")
    return Level(f"{bound['name']}, stored", Value(float(str(bound["last"])), float(str(spread)) if spread else None))


def as_csv(runs: Sequence[Run]) -> str:
    """Every number of the records in one long table: run, seed, figure, moment, what it is of, value.

    Scores are shares, times seconds, memory bytes. What was not measured has no row.

    >>> from nacre.core.run import Result
    >>> run = Run("a", seeds=[0], results={0: Result(moments=["task0"], tests=[{"name": "t"}], matrix=[[0.5]])})
    >>> print(as_csv([run]).strip())
    run,seed,figure,moment,of,value
    a,0,accuracy,task0,t,0.5
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(COLUMNS)
    for run in distinct(runs):
        for seed, figure, moment, of, value in _numbers(run):
            if value is not None and math.isfinite(value):
                table.writerow([_safe(run.name), seed, _safe(figure), _safe(moment), _safe(of), repr(value)])
    return text.getvalue()


def _safe(cell: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") else cell


def _numbers(run: Run) -> Iterator[tuple[int, str, str, str, float | None]]:
    score = run.score.get("name", "accuracy")
    for seed, result in run.results.items():
        names = [str(t["name"]) for t in result.tests]
        for moment, row in zip(result.moments, result.matrix, strict=True):
            yield from ((seed, score, moment, name, value) for name, value in zip(names, row, strict=False))
        yield from ((seed, name, "", "", value) for name, value in result.summary.items())
        yield from ((seed, name, "", "", result.figure(name)) for name in FIGURES)
        for moment, held in result.motion.items():
            for tensor, row in {"": held["total"], **(held.get("tensors") or {})}.items():
                yield from ((seed, key, moment, tensor, row[key]) for key in ("moved", "relative"))


def as_markdown(runs: Sequence[Run]) -> str:
    """The tables of records for a README or an issue: figures, matrices, references."""
    named = distinct(runs)
    papers = "\n".join(f"- {line}" for line in references(named))
    sheets = [comparison(named), *(mean_matrix(run) for run in named if any(r.moments for r in run.results.values()))]
    return "\n\n".join([*(sheet.markdown() for sheet in sheets), *([papers] if papers else [])]) + "\n"


def as_latex(runs: Sequence[Run]) -> str:
    """The same for a paper, with booktabs."""
    named = distinct(runs)
    sheets = [comparison(named), *(mean_matrix(run) for run in named if any(r.moments for r in run.results.values()))]
    return "\n\n".join(sheet.latex() for sheet in sheets) + "\n"


def mean_matrix(run: Run) -> Sheet:
    """The matrix over all seeds, thinned where it is large."""
    grid = figures.scores(run, MATRIX)
    rows = [[name, *map(words.percents, row)] for name, row in zip(grid.rows, grid.cells, strict=True)]
    title = (
        f"{run.name}: {run.score.get('name', 'accuracy')} in percent after each task (rows) on each test set (columns)"
    )
    counts = zip((grid.rows, grid.columns), grid.counts, ("moments", "test sets"), strict=True)
    notes = [f"{len(some)} of {count} {what} are shown." for some, count, what in counts if len(some) < count]
    return Sheet(["after", *grid.columns], rows, title, notes)
