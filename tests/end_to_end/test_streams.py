"""Every kind of stream runs from a config, resumes bit for bit in the middle of a task, and says what can be set of it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import nacre
from nacre.cli.main import cli
from nacre.core.errors import BadSetting, UnknownName
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, load
from nacre.streams import ARRIVALS, STREAMS
from tests.end_to_end.small import config, newest, pictures, same

RUNS: dict[str, dict[str, Any]] = {
    "class": {"kind": "class-incremental", "tasks": 3},
    "task": {"kind": "task-incremental", "tasks": 3},
    "grouped": {"kind": "domain-incremental", "tasks": 3},
    "domains": {"kind": "domain-incremental", "by": "site"},
    "permuted": {"kind": "permuted", "tasks": 3, "pad": 1},
    "permuted, told": {"kind": "permuted", "tasks": 2, "scenario": "task"},
    "rotated": {"kind": "rotated", "angles": [0, 45.5], "smooth": True},
    "blurry": {"kind": "blurry", "tasks": 3, "arrival": "task-free"},
    "time": {"kind": "time-incremental", "tasks": 3, "arrival": "online"},
    "times": {"kind": "time-incremental", "by": "when", "arrival": "task-free"},
    "re-occurring": {"kind": "re-occurring", "tasks": 6, "rows": 30, "imbalance": 1.0},
    "permuted, online": {"kind": "permuted", "tasks": 2, "arrival": "online"},
    "split, task-free": {"kind": "class-incremental", "tasks": 3, "arrival": "task-free"},
}
ER = [{"methods": [{"name": "er", "rows": 8}], "optimizer": {"name": "adamw", "lr": 3e-3}, "batch_size": 16}]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Small pictures with a column of places and one of times."""
    held, place = pictures(96, classes=6), tmp_path_factory.mktemp("streams")
    for part in ("train", "test"):
        held |= {
            f"site_{part}": np.array(["hill", "sea"])[np.arange(96) % 2],
            f"when_{part}": np.arange(96)[::-1] / 7.0,
        }
    np.savez(place / "rows.npz", **held)
    return place / "rows.npz"


def of(name: str, data: Path, *changes: str) -> Config:
    width = 100 if RUNS[name].get("pad") else 64
    told = {"data": {"source": str(data)}, "backbone": {"source": f"mlp:{width}-24"}, "stream": RUNS[name]}
    return config("run.save_every=2", "run.keep=1000", *changes, stage=ER, **told)


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_and_resumes_in_the_middle_of_a_task(name: str, data: Path, tmp_path: Path):
    whole = tmp_path / "whole"
    run = Experiment(of(name, data)).run(whole)
    said = run.results[0].data["stream"]
    assert said["kind"] == RUNS[name]["kind"] and said["length"] == len(run.results[0].moments)
    assert Config.load(whole).to_dict() == of(name, data).to_dict()
    assert 0.05 <= run.figure("last")[0] <= 1.0
    inside = [p for p in sorted((whole / "checkpoints" / "seed-0").iterdir()) if not p.name.endswith("step0")]
    middle = next(p for p in inside if "-task1-" in p.name)
    shutil.copytree(whole, tmp_path / "again", ignore=shutil.ignore_patterns("checkpoints", "export", "run.json"))
    shutil.copytree(middle, tmp_path / "again" / "checkpoints" / "seed-0" / middle.name)
    Experiment(Config.load(tmp_path / "again")).resume(tmp_path / "again")
    assert same(Run.load(tmp_path / "again").repeatable(), Run.load(whole).repeatable())
    assert same(newest(tmp_path / "again"), newest(whole))
    seen = pictures(96, classes=6)["x_test"][:4]
    if "pad" not in RUNS[name]:
        assert len(load(whole).predict(seen, task=0 if said["told"] else None)) == 4


def test_every_kind_is_run_here_and_every_way_to_arrive():
    assert {r["kind"] for r in RUNS.values()} == set(STREAMS)
    assert {r.get("arrival", "offline") for r in RUNS.values()} == set(ARRIVALS)


def test_what_a_test_set_is_called_and_when_it_was_learned(data: Path):
    results = {name: Experiment(of(name, data)).run().results[0] for name in ("domains", "re-occurring", "times")}
    assert {t["name"] for t in results["domains"].tests} == {"hill", "sea"}
    again = results["re-occurring"]
    assert [t["name"] for t in again.tests] == ["all"] and len(again.moments) == 6
    assert all(len(row) == 1 for row in again.matrix)
    rising = [row[0] for row in again.matrix]
    assert again.summary["average"] == pytest.approx(sum(rising) / 6) and again.summary["last"] == rising[-1]
    assert [t["name"] for t in results["times"].tests] == [f"task{k}" for k in range(5)]


def test_fit_takes_a_kind_with_settings():
    run = nacre.fit("digits", "er", kind={"kind": "rotated", "angles": [0, 90], "arrival": "online"}, epochs=1)
    assert len(run.results[0].moments) == 2 and run.settings["stream"]["angles"] == [0, 90]
    with pytest.raises(
        BadSetting, match=r"stage\.0: epochs = 5, but the rows of a stream with arrival = 'online' are met once"
    ):
        nacre.fit("digits", "er", kind={"kind": "permuted", "tasks": 2, "arrival": "online"})


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("stream.kind=permutd", UnknownName, "stream.kind: unknown stream 'permutd': did you mean 'permuted'"),
        ("stream.pda=2", UnknownName, "stream: unknown setting of [stream] of the kind permuted 'pda': did you mean 'pad'"),
        ("stream.evalute=all", UnknownName, "did you mean 'evaluate'"),
        ("stream.order=given", UnknownName, "unknown setting of [stream] of the kind permuted 'order'"),
        ("stream.pad=two", BadSetting, "stream.pad is a whole number, not 'two' (str)"),
        ("stream.pad=-1", BadSetting, "stream: Permuted.pad must be at least 0, not -1"),
        ("stream.tasks=[3]", BadSetting, "stream.tasks is a whole number, not [3] (list)"),
        ("stream.keep_first=1", BadSetting, "stream.keep_first is true or false, not 1 (int)"),
        ("stream.scenario=domains", BadSetting, "did you mean 'domain'"),
        ("stream.arrival=onlne", BadSetting, "stream.arrival is 'offline' or 'online' or 'task-free', not 'onlne'"),
        ("stream=permuted", BadSetting, "stream is a table, not 'permuted' (str)"),
    ],
)  # fmt: skip
def test_settings_of_a_kind_are_checked_before_anything_is_loaded(change: str, error: type[Exception], said: str):
    with pytest.raises(error) as raised:
        config(change, stream={"kind": "permuted"}, data={"source": "/nowhere"})
    assert said in str(raised.value)


def test_another_kind_takes_other_settings():
    plain = config(stream={"kind": "Rotated", "angles": [0, 80, 160]})
    assert plain.stream.kind == "rotated" and plain.to_dict()["stream"] == {
        "kind": "rotated", "arrival": "offline", "evaluate": "seen", "angles": [0, 80, 160], "most": 180.0,
        "smooth": False, "scenario": "domain",
    }  # fmt: skip
    again = Config.of(plain.to_dict())
    assert again == plain


def call(*words: str) -> str:
    done = CliRunner().invoke(cli, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_line_lists_and_shows_them():
    listed = call("list", "streams")
    assert all(f"\n{name} " in listed for name in (*STREAMS, *ARRIVALS))
    for name, kind in STREAMS.items():
        shown = call("show", name)
        assert f'kind = "{name}"' in shown and "arrival" in shown and "evaluate" in shown
        missing = [f for f in fields(kind) if f.name not in shown]
        assert not missing, shown
    assert "Si-Blurry" in call("show", "blurry") and "arXiv" in call("show", "re-occurring").replace("arxiv", "arXiv")
    assert "second look" in call("show", "online") and 'arrival = "task-free"' in call("show", "task-free")


def test_the_python_of_its_page_runs():
    page = (Path(__file__).parents[2] / "docs" / "streams.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    held: dict[str, Any] = {}
    exec(block, held)
    assert len(held["seventeen"]) == 17 and len(held["long"]) == 1000 and held["long"][999].task.index == 999


def test_a_long_run_tells_its_matrix_in_few_lines(tmp_path: Path):
    (tmp_path / "long.toml").write_text(
        '[stream]\nkind = "re-occurring"\ntasks = 60\nrows = 2\n[backbone]\nsource = "mlp:64-4"\n'
        '[[stage]]\nmethods = []\noptimizer = "sgd"\n'
    )
    shown = call("run", str(tmp_path / "long.toml"), "--out", str(tmp_path / "run"))
    assert shown.count("\ntask") <= 40 and "task0 " in shown and "task59 " in shown
    assert len(json.loads((tmp_path / "run" / "run.json").read_text())["matrix"]) == 60
