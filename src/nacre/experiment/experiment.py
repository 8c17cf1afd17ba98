"""Runs what a config says, seed by seed; can be stopped anywhere and goes on exactly where it was."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..backbones import Body
from ..catalogue import find
from ..checkpoint import describing
from ..core import ranks
from ..core.errors import BadCheckpoint, NonFinite, NotSaved
from ..core.optim import OPTIMIZERS
from ..core.run import Result, Run
from ..core.state import settings
from ..learner import Learner, Listener
from ..metrics import forget_peak
from .config import Config
from .export import export
from .folder import Finished, Folder
from .recorder import Observer, Recorder
from .trial import Trial, device_of, method, trial

logger = logging.getLogger(__name__)
PACKAGES = ("nacre", "torch", "numpy", "transformers", "scikit-learn", "matplotlib")


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
        run = Run(
            config.run.name, "running", config.to_dict(), seeds=list(config.run.seeds), versions=_versions(config)
        )
        run.stages, run.papers, run.fidelity = _described(config)
        run.started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        if folder is not None:
            if first is None:
                run.results = folder.results()  # what was measured stays in the record, even if nothing can be resumed
            self._write(run, folder)
        try:
            for seed in config.run.seeds:
                made = first if first is not None and first.seed == seed else None
                _Seed(self, run, folder, listeners).go(seed, made)
        except BaseException as error:
            failed = isinstance(error, Exception)
            run.status, run.error = ("failed", f"{type(error).__name__}: {error}") if failed else ("interrupted", "")
            try:
                self._write(run, folder)
            except NotSaved as unsaved:  # the disk is full, say: the first error is the one to tell
                logger.warning("%s", unsaved)
            raise
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

    def go(self, seed: int, made: Trial | None) -> None:
        """Learn the whole stream, from the newest checkpoint where there is one."""
        forget_peak()
        saved = self.folder.newest(seed) if self.folder is not None else None
        ranks.wait()  # all have read before one writes
        self.seed, config = seed, self.experiment.config
        self.trial = made if made is not None else trial(config, seed, self.experiment.data, self.experiment.body)
        self.recorder = recorder = Recorder(config, self.trial)
        self.saved = time.perf_counter()
        learner = self.trial.learner
        if saved is not None:
            self._take_over(saved)
        if not recorder.complete:
            for hears in self._observers():
                hears.seed_begins(self.trial)
            try:
                self._learn()
            except NonFinite:
                self._publish()  # the record says where
                raise
            recorder.complete = True
            self.save()
        result = self._publish()
        if self.folder is not None and ranks.first():
            place = self.folder.export(seed, config.run.seeds)
            export(place, learner, self.trial.body, self.trial.split)
        for hears in self._observers():
            hears.seed_ends(self.trial, result)

    def _learn(self) -> None:
        if self.trial.features is not None:
            self.trial.features.take()
            self.recorder.lap("features")
        if self.experiment.config.stream.evaluate == "all" and not self.recorder.matrix.moments:
            self._measure("start", None)
        for met in self.trial.learner.learn(self.trial.stream, self.recorder, self, *self.listeners):
            self._measure(f"task{met.task.index}", met)
            self.save()
            self._publish()

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
        result = self.run.results[self.seed] = self.recorder.result()
        self.experiment._write(self.run, self.folder)
        return result

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


def _described(config: Config) -> tuple[list[dict[str, Any]], dict[str, str], dict[str, str]]:
    """Each stage with all settings of its parts; the papers of its methods; how sure we are of them."""
    stages, papers, fidelity = [], {}, {}
    for table, said in zip(config.stage, config.to_dict()["stage"], strict=True):
        made = [method(t, config.run.seeds[0]) for t in table.methods]
        full: dict[str, Any] = {
            "methods": [{"name": t["name"], **settings(m)} for t, m in zip(table.methods, made, strict=True)]
        }
        if table.optimizer is not None:
            known = signature(OPTIMIZERS[table.optimizer["name"]]).parameters
            defaults = {n: p.default for n, p in known.items() if p.default is not p.empty and p.default is not None}
            full["optimizer"] = {**defaults, **table.optimizer}
        stages.append({**said, **full})
        for t in table.methods:
            entry = find("method", t["name"])
            if entry.paper is not None:
                papers[entry.name], fidelity[entry.name] = str(entry.paper), entry.fidelity
    return stages, papers, fidelity


def _versions(config: Config) -> dict[str, str]:
    """What numbers depend on beside the config."""
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    device = device_of(config)
    found["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {**found, "threads": str(config.run.threads or torch.get_num_threads())}
