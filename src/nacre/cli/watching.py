"""Watching a run from another terminal: reads its record and where it stands, over and over, until it has ended."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import BadData
from ..core.progress import Progress
from ..core.run import FILE, Run
from ..report import view

EVERY = 1.0  # seconds between two looks
GONE = "the process is gone without a word: `nacre resume {}` goes on"


@dataclass
class Watched:
    """A run's folder that is looked at again and again; its record is read only when it has changed.

    Attributes:
        folder: The run's.
    """

    folder: Path
    run: Run | None = None
    changed: float = -1.0

    def look(self) -> tuple[Run, Progress | None]:
        """The record, and where the run stands.

        Raises:
            BadData: there is no run.
        """
        path = self.folder / FILE
        if not self.folder.is_dir() or not (path.is_file() or (self.folder / "config.toml").is_file()):
            raise BadData(
                f"{self.folder} holds no run yet: give the folder that `nacre run` names when it begins (it prints 'in DIR')"
            )
        changed = path.stat().st_mtime if path.is_file() else -1.0
        if self.run is None or changed != self.changed:
            self.run, self.changed = Run.load(self.folder), changed
        return self.run, Progress.load(self.folder) if self.run.status == "running" else None


def watch(folder: Path, every: float = EVERY) -> None:
    """Show a run until it has ended; where there is no terminal, once."""
    from rich.console import Console

    watched, console = Watched(folder), Console()
    run, now = watched.look()
    if not sys.stdout.isatty():
        console.print(view(run, now, console.width))
        if run.status == "running" and now is not None and now.is_alive() is False:
            console.print(GONE.format(folder))
        return
    _follow(watched, console, every)


def _follow(watched: Watched, console: Any, every: float) -> None:
    from rich.live import Live

    dead = False
    try:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            while True:
                run, now = watched.look()
                live.update(view(run, now, console.width), refresh=True)
                dead = run.status == "running" and now is not None and now.is_alive() is False
                if dead or run.status != "running":
                    break
                time.sleep(every)
    except KeyboardInterrupt:
        return  # the run goes on; only the view ends
    if dead:
        console.print(GONE.format(watched.folder), style="yellow")
