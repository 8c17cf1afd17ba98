"""Predicting refuses what training would have refused, and never answers for rows that it misreads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import nacre
from nacre import checkpoint
from nacre.cli.main import cli
from nacre.core.errors import BadCheckpoint, BadData, BadSetting
from nacre.experiment import Experiment, load
from tests.end_to_end.small import config, pictures

RANPAC = [{"methods": [{"name": "ranpac", "width": 40}]}]


def call(*words: object) -> Result:
    return CliRunner().invoke(cli, ["predict", *(str(w) for w in words)])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("predict") / "run"
    Experiment(config("stream.tasks=2", stage=RANPAC)).run(out)
    return out


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return pictures(12)["x_test"]


def test_rows_are_checked_as_in_training(run: Path, x: np.ndarray):
    model = load(run)
    with pytest.raises(BadData, match=r"float pictures lie in 0\.\.1"):
        model.predict(x.astype(np.float32))
    broken = x.astype(np.float32) / 255
    broken[3, 0, 2, 2] = np.nan
    with pytest.raises(BadData, match="1 of 12 rows hold NaN"):
        model.predict(broken)
    with pytest.raises(BadData, match=r"uint8 or float, not torch\.int64"):
        model.predict(x.astype(np.int64))
    for wrong in ("x", object(), [[1], [2, 3]]):
        with pytest.raises(BadData, match="rows are an array or a tensor"):
            model.predict(wrong)
    assert model.predict(x.astype(np.float64) / 255) == model.predict(x.astype(np.float32) / 255)
    assert model.predict(x[:0]) == []


def test_one_row_and_rows_without_channels_are_read_where_only_one_reading_is_possible(run: Path, x: np.ndarray):
    model = load(run)
    whole = model.scores(x)
    for one in (x[:, 0], x.transpose(0, 2, 3, 1)):
        assert torch.equal(model.scores(one), whole)
    for one in (x[0], x[0, 0], x[0].transpose(1, 2, 0)):
        assert torch.allclose(model.scores(one), whole[:1], atol=1e-4)


def test_other_sizes_are_refused_unless_the_backbone_has_its_own(run: Path, x: np.ndarray, tmp_path: Path):
    model = load(run)
    for wrong in (np.zeros((4, 1, 9, 9), np.uint8), np.zeros((4, 64), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)):
        with pytest.raises(BadData, match=r"trained on rows of shape \(1, 8, 8\)"):
            model.predict(wrong)
    glyphs = Experiment(config("backbone.source=glyph-vit", "stream.tasks=2", stage=[{"methods": ["simplecil"]}]))
    glyphs.run(tmp_path / "vit")
    resizes = load(tmp_path / "vit")
    assert len(resizes.predict(np.zeros((2, 3, 20, 24), np.uint8))) == 2
    with pytest.raises(BadData, match="may be meant as"):
        resizes.predict(np.zeros((3, 24, 24), np.uint8))


def test_vectors_are_scaled_as_in_training(tmp_path: Path):
    rows = {k: v.reshape(len(v), -1) if k[0] == "x" else v for k, v in pictures().items()}
    np.savez(tmp_path / "flat.npz", **rows)
    Experiment(config(f"data.source={tmp_path / 'flat.npz'}", "stream.tasks=2", stage=RANPAC)).run(tmp_path / "run")
    model = load(tmp_path / "run")
    assert len(model.predict(rows["x_test"])) == 120 and len(model.predict(rows["x_test"][0])) == 1
    with pytest.raises(BadData, match="trained on uint8 vectors, these are float"):
        model.predict(rows["x_test"] / 255)


def test_the_task_is_told_where_and_only_where_it_was_told_in_training(run: Path, x: np.ndarray, tmp_path: Path):
    with pytest.raises(BadSetting, match="trained without tasks told"):
        load(run).predict(x, task=0)
    assert call(run, "--task", 1, Path(__file__)).exit_code == 1  # no picture
    Experiment(config("stream.tasks=2", "stream.kind=task-incremental", stage=RANPAC)).run(tmp_path / "told")
    model = load(tmp_path / "told")
    assert model.predict(x, 1) and model.predict(x)
    for wrong in (2, -1):
        with pytest.raises(BadSetting, match=r"task is one of 0\.\.1"):
            model.predict(x, wrong)


def test_pictures_of_16_bit_are_scaled_and_those_of_unknown_white_refused(run: Path, x: np.ndarray, tmp_path: Path):
    deep = x[0, 0].astype(np.uint16) * 257
    Image.fromarray(x[0, 0]).save(tmp_path / "8.png")
    Image.fromarray(deep).save(tmp_path / "16.tif")
    eight, sixteen = (call(run, tmp_path / n, "--json", "--top", 3).stdout for n in ("8.png", "16.tif"))
    assert json.loads(eight)["top"] == json.loads(sixteen)["top"]
    for kind in (np.int32, np.float32):
        Image.fromarray(deep.astype(kind)).save(tmp_path / "wide.tif")
        told = call(run, tmp_path / "wide.tif")
        assert told.exit_code == 1 and "white is unknown" in told.stderr


def test_broken_files_are_one_line(run: Path, x: np.ndarray, tmp_path: Path):
    np.savez(tmp_path / "whole.npz", x=x)
    held = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(held[:-200])
    (tmp_path / "crc.npz").write_bytes(held[:300] + bytes([held[300] ^ 255]) + held[301:])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name in ("cut.npz", "crc.npz", "empty.npy"):
        told = call(run, tmp_path / name)
        assert told.exit_code == 1 and f"{name} cannot be read as " in told.stderr
    if not torch.cuda.is_available():
        assert call(run, tmp_path / "whole.npz", "--device", "cuda").exit_code == 2
    told = call(run, tmp_path / "whole.npz", "--device", "foo")
    assert told.exit_code == 2 and "not 'foo'" in told.stderr


def test_an_export_that_describes_no_model_is_a_bad_checkpoint(run: Path, tmp_path: Path):
    for lost in ("body", "head", "classes", "row"):
        tree = checkpoint.load(run / "export")
        checkpoint.save(tmp_path / lost, {k: v for k, v in tree.items() if k != lost})
        with pytest.raises(BadCheckpoint, match=f"does not describe a model .*{lost}"):
            nacre.load(tmp_path / lost)
