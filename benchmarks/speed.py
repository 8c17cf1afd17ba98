"""What a method costs beside a loop written by hand: training and evaluation, one thread, on the CPU.

    python benchmarks/speed.py PEERS [--rounds 12]

PEERS is a folder with `plain_loop.py`, a hand-written loop over tensors, and `_common.py`, its data and clock: 60,000 rows of
28x28 in five tasks of two classes, a perceptron 784-400-400-10, SGD 0.05, batches of 64, one epoch a task. Nothing of it is
copied here: the script runs as it is, in a thread that is let go one phase at a time, timed by its own clock. In turns with it,
in the same process, `Learner` trains on the same task and `score` evaluates the same tests in batches of the same size, so that
whatever else the machine does meets both. A ratio is that of one pair of phases; told are medians and quartiles over all pairs.
Training is everything between two evaluations: steps, what a method does when a task begins and when it ends.

Claims held here: training with naive, replay and DER++ takes at most x1.10 of the plain loop, EWC at most x1.10 of the loop with
all tasks' penalties folded into one (`--fold`), evaluation at most x1.2. The ratio to the unfolded form is told beside, and that
of Avalanche where it is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import io
import json
import os
import platform
import runpy
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter, process_time
from typing import Any

import torch
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
TASKS, CLASSES, MEMORY, BATCH, TESTED, RATE = 5, 10, 500, 64, 256, 0.05


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


class Script:
    """A script of the peers, in a thread of its own that runs only between `phase` and the end of that phase."""

    def __init__(self, clock: Any, path: Path, told: tuple[str, ...]):
        self.go: SimpleQueue[None] = SimpleQueue()
        self.done: SimpleQueue[tuple[str, float, float] | BaseException] = SimpleQueue()
        self.accuracy: list[float] = []
        outer, plain = self, clock.Timer

        class Gate(plain):
            """The peers' own clock, which waits for its turn."""

            def start(self) -> None:
                outer.go.get()
                super().start()

            def stop(self, phase: str) -> None:
                before = self.wall.get(phase, 0.0), self.cpu.get(phase, 0.0)
                super().stop(phase)
                outer.done.put((phase, self.cpu[phase] - before[1], self.wall[phase] - before[0]))

            def report(self, peer: str, args: Any, acc: list[float], **rest: Any) -> None:
                outer.accuracy = [float(a) for a in acc]

        def work() -> None:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    runpy.run_path(str(path))
            except BaseException as error:
                self.done.put(error)

        self.thread = threading.Thread(target=work, daemon=True)
        argv, clock.Timer, sys.argv = sys.argv, Gate, [str(path), *told]
        try:
            self.thread.start()
            self.phase("setup")
        finally:
            clock.Timer, sys.argv = plain, argv

    def phase(self, name: str) -> tuple[float, float]:
        """Let it run through its next phase; processor and wall seconds."""
        self.go.put(None)
        met = self.done.get()
        if isinstance(met, BaseException):
            raise met
        assert met[0] == name, f"the script is in {met[0]}, not in {name}"
        return met[1:]

    def end(self) -> float:
        """Its mean accuracy on all tasks, once it has run through."""
        self.thread.join()
        return statistics.fmean(self.accuracy)


class Ours:
    """The library on the same rows."""

    def __init__(self, source: Source, method: Method, seed: int):
        torch.manual_seed(seed)
        body = backbone("mlp:784-400-400", seed=seed)
        model = Classifier(body, GrowingLinear(body.width, classes=CLASSES, seed=seed))
        stage = Stage(method, MadeOptimizer("sgd", RATE), batch_size=BATCH)
        self.learner = Learner(model, (stage,), seed=seed)
        self.stream = split(source, TASKS, order="given")
        self.learning = self.learner.learn(self.stream)
        self.tests = {name: rows for i in range(TASKS) for name, rows in self.stream[i].tests.items()}
        self.accuracy: list[float] = []

    def phase(self, name: str) -> tuple[float, float]:
        """Train on the next task, or evaluate all tests; processor and wall seconds."""
        wall, cpu = perf_counter(), process_time()
        if name == "train":
            next(self.learning)
        else:
            self.accuracy = [score(self.learner.predict, rows, size=TESTED) for rows in self.tests.values()]
        return process_time() - cpu, perf_counter() - wall

    def end(self) -> float:
        """Mean accuracy on all tasks."""
        return statistics.fmean(self.accuracy)


class LastStep:
    """When an optimizer stepped last: a phase of training up to there is steps, what follows is the end of a task."""

    def __init__(self) -> None:
        self.at = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every optimizer of the process, ours and theirs alike."""
        handle = register_optimizer_step_post_hook(lambda *_: setattr(self, "at", process_time()))
        try:
            yield
        finally:
            handle.remove()


def measured(make: dict[str, Callable[[int], Script | Ours]], rounds: int) -> dict[str, Any]:
    """Run several sides through all tasks in turns; the first is what the others are compared with."""
    last, names = LastStep(), list(make)
    kinds = ("train", "steps", "eval")
    spent: dict[str, dict[str, list[float]]] = {n: {kind: [] for kind in (*kinds, "train wall")} for n in names}
    accuracy: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        sides = {name: make[name](turn) for name in names}
        for task in range(TASKS):
            order = names if (turn + task) % 2 else names[::-1]
            for kind in ("train", "eval"):
                for name in order:
                    since = process_time()
                    with last.watching():
                        cpu, wall = sides[name].phase(kind)
                    if not turn:
                        continue  # the first round warms up
                    spent[name][kind].append(cpu)
                    if kind == "train":
                        spent[name]["steps"].append(last.at - since)
                        spent[name]["train wall"].append(wall)
        for name in names:
            accuracy[name].append(sides[name].end())
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
    rows = [TensorRows(torch.from_numpy(a)[:, None], torch.from_numpy(b)) for a, b in ((x, y), (tx, ty))]
    source = Source("blurred prototypes", *rows, tuple(map(str, range(CLASSES))))
    avalanche = find_spec("avalanche") is not None

    figures: dict[str, Any] = {}
    for name in args.arms:
        arm = ARMS[name]
        sides: dict[str, Callable[[int], Script | Ours]] = {
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

    claims: dict[str, Any] = {}
    for name in args.arms:
        limit, ours = ARMS[name].limit, figures[name]["nacre"]
        if limit is not None:
            for kind, most in (("train", limit), ("eval", EVALUATION)):
                claims[f"{name}, {kind}"] = {
                    "ratio": ours[kind]["ratio"],
                    "at_most": most,
                    "holds": ours[kind]["ratio"] <= most,
                }
    result = {
        "about": __doc__.split("\n\n")[2].replace("\n", " "),
        "command": f"python benchmarks/speed.py PEERS --rounds {args.rounds}",
        "pairs": f"{TASKS * args.rounds} of each phase, after {TASKS} that warm up; seeds 1 to {args.rounds}",
        "seconds": "of the processor, median of a phase; 'train wall' of the clock on the wall; 'steps': up to the last step",
        "machine": {
            "cpu": cpu(),
            "threads": torch.get_num_threads(),
            "system": platform.system(),
            "load": os.getloadavg(),
        },
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch", "numpy")}},
        "avalanche": "in the table" if avalanche else "not installed on this machine, so not in the table",
        "claims": claims,
        "figures": figures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for claim, told in claims.items():
        print(f"{claim}: x{told['ratio']} (at most x{told['at_most']}): {'holds' if told['holds'] else 'MISSED'}")


def cpu() -> str:
    """The name of the processor, as far as the system tells."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
