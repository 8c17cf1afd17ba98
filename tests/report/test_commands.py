"""`nacre report`, `nacre compare`, `nacre watch`: what they print, what they write, and how they end."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from nacre.cli.main import cli
from nacre.cli.watching import Watched
from nacre.core.progress import FILE, Progress
from nacre.core.run import Run
from nacre.experiment import Experiment, Observer
from nacre.report import view
from nacre.report.live import sparkline
from tests.end_to_end.small import config
from tests.report.reading import Reader
from tests.report.records import ODD, odd, run


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two folders with a record each."""
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        run(name=name).save(tmp_path / name)
        made.append(tmp_path / name)
    return made[0], made[1]


def shown(record: Run, now: Progress | None = None, at: float | None = None, width: int = 140) -> str:
    """The live view as text."""
    console = Console(file=io.StringIO(), width=width)
    console.print(view(record, now, width, at))
    return str(console.file.getvalue())  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_writes_its_page_and_says_where(tmp_path: Path):
    (tmp_path / "small.toml").write_text('[backbone]\nsource = "mlp:64-16"\n[[stage]]\nmethods = ["SimpleCIL"]\n')
    told = call("run", tmp_path / "small.toml", "--out", tmp_path / "out")
    assert told.exit_code == 0 and f"report: {tmp_path / 'out' / 'report.html'}" in told.stdout
    assert not (tmp_path / "out" / FILE).exists()
    page = Reader((tmp_path / "out" / "report.html").read_text())
    numbers = (tmp_path / "out" / "numbers.csv").read_text()
    assert numbers == call("report", tmp_path / "out", "--csv").stdout and numbers.count("\n") > 10
    last = Run.load(tmp_path / "out").results[0].matrix[-1][0]
    assert page.table("Accuracy in percent").rows[-1][1] == f"{100 * last:.1f}"


def test_a_page_that_cannot_be_made_fails_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("nacre.cli.reporting.write_report", broken)
    (tmp_path / "small.toml").write_text('[backbone]\nsource = "mlp:64-16"\n[[stage]]\nmethods = ["SimpleCIL"]\n')
    told = call("run", tmp_path / "small.toml", "--out", tmp_path / "out")
    assert told.exit_code == 0 and "report:" not in told.stdout and "no ink" in caplog.text
    assert Run.load(tmp_path / "out").status == "finished"


def test_report_prints_tables_and_writes_pages(folders: tuple[Path, Path], tmp_path: Path):
    told = call("report", folders[0])
    assert "EWC (faithful)" in told.stdout and "97.0" in told.stdout and not list(tmp_path.glob("**/*.html"))
    told = call("report", folders[0], "--html", "--bound", folders[1])
    assert told.stdout == f"wrote {folders[0] / 'report.html'}\n"
    assert "Dashed: what it is compared with" in (folders[0] / "report.html").read_text()
    told = call("report", folders[0], "--csv", "--html", tmp_path / "x.html")
    assert told.stdout.startswith("run,seed,figure") and f"wrote {tmp_path / 'x.html'}" in told.stderr
    assert call("report", folders[0] / "run.json", "--latex").stdout.startswith(r"\begin{tabular}")


def test_report_of_a_comparison_is_that_of_its_runs(folders: tuple[Path, Path], tmp_path: Path):
    for folder in folders:
        (folder / "config.toml").write_text(config(f"run.name={folder.name}").to_toml())
    stored = [{"name": "joint", "last": 0.9, "spread": 0.01}]
    mark = {"format": "nacre-comparison-1", "rows": ["a", "b"], "text": "Seen.", "bounds": stored, "runs": []}
    (tmp_path / "comparison.json").write_text(json.dumps(mark))
    assert call("report", tmp_path, "--html").stdout == f"wrote {tmp_path / 'compare.html'}\n"
    page = (tmp_path / "compare.html").read_text()
    assert "Seen." in page and "joint, stored" in page
    call("report", folders[0], "--html")
    assert "joint, stored: 90.0 ± 1.0" in (folders[0] / "report.html").read_text()


def test_compare_prints_tables_and_writes_pages(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    said = call("compare", *folders).stdout
    pairs, figures = said.splitlines(), [line.split()[0] for line in said.splitlines() if line[:2] in ("a ", "b ")]
    assert figures[-2:] == ["a", "b"] and any(line.startswith("Difference to a in points") for line in pairs)
    assert "setting" in said or "All settings are equal" in said
    assert call("compare", *folders, "--html").stdout == "wrote compare.html\n" and Path("compare.html").is_file()
    assert "| b | " in call("compare", *folders, "--markdown").stdout


# ------------------------------------------------------------------------------------------------------------------ watching


class Look(Observer):
    """Looks at a folder as `nacre watch` does, from inside a run."""

    def __init__(self, folder: Path):
        self.watched, self.seen, self.said = Watched(folder), [], []

    def _look(self) -> None:
        record, now = self.watched.look()
        assert now is not None
        self.seen.append(now)
        self.said.append(shown(record, now))

    def stage_begins(self, *_: object) -> None:
        self._look()

    def measured(self, *_: object) -> None:
        self._look()


def test_a_run_tells_where_it_stands_and_is_not_disturbed(tmp_path: Path):
    quiet = Experiment(config("stream.tasks=2")).run(tmp_path / "quiet")
    look = Look(tmp_path / "seen")
    seen = Experiment(config("stream.tasks=2")).run(tmp_path / "seen", look)
    assert seen.repeatable() == quiet.repeatable()
    assert [(now.doing, now.task, now.tasks) for now in look.seen[:2]] == [("preparing", 0, 2), ("testing", 0, 2)]
    assert [now.done for now in look.seen] == sorted(now.done for now in look.seen)
    assert look.seen[-1].is_alive() and look.seen[-1].seconds_left() is not None
    assert "task0" in look.said[-1] and "left" in look.said[-1]
    assert not (tmp_path / "seen" / FILE).exists()


def test_a_run_whose_seeds_are_complete_is_resumed(tmp_path: Path):
    """Such seeds end without having begun, and their numbers need not include the first default, 0."""
    told = config("stream.tasks=2", "run.seeds=[7, 8]")
    Experiment(told).run(tmp_path)
    (tmp_path / "run.json").unlink()
    assert Experiment(told).resume(tmp_path).status == "finished"


def test_a_disk_that_cannot_be_written_to_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Progress, "save", full)
    assert Experiment(config("stream.tasks=2")).run(tmp_path).status == "finished"


def test_the_view_tells_of_state_place_time_and_matrix():
    record, now = (
        run(status="running"),
        Progress("training", 1, 2, 4, 1, 2, 30, 60, 0.7, 0.2, 100.0, 150.0, [2.0, None, 1.0]),
    )
    said = shown(record, now, at=151.0)
    for words in (
        "training, seed 1 (2 of 2), task 3 of 4, stage 2 of 2, step 30 of 60",
        "70 %",
        "about 30 s left",
        "96.0",
    ):
        assert words in said
    assert "no news" not in said and "no news for 10 min" in shown(record, now, at=750.0)
    assert "10 of 40 test sets" in shown(run(tasks=40), width=120)


@pytest.mark.parametrize("kind", odd())
def test_odd_records_can_be_watched(kind: str):
    said = shown(odd()[kind])
    assert "nan" not in said and "\x1b" not in said
    assert kind != "failed" or "failed: NonFinite" in said


def test_what_a_name_says_to_a_terminal_is_not_heard():
    assert "\x1b" not in shown(run(name="a\x1b[2J", names=("\x1b]0;x",))) and ODD[2][:4] in shown(run(name=ODD[2]))


def test_a_curve_is_as_high_as_its_numbers():
    assert sparkline([1.0, 1.0]) == "▁▁" and sparkline([]) == "" and sparkline([None, 2.0, 3.0, float("nan")]) == " ▁█ "
    assert len(sparkline([float(k) for k in range(1000)], 20)) == 20


WATCH = """
import os, pty, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
pid, terminal = pty.fork()
if pid == 0:
    os.execv(sys.executable, [sys.executable, "-m", "nacre", "watch", sys.argv[1]])
said = b""
try:
    while piece := os.read(terminal, 4096):
        said += piece
        if b"training" in said and len(sys.argv) > 2:
            os.write(terminal, b"\\x03")
            sys.argv.pop()
except OSError:
    pass
print(said.decode("utf-8", "replace"))
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
def test_on_a_terminal_it_ends_with_the_run_and_by_ctrl_c(tmp_path: Path):
    run(status="running").save(tmp_path)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    place = Progress("training", 0, 1, 4, 0, 1, 5, 9, 0.3, 0.1, time.time() - 9, time.time(), [1.0, 0.5])

    def watched(*words: str) -> tuple[str, int]:
        done = subprocess.run(
            [sys.executable, "-c", WATCH, str(tmp_path), *words], capture_output=True, text=True, timeout=60
        )
        return done.stdout, done.returncode

    place.process = gone.pid
    place.save(tmp_path)
    said, code = watched()
    assert "nacre resume" in said and code == 0  # nobody works on it any more
    place.process = os.getpid()
    place.save(tmp_path)
    said, code = watched("interrupt")
    assert "task 2 of 4" in said and "Traceback" not in said and code == 0
    run().save(tmp_path)
    said, code = watched()
    assert "finished" in said and code == 0


def test_progress_of_another_machine_or_a_broken_file_is_no_fault(tmp_path: Path):
    (tmp_path / FILE).write_text('{"doing": 1')
    assert Progress.load(tmp_path) is None and Progress.load(tmp_path / "nowhere") is None
    assert Progress(machine=f"not-{socket.gethostname()}").is_alive() is None
