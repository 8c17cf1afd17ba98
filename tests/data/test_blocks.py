"""Blocks: made once, whole or not at all, checked byte by byte, read in flat memory, and the same run as over memory."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import nacre
from nacre.core.errors import BadData, BadSetting
from nacre.core.ragged import Ragged
from nacre.data import BlockRows, Source, TokenRows, blocks, load, make_blocks, without_test_rows
from nacre.experiment import Experiment
from tests.end_to_end.small import config, pictures

ALL = ["train", "test", "validation"]


def folder_of_pictures(place: Path, count: int = 24, colour: int | None = None) -> Path:
    """Pictures of 7x6 in three classes, grey but for one."""
    for k in range(count):
        path = place / "abc"[k % 3] / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = torch.randint(256, (7, 6, 3), generator=torch.Generator().manual_seed(k)).byte().numpy()
        Image.fromarray(values if k == colour else values[..., 0]).save(path)
    return place


def same(one: Source, other: Source) -> None:
    """Two sources hold the same, and say the same of themselves."""
    for name in ("name", "classes", "groups", "sha256", "note"):
        assert getattr(one, name) == getattr(other, name), name
    for part in ALL:
        a, b = getattr(one, part), getattr(other, part)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            index = torch.randperm(len(a))
            left, right = a.take(index), b.take(index)
            assert torch.equal(left.y, right.y)
            fields = [(left.x, right.x)] if isinstance(left.x, Tensor) else [(left.x[k], right.x[k]) for k in right.x]
            assert all(x.dtype == z.dtype and torch.equal(x, z) for x, z in fields), part
    assert one.columns.keys() == other.columns.keys()
    for name, column in one.columns.items():
        assert column.names == other.columns[name].names and torch.equal(column.test, other.columns[name].test)


@pytest.mark.parametrize("colour", [None, 0, 17])
def test_blocks_of_a_folder_of_pictures_are_what_memory_holds(colour: int | None, tmp_path: Path):
    place = folder_of_pictures(tmp_path / "pictures", colour=colour)
    made = make_blocks(place, tmp_path / "blocks", seed=4, test_share=0.25)
    same(made, load(place, seed=4, test_share=0.25))
    same(load(tmp_path / "blocks", seed=99), made)
    assert isinstance(made.train, BlockRows) and made.train.x.shape == (18, 1 if colour is None else 3, 7, 6)
    assert copy.deepcopy(made).train.take(torch.tensor([1])).y == made.train.y[1]
    with pytest.raises(BadSetting, match="is there already"):
        make_blocks(place, tmp_path / "blocks")


def test_parts_stretching_and_validation_rows_are_kept(tmp_path: Path):
    for part, count in (("train", 12), ("test", 6), ("val", 3)):
        folder_of_pictures(tmp_path / "p" / part, count)
    made = make_blocks(tmp_path / "p", tmp_path / "b", size=4)
    same(made, load(tmp_path / "p", size=4))
    assert made.validation is not None and made.train.take(torch.tensor([0])).x.shape == (1, 1, 4, 4)


def test_arrays_are_written_with_their_columns_mapped_or_not(tmp_path: Path):
    arrays: dict[str, Any] = {"x": np.random.default_rng(1).integers(256, size=(40, 5, 6, 3), dtype=np.uint8)}
    arrays |= {"y": np.arange(40) % 4, "domain": np.array(["ink", "oil"] * 20), "time": np.arange(40.0)}
    whole = load(arrays, seed=2)
    same(make_blocks(arrays, tmp_path / "one", seed=2), whole)
    np.save(tmp_path / "x.npy", arrays["x"])
    mapped = {**arrays, "x": np.load(tmp_path / "x.npy", mmap_mode="r", allow_pickle=False)}
    same(make_blocks(mapped, tmp_path / "two", seed=2), whole)
    same(load(mapped, seed=2), whole)
    assert set(whole.columns) == {"domain", "time"} and "channels were last" in whole.note
    four = dict(zip(("x_train", "y_train", "x_test", "y_test"), (mapped["x"], arrays["y"]) * 2, strict=True))
    same(make_blocks(four, tmp_path / "four"), load({k: np.array(v) for k, v in four.items()}))


def tokens(count: int = 30) -> Source:
    """Rows of one to five tokens."""
    lengths = torch.arange(count) % 5 + 1
    ids = torch.arange(int(lengths.sum()), dtype=torch.int32)
    rows = TokenRows(Ragged({"input_ids": ids, "token_type_ids": ids % 2}, lengths.cumsum(0)), torch.arange(count) % 3)
    return Source("words", rows, rows, ("a", "b", "c"))


def test_tokens_are_mapped_and_padded_like_those_in_memory(tmp_path: Path):
    source = tokens()
    made = make_blocks(source, tmp_path / "b")
    same(made, source)
    assert isinstance(made.train, TokenRows) and torch.equal(made.train.lengths, source.train.lengths)  # pyright: ignore
    same(without_test_rows(made, share=0.2), without_test_rows(source, share=0.2))


# ------------------------------------------------------------------------------------------------------ whole or not at all


def made_of_many_pieces(place: Path) -> Path:
    x = torch.randint(256, (300, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    make_blocks((x, torch.arange(300) % 3), place, test_share=1 / 3)
    return place


def test_a_flipped_byte_is_named_before_its_row_is_used(tmp_path: Path):
    place = made_of_many_pieces(tmp_path / "b")
    size = 3 * 64 * 64
    at = blocks.PIECE + 5 * size
    with (place / "train.x").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))
    rows = load(place).train
    near = at // size
    far = torch.arange(blocks.PIECE // size)
    assert len(rows.take(far)) == len(far), "rows of other pieces are read"
    with pytest.raises(
        BadData, match=r"train\.x: of bytes 1,048,576 to 2,097,151 \(rows 85 to 170\).* make the blocks again"
    ):
        rows.take(torch.tensor([0, near + 1]))
    with pytest.raises(BadData, match=r"train\.x"):
        rows.take(torch.tensor([near]))


@pytest.mark.parametrize("name", ["train.y", "test.y", "blocks.json"])
def test_what_is_read_at_once_is_checked_at_once(name: str, tmp_path: Path):
    place = made_of_many_pieces(tmp_path / "b")
    raw = bytearray((place / name).read_bytes())
    for at in range(0, len(raw), max(1, len(raw) // 40)):
        changed = bytearray(raw)
        changed[at] ^= 4
        (place / name).write_bytes(changed)
        with pytest.raises(BadData, match=name):
            load(place)
    (place / name).write_bytes(raw[:-1])
    with pytest.raises(BadData, match=name):
        load(place)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.parametrize("at", ["a row", "the manifest", "the name"])
def test_a_crash_leaves_nothing_that_is_read(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source, place = folder_of_pictures(tmp_path / "pictures"), tmp_path / "blocks"
    child = os.fork()
    if not child:
        from nacre.data import block_making, images

        left = iter(range(5 if at == "a row" else 10**6))
        read = images.read_picture
        images.read_picture = lambda *told: read(*told) if next(left, None) is not None else os._exit(9)
        if at != "a row":
            name = "write_bytes" if at == "the manifest" else "sync"
            monkeypatch.setattr(block_making, name, lambda *told: os._exit(9))
        try:
            make_blocks(source, place)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, "it was to die half-way"
    new = place.with_name("blocks.new")
    assert not place.exists() and any(new.iterdir())
    for left_behind in (place, *([new] if at != "the name" else [])):
        with pytest.raises(BadData):
            load(left_behind)
    same(make_blocks(source, place), load(source))
    assert not new.exists()


def test_a_picture_that_cannot_be_read_leaves_nothing(tmp_path: Path):
    source = folder_of_pictures(tmp_path / "pictures")
    (source / "b" / "004.png").write_bytes(b"none")
    with pytest.raises(BadData, match=r"004\.png"):
        make_blocks(source, tmp_path / "blocks")
    assert [p.name for p in tmp_path.iterdir()] == ["pictures"]


# ---------------------------------------------------------------------------------------------------------- runs and memory


def test_the_digest_of_chosen_rows_is_of_their_places(tmp_path: Path):
    rows = load(made_of_many_pieces(tmp_path / "b")).train
    assert isinstance(rows, BlockRows)
    odd, even = (rows.chosen(torch.arange(first, len(rows), 2)) for first in (1, 0))
    assert len({rows.written(), odd.written(), even.written()}) == 3
    assert torch.equal(odd.chosen(torch.tensor([2])).take(torch.tensor([0])).x, rows.take(torch.tensor([5])).x)


DER = {"methods": [{"name": "DER", "rows": 8}], "epochs": 2, "batch_size": 16}
READ_OUT = {"methods": [{"name": "SimpleCIL"}]}  # of features that are taken once


@pytest.mark.parametrize(("tested_on", "stage"), [("test", DER), ("validation", DER), ("validation", READ_OUT)])
def test_a_run_over_blocks_is_bit_equal_to_one_over_memory(tested_on: str, stage: dict[str, Any], tmp_path: Path):
    source = tmp_path / "data.npz"
    np.savez(source, **pictures())  # pyright: ignore[reportArgumentType]
    make_blocks(source, tmp_path / "blocks")
    ended = {}
    for place in (source, tmp_path / "blocks"):
        told = {"source": str(place), "tested_on": tested_on}
        run = config(
            "stream.tasks=3", f"backbone.augment={'flip' if stage is DER else 'none'}", stage=[stage], data=told
        )
        record = Experiment(run).run(tmp_path / f"run {place.stem}")
        files = sorted((tmp_path / f"run {place.stem}" / "export").rglob("*.safetensors"))
        result = record.results[0]
        ended[place] = [result.matrix, result.curves, [file.read_bytes() for file in files]]
        assert files
    assert ended[source] == ended[tmp_path / "blocks"]


MEASURED = """
import sys
from pathlib import Path
import torch
from nacre.data import load, make_blocks
from nacre.core.rows import batches
from nacre.metrics import peak_memory
torch.set_num_threads(1)

def peak():
    return peak_memory() / 2**20

source, place = Path(sys.argv[1]), Path(sys.argv[2])
for part in ("a", "b"):
    make_blocks(source / "few", place / part)  # whatever is imported and allocated once
    load(place / part).train.take(torch.arange(4))
began = peak()
make_blocks(source / "many", place / "many")
made = peak()
rows = load(place / "many").train
total = sum(int(batch.x[:, 0, 0, 0].sum()) for batch in batches(rows, 16, torch.randperm(len(rows))))
read = peak()
whole = load(source / "many").train
print(made - began, read - began, peak() - began, rows.x.nbytes / 2**20, total)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what peak memory counts differs between systems")
def test_memory_stays_flat_while_blocks_are_made_and_read(tmp_path: Path):
    rows = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
    for name, count in (("few", 6), ("many", 600)):
        for k in range(count):
            path = tmp_path / name / "ab"[k % 2] / f"{k}.ppm"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"P6 256 256 255\n" + np.roll(rows, k).tobytes())
    told = [sys.executable, "-c", MEASURED, str(tmp_path), str(tmp_path / "blocks")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(nacre.__file__).parents[1])}
    said = subprocess.run(told, env=environment, capture_output=True, text=True, check=True).stdout
    made, read, whole, size, _ = map(float, said.split())
    assert size > 85, "MiB on disk"
    assert made < 16 and read < 40, said
    assert whole > size, "in memory it shows"
