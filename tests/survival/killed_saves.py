"""A process of its own: writes a checkpoint over another, killed before each operation on files, and says what was left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from nacre import checkpoint
from nacre.core.errors import BadCheckpoint

OLD, NEW = {"step": 1, "w": torch.zeros(500)}, {"step": 2, "w": torch.ones(500), "more": "x" * 3000}


def killed(save: Callable[[Path], None], place: Path, before: int) -> bool:
    """Save in a forked process, which ends before operation number `before`; whether there are so many."""
    child = os.fork()
    if not child:
        left = before

        def hear(event: str, _: object) -> None:
            nonlocal left
            if event.startswith(("open", "os.", "shutil.", "torn")) and event != "os.kill":
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        write, tensors = checkpoint.write_bytes, checkpoint.write_tensors

        def half(path: Path, content: bytes) -> None:
            path.write_bytes(content[: len(content) // 2])
            sys.audit("torn")
            write(path, content)

        def half_tensors(held: dict[str, torch.Tensor], path: Path) -> None:
            tensors(held, path)
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2])
            sys.audit("torn")
            path.write_bytes(whole)

        checkpoint.write_bytes, checkpoint.write_tensors = half, half_tensors
        sys.addaudithook(hear)
        try:
            save(place)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def found(place: Path) -> str:
    """Which of the two checkpoints can be read."""
    try:
        held = checkpoint.load(place)
    except BadCheckpoint:
        return "nothing"
    for name, tree in (("old", OLD), ("new", NEW)):
        if held.keys() == tree.keys() and held["step"] == tree["step"] and torch.equal(held["w"], tree["w"]):
            return name
    return "something else"


def through(save: Callable[[Path], None], places: int = 200) -> list[str]:
    """What is left after each place at which the process can die, and after two deaths in a row."""
    left: list[str] = []
    for before in range(places):
        top = Path(tempfile.mkdtemp())
        place = top / "here"
        checkpoint.save(place, OLD)
        died = killed(save, place, before)
        left.append(found(place))
        if before % 3 == 0 and died:  # and again, over what the first one left behind
            killed(save, place, (7 * before) % 40)
            left.append(found(place))
        if left[-1] != "nothing":
            checkpoint.save(place, NEW)
            if found(place) != "new" or len(list(top.iterdir())) > 1:
                left.append("rubbish")
        shutil.rmtree(top)
        if not died:
            break
    return left


def in_place(place: Path) -> None:
    """How not to do it: the old one is deleted first."""
    shutil.rmtree(place, ignore_errors=True)
    checkpoint.save(place, NEW)


if __name__ == "__main__":
    torch.set_num_threads(1)
    ends = through(lambda place: checkpoint.save(place, NEW))
    bad = [end for end in ends if end not in ("old", "new")]
    counts = {"places": len(ends), "old": ends.count("old"), "new": ends.count("new"), "lost": bad}
    print(json.dumps({**counts, "mutant lost": through(in_place, 9).count("nothing")}))
