"""EMA: an average of the weights on the way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from ..core.method import Method
from ..core.model import Outputs, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import setting, state
from ..core.stream import Task
from ..rules import Average


@dataclass
class EMA(Method):
    """Train the weights as usual, and keep an average of them that answers, or takes their place when a stage ends.

    mean <- decay * mean + (1 - decay) * w after every so many steps; it begins at the weights before the first one. Floating
    buffers, such as running statistics, are averaged with the weights. With `use = "answer"` one average goes on over all
    tasks; with `"replace"` each stage has its own, and the next stage starts from it.

    Paper: Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep learning
    results (arXiv 1703.01780). Only the average of its teacher is taken, not its consistency loss. Averages with equal weights
    are older: Acceleration of Stochastic Approximation by Averaging (SIAM J. Control Optim. 30, 1992).

    >>> EMA(decay=0.99, use="replace").every
    1
    """

    paper: ClassVar[Paper | None] = Paper(
        "Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised deep learning "
        "results",
        2017,
        "1703.01780",
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"decay": 0.0, "every": 1}

    decay: float = setting(0.999, "how much of the average stays at each step", low=0.0, high=1.0)
    every: int = setting(1, "steps of a stage between two of the average", low=1)
    use: Literal["answer", "replace"] = setting(
        "answer", "the average answers, or the weights become it at the end of a stage"
    )
    average: Average = state(Average)

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(decay=0.8)
        yield cls(decay=0.5, every=2, use="replace")

    def overrides(self, hook: str) -> bool:
        unheard = {"answer": "end_stage", "replace": "predict"}[self.use]
        return super().overrides(hook) and hook != unheard

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.average.meet(self.average.live(model), anew=self.use == "replace")

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if not batch.before and site.step % self.every == 0:  # once a step
            live = self.average.live(site.model, site)
            self.average.meet(live)
            self.average.follow(live, 1.0 - self.decay)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if self.use == "replace":
            self.average.put_into(model)
            self.average = Average()

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        if not self.average.mean or self.use == "replace":
            return forward(model, batch).logits
        return self.average.answer(model, batch).logits
