"""Data from names, folders, files and arrays."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.data import SOURCES, load, read_idx


def idx(array: np.ndarray) -> bytes:
    """The bytes of an idx file, written by the book."""
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


IMAGES, LABELS = np.arange(10 * 6 * 5).reshape(10, 6, 5) % 256, np.arange(10) % 2


def mnist_folder(where: Path, spelling: str = "-", zipped: bool = True, **changed: bytes) -> Path:
    """A folder of four small files in MNIST format; `changed` replaces the bytes of one."""
    files = {
        "train_images": ("train-images", 3, idx(IMAGES)),
        "train_labels": ("train-labels", 1, idx(LABELS)),
        "test_images": ("t10k-images", 3, idx(IMAGES[:4])),
        "test_labels": ("t10k-labels", 1, idx(LABELS[:4])),
    }
    for key, (name, ranks, raw) in files.items():
        raw = changed.get(key, raw)
        path = where / f"{name}{spelling}idx{ranks}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(raw) if zipped else raw)
    return where


def test_digits_are_cut_by_the_seed_and_the_same_every_time() -> None:
    one, same, other = load("digits", seed=1), load("digits", seed=1), load("digits", seed=2)
    assert (one.train.x.shape, one.test.x.shape) == ((1197, 1, 8, 8), (600, 1, 8, 8))
    assert one.train.x.dtype == torch.uint8 and int(one.train.x.max()) == 255
    assert one.sha256 == same.sha256 != other.sha256
    both = torch.cat([one.train.x, one.test.x]).flatten(1).float()
    again = torch.cat([other.train.x, other.test.x]).flatten(1).float()
    assert torch.equal(both.sum(1).sort().values, again.sum(1).sort().values)  # the same rows, cut elsewhere


def test_glyphs_are_wrapped_with_their_groups() -> None:
    data = load("glyphs")
    assert data.train.x.shape == (12000, 1, 32, 32) and len(data.classes) == 200
    assert [len(g) for g in data.groups] == [20] * 10 and "Greek" in data.note


def test_every_embedded_source_says_what_it_is() -> None:
    assert all((make.__doc__ or "").strip() for make in SOURCES.values())


@pytest.mark.parametrize("spelling", ["-", "."])
@pytest.mark.parametrize("zipped", [True, False])
def test_idx_folders_are_read_in_every_spelling(tmp_path: Path, spelling: str, zipped: bool) -> None:
    data = load(mnist_folder(tmp_path, spelling, zipped))
    assert torch.equal(data.train.x[:, 0], torch.from_numpy(IMAGES.astype(np.uint8)))
    assert data.train.y.tolist() == LABELS.tolist() and data.train.y.dtype == torch.int64
    assert len(data.test) == 4 and data.classes == ("0", "1")
    assert load(str(tmp_path)).sha256 == data.sha256


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_images": idx(IMAGES)[:-7]}, "truncated or damaged: its header says 10 x 6 x 5 = 300 bytes, 293"),
        ({"train_images": idx(IMAGES)[:9]}, "truncated: it ends within its header"),
        ({"train_images": b"PNG!" + idx(IMAGES)}, "no idx file: it begins with 504e4721"),
        ({"train_images": b""}, "no idx file: it begins with nothing"),
        ({"train_images": b"\0\0\x0d\x03" + idx(IMAGES)[4:]}, "type 0x0d in 3 dimensions"),
        ({"train_images": idx(IMAGES[:9])}, "holds 9 images, .* 10 labels"),
        ({"train_images": idx(LABELS)}, "has 1 dimensions .* swapped"),
        (
            {"train_images": idx(IMAGES[:0]), "train_labels": idx(LABELS[:0])},
            "holds nothing: its header says 0 x 6 x 5",
        ),
        ({"train_labels": idx(LABELS * 0), "test_labels": idx(LABELS[:4] * 0)}, "only one class"),
    ],
)
def test_broken_idx_files_are_refused(tmp_path: Path, changed: dict[str, bytes], message: str) -> None:
    with pytest.raises(BadData, match=message):
        load(mnist_folder(tmp_path, **changed))


def test_a_broken_gzip_and_a_missing_file_are_named(tmp_path: Path) -> None:
    mnist_folder(tmp_path)
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BadData, match="broken gzip"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(BadData, match=r"has no train-labels-idx1-ubyte .with or without"):
        load(tmp_path)


def test_mnist_is_read(mnist: Path) -> None:
    data = load(mnist)
    assert data.train.x.shape == (60000, 1, 28, 28) and data.test.x.shape == (10000, 1, 28, 28)
    assert data.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.classes == tuple("0123456789") and read_idx(mnist / "t10k-labels-idx1-ubyte.gz")[0] == 7


def test_npz_with_both_parts(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    x, y = np.zeros((8, 9, 7, 3), np.uint8), np.array(["dog", "cat"] * 4)
    np.savez(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    data = load(path)
    assert data.name == "mine" and data.classes == ("cat", "dog") and data.train.y[:2].tolist() == [1, 0]
    assert data.train.x.shape == (8, 3, 9, 7) and "channels were last" in data.note


def test_npz_with_one_part_is_split_by_the_seed_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "one.npz"
    np.savez(path, x=np.random.default_rng(0).random((50, 6, 6)), y=np.arange(50) % 5 + 3)
    data, same, other = (load(path, seed=s, test_share=0.3) for s in (4, 4, 5))
    assert data.test.y.bincount().tolist() == [3] * 5 and data.train.y.bincount().tolist() == [7] * 5
    assert data.classes == ("3", "4", "5", "6", "7") and "split by seed 4" in data.note
    assert data.sha256 == same.sha256 != other.sha256
    rows = {tuple(r) for r in torch.cat([data.train.x, data.test.x]).flatten(1).tolist()}
    assert len(rows) == 50  # each row once: training and test do not meet


def test_arrays_come_as_tuples_mappings_and_sources() -> None:
    x, y = torch.rand(12, 5), torch.arange(12) % 3
    four = load((x, y, x[:3], y[:3]))
    named = load({"x_train": x, "y_train": y, "x_test": x[:3], "y_test": y[:3], "classes": ["p", "q", "r"]})
    assert four.sha256 == named.sha256 and named.classes == ("p", "q", "r") and four.classes == ("0", "1", "2")
    assert load(four) is four
    frozen = x.numpy().copy()
    frozen.flags.writeable = False
    assert torch.equal(load((frozen, y.numpy(), frozen, y.numpy())).train.x, x)


X, Y = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ("glyfs", UnknownName, "did you mean 'glyphs'"),
        ("no/such/folder", BadData, "nothing at 'no/such/folder' .looked for"),
        ("gone.npz", BadData, "nothing at 'gone.npz'"),
        (Path("digits"), BadData, "nothing at 'digits'"),
        ((X, Y, X), BadData, "3 arrays were given"),
        ({"images": X}, BadData, "has the arrays images: name them x_train"),
        (7, BadData, "not as int"),
        ((X, Y[:5]), BadData, "x has 6 rows, its labels 5"),
        ((X, Y - 1), BadData, "label -1 is negative"),
        ((X, Y / 2), BadData, "not float64"),
        ((X, np.eye(6, dtype=int)), BadData, "one-hot"),
        ((X, Y * 0), BadData, "only one class"),
        ((X[:0], Y[:0]), BadData, "there are no rows"),
        ((X, np.arange(6)), BadData, "class 0 has one row"),
        ((X, Y, X, Y + 1), BadData, "label 2, which no training row has"),
        (([[1, 2], [3]], [0, 1]), BadData, "no array of numbers"),
    ],
)
def test_what_cannot_be_loaded_says_why(given: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        load(given)


@pytest.mark.parametrize("share", [0, 1, -0.2, 7])
def test_a_test_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(BadSetting, match="between 0 and 1"):
        load((X, Y), test_share=share)


def test_files_that_are_not_npz_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([1]))
    (tmp_path / "objects.npy").rename(tmp_path / "single.npz")
    (tmp_path / "noise.npz").write_bytes(b"PK noise")
    (tmp_path / "notes.txt").write_text("1,2")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}, {}], dtype=object), y=np.arange(2))
    for name, message in [
        ("single", "one array"),
        ("noise", "cannot be read|no .npz"),
        ("pickled", "pickles are not read"),
    ]:
        with pytest.raises(BadData, match=message):
            load(tmp_path / f"{name}.npz")
    with pytest.raises(BadData, match=r"is a .txt file"):
        load(tmp_path / "notes.txt")


def test_classes_may_be_named_for_labels_of_either_kind() -> None:
    x, words = torch.rand(8, 1, 4, 4), np.array(["b", "a"] * 4)
    named = load({"x": x, "y": words, "classes": np.array(["b", "a"])})
    assert named.classes == ("b", "a")
    assert [int(named.train.y[named.train.y == k].numel()) for k in (0, 1)] == [3, 3]
    with pytest.raises(BadData, match="classes is a list of names"):
        load({"x": x, "y": np.arange(8) % 2, "classes": np.array("ab")})
    with pytest.raises(BadData, match="the label 'a' is none of the classes"):
        load({"x": x, "y": words, "classes": ["b", "c"]})
