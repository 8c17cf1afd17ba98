"""Writes down what happens while a learner works: scores, curves, motion, time. Disturbs nothing."""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import torch
from torch import Tensor

from ..adapters import effective
from ..catalogue import followers
from ..core.dice import dice
from ..core.errors import BadData
from ..core.method import Method, leaves
from ..core.model import device_of
from ..core.rested import Rested, refuse_broken
from ..core.rows import Batch, Rows
from ..core.run import NAN, Result
from ..core.state import Tensors
from ..core.stream import Experience, experiences
from ..learner import Learner, Listener, Stage
from ..metrics import START, Matrix, Motion, accuracy, peak_memory, score
from .config import Config
from .curves import Losses, Moved, Rests, Watched
from .trial import Trial

logger = logging.getLogger(__name__)
KEPT = ("matrix", "motion", "losses", "watched", "moved")
LATER = ("rested", "rests")  # kept, too; checkpoints of earlier versions do not have them
PLAIN = ("tests", "seconds", "peak", "complete")


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
        self.tests: dict[str, int] = {}  # each test set that is known, and the experience that brought it
        self.losses, self.watched, self.moved = Losses(), Watched(config.watch.every), Moved()
        self.rested, self.rests = Rested(), Rests()
        self.steps = 0  # of the present stage
        self.taken = 0  # steps of the present task, over its stages
        self.stale: dict[str, list[int]] = {}
        self.seconds = {"training": 0.0, "evaluation": 0.0, "saving": 0.0}
        self.peak = 0
        self.complete = False
        self.since = time.perf_counter()
        self.samples: dict[str, Batch] = {}
        self.looked = -1  # the experience whose test sets were asked for last

    def lap(self, kind: str) -> None:
        """Count the time since the last lap as this kind."""
        now = time.perf_counter()
        self.seconds[kind] = self.seconds.get(kind, 0.0) + now - self.since
        self.since = now

    def task_begins(self, learner: Learner, met: Experience) -> None:
        self.motion.begin(effective(learner.model))
        self.taken = 0

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        self.steps = total
        if learner.step == 0:
            self.rested.begin(*self._resting(learner))
            self.losses.begin(learner.experience, learner.stage, total)
            if self.config.watch.every and total >= self.config.watch.every:
                self.watched.begin(learner.experience, learner.stage, total)

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        place = (learner.experience, learner.stage, learner.step)
        self.taken += 1
        if self.losses.due(learner.experience, learner.step):
            optimizer = learner.optimizer
            rates = [group["lr"] for group in optimizer.param_groups] if optimizer is not None else []
            self.losses.add(*place, loss.item(), float(max(rates, default=NAN)))
        if self.watched.due(learner.experience, learner.step):
            self.lap("training")
            self._watch(learner, place)
            self.lap("evaluation")
        self._note_rest(learner)

    def left_out(self, learner: Learner, event: dict[str, Any]) -> None:
        self._note_rest(learner)

    def measure(self, moment: str, met: Experience | None, last: bool = False) -> None:
        """Test the model at a moment, as the config asks for it.

        Args:
            moment: Its name.
            met: The experience that has just been learned; None before the first.
            last: Whether nothing follows.
        """
        self.lap("training")
        learner, asked = self.trial.learner, self.config.stream.evaluate
        if met is not None:
            self.moved.add(met.task.index, rows := self.motion.since(effective(learner.model), self.taken))
            if self.trial.features is not None:
                self.trial.features.refuse_motion(rows)
            self._know(met)
        elif asked == "all":
            for ahead in experiences(self.trial.stream):
                self._know(ahead)
        for name, index in self.tests.items():
            mine = met is not None and name in met.tests
            if asked == "last" and not last and not mine:
                continue
            held = met.tests[name] if met is not None and mine else self.trial.stream[index].tests[name]
            value = self._score(learner, held) if asked != "last" or last else NAN
            self.matrix.add(moment, name, value, len(held), learned=mine)
        if met is not None:
            self.stale[moment] = sorted({task for m in self._read_out() for task in m.stale(learner.model)})
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
            moments=list(matrix.moments),
            tests=tests,
            matrix=matrix.table(),
            curves={"loss": self.losses.to_json(), "watch": self.watched.to_json(list(self.tests))},
            summary=summary,
            motion=self.moved.to_json(),
            stale=self.stale,
            drift={task: told for m in self._read_out() for task, told in m.drifts().items()},
            rest=self.rests.to_json(),
            nonfinite=self.trial.learner.nonfinite,
            seconds=self.seconds,
            peak_memory_bytes=self.peak,
        )

    def state_dict(self) -> dict[str, Any]:
        """All that has been written down."""
        return {
            **{name: getattr(self, name).state_dict() for name in (*KEPT, *LATER)},
            **{name: getattr(self, name) for name in PLAIN},
            "taken": self.taken,
            "stale": {moment: tasks for moment, tasks in self.stale.items() if tasks},
            "sha256": self.trial.source.sha256,
            "stream_sha256": self.trial.stream_sha256,
            "read_as": self.trial.read_as,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name in KEPT:
            getattr(self, name).load_state_dict(saved[name])
        for name in (name for name in LATER if name in saved):
            getattr(self, name).load_state_dict(saved[name])
        for name in PLAIN:
            setattr(self, name, saved[name])
        self.taken = saved.get("taken", 0)
        self.stale = {m: saved["stale"].get(m, []) for m in self.matrix.moments if m != START}
        self.since = time.perf_counter()

    def refuse_other_rows(self, saved: dict[str, Any]) -> None:
        """See that a record is of the rows that there are, cut into the same stream and read as they are read now.

        Raises:
            BadData: it is not.
        """
        now = self.trial.source.sha256
        if (then := saved.get("sha256")) != now:
            raise BadData(
                f"the data have changed since this run began (sha256 {now[:12]}..., then {str(then)[:12]}...): bring the old "
                "rows back, or start a new run"
            )
        stream = self.trial.stream_sha256
        if (then := saved.get("stream_sha256", stream)) != stream:  # checkpoints of earlier versions do not have it
            raise BadData(
                f"the stream is another than when this run began (sha256 {stream[:12]}..., then {str(then)[:12]}...), by other "
                "names of classes or other groups of them perhaps: bring these back, or start a new run"
            )
        if saved.get("read_as") != self.trial.read_as:
            raise BadData(
                "the backbone prepares rows otherwise than when this run began, by another tokenizer perhaps: bring its old "
                "files back, or start a new run"
            )

    def _know(self, met: Experience) -> None:
        """Remember where test sets come from; a set that several experiences bring is scored once."""
        for name in met.tests:
            self.tests.setdefault(name, met.task.index)

    def _read_out(self) -> list[Method]:
        """Whose statistics answers stand on: the method that answers, or all of them where the model itself does."""
        learner = self.trial.learner
        if (answering := learner.answering()).overrides("predict"):
            return [answering]
        return [m for stage in learner.stages for m in leaves(stage.method) if isinstance(m, Method)]

    def _warn_of_stale(self, moment: str) -> None:
        """Say once a run that answers stand on statistics of an older backbone."""
        if self.stale[moment] and not any(self.stale[m] for m in self.stale if m != moment):
            names = [name for name in followers() if name not in map(_name, self._read_out())]
            cure = (
                f"answer with {' or '.join(names)}, whose statistics follow the backbone"
                if names
                else "let them follow it"
            )
            logger.warning(
                "at %s, %s answers for tasks %s with statistics taken with an older backbone: expect those tasks to seem "
                'forgotten; %s, or tune on the first task only (when = "first")',
                moment,
                " and ".join(_name(m) for m in self._read_out() if m.stale(self.trial.learner.model)),
                ", ".join(map(str, self.stale[moment])),
                cure,
            )

    def _resting(self, learner: Learner) -> tuple[Tensors, dict[str, Any], Tensors]:
        """What rests at every step of the present stage, what it trains, and what is remembered already."""
        assert learner.drive is not None
        site = learner.drive.site
        return learner.drive.method.still(site), site.params, self.motion.then

    def _note_rest(self, learner: Learner) -> None:
        """After the last step of a stage, count what was to rest and what of it moved."""
        if learner.drive is not None and learner.step >= self.steps:
            counts = self.rested.counts(*self._resting(learner))
            self.rests.note(learner.experience, learner.stage, self.steps, counts)
            if counts["moved"] and self.config.run.verify_rest:
                broken = self.rested.broken(*self._resting(learner))
                refuse_broken(broken, f"task {learner.experience}, stage {learner.stage}")
            self.rested.then = {}

    def _score(self, learner: Learner, rows: Rows) -> float:
        if not learner.classes:
            return 0.0  # a model that knows no class yet is never right
        return score(learner.predict, rows, device=device_of(learner.model), shared=True)

    def _watch(self, learner: Learner, place: tuple[int, int, int]) -> None:
        """Score a fixed sample of each test set up to the present task."""
        if self.looked != learner.experience:
            self._know(self.trial.stream[learner.experience])
            self.looked = learner.experience
        for number, (name, index) in enumerate(self.tests.items()):
            if index > learner.experience:
                continue
            if name not in self.samples:
                rows = self.trial.stream[index].tests[name]
                order = torch.randperm(len(rows), generator=dice(self.trial.seed, "watch", name))
                self.samples[name] = rows.take(order[: self.config.watch.rows]).to(device_of(learner.model))
            batch = self.samples[name]
            value = accuracy(learner.predict(batch), batch).double().mean().item()
            self.watched.add(*place, number, value if math.isfinite(value) else NAN)


def _name(method: Method) -> str:
    return type(method).__name__
