"""Leaving a run when SIGINT or SIGTERM asks for it, where nothing is lost."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from ..core import ranks
from ..learner import Learner, Stage
from ..metrics import Matrix
from .recorder import Observer
from .trial import Trial


class Stopped(KeyboardInterrupt):
    """A run was left because a signal asked for it; its folder can be resumed.

    Attributes:
        code: What the process shall exit with: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.code = 128 + number


class Stopping(Observer):
    """Inside the block the first signal ends a run that it observes where nothing is lost, and the second ends it at once.

    While steps are taken, the first signal waits for the present one, and for the checkpoint after it. At other times, when
    tests are scored or a task is read, all that can be saved has been, and the run is left right there. Outside the main
    thread, which alone hears signals, the block changes nothing. Several ranks leave together, at the end of a step or a task.

    Args:
        *signals: Which signals are heard.
        once: Whether the second signal is not heard either.
    """

    def __init__(self, *signals: int, once: bool = False):
        self.signals, self.once = signals, once
        self.asked = 0  # the signal that was heard
        self.stepping = self.saving = False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> Stopping:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._heard) for number in self.signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        self.stepping = True

    def wants_save(self) -> bool:
        self._agree()
        return bool(self.asked)

    def save_begins(self, trial: Trial) -> None:
        self.saving = True

    def save_ends(self, trial: Trial) -> None:
        self.saving = False
        self._leave()

    def stage_ends(self, learner: Learner) -> None:
        self.stepping = False
        self._agree()
        self._leave()

    def measured(self, trial: Trial, moment: str, matrix: Matrix) -> None:
        self._agree()
        self._leave()

    def _agree(self) -> None:
        """What one rank was asked, all are asked."""
        if ranks.world() > 1:
            self.asked = max(ranks.gathered(self.asked))

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if self.asked and not self.once:
            os._exit(128 + number)
        if not self.asked:
            self.asked = number
            if not (self.stepping or self.saving) and ranks.world() == 1:
                self._leave()

    def _leave(self) -> None:
        if self.asked:
            raise Stopped(self.asked)
