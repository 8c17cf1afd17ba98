"""The README says what is true: its table is the catalogue's, its code runs, its commands exist."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "file", ["README.md", "docs/run.md", "docs/streams.md", "docs/own_method.md", "docs/errors.md"]
)
def test_its_tables_are_those_of_the_classes(file):
    script = runpy.run_path(str(ROOT / "scripts/write_tables.py"))
    assert script["written"](file) == (ROOT / file).read_text(), "run: python scripts/write_tables.py"


@pytest.mark.parametrize("number", [0, 1])
def test_its_python_runs(number):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", blocks[number]], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert number == 0 or "%" in done.stdout or "accuracy" in done.stdout


def test_its_config_is_one(tmp_path):
    from nacre.experiment import Config

    (tmp_path / "a.toml").write_text(re.search(r"```toml\n(.*?)```", README, re.DOTALL)[1])
    assert Config.load(tmp_path / "a.toml").stage[1].methods[0]["name"] == "RanPAC"


def test_its_commands_exist():
    from nacre.cli.main import cli

    words = set(re.findall(r"^\$ nacre (\w+)", README, re.MULTILINE))
    assert words == {
        *("run", "resume", "predict", "list", "show", "check", "sweep"),
        *("report", "compare", "watch", "export"),
    }
    for word in words:
        assert CliRunner().invoke(cli, [word, "--help"]).exit_code == 0
    assert {"demo", "test", "docs"} <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
