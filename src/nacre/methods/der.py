"""Dark experience replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.method import Method
from ..core.model import Outputs, evaluating, row_loss
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import scratch, setting, state
from ..core.stream import Task
from ..heads import MultiHead
from ..losses import stored_logits
from ..memory import AnyMemory, Reservoir, part, replayed

FIELD, DRAW = "logits", "der"
"""Fields of rows: the logits stored with them, and in which draw they were met (1: for their logits, 2: for their labels)."""


@dataclass
class DER(Method):
    """Pull the logits of remembered rows toward those that the model gave when it met them.

    loss += strength * mean over drawn rows of |o - z|^2 / columns, with z the logits stored with a row, in fp32. Each step
    draws `rows` rows, which pass the same augmentation as the stream's and have no part in the stage's own loss. A head that
    grew since is compared on the columns that it had: nothing then holds down later classes on old rows, for which there are
    labels (`DERpp`), or a head that has all classes from the start, as published.

    With `stored = "insertion"`, as published, z is what the model answered in training, before the step after which the row
    was admitted. With `"end"`, as in other libraries, it is what the model answers when the task has ended, in eval mode and
    without augmentation; until then a row has none and is not compared. These are two algorithms, and their results differ.

    Paper: Dark Experience for General Continual Learning: a Strong, Simple Baseline (arXiv 2004.07211).

    >>> DER(strength=0.3, memory=Reservoir(capacity=200)).stored
    'insertion'
    """

    paper: ClassVar[Paper | None] = Paper(
        "Dark Experience for General Continual Learning: a Strong, Simple Baseline", 2020, "2004.07211"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"rows": 0}
    draws: ClassVar[int] = 1

    strength: float = setting(0.1, "weight of the distance from stored logits (alpha)", low=0.0)
    rows: int = setting(64, "rows of the past per optimizer step, in each draw", low=0)
    stored: Literal["insertion", "end"] = setting("insertion", "when a row's logits are stored")
    memory: AnyMemory = setting(Reservoir, "which rows are kept")
    narrowest: int = state(int)  # the fewest columns that logits were stored with; 0 = some rows lack some
    marks: Tensor | None = scratch()  # the draw of each drawn row
    placed: tuple[Tensor, int, int] | None = scratch()  # that field of the batch, where the rows begin, how many a draw

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, memory=Reservoir(capacity=20))

    def overrides(self, hook: str) -> bool:
        if hook == "end_stage":
            return self.stored == "end"
        return super().overrides(hook) and (hook != "begin_stage" or self.memory.hears_tasks)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.memory.begin(task)

    def shape_batch(self, batch: Batch) -> Batch:
        past = self.memory.draw(self.rows, batch, self.draws)
        if past is None:
            return batch
        count = len(past) // self.draws
        if self.marks is None or len(self.marks) != len(past):
            self.marks = torch.arange(1, self.draws + 1).repeat_interleave(count)
        past.extra[DRAW] = self.marks.to(past.y.device)
        shaped = replayed(batch, past, 0.0)
        self.placed = (shaped.extra[DRAW], len(batch), count)
        return shaped

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        return self._share(batch) * self._term(batch, out) if DRAW in batch.extra else 0.0

    def _term(self, batch: Batch, out: Outputs) -> Tensor | float:
        return self._matched(batch, out, self._drawn(batch, 1)) if self.strength and FIELD in batch.extra else 0.0

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if self.stored == "end":
            return self.memory.add(batch)
        columns = out.logits.shape[-1] if batch.task is None else 0
        self.narrowest = min(self.narrowest, columns) if len(self.memory) else columns
        self.memory.add(batch, **{FIELD: _open(out.logits, batch)})

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if self.stored == "end" and len(self.memory):
            with evaluating(model), torch.no_grad():
                for index in torch.arange(len(self.memory)).split(500):
                    self._fill(index, task)

    def _fill(self, index: Tensor, task: Task) -> None:
        """Store the model's present logits with those of the rows held that have none."""
        assert task.outputs is not None
        past = self.memory.take(index)
        if FIELD in past.extra:
            without = past.extra[FIELD].isnan().flatten(1).all(1)
            index, past = index[without.cpu()], past.pick(without)
        if len(index):
            logits = task.outputs(past.to(task.device)).logits
            self.memory.fill(index, **{FIELD: _open(logits, past)})

    def _matched(self, batch: Batch, out: Outputs, rows: slice | Tensor) -> Tensor:
        """The distance from stored logits, over the rows that have some."""
        stored, now = batch.extra[FIELD][rows], out.logits[rows]
        if now.ndim > 2:  # tokens, of which each batch is padded to its own length: the places that both have
            places = min(stored.shape[1], now.shape[1])
            stored, now = stored[:, :places], now[:, :places]
        elif self.narrowest == stored.shape[-1] == now.shape[-1]:
            return self.strength * F.mse_loss(now.to(stored), stored)
        has = (stored == stored).flatten(1).any(1) if self.stored == "end" else None
        return self.strength * stored_logits(now, stored, has)

    def _drawn(self, batch: Batch, draw: int) -> slice | Tensor:
        """Where the rows of a draw stand: as they were put, or found again if others have changed the batch since."""
        if self.placed is not None and self.placed[0] is batch.extra[DRAW]:
            _, start, count = self.placed
            return slice(start + (draw - 1) * count, start + draw * count)
        return (batch.extra[DRAW] == draw).nonzero().flatten()

    def _share(self, batch: Batch) -> float:
        """The rows drawn for this micro-batch over its part of the step: 1 where they can be cut evenly."""
        whole = min(self.rows, len(self.memory))
        low, high = part(whole, batch)
        return (high - low) / (whole * batch.share)


@dataclass
class DERpp(DER):
    """Pull the logits of remembered rows toward those they had, and train on the labels of others.

    loss += strength * mean over the first draw of |o - z|^2 / columns + labels * mean over the second draw of the rows' loss
    by their labels. The two draws of a step are independent. All else is as in `DER`.

    Paper: Dark Experience for General Continual Learning: a Strong, Simple Baseline (arXiv 2004.07211), DER++.

    >>> DERpp(strength=0.1, labels=0.5, rows=32).labels
    0.5
    """

    draws: ClassVar[int] = 2

    labels: float = setting(0.5, "weight of the labels of a second draw (beta)", low=0.0)

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, memory=Reservoir(capacity=20))
        yield cls(rows=8, stored="end", memory=Reservoir(capacity=20))

    def _term(self, batch: Batch, out: Outputs) -> Tensor | float:
        pulled = super()._term(batch, out)
        return (
            pulled + self.labels * row_loss(*_picked(batch, out, self._drawn(batch, 2))).mean()
            if self.labels
            else pulled
        )


def _picked(batch: Batch, out: Outputs, rows: slice | Tensor) -> tuple[Outputs, Batch]:
    """The answers for some rows, and what of these rows a loss reads."""
    return Outputs(out.logits[rows], out.competing[rows]), Batch(None, batch.y[rows])


def _open(logits: Tensor, batch: Batch) -> Tensor:
    """Logits as they are stored, (rows, ..., classes); NaN where a head that was told the task answered for other tasks."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if batch.task is None else logits.masked_fill(logits < 0.9 * MultiHead.OTHER, torch.nan)
