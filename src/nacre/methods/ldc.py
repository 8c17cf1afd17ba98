"""LDC: class statistics that follow a backbone which is tuned on every task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.dice import dice
from ..core.errors import BadSetting, shown
from ..core.method import Method
from ..core.model import exact, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch, Picked, Rows
from ..core.scrambled import Scrambled
from ..core.state import setting, state
from ..core.stream import Task
from ..heads import (
    AnyDrift,
    AnyReadout,
    ClassStatistics,
    Drift,
    Linear,
    NearestMean,
    RandomRidge,
    Readout,
    features_of,
)


def _statistics() -> ClassStatistics:
    return ClassStatistics(precision="float32")


@dataclass
class LDC(Method):
    """Move no weight; answer by a head made of class statistics, which are taken along wherever others move the backbone.

    Of each class a count, a mean and a covariance of features are kept (see `ClassStatistics`), and no rows. Before anything of
    a task is learned its rows are seen through the backbone as it is, and after its last stage through the backbone as it has
    become, in the same order, in eval mode, without augmentation. On these pairs a drift map is fitted (`drift`, by default
    one linear map), all statistics are transported by it, the head is made anew of them, and the present rows are added
    exactly. A backbone that did not move leaves the statistics their bits. Any tuner goes before it in the same stage, or in
    stages before: plain fine-tuning, sparse tuning, adapters, penalties, replay; nothing may move the backbone behind it.
    Features that a task id chooses an adapter for do not drift with the others: there leave `drift` out. `RandomRidge` keeps
    its sums beside the statistics, (M, M + classes) numbers.

    The pairs may also be of rows without labels (`Task.anchors`; `anchors`), which pays where tasks are small or of unlike
    domains, and of the task's own token sequences with tokens put in at random (`scrambled`).

    Differences from the published method: the map is found in closed form and not by gradient descent, it moves covariances
    too, as AdaGauss does (arXiv 2409.18265), and the head is any that can be made of these statistics.

    Paper: Exemplar-free Continual Representation Learning via Learnable Drift Compensation (arXiv 2407.08536).

    Raises:
        BadSetting: the statistics keep less than the head needs; or, when a task begins, something has moved the backbone that
            was not followed.

    >>> from nacre.heads import Linear, NearestMean
    >>> LDC(head=NearestMean(), drift=Linear(ridge=1.0)).normalize
    True
    """

    paper: ClassVar[Paper | None] = Paper(
        "Exemplar-free Continual Representation Learning via Learnable Drift Compensation", 2024, "2407.08536"
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    follows: ClassVar[bool] = True
    excused: ClassVar[dict[str, str]] = {
        "seeded": "its seed chooses rows to look at the backbone through, which decides nothing while nobody moves it"
    }
    keeps: ClassVar[Literal["constant", "per class", "per task"]] = "per task"

    head: AnyReadout = setting(RandomRidge, "what answers")
    drift: AnyDrift | None = setting(Linear, "how the statistics follow; None leaves them stale")
    normalize: bool = setting(True, "scale features to length 1 first")
    rows: int = setting(5000, "rows of a task that the drift map is fitted on at most", low=1)
    anchors: bool = setting(True, "fit it on the rows without labels too, where the task brings any")
    scrambled: int = setting(0, "fit it also on as many of the task's token sequences with random tokens", low=0)
    seed: int = setting(0, "seeds which rows and which tokens")
    statistics: ClassStatistics = setting(_statistics, "what is kept of each class")
    before: Tensor | None = state(lambda: None)  # features of the rows that the map is fitted on, before the task
    met: int = state(lambda: -1)  # the task that they are of
    told: dict[str, dict[str, float]] = state(dict)  # task -> how well its drift map fits

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(head=RandomRidge(width=24, draws=25), rows=6)
        yield cls(head=NearestMean(), normalize=False, rows=6)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.head, Readout):
            raise BadSetting(f"LDC.head is a head made of class statistics, such as Ridge(), not {shown(self.head)}")
        if self.drift is not None and not isinstance(self.drift, Drift):
            raise BadSetting(f"LDC.drift is a drift map, such as Linear(), or None, not {shown(self.drift)}")
        self.head.check(self.statistics)

    def meet(self, model: nn.Module, task: Task) -> None:
        if self.met == task.index or self.drift is None:
            return
        if stale := self.statistics.stale(model):
            raise BadSetting(
                f"LDC knows tasks {', '.join(map(str, stale[:9]))} by another backbone than the one that task {task.index} "
                "begins with, and follows what moves it between the beginning of a task and its own stage only: put LDC behind "
                "all that moves the backbone (a later stage, or last in its own) on every task; or leave it stale, with "
                'drift = "none"'
            )
        self.met, self.before = task.index, None
        if task.rows and self.statistics.mean is not None:
            self.before = self._seen(model, task)[0]

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if task.train is not None and task.rows:
            z, y = self._features(model, task.train, task)
            moved = self._follow(model, task, z)
            with exact(z.device):
                classes = max(len(self.statistics.count), int(y.max()) + 1)
                self.head.learn(self.statistics, z, y, classes, moved, task.index, self.normalize)
            self.statistics.take(model, task, z, y)
            self.head.forget()
        self.before, self.met = None, -1

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        out = forward(model, batch)
        if self.statistics.mean is None:
            return out.logits
        z = out.need_features("LDC")
        with exact(z.device):
            scores = self.head.scores(self.statistics, F.normalize(z, dim=1) if self.normalize else z)
        return self.statistics.closed(scores, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)

    def drifts(self) -> dict[str, dict[str, float]]:
        return self.told

    def _follow(self, model: nn.Module, task: Task, z: Tensor) -> bool:
        """Take the statistics along to the backbone as it is now; whether it had moved and they could be."""
        if self.before is None or self.drift is None or not self.statistics.stale(model):
            return False
        after, y = self._seen(model, task, z)
        with exact(z.device):
            fitted = self.drift.fit(self.before, after, y)
        self.statistics.transport(fitted.map, model)
        self.told[str(task.index)] = {k: v for k, v in fitted.told.items() if math.isfinite(v)}
        return True

    def _seen(self, model: nn.Module, task: Task, z: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features and classes (-1 = none) of what the map is fitted on, always in the same order; z, of all rows, if known."""
        assert task.train is not None
        chosen, found = torch.arange(task.rows), []
        if task.rows > self.rows:
            chosen = torch.randperm(task.rows, generator=dice(self.seed, task.index, "drift"))[: self.rows].sort()[0]
        if z is None or len(chosen) < task.rows:
            found.append(self._features(model, Picked(task.train, chosen), task))
        else:
            found.append((z, task.train.take(chosen).y.to(z.device)))
        if self.anchors and task.anchors is not None and len(task.anchors):
            found.append(self._features(model, task.anchors, task, False))
        if self.scrambled:
            some = Scrambled(task.train, self.scrambled, _vocabulary(model), (self.seed, task.index))
            found.append(self._features(model, some, task, False))
        return torch.cat([f for f, _ in found]), torch.cat([y for _, y in found])

    def _features(self, model: nn.Module, rows: Rows, task: Task, labelled: bool = True) -> tuple[Tensor, Tensor]:
        z, y = features_of(model, rows, "LDC", task.device)
        if labelled and (y.ndim != 1 or y.is_floating_point()):
            raise BadSetting(f"LDC needs one class id a row, not labels of shape {tuple(y.shape)} ({y.dtype})")
        y = y if labelled else torch.full((len(z),), -1, device=z.device)
        return F.normalize(z, dim=1) if self.normalize else z, y


def _vocabulary(model: nn.Module) -> int:
    """How many tokens the model knows: the rows of the embedding that it names as its own, else of its first one."""
    named: list[Any] = [m for m in model.modules() if callable(getattr(m, "get_input_embeddings", None))]
    found = [m.get_input_embeddings() for m in named[:1]] or [m for m in model.modules() if isinstance(m, nn.Embedding)]
    sizes = [m.num_embeddings for m in found if isinstance(m, nn.Embedding)]
    if not sizes:
        raise BadSetting(
            "LDC.scrambled puts tokens in at random, and the model has no embedding of tokens: leave it out"
        )
    return sizes[0]
