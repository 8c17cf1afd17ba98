"""Split and permuted MNIST as published: what the library's methods give beside the tables of others.

    python benchmarks/mnist.py --data FOLDER [--part split | permuted] [--methods EWC SI] [--seeds 3] [--work runs/mnist]

The protocols are the recipes `split-mnist-*` and `permuted-mnist-domain`. Strengths of EWC and SI on split MNIST are chosen by
a sweep on a tenth of the training rows, with a seed that no reported run has; test rows are read once, by the reported runs.
On permuted MNIST the published strengths are taken. Runs lie in the work folder, and a second call goes on with them. One
thread a run. Writes `results/split_mnist.json` and `results/permuted_mnist.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from nacre.core.run import Run
from nacre.experiment import Comparison, Config, Finished, Sweep

HERE = Path(__file__).parent
RECIPES = HERE.parent / "src" / "nacre" / "experiment" / "recipes"
SELECTION_SEED = 1000
GRID = "10,1e3,1e5,1e7,1e9"
RIVALS = "LwF, with rivals"
SO_FAR = "offline, task by task on all rows so far"
EWC = {"name": "EWC", "labels": "exact", "rows": 1000, "how": "gradient"}
SI = {"name": "SI", "damping": 0.1}
PUBLISHED = "arXiv 1809.10635 v1, tables 3 and 4: mean and standard error of 20 seeds"
REVISED = "arXiv 1904.07734 v1: mean and standard error of 20 seeds"
TABLE: dict[str, dict[str, tuple[float, float]]] = {
    "task": {
        "none": (85.15, 1.00),
        "LwF": (99.60, 0.03),
        "offline": (99.64, 0.03),
        "EWC": (85.48, 1.20),
        "SI": (99.14, 0.11),
    },
    "domain": {
        "none": (57.33, 1.66),
        "LwF": (71.02, 1.26),
        "offline": (98.41, 0.06),
        "EWC": (57.80, 1.61),
        "SI": (63.77, 1.18),
    },
    "class": {
        "none": (19.90, 0.02),
        "LwF": (24.17, 0.51),
        "offline": (97.93, 0.04),
        "EWC": (19.90, 0.02),
        "SI": (20.04, 0.08),
    },
    "permuted": {"EWC": (94.31, 0.11), "SI": (95.33, 0.11)},
}
LATER = {"task": {"EWC": (98.64, 0.22)}, "domain": {"EWC": (63.95, 1.90)}, "class": {"EWC": (20.01, 0.06)}}


def methods(*parts: dict[str, Any]) -> str:
    """The change of a config that means these methods."""
    tables = ", ".join("{" + ", ".join(f"{k} = {json.dumps(v)}" for k, v in part.items()) + "}" for part in parts)
    return f"stage.0.methods=[{tables}]"


def runs(recipe: str, rows: dict[str, list[str]], out: Path, usual: Iterable[str], workers: int) -> dict[str, Run]:
    """The recipe once for each name, with changes; those that are finished are read."""
    configs = [
        Config.load(RECIPES / f"{recipe}.toml", [*usual, *changes, f"run.name={n}"]) for n, changes in rows.items()
    ]
    several = Comparison(configs)
    with suppress(Finished):
        several.save(out, several.run(out, workers))
    return {name: Run.load(out / place) for name, place in zip(rows, several.names, strict=True)}


def chosen(recipe: str, method: dict[str, Any], out: Path, usual: list[str], workers: int) -> dict[str, Any]:
    """The strength of a method, chosen on validation rows; and what every other one gave there."""
    told = [*usual, methods({**method, "strength": 1.0}), f"run.seeds=[{SELECTION_SEED}]"]
    sweep = Sweep.over(RECIPES / f"{recipe}.toml", [f"stage.0.methods.0.strength={GRID}"], changes=told)
    try:
        points = sweep.run(out, workers)
    except Finished:
        points = sweep.points(out)
    place, _ = sweep.best(points)
    scores = {point.values[0]: _finite(100 * point.score("last")[0]) for point in points}
    return {
        "strength": float(points[place].values[0]),
        "last_on_validation_rows": scores,
        "at_edge": bool(sweep.at_edge(place)),
    }


def beside(run: Run, published: tuple[float, float] | None, later: tuple[float, float] | None = None) -> dict[str, Any]:
    """A run's last accuracy in percent beside the published one, their distance in combined standard errors."""
    values = [100 * result.summary["last"] for result in run.results.values()]
    mean = statistics.fmean(values)
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    said: dict[str, Any] = {"last": values, "mean": mean, "standard_error": _finite(error)}
    for name, other in (("published", published), ("revised", later)):
        if other is not None:
            combined = math.hypot(other[1], 0.0 if math.isnan(error) else error)
            said[name] = {"mean": other[0], "standard_error": other[1], "distance": abs(mean - other[0]) / combined}
    return said


def split(args: argparse.Namespace) -> dict[str, Any]:
    """Three scenarios: nothing done, LwF, offline, EWC and SI."""
    found: dict[str, Any] = {}
    for scenario in args.scenarios:
        recipe, out = f"split-mnist-{scenario}", args.work / scenario
        usual = [f"data.source={args.data}", "run.threads=1", "run.keep=1", 'stream.evaluate="last"']
        told = [*usual, f"run.seeds={list(range(args.seeds))}"]
        rows = {
            "none": [],
            "LwF": [methods({"name": "LwF", "balance": "tasks"})],
            "offline": [methods({"name": "Joint"}), "stage.0.steps=10000"],
        }
        done = runs(recipe, rows, out / "runs", told, args.workers)
        if scenario == "class":  # the form of published code: new classes are targets of 0
            rivals = {RIVALS: [methods({"name": "LwF", "balance": "tasks", "rivals": True})]}
            done |= runs(recipe, rivals, out / "runs-rivals", told, args.workers)
            so_far = {SO_FAR: [methods({"name": "Cumulative"})]}  # what the published text calls offline
            done |= runs(recipe, so_far, out / "runs-so-far", told, args.workers)
        table = {name: beside(run, TABLE[scenario][name.split(",")[0]]) for name, run in done.items()}
        for method in (EWC, SI):
            name = method["name"]
            pick = chosen(recipe, method, out / f"sweep-{name}", usual, args.workers)
            row = {name: [methods({**method, "strength": pick["strength"]})]}
            run = runs(recipe, row, out / f"runs-{name}", told, args.workers)[name]
            table[name] = {**beside(run, TABLE[scenario][name], LATER[scenario].get(name)), "selection": pick}
        found[scenario] = table
        _write(args.out / "split_mnist.json", args, {"protocol": "recipes split-mnist-*", "scenarios": found})
    return found


def permuted(args: argparse.Namespace) -> dict[str, Any]:
    """EWC and SI at their published strengths, shared answers."""
    usual = [f"data.source={args.data}", "run.threads=1", "run.keep=1", 'stream.evaluate="last"']
    fused = 'stage.0.optimizer={name = "adam", lr = 0.0001, fused = true}'  # the same steps, 1.6 times as fast on a CPU
    rows = {"EWC": methods({**EWC, "strength": 100.0}), "SI": methods({**SI, "strength": 10.0})}
    path = args.out / "permuted_mnist.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    table = {name: known[name] for name in rows if name in known}
    for name in args.methods:  # each with a folder of its own, so that one can be had without the other
        told = [*usual, fused, f"run.seeds={list(range(args.seeds))}"]
        out = args.work / f"permuted-{name}"
        run = runs("permuted-mnist-domain", {name: [rows[name]]}, out, told, args.workers)[name]
        table[name] = {"seeds": list(run.results), **beside(run, TABLE["permuted"][name])}
    strengths = {"EWC": 100.0, "SI": 10.0, "from": "code of the published tables; nothing was chosen here"}
    _write(path, args, {"protocol": "recipe permuted-mnist-domain", "strengths": strengths, **table})
    return table


def _write(path: Path, args: argparse.Namespace, table: dict[str, Any]) -> None:
    command = f"python benchmarks/mnist.py --data FOLDER --part {args.part} --seeds {args.seeds}"
    about = {"command": command, "machine": "CPU, one thread a run", "published": PUBLISHED, "revised": REVISED}
    path.write_text(json.dumps({**about, **table}, indent=1) + "\n")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> None:
    """Run one part and write its result file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with the four MNIST files")
    parser.add_argument("--part", choices=["split", "permuted"], default="split")
    parser.add_argument("--scenarios", nargs="+", default=["task", "domain", "class"])
    parser.add_argument("--methods", nargs="+", choices=["EWC", "SI"], default=["EWC", "SI"], help="of permuted MNIST")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("runs/mnist"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    args.data = args.data.resolve()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(json.dumps({"split": split, "permuted": permuted}[args.part](args), indent=1))


if __name__ == "__main__":
    main()
