"""Folders of pictures: a folder a class, every mode read as it is meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nacre.core.errors import BadData
from nacre.data import load, read_picture

GREY = np.arange(6 * 5, dtype=np.uint8).reshape(6, 5) * 8
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], 2)


def put(folder: Path, *names: str, pixels: np.ndarray = GREY) -> Path:
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels + np.uint8(k)).save(folder / name)
    return folder


def test_folders_are_classes_in_the_order_of_their_names(tmp_path: Path):
    names = [f"{part}/{kind}/{k}.png" for part in ("train", "test") for kind in ("dog", "ant", "Cat") for k in range(2)]
    data = load(put(tmp_path, *names))
    assert data.classes == ("Cat", "ant", "dog") and data.train.y.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train.x.shape == (6, 1, 6, 5) and data.train.x.dtype == torch.uint8
    assert [int(x[0, 0, 0]) for x in data.train.x] == [4, 5, 2, 3, 0, 1]  # which file is which
    assert [int(x[0, 0, 0]) for x in data.test.x] == [10, 11, 8, 9, 6, 7]
    assert data.name == tmp_path.name and data.note == ""


def test_without_test_pictures_some_are_kept_by_the_seed(tmp_path: Path):
    put(tmp_path, *(f"{kind}/{k}.png" for kind in "ab" for k in range(10)))
    (tmp_path / "a" / "notes.txt").write_text("about")
    (tmp_path / "a" / ".DS_Store").write_text("x")
    (tmp_path / "a" / "Thumbs.db").write_text("x")
    data, same, other = (load(tmp_path, seed=seed, test_share=0.3) for seed in (1, 1, 2))
    assert data.test.y.tolist() == [0, 0, 0, 1, 1, 1] and len(data.train) == 14
    assert data.sha256 == same.sha256 != other.sha256
    assert "split by seed 1" in data.note and "1 files that are no pictures were left out: notes.txt" in data.note


def test_one_picture_in_colour_makes_all_of_them_so(tmp_path: Path):
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    put(tmp_path, "b/2.png", pixels=COLOUR)
    data = load(tmp_path)
    x = torch.cat([data.train.x, data.test.x])
    assert x.shape == (4, 3, 6, 5)
    same = (x == x[:, :1]).flatten(1).all(1)
    assert same.sum() == 3  # grey is the same in every channel


def test_sizes_are_made_equal_where_that_is_said(tmp_path: Path):
    put(tmp_path, "a/1.png", "a/2.png", "b/1.png")
    put(tmp_path, "b/2.png", pixels=np.full((20, 30), 200, np.uint8))
    with pytest.raises(
        BadData, match=r"b/2.png has 30x20 pixels, .*a/1.png 5x6: give pictures of one size, or say one"
    ):
        load(tmp_path)
    data = load(tmp_path, size=[4, 7])
    assert data.train.x.shape[1:] == (1, 4, 7) and "stretched to 4x7" in data.note
    assert (
        int(torch.cat([data.train.x, data.test.x]).flatten(1).min(1).values.max()) == 200
    )  # a flat picture stays flat


def test_every_mode_is_read_as_it_is_meant(tmp_path: Path):
    def saved(name: str, image: Image.Image, **settings: object) -> torch.Tensor:
        image.save(tmp_path / name, **settings)
        return read_picture(tmp_path / name)

    grey, colour = torch.from_numpy(GREY)[None], torch.from_numpy(COLOUR.copy()).permute(2, 0, 1)
    grey_image, colour_image = Image.fromarray(GREY), Image.fromarray(COLOUR)
    assert torch.equal(saved("l.png", grey_image), grey)
    assert torch.equal(saved("la.png", grey_image.convert("LA")), grey)
    assert torch.equal(saved("rgb.png", colour_image), colour)
    assert torch.equal(saved("rgba.png", colour_image.convert("RGBA")), colour)
    assert torch.equal(saved("bmp.bmp", colour_image), colour)
    assert torch.equal(saved("ppm.ppm", colour_image), colour)
    assert torch.equal(saved("palette.png", grey_image.convert("P")), grey)  # a palette of greys is grey
    few = colour_image.quantize(4)
    assert torch.equal(saved("palette.gif", few), torch.from_numpy(np.array(few.convert("RGB"))).permute(2, 0, 1))
    assert saved("bits.png", Image.fromarray(GREY > 100)).unique().tolist() == [0, 255]
    wide = Image.fromarray(GREY.astype(np.uint16) * 257)
    assert torch.equal(saved("16.png", wide), grey)
    assert saved("cmyk.jpg", colour_image.convert("CMYK")).shape == (3, 6, 5)
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    assert torch.equal(saved("exif.png", grey_image, exif=turned), torch.from_numpy(np.rot90(GREY, -1).copy())[None])


def test_no_decoder_is_run_but_those_of_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr("subprocess.Popen", lambda *a, **k: asked.append("popen"))
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(BadData, match="cannot be read as a picture"):
        read_picture(tmp_path / "a.png")
    assert not asked
