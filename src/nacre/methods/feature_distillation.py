"""Distillation of features: what is read off the backbone is held to what it was."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.dice import dice
from ..core.errors import BadSetting, shown
from ..core.method import Method
from ..core.model import Outputs, evaluating, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.snapshot import Snapshot
from ..core.state import setting, state
from ..core.stream import Task
from ..losses import weighted_mean
from ..memory import part

WHO = "FeatureDistillation"


@dataclass
class FeatureDistillation(Method):
    """Hold the features of the present rows to those of the model as it was when the stage began.

    loss += strength * mean over rows of |f(x) / |f(x)| - f'(x) / |f'(x)||^2, with f' the features of a copy of the model that
    was taken when the stage began and never moves; without `normalize`, of the features as they are. All rows of a batch
    count, replayed ones too, by their weights. The copy answers in eval mode, on the rows as the stage sees them; f(x) are the
    features of the stage's own pass, dropout and batch statistics included.

    It protects statistics of features that were taken before, and before the first task there are none: it begins with the
    second task (`wait`). With `wait = 0` the first is held to the features the model came with.

    `rows`, which only Python can give, are rows of any kind without labels that are of use, such as text of another domain:
    `given` of them are drawn at each step, by counted dice, and count with `given_strength`. Both passes over these are in eval
    mode, so at the beginning of a stage their term is 0.

    Differences from the published form: there features are not normalised, the head rests, and the copy is taken once.

    Paper: Less-forgetting Learning in Deep Neural Networks (arXiv 1607.00122).

    Attributes:
        rows: Rows beside the task's.

    Raises:
        BadSetting: what is given as rows is none, or no row.

    >>> FeatureDistillation(strength=10.0).wait
    1
    """

    paper: ClassVar[Paper | None] = Paper("Less-forgetting Learning in Deep Neural Networks", 2016, "1607.00122")
    fidelity: ClassVar[Fidelity] = "inspired"
    excused: ClassVar[dict[str, str]] = {
        "seeded": "its seed draws from the rows that are given in Python, and the rows of one world fit no other"
    }
    off: ClassVar[dict[str, Any]] = {"strength": 0.0, "given_strength": 0.0}

    strength: float = setting(50.0, "weight of the distance on the batch's own rows", low=0.0)
    normalize: bool = setting(True, "compare features scaled to length 1")
    wait: int = setting(1, "tasks of the stream before it begins", low=0)
    given_strength: float = setting(50.0, "weight of the distance on rows given in Python", low=0.0)
    given: int = setting(64, "of these rows, how many an optimizer step draws", low=1)
    seed: int = setting(0, "seeds which of these rows are drawn")
    rows: Any | None = field(  # core.rows.Rows
        default=None, repr=False, compare=False, metadata={"help": "rows beside the task's; only Python can give them"}
    )
    teacher: Snapshot = state(Snapshot)
    steps: int = state(int)  # that drew from the rows given

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(strength=1.0, normalize=False, wait=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rows is not None and not (callable(getattr(self.rows, "take", None)) and len(self.rows)):
            raise BadSetting(
                f"{WHO}.rows is at least one row, given in Python (such as TensorRows), not {shown(self.rows)}: leave it out "
                "of a config"
            )

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "after_step" or self.rows is not None)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        if task.index >= self.wait and (self.strength or self._draws):
            self.teacher.take(model)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if not self.teacher.taken:
            return 0.0
        term: Tensor | float = 0.0
        if self.strength:
            then = self.teacher.answer(model, batch).need_features(WHO)
            term = self.strength * weighted_mean(self._far(out.need_features(WHO), then), batch.weight)
        if self._draws:
            term = term + self.given_strength * self._on_given(model, batch)
        return term

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        self.steps += not batch.before  # once a step

    @property
    def _draws(self) -> bool:
        return self.rows is not None and self.given_strength > 0

    def _on_given(self, model: nn.Module, piece: Batch) -> Tensor | float:
        """The distance on the rows that this step draws; its micro-batches, on all ranks, share them out.

        It is divided by its share of the drawn rows, so that the whole step's is their mean.
        """
        assert self.rows is not None
        first, last = part(self.given, piece)
        if first == last:
            return 0.0
        index = torch.randint(len(self.rows), (self.given,), generator=dice(self.seed, "given", self.steps))
        rows = self.rows.take(index[first:last]).to(piece.y.device)
        rows = replace(rows, task=None)  # features are of no task
        with evaluating(model):
            now = forward(model, rows).need_features(WHO)
        then = self.teacher.answer(model, rows).need_features(WHO)
        return self._far(now, then).sum() / (self.given * piece.share)

    def _far(self, now: Tensor, then: Tensor) -> Tensor:
        """The squared distance of each row, (rows,), in fp32 or better."""
        now, then = (z if z.dtype == torch.float64 else z.float() for z in (now, then))
        if self.normalize:
            now, then = F.normalize(now, dim=1), F.normalize(then, dim=1)
        return (now - then).square().sum(1)
