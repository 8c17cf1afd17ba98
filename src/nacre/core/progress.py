"""Where a run stands just now: a few numbers in a small file beside the record, for somebody who watches.

The record is written when a task has been learned; this is written about once a second. It is gone once the run has ended.
"""

from __future__ import annotations

import json
import os
import socket
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

FILE = "progress.json"


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        doing: `preparing`, `training` or `testing`.
        seed: The present one.
        task: The present experience, from 0; after the last one their number.
        tasks: How many there are.
        stage: The present stage, from 0.
        stages: How many there are.
        step: Steps done of the stage.
        steps: How many it has.
        done: The part of the whole run that is done, over all seeds; tasks count alike.
        done_before: That part when this process began.
        since: When this process began, in seconds since 1970.
        written: When this was written.
        losses: The latest losses, about one a second.
        process: Which process it is.
        machine: On which machine.
    """

    doing: str = "preparing"
    seed: int = 0
    task: int = 0
    tasks: int = 0
    stage: int = 0
    stages: int = 0
    step: int = 0
    steps: int = 0
    done: float = 0.0
    done_before: float = 0.0
    since: float = 0.0
    written: float = 0.0
    losses: list[float | None] = field(default_factory=list[float | None])
    process: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=socket.gethostname)

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all; it need not outlast a crash, so nobody waits for the disk.

        Raises:
            OSError: it could not be written.
        """
        new = folder / f"{FILE}.new"
        new.write_text(json.dumps(asdict(self)), encoding="utf-8")
        os.replace(new, folder / FILE)

    @staticmethod
    def load(folder: Path) -> Progress | None:
        """What the file says; None where there is none, or none that can be read."""
        try:
            saved: Any = json.loads((folder / FILE).read_text(encoding="utf-8"))
            return Progress(**{f.name: saved[f.name] for f in fields(Progress)})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def seconds_left(self) -> float | None:
        """How long the rest takes if it goes on as since this process began; None while nothing is done.

        >>> Progress(done=0.75, done_before=0.5, since=100.0, written=130.0).seconds_left()
        30.0
        """
        share = self.done - self.done_before
        return (self.written - self.since) * (1 - self.done) / share if share > 0 else None

    def is_alive(self) -> bool | None:
        """Whether the process still runs; None where nobody can tell, because it is on another machine."""
        if self.machine != socket.gethostname() or os.name == "nt":
            return None
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return False
        except OSError:  # somebody else's
            return True
        return True
