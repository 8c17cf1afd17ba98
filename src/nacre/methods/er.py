"""Experience replay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.method import Method
from ..core.model import Outputs
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import setting
from ..memory import ClassBalanced, Reservoir, replayed


@dataclass
class ER(Method):
    """Train on each batch together with rows of the past, as one batch.

    The loss is the mean over the stream's rows and the replayed ones alike. Replayed rows pass the same augmentation; what
    is stored is the raw row, admitted after the step. The replayed rows of a step are drawn once and shared out among its
    micro-batches, on all ranks.

    Paper: On Tiny Episodic Memories in Continual Learning (arXiv 1902.10486).

    >>> ER(rows=16, memory=ClassBalanced(capacity=200)).memory.capacity
    200
    """

    paper: ClassVar[Paper | None] = Paper("On Tiny Episodic Memories in Continual Learning", 2019, "1902.10486")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"rows": 0}

    rows: int = setting(64, "rows of the past per optimizer step", low=0)
    memory: Reservoir | ClassBalanced = setting(Reservoir, "which rows are kept: Reservoir or ClassBalanced")

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, memory=Reservoir(capacity=20))
        yield cls(rows=8, memory=ClassBalanced(capacity=20))

    def shape_batch(self, batch: Batch) -> Batch:
        past = self.memory.draw(self.rows, batch)
        return replayed(batch, past) if past is not None else batch

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        self.memory.add(batch)
