"""Sequences in which a backbone is tuned on every task, and tables of what it made of all rows at each moment.

A sequence is tuned once, by the library's learner. Its table holds, for the moment before each task and after the last, the
features of the rows that some head may ask for then; every correction is afterwards run on the same table, so only the
correction differs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nacre.backbones import Body, Classifier
from nacre.core.dice import dice
from nacre.core.method import Method
from nacre.core.model import fingerprint
from nacre.core.rows import Batch, Picked, Rows
from nacre.core.stream import Experience, Task
from nacre.heads import GrowingCosine, features_of
from nacre.learner import Learner, Stage
from nacre.metrics import Motion, score
from nacre.metrics.motion import total


@dataclass
class Scene:
    """Rows and classes of a class-incremental sequence.

    Attributes:
        train: All training rows that are used.
        test: All test rows.
        y: Labels of the training rows.
        test_y: Labels of the test rows.
        tasks: The classes of each task.
        anchors: Rows without labels, by name.
    """

    train: Rows
    test: Rows
    y: Tensor
    test_y: Tensor
    tasks: list[list[int]]
    anchors: dict[str, Rows] = field(default_factory=dict)

    def stream(self) -> list[Experience]:
        """Its experiences; labels are numbered in the order of arrival."""
        labels, found, first = self.labels(), [], 0
        for k, task in enumerate(self.tasks):
            train, test = (
                Picked(rows, of(y, task), labels) for rows, y in ((self.train, self.y), (self.test, self.test_y))
            )
            found.append(Experience(Task(k, train, tuple(range(first, first + len(task)))), {f"task{k}": test}))
            first += len(task)
        return found

    def labels(self) -> Tensor:
        """(classes,) the place of each class in the order of arrival."""
        order = [c for task in self.tasks for c in task]
        labels = torch.full((max(order) + 1,), -1)
        labels[order] = torch.arange(len(order))
        return labels


def of(y: Tensor, classes: Sequence[int]) -> Tensor:
    """Where the labels are among these classes."""
    return torch.isin(y, torch.tensor(classes)).nonzero().flatten()


def some_of_each(y: Tensor, count: int, *place: int | str, skip: int = 0) -> Tensor:
    """Positions of `count` rows of each class, chosen by dice, behind `skip` others; fewer where there are fewer."""
    found = []
    for c in y.unique().tolist():
        mine = (y == c).nonzero().flatten()
        found.append(mine[torch.randperm(len(mine), generator=dice(*place, c))][skip : skip + count])
    return torch.cat(found).sort()[0]


def in_tasks(classes: Sequence[int], count: int, *place: int | str) -> list[list[int]]:
    """The classes in a drawn order, cut into tasks."""
    order = [classes[k] for k in torch.randperm(len(classes), generator=dice(*place)).tolist()]
    size = len(order) // count
    return [order[low : low + size] for low in range(0, size * count, size)]


@dataclass
class Imprint(Method):
    """Start the head's rows of new classes at the means of their features of length 1."""

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        z, y = features_of(model, task.train, "Imprint", task.device)
        head: Any = model.head
        with torch.no_grad():
            for c in y.unique().tolist():
                head.weight[c] = F.normalize(F.normalize(z[y == c], dim=1).mean(0), dim=0)


Known = dict[tuple[str, str], Tensor]
"""Features of named rows by the fingerprint of the backbone."""


def tabled(
    scene: Scene,
    body: Body | nn.Module,
    stage: Stage,
    seed: int,
    path: Path,
    frozen: str = "",
    averages: bool = False,
    known: Known | None = None,
) -> dict[str, Any]:
    """Tune on every task and write the table to a file; what is known of it, read again where it lies there.

    Args:
        scene: The sequence.
        body: The backbone; it is tuned.
        stage: How.
        seed: Of the learner.
        path: The table, safetensors; what is known of it stands beside, as JSON.
        frozen: An expression for the names of the weights that do not train at all.
        averages: Whether test rows are seen after each task, and not only before the first and after the last.
        known: Features of the scene's rows under backbones that were seen before; those of the first one are added.
    """
    told = path.with_suffix(".json")
    if told.exists():
        return json.loads(told.read_text(encoding="utf-8"))
    width: Any = body.width
    model = Classifier(body, GrowingCosine(width, seed=seed))
    for name, param in model.body.named_parameters():
        if frozen and re.search(frozen, name):
            param.requires_grad_(False)
    learner, stream = Learner(model, (stage,), seed=seed), scene.stream()
    table: dict[str, Tensor] = {}
    held: Known = dict(known or {})
    seconds, own, motion = {"tuning": 0.0, "features": 0.0}, [], Motion()
    motion.begin(model.body)
    ways, states = [], []

    def see(name: str, rows: Rows) -> None:
        began = perf_counter()
        key = name.partition("/")[2], states[-1]
        if key not in held:
            held[key] = features_of(model, rows, "the table")[0]
            if known is not None and name.startswith("0/"):
                known[key] = held[key]
        table[name] = held[key]
        seconds["features"] += perf_counter() - began

    def moment(k: int) -> None:
        states.append(fingerprint(model.body))
        if k < len(stream) and (rows := stream[k].task.train) is not None:
            see(f"{k}/train{k}", rows)
        if k:
            for j in range(k if averages or k == len(stream) else 0):
                see(f"{k}/test{j}", stream[j].tests[f"task{j}"])
            if (rows := stream[k - 1].task.train) is not None:
                see(f"{k}/train{k - 1}", rows)
        for name, rows in scene.anchors.items():
            see(f"{k}/{name}", rows)

    moment(0)
    for j, met in enumerate(stream):  # what the backbone gave before anything was tuned
        see(f"0/test{j}", met.tests[f"task{j}"])
        if met.task.train is not None:
            see(f"0/train{j}", met.task.train)
    began = perf_counter()
    for met in learner.learn(stream):
        seconds["tuning"] += perf_counter() - began
        way = motion.since(model.body)
        distance = sum(row["distance"] ** 2 for row in way.values()) ** 0.5
        ways.append({"distance": distance, **{k: total(way)[k] for k in ("relative", "moved", "from_start")}})
        motion.begin(model.body)
        moment(k := met.task.index + 1)
        if f"{k}/test0" in table:
            with torch.no_grad():
                answers = [model.head(table[f"{k}/test{j}"]).argmax(1) for j in range(k)]
            own.append(rights(answers, stream))
        print(path.stem, k, f"{seconds['tuning']:.0f} + {seconds['features']:.0f} s", ways[-1], flush=True)
        began = perf_counter()
    for j, met in enumerate(stream):
        if met.task.train is not None:
            see(f"{len(stream)}/train{j}", met.task.train)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: t.clone() for name, t in table.items()}, path)
    took = {k: round(v, 1) for k, v in seconds.items()}
    sizes = [len(e.tests[f"task{j}"]) for j, e in enumerate(stream)]
    shares = [sum(r * n for r, n in zip(row, sizes, strict=False)) / sum(sizes[: len(row)]) for row in own]
    about = {"own": shares, "own by task": own, "motion": ways, "seconds": took, "tasks": len(stream)}
    told.write_text(json.dumps(about), encoding="utf-8")
    return about


def rights(answers: Sequence[Tensor], stream: Sequence[Experience]) -> list[float]:
    """Of each task met so far the share of its test rows that is answered rightly."""
    found = zip(answers, stream, strict=False)
    return [float((a == _labels(e.tests[f"task{j}"])).float().mean()) for j, (a, e) in enumerate(found)]


class Seen(nn.Module):
    """A backbone that looks its features up: rows are their places in a table, and a moment says which table.

    Each moment is another backbone, by fingerprint too.
    """

    moment: Tensor

    def __init__(self, tables: list[Tensor]):
        super().__init__()
        self.tables = tables
        self.register_buffer("moment", torch.zeros((), dtype=torch.long))
        self.head = nn.Identity()

    def forward(self, x: Tensor) -> Any:
        """Features (rows, width) of places (rows,)."""
        z = self.tables[int(self.moment)][x]
        if not bool(z.isfinite().all()):
            raise ValueError(f"the table of moment {int(self.moment)} lacks rows that are asked for")
        return _Answer(z.new_zeros(len(z), 1), z)


@dataclass
class _Answer:
    logits: Tensor
    features: Tensor


@dataclass
class Tuned(Method):
    """Stands for the tuning of a task: from now on the table of the next moment is looked up."""

    def end_stage(self, model: nn.Module, task: Task) -> None:
        model.get_buffer("moment").fill_(task.index + 1)


@dataclass(frozen=True)
class Places:
    """Rows that are places in a table."""

    first: int
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Any:
        """The places of the rows at these positions."""
        return Batch(self.first + index, self.y[index], index)


def looked_up(
    path: Path, scene: Scene, anchors: Sequence[str] = (), last: bool = False
) -> tuple[Seen, list[Experience]]:
    """A table as a model and a stream.

    Args:
        path: The table.
        scene: What it is of.
        anchors: Which anchors each task brings.
        last: Whether everything is seen as the last moment sees it (the bound), or as the first (frozen): see `at`.
    """
    table, stream = load_file(path), scene.stream()
    width = next(iter(table.values())).shape[1]
    rows: dict[str, tuple[int, int]] = {}
    total = 0
    for name, t in table.items():
        rows.setdefault(short := name.partition("/")[2], (total, len(t)))
        total = max(total, sum(rows[short]))
    tables = [torch.full((total, width), float("nan")) for _ in range(len(stream) + 1)]
    for name, t in table.items():
        moment, _, short = name.partition("/")
        low, count = rows[short]
        tables[int(moment)][low : low + count] = t
    found = []
    some = torch.cat([torch.arange(rows[name][0], sum(rows[name])) for name in anchors]) if anchors else None
    for k, met in enumerate(stream):
        assert met.task.train is not None
        train = Places(rows[f"train{k}"][0], _labels(met.task.train))
        tests = {name: Places(rows[f"test{k}"][0], _labels(t)) for name, t in met.tests.items()}
        unlabelled = Listed(some) if some is not None else None
        found.append(Experience(Task(k, train, met.task.classes, anchors=unlabelled), tests))
    return Seen([tables[-1]] * len(tables) if last else tables), found


@dataclass(frozen=True)
class Listed:
    """Rows of no class that are these places in a table."""

    places: Tensor

    def __len__(self) -> int:
        return len(self.places)

    def take(self, index: Tensor) -> Any:
        """The places of the rows at these positions."""
        return Batch(self.places[index], torch.zeros(len(index), dtype=torch.long), index)


def _labels(rows: Rows) -> Tensor:
    return rows.take(torch.arange(len(rows))).y


def answered(
    method: Method, path: Path, scene: Scene, *, anchors: Sequence[str] = (), as_of: str = "", averages: bool = False
) -> dict[str, Any]:
    """Accuracies of a read-out over a table, and its processor seconds a task, features being looked up.

    Args:
        method: The read-out.
        path: The table.
        scene: What it is of.
        anchors: Rows without labels that each task brings.
        as_of: `"first"` or `"last"`: everything is seen as by the backbone of that moment.
        averages: Whether it is asked after each task, and not only after the last.
    """
    model, stream = looked_up(path, scene, anchors)
    if as_of:
        model.tables = [model.tables[0 if as_of == "first" else -1]] * len(model.tables)
    learner = Learner(model, (Stage(Tuned()), Stage(method)), seed=0)
    found, shares, took, began = [], [], [], process_time()
    for met in learner.learn(stream):
        assert met.task.train is not None
        if met.task.index == len(stream) - 1 or averages:  # heads are made when they are first asked
            learner.predict(met.task.train.take(torch.zeros(1, dtype=torch.long)))
        took.append(process_time() - began)
        if met.task.index == len(stream) - 1 or averages:
            seen = [
                (rows, score(learner.predict, rows)) for e in stream[: met.task.index + 1] for rows in e.tests.values()
            ]
            found.append([share for _, share in seen])
            shares.append(sum(len(rows) * share for rows, share in seen) / sum(len(rows) for rows, _ in seen))
        began = process_time()
    last, average = 100 * shares[-1], 100 * sum(shares) / len(shares)
    return {"last": last, "average": average, "by task": found, "seconds": took, "method": method}
