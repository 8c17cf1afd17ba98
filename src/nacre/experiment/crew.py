"""Runs in folders, several at a time, each in a process of its own that ends with this one."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any, TypeVar

from ..catalogue import import_plugins, plugins
from ..core.errors import BadData, BadSetting, NacreError, shown
from ..core.run import Run
from .config import Config, differences
from .experiment import Experiment
from .folder import CONFIG, Finished, Folder
from .stopping import Stopping

Told = Callable[[Config, Run], None]
"""Hears a row's record whenever it has grown by a moment, and once where it is finished already."""


@dataclass
class Row:
    """A run on its way in another process, seen through its folder."""

    place: Path
    config: Config
    moments: int = 0

    def epochs(self) -> float:
        """About how long the row takes: epochs that it trains on the average task, replay counted double."""
        stages = [s for s in self.config.stage if s.optimizer is not None]
        share = [0.1 if s.when == "first" else 1.0 for s in stages]
        twice = [2.0 if any("memory" in m for m in s.methods) else 1.0 for s in stages]
        return sum(s.epochs * a * b for s, a, b in zip(stages, share, twice, strict=True))

    def changed(self) -> list[str]:
        """In what the config in its folder differs from its own."""
        return differences(Config.load(self.place).to_dict(), self.config.to_dict())

    def tell(self, told: Told | None) -> None:
        """Say how far it is, where that is news."""
        if told is None or not Folder(self.place).status():
            return
        record = Run.load(self.place)
        moments = sum(len(result.moments) for result in record.results.values())
        if moments > self.moments:
            self.moments = moments
            told(self.config, record)


T = TypeVar("T")
PLAIN = re.compile(r"[a-z0-9][a-z0-9-]*")  # the names of rows' folders, as `slug` makes them


def read_mark(path: Path, form: str, understood: Callable[[dict[str, Any]], T]) -> T:
    """What the file says that stands beside the folders of rows.

    Args:
        path: The file; its `rows` name the folders.
        form: The `format` that it must have.
        understood: Makes something of its content; what is missing or wrong there is a KeyError and the like.

    Raises:
        BadData: it cannot be read, or names what is no folder beside it.
    """
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if held["format"] != form:
            raise KeyError(held["format"])
        strange = [name for name in held["rows"] if not PLAIN.fullmatch(name)]
        if not strange:
            return understood(held)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadData(
            f"{path} is no {form} that can be read ({error}): resume the runs beside it one by one"
        ) from error
    raise BadData(f"{path} names the row {shown(strange[0])}, which is no folder beside it: is the file ours?")


def refuse_other(rows: list[Row]) -> None:
    """See that the folder of each row holds nothing, or its run as far as it came.

    Raises:
        BadSetting: another run is there.
        BadData: something else is there.
    """
    for row in rows:
        if not (row.place / CONFIG).is_file():
            Folder(row.place).refuse_other(row.config)
        elif (changed := row.changed()) and not Folder(row.place).learned_nothing():
            lines = "\n  ".join(changed)
            raise BadSetting(
                f"{row.place} holds a run with other settings; choose another --out, or delete it:\n  {lines}"
            )


def begin(rows: list[Row]) -> None:
    """Make the folder of each row and write its config down, where that has not been done; see `refuse_other`."""
    for row in rows:
        if not (row.place / CONFIG).is_file() or row.changed():
            Folder(row.place).begin(row.config)


def work_off(rows: list[Row], workers: int, told: Told | None) -> dict[Path, str]:
    """Begin or go on with every row that is not finished, the longest first; what went wrong, by folder.

    Args:
        rows: Each with the config that its folder holds.
        workers: How many run at a time.
        told: Hears how far they are.
    """
    left = [row for row in rows if Folder(row.place).status() != "finished"]
    longest = sorted(left, key=Row.epochs, reverse=True)  # first, so that none is left over
    return _work_off([row.place for row in longest], workers, lambda: [row.tell(told) for row in rows])


def _work_off(places: list[Path], workers: int, look: Callable[[], Any]) -> dict[Path, str]:
    """Run what lies in these folders, some at a time in processes of their own, and look now and then; what went wrong.

    Whatever interrupts the wait asks the processes to end: each finishes its step, saves, and leaves.
    """
    context = get_context("spawn")
    waiting, ended = context.SimpleQueue(), context.SimpleQueue()
    crew: list[SpawnProcess] = [
        context.Process(target=_work, args=(waiting, ended, plugins()), daemon=True)
        for _ in range(min(workers, len(places)))
    ]
    for place in [*places, *(None for _ in crew)]:
        waiting.put(place)
    try:
        with _deaf():
            for process in crew:
                process.start()
        while busy := [process.sentinel for process in crew if process.is_alive()]:
            wait(busy, timeout=1.0)
            look()
        look()
    except BaseException:
        for process in crew:
            if process.is_alive():
                process.terminate()
        for process in crew:
            process.join()
        raise
    codes = ", ".join(str(process.exitcode) for process in crew if process.exitcode)
    failed = dict.fromkeys(places, f"the process that worked on it died (exit code {codes}): out of memory?")
    while not ended.empty():
        place, error = ended.get()
        failed[place] = error
    return {place: error for place, error in failed.items() if error}


def _work(waiting: Any, ended: Any, others: list[str]) -> None:
    """Take one folder after the other, in a process of its own; say what went wrong with each, or nothing."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with Stopping(signal.SIGTERM, once=True) as stopping:  # the terminal's group and our parent may both ask
        try:
            import_plugins(others)  # which somebody named to the process that began this one
            for place in iter(waiting.get, None):
                try:
                    Experiment(Config.load(place)).resume(place, stopping)
                    ended.put((place, ""))
                except Finished:
                    ended.put((place, ""))
                except (NacreError, OSError, MemoryError) as error:
                    ended.put((place, str(error)))
        except KeyboardInterrupt:
            return


def _end_with_parent() -> None:
    """Ask this process to end once its parent has: after a kill nobody works on in a folder that is to be resumed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C is not heard inside, nor by processes that begin inside: they are ended by us."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
