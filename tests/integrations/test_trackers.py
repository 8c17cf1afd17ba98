"""What trackers are sent is what `run.json` holds, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

pytest.importorskip("accelerate", reason="pip install 'nacre[tensorboard]'")
from accelerate import tracking
from accelerate.state import PartialState

from nacre.core.errors import BadSetting, MissingExtra, UnknownName
from nacre.experiment import Experiment
from nacre.integrations.trackers import check_trackers, points
from tests.end_to_end import small


@pytest.fixture(autouse=True)
def _alone():
    yield
    PartialState._reset_state()


class Noted(tracking.GeneralTracker):
    """A tracker of accelerate's own kind, in memory."""

    name, requires_logging_directory = "wandb", False
    runs: ClassVar[list[Noted]] = []

    def __init__(self, run_name: str, **told: Any):
        super().__init__()
        self.run_name, self.logged, self.settings, self.done = run_name, {}, {}, False
        Noted.runs.append(self)

    @property
    def tracker(self) -> Noted:
        return self

    def store_init_configuration(self, values: dict) -> None:
        self.settings = values

    def log(self, values: dict, step: int | None = None, **told: Any) -> None:
        assert step is not None and not self.done and all(step > before for _, before in self.logged)
        self.logged |= {(name, step): value for name, value in values.items()}

    def finish(self) -> None:
        self.done = True


@pytest.fixture
def noted(monkeypatch) -> list[Noted]:
    """Noted stands for the tracker of W&B, as if its package were installed."""
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Noted)
    monkeypatch.setattr("nacre.integrations.trackers.PACKAGES", {"wandb": "json", "tensorboard": "tensorboard"})
    monkeypatch.setattr(Noted, "runs", [])
    return Noted.runs


def numbers(value: Any) -> set[float]:
    """Every number in a record."""
    if isinstance(value, dict):
        return set().union(*map(numbers, value.values())) if value else set()
    if isinstance(value, list):
        return set().union(*map(numbers, value)) if value else set()
    return {float(value)} if isinstance(value, (int, float)) else set()


def read(folder: Path) -> dict[tuple[str, int], float]:
    """The scalars of TensorBoard's files below a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    held = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    held.Reload()
    return {(tag, event.step): event.value for tag in held.Tags()["scalars"] for event in held.Scalars(tag)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that TensorBoard loads
def test_tensorboard_holds_the_record_and_nothing_else(tmp_path):
    config = small.config("run.track=['tensorboard']", "stream.tasks=2", "watch.every=10")
    Experiment(config).run(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    told = read(tmp_path / "run" / "trackers" / "run")
    expected = {(name, step): value for step, values in points(record) for name, value in values.items()}
    assert told.keys() == expected.keys() and len(told) > 20
    assert all(told[key] == pytest.approx(expected[key], rel=1e-6) for key in told)
    assert set(expected.values()) <= numbers(record)
    kinds = {name.partition("/")[0] for name, _ in told}
    assert kinds == {"loss", "lr", "watch", "accuracy", "motion", "summary"}


def test_each_seed_is_a_run_of_its_own_and_is_sent_once(tmp_path, noted):
    config = small.config("run.track=['wandb']", "stream.tasks=2", "run.seeds=[0,1]")
    run = Experiment(config).run(tmp_path / "run")
    assert [(t.run_name, t.done) for t in noted] == [("run-seed0", True), ("run-seed1", True)]
    for tracker, seed in zip(noted, (0, 1), strict=True):
        assert tracker.settings["settings.run.seeds"] == "[0, 1]"
        last = {name: value for (name, _), value in tracker.logged.items()}
        assert last["summary/last"] == run.results[seed].summary["last"]
        assert dict(points(run.to_json(), seed)) and {s for _, s in tracker.logged} == {
            s for s, _ in points(run.to_json(), seed)
        }
    (tmp_path / "run" / "run.json").unlink()
    for place in sorted((tmp_path / "run" / "checkpoints" / "seed-1").iterdir()):
        if "task2" in place.name:
            shutil.rmtree(place)  # the end of the second seed is lost
    Experiment(config).resume(tmp_path / "run")
    assert [t.run_name for t in noted] == ["run-seed0", "run-seed1", "run-seed1"]


def test_a_tracker_that_fails_costs_no_seed(tmp_path, noted, monkeypatch, caplog):
    def down(*_, **__):
        raise ConnectionError("the tracker is down")

    monkeypatch.setattr("nacre.experiment.tracking.send", down)
    config = small.config("run.track=['wandb']", "stream.tasks=2", "run.seeds=[0,1]")
    run = Experiment(config).run(tmp_path / "run")
    assert run.status == "finished" and sorted(run.results) == [0, 1]
    assert "seed 0 was not sent to wandb" in caplog.text and "the tracker is down" in caplog.text


def test_what_is_missing_or_misspelt_is_said_before_anything_is_learned(tmp_path, monkeypatch):
    with pytest.raises(UnknownName, match="did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    with pytest.raises(BadSetting, match="twice"):
        check_trackers(["wandb", "wandb"])
    monkeypatch.setattr("nacre.integrations.trackers.PACKAGES", {"wandb": "no_such_package"})
    with pytest.raises(MissingExtra, match=r"needs the package 'no_such_package'.*nacre\[wandb\]"):
        Experiment(small.config("run.track=['wandb']")).run(tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()
