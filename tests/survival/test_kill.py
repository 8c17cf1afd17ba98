"""The short form of `benchmarks/kill.py`: killed four times, in each of its ways, a run ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MUTANT = (
    "import runpy, sys\n"
    "from nacre.memory import Memory\n"
    "from nacre.core.state import Stateful\n"
    "def forgets(self, saved):\n"
    "    Stateful.load_state_dict(self, saved)\n"
    "    self.draws = 0\n"
    "Memory.load_state_dict = forgets\n"
    "sys.argv.pop(0)\n"
    "runpy.run_path(sys.argv[0], run_name='__main__')\n"
)


def result(tmp_path: Path, *words: str) -> dict:
    script = str(ROOT / "benchmarks" / "kill.py")
    told = [script, "--kills", "4", "--steps", "18", "--result", str(tmp_path / "kill.json")]
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(
        [sys.executable, *words, *told], capture_output=True, text=True, timeout=200, check=False, env=path
    )
    assert (tmp_path / "kill.json").is_file(), done.stderr
    return json.loads((tmp_path / "kill.json").read_text())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_four_times_a_run_ends_bit_for_bit_as_one_that_never_stopped(tmp_path: Path):
    said = result(tmp_path)
    assert said["holds"] and all(said["equal bit for bit"].values())
    assert said["killed"] == 4 and set(said["ways"]) == {"step", "time", "save", "torn"}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_memory_that_forgets_its_draws_would_be_seen(tmp_path: Path):
    said = result(tmp_path, "-c", MUTANT)
    assert not said["holds"] and not said["equal bit for bit"]["weights"]


def test_the_kept_result_is_of_the_whole_run():
    said = json.loads((ROOT / "benchmarks" / "results" / "kill.json").read_text())
    assert said["holds"] and said["killed"] == 25 and said["steps"] >= 300
    assert all(said["equal bit for bit"].values()) and said["ways"]["save"] + said["ways"]["torn"] >= 10
