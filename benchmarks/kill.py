"""A run that is killed again and again ends bit for bit as one that never stopped.

    python benchmarks/kill.py

MIST, EWC and ER composed learn three tasks of digits in 330 steps, with augmentation, momentum, watch sets, and checkpoints by
steps and by seconds. One run is left alone. The other is ended by SIGKILL at 25 random moments, and resumed each time in a
process of its own: some right after a step, some at a random time after one (also while tests are scored), some inside the
writing of a checkpoint, before a chosen operation on files or with half a file written. In the end weights, state,
predictions, record and curves are compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import nacre.checkpoint as checkpoint
from nacre.core.run import Run
from nacre.data import load as load_data
from nacre.experiment import Config, Experiment, Observer, load

RESULT = Path(__file__).parent / "results" / "kill.json"
TASKS, STEPS, KILLS = 3, 110, 25
KINDS = ("step", "time", "save", "torn")
OPERATIONS = 26  # on files, that writing a checkpoint takes, with the deletion of an old one
FILE_EVENTS = ("open", "os.", "shutil.")


def config(steps: int) -> Config:
    """The run: three tasks of so many steps."""
    stage = {
        "methods": [
            {"name": "MIST", "objective_of": "stage", "batch": 64},
            {"name": "EWC", "rows": 20},
            {"name": "ER", "rows": 8, "memory": {"name": "ClassBalanced", "capacity": 60}},
        ],
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        "steps": steps,
        "batch_size": 16,
    }
    return Config.of(
        {
            "run": {"name": "killed", "threads": 1, "save_every": 7, "save_seconds": 0.1},
            "stream": {"tasks": TASKS},
            "backbone": {"source": "mlp:64-32-16", "augment": "shift"},
            "stage": [stage],
            "watch": {"every": 10, "rows": 20},
        }
    )


@dataclass
class Doom(Observer):
    """Ends the process it works in.

    Attributes:
        kind: "step": right after a step. "time": some milliseconds later. "save": in a checkpoint, before an operation on
            files. "torn": in a checkpoint, with a file half written.
        after: How many steps of the whole run come before.
        number: Which millisecond, operation or file.
    """

    kind: str
    after: int
    number: int

    def __post_init__(self) -> None:
        self.armed = False

    def stepped(self, learner: Any, loss: Tensor) -> None:
        if self.armed or sum(learner.clocks) < self.after:
            return
        self.armed = True
        if self.kind == "step":
            die()
        if self.kind == "time":
            threading.Timer(self.number / 1000, die).start()

    def save_begins(self, trial: Any) -> None:
        if not self.armed:
            return
        if self.kind == "save":
            sys.addaudithook(self._hear)
        elif self.kind == "torn":
            write, save = checkpoint.write_bytes, checkpoint.write_tensors
            torn = self.number % 3

            def half(path: Path, content: bytes) -> None:
                if path.name == (checkpoint.STATE, checkpoint.MANIFEST, "")[torn]:
                    path.write_bytes(content[: len(content) // 2])
                    die()
                write(path, content)

            def half_tensors(tensors: Any, path: Path) -> None:
                save(tensors, path)
                if torn == 2:
                    os.truncate(path, path.stat().st_size // 2)
                    die()

            checkpoint.write_bytes, checkpoint.write_tensors = half, half_tensors

    def _hear(self, event: str, _: Any) -> None:
        if event.startswith(FILE_EVENTS) and event != "os.kill":
            self.number -= 1
            if self.number < 0:
                die()


def die() -> None:
    """End this process as the system would when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def work(out: Path, begun: Config, doom: Doom | None) -> int:
    """Run or resume in a process of its own; how it ended."""
    child = os.fork()
    if not child:
        try:
            hears = () if doom is None else (doom,)
            there = (out / "config.toml").is_file()
            Experiment(begun).resume(out, *hears) if there else Experiment(begun).run(out, *hears)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dooms(kills: int, steps: int, seed: int) -> list[Doom]:
    """When and how the run is killed: every way as often, the moments in the order of the run."""
    draw = random.Random(seed)
    moments = sorted(draw.sample(range(1, TASKS * steps - 8), kills))
    kinds = [KINDS[i % len(KINDS)] for i in range(kills)]
    draw.shuffle(kinds)
    ranges = {"step": 1, "time": 60, "save": OPERATIONS, "torn": 3}
    return [Doom(kind, after, draw.randrange(ranges[kind])) for kind, after in zip(kinds, moments, strict=True)]


def newest(out: Path) -> Any:
    """The last checkpoint of a run, without what is measured."""
    saved = checkpoint.load(max((out / "checkpoints" / "seed-0").iterdir()))
    for key in ("seconds", "peak"):
        del saved["record"][key]
    return saved


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same values, tensors bit for bit."""
    if isinstance(one, Tensor):
        alike = isinstance(other, Tensor) and one.dtype == other.dtype and one.shape == other.shape
        return alike and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def compared(whole: Path, killed: Path) -> dict[str, bool]:
    """What is the same in two runs."""
    one, other = newest(whole), newest(killed)
    runs = [Run.load(place).repeatable() for place in (whole, killed)]
    rows = load_data("digits", seed=0).test.x
    return {
        "weights": same(one["learner"]["model"], other["learner"]["model"]),
        "state of methods and optimizer": same(one["learner"], other["learner"]),
        "record in the checkpoint": same(one["record"], other["record"]),
        "predictions": same(load(whole).scores(rows), load(killed).scores(rows)),
        "curves": same(runs[0]["curves"], runs[1]["curves"]),
        "run.json": same(*runs),
    }


def main() -> None:
    """Run both, compare them, and write the figures down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, help="how often the run is killed")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps a task")
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--result", type=Path, default=RESULT, help="the file that the figures go to")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    load_data("digits", seed=0)  # what it imports, no child needs to import
    place, begun, since = Path(tempfile.mkdtemp()), config(asked.steps), time.perf_counter()
    try:
        ended = [work(place / "whole", begun, None)]
        plan = dooms(asked.kills, asked.steps, asked.seed)
        told = [asdict(doom) for doom in plan]
        ended += [work(place / "killed", begun, doom) for doom in plan]
        ended.append(work(place / "killed", begun, None))
        if ended[0] or ended[-1]:
            raise SystemExit("a run that nobody killed failed")
        equal = compared(place / "whole", place / "killed")
    finally:
        shutil.rmtree(place)
    killed = ended[1:-1].count(-signal.SIGKILL)
    result = {
        "about": f"A run of {TASKS * asked.steps} steps over {TASKS} tasks, killed and resumed; is everything bit-equal?",
        "command": "python benchmarks/kill.py",
        "machine": {"system": f"{platform.system()} {platform.machine()}", "threads": 1},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("nacre", "torch")}},
        "steps": TASKS * asked.steps,
        "killed": killed,
        "ways": dict(Counter(doom["kind"] for doom in told)),
        "equal bit for bit": equal,
        "holds": killed == asked.kills and all(equal.values()),
        "seconds": round(time.perf_counter() - since, 1),
        "kills": told,
    }
    asked.result.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "kills"}, indent=1))
    sys.exit(0 if result["holds"] else 1)


if __name__ == "__main__":
    main()
