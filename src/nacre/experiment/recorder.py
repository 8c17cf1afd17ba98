"""Writes down what happens while a learner works: scores, curves, motion, time. Disturbs nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadData
from ..core.model import device_of
from ..core.rows import Batch, Rows
from ..core.run import NAN, Result
from ..core.stream import Experience, experiences
from ..learner import Learner, Listener, Stage
from ..metrics import Matrix, Motion, accuracy, peak_memory, score
from ..metrics.motion import total
from .config import Config
from .trial import Trial

logger = logging.getLogger(__name__)
EVERY = 10  # steps between points of the loss curve


class Observer(Listener):
    """Hears also what an experiment does; every method does nothing unless overridden."""

    def seed_begins(self, trial: Trial) -> None:
        """Before the first task of a seed, or where it is resumed."""

    def measured(self, trial: Trial, moment: str, matrix: Matrix) -> None:
        """After the tests of a moment."""

    def wants_save(self) -> bool:
        """Whether a checkpoint shall be written now; asked after each step."""
        return False

    def save_begins(self, trial: Trial) -> None:
        """Before a checkpoint is written."""

    def save_ends(self, trial: Trial) -> None:
        """Once a checkpoint is complete."""

    def seed_ends(self, trial: Trial, result: Result) -> None:
        """After the last task of a seed."""


class Recorder(Listener):
    """The record of one seed as it grows; what it holds goes into the checkpoint with the learner.

    Args:
        config: What is tested when, and which watch sets there are.
        trial: What runs.
    """

    def __init__(self, config: Config, trial: Trial):
        self.config, self.trial = config, trial
        self.matrix, self.motion = Matrix(), Motion()
        self.moved: dict[str, Any] = {}
        self.stale: dict[str, list[int]] = {}
        self.losses: list[dict[str, Any]] = []
        self.watched: list[dict[str, Any]] = []
        self.seconds = {"training": 0.0, "evaluation": 0.0, "saving": 0.0}
        self.peak = 0
        self.complete = False
        self.since = time.perf_counter()
        self.samples: dict[str, Batch] = {}

    def lap(self, kind: str) -> None:
        """Count the time since the last lap as this kind."""
        now = time.perf_counter()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self.since
        self.since = now

    def task_begins(self, learner: Learner, met: Experience) -> None:
        self.motion.begin(learner.model)

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        if learner.step == 0:
            place = {"task": learner.experience, "stage": learner.stage}
            self.losses.append({**place, "steps": total, "step": [], "loss": [], "lr": []})
            if self.config.watch.every and total >= self.config.watch.every:
                self.watched.append({**place, "step": [], "scores": {}})

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        if learner.step == 1 or learner.step % EVERY == 0:
            curve, optimizer = self.losses[-1], learner.optimizer
            rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else []
            curve["step"].append(learner.step)
            curve["loss"].append(loss.item())
            curve["lr"].append(float(max(rates, default=NAN)))
        if self.config.watch.every and learner.step % self.config.watch.every == 0:
            self.lap("training")
            self._watch(learner)
            self.lap("evaluation")

    def measure(self, moment: str, met: Experience | None, last: bool = False) -> None:
        """Test the model at a moment, as the config asks for it.

        Args:
            moment: Its name.
            met: The experience that has just been learned; None before the first.
            last: Whether nothing follows.
        """
        self.lap("training")
        learner, asked = self.trial.learner, self.config.stream.evaluate
        if met is not None and moment not in self.moved:
            rows = self.motion.since(learner.model)
            self.moved[moment] = {"total": total(rows), "tensors": rows}
            if self.trial.features is not None:
                self.trial.features.refuse_motion(rows)
        for other in self._met(learner, everything=asked == "all"):
            for name, rows in other.tests.items():
                mine = met is not None and name in met.tests
                if asked != "last" or last:
                    value = self._score(learner, rows)
                elif mine:
                    value = NAN
                else:
                    continue
                self.matrix.add(moment, name, value, len(rows), learned=mine)
        if met is not None:
            self.stale[moment] = learner.answering().stale(learner.model)
            self._warn_of_stale(moment)
        self.peak = max(self.peak, peak_memory())
        self.lap("evaluation")

    def result(self) -> Result:
        """The record as it stands."""
        matrix = self.matrix
        summary = matrix.summary()
        if self.trial.split.told:
            summary["union"] = NAN  # tasks are told apart: there is no one set of rows on which all classes compete
        if self.config.stream.evaluate == "last":
            summary |= {"average": NAN, "learning": NAN}
        tests = [{"name": t, "rows": matrix.rows[t], "learned": matrix.learned.get(t, "")} for t in matrix.tests]
        return Result(
            data=self.trial.data(),
            moments=matrix.moments,
            tests=tests,
            matrix=matrix.table(),
            curves={"loss": self.losses, "watch": self.watched},
            summary=summary,
            motion=self.moved,
            stale=self.stale,
            nonfinite=self.trial.learner.nonfinite,
            seconds=self.seconds,
            peak_memory_bytes=self.peak,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that has been written down."""
        return {
            "matrix": self.matrix.to_json(),
            "then": self.motion.state_dict(),
            "moved": self.moved,
            "stale": self.stale,
            "losses": self.losses,
            "watched": self.watched,
            "seconds": self.seconds,
            "peak": self.peak,
            "complete": self.complete,
            "sha256": self.trial.source.sha256,
            "read_as": self.trial.read_as,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.matrix = Matrix(**saved["matrix"])
        self.motion.load_state_dict(saved["then"])
        for name in ("moved", "stale", "losses", "watched", "seconds", "peak", "complete"):
            setattr(self, name, saved[name])
        self.since = time.perf_counter()

    def refuse_other_rows(self, saved: dict[str, Any]) -> None:
        """See that a record is of the rows that there are, read as they are read now.

        Raises:
            BadData: it is not.
        """
        now = self.trial.source.sha256
        if (then := saved.get("sha256")) != now:
            raise BadData(
                f"the data have changed since this run began (sha256 {now[:12]}..., then {str(then)[:12]}...): bring the old "
                "rows back, or start a new run"
            )
        if saved.get("read_as") != self.trial.read_as:
            raise BadData(
                "the backbone prepares rows otherwise than when this run began, by another tokenizer perhaps: bring its old "
                "files back, or start a new run"
            )

    def _met(self, learner: Learner, everything: bool) -> Iterator[Experience]:
        for met in experiences(self.trial.stream):
            if not everything and met.task.index >= learner.experience:
                return
            yield met

    def _warn_of_stale(self, moment: str) -> None:
        """Say once a run that answers stand on statistics of an older backbone."""
        if self.stale[moment] and not any(self.stale[m] for m in self.stale if m != moment):
            logger.warning(
                "at %s, %s answers for tasks %s with statistics taken with an older backbone: expect those tasks to seem "
                'forgotten; tune on the first task only (when = "first"), or see `stale` in run.json',
                moment,
                type(self.trial.learner.answering()).__name__,
                ", ".join(map(str, self.stale[moment])),
            )

    def _score(self, learner: Learner, rows: Rows) -> float:
        if not learner.classes:
            return 0.0  # a model that knows no class yet is never right
        return score(learner.predict, rows, device=device_of(learner.model), shared=True)

    def _watch(self, learner: Learner) -> None:
        """Score a fixed sample of each test set up to the present task."""
        seen = self.watched[-1]
        seen["step"].append(learner.step)
        for i in range(learner.experience + 1):
            for name, rows in self.trial.stream[i].tests.items():
                if name not in self.samples:
                    order = torch.randperm(len(rows), generator=dice(self.trial.seed, "watch", name))
                    self.samples[name] = rows.take(order[: self.config.watch.rows]).to(device_of(learner.model))
                batch = self.samples[name]
                value = accuracy(learner.predict(batch), batch).double().mean().item()
                seen["scores"].setdefault(name, []).append(value if math.isfinite(value) else NAN)
