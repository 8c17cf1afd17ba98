"""A stream of 1000 tasks in which pairs of MNIST classes come back: memory and checkpoints stay flat, and it resumes.

    python benchmarks/long_stream.py FOLDER_OF_MNIST

Each task brings 1000 rows of two classes, drawn anew, and is tested on all 10,000 test rows. A perceptron learns it with Adam
and a reservoir of 1000 rows. One process runs all tasks and writes down, after each, its memory, the size of its checkpoint
and the processor time. A checkpoint holds the learner, which does not grow, and the record, which grows by a few numbers a
task. The checkpoint after task 500 is set aside; a second process goes on from it, and must end with the same weights, state,
predictions and record, bit for bit.

Memory is what the process holds at the time (`VmRSS`), and the most it ever held (`VmHWM`). Times are processor time, since
other load on the machine lengthens the others; a figure is the median of 11 tasks around the one named.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
from machine import cpu

from nacre.checkpoint import load as load_checkpoint
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, Observer

RESULT = Path(__file__).parent / "results" / "long_stream.json"
TASKS, HALF, AROUND = 1000, 500, 5
NAMED = (2, 10, 100, 500, 1000)
FLAT = {"memory": 1.05, "checkpoint": 1.05, "seconds": 1.10}
"""What task 1000 may need of what task 100 needed."""


def config(folder: Path, tasks: int) -> Config:
    """The run."""
    stage = {
        "methods": [{"name": "ER", "rows": 64, "memory": {"name": "Reservoir", "capacity": 1000}}],
        "optimizer": {"name": "adam", "lr": 1e-3},
        "batch_size": 64,
    }
    return Config.of(
        {
            "run": {"name": "long", "threads": 1, "save_seconds": 0.0},
            "data": {"source": str(folder)},
            "stream": {"kind": "re-occurring", "tasks": tasks, "rows": 500},
            "backbone": {"source": "mlp:784-200-200"},
            "stage": [stage],
        }
    )


class Notes(Observer):
    """What each task cost, written down after its tests; sets the checkpoint of half the way aside."""

    def __init__(self, run: Path, aside: Path, half: int):
        self.run, self.aside, self.half = run, aside, half
        self.rows: list[dict[str, float]] = []
        self.since = process_time(), perf_counter()

    def measured(self, trial: Any, moment: str, matrix: Any) -> None:
        newest = newest_checkpoint(self.run)
        now = process_time(), perf_counter()
        row = {name: n - s for name, n, s in zip(("cpu_seconds", "seconds"), now, self.since, strict=True)}
        self.rows.append({"task": len(self.rows) + 1, **row, **memory(), **size(newest)})
        if len(self.rows) in NAMED:
            self.rows[-1]["learner"] = tensor_bytes(load_checkpoint(newest)["learner"])
        self.since = process_time(), perf_counter()

    def task_begins(self, learner: Any, met: Any) -> None:
        if met.task.index == self.half:  # the checkpoint after this many tasks is complete
            shutil.copytree(self.run, self.aside, ignore=shutil.ignore_patterns("checkpoints", "export", "run.json"))
            kept = newest_checkpoint(self.run)
            shutil.copytree(kept, self.aside / "checkpoints" / "seed-0" / kept.name)


def memory() -> dict[str, float]:
    """Bytes that this process holds, and held at most."""
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {name: 1024 * int(told[key].split()[0]) for name, key in (("rss", "VmRSS"), ("peak_rss", "VmHWM"))}


def size(folder: Path) -> dict[str, float]:
    """Bytes of the files of a checkpoint."""
    return {
        "checkpoint": sum(p.stat().st_size for p in folder.iterdir()),
        "state_json": (folder / "state.json").stat().st_size,
    }


def tensor_bytes(tree: Any) -> int:
    """Bytes of the tensors in a tree."""
    if isinstance(tree, torch.Tensor):
        return tree.nbytes
    inside = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else ()
    return sum(map(tensor_bytes, inside))


def newest_checkpoint(run: Path) -> Path:
    """The newest of a run's folder."""
    return max(p for p in (run / "checkpoints" / "seed-0").iterdir() if p.suffix not in (".new", ".old"))


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return (
            one.dtype == other.dtype and one.shape == other.shape and one.numpy().tobytes() == other.numpy().tobytes()
        )
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (one != one and other != other)


def compared(whole: Path, again: Path) -> dict[str, bool]:
    """What two finished runs have in common."""
    ends = [load_checkpoint(newest_checkpoint(run)) for run in (whole, again)]
    records = [Run.load(run).repeatable() for run in (whole, again)]
    exports = [load_checkpoint(run / "export") for run in (whole, again)]
    return {
        "learner": same(*(end["learner"] for end in ends)),
        "record": same(*records),
        "exported_model": same(*exports),
    }


def around(rows: list[dict[str, float]], task: int, key: str) -> float:
    """The median over the tasks around one."""
    near = [r[key] for r in rows if abs(r["task"] - task) <= AROUND and r["task"] > 1]
    return statistics.median(near)


def summed_up(rows: list[dict[str, float]], alike: dict[str, bool], accuracy: list[float]) -> dict[str, Any]:
    """The result: figures at the tasks that are named, and whether the claims hold."""
    last = len(rows)
    named = [t for t in NAMED if t <= last]
    at = {
        str(t): {
            **{key: int(rows[t - 1][key]) for key in ("rss", "peak_rss", "checkpoint", "state_json", "learner")},
            **{key: round(around(rows, t, key), 4) for key in ("cpu_seconds", "seconds")},
            "accuracy_all_tests": round(accuracy[t - 1], 4),
        }
        for t in named
    }
    ratios = {
        "peak memory, the last task to task 100": (rows[-1]["peak_rss"] / rows[99]["peak_rss"], FLAT["memory"]),
        "checkpoint, the last task to task 100": (rows[-1]["checkpoint"] / rows[99]["checkpoint"], FLAT["checkpoint"]),
        "processor time a task, the last to task 100": (
            around(rows, last - AROUND, "cpu_seconds") / around(rows, 100, "cpu_seconds"), FLAT["seconds"],
        ),
        "processor time a task, the last to task 2": (
            around(rows, last - AROUND, "cpu_seconds") / around(rows, 2, "cpu_seconds"), FLAT["seconds"],
        ),
    }  # fmt: skip
    claims: dict[str, Any] = {
        name: {"ratio": round(is_, 3), "at_most": limit, "holds": is_ <= limit} for name, (is_, limit) in ratios.items()
    }
    claims[f"resumed after task {HALF} in a fresh process, it ends bit for bit the same"] = {
        **alike, "holds": all(alike.values()),
    }  # fmt: skip
    return {"claims": claims, "at_task": at}


def main() -> None:
    """Run both processes and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", type=Path, help="folder with the four files of MNIST")
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.resume is not None:
        Experiment(Config.load(args.resume)).resume(args.resume)
        return
    half = min(HALF, args.tasks // 2)
    with tempfile.TemporaryDirectory() as place:
        whole, again = Path(place) / "whole", Path(place) / "again"
        notes = Notes(whole, again, half)
        settings = config(args.data.resolve(), args.tasks)
        run = Experiment(settings).run(whole, notes)
        subprocess.run([sys.executable, __file__, str(args.data), "--resume", str(again)], check=True)
        alike = compared(whole, again)
        record = (whole / "run.json").stat().st_size
    accuracy = [row[0] for row in run.results[0].matrix]
    stream = {k: v for k, v in settings.to_dict()["stream"].items() if v != "none"}
    result = {
        "about": f"{args.tasks} tasks of two MNIST classes that come back; memory, checkpoints and time a task.",
        "command": "python benchmarks/long_stream.py FOLDER_OF_MNIST",
        "machine": {"cpu": cpu(), "threads": 1, "system": platform.system()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch")}},
        "stream": stream,
        "resumed_after_task": half,
        **summed_up(notes.rows, alike, accuracy),
        "run_json_bytes_at_the_end": record,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for claim, told in result["claims"].items():
        print(f"{claim}: {told.get('ratio', '')} {'holds' if told['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
