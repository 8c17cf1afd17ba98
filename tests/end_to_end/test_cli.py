"""The commands: what they print, where they put it, and how they end."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import nacre
from nacre.cli.main import cli
from nacre.core.run import Run
from nacre.experiment import load
from nacre.report import Sheet, show
from tests.end_to_end.small import config, idx, pictures

CONFIG = """
[run]
name = "small one"

[backbone]
source = "mlp:64-16"

[[stage]]
methods = [{ name = "ranpac", width = 50 }]
"""


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(w) for w in words])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a config, and a run of it."""
    place = tmp_path_factory.mktemp("cli")
    (place / "small.toml").write_text(CONFIG)
    done = call("run", place / "small.toml", "--out", place / "run", "--set", "stream.tasks=2")
    assert done.exit_code == 0, done.output
    assert "small one" in done.stdout and "task1" in done.stdout and "RanPAC (faithful)" in done.stdout
    assert done.stderr.count("% so far") == 2  # plain lines, where there is no terminal
    return place


def test_exit_codes(place: Path):
    assert call("run", place / "small.toml", "--out", place / "run", "--set", "stream.tasks=2").exit_code == 3
    assert call("resume", place / "run").exit_code == 3
    other = call("run", place / "small.toml", "--out", place / "run")
    assert other.exit_code == 2 and "stream.tasks: 2 -> None" in other.stderr
    wrong = call("run", place / "small.toml", "--set", "stage.0.epohcs=2")
    assert wrong.exit_code == 2 and wrong.stderr.startswith("error: ") and "did you mean 'epochs'" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert call("run", place / "none.toml").exit_code == 2
    assert call("run", place / "small.toml", "--seeds", "a").exit_code == 2
    assert call("run", place / "small.toml", "--set", f"data.source={place / 'nothing.npz'}").exit_code == 1
    assert call("resume", place / "nowhere").exit_code == 1
    assert call("predict", place, place / "small.toml").exit_code == 1
    assert call("no-such-command").exit_code == 2
    assert isinstance(call("--debug", "run", place / "none.toml").exception, nacre.NacreError)


def test_seeds_and_device(place: Path):
    done = call("run", place / "small.toml", "--out", place / "two", "--seeds", "3,4", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert "±" in done.stdout and "seeds 3, 4" in done.stdout
    assert Run.load(place / "two").settings["run"]["device"] == "cpu"


def test_runs_land_in_a_folder_of_their_own(place: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("run", place / "small.toml").exit_code == 0
    assert call("run", place / "small.toml").exit_code == 0
    made = list((tmp_path / "runs").iterdir())
    assert len(made) == 2 and all(p.name.startswith("small-one-") for p in made)


def test_predict_reads_pictures_and_arrays(place: Path, tmp_path: Path):
    x = pictures()["x_test"]
    model = load(place / "run")
    expected = model.predict(x[:3])
    Image.fromarray(x[0, 0]).save(tmp_path / "one.png")
    np.save(tmp_path / "three.npy", x[:3])
    np.savez(tmp_path / "three.npz", x=x[:3], other=np.zeros(2))
    idx(tmp_path / "t10k-images-idx3-ubyte.gz", x[:3, 0])
    done = call("predict", place / "run", tmp_path / "one.png")
    assert done.exit_code == 0 and done.stdout == f"{tmp_path / 'one.png'}: {expected[0]}\n"
    for name in ("three.npy", "three.npz", "t10k-images-idx3-ubyte.gz"):
        done = call("predict", place / "run" / "export", tmp_path / name, "--json", "--top", 2)
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        assert [row["top"][0]["class"] for row in rows] == expected
        assert all(len(row["top"]) == 2 and row["top"][0]["score"] >= row["top"][1]["score"] for row in rows)
    (tmp_path / "text.png").write_text("no picture")
    bad = call("predict", place / "run", tmp_path / "text.png")
    assert bad.exit_code == 1 and "cannot be read as a picture" in bad.stderr


def test_list_and_show():
    everything = call("list").stdout
    for name in (
        *nacre.methods.__all__,
        "glyphs",
        "mlp:IN",
        "class-incremental",
        "cosine",
        "adamw",
        "jitter",
        "Reservoir",
    ):
        assert name in everything
    assert "Reservoir" in call("list", "memories").stdout and "glyphs" not in call("list", "memories").stdout
    assert re.search(r"EWC +faithful +arXiv 1612.00796 +Pull each weight", call("list", "methods").stdout)
    assert "did you mean 'methods'" in call("list", "metods").stderr
    told = call("show", "ewc").stdout
    assert "1612.00796" in told and "Fidelity: faithful" in told and "strength" in told and "at least 0" in told
    assert 'methods = [{ name = "EWC", strength = 100.0' in told
    assert "did you mean 'EWC'" in call("show", "ewcc").stderr
    config_told = call("show", "config").stdout
    assert "[[stage]]" in config_told and "save_every" in config_told
    wsd, adamw, stream = (call("show", n).stdout for n in ("wsd", "adamw", "class-incremental"))
    assert "a number" in wsd and "Tensor" not in adamw and "weight decay coefficient" in adamw
    assert "how many tasks" in stream and "data " not in stream and "seed  " not in stream


def test_a_pipe_that_ends_early_and_a_terminal_without_letters_are_no_faults(place: Path):
    nacre_ = f"{sys.executable} -m nacre.cli.main"
    done = subprocess.run(f"{nacre_} list | head -1", shell=True, capture_output=True, text=True)
    assert done.stderr == "" and done.stdout
    assert call("run", place / "small.toml", "--out", place / "spread", "--seeds", "007,8").exit_code == 0
    assert Run.load(place / "spread").seeds == [7, 8]
    (place / "spread" / "run.json").unlink()
    bare = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0"}
    done = subprocess.run(f"{nacre_} resume {place / 'spread'}", shell=True, capture_output=True, text=True, env=bare)
    assert done.returncode == 0, done.stderr
    assert f"in {place / 'spread'}" in done.stderr and " ? " in done.stdout


def test_an_interrupted_run_says_where_it_goes_on(place: Path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("nacre.experiment.recorder.Recorder.measure", interrupted)
    told = call("run", place / "small.toml", "--out", place / "cut")
    assert told.exit_code == 130 and f"nacre resume {place / 'cut'}` goes on" in told.stderr


def test_a_missing_package_is_a_matter_of_use(place: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    told = call("run", place / "small.toml", "--out", place / "timm", "--set", "backbone.source=timm:vit")
    assert told.exit_code == 2 and "pip install 'nacre[vision]'" in told.stderr and not (place / "timm").exists()


def test_every_shown_snippet_is_a_config(place: Path):
    for name in (*nacre.methods.__all__, "cosine", "sgd"):
        snippet = call("show", name).stdout.partition("In a config:\n\n")[2]
        (place / "snippet.toml").write_text(snippet)
        assert nacre.Config.load(place / "snippet.toml").stage


def test_a_comparison_is_resumed_as_a_whole(tmp_path: Path, monkeypatch):
    from nacre.experiment import compare

    several = compare.Comparison([config(f"run.name={n}", "stream.tasks=2") for n in ("a", "b")], "Seen.", [])
    monkeypatch.setattr("nacre.cli.work.default_comparison", lambda changes: several)
    done = call("run", "--out", tmp_path / "both")
    assert done.exit_code == 0, done.output
    assert {p.name for p in (tmp_path / "both").iterdir()} == {
        "1-a",
        "2-b",
        "comparison.md",
        "comparison.json",
        "compare.html",
    }
    assert "Seen." in done.stdout and "Seen." in (tmp_path / "both" / "comparison.md").read_text()
    assert len(json.loads((tmp_path / "both" / "comparison.json").read_text())["runs"]) == 2
    (tmp_path / "both" / "2-b" / "run.json").unlink()
    again = call("resume", tmp_path / "both")
    assert again.exit_code == 0 and Run.load(tmp_path / "both" / "2-b").status == "finished"


def test_help_is_quick_and_the_installed_command_runs(tmp_path: Path):
    probe = "import sys; from nacre.cli.main import cli; cli(['--help'], standalone_mode=False); print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-W", "error", "-c", probe], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "False" and "Exit codes" in told.stdout
    (tmp_path / "small.toml").write_text(CONFIG)
    words = [sys.executable, "-W", "error", "-m", "nacre.cli.main", "run", "small.toml", "--out", "here"]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "NO_COLOR": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "here" / "run.json").is_file()


def test_notes_of_a_narrow_table_are_lines_of_their_own():
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    to, note = Terminal(), "a note that is much longer than the two columns above it, and is read as one line"
    show(Sheet(["", "last"], [["a", "73.4"]], notes=[note]), to=to)
    assert note[:60] in to.getvalue()
