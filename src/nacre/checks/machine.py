"""What holds on other rows, in other precision and on other machines."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.method import trains
from ..core.rows import TensorRows
from ..core.snapshot import Snapshot
from ..core.state import Stateful
from ..core.stream import Experience
from ..learner import Learner
from ..memory import Block
from .check import Case, check
from .kinds import learns
from .runs import (
    SGD,
    Saves,
    Stream,
    as_method,
    end_of,
    finish,
    finite,
    gap,
    in_a_folder,
    learner,
    method_of,
    resumed,
    tensors_of,
    tests_of,
)
from .worlds import SHORT, VECTORS, WORLDS, calm


@check(learns)
def fits_every_world(case: Case) -> None:
    """It learns from vectors, from uint8 pictures with a conv net, and from token ids with a text encoder."""
    for world in WORLDS:
        stream = world.stream(SHORT)
        who = finish(learner(case.fresh(), world), stream)
        scores = who.predict(tests_of(stream))
        figure = "" if finite(scores[scores != -torch.inf]) else "scores are not finite"
        case.holds(not figure, f"it learns from {world.name}", figure, "rows taken to be vectors")
        stays_finite(case, f"in the world of {world.name}", who)


@check(learns)
def dtypes(case: Case) -> None:
    """bf16 and fp64 weights and autocast work, with statistics in fp32 or better."""
    for dtype in (torch.bfloat16, torch.float64):
        stream = _cast(VECTORS.stream(SHORT), dtype)
        who = learner(case.fresh(), model=VECTORS.model().to(dtype), augment=None)
        finish(who, stream)
        stays_finite(case, f"with {dtype} weights", who)
        low = _low_precision(method_of(who))
        case.holds(
            not low,
            "statistics are kept in fp32 or better",
            f"{low} is not",
            "state made like a bf16 weight; rows belong in a Block",
        )
    stream = VECTORS.stream(SHORT)
    who = finish(learner(case.fresh(), precision="bf16"), stream)
    stays_finite(case, "under autocast", who)
    low = _low_precision(method_of(who))
    case.holds(
        not low, "statistics are kept in fp32 or better", f"{low} is not, under autocast", "sums inside autocast"
    )


@check(learns)
def memory_is_flat(case: Case) -> None:
    """The bytes of its state after 3 and after 12 tasks obey the law that `keeps` declares."""
    law = getattr(case.part, "keeps", "constant")
    same = [_bytes_after(case, ((0, 1),) * tasks) for tasks in (3, 12)]
    wide = [_bytes_after(case, tuple((2 * t, 2 * t + 1) for t in range(tasks))) for tasks in (3, 12)]
    if law == "per task":
        figure = f"{same[0]} bytes after 3 tasks, {same[1]} after 12" if same[1] > 4.4 * same[0] + 64 else ""
    else:
        figure = f"{same[0]} bytes after 3 tasks of the same classes, {same[1]} after 12" if same[1] > same[0] else ""
    case.holds(
        not figure, f"its state is {law}", figure, "lists that grow with the stream, or a law not declared in `keeps`"
    )
    figure = f"{wide[0]} bytes after 6 classes, {wide[1]} after 24" if wide[1] > 4.4 * wide[0] + 64 else ""
    case.holds(not figure, "its state grows with the classes at most linearly", figure, "pairs of classes, or of tasks")


@check(learns, needs="cuda")
def devices(case: Case) -> None:
    """CPU and GPU agree within 1e-4 after 5 steps, and a checkpoint of one loads on the other."""
    stream = VECTORS.stream(SHORT, rows=5)
    settings = {**smooth(case.part), "batch_size": 4, "epochs": 1, "accumulate": 1}
    ends = []
    with in_a_folder() as folder:
        for device, other in (("cpu", "cuda"), ("cuda", "cpu")):
            saves = Saves(Path(folder) / device)
            who = learner(case.fresh(), model=calm().to(device), **settings)
            finish(who, stream, saves)
            ends.append(_on_cpu(end_of(who, stream)))
            strange = [
                t for t in tensors_of(method_of(who).state_dict()) if t.ndim and t.device.type not in (device, "cpu")
            ]
            case.holds(not strange, "state lies where the model is", f"{len(strange)} tensors do not", "a device kept")
            again = learner(case.fresh(), model=calm().to(other), **settings)
            _, end = resumed(saves.places()[0], again, stream)
            ends.append(_on_cpu(end))
    for end in ends[1:]:
        figure = gap(ends[0]["model"], end["model"], within=1e-4)
        case.holds(not figure, "CPU and GPU agree within 1e-4", figure, "a draw from the device's own generator")


@check(learns, needs="compile")
def compiles(case: Case) -> None:
    """With `torch.compile` of the model the end is equal within 1e-5, and state names no wrapper."""
    stream = VECTORS.stream(SHORT)
    settings = smooth(case.part)
    plain = end_of(finish(learner(case.fresh(), model=calm(), **settings), stream), stream)
    model = torch.compile(calm())
    assert isinstance(model, nn.Module)
    who = finish(learner(case.fresh(), model=model, **settings), stream)
    end = end_of(who, stream)
    wrapped = [n for n in _keys(end) if "_orig_mod" in n]
    case.holds(
        not wrapped, "names are those of the bare model", f"{wrapped[:2]} are not", "a wrapper's named_parameters()"
    )
    figure = gap(plain["model"], end["model"], within=1e-5)
    case.holds(
        not figure, "a compiled model ends within 1e-5 of the plain one", figure, "a second, uncompiled forward pass"
    )


def stays_finite(case: Case, how: str, who: Learner) -> None:
    """Every weight of a learner is a number."""
    good = finite(who.model.state_dict())
    case.holds(
        good, f"{how}: weights stay finite", "some are NaN or infinite", "a mean over nothing, or a division by 0"
    )


def smooth(part: Any) -> dict[str, Any]:
    """Settings under which rounding stays small: Adam makes steps of full size out of gradients that are all but zero."""
    return {"optimizer": SGD} if trains(as_method(part)) else {}


def _cast(stream: Stream, dtype: torch.dtype) -> Stream:
    def rows(view: Any) -> TensorRows:
        batch = view.all()
        return TensorRows(batch.x.to(dtype), batch.y)

    return [
        Experience(replace(m.task, train=rows(m.task.train)), {n: rows(v) for n, v in m.tests.items()}) for m in stream
    ]


def _low_precision(part: Any, place: str = "") -> str:
    """The first floating tensor of a part's state that has less than 32 bits; copies of rows and of weights keep their own."""
    if isinstance(part, (Block, Snapshot)):
        return ""
    for f in fields(part):
        value = getattr(part, f.name, None)
        if isinstance(value, Stateful) or (isinstance(value, tuple) and any(isinstance(v, Stateful) for v in value)):
            for inner in value if isinstance(value, tuple) else (value,):
                if found := _low_precision(inner, f"{place}{f.name}."):
                    return found
        elif f.metadata.get("kind") == "state":
            for t in tensors_of(value):
                if t.is_floating_point() and t.element_size() < 4:
                    return f"{place}{f.name} ({t.dtype})"
    return ""


def _bytes_after(case: Case, splits: tuple[tuple[int, ...], ...]) -> int:
    stream = VECTORS.stream(splits)
    part = finish(learner(case.fresh(), epochs=1), stream).stages[0].method
    return _bytes(part.state_dict())


def _bytes(tree: Any) -> int:
    if isinstance(tree, Tensor):
        return tree.nbytes
    if isinstance(tree, dict):
        return sum(_bytes(v) for v in tree.values())
    if isinstance(tree, list):
        return sum(map(_bytes, tree))
    return 0 if isinstance(tree, str) else 8  # names and digests are no memory to speak of


def _keys(tree: Any) -> list[str]:
    if not isinstance(tree, dict):
        return []
    return [*map(str, tree), *(k for v in tree.values() for k in _keys(v))]


def _on_cpu(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return tree.cpu()
    if isinstance(tree, dict):
        return {k: _on_cpu(v) for k, v in tree.items()}
    return [_on_cpu(v) for v in tree] if isinstance(tree, list) else tree
