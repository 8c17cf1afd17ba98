"""What it costs that the driver averages gradients itself, once, after the backward pass, instead of DDP during it.

    python benchmarks/ranks.py

Two processes on one machine speak Gloo, one thread each. Three arms take turns, block by block, on the same model, rows and
optimizer: `alone` (nothing is exchanged), `ddp` (a plain loop around DistributedDataParallel) and `drive` (the same loop
around `nacre.Drive`). Two models: a vision transformer of the shape of the glyph backbone (1.2 million weights, 32 rows a
rank), and a perceptron of 13 million weights with 16 rows a rank, in which almost nothing but the exchange takes time. Claim:
a step of `drive` takes at most 1.1 times one of `ddp` on the transformer. Times are wall-clock, of the slower rank.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from rest_cost import CLASSES, Vit, cpu
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nacre.core import ranks
from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.method import Method
from nacre.core.rows import Batch
from nacre.core.spawn import in_ranks
from nacre.core.stream import Task

RESULT = Path(__file__).parent / "results" / "ranks.json"
STEPS, LIMIT = 4, 1.1

Step = Callable[[], Any]


def perceptron() -> nn.Module:
    """Thirteen million weights and next to no arithmetic."""
    layers = [layer for _ in range(3) for layer in (nn.Linear(2048, 2048), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 2048), *layers, nn.Linear(2048, CLASSES))


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "transformer, 1.2 M": (Vit, 32),
    "perceptron, 13 M": (perceptron, 16),
}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    """Plain SGD over a model."""
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def plain(model: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A loop as anybody writes it."""
    optimizer = optimizer_of(model)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return step


def driven(drive: Drive, x: Tensor, y: Tensor) -> Step:
    """The same around the driver."""

    def step() -> None:
        drive.optimizer.zero_grad()
        drive.loss(Batch(x, y)).backward()
        drive.optimizer.step()
        drive.stepped()

    return step


def measured(name: str, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each arm, block by block, on this rank."""
    make, rows = MODELS[name]
    generator = dice(0, "rows", ranks.rank())
    x, y = torch.randn(rows, 1, 32, 32, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = [make().train() for _ in range(3)]
    times: dict[str, list[float]] = {"alone": [], "ddp": [], "drive": []}
    with Drive(Method(), models[2], optimizer_of(models[2]), Task(0)) as drive:
        wrapped = DistributedDataParallel(models[1])
        steps = {"alone": plain(models[0], x, y), "ddp": plain(wrapped, x, y), "drive": driven(drive, x, y)}
        order = list(steps)
        for place in range(rounds + 1):
            for arm in order[place % 3 :] + order[: place % 3]:
                steps[arm]()
                taken = []
                for _ in range(STEPS):
                    dist.barrier()
                    start = perf_counter()
                    steps[arm]()
                    taken.append(perf_counter() - start)
                if place:  # the first round warms up
                    times[arm].append(statistics.median(taken))
    return times


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24, help="blocks of each arm")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in MODELS:
        one, other = in_ranks(measured, name, args.rounds)
        slower = {arm: [max(a, b) for a, b in zip(one[arm], other[arm], strict=True)] for arm in one}
        middle = {arm: statistics.median(times) for arm, times in slower.items()}
        within = [a / b for a, b in zip(slower["drive"], slower["ddp"], strict=True)]
        low, _, high = statistics.quantiles(within, n=4)
        figures[name] = {
            "milliseconds": {arm: round(1000 * t, 2) for arm, t in middle.items()},
            "drive_by_ddp": round(middle["drive"] / middle["ddp"], 3),
            "drive_by_ddp_quartiles": [round(low, 3), round(high, 3)],
        }
        print(name, json.dumps(figures[name]), flush=True)
    ratio = figures["transformer, 1.2 M"]["drive_by_ddp"]
    result = {
        "about": "One reduction after the backward pass by the driver, beside DDP's during it; two Gloo processes.",
        "command": "python benchmarks/ranks.py",
        "machine": {"cpu": cpu(), "threads": 1, "system": platform.system()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch")}},
        "rounds": args.rounds,
        "claims": {"transformer": {"drive_by_ddp": ratio, "at_most": LIMIT, "holds": ratio <= LIMIT}},
        "figures": figures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
