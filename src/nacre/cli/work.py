"""Running and resuming: folders, progress, tables."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from ..core import ranks
from ..core.durable import write_text
from ..core.errors import BadSetting
from ..core.run import Run
from ..experiment import (
    Comparison,
    Config,
    Experiment,
    Stopping,
    config_of,
    default_comparison,
    device_of,
    slug,
)
from ..report import Sheet, comparison, matrix, references, show
from .progress import progress, rows_progress
from .reporting import comparison_beside, page_beside

RUNS = Path("runs")


def run_one(path: Path, changes: Sequence[str], out: Path | None) -> None:
    """Run one config, or the recipe of that name."""
    config = config_of(path, changes)
    with ranks.joined():
        out = Path(ranks.told(str(out if out is not None else folder_for(config.run.name))))
        with signals_heard(out) as stopping, progress(config.run.name) as hears:
            record = Experiment(config).run(out, hears, stopping)
        tell([record], out)


def resume_one(folder: Path) -> None:
    """Go on with the run in a folder."""
    config = Config.load(folder)
    with ranks.joined():
        with signals_heard(folder) as stopping, progress(config.run.name) as hears:
            record = Experiment(config).resume(folder, hears, stopping)
        tell([record], folder)


def run_comparison(changes: Sequence[str], out: Path | None) -> None:
    """Run the embedded comparison."""
    compare(default_comparison(changes), out if out is not None else folder_for("comparison"))


def refuse_ranks(what: str) -> None:
    """See that no launcher began this process several times.

    Raises:
        BadSetting: one did.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadSetting(
            f"{what} runs its rows in processes of its own: start it without a launcher, or give one config"
        )


def compare(several: Comparison, out: Path) -> None:
    """Run every row of a comparison that is not finished, and tell."""
    refuse_ranks("a comparison")
    workers = workers_for(several.configs)
    with signals_heard(out), rows_progress(workers) as told:
        runs = several.run(out, workers, told)
    sheet = comparison(runs, several.bounds, title_of(runs[0]))
    papers = references(runs)
    page = [sheet.markdown(), *([several.text] if several.text else []), "\n".join(f"- {p}" for p in papers)]
    write_text(out / "comparison.md", "\n\n".join(page) + "\n")
    several.save(out, runs)
    text = [several.text] if several.text else []
    told = comparison_beside(runs, out, several.bounds, several.text)
    kept = [f"kept in {out}", *([f"report: {told}"] if told is not None else [])]
    show(sheet, *text, "\n".join(["Methods:", *(f"  {p}" for p in papers)]), *kept)


@contextmanager
def signals_heard(out: Path) -> Iterator[Stopping]:
    """Say where a run is kept, when it begins and when it is interrupted; signals are heard inside."""
    if ranks.first():
        click.echo(f"in {out}", err=True)
    else:
        logging.getLogger().setLevel(logging.ERROR)  # what the first rank says is enough
    with Stopping(signal.SIGINT, signal.SIGTERM) as stopping:
        try:
            yield stopping
        except KeyboardInterrupt as stop:
            kept = any((out / name).is_file() for name in ("config.toml", "comparison.json", "sweep.json"))
            go_on = f"`nacre resume {out}` goes on where it stopped" if kept else "it had not begun, so nothing is kept"
            raise KeyboardInterrupt(f"interrupted: {go_on}", getattr(stop, "code", 130)) from stop


def tell(runs: list[Run], out: Path) -> None:
    """Show the tables of a run."""
    if not ranks.first():
        return
    run = runs[0]
    papers = references(runs)
    parts: list[Sheet | str] = [matrix(run), comparison(runs, title=title_of(run))]
    if papers:
        parts.append("\n".join(["Methods:", *(f"  {p}" for p in papers)]))
    page = page_beside(run, out)
    show(*parts, f"kept in {out}", *([f"report: {page}"] if page is not None else []))


def workers_for(configs: Sequence[Config]) -> int:
    """How many rows run at a time: one a core, but one after the other where they would share a GPU."""
    on_gpu = any(device_of(config).type != "cpu" for config in configs)
    return min(len(configs), 1 if on_gpu else _cores())


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def title_of(run: Run) -> str:
    """What a run learned from, in a line."""
    data = next(iter(run.results.values())).data
    stream = data["stream"]
    seeds = ", ".join(map(str, run.seeds))
    arrival = "" if stream["arrival"] == "offline" else f" {stream['arrival']}"
    length = f"{stream['length']} tasks"
    return f"{data['source']}, {stream['kind']}{arrival}, {length}, seed{'s' * (len(run.seeds) > 1)} {seeds}"


def folder_for(name: str, exists: Callable[[Path], bool] = Path.exists) -> Path:
    """A folder below `runs/` that is not there yet."""
    stem = f"{slug(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = (RUNS / (stem if not k else f"{stem}-{k}") for k in range(1000))
    found = next((p for p in tries if not exists(p)), None)
    if found is None:
        raise click.UsageError(f"give --out: {RUNS / stem} is taken")
    return found
