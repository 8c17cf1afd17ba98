"""A checkpoint gives back what it was given, or says by name why not; what is altered, cut or foreign is never used."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import math
import os
import pickle
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import bits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from torch import Tensor

from nacre import checkpoint
from nacre.checkpoint import FILES, MANIFEST, STATE, TENSORS
from nacre.core import durable
from nacre.core.errors import BadCheckpoint, NotSaved
from nacre.core.tensor_file import KINDS

TREE = {
    "step": 7,
    "name": "ä\udc80",
    "none": None,
    "numbers": [1.5, -0.0, math.inf, True],
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)},
    "pair": (torch.tensor(3), torch.empty(0, 2)),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "here", TREE)
    return tmp_path / "here"


def alike(one: Any, other: Any) -> bool:
    """Equal in type, order of keys and every bit."""
    if isinstance(one, Tensor):
        same_kind = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return same_kind and raw(one) == raw(other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float):
        return isinstance(other, float) and struct.pack(">d", one) == struct.pack(">d", other)
    return type(one) is type(other) and one == other


def raw(t: Tensor) -> bytes:
    return bits(t.contiguous().flatten().view(torch.uint8)) if t.numel() else b""


# ---------------------------------------------------------------------------------------------------------- what goes in


DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64),
]


@some.composite
def tensors(draw: Any) -> Tensor:
    """Any bits in any type and shape, also 0-dim, empty, a view of something larger, or not contiguous."""
    dtype = draw(some.sampled_from(DTYPES))
    shape = draw(some.lists(some.integers(0, 3), max_size=3))
    count = math.prod(shape) * dtype.itemsize
    content = draw(some.binary(min_size=count, max_size=count))
    if dtype is torch.bool:
        content = bytes(b & 1 for b in content)
    t = torch.frombuffer(bytearray(content), dtype=dtype).view(shape) if count else torch.empty(shape, dtype=dtype)
    form = draw(some.sampled_from(["plain", "view", "turned", "parameter"]))
    if form == "view":
        return torch.stack([t, t])[1]
    if form == "parameter" and dtype.is_floating_point:
        return torch.nn.Parameter(t)
    return t.transpose(0, -1) if form == "turned" and t.ndim else t


floats = some.floats() | some.integers(0, 2**64 - 1).map(lambda n: struct.unpack(">d", n.to_bytes(8, "big"))[0])
texts = some.text() | some.text(some.characters(categories=["Cs", "Cc", "Co"]), max_size=3)
plain = some.none() | some.booleans() | some.integers() | floats | texts
keys = texts | some.integers() | some.sampled_from(["tensor", "dict", "list", "..", "/", "a/b", "__metadata__", ""])
trees = some.recursive(
    plain | tensors(),
    lambda inner: (
        some.lists(inner, max_size=4)
        | some.lists(inner, max_size=3).map(tuple)
        | some.dictionaries(keys, inner, max_size=4)
        | inner.map(lambda held: [held, held])  # one tensor under two names
    ),
    max_leaves=12,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trees)
def test_any_tree_comes_back_bit_for_bit(tree: Any):
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # the disk's time is no matter here
        checkpoint.save(Path(folder) / "here", tree)
        assert alike(tree, checkpoint.load(Path(folder) / "here"))


def test_tensors_of_ever_new_sizes_leave_nothing_behind(tmp_path: Path):
    """The writer of safetensors makes a type of ctypes for each size, which is never freed."""

    def types() -> int:
        return sum(type(held) is type(ctypes.Array) for held in gc.get_objects())

    before = types()
    for size in range(40):
        checkpoint.save(tmp_path / "here", {"column": torch.zeros(10_007 + size, dtype=torch.uint8)})
    assert types() == before


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_tensors_of_every_type_and_shape_come_back(tmp_path: Path, kind: torch.dtype):
    held = torch.arange(24).remainder(2).to(kind)
    tree = [held[3:9], held[0], held[:0].view(0, 4), held.view(4, 6).t(), held[:3].expand(2, 3)]
    checkpoint.save(tmp_path / "here", tree)
    assert alike(tree, checkpoint.load(tmp_path / "here"))


def test_what_cannot_be_held_is_named_by_its_path(tmp_path: Path):
    deep: Any = []
    for _ in range(150):
        deep = [deep]
    for tree, said in (
        ({"a": [{1, 2}]}, "/a/0: a checkpoint cannot hold a set"),
        ({"a": torch.ones(2).to_sparse()}, "/a: a checkpoint cannot hold a tensor"),
        ({"a": torch.ones(2, dtype=torch.complex128)}, "/a: a checkpoint cannot hold a tensor of torch.complex128"),
        ({"a": torch.ones(2, device="meta")}, "/a: a checkpoint cannot hold a tensor"),
        ({"a": {(1, 2): 3}}, "/a: a key is a string or a whole number"),
        (print, "the tree: a checkpoint cannot hold a builtin"),
        (deep, "at most 100 levels"),
    ):
        with pytest.raises(TypeError, match=said):
            checkpoint.save(tmp_path / "here", tree)
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- what is altered or cut


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_flipped_bit_of_any_byte_and_any_cut_is_found(place: Path, name: str):
    """One bit of each byte of each file, shorter lengths, and a byte more."""
    path, draw = place / name, random.Random(name)
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << draw.randrange(8)]) + whole[i + 1 :] for i in range(len(whole))]
    for altered in (*flipped, *(whole[:size] for size in range(0, len(whole), 7)), whole[:-1], whole + b" "):
        path.write_bytes(altered)
        with pytest.raises(BadCheckpoint, match=r"manifest.json|has format" if name == MANIFEST else re.escape(name)):
            checkpoint.load(place)
    path.write_bytes(whole)
    assert alike(checkpoint.load(place), TREE)


def test_a_format_without_digests_would_not_see_it(place: Path):
    """The mutant of the test above: the same flips, when nobody compares digests, mostly pass."""
    path = place / TENSORS
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BadCheckpoint):
        checkpoint.load(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "_digest", lambda p: json.loads((place / MANIFEST).read_bytes())["files"][p.name])
        assert not alike(checkpoint.load(place), TREE)


def test_files_that_are_added_missing_or_no_files_are_named(place: Path, tmp_path: Path):
    for name in (MANIFEST, *FILES):
        shutil.copytree(place, tmp_path / "less")
        (tmp_path / "less" / name).unlink()
        with pytest.raises(BadCheckpoint, match=f"is no checkpoint of this version: {name} missing"):
            checkpoint.load(tmp_path / "less")
        (tmp_path / "less" / name).symlink_to(place / name)
        with pytest.raises(BadCheckpoint, match=f"{name} is a link"):
            checkpoint.load(tmp_path / "less")
        (tmp_path / "less" / name).unlink()
        (tmp_path / "less" / name).mkdir()
        with pytest.raises(BadCheckpoint, match=f"{name} is a folder"):
            checkpoint.load(tmp_path / "less")
        shutil.rmtree(tmp_path / "less")
    (place / "note.txt").write_text("hello")
    with pytest.raises(BadCheckpoint, match=r"holds 'note\.txt', a file of 5 bytes"):
        checkpoint.load(place)
    with pytest.raises(BadCheckpoint, match="does not exist"):
        checkpoint.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadCheckpoint, match="is empty"):
        checkpoint.load(tmp_path / "empty")


# --------------------------------------------------------------------------------------------------- what is foreign or hostile


class Opens:
    """A pickle of it runs code when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def sealed(folder: Path, **files: bytes) -> Path:
    """A folder whose manifest fits whatever lies there: what somebody would send who knows the format."""
    folder.mkdir()
    for name in FILES:
        (folder / name).write_bytes(files[name.partition(".")[0]])
    held = {name: checkpoint._digest(folder / name) for name in FILES}
    (folder / MANIFEST).write_bytes(checkpoint._manifest(held))
    return folder


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


EMPTY = header()


def test_pickles_are_refused_by_name_and_never_opened(place: Path, tmp_path: Path):
    trap = tmp_path / "trap"
    torch.save(Opens(trap), tmp_path / "model.pt")
    torch.save(Opens(trap), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for protocol in range(6):
        (tmp_path / f"{protocol}.pkl").write_bytes(pickle.dumps(Opens(trap), protocol))
    for path in (*tmp_path.glob("*.p*"),):
        with pytest.raises(BadCheckpoint, match=r"is no checkpoint but a (pickle|pickled file|zip archive)"):
            checkpoint.load(path)
        content, to = path.read_bytes(), tmp_path / "sealed"
        for files in ({"state": content, "tensors": EMPTY}, {"state": b"null", "tensors": content}):
            with pytest.raises(BadCheckpoint, match="is no part of a checkpoint"):
                checkpoint.load(sealed(to, **files))
            shutil.rmtree(to)
        for name in (MANIFEST, *FILES):  # in the place of a file
            shutil.copytree(place, to)
            (to / name).write_bytes(content)
            with pytest.raises(BadCheckpoint, match=f"{name}, a (pickle|zip archive|file of)"):
                checkpoint.load(to)
            shutil.rmtree(to)
        shutil.copytree(place, to)
        shutil.copy(path, to / path.name)  # beside them
        with pytest.raises(BadCheckpoint, match=f"holds '{path.name}', a (pickle|pickled file|zip archive)"):
            checkpoint.load(to)
        shutil.rmtree(to)
    assert not trap.exists()
    torch.load(tmp_path / "model.pt", weights_only=False)
    assert trap.exists()  # it would have been opened


def test_headers_of_absurd_sizes_are_refused(tmp_path: Path):
    huge = 1 << 62
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    for i, tensors in enumerate(
        [
            (2**63).to_bytes(8, "little"),
            (2**64 - 1).to_bytes(8, "little") + b"{}",
            (10**12).to_bytes(8, "little") + b"{}",
            b"",
            header(a={"dtype": "F32", "shape": [huge], "data_offsets": [0, 4 * huge]}),
            header(a={"dtype": "F32", "shape": [huge, huge, 4], "data_offsets": [0, 0]}),
            header(a={"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}),
            header(a={"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}) + bytes(8),
            header(a={"dtype": "F99", "shape": [1], "data_offsets": [0, 4]}) + bytes(4),
            header(a=one, b=one) + bytes(4),  # two tensors in one place
            header(a=one) + bytes(400),
            header(a=[[[[1]]]]),
        ]
    ):
        place = sealed(tmp_path / str(i), state=b"null", tensors=tensors)
        with pytest.raises(BadCheckpoint, match=TENSORS):
            checkpoint.load(place)


def test_trees_that_nobody_wrote_are_refused(tmp_path: Path):
    one = header(a={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}) + bytes(4)
    for i, (state, tensors) in enumerate(
        [
            (b'{"tensor": "a"}', EMPTY),
            (b'{"tensor": "../../a"}', one),
            (b'{"tensor": ["a"]}', one),
            (b'{"list": [{"tensor": "a"}, {"tensor": "a"}]}', one),
            (b"null", one),  # a tensor that no place in the tree has
            (b"[" * 100_000 + b"]" * 100_000, EMPTY),
            (b'{"list":[' * 50_000 + b"]}" * 50_000, EMPTY),
            (b'{"list":[' * 120 + b"]}" * 120, EMPTY),
            (b"9" * 100_000, EMPTY),
            (b"NaN", EMPTY),
            (b"[1, 2]", EMPTY),
            (b'{"dict": [["a"]]}', EMPTY),
            (b'{"dict": [[["a"], 1]]}', EMPTY),
            (b'{"dict": [["a", 1], ["a", 2]]}', EMPTY),
            (b'{"dict": {"a": 1}}', EMPTY),
            (b'{"tuple": "abc"}', EMPTY),
            (b'{"float": "__import__(\'os\')"}', EMPTY),
            (b'{"list": [], "dict": []}', EMPTY),
            (b'{"class": "os.system"}', EMPTY),
            (b"\xff\xfe", EMPTY),
            (b"", EMPTY),
        ]
    ):
        place = sealed(tmp_path / str(i), state=state, tensors=tensors)
        with pytest.raises(BadCheckpoint, match=f"{STATE}|{TENSORS}"):
            checkpoint.load(place)


def test_manifests_that_name_other_files_are_refused(place: Path, tmp_path: Path):
    (tmp_path / "secret").write_bytes(b"{}")
    secret = checkpoint._digest(tmp_path / "secret")
    good = json.loads((place / MANIFEST).read_bytes())["files"]
    for files in (
        {**good, "../secret": secret},
        {"../secret": secret, TENSORS: good[TENSORS]},
        [STATE, TENSORS],
        None,
        {},
    ):
        (place / MANIFEST).write_bytes(checkpoint._manifest(files))
        with pytest.raises(BadCheckpoint, match=r"a checkpoint is made of state\.json and tensors\.safetensors alone"):
            checkpoint.load(place)
    for entry in (None, 3, {}, {"bytes": "12"}, {"bytes": 10**30, "sha256": ""}):
        (place / MANIFEST).write_bytes(checkpoint._manifest({**good, STATE: entry}))
        with pytest.raises(BadCheckpoint, match=f"{STATE}.* bytes were written"):
            checkpoint.load(place)
    for found in ("nacre-checkpoint-3", "nacre-checkpoint-1", None, 2, ["a"]):
        (place / MANIFEST).write_text(json.dumps({"format": found, "files": good}))
        with pytest.raises(BadCheckpoint, match="this version reads 'nacre-checkpoint-2'"):
            checkpoint.load(place)
    (place / MANIFEST).write_bytes(b" " * (1 << 17))
    with pytest.raises(BadCheckpoint, match=r"manifest\.json, a file of 131072 bytes, was altered"):
        checkpoint.load(place)


# ------------------------------------------------------------------------------------------------- when writing is interrupted


def test_killed_before_any_operation_on_files_a_whole_one_is_there():
    """Every place at which a process can die while it writes; in a process of its own that forks for each."""
    script = Path(__file__).with_name("killed_saves.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["places"] >= 25 and said["lost"] == [] and said["old"] > 10 and said["new"] > 5
    assert said["mutant lost"] > 0  # one that writes in place does lose what was there


def test_a_full_disk_leaves_what_was_there(place: Path, tmp_path: Path):
    """A limit on the size of files: the system itself says no, somewhere inside a file."""
    script = (
        "import resource, sys, torch\n"
        "from nacre import checkpoint\n"
        "from nacre.core.errors import NotSaved\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "for tree in ({'w': torch.ones(100_000)}, {'text': 'x' * 100_000}):\n"
        "    try:\n"
        "        checkpoint.save(sys.argv[1], tree)\n"
        "    except NotSaved as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(place)], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 2 and all("File too large" in line and "free some room on that disk" in line for line in said)
    assert alike(checkpoint.load(place), TREE)
    assert [p.name for p in tmp_path.iterdir()] == ["here"]  # nothing half written takes up room


@pytest.mark.parametrize("step", ["write_bytes", "write_tensors", "sync", "os.replace"])
def test_no_room_at_any_step_leaves_what_was_there(place: Path, step: str, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"nacre.checkpoint.{step}", full)
    with pytest.raises(
        NotSaved, match=r"No space left on device\): free some room on that disk; what was saved before"
    ):
        checkpoint.save(place, {"other": 1})
    monkeypatch.undo()
    assert alike(checkpoint.load(place), TREE)
    checkpoint.save(place, {"other": 1})
    assert checkpoint.load(place) == {"other": 1} and len(list(place.parent.iterdir())) == 1


def test_all_is_on_disk_before_it_takes_its_place(place: Path, monkeypatch: pytest.MonkeyPatch):
    """A crash of the whole machine loses what was not synced: files and their folder before the rename, its folder after."""
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append(("sync", os.fstat(fd).st_ino)), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(("rename", os.stat(a).st_ino)), replace(a, b)))
    checkpoint.save(place.parent / "next", TREE)
    inode = {p.name: p.stat().st_ino for p in (place.parent, place.parent / "next", *(place.parent / "next").iterdir())}
    renamed = done.index(("rename", inode["next"]))
    assert {("sync", inode[name]) for name in ("next", MANIFEST, *FILES)} <= set(done[:renamed])
    assert ("sync", inode[place.parent.name]) in done[renamed:]
    del done[:]
    durable.write_text(place.parent / "note", "kept")
    note = (place.parent / "note").stat().st_ino
    assert done == [("sync", note), ("rename", note), ("sync", inode[place.parent.name])]


def test_digests_are_those_that_other_tools_compute(place: Path):
    held = json.loads((place / MANIFEST).read_bytes())["files"]
    for name in FILES:
        assert held[name] == {
            "bytes": (place / name).stat().st_size,
            "sha256": hashlib.sha256((place / name).read_bytes()).hexdigest(),
        }
