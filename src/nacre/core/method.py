"""Methods: rules that also know tasks. One law of composition per hook, so any two compose.

It is over 300 lines because each hook stands beside the law by which it is composed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import reduce
from typing import ClassVar, Literal

from torch import Tensor, nn

from .errors import BadSetting
from .model import Outputs, forward, mean_loss
from .paper import Fidelity, Paper
from .rows import Batch, Rows
from .rule import Rule, Site
from .shards import over_parts
from .state import Tensors
from .stream import Accumulated, Joined, Stream, Task


@dataclass
class Method(Rule):
    """Leaves the weights to the optimizer: fine-tuning, and the base of every method.

    The empty method trains on each task in turn and forgets. Subclasses are dataclasses whose settings are their
    configuration and whose `state()` fields are their state. Hooks leave modes as they find them and draw only counted dice.

    Attributes:
        parts: Modules that the method trains beside the model; they reach the optimizer as `parts.<Method>.<name>`.
        paper: Where the method comes from.
        fidelity: How sure we are that it is what was published.
        joins: Whether the method is trained on the whole stream at once, as bounds are.
        accumulates: Whether each task brings it the rows of all tasks before, too.
        follows: Whether its class statistics are taken along when others move the backbone, so that they do not become stale.
        tunes: Whether its stages take optimizer steps though it speaks no hook around them: it says where they begin and what
            comes of them.
        keeps: How the bytes of its state go with the length of the stream, beside what follows the head: `"constant"`,
            `"per class"` (the same after many tasks of the same classes), or `"per task"`.
    """

    paper: ClassVar[Paper | None] = None
    fidelity: ClassVar[Fidelity] = "faithful"
    joins: ClassVar[bool] = False
    accumulates: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    tunes: ClassVar[bool] = False
    keeps: ClassVar[Literal["constant", "per class", "per task"]] = "constant"
    TASK_HOOKS: ClassVar[tuple[str, ...]] = (
        "prepare", "meet", "begin_stage", "shape_rows", "shape_order", "shape_batch", "offset", "shape_logits", "objective",
        "loss", "after_step", "end_stage",
    )  # fmt: skip

    parts: nn.ModuleDict = field(init=False, repr=False, compare=False, default_factory=nn.ModuleDict)

    def prepare(self, model: nn.Module) -> None:  # each, in order
        """Make the model and my parts what my state says: modules, requires_grad.

        Idempotent. Called after every load, before any weights are loaded, and on both sides of `begin_stage`.
        """

    def meet(self, model: nn.Module, task: Task) -> None:  # each, in order
        """See the task's rows while the model is still as the tasks before have left it.

        Called before the first stage of a task, whichever stage the method belongs to, and by a driver that nobody did this for
        again before `begin_stage`: idempotent until the stage has ended. No weights, modes or answers are changed here.
        """

    def begin_stage(self, model: nn.Module, task: Task) -> None:  # each, in order
        """Read the task, change state; the optimizer does not exist yet."""

    def shape_rows(self, rows: Rows | None, task: Task) -> Rows | None:  # pipe
        """The rows that the stage trains on: the task's, others beside them, or others in their place.

        Asked once the stage has begun, and again where it is resumed, so it must follow from state that rests until the stage
        ends. Rows that are not the task's own carry a `source` other than 0.
        """
        return rows

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:  # pipe
        """Which of these rows, in which order: (rows,) positions, equally many in every epoch."""
        return order

    def shape_batch(self, batch: Batch) -> Batch:  # pipe
        """Raw rows, before augmentation: add replayed ones, repeat rows for views."""
        return batch

    def offset(self, batch: Batch, site: Site, slopes: Callable[[], Tensors]) -> Tensors:  # sum
        """How far from the weights the gradient of a micro-batch is taken, by name; the weights stay where they are.

        Asked before the forward pass, with the rows as they are after augmentation. Learn nothing here.

        Args:
            batch: The rows.
            site: Where the step happens.
            slopes: Gives the gradient of this micro-batch's own loss at the weights, by name: a forward and a backward pass
                more, which leave norm statistics and `.grad` alone.
        """
        return {}

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:  # pipe
        """Which classes compete; returns another tensor, never writes into this one."""
        return logits

    def objective(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor:  # at most one
        """What the stage is for; by default the mean loss of the rows by their labels."""
        return mean_loss(out, batch)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:  # sum
        """A term beside the objective."""
        return 0.0

    # from Rule, around the optimizer step: shape_grads, shape_weights (pipes), resting (union, applied last)

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:  # each, in order
        """Once a micro-batch, after the step took effect: admit rows (source 0 only), count."""

    def end_stage(self, model: nn.Module, task: Task) -> None:  # each, in order
        """Learn what is to be remembered; the optimizer is gone."""

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:  # at most one
        """Scores for `batch`, (rows, ..., classes)."""
        return forward(model, batch).logits

    def stale(self, model: nn.Module) -> list[int]:  # concatenation
        """Tasks whose statistics were taken with another backbone than the present one."""
        return []

    def drifts(self) -> dict[str, dict[str, float]]:  # union
        """Task -> how well the statistics of earlier tasks could be taken along when it had moved the backbone."""
        return {}


@dataclass
class Composed(Method):
    """Several rules and methods as one. The order matters to pipes only; rest is a union and has the last word."""

    members: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        for hook in ("objective", "predict"):
            able = [type(m).__name__ for m in self.members if m.overrides(hook)]
            if len(able) > 1:
                raise BadSetting(
                    f"only one part may define {hook}(), but {' and '.join(able)} do: give one of them a stage of its own"
                )
        kinds = [type(m).__name__ for m in self.methods]
        if len(set(kinds)) < len(kinds):
            raise BadSetting(
                f"two methods of one name in the composition {', '.join(kinds)}: their parts could not be told apart; "
                "give one of them a subclass with its own name"
            )

    @property
    def methods(self) -> list[Method]:
        return [m for m in self.members if isinstance(m, Method)]

    def overrides(self, hook: str) -> bool:
        return any(m.overrides(hook) for m in self.members)

    def _one(self, hook: str) -> Method:
        return next((m for m in self.methods if m.overrides(hook)), Method())

    def prepare(self, model: nn.Module) -> None:
        for m in self.methods:
            m.prepare(model)

    def meet(self, model: nn.Module, task: Task) -> None:
        for m in self.methods:
            m.meet(model, task)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        for m in self.methods:
            m.begin_stage(model, task)

    def shape_rows(self, rows: Rows | None, task: Task) -> Rows | None:
        return reduce(lambda r, m: m.shape_rows(r, task), self.methods, rows)

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:
        return reduce(lambda o, m: m.shape_order(o, task, epoch), self.methods, order)

    def shape_batch(self, batch: Batch) -> Batch:
        return reduce(lambda b, m: m.shape_batch(b), self.methods, batch)

    def offset(self, batch: Batch, site: Site, slopes: Callable[[], Tensors]) -> Tensors:
        total: Tensors = {}
        for m in self.methods:
            for n, far in m.offset(batch, site, slopes).items() if m.overrides("offset") else ():
                total[n] = total[n] + far if n in total else far
        return total

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        return reduce(lambda z, m: m.shape_logits(z, batch), self.methods, logits)

    def objective(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor:
        return self._one("objective").objective(model, batch, out)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        return sum(over_parts(m.loss(model, batch, out)) for m in self.methods if m.overrides("loss"))

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        return reduce(lambda g, m: m.shape_grads(g, site), self.members, grads)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        return reduce(lambda w, m: m.shape_weights(w, old, site), self.members, new)

    def needs_old(self, name: str) -> bool:
        return any(m.needs_old(name) for m in self.members)

    def resting(self, site: Site) -> Tensors:
        return _union(m.resting(site) for m in self.members)

    def still(self, site: Site) -> Tensors:
        return _union(m.still(site) for m in self.members)

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        for m in self.methods:
            m.after_step(batch, out, site)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        for m in self.methods:
            m.end_stage(model, task)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        return self._one("predict").predict(model, batch)

    def stale(self, model: nn.Module) -> list[int]:
        return sorted({i for m in self.methods for i in m.stale(model)})

    def drifts(self) -> dict[str, dict[str, float]]:
        return {task: told for m in self.methods for task, told in m.drifts().items()}


def _union(masks: Iterable[Tensors]) -> Tensors:
    union: Tensors = {}
    for asked in masks:
        for n, rests in asked.items():
            union[n] = _either(union[n], rests) if n in union else rests
    return union


def _either(a: Tensor, b: Tensor) -> Tensor:
    """The union of two masks, of which one may be shorter (a head grew between them) or 0-dim."""
    if a.ndim and b.ndim and len(a) != len(b):
        short, long = (a, b) if len(a) < len(b) else (b, a)
        union = long.clone()
        union[: len(short)] |= short
        return union
    return a | b


def compose(*members: Rule) -> Composed:
    """Several rules and methods as one method; compositions inside are unfolded.

    Two memories of one seed that met the same rows keep and replay the same: give each a seed of its own.

    >>> from nacre.methods import ER, EWC
    >>> [type(m).__name__ for m in compose(EWC(), ER()).members]
    ['EWC', 'ER']
    """
    return Composed(members=tuple(leaf for m in members for leaf in leaves(m)))


TRAINING = (
    "shape_rows", "objective", "loss", "shape_batch", "offset", "shape_logits", "shape_grads", "shape_weights", "resting",
    "after_step",
)  # fmt: skip
READING = ("meet", "begin_stage", "end_stage", "predict")


def trains(method: Rule) -> bool:
    """Whether a stage of this method needs an optimizer: one that only reads the model does not."""
    said = any(part.joins or part.tunes for part in leaves(method) if isinstance(part, Method))
    return said or any(map(method.overrides, TRAINING)) or not any(map(method.overrides, READING))


def as_met(stream: Stream, *rules: Rule) -> Stream:
    """A stream as these methods are given it: as one task where one of them joins all, accumulated, or as it is."""
    parts = [part for rule in rules for part in leaves(rule) if isinstance(part, Method)]
    if any(part.joins for part in parts):
        return stream if isinstance(stream, Joined) else Joined(stream)
    if any(part.accumulates for part in parts):
        return stream if isinstance(stream, Accumulated) else Accumulated(stream)
    return stream


def leaves(rule: Rule) -> Iterator[Rule]:
    """The single rules and methods inside a composition."""
    if isinstance(rule, Composed):
        for m in rule.members:
            yield from leaves(m)
    else:
        yield rule


def parts_of(method: Rule) -> nn.ModuleDict:
    """Every trainable part of a method under one root; parameter names read `parts.MIST.projection.weight`."""
    return nn.ModuleDict({type(m).__name__: m.parts for m in leaves(method) if isinstance(m, Method) and len(m.parts)})


def trainable(model: nn.Module, method: Rule) -> dict[str, nn.Parameter]:
    """What an optimizer may be given: the model's and the parts' parameters that require a gradient, by name."""
    named = dict(model.named_parameters())
    named |= {f"parts.{n}": p for n, p in parts_of(method).named_parameters()}
    return {n: p for n, p in named.items() if p.requires_grad}
