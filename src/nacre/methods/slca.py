"""SLCA: a slow learner below the head, and a head that is aligned on draws from class statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import bare, head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.shards import local
from ..core.state import Tensors, setting, state
from ..core.stream import Task
from ..heads import Alignment, ClassStatistics, competing, features_of, head_of

OFF = Alignment(epochs=0)
TINY = 1e-14  # keeps the slope of a length finite at 0


def _full() -> ClassStatistics:
    return ClassStatistics(covariance="full")


@dataclass
class SLCA(Method):
    """Move what lies below the head slowly; after each task train the head on draws from the statistics of all classes.

    Training: cross-entropy in which rows of the present task compete among its classes (`classes = "task"`; replayed rows of
    others compete among all). The published rates are 1e-4 below the head and 1e-2 for the head; either give the optimizer such
    groups, or let `slow` = 0.01 scale each *applied* move of what lies below the head: under any optimizer that is a rate of
    `slow` times the head's, where scaling the gradient does nothing under Adam.

    After a task the mean and covariance of its classes' features are kept, and from the second task on the head alone is
    trained on rows drawn of all classes, those of task t_c of t from N((0.9 + 0.1 t_c / t) mu_c, Sigma_c + 1e-4 I); see
    `Alignment`. There logits z are z / (mean over tasks of |z of the task's classes|) / temperature, so that no task's rows of
    the head win by their length.

    The backbone moves on, and statistics of earlier tasks stay as they were taken: `stale` names these tasks. With full
    covariances C classes take C width^2 numbers; `ClassStatistics()` keeps a low rank. Where heads are told apart, all classes
    are aligned as those of one head. Beside a method that copies the model when a task ends, stand before it.

    Differences from the published code: dropout in the head is off during alignment; a class that comes back counts as one of
    the task that brought it last.

    Paper: SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model (arXiv 2303.05118).

    Raises:
        BadSetting: the statistics keep no covariance of a class.
        BadModel: no single module makes the model's logits of its features.

    >>> from nacre.heads import Alignment
    >>> SLCA(slow=0.01, alignment=Alignment(epochs=3)).temperature
    0.1
    """

    paper: ClassVar[Paper | None] = Paper(
        "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model", 2023, "2303.05118"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"slow": 1.0, "classes": "all", "alignment": OFF}

    slow: float = setting(
        1.0, "factor on every applied move below the head; 1 leaves rates to the optimizer's groups", low=0.0, high=1.0
    )
    classes: Literal["task", "all"] = setting("task", "what rows of the present task compete among")
    temperature: float | None = setting(
        0.1,
        "divides logits scaled by their mean length over tasks (tau); None aligns on the logits as they are",
        low=1e-6,
    )
    alignment: Alignment = setting(Alignment, "how the head is trained on draws")
    statistics: ClassStatistics = setting(_full, "what is kept of each class")
    present: list[int] = state(list)  # classes of this task
    since: dict[str, int] = state(dict)  # class -> the task that brought it last, counted from 1
    tasks: int = state(int)  # with rows, learned
    heads: list[str] = state(list)  # names of the modules that read the answer

    @classmethod
    def examples(cls) -> Iterator[Method]:
        quick = Alignment(epochs=2, samples=8)
        yield cls(slow=0.1, alignment=quick)
        yield cls(temperature=None, alignment=quick, statistics=ClassStatistics(rank=4))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics.covariance not in ("full", "low_rank"):
            raise BadSetting(
                f'SLCA.statistics needs covariance = "full" or "low_rank", not {self.statistics.covariance!r}: leave the '
                "setting out"
            )

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "shape_weights" or self.slow < 1)

    def prepare(self, model: nn.Module) -> None:
        self.heads = list(head_prefixes(bare(model)))

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.present = list(task.classes)

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        return competing(logits, batch.y, self.present) if self.classes == "task" else logits

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        below = [n for n in old if self.needs_old(n) and n in new]
        if below:
            torch._foreach_lerp_([local(new[n]) for n in below], [local(old[n]) for n in below], 1 - self.slow)
        return new

    def needs_old(self, name: str) -> bool:
        return self.slow < 1 and not name.startswith(("parts.", *(f"{h}." for h in self.heads)))

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows or task.train is None:
            return
        z, y = features_of(model, task.train, "SLCA", task.device)
        self.statistics.take(model, task, z, y)
        self.tasks += 1
        self.since |= {str(c): self.tasks for c in y.unique().tolist()}
        if self.tasks > 1 and self.alignment.epochs:
            head = head_of(model, task.train.take(torch.arange(min(8, task.rows))).to(task.device), "SLCA")
            since = {int(c): t for c, t in self.since.items()}
            self.alignment.train(head, self.statistics, since, task.index, loss=self._aligned)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)

    def _aligned(self, logits: Tensor, y: Tensor) -> Tensor:
        """The cross-entropy of drawn rows; logits (rows, classes met)."""
        if self.temperature is not None:
            task = torch.tensor(list(self.since.values()), device=logits.device)
            of = F.one_hot(task.unique(return_inverse=True)[1]).to(logits)  # (classes met, tasks)
            lengths = (logits.square() @ of).clamp_min(TINY).sqrt()
            logits = logits / lengths.mean(1, keepdim=True) / self.temperature
        return F.cross_entropy(logits, y)
