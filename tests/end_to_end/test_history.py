"""A record stays small on a long stream: what it leaves out, it leaves out as if it had never been asked for."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.checkpoint import load
from nacre.core.rows import Rows
from nacre.experiment import Config, Experiment, Observer, experiment
from nacre.experiment.curves import DETAILED, Losses, Moved, Watched
from nacre.experiment.history import History
from nacre.experiment.recorder import Recorder
from nacre.metrics import Matrix, forget_peak, peak_memory
from tests.end_to_end.small import same


def filled(history: History, tasks: int, steps: int, stages: int = 1) -> History:
    for task in range(tasks):
        for stage in range(stages):
            history.begin(task, stage, steps)
            for step in range(1, steps + 1):
                if history.due(task, step):
                    history.add(task, stage, step, task + step / 1000)
    return history


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 200), st.integers(1, 2), st.integers(20, 120), st.sampled_from([1, 7, 10]))
def test_what_is_held_is_what_would_have_been_held_from_the_beginning(
    tasks: int, steps: int, stages: int, limit: int, every: int
) -> None:
    made = filled(History("value", every=every, first=True, limit=limit), tasks, steps, stages)
    assert len(made) <= limit
    later = History("value", every=every, first=True, limit=10**9)
    later.stride, later.skip = made.stride, made.skip
    filled(later, tasks, steps, stages)
    assert dict(later.by_stage()) == dict(made.by_stage()) and later.stages() == made.stages()
    again = History("value", every=every, first=True, limit=limit)
    again.load_state_dict(made.state_dict())
    assert dict(again.by_stage()) == dict(made.by_stage()) and (again.stride, again.skip) == (made.stride, made.skip)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.integers(-(2**40), 2**40), st.floats(), st.floats(width=32), st.integers(0, 255))))
def test_numbers_are_saved_in_few_bytes_and_come_back_to_the_last_bit(values: list[float]) -> None:
    made, again = History("value", every=1), History("value", every=1)
    for step, value in enumerate([*values, -0.0, math.nan], 1):
        made.add(0, 0, step, value)
    again.load_state_dict(made.state_dict())
    assert [c.tobytes() for c in again.columns.values()] == [c.tobytes() for c in made.columns.values()]


def test_small_numbers_take_small_types():
    losses = Losses()
    for step in range(1, 301):
        losses.add(7, 0, step, torch.tensor(1 / step).item(), 0.1)
    kinds = {name: column.dtype for name, column in losses.state_dict()["columns"].items()}
    whole, half = torch.uint8, torch.int16
    assert kinds == {"task": whole, "stage": whole, "step": half, "loss": torch.float32, "lr": torch.float64}


def test_a_short_run_leaves_nothing_out():
    losses = Losses()
    losses.begin(0, 0, 25)
    for step in range(1, 26):
        if losses.due(0, step):
            losses.add(0, 0, step, 1.0 / step, 0.1)
    assert losses.to_json() == [
        {"task": 0, "stage": 0, "steps": 25, "step": [1, 10, 20], "loss": [1.0, 0.1, 0.05], "lr": [0.1] * 3}
    ]
    watched = Watched(every=5)
    watched.begin(2, 1, 10)
    for step in (5, 10):
        watched.add(2, 1, step, 0, 0.5)
        watched.add(2, 1, step, 1, math.nan)
    (curve,) = watched.to_json(["a", "b"])
    assert (
        curve["step"] == [5, 10] and curve["scores"]["a"] == [0.5, 0.5] and all(map(math.isnan, curve["scores"]["b"]))
    )


def test_motion_keeps_every_task_as_a_whole_and_the_tensors_of_some():
    moved = Moved()
    row = {
        "entries": 4,
        "moved": 0.5,
        "distance": 1.0,
        "relative": 0.25,
        "size": 4.0,
        "from_start": 0.5,
        "effective_step": 0.01,
    }
    for task in range(250):
        moved.add(task, {"weight": row, "bias": row})
        moved.add(task, {"weight": {**row, "moved": 9.0}})  # a task that was noted before is left alone
    said = moved.to_json()
    assert list(said) == [f"task{k}" for k in range(250)]
    whole = {"entries": 8, "moved": 0.5, "relative": 0.25, "from_start": 0.5, "effective_step": pytest.approx(0.01)}
    assert all(m["total"] == whole for m in said.values())
    assert said["task0"]["tensors"] == {"weight": row, "bias": row}
    detailed = [k for k, m in enumerate(said.values()) if m["tensors"]]
    assert detailed == list(range(0, 250, 4)) and len(detailed) <= DETAILED
    again = Moved()
    again.load_state_dict(moved.state_dict())
    assert again.to_json() == said


def test_a_matrix_of_many_moments_is_kept_as_numbers():
    matrix = Matrix()
    for i in range(40):
        for j in range(i + 1):
            matrix.add(f"task{i}", f"task{j}", (i + 2 * j) / 200, rows=j + 1, learned=i == j)
    kept = matrix.state_dict()
    assert kept["scores"].shape == (40, 40) and math.isnan(kept["scores"][0, 39])
    again = Matrix()
    again.load_state_dict(kept)
    assert same(again.table(), matrix.table()) and same(again.summary(), matrix.summary())
    assert again.at("task39", "task3") == 45 / 200 and again.learned == matrix.learned
    again.add("task40", "new", 0.5)
    assert math.isnan(again.at("task39", "new")) and again.table()[-1][-1] == 0.5


LONG = {
    "stream": {"kind": "re-occurring", "tasks": 24, "rows": 3},
    "backbone": {"source": "mlp:64-4"},
    "stage": [{"methods": [], "optimizer": "sgd"}],
}


class Sizes(Observer):
    def __init__(self) -> None:
        self.scored: list[int] = []

    def seed_begins(self, trial) -> None:
        self.count = 0

    def measured(self, trial, moment, matrix) -> None:
        self.scored.append(self.count)
        self.count = 0


def test_one_test_set_of_all_tasks_is_scored_once_a_task(tmp_path: Path, monkeypatch):
    seen, score = Sizes(), Recorder._score

    def counted(self: Recorder, learner, rows: Rows) -> float:
        seen.count += 1
        return score(self, learner, rows)

    monkeypatch.setattr(Recorder, "_score", counted)
    Experiment(Config.of(LONG)).run(None, seen)
    assert seen.scored == [1] * 24


def test_checkpoints_of_a_long_stream_grow_by_a_few_numbers_a_task(tmp_path: Path):
    Experiment(Config.of({**LONG, "run": {"keep": 1000}})).run(tmp_path / "run")
    saved = sorted((tmp_path / "run" / "checkpoints" / "seed-0").iterdir())
    sizes = {int(p.name.split("-")[1][4:]): sum(f.stat().st_size for f in p.iterdir()) for p in saved}
    assert (sizes[24] - sizes[4]) / 20 < 700  # bytes a task: motion of four tensors, a loss, a score
    record = load(saved[-1])["record"]
    assert record["matrix"]["scores"].shape == (24, 1) and list(record["tests"]) == ["all"]


def test_the_record_is_rewritten_only_where_that_is_cheap(tmp_path: Path, monkeypatch):
    written: list[int] = []
    save = experiment.Run.save

    def slow(self, folder) -> None:
        written.append(len(next(iter(self.results.values())).moments) if self.results else 0)
        save(self, folder)

    monkeypatch.setattr(experiment.Run, "save", slow)
    monkeypatch.setattr(experiment, "PUBLISHING", 10**9)  # nothing is cheap enough
    run = Experiment(Config.of(LONG)).run(tmp_path / "run")
    assert written == [0, 1, 24, 24] and run.status == "finished"
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["moments"]) == 24


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_that_of_this_process_since_it_was_forgotten():
    large = torch.ones(60_000_000)  # 240 MB
    asked = "from nacre.metrics.cost import peak_memory; print(peak_memory())"
    child = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    before = peak_memory()
    del large
    forget_peak()
    assert peak_memory() < before - 200_000_000
    assert int(child.stdout) < before - 100_000_000


def test_a_run_that_fails_has_told_how_far_it_came(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(experiment, "PUBLISHING", 10**9)

    class Fails(Observer):
        def measured(self, trial, moment, matrix) -> None:
            if moment == "task7":
                raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        Experiment(Config.of(LONG)).run(tmp_path / "run", Fails())
    said = json.loads((tmp_path / "run" / "run.json").read_text())
    assert said["status"] == "failed" and said["moments"][-1] == "task7"
