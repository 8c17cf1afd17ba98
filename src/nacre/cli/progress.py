"""Progress while a run works: a bar with the time left on a terminal, a line a task elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import click
from torch import Tensor

from ..core import ranks
from ..core.run import Result, Run, percent
from ..experiment import Config, Observer, Trial
from ..learner import Learner, Listener, Stage
from ..metrics import Matrix

T = TypeVar("T")


@contextmanager
def progress(name: str) -> Iterator[Listener]:
    """What shows the progress of a run inside the block; only the first of several ranks does."""
    if not ranks.first():
        yield Listener()
        return
    if not sys.stderr.isatty():
        yield Shown(name)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True), refresh_per_second=4, speed_estimate_period=600) as bar:
        yield Bar(name, bar)


def _columns() -> tuple[Any, ...]:
    """A bar with words and the time left."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )


def counting(items: Sequence[T], name: Callable[[T], str]) -> Iterator[T]:
    """The items one by one, with a bar on a terminal that names the present one."""
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=len(items), note="")
        for item in items:
            bar.update(task, note=name(item))
            yield item
            bar.advance(task)


def counted(items: Iterator[T], total: int) -> Iterator[T]:
    """The items as they come, with a bar where it is seen and what is written goes elsewhere than to the terminal."""
    if not sys.stderr.isatty() or sys.stdout.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=total, note="")
        for done, item in enumerate(items, 1):
            bar.update(task, completed=done, note=f"{done}/{total}")
            yield item


@contextmanager
def rows_progress(workers: int) -> Iterator[Callable[[Config, Run], None]]:
    """What tells how far the rows of a comparison are, some of which run at the same time."""
    since = time.perf_counter()
    columns = _columns() if sys.stderr.isatty() else None
    if columns is None:
        click.echo(f"{workers} at a time, in processes of their own", err=True)

        def line(config: Config, record: Run) -> None:
            click.echo(f"{_so_far(config, record)} ({time.perf_counter() - since:.0f} s)", err=True)

        yield line
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*columns, console=Console(stderr=True), refresh_per_second=4, speed_estimate_period=600) as bar:
        bars: dict[str, Any] = {}

        def move(config: Config, record: Run) -> None:
            name, total = config.run.name, _moments(record)
            if name not in bars:
                bars[name] = bar.add_task(name, total=total[1], note="")
            bar.update(bars[name], completed=total[0], note=_so_far(config, record).rpartition(": ")[2])

        yield move


def _so_far(config: Config, record: Run) -> str:
    done, total = _moments(record)
    return f"{config.run.name}: task {done}/{total}, {percent(record.figure('last')[0])} % so far"


def _moments(record: Run) -> tuple[int, int]:
    """Tasks learned, and tasks in all, over the seeds."""
    tasks = max((r.data["stream"]["length"] for r in record.results.values()), default=0)
    done = sum(len([m for m in r.moments if m != "start"]) for r in record.results.values())
    return done, tasks * len(record.seeds)


class Shown(Observer):
    """One line a task."""

    def __init__(self, name: str):
        self.name, self.since = name, time.perf_counter()

    def seed_begins(self, trial: Trial) -> None:
        self.since = time.perf_counter()

    def measured(self, trial: Trial, moment: str, matrix: Matrix) -> None:
        seconds = time.perf_counter() - self.since
        click.echo(f"{self._place(trial)}: {_said(trial, moment, matrix)} ({seconds:.0f} s)", err=True)

    def _place(self, trial: Trial) -> str:
        return f"{self.name}, seed {trial.seed}"


class Bar(Shown):
    """A bar a seed, in parts of tasks."""

    def __init__(self, name: str, bar: Any):
        super().__init__(name)
        self.bar, self.task, self.total = bar, None, 0

    def seed_begins(self, trial: Trial) -> None:
        super().seed_begins(trial)
        learner = trial.learner
        self.task = self.bar.add_task(self._place(trial), total=trial.tasks, completed=learner.experience, note="")

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        self.total = total

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        if self.task is not None and learner.step % 5 == 0:
            done = (learner.stage + learner.step / max(self.total, 1)) / len(learner.stages)
            self.bar.update(self.task, completed=learner.experience + 0.95 * done)

    def measured(self, trial: Trial, moment: str, matrix: Matrix) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=trial.learner.experience, note=_said(trial, moment, matrix))

    def seed_ends(self, trial: Trial, result: Result) -> None:
        if self.task is not None:
            self.bar.update(self.task, completed=trial.tasks)


def _said(trial: Trial, moment: str, matrix: Matrix) -> str:
    value = matrix.after(moment) if matrix.known(moment) else float("nan")
    return f"task {trial.learner.experience}/{trial.tasks}, {percent(value)} % so far"
