"""A sweep chooses by validation rows, never reads test rows, survives what fails, and goes on where it was stopped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from nacre.cli.main import cli
from nacre.core.errors import BadSetting, NacreError
from nacre.core.run import Run
from nacre.data import load, without_test_rows
from nacre.experiment import Config, Experiment, Finished, Sweep, crew, swept_in
from nacre.experiment.axis import Axis
from nacre.experiment.folder import Folder
from nacre.experiment.trial import trial
from tests.end_to_end.small import pictures

AXIS = "stage.0.epochs=1,2"
RATES = "stage.0.optimizer.lr=1e-5,0.1,1e30"  # too small, good, and one that ends in NaN
SMALL = """
[run]
name = "small"
[stream]
kind = "task-incremental"
tasks = 2
order = "given"
[backbone]
source = "mlp:64-16"
[[stage]]
methods = []
optimizer = {name = "sgd"}
epochs = 5
batch_size = 16
"""


def written(place: Path, worth: str) -> Path:
    """A config of pictures whose test rows tell the truth or lie."""
    place.mkdir(exist_ok=True)
    rows = pictures(240)
    if worth == "lies":
        rows["y_test"] = rows["y_test"][::-1].copy()
    np.savez(place / "rows.npz", **rows)
    (place / "small.toml").write_text(SMALL + f"[data]\nsource = '{place / 'rows.npz'}'\n")
    return place / "small.toml"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Path, str]:
    """A finished sweep of three points, one of which fails; and what the command said."""
    place = tmp_path_factory.mktemp("sweep")
    words = [
        "sweep",
        str(written(place, "truth")),
        "--over",
        RATES,
        "--out",
        str(place / "out"),
        "--workers",
        "1",
        "--test",
    ]
    told = CliRunner().invoke(cli, words)
    assert told.exit_code == 0, told.stderr
    return place / "out", told.stdout


def test_the_best_is_chosen_and_a_failed_point_is_told(done):
    out, said = done
    best = Config.load(out / "best.toml")
    assert best.stage[0].optimizer is not None and best.stage[0].optimizer["lr"] == 0.1
    assert "best: stage.0.optimizer.lr=0.1" in said and "failed" in said and "NaN" in said
    assert "is the last that was tried" not in said  # it lies inside
    lines = (out / "sweep.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines if line.startswith("|")][2:] == ["1e-05", "0.1", "1e+30"]
    assert [line.rstrip("| ").endswith("best") for line in lines if line.startswith("| 0.1")] == [True]


def test_the_best_is_then_trained_on_all_rows_and_scored_on_test_rows(done):
    out, _ = done
    first, test = Run.load(out / "1-lr-1e-05"), Run.load(out / "test")
    assert (
        first.results[0].data["rows"] == {"train": 216, "test": 24}
        and first.settings["data"]["tested_on"] == "validation"
    )
    assert test.results[0].data["rows"] == {"train": 240, "test": 240} and test.settings["data"]["tested_on"] == "test"
    assert test.name == "small" and first.settings["run"]["threads"] == 1 and test.settings["run"]["threads"] == 0


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are worked off in this process, which saves the start of others."""

    def work_off(places: list[Path], workers: int, look: Callable[[], Any]) -> dict[Path, str]:
        failed = {}
        for place in places:
            try:
                Experiment(Config.load(place)).resume(place)
            except NacreError as error:
                failed[place] = str(error)
            look()
        return failed

    monkeypatch.setattr(crew, "_work_off", work_off)


def test_what_a_sweep_does_not_read_cannot_change_it(done, here, tmp_path: Path):
    sweep = Sweep.over(written(tmp_path, "lies"), [RATES])
    points = sweep.run(tmp_path / "out", 1)
    for name, point in zip(sweep.names, points, strict=True):
        honest, lied = Run.load(done[0] / name).repeatable(), point.run.repeatable()
        for record in (honest, lied):
            record["settings"]["data"].pop("source")
            record["data"].pop("source")
        assert honest == lied
    assert Run.load(done[0] / "test").figure("last") != (sweep.best(points)[1], None)


def test_a_sweep_is_resumed_and_then_finished(done, here, tmp_path: Path):
    sweep = Sweep.over(written(tmp_path, "truth"), [RATES.rpartition(",")[0]])
    out = tmp_path / "out"

    class Stop(Exception):
        pass

    def after_the_first(*_: object) -> None:
        if Folder(out / sweep.names[0]).status() == "finished":
            raise Stop

    with pytest.raises(Stop):
        sweep.run(out, 1, after_the_first)
    assert not (out / "best.toml").exists()
    begun = swept_in(out)
    assert begun is not None and begun.axes == sweep.axes and begun.best_differs == sweep.best_differs
    told = CliRunner().invoke(cli, ["resume", str(out)])
    assert told.exit_code == 0 and "best: stage.0.optimizer.lr=0.1" in told.stdout
    for name in sweep.names:
        resumed, whole = Run.load(out / name).repeatable(), Run.load(done[0] / name).repeatable()
        assert resumed["matrix"] == whole["matrix"] and resumed["curves"] == whole["curves"]
    assert CliRunner().invoke(cli, ["resume", str(out)]).exit_code == 3
    with pytest.raises(Finished):
        sweep.run(out)


def test_only_the_first_tasks_and_a_setting_given_before(here, tmp_path: Path):
    path = written(tmp_path, "truth")
    sweep = Sweep.over(path, ["stage.0.epochs=1,2", "stage.0.batch_size=8,16"], "first:1", changes=["run.threads=2"])
    assert [(c.stage[0].epochs, c.stage[0].batch_size) for c in sweep.configs] == [(1, 8), (1, 16), (2, 8), (2, 16)]
    assert {(c.stream.first, c.run.threads, c.data.tested_on) for c in sweep.configs} == {(1, 2, "validation")}
    points = sweep.run(tmp_path / "out", 1)
    assert {len(p.run.results[0].moments) for p in points} == {1}
    best = sweep.best(points)[1]
    assert best.stream.first is None and best.run.threads == 2 and best.data.tested_on == "test"
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["select"] == "first:1"


def test_columns_follow_their_rows():
    def rows(start: int) -> dict[str, np.ndarray]:
        x = np.arange(start, start + 20, dtype=np.float32)[:, None]
        return {"x": x, "y": np.arange(20) % 2, "time": x[:, 0], "site": np.where(x[:, 0] % 3 < 1, "sea", "air")}

    held = {f"{key}_{part}": v for part, start in (("train", 0), ("test", 100)) for key, v in rows(start).items()}
    whole = load(held)
    chosen_on = without_test_rows(whole, share=0.25)
    for part, values in (("train", chosen_on.columns["time"].train), ("test", chosen_on.columns["time"].test)):
        assert values.tolist() == getattr(chosen_on, part).x[:, 0].tolist()
    site = chosen_on.columns["site"]
    assert [site.names[k] for k in site.test] == [
        "sea" if x % 3 < 1 else "air" for x in chosen_on.test.x[:, 0].tolist()
    ]
    assert chosen_on.sha256 != whole.sha256


def test_chosen_by_another_figure_the_runs_are_not_run_again(here, tmp_path: Path):
    path = written(tmp_path, "truth")
    sweep = Sweep.over(path, [AXIS])
    sweep.run(tmp_path / "out")
    files = [tmp_path / "out" / name / "run.json" for name in sweep.names]
    then = [file.stat().st_mtime_ns for file in files]
    points = Sweep.over(path, [AXIS], by="forgetting").run(tmp_path / "out")
    assert then == [file.stat().st_mtime_ns for file in files] and len(points) == 2
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["by"] == "forgetting"


def test_a_sweep_of_which_every_run_failed_can_be_begun_anew(here, tmp_path: Path):
    path = written(tmp_path, "truth")
    with pytest.raises(NacreError, match="every run of the sweep failed"):
        Sweep.over(path, [AXIS], "first:99").run(tmp_path / "out")
    assert {p.run.status for p in Sweep.over(path, [AXIS], "first:1").run(tmp_path / "out")} == {"finished"}


def test_no_other_process_works_in_a_sweep(here, tmp_path: Path):
    sweep = Sweep.over(written(tmp_path, "truth"), [AXIS])
    Folder(tmp_path / "out").make()
    with Folder(tmp_path / "out").alone(), pytest.raises(BadSetting, match="another process works in"):
        sweep.run(tmp_path / "out")


def test_no_seed_trains_on_the_test_rows_of_another(tmp_path: Path):
    path = tmp_path / "digits.toml"
    path.write_text(SMALL + "[data]\nsource = 'digits'\n")
    sweep = Sweep.over(path, [AXIS], changes=["run.seeds=[3,4]"])
    rows = [trial(sweep.configs[0], seed).source for seed in (3, 4)]
    tested = trial(sweep.best_of(sweep.configs[0]), 4).source.test
    known = {x.numpy().tobytes() for x in tested.x}  # pyright: ignore[reportAttributeAccessIssue]
    assert len(known) > 300
    for source in rows:
        assert not any(x.numpy().tobytes() in known for part in (source.train, source.test) for x in part.x)  # pyright: ignore


def test_axes_are_values_of_toml_or_texts():
    assert Axis.of('a.b=[1, 2],"x,y",true').values == ("[1, 2]", '"x,y"', "true")
    tables = Axis.of('stage.0.optimizer={name = "sgd", lr = 1e-5},{name = "adam", groups = [{lr = 0.5}]}').values
    assert tables == ('{"name" = "sgd", "lr" = 1e-05}', '{"name" = "adam", "groups" = [{"lr" = 0.5}]}')
    assert Axis.of("a=adamw, sgd").values == ("adamw", "sgd")
    assert Axis.of("a=1,1e9").values == ("1", "1000000000")
    assert Axis.of("a=1,3,2").in_order() is False and Axis.of("a=3,2,1").in_order() and not Axis.of("a=x,y").in_order()


def test_validation_rows_are_a_share_of_each_class_and_disjoint():
    whole = load("digits")
    kept = without_test_rows(whole, seed=3, share=0.2)
    assert len(kept.train) + len(kept.test) == len(whole.train)
    rows = {bytes(x.numpy().tobytes()) for x in whole.train.x}  # pyright: ignore[reportAttributeAccessIssue]
    train, held = ([bytes(x.numpy().tobytes()) for x in part.x] for part in (kept.train, kept.test))  # pyright: ignore
    assert set(train) | set(held) == rows
    counts = [np.bincount(part.y.numpy()) for part in (whole.train, kept.test)]
    assert (np.abs(counts[1] - counts[0] * 0.2) <= 0.5).all()
    again, other = without_test_rows(whole, seed=3, share=0.2), without_test_rows(whole, seed=4, share=0.2)
    assert again.sha256 == kept.sha256 != other.sha256 and "drawn by seed 3" in kept.note
