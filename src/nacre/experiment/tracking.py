"""Sends what a seed gave to the trackers that a config names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..core import ranks
from ..core.run import Run
from ..integrations.trackers import send, trackers

FOLDER = "trackers"
"""Where trackers that write files have them, in a run's folder."""


def track(run: Run, seed: int, folder: Path | None) -> None:
    """Send the record of one seed, which is all that `run.json` holds of it, to the trackers of `run.track`."""
    names = run.settings["run"]["track"]
    if names and ranks.first():
        called = run.name if len(run.seeds) == 1 else f"{run.name}-seed{seed}"
        alone = replace(run, seeds=[seed], results={seed: run.results[seed]})
        send(alone.to_json(), trackers(names, called, (folder or Path()) / FOLDER))
