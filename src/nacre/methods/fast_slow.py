"""Fast and slow weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.dice import dice
from ..core.elsewhere import lending
from ..core.method import Method
from ..core.model import Outputs, bare, evaluating, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task
from ..heads import ClassStatistics, features_of
from ..importance import fisher, sensitivity, summed
from ..losses import anchored
from ..rules import Average


@dataclass
class FastSlow(Method):
    """Train fast weights w that start each task from slow ones and are held by an anchor; let the slow weights follow them.

    - Before a task: w <- slow.
    - Each step: loss += strength / 2 * sum Omega (w - a)^2, with a the fast weights after the last task.
    - Every so many steps: slow <- slow + tau (w - slow); with `plastic` tau / (1 + Omega) for each entry, so that important
      ones follow more slowly.
    - After a task: a <- w, and Omega += the importance of each weight: its output sensitivity (MAS), or Fisher information.

    Answers are those of the slow weights, of the fast ones, or, with `"means"`, of the nearest class mean in angle among the
    features of the slow weights, taken at the end of each task. Floating buffers are slow and fast like weights. Rows that a
    head gained later have Omega = 0 and begin slow as they are. What another stage trained in between goes back to the slow
    weights too.

    Paper: Few-shot Continual Learning: a Brain-inspired Approach (arXiv 2104.09034). Only its abstract was read: a pair of fast
    and slow weights, consolidated in two steps. The rule here is a stand-in of ours.

    >>> FastSlow(tau=0.05, plastic=True).answers
    'slow'
    """

    paper: ClassVar[Paper | None] = Paper("Few-shot Continual Learning: a Brain-inspired Approach", 2021, "2104.09034")
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"tau": 1.0, "every": 1, "strength": 0.0, "plastic": False, "answers": "fast"}

    tau: float = setting(0.01, "how far slow weights go at a time, as a share of the way", low=0.0, high=1.0)
    every: int = setting(1, "steps of a stage between two of the slow weights", low=1)
    strength: float = setting(1.0, "how strong the pull toward the anchor is (lambda)", low=0.0)
    plastic: bool = setting(False, "whether important entries follow more slowly")
    kind: Literal["sensitivity", "fisher"] = setting("sensitivity", "what importance is")
    rows: int = setting(200, "rows of a task that importance is taken of", low=1)
    answers: Literal["slow", "fast", "means"] = setting("slow", "who answers")
    seed: int = setting(0, "seeds the choice of rows and, for Fisher information, of labels")
    statistics: ClassStatistics = setting(
        lambda: ClassStatistics(covariance="none"), "the class means, where they answer"
    )
    slow: Average = state(Average)
    importance: Tensors = state()  # Omega
    anchor: Tensors = state()  # a
    shares: Tensors = scratch(dict)  # tau / (1 + Omega)

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(tau=0.3, rows=8)
        yield cls(tau=0.5, every=2, plastic=True, kind="fisher", rows=8, answers="means")

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "predict" or self.answers != "fast")

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.slow.put_into(model)
        self.slow.meet(self.slow.live(model))
        self.shares = {}

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if not self.importance or not self.strength:
            return 0.0
        return anchored(dict(model.named_parameters()), self.importance, self.anchor, self.strength)

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if not batch.before and site.step % self.every == 0:  # once a step
            live = self.slow.live(site.model, site)
            self.slow.meet(live)
            self.slow.follow(live, self._shares() if self.plastic else float(self.tau))

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows or task.train is None or task.objective is None or task.outputs is None:
            return
        params = {n: p for n, p in model.named_parameters() if p.requires_grad}
        chosen = torch.randperm(task.rows, generator=dice(self.seed, task.index, "rows"))[: self.rows]
        with evaluating(model):
            if self.kind == "sensitivity":
                fresh = sensitivity(task.outputs, params, task.train, chosen, device=task.device)
            else:
                at = (self.seed, task.index)
                fresh = fisher(task.objective, task.outputs, params, task.train, chosen, seed=at, device=task.device)
        self.importance = summed(self.importance, fresh)
        self.anchor |= {n: params[n].detach().to(f.dtype, copy=True) for n, f in fresh.items()}
        if self.answers == "means":
            lending(bare(model), self.slow.cast(model), lambda: self._take_means(model, task))

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.answers == "fast" or not self.slow.mean:
            return forward(model, batch).logits
        out = self.slow.answer(model, batch)
        if self.answers == "slow" or self.statistics.mean is None:
            return out.logits
        z = out.need_features("FastSlow").double()  # which autocast leaves alone
        scores = F.normalize(z, dim=1) @ F.normalize(self.statistics.mean.to(z), dim=1).T
        return self.statistics.closed(scores, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        if self.answers != "means" or not self.slow.mean:
            return []
        return lending(bare(model), self.slow.cast(model), lambda: self.statistics.stale(model))

    def _take_means(self, model: nn.Module, task: Task) -> None:
        z, y = features_of(model, task.train, "FastSlow", task.device)
        self.statistics.take(model, task, z, y)

    def _shares(self) -> Tensors:
        """The part of the way of each entry, made once a stage and again where a tensor grew."""
        for n, mean in self.slow.mean.items():
            held = self.shares.get(n)
            if held is None or held.shape != mean.shape:
                known = grown(self.importance[n], mean) if n in self.importance else torch.zeros_like(mean)
                self.shares[n] = self.tau / (1 + known)
        return self.shares
