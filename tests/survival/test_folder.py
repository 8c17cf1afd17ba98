"""What a run's folder keeps when checkpoints break, disks are full, rights are missing, data vanish or machines differ."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from nacre import checkpoint
from nacre.cli.main import cli
from nacre.core import durable
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, NacreError, NotSaved
from nacre.core.machine import machine, unlike
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, Observer
from nacre.experiment import load as load_model
from nacre.experiment.folder import Folder
from tests.end_to_end.small import config, newest, pictures, same

SMALL = ("stream.tasks=2", "run.save_seconds=0")


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words])


def checkpoints(run: Path, seed: int = 0) -> list[Path]:
    return sorted((run / "checkpoints" / f"seed-{seed}").iterdir())


class Stop(Observer):
    """Interrupts a run after some steps."""

    def __init__(self, after: int):
        self.left = after

    def stepped(self, learner, loss):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A run that never stopped, and one that did, of a data file."""
    place = tmp_path_factory.mktemp("world")
    np.savez(place / "rows.npz", **pictures())
    told = config(*SMALL, f"data.source={place / 'rows.npz'}", "run.save_every=3", "run.keep=4", "stage.0.batch_size=4")
    Experiment(told).run(place / "whole")
    with pytest.raises(KeyboardInterrupt):
        Experiment(told).run(place / "cut", Stop(22))
    return place


@pytest.fixture
def cut(world: Path, tmp_path: Path) -> Path:
    shutil.copytree(world / "cut", tmp_path / "cut")
    return tmp_path / "cut"


def ends_like(run: Path, whole: Path) -> bool:
    return same(newest(run), newest(whole)) and same(Run.load(run).repeatable(), Run.load(whole).repeatable())


# --------------------------------------------------------------------------------------------------------- broken checkpoints


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "tensors.safetensors"])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_of_a_broken_checkpoint_the_one_before_is_used(cut: Path, world: Path, name: str, how: str, caplog):
    path = checkpoints(cut)[-1] / name
    whole, draw = path.read_bytes(), random.Random(f"{name} {how}")
    at = draw.randrange(len(whole))
    path.write_bytes(
        whole[:at] if how == "cut" else whole[:at] + bytes([whole[at] ^ 1 << draw.randrange(8)]) + whole[at + 1 :]
    )
    Experiment(Config.load(cut)).resume(cut)
    assert f"{path.parent.name}" in caplog.text and "going back to the one before" in caplog.text
    assert ends_like(cut, world / "whole")


def test_broken_ones_take_no_place_from_whole_ones(tmp_path: Path):
    folder = Folder(tmp_path)
    for step in range(3):
        folder.save(0, {"step": step}, f"step{step}", keep=2)
    assert [p.name[:6] for p in checkpoints(tmp_path)] == ["000002", "000003"]
    (checkpoints(tmp_path)[-1] / "state.json").write_bytes(b"{}")
    folder = Folder(tmp_path)
    assert folder.newest(0) == {"step": 1}
    folder.save(0, {"step": 9}, "step9", keep=2)
    assert [p.name[:6] for p in checkpoints(tmp_path)] == ["000002", "000003", "000004"]  # 2 is still needed
    (checkpoints(tmp_path)[-1] / "state.json").unlink()
    assert Folder(tmp_path).newest(0) == {"step": 1}
    folder.save(0, {"step": 10}, "step10", keep=1)
    assert [p.name[:6] for p in checkpoints(tmp_path)] == ["000005"]


def test_what_a_killed_process_left_is_cleaned_up(cut: Path, world: Path):
    seed = cut / "checkpoints" / "seed-0"
    shutil.copytree(checkpoints(cut)[-1], seed / "000099-task1-stage0-step1.new")
    (seed / "000098-x.old").mkdir()
    (cut / "run.json.new").write_text("{")
    (cut / "run.json").write_text("{")  # a record that cannot be read is written anew
    Experiment(Config.load(cut)).resume(cut)
    assert ends_like(cut, world / "whole")
    assert all(p.suffix not in (".new", ".old") for p in (*checkpoints(cut), *cut.iterdir()))


def test_where_no_checkpoint_can_be_read_nothing_begins_anew_by_itself(cut: Path):
    held = checkpoints(cut)
    for place in held:
        (place / "tensors.safetensors").write_bytes(b"")
    told = call("resume", cut)
    assert told.exit_code == 1 and f"none of the {len(held)} checkpoints" in told.stderr
    assert "delete that folder, and the seed begins anew" in told.stderr and checkpoints(cut) == held
    (held[-1] / "manifest.json").write_text('{"format": "nacre-checkpoint-9"}')
    assert "has format 'nacre-checkpoint-9'" in call("resume", cut).stderr


def test_a_checkpoint_of_something_else_is_refused(cut: Path):
    checkpoint.save(cut / "checkpoints" / "seed-0" / "000099-other", {"step": 1})
    with pytest.raises(BadCheckpoint, match="is not one of an experiment"):
        Experiment(Config.load(cut)).resume(cut)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("learner",), None),
        (("learner", "stages", 0, "method"), {"os:system": "reboot"}),
        (("learner", "stages", 0), [1, 2]),
        (("learner", "model"), {"../../body": torch.zeros(1)}),
        (("learner", "optimizer"), {"state": {}, "param_groups": 10**18}),
        (("learner", "classes"), 10**15),
        (("learner", "experience"), "__import__"),
        (("record", "matrix"), {"__class__": "Matrix"}),
        (("record", "motion"), -1),
        (("record", "sha256"), {}),
    ],
)
def test_a_checkpoint_that_somebody_made_up_is_refused(cut: Path, path: tuple[Any, ...], value: Any):
    """Its bytes are those that its manifest names; what it describes is no run."""
    newest = checkpoints(cut)[-1]
    tree: Any = checkpoint.load(newest)
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    checkpoint.save(newest, tree)
    with pytest.raises(NacreError):
        Experiment(Config.load(cut)).resume(cut)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("method",), {"name": "os:system"}),
        (("method",), {"name": "../../method"}),
        (("method",), {"name": "tests.nothing:Class"}),
        (("body", "kind"), "module"),
        (("body", "kind"), "../../kind"),
        (("body", "widths"), [64, 10**15, 8]),
        (("head", "width"), 10**15),
        (("head",), "__import__"),
        (("row", "shape"), -1),
        (("model",), {}),
    ],
)
def test_a_model_that_somebody_made_up_is_refused(world: Path, tmp_path: Path, path: tuple[Any, ...], value: Any):
    tree: Any = checkpoint.load(world / "whole" / "export")
    at = tree
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    checkpoint.save(tmp_path / "export", tree)
    with pytest.raises(NacreError):
        load_model(tmp_path)


# ------------------------------------------------------------------------------------------------------------ when it is saved


def test_saving_by_the_clock_changes_nothing(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = itertools.count()
    monkeypatch.setattr("nacre.experiment.experiment.time.perf_counter", lambda: float(next(clock)))
    told = Config.load(world / "whole").to_dict()
    Experiment(Config.of(told, ["run.save_seconds=4", "run.save_every=0", "run.keep=1000"])).run(tmp_path / "clock")
    inside = [p for p in checkpoints(tmp_path / "clock") if not p.name.endswith("step0")]
    assert len(inside) > 6
    assert same(newest(tmp_path / "clock"), newest(world / "whole"))
    one, other = (Run.load(p).repeatable() for p in (tmp_path / "clock", world / "whole"))
    assert same({**one, "settings": 0}, {**other, "settings": 0})
    Experiment(Config.of(told, ["run.save_every=0", "run.keep=1000"])).run(tmp_path / "borders")
    assert all(p.name.endswith("step0") for p in checkpoints(tmp_path / "borders"))


# ---------------------------------------------------------------------------------------------------- disks, rights and data


LIMITED = (
    "import resource, sys\n"
    "from nacre.cli.main import cli\n"
    "limit = int(sys.argv.pop(1))\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
    "cli(sys.argv[1:])\n"
)


def test_a_full_disk_ends_a_run_with_a_clear_error_and_its_checkpoints_intact(cut: Path, world: Path):
    """The system refuses to write any file beyond a limit that the next checkpoint needs."""
    limit = (checkpoints(cut)[-1] / "tensors.safetensors").stat().st_size // 2
    words = [sys.executable, "-c", LIMITED, str(limit), "resume", str(cut)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "could not be written" in done.stderr and "free some room on that disk" in done.stderr
    run = Run.load(cut)
    assert run.status == "failed" and run.error.startswith("NotSaved: ")
    Experiment(Config.load(cut)).resume(cut)
    assert ends_like(cut, world / "whole")


def test_where_not_even_the_record_can_be_written_the_first_error_is_told(cut: Path, monkeypatch: pytest.MonkeyPatch):
    write = durable.write_bytes
    full = False

    def no_room(path: Path, content: bytes) -> None:
        nonlocal full
        full = full or path.name == "state.json"
        if full:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_bytes", no_room)
    monkeypatch.setattr(durable, "write_bytes", no_room)
    before = [p.name for p in checkpoints(cut)]
    with pytest.raises(NotSaved, match=r"checkpoints/seed-0/0000\d\d.* could not be written .No space left on device."):
        Experiment(Config.load(cut)).resume(cut)
    assert [p.name for p in checkpoints(cut)] == before and Folder(cut).newest(0) is not None


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """Nothing below `place` can be written to inside, not even by root, who is nobody for so long."""
    root = os.geteuid() == 0
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(place)], check=True)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        subprocess.run(["chmod", "-R", "u+w", str(place)], check=True)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="rights of folders")
def test_a_folder_that_cannot_be_written_to_is_named():
    place = Path(tempfile.mkdtemp())
    with pytest.raises(KeyboardInterrupt):
        Experiment(config(*SMALL)).run(place / "cut", Stop(15))
    held = {p: p.read_bytes() for p in (place / "cut").rglob("*") if p.is_file()}
    with read_only(place):
        with pytest.raises(
            NotSaved, match=r"run\.json could not be written .Permission denied.: choose a folder that you may"
        ):
            Experiment(Config.load(place / "cut")).resume(place / "cut")
        with pytest.raises(NotSaved, match=r"new could not be written .Permission denied."):
            Experiment(config()).run(place / "new")
        assert {p: p.read_bytes() for p in (place / "cut").rglob("*") if p.is_file()} == held
    assert Experiment(Config.load(place / "cut")).resume(place / "cut").status == "finished"
    shutil.rmtree(place)


def test_a_vanished_data_file_is_named_and_what_was_measured_stays(cut: Path, world: Path, tmp_path: Path):
    moved = tmp_path / "rows.npz"
    shutil.copy(world / "rows.npz", moved)
    text = (cut / "config.toml").read_text()
    (cut / "config.toml").write_text(text.replace(str(world / "rows.npz"), str(moved)))
    moved.unlink()
    measured = Run.load(cut).results[0].moments
    told = call("resume", cut)
    assert told.exit_code == 1 and str(moved) in told.stderr and "Traceback" not in told.stderr
    run = Run.load(cut)
    assert run.status == "failed" and measured == run.results[0].moments == ["task0"]
    shutil.copy(world / "rows.npz", moved)
    (cut / "config.toml").write_text(text)
    assert call("resume", cut).exit_code == 0 and ends_like(cut, world / "whole")


def test_two_that_begin_at_once_do_not_overwrite_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both find an empty folder; the one that is second then finds a run with other settings, and leaves it as it is."""
    pytest.importorskip("fcntl")
    first = config(*SMALL)
    make = Folder.make

    def meanwhile(self: Folder) -> None:
        monkeypatch.setattr(Folder, "make", make)
        thread = threading.Thread(target=lambda: Experiment(first).run(tmp_path / "run"))
        thread.start()
        thread.join()
        make(self)

    monkeypatch.setattr(Folder, "make", meanwhile)
    with pytest.raises(BadSetting, match=r"stage\.0\.epochs: 1 -> 2"):
        Experiment(config(*SMALL, "stage.0.epochs=2")).run(tmp_path / "run")
    assert (
        Config.load(tmp_path / "run").to_dict() == first.to_dict() and Run.load(tmp_path / "run").status == "finished"
    )


def test_what_is_no_folder_is_not_made_one(tmp_path: Path):
    with pytest.raises(BadData, match="there is no folder"):
        Experiment(config()).resume(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadData, match="is no run's folder"):
        Experiment(config()).run(tmp_path / "file")


# ------------------------------------------------------------------------------------------------------------ other machines


H200 = {"device": "cuda", "kind": "NVIDIA H200", "torch": "2.13.0", "algorithms": "deterministic"}


def test_where_bits_cannot_be_the_same_it_is_said():
    assert unlike(H200, H200) == ""
    for key, value in (("device", "cpu"), ("kind", "NVIDIA A100"), ("torch", "2.14.0"), ("algorithms", "fastest")):
        assert unlike(H200, {**H200, key: value}) == f"{key} was {H200[key]}, is {value}"
    fastest = {**H200, "algorithms": "fastest"}
    assert "run.deterministic = true" in unlike(fastest, fastest)
    assert unlike({}, H200).count("was unknown") == 4
    cpu = machine(torch.device("cpu"), False)
    assert unlike(cpu, cpu) == "" and cpu == machine(torch.device("cpu"), True)


def test_it_is_said_once_a_run(cut: Path, world: Path, caplog, monkeypatch: pytest.MonkeyPatch):
    text = "equals a run that never stopped only within about 1e-4"
    Experiment(Config.load(cut)).resume(cut)
    assert text not in caplog.text and ends_like(cut, world / "whole")
    two = Config.of(Config.load(world / "whole").to_dict(), ["run.seeds=[0, 1]"])
    with pytest.raises(KeyboardInterrupt):
        Experiment(two).run(cut.parent / "two", Stop(30 + 22))
    monkeypatch.setattr("nacre.learner.machine", lambda *_: H200)
    Experiment(two).resume(cut.parent / "two")  # seed 0 is finished, seed 1 is not
    said = [r.getMessage() for r in caplog.records if text in r.getMessage()]
    assert len(said) == 1 and "device was cpu, is cuda" in said[0]


def test_a_learner_says_it_too(tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch):
    from compositions import learner

    who: Any = learner("ER")
    who.save(tmp_path / "here")
    learner("ER").resume(tmp_path / "here")
    assert not caplog.records
    monkeypatch.setattr("nacre.learner.machine", lambda *_: H200)
    learner("ER").resume(tmp_path / "here")
    assert [r.levelname for r in caplog.records] == ["WARNING"]
