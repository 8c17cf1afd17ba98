"""Folders, pipes and tables are predicted row by row; what cannot be read is named, and the rest is answered."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from nacre.cli.main import cli
from nacre.experiment import Experiment, load
from tests.end_to_end.small import config, pictures
from tests.texts import small


def call(*words: object, input: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["predict", *(str(w) for w in words)], input=input)


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("seeing")
    np.savez(out / "data.npz", **pictures())
    told = config(f"data.source={out / 'data.npz'}", "stream.tasks=2", stage=[{"methods": ["simplecil"]}])
    Experiment(told).run(out / "run")
    return out / "run"


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reading")
    source, encoder = small.tables(out / "data"), small.model(out / "encoder")
    changes = (f"data.source={source}", f"backbone.source={encoder}", "stream.tasks=2")
    Experiment(config(*changes, stage=[{"methods": ["simplecil"]}])).run(out / "run")
    return out / "run"


def test_a_folder_of_pictures_of_which_some_are_broken(seeing: Path, tmp_path: Path):
    x = pictures()["x_test"][:6, 0]
    (tmp_path / "deep").mkdir()
    for k, one in enumerate(x):
        Image.fromarray(one).save(tmp_path / ("deep" if k % 2 else ".") / f"{k}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:40])
    Image.fromarray(np.zeros((5, 9), np.uint8)).save(tmp_path / "large.png")
    (tmp_path / "notes.md").write_text("no picture")
    done = call(seeing, tmp_path)
    assert done.exit_code == 0, done.output
    files = [tmp_path / name for name in ("0.png", "2.png", "4.png", "deep/1.png", "deep/3.png", "deep/5.png")]
    model = load(seeing)
    answers = dict(line.rsplit(": ", 1) for line in done.stdout.splitlines())
    assert answers == {str(f): model.predict(x[int(f.stem)][None, None])[0] for f in files}
    for broken, why in (
        ("cut.png", "cannot be read as a picture"),
        ("large.png", "the model was trained on rows of shape"),
    ):
        assert f"left out: {tmp_path / broken}: " in done.stderr and why in done.stderr
    assert "6 rows predicted, 2 left out" in done.stderr and "notes.md" not in done.output
    (tmp_path / "empty").mkdir()
    assert "holds no pictures" in call(seeing, tmp_path / "empty").stderr
    assert call(seeing, tmp_path / "cut.png", tmp_path / "large.png").exit_code == 1  # not a single answer


def test_rows_of_an_array_that_hold_nan_are_left_out_alone(seeing: Path, tmp_path: Path):
    x = (pictures()["x_test"][:5] / 255).astype(np.float32)
    whole = load(seeing).predict(x)
    x[3, 0, 2, 2] = np.nan
    np.save(tmp_path / "x.npy", x)
    done = call(seeing, tmp_path / "x.npy", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [int(row["row"]) for row in rows] == [0, 1, 2, 4] and [row["class1"] for row in rows] == [
        *whole[:3],
        whole[4],
    ]
    assert f"left out: {tmp_path / 'x.npy'}[3]: " in done.stderr
    np.save(tmp_path / "one.npy", x[0, 0])
    assert call(seeing, tmp_path / "one.npy").stdout == f"{tmp_path / 'one.npy'}: {whole[0]}\n"


def test_texts_come_by_a_pipe_and_in_tables_with_holes(reading: Path, tmp_path: Path):
    texts = [text for text, _ in small.sentences(1, "new")]
    expected = load(reading).predict(texts)
    piped = call(reading, "-", "--json", input="\n".join([texts[0], "", *texts[1:], ""]))
    assert [json.loads(line)["row"] for line in piped.stdout.splitlines()] == [0, 2, 3, 4]
    assert [json.loads(line)["top"][0]["class"] for line in piped.stdout.splitlines()] == expected
    held = [
        {"text": texts[0]},
        {"text": None},
        {"text": "  "},
        {"text": texts[1]},
        {"text": "\u0000"},
        {"text": texts[2]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, held)))
    done = call(reading, tmp_path / "a.jsonl", "--format", "jsonl", "--top", 2)
    rows = {row["row"]: [one["class"] for one in row["top"]] for row in map(json.loads, done.stdout.splitlines())}
    assert {k: rows[k][0] for k in (0, 3, 5)} == {0: expected[0], 3: expected[1], 5: expected[2]}
    assert all(len(best) == 2 for best in rows.values())
    assert all(f"left out: {tmp_path / 'a.jsonl'}[{k}]: there is no text in this row" in done.stderr for k in (1, 2))
    (tmp_path / "b.txt").write_text("\n".join(texts))
    (tmp_path / "c.csv").write_bytes(b"text\n\xff\xfe\x00broken")
    both = call(reading, tmp_path / "b.txt", tmp_path / "c.csv")
    assert both.exit_code == 0 and f"left out: {tmp_path / 'c.csv'}" in both.stderr
    assert [line.rpartition(": ")[2] for line in both.stdout.splitlines()] == expected
    assert call(reading, tmp_path).stdout.count("\n") == len(rows) + 4  # a folder of texts
    assert [line.rpartition(": ")[2] for line in call(reading, "-", input=texts[0]).stdout.splitlines()] == expected[:1]


def test_answers_as_a_table_and_as_csv(reading: Path, seeing: Path):
    texts = "red1 [bold]word2\ngrey1"
    model = load(reading)
    best = model.top(texts.split("\n"), 3)
    table = call(reading, "-", "--format", "table", "--top", 3, input=texts).stdout
    assert all(name in table and f"{value:.3g}" in table for row in best for name, value in row)
    rows = list(csv.reader(io.StringIO(call(reading, "-", "--format", "csv", "--top", 3, input=texts).stdout)))
    assert rows[0] == ["file", "row", "class1", "score1", "class2", "score2", "class3", "score3"]
    assert [row[2::2] for row in rows[1:]] == [[name for name, _ in row] for row in best]
    assert [[float(v) for v in row[3::2]] for row in rows[1:]] == [[v for _, v in row] for row in best]
    told = call(seeing, "-", input="a text")
    assert told.exit_code == 2 and "this model reads none" in told.stderr
