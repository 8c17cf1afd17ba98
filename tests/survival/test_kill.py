"""The short form of `benchmarks/kill.py`: killed four times, in each of its ways, a run ends with the same bits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_four_times_a_run_ends_bit_for_bit_as_one_that_never_stopped(tmp_path: Path):
    script, kept = str(ROOT / "benchmarks" / "kill.py"), tmp_path / "kill.json"
    words = [sys.executable, script, "--kills", "4", "--steps", "18", "--result", str(kept)]
    path = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, env=path)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(kept.read_text())
    assert said["holds"] and all(said["equal bit for bit"].values())
    assert said["killed"] == 4 and set(said["ways"]) == {"step", "time", "save", "torn"}


def test_the_kept_result_is_of_the_whole_run():
    said = json.loads((ROOT / "benchmarks" / "results" / "kill.json").read_text())
    assert said["holds"] and said["killed"] == 25 and said["steps"] >= 300
    assert all(said["equal bit for bit"].values()) and said["ways"]["save"] + said["ways"]["torn"] >= 10
