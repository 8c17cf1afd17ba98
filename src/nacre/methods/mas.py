"""Memory aware synapses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.method import Method
from ..core.model import Outputs, evaluating
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.state import Tensors, setting, state
from ..core.stream import Task
from ..importance import named, sensitivity, summed, weights_of
from ..losses import anchored


@dataclass
class MAS(Method):
    """Pull each weight toward its value after the last task, as hard as the model's answers depend on it.

    After a task Omega += mean over rows of |d |f(x)|^2 / dw|, with f(x) the logits, one row at a time and without labels;
    loss += strength * sum Omega (w - a)^2, a the weights after the last task. Rows that a head gained later have Omega = 0.

    Differences from other libraries: some take the size of a batch's mean gradient, which is smaller, or average Omega over
    tasks instead of adding it up; strengths do not carry over from these.

    Paper: Memory Aware Synapses: Learning what (not) to forget (arXiv 1711.09601).

    >>> MAS(strength=0.1).rows
    200
    """

    paper: ClassVar[Paper | None] = Paper("Memory Aware Synapses: Learning what (not) to forget", 2017, "1711.09601")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    strength: float = setting(1.0, "how strong the pull is (lambda)", low=0.0)
    rows: int = setting(200, "rows of a task that the sensitivity is taken of", low=1)
    decay: float = setting(1.0, "factor on older tasks' importance at each new task", low=0.0, high=1.0)
    select: str | None = setting(None, "names of the weights that are anchored, as an expression; all by default")
    seed: int = setting(0, "seeds the choice of rows")
    importance: Tensors = state()  # Omega
    anchor: Tensors = state()  # a

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if not self.importance or not self.strength:
            return 0.0
        return anchored(dict(model.named_parameters()), self.importance, self.anchor, 2 * self.strength)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows or task.train is None or task.outputs is None:
            return
        params = named(weights_of(model), self.select, "MAS")
        chosen = torch.randperm(task.rows, generator=dice(self.seed, task.index, "rows"))[: self.rows]
        with evaluating(model):
            fresh = sensitivity(task.outputs, params, task.train, chosen, device=task.device)
        self.importance = summed(self.importance, fresh, self.decay)
        self.anchor |= {n: params[n].detach().to(f.dtype, copy=True) for n, f in fresh.items()}
