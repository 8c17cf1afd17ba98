"""Runs what a config says, seed by seed; can be stopped anywhere and goes on exactly where it was."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones import Body
from ..checkpoint import describing
from ..core import ranks
from ..core.errors import BadCheckpoint, NotSaved
from ..core.run import Result, Run
from ..integrations.trackers import check_trackers
from ..learner import Learner, Listener
from ..metrics import START, forget_peak
from .config import Config
from .described import parts_of, versions_of
from .export import export
from .folder import Finished, Folder
from .news import News
from .recorder import Observer, Recorder
from .tracking import track
from .trial import Trial, trial

logger = logging.getLogger(__name__)
PUBLISHING = 20  # the record is written only if that took less than one part in so many of the time since


@dataclass
class Experiment:
    """A config that can be run.

    Attributes:
        config: Everything that can be set.
        data: The data themselves, where the config says that they are given in Python; anything `nacre.data.load` takes.
        body: The backbone, likewise.

    >>> config = Config.of({"stage": [{"methods": ["SimpleCIL"]}], "backbone": {"source": "mlp:64-16"}})
    >>> run = Experiment(config).run()
    >>> run.status, len(run.results[0].matrix)
    ('finished', 5)
    """

    config: Config
    data: Any = None
    body: Body | None = None

    def run(self, out: str | Path | None = None, *listeners: Listener) -> Run:
        """Run all seeds from the beginning.

        Args:
            out: The run's folder; None keeps nothing on disk.
            *listeners: Hear what happens; an `Observer` hears most.

        Raises:
            Finished: the same run is in that folder, finished.
            BadSetting: another run is there, or a setting does not fit.
            BadData: the data cannot be learned from.
            NonFinite: a loss or a weight became NaN, and `run.on_nonfinite` is "stop" or has done what it can.
            NotSaved: the disk is full, or cannot be written to; the checkpoint before is intact.
        """
        folder = None if out is None else Folder(out)
        if folder is not None:
            folder.refuse_other(self.config)
        with ranks.joined(), _alone(self.config):
            seed = self.config.run.seeds[0]
            first = trial(self.config, seed, self.data, self.body)  # may refuse: before anything is written
            ranks.wait()
            if folder is None or not ranks.first():
                return self._run(folder, listeners, first)
            folder.make()
            with folder.alone():
                folder.refuse_other(self.config)  # another process may have begun since
                folder.begin(self.config)
                return self._run(folder, listeners, first)

    def resume(self, out: str | Path, *listeners: Listener) -> Run:
        """Go on with the run in a folder, from the newest checkpoint that can be read.

        Raises:
            Finished: there is nothing left to do.
            BadSetting: another process works in the folder.
            BadData: the data are not those that the run began with.
            BadCheckpoint: there are checkpoints, and none can be read.
            NotSaved: the disk is full, or cannot be written to; the checkpoint before is intact.
        """
        folder = Folder(out)
        if folder.status() == "finished":
            raise Finished(f"{out} holds a finished run: see {Path(out) / 'run.json'}")
        with ranks.joined(), _alone(self.config), folder.alone() if ranks.first() else nullcontext():
            return self._run(folder, listeners, None)

    def _run(self, folder: Folder | None, listeners: tuple[Listener, ...], first: Trial | None) -> Run:
        config = self.config
        check_trackers(config.run.track)
        run = Run(
            config.run.name, "running", config.to_dict(), seeds=list(config.run.seeds), versions=versions_of(config)
        )
        run.stages, run.papers, run.fidelity = parts_of(config)
        run.started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if folder is not None:
            if first is None:
                run.results = folder.results()  # what was measured stays in the record, even if nothing can be resumed
            self._write(run, folder)
        news = News(folder.path, run.seeds) if folder is not None and ranks.first() else None
        listeners += (news,) if news is not None else ()
        try:
            for seed in config.run.seeds:
                made = first if first is not None and first.seed == seed else None
                if _Seed(self, run, folder, listeners).go(seed, made):
                    track(run, seed, None if folder is None else folder.path)
        except BaseException as error:
            failed = isinstance(error, Exception)
            run.status, run.error = ("failed", f"{type(error).__name__}: {error}") if failed else ("interrupted", "")
            try:
                self._write(run, folder)
            except NotSaved as unsaved:  # the disk is full, say: the first error is the one to tell
                logger.warning("%s", unsaved)
            raise
        finally:
            if news is not None:
                news.end()
        run.status = "finished"
        self._write(run, folder)
        return run

    @staticmethod
    def _write(run: Run, folder: Folder | None) -> None:
        """Write the record, if it is kept and this is the process that writes."""
        if folder is not None and ranks.first():
            run.save(folder.path)


@dataclass
class _Seed(Listener):
    """One seed on its way: learns, measures, saves."""

    experiment: Experiment
    run: Run
    folder: Folder | None
    listeners: tuple[Listener, ...]

    def go(self, seed: int, made: Trial | None) -> bool:
        """Learn the whole stream, from the newest checkpoint where there is one; whether anything was left to learn."""
        forget_peak()
        saved = self.folder.newest(seed) if self.folder is not None else None
        ranks.wait()  # all have read before one writes
        self.seed, config = seed, self.experiment.config
        self.trial = made if made is not None else trial(config, seed, self.experiment.data, self.experiment.body)
        self.recorder = recorder = Recorder(config, self.trial)
        self.saved = self.published = time.perf_counter()
        self.publishing = 0.0
        learner = self.trial.learner
        if saved is not None:
            self._take_over(saved)
        if left := not recorder.complete:
            for hears in self._observers():
                hears.seed_begins(self.trial)
            try:
                self._learn()
            except BaseException:
                self.run.results[seed] = recorder.result()  # the record says how far it came, and why it ended
                raise
            recorder.complete = True
            self.save()
        result = self._publish()
        if self.folder is not None and ranks.first():
            place = self.folder.export(seed, config.run.seeds)
            export(place, learner, self.trial.body, self.trial.split)
        for hears in self._observers():
            hears.seed_ends(self.trial, result)
        return left

    def _learn(self) -> None:
        if self.trial.features is not None:
            self.trial.features.take()
            self.recorder.lap("features")
        if self.experiment.config.stream.evaluate == "all" and not self.recorder.matrix.moments:
            self._measure(START, None)
        for met in self.trial.learner.learn(self.trial.stream, self.recorder, self, *self.listeners):
            self._measure(f"task{met.task.index}", met)
            self.save()
            self._publish_if_cheap()

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        self._save_if_due()

    def left_out(self, learner: Learner, event: dict[str, Any]) -> None:
        self._save_if_due()

    def stage_ends(self, learner: Learner) -> None:
        self.save()

    def _save_if_due(self) -> None:
        told = self.experiment.config.run
        asked = [hears.wants_save() for hears in self._observers()]  # all are asked: ranks may have to agree
        steps = told.save_every and sum(self.trial.learner.clocks) % told.save_every == 0
        late = told.save_seconds and time.perf_counter() - self.saved >= told.save_seconds
        if steps or late or any(asked):
            self.save()

    def save(self) -> None:
        """Write a checkpoint: the learner and all that has been written down about it."""
        if self.folder is None:
            return
        learner, recorder = self.trial.learner, self.recorder
        learner.check_finite()
        for hears in self._observers():
            hears.save_begins(self.trial)
        recorder.lap("training")
        if ranks.first():
            tree = {"learner": learner.state_dict(), "record": recorder.state_dict()}
            at = f"task{learner.experience}-stage{learner.stage}-step{learner.step}"
            self.folder.save(self.seed, tree, at, self.experiment.config.run.keep)
        self.saved = time.perf_counter()
        recorder.lap("saving")
        for hears in self._observers():
            hears.save_ends(self.trial)

    def _measure(self, moment: str, met: Any) -> None:
        last = met is not None and met.task.index == self.trial.tasks - 1
        self.recorder.measure(moment, met, last)
        for hears in self._observers():
            hears.measured(self.trial, moment, self.recorder.matrix)

    def _publish(self) -> Result:
        since = time.perf_counter()
        result = self.run.results[self.seed] = self.recorder.result()
        self.experiment._write(self.run, self.folder)
        self.published = time.perf_counter()
        self.publishing = self.published - since
        return result

    def _publish_if_cheap(self) -> None:
        """Rewrite the record, unless that would take more than a twentieth of the time: it grows with the stream."""
        if self.folder is not None and time.perf_counter() - self.published >= PUBLISHING * self.publishing:
            self._publish()

    def _take_over(self, saved: Any) -> None:
        record = saved.get("record") if isinstance(saved, dict) else None
        if not isinstance(record, dict):
            raise BadCheckpoint(
                f"the checkpoint of seed {self.seed} is not one of an experiment: was it written by hand?"
            )
        self.recorder.refuse_other_rows(record)
        with describing(f"seed {self.seed} of this run"):
            self.trial.learner.load_state_dict(saved["learner"])
            self.recorder.load_state_dict(record)
            if not self.recorder.complete:
                self.trial.learner.warn_if_unlike(saved["learner"])

    def _observers(self) -> Iterator[Observer]:
        return (hears for hears in self.listeners if isinstance(hears, Observer))


@contextmanager
def _alone(config: Config) -> Iterator[None]:
    """The caller's global generators and number of threads are afterwards as they were."""
    threads = torch.get_num_threads()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        if config.run.threads:
            torch.set_num_threads(config.run.threads)
        try:
            yield
        finally:
            if config.run.threads:
                torch.set_num_threads(threads)
