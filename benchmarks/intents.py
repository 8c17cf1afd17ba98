"""Intents of users, class by class: what tuning of an encoder gives to a closed-form head, and what sparsity has to do with it.

    python benchmarks/intents.py --backbone ENCODER --banking77 FOLDER --clinc150 FOLDER
        [--data NAME] [--layers N ...] [--seeds N ...] [--only NAME ...] [--work runs/intents] [--read]
    python benchmarks/intents.py ... --choose

ENCODER is a folder of all-MiniLM-L6-v2, used whole (6 layers) and cut to its first 2. Banking77: 20 training and 20 test
sentences a class, 7 tasks of 11 classes; CLINC150: 10 and 10, 5 tasks of 30. Classes and sentences are drawn by the seed.

A tuning runs once, by the library's learner, in the first task only or in every task; embeddings rest. Heads are then read on
the tables of features (`drift_tables.py`): nearest mean, and RanPAC with 2000 features whose ridge is chosen on a fifth of the
present rows, fitted on all others so far; with statistics as they were taken (stale), transported by the linear map, and taken
anew. Tunings of a softmax head also say what that head answers. The controls: `chance` is MIST with as many entries, chosen by
chance; `dense` has MIST's loss without a mask, and its way in each task is held to the length of MIST's way there, over all
weights of the backbone, and scaled to just that length in the end.

Rates are those of the study of before (AdamW; 2e-5 and 1e-4 in the first task, 5e-5 and 1e-4 in every task, 1e-3 for sparse
moves, 5e-5 for the dense control) and fall to 0 within a task. The strengths of L2 and EWC are chosen by `--choose`, for
Banking77 and 2 layers, and kept everywhere: on three tasks of an order of classes that is not used otherwise, by the softmax
head on a quarter of their *training* sentences; of the strengths within a standard error of the best the weakest. There
stronger is better throughout, up to weights that hardly move. Nothing else is chosen here, and no test row chooses. Writes
`results/intents.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from itertools import product
from os import getpid
from pathlib import Path
from time import sleep
from typing import Any, Literal

import torch
import torch.nn.functional as F
from drift import falling
from drift_tables import Imprint, Scene, answered, in_tasks, some_of_each, tabled
from machine import cpu
from safetensors.torch import load_file, save_file
from torch import nn

from nacre.backbones import Body, backbone
from nacre.core.method import Method, compose
from nacre.core.rows import Picked
from nacre.core.state import setting
from nacre.core.stream import Task
from nacre.data import Source, load
from nacre.heads import AnyReadout, Linear, NearestMean, RandomRidge
from nacre.learner import Stage
from nacre.methods import EWC, L2, LDC, MIST, HybridUpdate
from nacre.rules import TrustRadius

RESULT = Path(__file__).parent / "results" / "intents.json"
HEADS: dict[str, Callable[[], AnyReadout]] = {
    "nearest mean": NearestMean,
    "RanPAC 2000": lambda: RandomRidge(ridge="seen"),
}
DATA = {"banking77": (20, 20, 7), "clinc150": (10, 10, 5)}  # training and test sentences a class, tasks
ATTENTION = "embeddings|^(?!.*attention[.]self)"  # all but the projections of attention
STRENGTHS = {"L2 on attention": (1e2, 1e3, 1e4, 1e5), "EWC on attention": (1e2, 1e4, 1e6, 1e8)}
CHOSEN = {  # by `weakest`
    "L2 on attention": 1e4,
    "EWC on attention": 1e6,
}
ORDER = 99  # of the classes where strengths are chosen


@dataclass(frozen=True)
class Place:
    """One encoder on one stream."""

    data: str
    layers: int
    seed: int

    def __str__(self) -> str:
        return f"{self.data}-{self.layers}-{self.seed}"


@dataclass
class AsFar(TrustRadius, Method):
    """The way of each task is scaled back to a length of that task's own while it is longer, and to just that in the end."""

    radii: tuple[float, ...] = setting((), "the length of the way of all weights together, by task")

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.total = self.radii[task.index]

    @torch.no_grad()
    def end_stage(self, model: nn.Module, task: Task) -> None:
        named = dict(model.named_parameters())
        ways = {n: named[n] - start for n, start in self.start.weights.items()}
        length = float(torch.stack([way.double().square().sum() for way in ways.values()]).sum().sqrt())
        for n, way in ways.items():
            named[n].copy_(self.start.weights[n] + way * (self.radii[task.index] / length))


@dataclass(frozen=True)
class Tuning:
    """How the encoder is tuned.

    Attributes:
        stage: Makes the stage, from the place, whether it is for the first task only, and the lengths of MIST's ways.
        softmax: Whether the head trains, so that its answers count.
        frozen: An expression for the weights that do not train at all.
        joint: Whether all classes come at once.
    """

    stage: Callable[[Place, bool, Sequence[float]], Stage]
    softmax: bool = False
    frozen: str = "embeddings"
    joint: bool = False


def _epochs(layers: int, first: bool) -> int:
    return 3 if first or layers == 2 else 2


def _rate(layers: int, first: bool) -> float:
    return 1e-4 if layers == 2 else 2e-5 if first else 5e-5


def _mist(by: Literal["gradients", "chance"]) -> Callable[[Place, bool, Sequence[float]], Stage]:
    def stage(at: Place, first: bool, ways: Sequence[float]) -> Stage:
        tuner = MIST(select=0.1, drop=0.9, protect=0.0, drop_free=True, batch=32, by=by, form="compact", seed=at.seed)
        return falling(tuner, 1e-3, _epochs(at.layers, first))

    return stage


def _dense(at: Place, first: bool, ways: Sequence[float]) -> Stage:
    tuner = MIST(select=1.0, drop=0.0, fade=1.0, protect=0.0, batch=32, seed=at.seed)
    as_far = AsFar(radii=tuple(ways), of="stage", match="^body")
    return falling(compose(tuner, as_far), 5e-5, _epochs(at.layers, first))


def _softmax(method: Callable[[], Method]) -> Callable[[Place, bool, Sequence[float]], Stage]:
    return lambda at, first, ways: falling(method(), _rate(at.layers, first), _epochs(at.layers, first))


def _anchored(kind: str, strength: float) -> Method:
    return L2(strength) if kind.startswith("L2") else EWC(strength)


TUNINGS = {
    "frozen": Tuning(lambda at, first, ways: Stage(Imprint())),
    "fine-tuning": Tuning(_softmax(Method), softmax=True),
    "MIST": Tuning(_mist("gradients")),
    "chance": Tuning(_mist("chance")),
    "dense": Tuning(_dense),
    "HybridUpdate": Tuning(_softmax(lambda: HybridUpdate(probe=14, batch=32, warmup=50)), softmax=True),
    "L2 on attention": Tuning(
        _softmax(lambda: _anchored("L2", CHOSEN["L2 on attention"])), softmax=True, frozen=ATTENTION
    ),
    "EWC on attention": Tuning(
        _softmax(lambda: _anchored("EWC", CHOSEN["EWC on attention"])), softmax=True, frozen=ATTENTION
    ),
    "joint": Tuning(
        lambda at, first, ways: falling(Method(), 5e-5, 4 if at.layers == 2 else 3), softmax=True, joint=True
    ),
}
FIRST = ("fine-tuning", "MIST", "chance", "dense")
EVERY = ("fine-tuning", "MIST", "chance", "dense", "HybridUpdate", "L2 on attention", "EWC on attention")
ROWS = {  # how a row is called: the tuning, and whether it is for the first task only
    "frozen": ("frozen", True),
    **{f"{name}, first task": (name, True) for name in FIRST},
    **{f"{name}, every task": (name, False) for name in EVERY},
    "joint": ("joint", False),
}


def scene_of(args: argparse.Namespace, place: Place, body: Body, joint: bool) -> Scene:
    """Rows and tasks; all classes as one task where they come at once."""
    source: Source = load(getattr(args, place.data))
    assert body.tokenizer is not None
    source = source.tokenized(body.tokenizer)
    rows, tests, count = DATA[place.data]
    train = some_of_each(source.train.y, rows, place.seed, "sentences")
    test = some_of_each(source.test.y, tests, place.seed, "test sentences")
    tasks = in_tasks(range(len(source.classes)), count, place.seed, "classes")
    if joint:
        tasks = [[c for task in tasks for c in task]]
    picked = Picked(source.train, train), Picked(source.test, test)
    return Scene(*picked, source.train.y[train], source.test.y[test], tasks)


def run(args: argparse.Namespace, place: Place, row: str) -> None:
    """Tune, read every head, and write what was found beside the table; leave rows alone that another process runs."""
    path = args.work / f"{place}-{row.replace(' ', '-').replace(',', '')}.safetensors"
    found = path.with_suffix(".found.json")
    claim = found.with_suffix(".claimed")
    name, first = ROWS[row]
    if name == "dense":
        run(args, place, f"MIST, {'first' if first else 'every'} task")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return
    tuning = TUNINGS[name]
    body = backbone(args.backbone, layers=place.layers, normalize=False, seed=place.seed)
    scene = scene_of(args, place, body, tuning.joint)
    stage = tuning.stage(place, first, _ways_of_mist(args, place, first) if name == "dense" else ())
    if first:
        stage = replace(stage, when="first")
    shared = args.work / f"{place}{'-joint' if tuning.joint else ''}.first.safetensors"
    known = {tuple(name.split()): t for name, t in load_file(shared).items()} if shared.exists() else {}
    fresh = not known
    about = tabled(scene, body, stage, place.seed, path, tuning.frozen, averages=True, known=known)
    if fresh:
        own = shared.with_suffix(f".{getpid()}")  # renamed when complete, as others may read it
        save_file({" ".join(name): t.clone() for name, t in known.items()}, own)
        own.replace(shared)
    told: dict[str, Any] = {
        "seconds": about["seconds"]["tuning"],
        "cosine": cosine(path, len(scene.tasks)),
        "motion": motion(about["motion"]),
        "distances": [way["distance"] for way in about["motion"]],
    }
    if tuning.softmax and not first:
        told["softmax"] = summary([[100 * share for share in row] for row in about["own by task"]], about["own"])
    moves = not (first or tuning.joint)
    for head, make in HEADS.items():
        kinds = {"stale": (None, "")} | ({"transported": (Linear(), ""), "taken anew": (None, "last")} if moves else {})
        for kind, (drift, as_of) in kinds.items():
            asked = kind != "taken anew"
            r = answered(LDC(head=make(), drift=drift), path, scene, as_of=as_of, averages=asked)
            by_task = [[100 * share for share in row] for row in r["by task"]]
            told.setdefault(head, {})[kind] = {
                "last": r["last"],
                **({"average": r["average"], "forgetting": forgetting(by_task)} if asked else {}),
            }
    found.write_text(json.dumps(told), encoding="utf-8")
    path.unlink()  # large, and what is known of it stands beside
    print(place, row, json.dumps(told), flush=True)


def _ways_of_mist(args: argparse.Namespace, place: Place, first: bool) -> list[float]:
    """How far MIST went in each task of the same place."""
    row = f"MIST, {'first' if first else 'every'} task"
    found = args.work / f"{place}-{row.replace(' ', '-').replace(',', '')}.found.json"
    while not found.exists():  # another process runs it
        sleep(5)
    return json.loads(found.read_text(encoding="utf-8"))["distances"]


def motion(ways: list[dict[str, float]]) -> dict[str, float]:
    """How far the backbone is in the end, and the mean share of its entries that a task moved, of tasks that moved any."""
    moved = [way["moved"] for way in ways if way["moved"]]
    return {"from_start": ways[-1]["from_start"], "moved": statistics.fmean(moved) if moved else 0.0}


def cosine(path: Path, tasks: int) -> float:
    """Mean cosine of the test rows' last features to their first ones."""
    table = load_file(path)
    pairs = [(table[f"0/test{j}"], table[f"{tasks}/test{j}"]) for j in range(tasks)]
    return float(torch.cat([F.cosine_similarity(a, b) for a, b in pairs]).mean())


def forgetting(by_task: list[list[float]]) -> float:
    """Mean over the earlier tasks of their best accuracy before, less the last."""
    earlier = range(len(by_task[-1]) - 1)
    lost = [max(row[j] for row in by_task[:-1] if j < len(row)) - by_task[-1][j] for j in earlier]
    return statistics.fmean(lost) if lost else 0.0


def summary(by_task: list[list[float]], shares: list[float]) -> dict[str, float]:
    """Last, average, and forgetting."""
    return {"last": 100 * shares[-1], "average": 100 * statistics.fmean(shares), "forgetting": forgetting(by_task)}


def choose(args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Accuracy of the softmax head on training sentences held out, by strength: 2 layers, three tasks of another order."""
    found: dict[str, dict[str, float]] = {}
    place = Place("banking77", 2, ORDER)
    for kind, strengths in STRENGTHS.items():
        for strength in strengths:
            body = backbone(args.backbone, layers=2, normalize=False, seed=ORDER)
            scene = scene_of(args, place, body, joint=False)
            held = some_of_each(scene.y, 15, ORDER, "kept")
            rest = torch.ones(len(scene.y), dtype=torch.bool)
            rest[held] = False
            out = rest.nonzero().flatten()
            scene = Scene(
                Picked(scene.train, held), Picked(scene.train, out), scene.y[held], scene.y[out], scene.tasks[:3]
            )
            path = args.work / f"choose-{kind.replace(' ', '-')}-{strength:g}.safetensors"
            stage = falling(_anchored(kind, strength), _rate(2, False), _epochs(2, False))
            own = tabled(scene, body, stage, ORDER, path, ATTENTION, averages=True)["own"]
            found.setdefault(kind, {})[f"{strength:g}"] = round(100 * own[-1], 2)
            print(kind, strength, own, flush=True)
    return found


def weakest(accuracies: dict[str, float], rows: int) -> float:
    """The lowest strength whose accuracy (percent, of so many rows) is within a standard error of the best one."""
    best = max(accuracies.values())
    error = (best * (100 - best) / rows) ** 0.5
    return min(float(strength) for strength, accuracy in accuracies.items() if accuracy >= best - error)


def gathered(args: argparse.Namespace) -> dict[str, Any]:
    """Means and standard deviations over seeds of all that was found."""
    made: dict[str, Any] = {}
    for data, layers in product(DATA, (6, 2)):
        rows: dict[str, Any] = {}
        for row in ROWS:
            name = row.replace(" ", "-").replace(",", "")
            files = sorted(args.work.glob(f"{data}-{layers}-*-{name}.found.json"))
            if files:
                told = {f.name.split("-")[2]: json.loads(f.read_text(encoding="utf-8")) for f in files}
                rows[row] = {"seeds": len(told), **_spread(list(told.values())), "by_seed": told}
        if rows:
            made[f"{data}, {layers} layers"] = rows
    return made


def _spread(told: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean and the standard deviation of each number."""
    found: dict[str, Any] = {}
    for key, value in told[0].items():
        if isinstance(value, dict):
            found[key] = _spread([t[key] for t in told])
        elif isinstance(value, (int, float)):
            all_of_them = [float(t[key]) for t in told]
            spread = statistics.stdev(all_of_them) if len(told) > 1 else 0.0
            found[key] = [round(statistics.fmean(all_of_them), 4), round(spread, 4)]
    return found


def paired(rows: dict[str, Any], one: str, other: str, head: str, kind: str = "stale") -> dict[str, Any] | None:
    """The difference of two rows' last accuracies on the same seeds: mean, standard deviation, each."""
    if one not in rows or other not in rows:
        return None
    a, b = rows[one]["by_seed"], rows[other]["by_seed"]
    other_kind = "stale" if other == "frozen" else kind
    apart = [a[s][head][kind]["last"] - b[s][head][other_kind]["last"] for s in a if s in b]
    spread = statistics.stdev(apart) if len(apart) > 1 else 0.0
    return {"mean": round(statistics.fmean(apart), 3), "sd": round(spread, 3), "each": [round(d, 2) for d in apart]}


FLOORS = [  # layers, row, head, at least so much above the frozen encoder
    (6, "MIST, first task", "RanPAC 2000", -0.5),
    (2, "fine-tuning, first task", "RanPAC 2000", 0.8),
    (2, "fine-tuning, first task", "nearest mean", 2.0),
]


def claims(made: dict[str, Any]) -> dict[str, Any]:
    """What is asked of Banking77, and whether it holds; CLINC150 is told beside it."""
    told = {}
    for (layers, row, head, least), data in product(FLOORS, DATA):
        apart = paired(made.get(f"{data}, {layers} layers", {}), row, "frozen", head)
        if apart:
            holds = apart["mean"] >= least
            told[f"{data}, {layers} layers: {row} + {head}, above frozen"] = {
                **apart,
                "at_least": least,
                "holds": holds,
            }
    return told


def sparsity(made: dict[str, Any]) -> dict[str, Any]:
    """What MIST gives beyond its controls, seed by seed."""
    told = {}
    for place, rows in made.items():
        for when, other, head in product(("first", "every"), ("chance", "dense"), ("nearest mean", "RanPAC 2000")):
            for kind in ("stale",) if when == "first" else ("stale", "transported"):
                apart = paired(rows, f"MIST, {when} task", f"{other}, {when} task", head, kind)
                if apart:
                    told[f"{place}, {when} task, {head} {kind}: MIST less {other}"] = apart
    return told


def main() -> None:
    """Run what was not run yet, then gather all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="a folder of all-MiniLM-L6-v2, or its id on the hub")
    parser.add_argument("--banking77", type=Path, required=True)
    parser.add_argument("--clinc150", type=Path, required=True)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--layers", nargs="+", type=int, choices=(2, 6), default=[2, 6])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/intents"),
        help="what was run; several processes may share it. After an interruption, delete what is claimed and not found",
    )
    parser.add_argument("--read", action="store_true", help="tune nothing")
    parser.add_argument("--choose", action="store_true", help="look for the strengths of L2 and EWC, and end")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work.mkdir(parents=True, exist_ok=True)
    chosen = args.work / "chosen.json"
    if args.choose:
        found = choose(args)
        chosen.write_text(json.dumps(found), encoding="utf-8")
        print({kind: weakest(accuracies, 165) for kind, accuracies in found.items()})
        return
    if not args.read:
        for row, layers, data, seed in product(args.only, args.layers, args.data, args.seeds):
            run(args, Place(data, layers, seed), row)
    made = gathered(args)
    result = {
        "about": "Class-incremental intents on all-MiniLM-L6-v2: accuracies in percent; [mean, standard deviation over seeds].",
        "command": "python benchmarks/intents.py --backbone ENCODER --banking77 FOLDER --clinc150 FOLDER",
        "machine": f"{cpu()}, one thread, beside other work; not all rows were run on one machine",
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("nacre", "torch", "transformers")},
        },
        "chosen": {
            "strengths": CHOSEN,
            "by": json.loads(chosen.read_text(encoding="utf-8")) if chosen.exists() else None,
        },
        "claims": claims(made),
        "sparsity": sparsity(made),
        "figures": made,
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for place, told in result["claims"].items():
        print(place, told)


if __name__ == "__main__":
    main()
