"""Says about once a second where a run stands, in a small file that `nacre watch` reads. Changes nothing, fails no run."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.durable import remove
from ..core.progress import FILE, Progress
from ..core.run import Result
from ..learner import Learner, Stage
from ..metrics import Matrix
from .recorder import Observer
from .trial import Trial

EVERY = 1.0  # seconds between two writings
LOSSES = 120  # that are told


class News(Observer):
    """Writes `progress.json` into a run's folder.

    Args:
        folder: The run's.
        seeds: All seeds of the run, in order.
    """

    def __init__(self, folder: Path, seeds: list[int]):
        self.folder, self.seeds = folder, seeds
        remove(folder / FILE)  # of a process that was killed
        self.told = Progress(since=time.time())
        self.began = False  # whether a first place was noted
        self.next = 0.0  # when to write again

    def seed_begins(self, trial: Trial) -> None:
        self._meet(trial)
        self._tell(trial.learner, "preparing")

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        self.told.steps = total
        self._tell(learner, "training")

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        if time.perf_counter() >= self.next:
            value = loss.item()
            self.told.losses = [*self.told.losses, value if math.isfinite(value) else None][-LOSSES:]
            self._tell(learner, "training")

    def left_out(self, learner: Learner, event: dict[str, Any]) -> None:
        if time.perf_counter() >= self.next:
            self._tell(learner, "training")

    def stage_ends(self, learner: Learner) -> None:
        self.told.steps = 0
        self._tell(learner, "testing" if learner.stage == len(learner.stages) else "preparing")

    def measured(self, trial: Trial, moment: str, matrix: Matrix) -> None:
        self._tell(trial.learner, "preparing")

    def seed_ends(self, trial: Trial, result: Result) -> None:
        self._meet(trial)  # one that was complete when the run was resumed did not begin
        self._tell(trial.learner, "preparing")

    def end(self) -> None:
        """The run is over: its record says how it went."""
        remove(self.folder / FILE)

    def _meet(self, trial: Trial) -> None:
        self.told.seed, self.told.tasks, self.told.steps = trial.seed, trial.tasks, 0

    def _tell(self, learner: Learner, doing: str) -> None:
        told = self.told
        told.doing, told.task, told.stage, told.step = doing, learner.experience, learner.stage, learner.step
        told.stages = len(learner.stages)
        part = told.step / told.steps if told.steps else 0.0  # on resume the length of a stage is known once it goes on
        inside = (told.stage + part) / max(told.stages, 1)
        of_seed = min((told.task + min(inside, 1.0)) / max(told.tasks, 1), 1.0)
        told.done = (self.seeds.index(told.seed) + of_seed) / len(self.seeds)
        if not self.began and (told.steps or not told.step):
            self.began, told.done_before = True, told.done
        told.written, self.next = time.time(), time.perf_counter() + EVERY
        with suppress(OSError):  # a full disk is told of where something is lost
            told.save(self.folder)
