"""Another process, which knows nothing of this one but files, carries runs on: what only memory holds is missing there.

Run as `python -m nacre.checks.again` it reads one job a line and writes one answer a line.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..core.method import compose
from ..learner import Learner
from .partners import Rebuilds
from .runs import learner, resumed
from .worlds import SEED, VECTORS, seeded

Origin = tuple[str, int]
_ANSWER = "answer "
_workers: list[subprocess.Popen[str]] = []


def made(origin: Origin) -> Learner:
    """A fresh learner of the part at this place, composed with one that changes the structure."""
    return learner(compose(part_at(origin), Rebuilds()))


def part_at(origin: Origin) -> Any:
    """The part: number `origin[1]` of the examples of the class `module:Class`."""
    module, _, name = origin[0].partition(":")
    kind: Any = import_module(module)
    for step in name.split("."):
        kind = getattr(kind, step)
    return next(islice(kind.examples(), origin[1], None))


def carried_on(origin: Origin, place: Path, to: Path) -> Any:
    """The end of a run that another process carries on from a checkpoint.

    Raises:
        RuntimeError: it could not; the message says why.
    """
    worker = _worker()
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write(
        json.dumps({"origin": origin, "place": str(place), "to": str(to), "path": sys.path, "seed": SEED.get()}) + "\n"
    )
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith(_ANSWER):
            said = line.removeprefix(_ANSWER).strip()
            if said:
                raise RuntimeError(f"in another process: {said}")
            return checkpoint.load(to)
    raise RuntimeError("the other process died")


def _worker() -> subprocess.Popen[str]:
    """The process, started when it is first needed and ended with this one."""
    if not _workers or _workers[-1].poll() is not None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve()"
        worker = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        _workers.append(worker)
        atexit.register(_end, worker)
    return _workers[-1]


def _end(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.close()
    worker.stdout.close()
    worker.wait(30)


def serve() -> None:
    """Do the jobs that come in until there are no more."""
    torch.set_num_threads(1)
    for line in sys.stdin:
        job = json.loads(line)
        sys.path[:] = job["path"]
        said = ""
        try:
            with seeded(job["seed"]):
                _, end = resumed(Path(job["place"]), made((job["origin"][0], job["origin"][1])), VECTORS.stream())
            checkpoint.save(job["to"], end)
        except Exception as error:
            said = f"{type(error).__name__}: {error}".replace("\n", " ")
        print(_ANSWER + said, flush=True)
