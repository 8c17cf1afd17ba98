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
from ..core.errors import BadData, BadSetting
from ..core.run import Run
from ..experiment import (
    PREFIX,
    Comparison,
    Config,
    Experiment,
    Stopping,
    compared_in,
    default_comparison,
    device_of,
    recipe,
    slug,
)
from ..report import Sheet, comparison, matrix, references, show
from .progress import progress, rows_progress

RUNS = Path("runs")


def run_one(path: Path, changes: Sequence[str], out: Path | None) -> None:
    """Run one config, or the recipe of that name."""
    config = recipe(str(path), changes=changes) if str(path).startswith(PREFIX) else Config.load(path, changes)
    with ranks.joined():
        out = Path(ranks.told(str(out if out is not None else _fresh(config.run.name))))
        with _in(out) as stopping, progress(config.run.name) as hears:
            record = Experiment(config).run(out, hears, stopping)
        _tell([record], out)


def run_comparison(changes: Sequence[str], out: Path | None) -> None:
    """Run the embedded comparison."""
    _refuse_ranks()
    _compare(default_comparison(changes), out if out is not None else _fresh("comparison"))


def resume_any(folder: Path) -> None:
    """Go on with a run, or with a comparison of runs."""
    if not folder.is_dir():
        raise BadData(f"there is no folder {folder}: give that of a run, as `nacre run --out` made it")
    several = compared_in(folder)
    if several is not None:
        _refuse_ranks()
        _compare(several, folder)
        return
    if not (folder / "config.toml").is_file():
        raise BadData(f"{folder} is no run's folder{_held(folder)}")
    config = Config.load(folder)
    with ranks.joined():
        with _in(folder) as stopping, progress(config.run.name) as hears:
            record = Experiment(config).resume(folder, hears, stopping)
        _tell([record], folder)


def _refuse_ranks() -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise BadSetting(
            "a comparison runs its rows in processes of its own: start it without a launcher, or give one config"
        )


def _held(folder: Path) -> str:
    """The runs in a folder that is none itself, in words."""
    held = sorted(p.parent.name for p in folder.glob("*/config.toml"))
    more = ", ..." if len(held) > 5 else ""
    return (
        f"; it holds runs {', '.join(held[:5])}{more}: name one"
        if held
        else ": it has no config.toml; give a folder that `nacre run --out` made"
    )


def _compare(several: Comparison, out: Path) -> None:
    workers = min(len(several.configs), 1 if _on_gpu(several) else _cores())
    with _in(out), rows_progress(workers) as told:
        runs = several.run(out, workers, told)
    sheet = comparison(runs, several.bounds, _title(runs[0]))
    papers = references(runs)
    page = [sheet.markdown(), *([several.text] if several.text else []), "\n".join(f"- {p}" for p in papers)]
    write_text(out / "comparison.md", "\n\n".join(page) + "\n")
    several.save(out, runs)
    text = [several.text] if several.text else []
    show(sheet, *text, "\n".join(["Methods:", *(f"  {p}" for p in papers)]), f"kept in {out}")


@contextmanager
def _in(out: Path) -> Iterator[Stopping]:
    """Say where a run is kept, when it begins and when it is interrupted; signals are heard inside."""
    if ranks.first():
        click.echo(f"in {out}", err=True)
    else:
        logging.getLogger().setLevel(logging.ERROR)  # what the first rank says is enough
    with Stopping(signal.SIGINT, signal.SIGTERM) as stopping:
        try:
            yield stopping
        except KeyboardInterrupt as stop:
            kept = any((out / name).is_file() for name in ("config.toml", "comparison.json"))
            go_on = f"`nacre resume {out}` goes on where it stopped" if kept else "it had not begun, so nothing is kept"
            raise KeyboardInterrupt(f"interrupted: {go_on}", getattr(stop, "code", 130)) from stop


def _tell(runs: list[Run], out: Path) -> None:
    if not ranks.first():
        return
    run = runs[0]
    papers = references(runs)
    parts: list[Sheet | str] = [matrix(run), comparison(runs, title=_title(run))]
    if papers:
        parts.append("\n".join(["Methods:", *(f"  {p}" for p in papers)]))
    show(*parts, f"kept in {out}")


def _on_gpu(several: Comparison) -> bool:
    """Whether rows would share one GPU, on which they run one after the other."""
    return any(device_of(config).type != "cpu" for config in several.configs)


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _title(run: Run) -> str:
    data = next(iter(run.results.values())).data
    stream = data["stream"]
    seeds = ", ".join(map(str, run.seeds))
    return f"{data['source']}, {stream['kind']}, {len(stream['tasks'])} tasks, seed{'s' * (len(run.seeds) > 1)} {seeds}"


def _fresh(name: str, exists: Callable[[Path], bool] = Path.exists) -> Path:
    """A folder below `runs/` that is not there yet."""
    stem = f"{slug(name)}-{time.strftime('%Y%m%d-%H%M%S')}"
    tries = (RUNS / (stem if not k else f"{stem}-{k}") for k in range(1000))
    found = next((p for p in tries if not exists(p)), None)
    if found is None:
        raise click.UsageError(f"give --out: {RUNS / stem} is taken")
    return found
