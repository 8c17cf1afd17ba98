"""A run's folder: `config.toml`, `run.json`, `checkpoints/seed-0/000001-...`, `export/`."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from ..checkpoint import load, save
from ..core.durable import make_folder, not_saved, write_text
from ..core.errors import BadCheckpoint, BadData, BadSetting
from ..core.run import Result, Run
from .config import Config, differences

logger = logging.getLogger(__name__)
CONFIG = "config.toml"


def slug(name: str) -> str:
    """A name as that of a folder.

    >>> slug("frozen, RanPAC")
    'frozen-ranpac'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


class Finished(BadSetting):
    """There is nothing left to do in a run's folder."""


class Folder:
    """Where a run is kept.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.unreadable: set[Path] = set()  # checkpoints that were passed over

    def refuse_other(self, config: Config) -> None:
        """See that a new run may begin here.

        Raises:
            Finished: the same run is here and finished.
            BadSetting: the same run is here, unfinished, or another one is.
            BadData: something else is here.
        """
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not (self.path / CONFIG).is_file():
            raise BadData(f"{self.path} exists and is no run's folder (it has no {CONFIG}): choose another --out")
        if self.learned_nothing():
            return  # the next one may begin here
        there = Config.load(self.path)
        if changed := differences(there.to_dict(), config.to_dict()):
            lines = "\n  ".join(changed)
            raise BadSetting(
                f"{self.path} holds a run with other settings; choose another --out, or delete it:\n  {lines}"
            )
        if self.status() == "finished":
            raise Finished(f"{self.path} holds this very run, finished: see {self.path / 'run.json'}")
        raise BadSetting(f"{self.path} holds this very run, unfinished: go on with `nacre resume {self.path}`")

    def learned_nothing(self) -> bool:
        """Whether the run here failed before its first checkpoint."""
        return self.status() == "failed" and not any(self.path.glob("checkpoints/*/*"))

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            NotSaved: that is not possible.
        """
        try:
            make_folder(self.path)
        except OSError as error:
            raise not_saved(self.path, error) from error

    def begin(self, config: Config) -> None:
        """Make the folder and write down the config.

        Raises:
            NotSaved: that is not possible.
        """
        self.make()
        write_text(self.path / CONFIG, config.to_toml())

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else works in the folder inside; the lock dies with this process, however it ends.

        Raises:
            BadSetting: another process works in it.
            BadData: there is no such folder.
        """
        if not self.path.is_dir():
            raise BadData(f"there is no folder {self.path}: give that of a run, as `nacre run --out` made it")
        if fcntl is None:
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise BadSetting(f"another process works in {self.path}: wait for it, or end it first") from error
        except OSError:  # a file system without locks
            logger.debug("%s cannot be locked", self.path)
        try:
            yield
        finally:
            os.close(handle)

    def status(self) -> str:
        """How far the run is, by its record; empty where there is none."""
        try:
            return Run.load(self.path).status
        except BadData:
            return ""

    def results(self) -> dict[int, Result]:
        """What each seed gave so far, by the record; empty where there is none."""
        try:
            return Run.load(self.path).results
        except BadData:
            return {}

    def save(self, seed: int, tree: Any, at: str, keep: int) -> None:
        """Write the next checkpoint of a seed; once it is complete, delete what is older than the newest `keep`.

        Raises:
            NotSaved: it could not be written; those before are untouched.
        """
        held = self._checkpoints(seed)
        number = int(held[-1].name.partition("-")[0]) + 1 if held else 1
        save(self._of(seed) / f"{number:06d}-{at}", tree)
        for left in (*self._of(seed).glob("*.new"), *self._of(seed).glob("*.old")):  # by a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        held = self._checkpoints(seed)
        kept = [place for place in held if place not in self.unreadable][-keep:]
        for place in held:
            if place < kept[0]:
                self._delete(place)

    def newest(self, seed: int) -> Any | None:
        """The newest checkpoint of a seed that can be read; None where none was written yet.

        Raises:
            BadCheckpoint: there are some, and none can be read.
        """
        wrong: list[str] = []
        for place in reversed(self._checkpoints(seed)):
            if wrong:
                logger.warning("%s; going back to the one before", wrong[-1])
            try:
                return load(place)
            except BadCheckpoint as error:
                wrong.append(str(error))
                self.unreadable.add(place)
        if wrong:
            raise BadCheckpoint(
                f"none of the {len(wrong)} checkpoints in {self._of(seed)} can be read: bring one back from a copy, or delete "
                f"that folder, and the seed begins anew. The newest: {wrong[0]}"
            )
        return None

    def export(self, seed: int, seeds: list[int]) -> Path:
        """Where the model of a seed is exported to."""
        return self.path / "export" if len(seeds) == 1 else self.path / "export" / f"seed-{seed}"

    @staticmethod
    def _delete(place: Path) -> None:
        """Delete a checkpoint, which is none from the first moment on."""
        gone = place.with_name(place.name + ".old")
        with suppress(OSError):
            os.replace(place, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def _of(self, seed: int) -> Path:
        return self.path / "checkpoints" / f"seed-{seed}"

    def _checkpoints(self, seed: int) -> list[Path]:
        """Whole checkpoints, the newest last; `.new` and `.old` are what an interrupted save left behind."""
        place = self._of(seed)
        held = place.iterdir() if place.is_dir() else ()
        return sorted(p for p in held if p.name[:6].isdigit() and p.suffix not in (".new", ".old"))
