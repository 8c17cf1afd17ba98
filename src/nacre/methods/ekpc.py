"""EKPC-style learning: an elastic shared adapter, and class means that follow it by a trained drift."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, bare, evaluating, fingerprint, head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.state import Tensors, grown, setting, state
from ..core.stream import Task
from ..heads import Alignment, ClassStatistics, competing, features_of, head_of, kernel_shift
from ..importance import fisher, summed
from ..losses import anchored

OFF = Alignment(epochs=0)


def _full() -> ClassStatistics:
    return ClassStatistics(covariance="full")


@dataclass
class EKPC(Method):
    """Pull what features depend on toward its last values, move old class means along, and train the head on draws of all.

    EKPC-style: the full text was not at hand, so this is rebuilt from its abstract over SSIAT, its nearest published kin.

    Importance: after a task Omega_i = mean over rows of (d |z(x)|^2 / d w_i)^2, z the features, one row at a time, for all that
    trains below the head; divided by its maximum in each tensor, and kept as the maximum or the sum over tasks. Then
    loss += strength / 2 * sum_i Omega_i (w_i - a_i)^2, a the weights after the last task.

    Compensation: the features of a task's rows are taken when it begins and when it ends, both times in the order of the rows,
    in eval mode and without augmentation. The mean of each earlier class moves by the moves of the rows around it
    (`kernel_shift`, with start = "kernel"). Then the head and a further move of each of these means are trained together, on
    rows drawn of all classes (`Alignment`, from the second task on); the moves are added to the means. With `drift_lr = 0` the
    closed form stays as it is, which is SSIAT's. Covariances stay as they were taken. Tasks whose means were moved are stale
    no more.

    It is meant for one shared adapter, `compose(TaskAdapters(per="all"), EKPC())`, and works on whatever trains. While a task
    is learned, its rows' features are a part of the state. Rows compete as those of SLCA do (`classes`), and no cosine head
    with a margin is put in, as SSIAT has one: give the model its head.

    Paper: EKPC: Elastic Knowledge Preservation and Compensation for Class-Incremental Learning (arXiv 2506.12351); the closed
    form: Semantically-Shifted Incremental Adapter-Tuning is A Continual ViTransformer (arXiv 2403.19979).

    Raises:
        BadSetting: the statistics keep no covariance of a class.
        BadModel: no single module makes the model's logits of its features.

    >>> EKPC(strength=10.0, drift_lr=0.0).accumulate
    'max'
    """

    paper: ClassVar[Paper | None] = Paper(
        "EKPC: Elastic Knowledge Preservation and Compensation for Class-Incremental Learning", 2025, "2506.12351"
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0, "classes": "all", "alignment": OFF}

    strength: float = setting(1.0, "how strong the pull on important weights is (lambda)", low=0.0)
    accumulate: Literal["max", "sum"] = setting("max", "what is kept of the importance over tasks")
    rows: int = setting(200, "rows of a task that its importance is taken of", low=1)
    classes: Literal["task", "all"] = setting("task", "what rows of the present task compete among")
    start: Literal["kernel", "zero"] = setting("kernel", "what the moves of old means start from")
    width: float = setting(4.0, "how far a row's move reaches, in units of the features (sigma)", low=1e-6)
    drift_lr: float = setting(
        0.01, "rate at which the moves of old means are trained; 0 leaves them at the start", low=0.0
    )
    alignment: Alignment = setting(Alignment, "how head and moves are trained on draws")
    statistics: ClassStatistics = setting(_full, "what is kept of each class")
    seed: int = setting(0, "seeds the choice of rows")
    importance: Tensors = state()  # Omega
    anchor: Tensors = state()  # a
    present: list[int] = state(list)  # classes of this task
    since: dict[str, int] = state(dict)  # class -> the task that brought it last, counted from 1
    tasks: int = state(int)  # with rows, learned
    before: Tensor | None = state(lambda: None)  # features of this task's rows when it began, (rows, width)
    met: int = state(lambda: -1)  # the task that they are of
    drift: Tensor | None = state(lambda: None)  # how the means moved in the last task, (classes before it, width)

    @classmethod
    def examples(cls) -> Iterator[Method]:
        quick = Alignment(epochs=2, samples=8)
        yield cls(rows=8, alignment=quick)
        yield cls(rows=8, accumulate="sum", start="zero", alignment=quick, statistics=ClassStatistics(rank=4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics.covariance not in ("full", "low_rank"):
            raise BadSetting(
                f'EKPC.statistics needs covariance = "full" or "low_rank", not {self.statistics.covariance!r}: leave the '
                "setting out"
            )

    def meet(self, model: nn.Module, task: Task) -> None:
        if self.met != task.index and self._follows and task.rows and not self.statistics.stale(model):
            self.met, self.before = task.index, features_of(model, task.train, "EKPC", task.device)[0]

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.present = list(task.classes)

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        return competing(logits, batch.y, self.present) if self.classes == "task" else logits

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if not self.importance or not self.strength:
            return 0.0
        return anchored(dict(model.named_parameters()), self.importance, self.anchor, self.strength)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows or task.train is None:
            return
        z, y = features_of(model, task.train, "EKPC", task.device)
        known = len(self.statistics.count)
        lost = self._follows and self.before is None  # something else has moved the backbone before the task began
        self.drift = self._follow(z)
        self.statistics.take(model, task, z, y)
        self.tasks += 1
        self.since |= {str(c): self.tasks for c in y.unique().tolist()}
        self._align(model, task, known)
        if self.drift is not None and not lost:
            self.statistics.taken = dict.fromkeys(self.statistics.taken, fingerprint(model))
        self._weigh(model, task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)

    @property
    def _follows(self) -> bool:
        """Whether there are means that features of rows seen before and after are to move."""
        return self.start == "kernel" and self.tasks > 0

    def _follow(self, after: Tensor) -> Tensor | None:
        """Move the means of all classes met along with the rows around them; the moves, (classes, width)."""
        mean, before, self.before, self.met = self.statistics.mean, self.before, None, -1
        if mean is None or before is None:
            return None
        shift = kernel_shift(mean, before, after, self.width).masked_fill((self.statistics.count == 0)[:, None], 0.0)
        mean += shift
        return shift

    def _align(self, model: nn.Module, task: Task, known: int) -> None:
        """Train the head, and with it the moves of the means of classes that this task did not bring."""
        assert task.train is not None and self.statistics.mean is not None
        if self.tasks < 2 or not self.alignment.epochs:
            return
        head = head_of(model, task.train.take(torch.arange(min(8, task.rows))).to(task.device), "EKPC")
        since = {int(c): t for c, t in self.since.items()}
        old = [c for c, t in since.items() if t < self.tasks]
        table = self.statistics.mean.new_zeros(len(old), self.statistics.mean.shape[1])
        trained = {"table": table, "moving": old, "table_lr": self.drift_lr}
        self.alignment.train(head, self.statistics, since, task.index, **trained)
        if self.drift_lr and old:
            self.statistics.mean[old] += table
            self.drift = torch.zeros_like(self.statistics.mean[:known]) if self.drift is None else self.drift
            self.drift[old] += table

    def _weigh(self, model: nn.Module, task: Task) -> None:
        """Take the importance of what trains below the head, and anchor it here."""
        heads = tuple(f"{h}." for h in head_prefixes(bare(model)))
        params = {
            n: p for n, p in model.named_parameters() if p.requires_grad and p.numel() and not n.startswith(heads)
        }
        if not self.strength or not params or task.train is None or task.outputs is None:
            return
        outputs = task.outputs

        def length(batch: Batch) -> Tensor:
            z = outputs(batch).need_features("EKPC")
            size = (z if z.dtype == torch.float64 else z.float()).square().sum()
            return size if size.requires_grad else size + 0 * next(iter(params.values())).sum()

        chosen = torch.randperm(task.rows, generator=dice(self.seed, task.index, "rows"))[: self.rows]
        with evaluating(model):
            fresh = fisher(length, outputs, params, task.train, chosen, labels="empirical", device=task.device)
        fresh = {n: f / f.max().clamp_min(torch.finfo(f.dtype).tiny) for n, f in fresh.items()}
        if self.accumulate == "sum":
            self.importance = summed(self.importance, fresh)
        else:
            most = {n: torch.maximum(grown(self.importance[n], f), f) for n, f in fresh.items() if n in self.importance}
            self.importance |= fresh | most
        self.anchor |= {n: params[n].detach().to(f.dtype, copy=True) for n, f in fresh.items()}
