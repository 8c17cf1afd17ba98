"""What streams cost: rows seen through a map, and a step in task 100 beside one in task 2.

    python benchmarks/stream_cost.py FOLDER_OF_MNIST

Claims held here, on one thread:

- in batches of 64 and 500, permuted and turned rows (28x28, uint8) take at most 5 microseconds a row more than plain ones, and
  rows turned smoothly, which mix four pixels each, at most 10; batches of 10 are measured, and nothing is claimed of them;
- on a permuted stream with a fixed head (domain-incremental), a step in task 100 takes at most 1.05 times one in task 2, for
  fine-tuning, replay and EWC, the median of 200 blocks that take turns;
- over 200 such tasks the peak memory of the process stays flat, at most 1.05 times what it was after 20 of them.

Two models stand in two tasks of one stream: one learned task 1, the other tasks 1 to 99, a few steps each. Then both step in
turns, blocks of 5 steps, on batches of 64 rows. Times are processor time; a ratio is that of the medians over blocks.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from itertools import count
from pathlib import Path
from time import process_time
from typing import Any

import torch
from machine import cpu

from nacre.backbones import Classifier, backbone
from nacre.core.drive import Drive
from nacre.core.method import Method
from nacre.core.rows import Batch, Rows
from nacre.data import load
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC
from nacre.metrics import forget_peak, peak_memory
from nacre.streams import stream

RESULT = Path(__file__).parent / "results" / "stream_cost.json"
BLOCKS, STEPS, BATCH = 200, 5, 64
EARLY, LATE, LENGTH = 1, 99, 200  # tasks 2 and 100 of 200, counted from 0
SETTLED = 20  # tasks, after which the allocator has all that it needs
ROWS = 50  # EWC's, a task
FEW = {"each pixel from one": 5.0, "from four": 10.0}  # microseconds a row
FLAT = 1.05
SIZES = (10, 64, 500)

METHODS: dict[str, Callable[[], Method]] = {
    "fine-tuning": Method,
    "replay": lambda: ER(rows=64, memory=Reservoir(capacity=1000)),
    "importance": lambda: EWC(rows=ROWS, strength=10.0),
}


def seconds(work: Callable[[], Any], times: int) -> float:
    """Processor time of doing it so often."""
    since = process_time()
    for _ in range(times):
        work()
    return process_time() - since


def taken(data: Any) -> dict[str, Any]:
    """Microseconds a row, by map and size of the batch, in blocks that take turns."""
    arms: dict[str, Rows] = {"plain": stream("class-incremental", data, tasks=1)[0].task.train}
    arms["permuted"] = stream("permuted", data, tasks=2)[1].task.train
    arms["permuted, padded to 32x32"] = stream("permuted", data, tasks=2, pad=2)[1].task.train
    arms["turned"] = stream("rotated", data, angles=[33.0])[0].task.train
    arms["turned, smooth"] = stream("rotated", data, angles=[33.0], smooth=True)[0].task.train
    figures: dict[str, Any] = {}
    for size in SIZES:
        index = torch.randperm(len(data.train))[:size]
        spent: dict[str, list[float]] = {name: [] for name in arms}
        for _ in range(60):
            for name, rows in arms.items():
                spent[name].append(seconds(partial(rows.take, index), 20) / 20)
        medians = {name: 1e6 * statistics.median(held) / size for name, held in spent.items()}
        more = {name: round(value - medians["plain"], 3) for name, value in medians.items() if name != "plain"}
        figures[f"{size} rows"] = {
            "microseconds_a_row": {n: round(v, 3) for n, v in medians.items()},
            "more_than_plain": more,
        }
    return figures


class Standing:
    """A model in the middle of a task, on which it can be made to step."""

    def __init__(self, tasks: Any, method: Method, upto: int, stack: ExitStack):
        torch.manual_seed(0)
        body = backbone("mlp:784-400-400")
        self.model, self.method = Classifier(body, GrowingLinear(body.width)), method
        for index in range(upto):
            with self._drive(tasks[index].task) as drive:
                for batch, _ in zip(self._batches(drive), range(3), strict=False):
                    self._step(drive, batch)
        self.drive = stack.enter_context(self._drive(tasks[upto].task))
        self.batches = self._batches(self.drive)

    def block(self) -> float:
        """Processor time of some steps."""
        since = process_time()
        for _ in range(STEPS):
            self._step(self.drive, next(self.batches))
        return process_time() - since

    def _drive(self, task: Any) -> Drive:
        return Drive(self.method, self.model, lambda named: torch.optim.SGD(named.values(), lr=0.01), task, seed=0)

    def _batches(self, drive: Drive) -> Iterator[Batch]:
        for epoch in count():
            yield from drive.batches(epoch, BATCH)

    def _step(self, drive: Drive, batch: Batch) -> None:
        drive.optimizer.zero_grad()
        drive.loss(batch).backward()
        drive.optimizer.step()
        drive.stepped()


def stepped(data: Any, make: Callable[[], Method]) -> dict[str, Any]:
    """A step in the late task beside one in the early task."""
    tasks = stream("permuted", data, tasks=LENGTH)
    with ExitStack() as stack:
        early, late = (Standing(tasks, make(), upto, stack) for upto in (EARLY, LATE))
        for one in (early, late):
            for _ in range(5):
                one.block()
        pairs = [(early.block(), late.block()) if k % 2 else (late.block(), early.block())[::-1] for k in range(BLOCKS)]
    medians = [1e6 * statistics.median(column) / STEPS for column in zip(*pairs, strict=True)]
    quartiles = statistics.quantiles([b / a for a, b in pairs])
    return {
        "microseconds_a_step": {"task 2": round(medians[0], 1), "task 100": round(medians[1], 1)},
        "ratio": round(medians[1] / medians[0], 3),
        "quartiles_of_pairs": [round(q, 3) for q in quartiles],
    }


def held(data: Any, make: Callable[[], Method]) -> dict[str, int]:
    """The most bytes that this process ever held, after some of 200 tasks that a learner goes through."""
    body = backbone("mlp:784-400-400")
    stage = Stage(make(), lambda named: torch.optim.SGD(named.values(), lr=0.01), steps=STEPS, batch_size=BATCH)
    learner, found = Learner(Classifier(body, GrowingLinear(body.width)), (stage,)), {}
    forget_peak()  # reading the data needed more than is held of them
    for met in learner.learn(stream("permuted", data, tasks=LENGTH)):
        if met.task.index + 1 in (2, SETTLED, 100, LENGTH):
            found[f"task {met.task.index + 1}"] = peak_memory()
    return found


def held_alone(folder: Path, name: str) -> dict[str, Any]:
    """The same in a process of its own: what others needed before is no part of its peak."""
    told = subprocess.run(
        [sys.executable, __file__, str(folder), "--hold", name], check=True, capture_output=True, text=True
    )
    found = json.loads(told.stdout)
    return {"peak_rss": found, "ratio": round(found[f"task {LENGTH}"] / found[f"task {SETTLED}"], 3)}


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the four files of MNIST")
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--hold", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = load(args.data)
    if args.hold:
        print(json.dumps(held(data, METHODS[args.hold])))
        return
    take = taken(data)
    steps = {name: stepped(data, make) for name, make in METHODS.items()}
    flat = {name: held_alone(args.data, name) for name in METHODS}
    mapped = [pair for size in SIZES[1:] for pair in take[f"{size} rows"]["more_than_plain"].items()]
    worst = {kind: max(v for name, v in mapped if ("smooth" in name) == (kind == "from four")) for kind in FEW}
    claims = {
        **{
            f"microseconds a row more than plain, {kind}": {"is": is_, "at_most": FEW[kind], "holds": is_ <= FEW[kind]}
            for kind, is_ in worst.items()
        },
        **{
            f"step of {name}, task 100 over task 2": {"is": f["ratio"], "at_most": FLAT, "holds": f["ratio"] <= FLAT}
            for name, f in steps.items()
        },
        **{
            f"peak memory with {name}, task {LENGTH} over task {SETTLED}": {
                "is": f["ratio"], "at_most": FLAT, "holds": f["ratio"] <= FLAT,
            }
            for name, f in flat.items()
        },
    }  # fmt: skip
    result = {
        "about": "What streams cost: rows seen through a map; a late step beside an early one; memory over 200 tasks.",
        "command": "python benchmarks/stream_cost.py FOLDER_OF_MNIST",
        "machine": {"cpu": cpu(), "threads": 1, "system": platform.system()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch")}},
        "claims": claims,
        "take": take,
        "step": steps,
        "memory": flat,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for claim, told in claims.items():
        print(f"{claim}: {told['is']} (at most {told['at_most']}): {'holds' if told['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
