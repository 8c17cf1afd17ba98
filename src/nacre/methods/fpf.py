"""FPF: the modules that forget most, trained now and then on a balanced memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, evaluating, head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import COPIES, Site
from ..core.shards import gradients, is_sharded
from ..core.state import Tensors, grown, setting, state
from ..core.stream import Task
from ..memory import AnyMemory, ClassBalanced

WHOLE = 1 - 1e-6  # from here on a sum of parts is a whole step


@dataclass
class FPF(Method):
    """Let all weights learn the stream alone, then move a few modules, and nothing else, on rows of a balanced memory.

    A phase is `iters` steps of SGD with momentum on the chosen modules, with an optimizer of its own that begins anew; of the
    stage's optimizer it changes nothing. Each step draws `batch` rows of the memory and takes the stage's own loss of them.
    Norm layers that are chosen see them in train mode, so that their running statistics follow; all other modules keep their
    buffers and weights bit for bit. What the composition asks to rest throughout the stage rests in a phase, too.

    Phases come at the end of each stage, or with `every` after so many steps of the stream, wherever tasks begin or end
    (k-FPF): let it divide the number of steps, so that the last one ends with a phase. Rows are admitted after each step. The
    modules are norm layers and the head unless `modules` names others; `nacre.importance.module_sensitivity` says which
    forget most. Choosing none near the input keeps the backward pass short.

    After the idea and the outline of the algorithm; rates and numbers of iterations of the paper were not available. Its
    variant that holds answers to stored ones (k-FPF-KD) is left out.

    Paper: Does Continual Learning Equally Forget All Parameters? (arXiv 2304.04158).

    Raises:
        BadSetting: `modules` finds nothing that trains, each rank holds a part of what it finds, or with `every` the optimizer
            keeps copies of the weights, which would undo a phase.

    >>> FPF(every=100, memory=ClassBalanced(capacity=200)).iters
    100
    """

    paper: ClassVar[Paper | None] = Paper(
        "Does Continual Learning Equally Forget All Parameters?", 2023, "2304.04158", venue="ICML 2023"
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"iters": 0}

    iters: int = setting(100, "steps of a phase", low=0)
    every: int = setting(0, "steps of the stream between phases; 0 = one at the end of each stage", low=0)
    modules: str | None = setting(
        None, "names of the modules that phases train, as an expression; norm layers and the head by default"
    )
    batch: int = setting(64, "remembered rows a step of a phase", low=1)
    rate: float = setting(0.01, "learning rate of phases", low=0.0, high=100.0)
    momentum: float = setting(0.9, "momentum of phases", low=0.0, high=1.0)
    memory: AnyMemory = setting(ClassBalanced, "which rows are kept")
    seed: int = setting(0, "seeds the choice of rows")
    steps: int = state(int)  # of the stream
    phases: int = state(int)
    rests: Tensors = state()  # what rests throughout the present stage

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(iters=4, batch=6, rate=0.05, memory=ClassBalanced(capacity=20))
        yield cls(iters=3, every=3, modules="head", batch=6, memory=ClassBalanced(capacity=20))

    def overrides(self, hook: str) -> bool:
        needed = {"begin_stage": self.memory.hears_tasks, "end_stage": not self.every}
        return super().overrides(hook) and needed.get(hook, True)

    def wants_whole(self, name: str) -> bool:
        return False  # what rests is asked for anew at each step

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.memory.begin(task)

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        self.memory.add(batch)
        if batch.before + batch.share < WHOLE:
            return
        self.steps += 1
        self.rests = site.rule.still(site)
        if self.every and self.steps % self.every == 0 and site.task is not None:
            if held := sorted({key for own in site.optimizer.state.values() for key in COPIES & own.keys()}):
                raise BadSetting(
                    f"FPF with every = {self.every}, but {type(site.optimizer).__name__} keeps copies of the weights "
                    f"({', '.join(held)}), which would undo a phase: set every = 0, or take another optimizer"
                )
            self._phase(site.model, site.task)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not self.every and task.rows:
            self._phase(model, task)
        self.rests = {}

    def _phase(self, model: nn.Module, task: Task) -> None:
        """Train what is chosen; every rank does all of it, and gets the same bits."""
        chosen = self._chosen(model)
        params = {
            f"{m}.{n}".lstrip("."): p
            for m, module in chosen.items()
            for n, p in module.named_parameters(recurse=False)
            if p.requires_grad
        }
        if self.iters and not params:
            raise BadSetting(
                f"FPF: modules = {self.modules!r} finds nothing that trains: name modules with weights that require a gradient"
            )
        if parts := [n for n, p in params.items() if is_sharded(p)]:
            raise BadSetting(f"FPF trains weights whole, and of {parts[0]} each rank has a part: leave fully_shard out")
        held = [p.data for p in params.values()]
        speed = [torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for p in held]
        rests = [
            grown(self.rests[n].to(p.device), p.data, False) if n in self.rests else None for n, p in params.items()
        ]
        self.phases += 1
        for k in range(self.iters if len(self.memory) else 0):
            rows = self.memory.sample(self.batch, "fpf", self.seed, self.phases, k)
            assert rows is not None and task.augment is not None and task.objective is not None
            with torch.enable_grad(), _norms_learning(model, list(chosen.values()) if len(rows) > 1 else []):
                loss = task.objective(task.augment(rows.to(task.device), "fpf", self.phases, k))
                found = gradients(loss, list(params.values()))
            for g, p, v, rest in zip(found, held, speed, rests, strict=True):
                if g is not None:
                    v.mul_(self.momentum).add_(g if rest is None else g.masked_fill(rest, 0))
                    p.sub_(v, alpha=self.rate)

    def _chosen(self, model: nn.Module) -> dict[str, nn.Module]:
        """The modules that phases train, by name."""
        heads = head_prefixes(model)

        def is_chosen(name: str, module: nn.Module) -> bool:
            if self.modules is not None:
                return re.search(self.modules, name) is not None
            return "norm" in type(module).__name__.lower() or any(f"{name}.".startswith(f"{h}.") for h in heads)

        return {n: m for n, m in model.named_modules() if is_chosen(n, m)}


@contextmanager
def _norms_learning(model: nn.Module, chosen: list[nn.Module]) -> Iterator[None]:
    """Inside, everything is in eval mode but norm layers among these modules."""
    with evaluating(model):
        for module in chosen:
            if "norm" in type(module).__name__.lower():
                module.train()
        yield
