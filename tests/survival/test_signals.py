"""SIGINT and SIGTERM save and leave with a code of their own, a second one leaves at once, and nothing blocks a resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nacre.core.errors import BadSetting
from nacre.core.run import Run
from nacre.experiment import Experiment, Observer, Stopped, Stopping
from nacre.experiment.folder import Folder
from tests.end_to_end.small import config, newest, same

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, Any]]:
    """What became of runs that were sent signals, each in a process of its own."""
    script = Path(__file__).with_name("signalled.py")
    words = [sys.executable, str(script)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("second seed", 143)])
def test_the_first_signal_saves_after_the_present_step_and_leaves(said, name: str, code: int):
    told = said[name]
    assert told["code"] == code and told["status"] == "interrupted" and "Traceback" not in told["said"]
    assert "`nacre resume" in told["said"] and "goes on where it stopped" in told["said"]
    assert told["step"] or name == "second seed"  # in the middle of a stage, where nothing else would have saved
    assert told["seconds"] < 5 and not told["left over"]


def test_a_second_signal_leaves_at_once(said):
    told = said["twice"]  # a step takes 20 seconds here
    assert told["code"] == 143 and told["seconds"] < 5 and told["step"] is None


def test_where_all_is_saved_the_first_signal_leaves_at_once(said):
    told = said["testing"]  # which takes 20 seconds here
    assert told["code"] == 143 and told["seconds"] < 5 and told["status"] == "interrupted"


def test_a_checkpoint_that_is_being_written_is_finished(said):
    assert said["saving"]["code"] == 130 and said["saving"]["seconds"] > 0.1
    assert said["saving"]["step"] is not None and not said["saving"]["left over"]


def test_however_a_run_ended_it_is_resumed_to_the_same_bits(said):
    assert all(told["resumed"] == 0 and told["equal"] for told in said.values())
    assert said["SIGKILL"]["code"] == -9  # its lock died with it
    assert all(told["again"] == 3 for name, told in said.items() if name != "second seed")


def test_another_process_in_the_folder_is_refused(said):
    other = said["SIGTERM"]["other"]
    assert other["code"] == 2 and "another process works in" in other["said"]
    assert said["SIGTERM"]["code"] == 143  # and the first one was not disturbed


class Looks(Observer):
    """Notes who hears signals during a run, and may ask it to stop."""

    def __init__(self, ask: int = 0):
        self.seen: set[Any] = set()
        self.ask, self.count = ask, 0

    def stepped(self, learner, loss):
        self.seen |= {signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)}
        self.count += 1
        if self.count == self.ask:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_run_in_python_leaves_signals_alone():
    before = {signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)}
    looks = Looks()
    Experiment(config("stream.tasks=2")).run(None, looks)
    assert looks.seen == before


def test_stopping_is_there_for_scripts_too(tmp_path: Path):
    small = config("stream.tasks=2", "run.save_seconds=0")
    Experiment(small).run(tmp_path / "whole")
    handlers = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop, Stopping(signal.SIGTERM) as stopping:
        Experiment(small).run(tmp_path / "cut", Looks(ask=5), stopping)
    assert stop.value.code == 143 and signal.getsignal(signal.SIGTERM) == handlers
    assert newest(tmp_path / "cut")["step"] in (5, 6) and Run.load(tmp_path / "cut").status == "interrupted"
    assert Experiment(small).resume(tmp_path / "cut").status == "finished"
    assert same(newest(tmp_path / "cut"), newest(tmp_path / "whole"))


def test_only_the_main_thread_hears_signals():
    found = []

    def elsewhere() -> None:
        with Stopping(signal.SIGTERM) as stopping:
            found.append((stopping.before, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [({}, signal.getsignal(signal.SIGTERM))]


COMPARED = """
import sys
import nacre.cli.work
from nacre.cli.main import cli
from tests.end_to_end.test_compare import two

if __name__ == "__main__":
    nacre.cli.work.default_comparison = lambda changes: two("stage.0.steps=100000", "run.save_seconds=1", "run.keep=3")
    cli(["run", "--out", sys.argv[1]])
"""


def free(folder: Path) -> bool:
    """Whether no process works in a run's folder."""
    try:
        with Folder(folder).alone():
            return True
    except BadSetting:
        return False


def steps(row: Path) -> int:
    """How many steps the newest checkpoint of a row has."""
    saved = Folder(row).newest(0)
    return 0 if saved is None else saved["learner"]["step"]


def test_the_rows_of_a_comparison_that_is_killed_save_and_leave_so_that_it_can_be_resumed(tmp_path: Path):
    pytest.importorskip("fcntl")
    (tmp_path / "run.py").write_text(COMPARED)
    rows = [tmp_path / "both" / n for n in ("1-a", "2-b")]
    work = subprocess.Popen([sys.executable, tmp_path / "run.py", tmp_path / "both"], env=ENVIRONMENT)
    until = time.monotonic() + 120
    while not all(row.is_dir() and steps(row) for row in rows) and time.monotonic() < until:
        time.sleep(0.1)
    reached = [steps(row) for row in rows]
    assert all(reached) and not any(map(free, rows))
    work.kill()
    work.wait(timeout=60)
    until = time.monotonic() + 60
    while not all(map(free, rows)) and time.monotonic() < until:
        time.sleep(0.1)
    assert all(map(free, rows))  # they ended by themselves
    assert {Run.load(row).status for row in rows} == {"interrupted"}
    assert all(steps(row) > before for row, before in zip(rows, reached, strict=True))
