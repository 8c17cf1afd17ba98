"""Sends what a seed gave to the trackers that a config names."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from ..core import ranks
from ..core.errors import NacreError
from ..core.run import Run
from ..integrations.trackers import send, trackers

logger = logging.getLogger(__name__)
FOLDER = "trackers"
"""Where trackers that write files have them, in a run's folder."""


def track(run: Run, seed: int, folder: Path | None) -> None:
    """Send the record of one seed, which is all that `run.json` holds of it, to the trackers of `run.track`."""
    names = run.settings["run"]["track"]
    if names and ranks.first():
        called = run.name if len(run.seeds) == 1 else f"{run.name}-seed{seed}"
        alone = replace(run, seeds=[seed], results={seed: run.results[seed]})
        try:
            send(alone.to_json(), trackers(names, called, (folder or Path()) / FOLDER))
        except NacreError:
            raise  # a package that is missing, say: nothing was sent because of how it was asked for
        except Exception as error:
            logger.warning("seed %s was not sent to %s (%s): its record is whole", seed, ", ".join(names), error)
