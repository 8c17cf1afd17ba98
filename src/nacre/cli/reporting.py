"""Telling what came of runs: tables on the terminal, pages, and text for other programs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from ..core.durable import write_text
from ..core.errors import BadData, BadSetting
from ..core.run import Run
from ..report import (
    as_csv,
    as_latex,
    as_markdown,
    comparison,
    level,
    matrix,
    references,
    show,
    write_comparison,
    write_report,
)
from ..report.comparison_page import distinct, sheets
from ..report.files import COMPARED, PAGE
from ..report.words import differences

logger = logging.getLogger(__name__)
BESIDE = ""  # what `--html` holds where no file was named
Texts = dict[str, Callable[[Sequence[Run]], str]]
TEXTS: Texts = {"csv": as_csv, "markdown": as_markdown, "latex": as_latex}
MARK, NUMBERS = "comparison.json", "numbers.csv"


def report(folder: Path, page: str | None, form: str | None, bounds: Sequence[Path]) -> None:
    """Tell of the run in a folder, or of the comparison in it."""
    if (folder / MARK).is_file() and not (folder / "run.json").is_file():
        _report_comparison(folder, page, form)
        return
    run = Run.load(folder)
    others = [Run.load(place) for place in bounds]
    if form is not None:
        click.echo(TEXTS[form]([run]), nl=False)
    if page is not None:
        stored = [level(bound) for bound in _stored(folder)]
        home = folder if folder.is_dir() else folder.parent
        click.echo(f"wrote {write_report(run, _place(page, home / PAGE), others, stored)}", err=form is not None)
    if page is None and form is None:
        show_runs([run])


def _report_comparison(folder: Path, page: str | None, form: str | None) -> None:
    from ..experiment import compared_in

    several = compared_in(folder)
    assert several is not None
    runs = [Run.load(folder / name) for name in several.names if (folder / name / "run.json").is_file()]
    if not runs:
        raise BadData(f"none of the runs in {folder} has a record yet: wait until one has begun")
    if form is not None:
        click.echo(TEXTS[form](runs), nl=False)
    if page is not None:
        to = _place(page, folder / COMPARED)
        levels = [level(bound) for bound in several.bounds]
        click.echo(f"wrote {write_comparison(runs, to, levels, several.text)}", err=form is not None)
    if page is None and form is None:
        show_runs(runs)


def compare_folders(folders: Sequence[Path], page: str | None, form: str | None) -> None:
    """Tell several runs side by side."""
    if len(folders) < 2:
        raise BadSetting(f"nacre compare takes two folders or more, not {len(folders)}: for one, use nacre report")
    runs = [Run.load(folder) for folder in folders]
    if form is not None:
        click.echo(TEXTS[form](runs), nl=False)
    if page is not None:
        click.echo(f"wrote {write_comparison(runs, _place(page, Path(COMPARED)))}", err=form is not None)
    if page is None and form is None:
        show(*(["All settings are equal."] if not differences(runs) else []), *sheets(runs))
        show_runs(distinct(runs))


def show_runs(runs: Sequence[Run]) -> None:
    """Tables on the terminal; of one run its matrix, too."""
    papers = references(runs)
    mine = [matrix(run) for run in runs if run.results and len(runs) == 1]
    show(*mine, comparison(runs), *(["\n".join(["Methods:", *(f"  {p}" for p in papers)])] if papers else []))


def page_beside(run: Run, folder: Path) -> Path | None:
    """Write the numbers and the page of a run that has just finished; None where that failed, which does no harm."""
    try:
        write_text(folder / NUMBERS, as_csv([run]))
        return write_report(run, folder / PAGE, levels=[level(bound) for bound in _stored(folder)])
    except Exception as error:
        logger.warning("the run is whole, but its page could not be made (%s): nacre report %s --html", error, folder)
        return None


def comparison_beside(runs: Sequence[Run], folder: Path, bounds: Sequence[dict[str, object]], text: str) -> Path | None:
    """The same for a comparison."""
    try:
        return write_comparison(runs, folder / COMPARED, [level(bound) for bound in bounds], text)
    except Exception as error:
        logger.warning(
            "the runs are whole, but their page could not be made (%s): nacre report %s --html", error, folder
        )
        return None


def _place(page: str, default: Path) -> Path:
    if page != BESIDE and Path(page).is_dir():
        raise BadSetting(f"--html takes a file, and {page} is a folder: say --html behind the folders, or name a file")
    return default if page == BESIDE else Path(page)


def _stored(folder: Path) -> Sequence[dict[str, object]]:
    """Bounds that are stored for the comparison which a run is a row of."""
    above = folder.resolve().parent
    if not (above / MARK).is_file():
        return []
    from ..experiment import compared_in

    several = compared_in(above)
    return several.bounds if several is not None else []
