"""HybridUpdate: how much of the way so far is kept when a task begins, and how much of each step is taken.

It is over 300 lines because retention, which acts between tasks, and gate, which acts between steps, share their estimates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, evaluating
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch, Rows
from ..core.rule import Site
from ..core.shards import gradients, is_sharded
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task
from ..heads import warm_rows
from ..importance import fisher, mean_slope, named, weights_of
from ..losses import fold
from ..memory import AnyMemory, Reservoir
from ..rules import Level
from ..rules.gates import step_gates
from ..rules.levels import group_sums
from ..rules.retention import along, far_from, go_back, lowest, parabola, part_way

NEAR = 1 / 16  # how far back along the way the slope is taken once more, for the curvature between
PLACES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the way, where `line` looks
WHEN = "hybrid_task"  # the field that says which task a remembered row is of
LIMITS = {"continue": (1.0, 1.0), "initialised": (0.0, 1.0), "frozen": (1.0, 0.0)}
"""Named strategies: the retention and the gate that they fix."""


@dataclass
class HybridUpdate(Method):
    """Keep a share of the way from the first weights when a task begins, and take a share of each move after that.

    With D = w - w_0 the way of a group of weights (`level`) since the stream began,

        when a later task begins:  w <- w_0 + alpha D,     at each of its steps:  w <- w + beta (the move taken),

    alpha and beta in [0, 1]. `strategy` names the limits: "continue" is (1, 1), fine-tuning; "initialised" (0, 1), every task
    from w_0; "frozen" (1, 0), no move after the first task. "hybrid" takes alpha and beta from gradients, if not given.

    *Retention.* With g the gradient of the new task's loss, `estimator` says how much of D it wants kept: "newton"
    1 - g.D / D.HD, the minimum along D of a quadratic (HD by a difference of two gradients); "cosine"
    (1 + kappa cos(-g, D)) / 2; "sign" the share of entries in which -g and D have one sign; "line" the lowest point of a
    parabola through the losses at five places on D, for the "global" level. The t tasks before want a_old, by `old`: "one" 1,
    "replay" the same estimate on remembered rows, "fisher" the minimum of their folded quadratic. Both are clipped, and
    alpha = (t a_old + a_new) / (t + 1). Before slopes are taken, the head's rows for new classes are trained alone for
    `warmup` steps, which stay: the gradient through an untrained head says nothing.

    *Gate.* With r the gradient on remembered rows, or F (w - a) of the folded quadratic, beta = (t clip(r.g / g.g, 0, 1) + 1)
    / (t + 1); where r is 0, and with `old = "one"`, which knows of no r, beta is 1. It scales the move that was taken, so no
    optimizer rescales it.

    Norm layers, running statistics and heads are kept and not gated unless asked for. On weights before a BatchNorm alpha
    changes the rate more than the function. An optimizer is made anew for each task; with `optimizer_state = "kept"` its
    momenta are those of the weights before alpha, and are not reset: they push along the old way for some steps.

    After the abstract and a summary of the paper; its exact rule was not available. The estimators, the levels and the
    average over tasks are ours, from a linear theory that `nacre study update-magnitude` checks (its frozen training, which
    goes on with the least motion that fits, is "continue" here). There "newton" with `old = "one"` is below both extremes or
    level with the better one for small and medium distances of tasks, and between them beyond; "cosine" and "sign" are worse
    for small ones; to be below both everywhere, what speaks for the old tasks must be unbiased by their own training.

    Paper: Exploring the Impact of Parameter Update Magnitude on Forgetting and Generalization of Continual Learning
    (arXiv 2602.20796).

    Raises:
        BadSetting: "line" at another level than "global", the level "group" without `groups` that find something, or weights
            of which each rank holds a part.

    >>> HybridUpdate("frozen").strategy, HybridUpdate(estimator="sign", level="entry").old
    ('frozen', 'one')
    """

    paper: ClassVar[Paper | None] = Paper(
        "Exploring the Impact of Parameter Update Magnitude on Forgetting and Generalization of Continual Learning",
        2026,
        "2602.20796",
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"strategy": "continue"}

    strategy: Literal["hybrid", "continue", "initialised", "frozen"] = setting("hybrid", "adaptive, or a named limit")
    retention: float | None = setting(None, "alpha of the hybrid; estimated by default", low=0.0, high=1.0)
    gate: float | None = setting(None, "beta of the hybrid; estimated by default", low=0.0, high=1.0)
    level: Level = setting("layer", "what shares one alpha and one beta")
    groups: str | None = setting(
        None, 'for level = "group": an expression; weights in whose names it finds the same text share them'
    )
    estimator: Literal["line", "newton", "cosine", "sign"] = setting("newton", "how alpha is read from gradients")
    old: Literal["one", "replay", "fisher"] = setting("one", "what speaks for the tasks before")
    kappa: float = setting(1.0, "sharpness of the cosine estimate", low=0.0)
    probe: int = setting(50, "batches that slopes are taken of", low=1)
    batch: int = setting(64, "rows in such a batch, and remembered rows a step for the gate", low=1)
    warmup: int = setting(200, "steps of the new head rows alone before slopes are taken", low=0)
    warmup_rate: float = setting(0.1, "their learning rate", low=0.0, high=100.0)
    rows: int = setting(200, "rows of a task that its Fisher information is taken of", low=1)
    labels: Literal["sampled", "exact", "empirical"] = setting("sampled", "Fisher estimator")
    norms: bool = setting(False, "treat the weights of norm layers, too")
    head: bool = setting(False, "treat the head, too")
    select: str | None = setting(None, "names of the weights that are treated, as an expression; all by default")
    memory: AnyMemory | None = setting(None, "which rows are remembered for `replay`; a reservoir by default")
    seed: int = setting(0, "seeds the choice of rows")
    tasks: int = state(int)  # begun
    sizes: dict[str, int] = state(dict)  # rows of each tensor that is treated, in the latest task
    trained: dict[str, int] = state(dict)  # how many of them the tasks before it had
    met: list[int] = state(list)  # classes that came by
    start: Tensors = state()  # w_0
    kept: Tensors = state()  # the mean alpha of each tensor where the present task began
    importance: Tensors = state()  # F
    anchor: Tensors = state()  # a
    gates: Tensors = scratch(dict)  # beta of the present step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.old == "replay" and self.memory is None:
            self.memory = Reservoir()
        if (self.level == "group") != (self.groups is not None):
            raise BadSetting(
                f'HybridUpdate: level = "{self.level}" with groups = {self.groups!r}: groups is the expression for level = '
                '"group", such as "attn|mlp", and for no other'
            )
        if self.estimator == "line" and self.level != "global" and self._alpha is None:
            raise BadSetting(
                f'HybridUpdate: "line" takes one loss for all weights: set level = "global", not "{self.level}"'
            )

    @classmethod
    def examples(cls) -> Iterator[Method]:
        small: dict[str, Any] = {"probe": 2, "batch": 6, "warmup": 3, "rows": 6}
        yield cls(estimator="cosine", old="replay", memory=Reservoir(capacity=20), **small)
        yield cls(old="fisher", estimator="newton", level="channel", **small)

    @property
    def _alpha(self) -> float | None:
        return LIMITS[self.strategy][0] if self.strategy in LIMITS else self.retention

    @property
    def _beta(self) -> float | None:
        fixed = LIMITS[self.strategy][1] if self.strategy in LIMITS else self.gate
        return 1.0 if fixed is None and self.old == "one" else fixed

    def overrides(self, hook: str) -> bool:
        asks = self._alpha is None or self._beta is None
        speaks = {
            "begin_stage": (self._alpha, self._beta) != (1.0, 1.0),
            "shape_grads": self._beta is None,
            "shape_weights": self._beta not in (0.0, 1.0),
            "resting": self._beta == 0.0,
            "after_step": asks and self.old == "replay",
            "end_stage": asks and self.old == "fisher",
        }
        return super().overrides(hook) and speaks.get(hook, True)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.gates, self.kept = {}, {}
        if not task.rows or not self.overrides("begin_stage"):
            return
        params = self._treated(model)
        self.trained = {n: self.sizes.get(n, 0) for n in params}
        self.sizes = {n: len(p) if p.ndim else 1 for n, p in params.items()}
        if self.memory is not None:
            self.memory.begin(task)
        if self._alpha != 1.0:
            if self.tasks:
                self._retain(model, task, {n: p for n, p in params.items() if n in self.start})
            for n, p in params.items():
                known = self.start.get(n)  # what came later starts as it came
                now = p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
                self.start[n] = now if known is None else torch.cat([known, now[len(known) :]]) if now.ndim else known
        self.met = sorted({*self.met, *task.classes})
        self.tasks += 1

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.tasks > 1 and self._beta is None:
            mine = {n: grads[n] for n in self.trained if n in grads}
            self.gates = step_gates(self._reference(mine, site), mine, self.level, self.tasks - 1, self.groups)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        for n in self.trained:
            if n in new and self.needs_old(n) and (beta := self.gates.get(n, self._beta)) is not None:
                share = beta.to(new[n].dtype) if isinstance(beta, Tensor) else beta
                new[n].copy_(torch.lerp(old[n], new[n], share))
        return new

    def needs_old(self, name: str) -> bool:
        return self.tasks > 1 and name in self.trained and self.overrides("shape_weights")

    def resting(self, site: Site) -> Tensors:
        if self.tasks < 2 or self._beta != 0.0:
            return {}
        held = {n: site.params[n] for n, rows in self.trained.items() if rows and n in site.params}
        return {n: torch.ones_like(p[: self.trained[n]] if p.ndim else p, dtype=torch.bool) for n, p in held.items()}

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if self.memory is not None and self.overrides("after_step"):
            self.memory.add(batch, **{WHEN: torch.full((len(batch),), self.tasks, device=batch.y.device)})

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if task.rows and self.overrides("end_stage"):
            assert task.train is not None and task.objective is not None and task.outputs is not None
            params = self._treated(model)
            chosen = torch.randperm(task.rows, generator=dice(self.seed, task.index, "rows"))[: self.rows]
            place: dict[str, Any] = {"seed": (self.seed, task.index), "device": task.device}
            with evaluating(model):
                fresh = fisher(task.objective, task.outputs, params, task.train, chosen, labels=self.labels, **place)
            fold(self.importance, self.anchor, fresh, params, 1.0)

    def _treated(self, model: nn.Module) -> dict[str, nn.Parameter]:
        """What alpha and beta are for."""
        held = named(weights_of(model, norms=self.norms, head=self.head), self.select, "HybridUpdate")
        named(held, self.groups, "HybridUpdate", "groups")
        if parts := [n for n, p in held.items() if is_sharded(p)]:
            raise BadSetting(
                f"HybridUpdate reads weights whole, and of {parts[0]} each rank has a part: leave fully_shard out"
            )
        return held

    @torch.no_grad()
    def _retain(self, model: nn.Module, task: Task, params: dict[str, nn.Parameter]) -> None:
        """Go back to w_0 + alpha D."""
        alphas: Mapping[str, Tensor | float] = (
            dict.fromkeys(params, self._alpha) if self._alpha is not None else self._estimated(model, task, params)
        )
        for n, p in params.items():
            self.kept[n] = go_back(p, self.start[n], alphas[n]).mean()

    def _estimated(self, model: nn.Module, task: Task, params: dict[str, nn.Parameter]) -> Tensors:
        """Alpha of each tensor's groups, from the new task and what speaks for the old ones."""
        assert task.train is not None
        self._warm(model, task)
        way = {n: far_from(self.start[n], p.detach()) for n, p in params.items()}
        fresh = self._wanted(model, task, task.train, params, way)
        if self.old == "replay" and self.memory:
            before = self._wanted(model, task, self.memory, params, way, "old")
        elif self.old == "fisher" and self.importance:
            f = {n: grown(self.importance[n], p) for n, p in params.items() if n in self.importance}
            far = {n: params[n].detach() - grown(self.anchor[n], params[n]) for n in f}
            slope, bend = ({n: f[n] * t[n] for n in f} for t in (far, way))
            before = self._lowest(way, slope, bend)
        else:
            before = {}
        old, t = {n: before.get(n, torch.ones_like(a)) for n, a in fresh.items()}, self.tasks
        return {n: (t * old[n] + a) / (t + 1) for n, a in fresh.items()}

    def _wanted(
        self, model: nn.Module, task: Task, rows: Rows, params: dict[str, nn.Parameter], way: Tensors, what: str = "new"
    ) -> Tensors:
        """The alpha that some rows alone would have."""
        chosen = torch.randperm(len(rows), generator=dice(self.seed, task.index, "probe", what))
        index = chosen[: self.probe * self.batch]

        def probed(at: float = 1.0) -> tuple[Tensor, Tensors]:
            with part_way(params, way, at), evaluating(model):
                loss = partial(_loss, task, what)
                return mean_slope(loss, params, rows, index, batch=self.batch, device=task.device)

        if self.estimator == "line":
            return dict.fromkeys(params, parabola(torch.stack([probed(at)[0] for at in PLACES])))
        slope = probed()[1]
        if self.estimator != "newton":
            return along(slope, way, self.estimator, self.level, self.kappa, self.groups)
        nearer = probed(1 - NEAR)[1]
        return self._lowest(way, slope, {n: (slope[n] - nearer[n]) / NEAR for n in slope})

    def _lowest(self, way: Tensors, slope: Tensors, bend: Tensors) -> Tensors:
        return lowest(*(group_sums({n: way[n] * t[n] for n in t}, self.level, self.groups) for t in (slope, bend)))

    def _warm(self, model: nn.Module, task: Task) -> None:
        """Train the head's rows for classes that come for the first time, and nothing else; on all ranks alike."""
        assert task.train is not None
        rows = task.train

        def loss(k: int) -> Tensor:
            chosen = torch.randint(task.rows, (self.batch,), generator=dice(self.seed, task.index, "warm", k))
            return _loss(task, "warm", rows.take(chosen).to(task.device), k)

        fresh = [c for c in task.classes if c not in self.met]
        warm_rows(model, fresh, loss, self.warmup, self.warmup_rate)

    def _reference(self, grads: Tensors, site: Site) -> Tensors:
        """The gradient that speaks for the tasks before, for what the step moves."""
        if self.old == "fisher":
            held = {n: site.params[n].detach() for n in grads if n in self.importance}
            return {n: grown(self.importance[n], w) * (w - grown(self.anchor[n], w)) for n, w in held.items()}
        task, memory = site.task, self.memory
        past = memory.sample(self.batch, "gate", self.seed, self.tasks, site.step) if memory is not None else None
        if past is None or task is None:
            return {}
        past = past.to(task.device)
        past = replace(past, weight=(past.extra.pop(WHEN) < self.tasks).float())  # the present task does not speak
        with torch.enable_grad(), evaluating(site.model):
            found = gradients(_loss(task, "gate", past, site.step), [site.params[n] for n in grads])
        return {n: r for n, r in zip(grads, found, strict=True) if r is not None}


def _loss(task: Task, what: str, batch: Batch, k: int) -> Tensor:
    """The stage's own loss of rows as it sees them, at a place of their own."""
    assert task.augment is not None and task.objective is not None
    return task.objective(task.augment(batch, "hybrid", what, k))
