"""Records made by hand: of any size, and as odd as records can be."""

from __future__ import annotations

import math
from typing import Any

from nacre.core.run import NAN, Result, Run

ODD = ("<script>alert('x')</script>", 'a "quoted" & <b>name</b>', "🐚 nácre 贝 שלום", "=1+1|$x_1$\\n", "x" * 400)


def result(tasks: int = 4, layers: int = 3, shift: float = 0.0, names: tuple[str, ...] = ()) -> Result:
    """Figures that differ from each other, all of them known."""
    tests = [names[i] if i < len(names) else f"task{i}" for i in range(tasks)]
    matrix = [[_score(i, j, tasks) - shift if j <= i else NAN for j in range(tasks)] for i in range(tasks)]
    last = [v for v in matrix[-1] if not math.isnan(v)]
    return Result(
        data={
            "source": "digits",
            "sha256": "ab" * 32,
            "rows": {"train": 1000, "test": 200},
            "classes": 2 * tasks,
            "note": "split by seed 0",
            "stream": {"kind": "class-incremental", "length": tasks, "told": False, "arrival": "offline"},
        },
        moments=[f"task{i}" for i in range(tasks)],
        tests=[{"name": name, "rows": 20, "learned": f"task{i}"} for i, name in enumerate(tests)],
        matrix=matrix,
        curves={"loss": [_loss(i) for i in range(tasks)], "watch": [_watch(i, tests) for i in range(tasks)]},
        summary={"last": sum(last) / len(last), "average": 0.8, "union": 0.7, "learning": 0.9, "forgetting": 0.1},
        motion={f"task{i}": _motion(i, layers) for i in range(tasks)},
        stale={f"task{i}": [] for i in range(tasks)},
        rest=[{"task": i, "stage": 0, "entries": 5000, "asked": 4321, "moved": 0} for i in range(tasks)],
        seconds={"training": 12.0, "evaluation": 3.0, "saving": 1.0},
        peak_memory_bytes=3 * 2**28,
    )


def run(tasks: int = 4, layers: int = 3, seeds: int = 2, names: tuple[str, ...] = (), **said: Any) -> Run:
    """A finished run; `said` is put in the place of what it would say."""
    made = Run(
        "a run",
        "finished",
        {"run": {"name": "a run"}, "data": {"source": "digits"}, "backbone": {"source": "mlp:64-16"}},
        [{"methods": [{"name": "EWC", "strength": 10.0}], "when": "every", "optimizer": {"name": "sgd", "lr": 0.1}}],
        {"python": "3.11", "device": "cpu"},
        list(range(seeds)),
        papers={"EWC": "Overcoming catastrophic forgetting in neural networks (2016, arXiv 1612.00796)"},
        fidelity={"EWC": "faithful"},
        results={seed: result(tasks, layers, 0.01 * seed, names) for seed in range(seeds)},
        started="2026-11-20T12:00:00+0000",
    )
    for key, value in said.items():
        setattr(made, key, value)
    return made


def odd() -> dict[str, Run]:
    """Records that a page must bear, by what is odd about them."""
    empty, begun, nothing = run(seeds=1), run(), run(seeds=1, results={})
    empty.results[0] = Result()
    begun.status, begun.results = "running", {0: result(2)}
    holes = run(seeds=1)
    _nan(holes.results[0])
    stale, broken = run(), run()
    stale.results[0].stale["task3"] = [0, 1, 2]
    followed = run()
    for made in followed.results.values():
        told = {"rows": 440.0, "cosine": 0.91, "explained": 0.75, "r2": 0.5, "ridge": 0.3}
        made.drift = {"1": told, "2": {"rows": 1.0, "cosine": 0.5, "width": 1.3}}
    broken.results[1].rest[2]["moved"] = 7
    broken.results[0].nonfinite = [
        {"task": 1, "stage": 0, "step": 3, "tensor": "<i>", "done": "skipped", "back_to": None}
    ]
    told = run(papers={name: f"{name} (2020)" for name in ODD}, fidelity={}, name=ODD[0])
    told.versions["device"] = ODD[1]
    told.settings["data"]["source"] = ODD[0]
    told.results[0].data["note"] = ODD[1]
    start = run(seeds=1)
    start.results[0].moments = ["start", *start.results[0].moments]
    start.results[0].matrix = [[0.1] * 4, *start.results[0].matrix]
    same = run(3, seeds=1)
    for row in same.results[0].motion.values():
        row["tensors"] = {"weight": {"entries": 4, "moved": 0.0, "distance": 0.0, "relative": 0.0, "size": 0.0}}
    return {
        "one task, one seed": run(1, 1, 1),
        "nothing measured": empty,
        "no result": nothing,
        "running": begun,
        "failed": run(status="failed", error=f"NonFinite: {ODD[0]}"),
        "interrupted": run(status="interrupted"),
        "NaN everywhere": holes,
        "stale": stale,
        "statistics that follow": followed,
        "rest broken, NaN came up": broken,
        "odd names": run(len(ODD), names=ODD),
        "odd words": told,
        "before the first task": start,
        "nothing moved": same,
        "a head alone": run(papers={}, fidelity={}, stages=[{"methods": ["SimpleCIL"], "optimizer": None}]),
        "an older record": run(settings={}, stages=[], versions={}, started=""),
        "lower is better": run(score={"name": "error", "better": "lower"}),
    }


def _score(i: int, j: int, tasks: int) -> float:
    return round(0.97 - 0.5 * (i - j) / tasks - 0.0137 * j / tasks - 0.003 * (i + j) / tasks, 6)


def _loss(task: int) -> dict[str, Any]:
    steps = [1, 10, 20]
    return {"task": task, "stage": 0, "steps": 20, "step": steps, "loss": [2.0, 1.0, 0.5], "lr": [0.1] * 3}


def _watch(task: int, tests: list[str]) -> dict[str, Any]:
    scores = {name: [0.9, 0.4, 0.8] if j < task else [0.1, 0.5, 0.9] for j, name in enumerate(tests[: task + 1])}
    return {"task": task, "stage": 0, "step": [5, 10, 20], "scores": scores}


def _motion(task: int, layers: int) -> dict[str, Any]:
    tensors = {
        f"body.layers.{k}.{part}": {
            "entries": 64,
            "moved": 1 / (k + 1),
            "distance": 0.1 * (k + 1) / (task + 1),
            "relative": 0.1 * (k + 1) / (task + 1),
            "size": 1.0,
        }
        for k in range(layers)
        for part in ("weight", "bias")
    }
    return {"total": {"entries": 128 * layers, "moved": 0.5, "relative": 0.1}, "tensors": tensors}


def _nan(result: Result) -> None:
    """Make every number unknown, as a record says it that was read back."""
    result.matrix = [[NAN] * len(row) for row in result.matrix]
    result.summary = dict.fromkeys(result.summary, NAN)
    for curve in result.curves["loss"]:
        curve["loss"] = curve["lr"] = [None] * 3
    for curve in result.curves["watch"]:
        curve["scores"] = {name: [None] * 3 for name in curve["scores"]}
    for row in result.motion.values():
        row["total"] = {"entries": 1, "moved": None, "relative": None}
        for tensor in row["tensors"].values():
            tensor |= {"moved": None, "distance": None, "relative": None, "size": None}
