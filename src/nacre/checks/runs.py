"""Short runs of a part, and how the ends of two of them are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import checkpoint
from ..core.dice import dice
from ..core.method import Method, compose, leaves, parts_of, trains
from ..core.method import as_met as given_to
from ..core.model import bare
from ..core.optim import MadeOptimizer
from ..core.rows import Batch
from ..core.rule import Rule
from ..core.stream import Experience, experiences
from ..learner import Learner, Listener, Stage
from .worlds import SEED, VECTORS, View, World

ADAMW = MadeOptimizer("adamw", 0.01, [{"match": "head", "lr": 0.02}], {"weight_decay": 0.05})
SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})
Stream = Sequence[Experience]


def learner(
    part: Rule, world: World = VECTORS, model: nn.Module | None = None, seed: int | None = None, **settings: Any
) -> Learner:
    """A learner of one stage with hard settings: dropout, BatchNorm, augmentation, accumulation, clipping."""
    usual: dict[str, Any] = {"batch_size": 6, "epochs": 2, "accumulate": 2, "clip": 1.0, "augment": world.augment}
    method = as_method(part)
    usual["optimizer"] = ADAMW if trains(method) else None
    stage = Stage(method, **{**usual, **{k: v for k, v in settings.items() if k in Stage.__dataclass_fields__}})
    rest = {k: v for k, v in settings.items() if k not in Stage.__dataclass_fields__}
    return Learner(
        world.model() if model is None else model, (stage,), seed=3 + SEED.get() if seed is None else seed, **rest
    )


def as_method(part: Rule) -> Method:
    """The part as a method; a bare rule is composed into one."""
    return part if isinstance(part, Method) else compose(part)


def finish(who: Learner, stream: Stream, *listeners: Listener) -> Learner:
    """Go on to the end of the stream."""
    for _ in who.learn(stream, *listeners):
        pass
    return who


def method_of(who: Learner) -> Method:
    """The one method of a learner."""
    method = who.stages[0].method
    assert isinstance(method, Method)
    return method


def joins(part: Rule) -> bool:
    """Whether a part is trained on the whole stream at once."""
    return any(m.joins for m in leaves(part) if isinstance(m, Method))


def as_met(part: Rule, stream: Stream) -> Stream:
    """The experiences as this part meets them: joined or accumulated where it asks for that."""
    return list(experiences(given_to(stream, part)))


def tests_of(stream: Stream) -> Batch:
    """The test rows of a whole stream as one batch, without task ids."""
    rows = [v.all() for met in stream for v in met.tests.values() if isinstance(v, View)]
    first = rows[0].x
    if isinstance(first, dict):
        x: Any = {k: torch.cat([r.x[k] for r in rows]) for k in first}
    else:
        x = torch.cat([r.x for r in rows])
    return Batch(x, torch.cat([r.y for r in rows]))


def end_of(who: Learner, stream: Stream) -> dict[str, Any]:
    """All that a run leaves: weights, the state of its part, trained parts, and what it answers on the test rows."""
    method = method_of(who)
    return {
        "model": copied(bare(who.model).state_dict()),
        "state": copied(method.state_dict()),
        "parts": copied(parts_of(method).state_dict()),
        "answers": copied(who.predict(tests_of(stream))),
    }


def copied(tree: Any) -> Any:
    """A tree of plain values and tensors that shares no memory with the first."""
    if isinstance(tree, Tensor):
        return tree.detach().clone()
    if isinstance(tree, Mapping):
        return {k: copied(v) for k, v in tree.items()}
    return [copied(v) for v in tree] if isinstance(tree, (list, tuple)) else tree


def tensors_of(tree: Any) -> Iterable[Tensor]:
    """Every tensor in a tree."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_of(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from tensors_of(value)


def finite(tree: Any) -> bool:
    """Whether every number of every floating tensor is one."""
    return all(bool(t.isfinite().all()) for t in tensors_of(tree) if t.is_floating_point())


def gap(a: Any, b: Any, place: str = "", within: float = 0.0) -> str:
    """Where two trees first differ, and by how much; empty where they are equal, bit for bit unless `within` is given."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return _tensor_gap(a, b, place, within)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.keys() != b.keys():
            return f"{place or 'it'} holds {sorted(map(str, set(a) ^ set(b)))[:3]} on one side only"
        return next((g for k in a if (g := gap(a[k], b[k], f"{place}/{k}".lstrip("/"), within))), "")
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if len(a) != len(b):
            return f"{place} has {len(a)} entries on one side and {len(b)} on the other"
        return next(
            (g for k, (x, y) in enumerate(zip(a, b, strict=True)) if (g := gap(x, y, f"{place}/{k}", within))), ""
        )
    same = a == b or (isinstance(a, float) and isinstance(b, float) and ((a != a and b != b) or abs(a - b) <= within))
    return "" if same else f"{place} is {a!r} on one side and {b!r} on the other"


def _tensor_gap(a: Tensor, b: Tensor, place: str, within: float) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{place} is {a.dtype} {tuple(a.shape)} on one side and {b.dtype} {tuple(b.shape)} on the other"
    a, b = a.detach().cpu().contiguous(), b.detach().cpu().contiguous()
    if not a.numel() or torch.equal(a.flatten().view(torch.uint8), b.flatten().view(torch.uint8)):
        return ""
    far = (a.double() - b.double()).abs()
    far = torch.where(a == b, 0.0, far)  # infinities
    far = torch.where(a.isnan() & b.isnan(), 0.0, far)
    most = float("nan") if far.isnan().any() else far.max().item()
    if within and most <= within:
        return ""
    return f"{place} differs in {int((far != 0).sum()) or 'the signs of zeros of'} of {a.numel()} entries by up to {most:.2g}"


class Saves(Listener):
    """Writes checkpoints at every border and at chosen steps of the whole run."""

    def __init__(self, folder: Path, steps: Sequence[int] = (), borders: bool = True):
        self.folder, self.steps, self.borders, self.count = folder, set(steps), borders, 0

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        self.count += 1
        if self.count in self.steps:
            self._write(learner, f"step {learner.step} of task {learner.experience}")

    def stage_ends(self, learner: Learner) -> None:
        if self.borders:
            self._write(learner, f"the end of task {learner.experience}")

    def _write(self, learner: Learner, where: str) -> None:
        checkpoint.save(self.folder / where.replace(" ", "-"), {"learner": learner.state_dict(), "where": where})

    def places(self) -> list[Path]:
        """The checkpoints written."""
        return sorted(self.folder.iterdir()) if self.folder.is_dir() else []


def resumed(place: Path, who: Learner, stream: Stream, *listeners: Listener) -> tuple[str, dict[str, Any]]:
    """Carry a fresh learner on from a checkpoint to the end; where it stood, and its end."""
    tree = checkpoint.load(place)
    who.load_state_dict(tree["learner"])
    return tree["where"], end_of(finish(who, stream, *listeners), stream)


def some_steps(total: int, count: int, seed: int) -> list[int]:
    """`count` different step numbers of 1..total, by counted dice."""
    return sorted((1 + torch.randperm(max(total, 1), generator=dice(seed, "steps")))[:count].tolist())


def steps_of(who: Learner, stream: Stream) -> int:
    """How many optimizer steps a fresh learner of these runs takes on a stream."""
    stage = who.stages[0]
    if stage.optimizer is None:
        return 0
    rows = [met.task.rows for met in as_met(method_of(who), stream)]
    return sum(stage.epochs * -(-n // stage.batch_size) for n in rows)


def in_a_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes away."""
    return tempfile.TemporaryDirectory(prefix="nacre-check-")


def renamed(met: Experience, **changes: Any) -> Experience:
    """The experience with other facts about its task."""
    return Experience(replace(met.task, **changes), met.tests)
