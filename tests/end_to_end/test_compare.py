"""A comparison is one thing: begun, stopped and resumed as a whole, and never mixed with other runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from nacre.cli.main import cli
from nacre.core.errors import BadData, BadSetting
from nacre.core.run import Run
from nacre.experiment import Comparison, Experiment, Finished, compared_in
from nacre.experiment.folder import Folder
from tests.end_to_end.small import config

ROWS = ("run.threads=1", "stream.tasks=2")


def two(*changes: str) -> Comparison:
    return Comparison([config(f"run.name={n}", *ROWS, *changes) for n in ("a", "b")], "Seen.", [])


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    """A finished comparison, with its table."""
    out = tmp_path_factory.mktemp("compared") / "both"
    several = two()
    several.save(out, several.run(out, 2))
    return out


def test_a_folder_of_runs_is_no_comparison(tmp_path: Path):
    for name in ("one", "two"):
        Folder(tmp_path / name).begin(config())
    assert compared_in(tmp_path) is None
    told = CliRunner().invoke(cli, ["resume", str(tmp_path)])
    assert told.exit_code == 1 and "is no run's folder; it holds runs one, two: name one" in told.stderr
    assert not list(tmp_path.glob("*/run.json"))


def test_a_comparison_knows_its_rows_text_and_bounds(done: Path):
    held = compared_in(done)
    assert held is not None and held.names == ["1-a", "2-b"] and held.text == "Seen."
    assert [c.run.name for c in held.configs] == ["a", "b"]
    assert len(json.loads((done / "comparison.json").read_text())["runs"]) == 2


def test_rows_with_other_settings_are_not_reused(done: Path, tmp_path: Path):
    with pytest.raises(BadSetting, match=r"stage\.0\.epochs: 1 -> 3"):
        two("stage.0.epochs=3").run(done)
    with pytest.raises(BadSetting, match="holds another comparison, of 1-a, 2-b"):
        Comparison(two().configs[:1]).run(done)
    Folder(tmp_path / "run").begin(config())
    with pytest.raises(BadSetting, match="no comparison of runs"):
        two().run(tmp_path / "run")


def test_a_finished_comparison_has_nothing_left_to_do(done: Path):
    with pytest.raises(Finished):
        two().run(done)
    assert CliRunner().invoke(cli, ["resume", str(done)]).exit_code == 3


def test_a_broken_mark_is_named(tmp_path: Path):
    for text in ("[]", "{", '{"format": "other"}'):
        (tmp_path / "comparison.json").write_text(text)
        with pytest.raises(BadData, match=r"comparison\.json is no nacre-comparison-1"):
            compared_in(tmp_path)


SCRIPT = """
import sys
import nacre.cli.work
from nacre.cli.main import cli
from tests.end_to_end.test_compare import two

if __name__ == "__main__":
    nacre.cli.work.default_comparison = lambda changes: two("stage.0.steps=100000", "run.save_seconds=0.5")
    cli(["run", "--out", sys.argv[1]])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_lets_every_row_save_and_leave(tmp_path: Path):
    (tmp_path / "run.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]
    out = tmp_path / "both"
    work = subprocess.Popen(
        [sys.executable, tmp_path / "run.py", out],
        env={**os.environ, "PYTHONPATH": str(root)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until = time.monotonic() + 90
    while not all((out / n / "checkpoints").is_dir() for n in ("1-a", "2-b")) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(work.pid, signal.SIGINT)  # as a terminal does: the whole group hears it
    said = work.communicate(timeout=20)[1].decode()
    assert work.returncode == 130 and "Traceback" not in said and f"`nacre resume {out}` goes on" in said
    assert {Run.load(out / n).status for n in ("1-a", "2-b")} == {"interrupted"}
    until = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):  # nobody of the group is left
        while time.monotonic() < until:
            os.killpg(work.pid, 0)
            time.sleep(0.1)


def test_two_processes_do_not_work_in_one_folder(tmp_path: Path):
    pytest.importorskip("fcntl")
    folder = Folder(tmp_path / "run")
    folder.begin(config())
    with folder.alone(), pytest.raises(BadSetting, match="another process works in"):
        Experiment(config()).resume(tmp_path / "run")
    assert Experiment(config()).resume(tmp_path / "run").status == "finished"
