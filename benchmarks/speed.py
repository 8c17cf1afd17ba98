"""What a method costs beside a loop written by hand: training and evaluation, one thread, on the CPU.

    python benchmarks/speed.py PEERS [--rounds 12]

PEERS is a folder with `plain_loop.py`, a hand-written loop over tensors, and `_common.py`, its data and clock: 60,000 rows of
28x28 in five tasks of two classes, a perceptron 784-400-400-10, SGD 0.05, batches of 64, one epoch a task. Nothing of it is
copied here: the script runs as it is, in a thread that is let go for a block of optimizer steps at a time. In turns with it,
in the same process, `Learner` trains on the same task and `score` evaluates the same tests (in batches of 500, as is usual
here; of 256 there), so that whatever else the machine does meets both. Training is everything between two evaluations: steps,
what a method does when a task begins and when it ends; its ratio is that of one task, the median and quartiles over all tasks
and rounds. The ratio of blocks of steps alone is held to the same limit: where a task ends, EWC here takes its Fisher
information of 200 rows, one at a time, and the plain loop of all batches of the task, which costs it more. Times are the
processor time of each side's thread.

Claims held here: training with naive, replay and DER++ takes at most x1.10 of the plain loop, EWC at most x1.10 of the loop
with all tasks' penalties folded into one (`--fold`), evaluation at most x1.2. The ratio to the unfolded form is told beside,
and that of Avalanche where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import math
import os
import platform
import runpy
import statistics
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from time import thread_time
from typing import Any, ClassVar

import torch
from machine import cpu
from torch.optim.optimizer import register_optimizer_step_post_hook

from nacre.backbones import Classifier, backbone
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.data import Source
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, DERpp
from nacre.metrics import score
from nacre.streams import split

RESULT = Path(__file__).parent / "results" / "speed.json"
TRAINING, EVALUATION = 1.10, 1.20  # at most so many times the plain loop
BLOCK = 10  # optimizer steps
TASKS, CLASSES, MEMORY, BATCH, TESTED, RATE = 5, 10, 500, 64, 500, 0.05


@dataclass(frozen=True)
class Arm:
    """One comparison.

    Attributes:
        make: Our method.
        peer: What the plain loop is told.
        limit: How many times its time training may take; None = only told.
        other: What Avalanche's script is told, where it is a comparison of its own.
    """

    make: Callable[[], Method]
    peer: tuple[str, ...]
    limit: float | None = TRAINING
    other: tuple[str, ...] = ()


def _memory() -> Reservoir:
    return Reservoir(capacity=MEMORY)


NAIVE = ("--method", "naive")
REPLAY = ("--method", "replay")
DERPP = ("--method", "derpp")
UNFOLDED = ("--method", "ewc")
FOLDED = (*UNFOLDED, "--fold")
ARMS = {
    "naive": Arm(Method, NAIVE, other=NAIVE),
    "replay": Arm(lambda: ER(rows=BATCH, wait=1, memory=_memory()), REPLAY, other=REPLAY),
    "DER++": Arm(lambda: DERpp(strength=0.1, labels=0.5, rows=BATCH, memory=_memory()), DERPP, other=DERPP),
    "EWC, to the folded loop": Arm(lambda: EWC(strength=1.0, how="gradient"), FOLDED, other=UNFOLDED),
    "EWC, to the unfolded loop": Arm(lambda: EWC(strength=1.0, how="gradient"), UNFOLDED, None),
    "EWC as a loss term, to the folded loop": Arm(lambda: EWC(strength=1.0, how="loss"), FOLDED, None),
}


class Turns:
    """A thread that only works when it is told to: up to the next pause, every `BLOCK` optimizer steps or where a phase ends.

    What it takes is its own processor time, so nothing that happens between two of its turns counts. Both sides are such
    threads: memory is handed out to each in the same way, and each finds the global generator as it left it.
    """

    here: ClassVar[Turns | None] = None  # the one whose turn it is
    accuracy: float

    def __init__(self, work: Callable[[Turns], None]):
        self.go: SimpleQueue[None] = SimpleQueue()
        self.paused: SimpleQueue[str | BaseException] = SimpleQueue()
        self.steps, self.since, self.seconds = 0, 0.0, 0.0
        self.dice = torch.get_rng_state()
        self.thread = threading.Thread(target=self._work, args=(work,), daemon=True)
        self.thread.start()
        self.turn()

    def turn(self) -> tuple[str, float, int]:
        """Let it work up to its next pause: what it paused at, its seconds, the optimizer steps it took."""
        Turns.here, steps = self, self.steps
        outer = torch.get_rng_state()
        torch.set_rng_state(self.dice)
        self.go.put(None)
        met = self.paused.get()
        self.dice = torch.get_rng_state()
        torch.set_rng_state(outer)
        if isinstance(met, BaseException):
            raise met
        return met, self.seconds, self.steps - steps

    def pause(self, what: str) -> None:
        """Called by the thread itself: wait for the next turn."""
        self.seconds = thread_time() - self.since
        self.paused.put(what)
        self.go.get()
        self.since = thread_time()

    def _work(self, work: Callable[[Turns], None]) -> None:
        self.go.get()
        self.since = thread_time()
        try:
            work(self)
            self.paused.put("end")
        except BaseException as error:
            self.paused.put(error)

    @staticmethod
    def stepped(*_: Any) -> None:
        """Hears every step of every optimizer."""
        if (mine := Turns.here) is not None:
            mine.steps += 1
            if mine.steps % BLOCK == 0:
                mine.pause("steps")


class Script(Turns):
    """A script of the peers: what it calls a phase ends where it stops its clock."""

    def __init__(self, clock: Any, path: Path, told: tuple[str, ...]):
        self.accuracy, plain, outer = math.nan, clock.Timer, self

        class Watch(plain):
            def stop(self, phase: str) -> None:
                super().stop(phase)
                outer.pause(phase)

            def report(self, peer: str, args: Any, acc: list[float], **rest: Any) -> None:
                outer.accuracy = statistics.fmean(map(float, acc))

        def work(_: Turns) -> None:
            with contextlib.redirect_stdout(io.StringIO()):
                runpy.run_path(str(path))

        argv, clock.Timer, sys.argv = sys.argv, Watch, [str(path), *told]
        try:
            super().__init__(work)  # works through its setup
        finally:
            clock.Timer, sys.argv = plain, argv


class Ours(Turns):
    """The library on the same rows."""

    def __init__(self, source: Source, method: Method, seed: int):
        self.accuracy = math.nan

        def work(_: Turns) -> None:
            torch.manual_seed(seed)
            body = backbone("mlp:784-400-400", seed=seed)
            model = Classifier(body, GrowingLinear(body.width, classes=CLASSES, seed=seed))
            stage = Stage(method, MadeOptimizer("sgd", RATE), batch_size=BATCH)
            learner = Learner(model, (stage,), seed=seed)
            stream = split(source, TASKS, order="given")
            tests = {name: rows for i in range(TASKS) for name, rows in stream[i].tests.items()}
            self.pause("setup")
            for _met in learner.learn(stream):
                self.pause("train")
                self.accuracy = statistics.fmean(score(learner.predict, rows, size=TESTED) for rows in tests.values())
                self.pause("eval")

        super().__init__(work)


def measured(make: dict[str, Callable[[int], Turns]], rounds: int) -> dict[str, Any]:
    """Run several sides through all tasks in turns; the first is what the others are compared with."""
    names = list(make)
    spent: dict[str, dict[str, list[float]]] = {n: {kind: [] for kind in ("train", "block", "eval")} for n in names}
    accuracy: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        sides = {name: make[name](turn) for name in names}
        for task in range(TASKS):
            for phase in ("train", "eval"):
                parts = in_turns(sides, phase)
                if turn or task:  # the very first warms up
                    for name, seconds in parts.items():
                        spent[name][phase].append(sum(seconds))
                        spent[name]["block"] += seconds[:-1]
        for name, side in sides.items():
            side.turn()
            accuracy[name].append(side.accuracy)
    told: dict[str, Any] = {}
    for name in names:
        told[name] = {"accuracy": round(statistics.fmean(accuracy[name]), 4)}
        for kind, seconds in spent[name].items():
            told[name][kind] = {"milliseconds": round(1000 * statistics.median(seconds), 2)}
            if name != names[0]:
                ratios = [a / b for a, b in zip(seconds, spent[names[0]][kind], strict=True)]
                low, middle, high = statistics.quantiles(ratios, n=4)
                told[name][kind] |= {"ratio": round(middle, 3), "quartiles": [round(low, 3), round(high, 3)]}
    return told


def in_turns(sides: dict[str, Turns], phase: str) -> dict[str, list[float]]:
    """Let each side work through a phase, block by block in turns; the seconds of each block."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    order, going = list(sides), dict.fromkeys(sides, True)
    while any(going.values()):
        for name in order:
            if going[name]:
                at, taken, _ = sides[name].turn()
                seconds[name].append(taken)
                going[name] = at != phase
        order.reverse()
    return seconds


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", type=Path, help="the folder of plain_loop.py")
    parser.add_argument("--rounds", type=int, default=12, help="passes through the five tasks, for each comparison")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS, metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(args.peers.resolve()))
    clock: Any = importlib.import_module("_common")
    clock.make_data = functools.cache(clock.make_data)
    (x, y), (tx, ty) = clock.make_data()
    train, test = (TensorRows(torch.from_numpy(a)[:, None], torch.from_numpy(b)) for a, b in ((x, y), (tx, ty)))
    source = Source("blurred prototypes", train, test, tuple(map(str, range(CLASSES))))
    avalanche = find_spec("avalanche") is not None

    register_optimizer_step_post_hook(Turns.stepped)
    figures: dict[str, Any] = {}
    for name in args.arms:
        arm = ARMS[name]
        sides: dict[str, Callable[[int], Turns]] = {
            "plain": lambda turn, arm=arm: Script(
                clock, args.peers / "plain_loop.py", (*arm.peer, "--seed", str(turn))
            ),
            "nacre": lambda turn, arm=arm: Ours(source, arm.make(), turn),
        }
        if avalanche and arm.other:
            sides["avalanche"] = lambda turn, arm=arm: Script(
                clock, args.peers / "avalanche_split.py", (*arm.other, "--seed", str(turn))
            )
        figures[name] = measured(sides, args.rounds)
        print(name, json.dumps(figures[name]), flush=True)

        keep(args, figures, "in the table" if avalanche else "not installed on this machine, so not in the table")


def keep(args: argparse.Namespace, figures: dict[str, Any], avalanche: str) -> None:
    """Write what was measured so far, and say which claims hold."""
    claims: dict[str, Any] = {}
    for name, told in figures.items():
        limit = ARMS[name].limit
        for kind, most in (("train", limit), ("block", limit), ("eval", EVALUATION)):
            if most is not None:
                ratio = told["nacre"][kind]["ratio"]
                claims[f"{name}, {kind}"] = {"ratio": ratio, "at_most": most, "holds": ratio <= most}
    result = {
        "about": "Training and evaluation beside a hand-written loop, in turns with it, one thread.",
        "command": f"python benchmarks/speed.py PEERS --rounds {args.rounds}",
        "pairs": f"{TASKS * args.rounds - 1} of each phase, after one that warms up; seeds 0 to {args.rounds - 1}",
        "figures of": f"'train': a task from its beginning to its end; 'block': {BLOCK} steps; 'eval': all tests once",
        "machine": {
            "cpu": cpu(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
            "load": [round(value, 1) for value in os.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch", "numpy")}},
        "avalanche": avalanche,
        "claims": claims,
        "figures": figures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for claim, told in claims.items():
        print(f"{claim}: x{told['ratio']} (at most x{told['at_most']}): {'holds' if told['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
