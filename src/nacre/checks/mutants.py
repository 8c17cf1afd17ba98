"""Broken parts, one or more for each check: a check that lets its mutant pass is no check.

They carry the mistakes that are met in published code and in other libraries. It is over 300 lines because they are many.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.method import Method
from ..core.model import Outputs, forward, grow
from ..core.paper import Paper
from ..core.rows import Batch
from ..core.rule import Rule, Site
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Experience, Task
from ..data import load
from ..memory import Block, ClassBalanced, Reservoir, fields_of
from ..metrics import Matrix
from ..schedules import Phase, Phases
from ..streams import Arriving, Changed, Split, split, stream
from .partners import Replayer
from .worlds import View


@dataclass
class Anchored(Method):
    """Pull weights to where they were at the end of the last task: sound, and the ground of some mutants."""

    strength: float = setting(1.0, "how strong the pull is", low=0.0)
    anchor: Tensors = state()

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        named = dict(model.named_parameters())
        terms = [(named[n][: len(a)] - a).square().sum() for n, a in self.anchor.items()]
        return self.strength * torch.stack(terms).sum() if terms else 0.0

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self.anchor = {n: p.detach().clone() for n, p in model.named_parameters()}


@dataclass
class ZeroPenalty(Anchored):
    """Its penalty is always zero: the anchor is taken when the loss is."""

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        named = dict(model.named_parameters())
        terms = [(named[n] - named[n].detach()).square().sum() for n in self.anchor]
        return self.strength * torch.stack(terms).sum() if terms else 0.0


@dataclass
class WrongTask(Method):
    """Importance is taken of the new task's rows, when it begins: nothing is known of the old one."""

    importance: Tensors = state()
    anchor: Tensors = state()

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        if task.index and task.train is not None and task.objective is not None:
            held = {n: p for n, p in model.named_parameters() if p.requires_grad}
            batch = task.train.take(torch.arange(task.rows)).to(task.device)
            grads = torch.autograd.grad(task.objective(batch), list(held.values()), allow_unused=True)
            self.importance = {n: g.square() for n, g in zip(held, grads, strict=True) if g is not None}
            self.anchor = {n: p.detach().clone() for n, p in held.items()}

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        named = dict(model.named_parameters())
        terms = [(f * (named[n] - self.anchor[n]).square()).sum() for n, f in self.importance.items()]
        return 100 * torch.stack(terms).sum() if terms else 0.0

    def end_stage(self, model: nn.Module, task: Task) -> None:
        """Too late: the rows are those of the next task by the time importance is taken."""


@dataclass
class MasksGradients(Rule):
    """Rest as published: gradients are masked, so weight decay and momentum move what is to rest."""

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        return {n: g * (torch.arange(g.numel()).view_as(g) % 2) for n, g in grads.items()}


@dataclass
class MovesBehind(Method):
    """Asks the body to rest, and decays it behind the driver's back."""

    def resting(self, site: Site) -> Tensors:
        return {n: torch.tensor(True) for n in site.params if n.startswith("body")}

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        with torch.no_grad():
            for p in site.params.values():
                p.mul_(0.999)


@dataclass
class NeverOff(Rule):
    """Its identity is not one: a factor of 1 is still multiplied, in lower precision."""

    off: ClassVar[dict[str, Any]] = {"factor": 1.0}

    factor: float = setting(1.0, "factor on moves", low=0.0, high=2.0)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        return {
            n: (old[n] + self.factor * (w - old[n])).bfloat16().to(w.dtype) if n in old else w for n, w in new.items()
        }


@dataclass
class WritesOld(Rule):
    """Uses the old values as a scratch pad."""

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        return {n: old[n].add_(new[n]).mul_(0.5) if n in old else w for n, w in new.items()}


@dataclass
class MovesInGradients(Rule):
    """Decays the weights while it is asked about gradients."""

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        for n in grads:
            site.params[n].data.mul_(0.99)
        return grads


@dataclass
class CountsInLoss(Method):
    """Counts steps where the loss is taken: a step that takes no effect advances it."""

    steps: int = state(int)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        self.steps += 1
        return 0.0


@dataclass
class KeepsGraph(Method):
    """Holds on to the graph of the last step and goes through it again."""

    last: Any = scratch()

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        last, self.last = self.last, out.logits.mean()
        return 0.0 if last is None else 0.1 * last

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        return dict(grads)


@dataclass
class AsksForAll(Rule):
    """Takes every parameter of the model to have a gradient and to be in the optimizer."""

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        return {n: grads[n] for n, _ in site.model.named_parameters()}


@dataclass
class MovesFrozen(Rule):
    """Moves the model's weights, not the optimizer's."""

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        with torch.no_grad():
            for p in site.model.parameters():
                p.mul_(0.99)
        return new


@dataclass
class LeavesHooks(Method):
    """Adds its own hook to the optimizer and forgets it there."""

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        site.optimizer.register_step_post_hook(lambda *_: None)
        return new


@dataclass
class HiddenGenerator(Method):
    """Draws from a generator that is not in its state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.generator = torch.Generator().manual_seed(0)

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:
        return order[torch.randperm(len(order), generator=self.generator)]

    def __deepcopy__(self, memo: Any) -> HiddenGenerator:
        made = type(self)()
        made.generator.set_state(self.generator.get_state())
        return made


@dataclass
class ForgetsRows(Replayer):
    """Its buffer is not in the checkpoint."""

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict(saved)
        self.block, self.seen = Block(), 0


@dataclass
class GlobalDice(Method):
    """Draws the order from Python's global generator."""

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:
        return order.roll(random.randrange(1000))


_SEEN: dict[int, float] = {}


@dataclass
class DeafSeed(Method):
    """Has a seed that nobody reads."""

    seed: int = setting(0, "seeds nothing")


@dataclass
class LateHead(Method):
    """Lets the head grow while training, after the optimizer was made."""

    net: Any = scratch()

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.net = model

    def shape_batch(self, batch: Batch) -> Batch:
        grow(self.net, self.net.head.out_features + 1)
        return batch


@dataclass
class FixedWidth(Anchored):
    """Compares a head that grew with an anchor of the old width."""

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        named = dict(model.named_parameters())
        return sum(((named[n] - a).square().sum() for n, a in self.anchor.items()), 0.0)


@dataclass
class MeanOfNothing(Method):
    """Divides by the number of rows of the last class, of which there may be none."""

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        mine = batch.y == 1
        return 0.01 * out.logits[mine].square().sum() / mine.sum()


@dataclass
class NeverPlain(Anchored):
    """Says that it is fine-tuning at strength 0, but draws another order even then."""

    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:
        return order.flip(0)


@dataclass
class ReadsTests(Method):
    """Looks at every row that the data hold, test rows too."""

    share: float = state(float)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if isinstance(task.train, View):
            store = task.train.store
            batches = [store.take(k, torch.arange(len(y))) for k, y in enumerate(store.y)]
            with torch.no_grad():
                right = [(forward(model, b).logits.argmax(1) == b.y).float().mean() for b in batches]
            self.share = float(torch.stack(right).mean())


@dataclass
class ReadsTasks(Method):
    """Answers among the classes of the task id that rows carry, hidden or not."""

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = forward(model, batch).logits
        if batch.task is None:
            return logits
        other = torch.arange(logits.shape[1]) // 2 != batch.task[:, None]
        return logits.masked_fill(other, -1e4)


@dataclass
class ReadsLabels(Method):
    """Answers with the labels of the rows that it is asked about."""

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = forward(model, batch).logits
        return logits + nn.functional.one_hot(batch.y, logits.shape[1])


@dataclass
class NeedsItsProcess(Method):
    """Remembers tasks in a variable of its module: fresh objects find it, a fresh process does not."""

    tasks: int = state(int)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += 1
        _SEEN[self.tasks] = 0.1 * self.tasks

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        return sum(_SEEN.get(k, 0.0) for k in range(self.tasks)) * out.logits.square().mean()


@dataclass
class ReadsInitialRate(Method):
    """Reads what only a learner with its schedule writes into the optimizer."""

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        rate = site.optimizer.param_groups[0].get("initial_lr", 0.0)
        return {n: g * (1 + rate) for n, g in grads.items()}


@dataclass
class EvaluationMovesNorms(Method):
    """Predicts in training mode: BatchNorm takes its statistics of test rows."""

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        model.train()
        return forward(model, batch).logits


@dataclass
class ExpectsToBeAlone(Replayer):
    """Takes every replayed row for its own."""

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if batch.source is not None and int((batch.source > 0).sum()) > 3:
            raise ValueError("more replayed rows than this memory drew")
        super().after_step(batch, out, site)


@dataclass
class VectorsOnly(Anchored):
    """Takes every input to be a tensor of numbers."""

    def shape_batch(self, batch: Batch) -> Batch:
        return replace(batch, x=batch.x * 1.0)


@dataclass
class LowSums(Method):
    """Sums up in the precision of the weights."""

    total: Tensors = state()

    def end_stage(self, model: nn.Module, task: Task) -> None:
        for n, p in model.named_parameters():
            if not n.startswith("head"):
                self.total[n] = self.total[n] + p.detach() if n in self.total else p.detach().clone()


@dataclass
class EveryTask(Method):
    """Keeps the weights of every task and does not declare it."""

    kept: list[Tensors] = state(list)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self.kept.append({n: p.detach().clone() for n, p in model.named_parameters()})


@dataclass
class WrapperNames(Method):
    """Names its memories by the parameters of a wrapper."""

    kept: Tensors = state()

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self.kept = {f"_orig_mod.{n}": p.detach().clone() for n, p in model.named_parameters()}


@dataclass
class OwnDevice(Method):
    """Draws noise from the generator of the device, which differs from device to device."""

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        place = torch.Generator(out.logits.device).manual_seed(len(batch))
        noise = torch.rand(out.logits.shape, generator=place, device=out.logits.device)
        return (noise * out.logits).mean()


@dataclass
class ShuffledAnswers(Replayer):
    """Stores the logits of other rows beside its rows."""

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        rows = fields_of(batch, {"logits": out.logits.flip(0)})
        self.block.write(torch.arange(len(batch)), rows, self.capacity)


@dataclass
class AdmitsAgain(Replayer):
    """Admits what it replayed."""

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        super().after_step(replace(batch, source=None), out, site)


@dataclass
class DrawsInLoss(Method):
    """Draws from torch's global generator, which the learner happens to seed."""

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        return (torch.rand_like(out.logits) * out.logits).mean()


@dataclass
class KeepsAnswers(Method):
    """Answers as before where it is asked for the same batch again."""

    answers: dict[int, Tensor] = scratch(dict)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        return self.answers.setdefault(id(batch.x), forward(model, batch).logits)


@dataclass
class ReadsTheBatch(Method):
    """Answers by how a row differs from the others that are asked about."""

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = forward(model, batch).logits
        return logits - logits.mean(0)


@dataclass
class OneShard(Method):
    """Where several processes learn, each keeps the mean of its own rows."""

    mean: Tensor | None = state(lambda: None)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if task.train is not None and task.rows:
            self.mean = task.train.take(ranks.share_of(torch.arange(task.rows))).x.mean(0)


@dataclass
class HasFunction(Method):
    """Takes a function of nobody's module as a setting."""

    shape: Callable[[float], float] = field(default=lambda x: x)


@dataclass
class Undocumented(Method):
    """Has a setting that nothing explains.

    >>> Undocumented().much
    1.0
    """

    paper: ClassVar[Paper | None] = Paper("An example", 2026, venue="unpublished")
    much: float = 1.0


@dataclass
class SharesMemory(Anchored):
    """Its copies share the anchor."""

    def __deepcopy__(self, memo: Any) -> SharesMemory:
        made = type(self)(self.strength)
        made.anchor = self.anchor
        return made


@dataclass
class PlainAttribute(Method):
    """Counts in an attribute that is neither state nor scratch."""

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks = getattr(self, "tasks", 0) + 1


@dataclass
class ScratchIsState(Replayer):
    """Declares what it learns as scratch."""

    last: list[int] = scratch(list)

    def shape_order(self, order: Tensor, task: Task, epoch: int) -> Tensor:
        return order.roll(len(self.last))

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        super().after_step(batch, out, site)
        self.last.append(len(batch))


@dataclass
class Needless(Anchored):
    """Is excused from what it keeps."""

    excused: ClassVar[dict[str, str]] = {"resumes_exactly": "because somebody once thought that it could not be done"}


@dataclass
class Unchecked(Method):
    """Takes any value for its settings."""

    much: float = setting(1.0, "how much", low=0.0)

    def __post_init__(self) -> None:
        pass


@dataclass
class NeedsFeatures(Method):
    """Reads features without asking whether there are any."""

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        assert out.features is not None, "no features"
        return out.features.square().mean()


@dataclass
class NeverCut(Reservoir):
    """Keeps every row beside its block."""

    beside: list[Tensor] = state(list)

    def add(self, batch: Batch, **extra: Tensor) -> None:
        super().add(batch, **extra)
        self.beside.append(batch.x.clone())


@dataclass
class FirstRows(Reservoir):
    """Keeps the first rows that come."""

    def _slots_for(self, labels: Tensor) -> list[int | None]:
        number = range(self.seen, self.seen + len(labels))
        return [n if n < self.capacity else None for n in number]


@dataclass
class FirstClasses(ClassBalanced):
    """Keeps the first rows that come, whatever their class."""

    def _slots_for(self, labels: Tensor) -> list[int | None]:
        slots: list[int | None] = []
        for label in labels.tolist():
            slots.append(len(self.labels) if len(self.labels) < self.capacity else None)
            if slots[-1] is not None:
                self.labels.append(label)
        return slots


@dataclass
class TornRows(Reservoir):
    """Draws inputs and labels by two draws."""

    def draw(self, count: int) -> Batch | None:
        past = super().draw(count)
        return None if past is None else replace(past, y=past.y.roll(1))


@dataclass
class KeepsViews(Reservoir):
    """Hands out what it holds instead of copies."""

    def draw(self, count: int) -> Batch | None:
        past = super().draw(count)
        if past is not None and count > len(self):
            return Batch(self.block.kept["x"], self.block.kept["y"], task=past.task, extra=past.extra)
        return past


@dataclass
class SharedDice(Reservoir):
    """Draws from the global generator."""

    def draw(self, count: int) -> Batch | None:
        if not len(self) or count < 1:
            return None
        self.draws += 1
        return self.block.read(torch.randperm(len(self), generator=torch.default_generator)[:count])


_CALLS = [0]


@dataclass(frozen=True)
class CountsCalls(Phases):
    """A rate that depends on how often it was asked."""

    def over(self, total: int) -> Phases:
        return self

    def __call__(self, step: int) -> float:
        _CALLS[0] += 1
        return 1.0 / _CALLS[0]


@dataclass(frozen=True)
class Repeats(Split):
    """Each task but the first brings the rows of the one before, too."""

    def __getitem__(self, index: int) -> Experience:
        met = super().__getitem__(index)
        if not index:
            return met
        return Experience(replace(met.task, train=super().__getitem__(index - 1).task.train), met.tests)


@dataclass(frozen=True)
class TellsTasks(Split):
    """Hides the task in its description, and writes it on every row."""

    def __getitem__(self, index: int) -> Experience:
        met = super().__getitem__(index)
        return Experience(replace(met.task, train=replace(met.task.train, task=index)), met.tests)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, eq=False)
class ListsAll(Split):
    """Each task lists all classes of the data."""

    def _made(self, index: int) -> Experience:
        met = super()._made(index)
        return replace(met, task=replace(met.task, classes=tuple(range(len(self.class_names)))))


@dataclass(frozen=True, eq=False)
class LeavesTests(Changed):
    """Permutes training rows, and leaves the pixels of test rows where they were."""

    def _made(self, index: int) -> Experience:
        met = super()._made(index)
        return replace(met, tests={name: self.data.test for name in met.tests})


@dataclass(frozen=True, eq=False)
class DrawsAtAccess(Split):
    """Draws which rows come first whenever a task is asked for."""

    def _made(self, index: int) -> Experience:
        _CALLS[0] += 1
        met = super()._made(index)
        rows: Any = met.task.train
        return replace(met, task=replace(met.task, train=replace(rows, index=rows.index.roll(_CALLS[0]))))


@dataclass(frozen=True, eq=False)
class KeepsItems(Split):
    """Keeps each experience that it made."""

    kept: dict[int, Any] = field(default_factory=dict)

    def _made(self, index: int) -> Experience:
        if index not in self.kept:
            self.kept[index] = super()._made(index)
        return self.kept[index]


@dataclass(frozen=True)
class Announces(Arriving):
    """Tells which classes a task brings, although no borders are told."""

    def __getitem__(self, index: int) -> Experience:
        met, inside = super().__getitem__(index), self.stream[index]
        return replace(met, task=replace(met.task, classes=inside.task.classes))


@dataclass(frozen=True)
class GivesAgain(Arriving):
    """Says that rows are met once, and gives them as often as they are asked for."""

    def __getitem__(self, index: int) -> Experience:
        met, inside = super().__getitem__(index), self.stream[index]
        return replace(met, task=replace(met.task, train=inside.task.train))


@dataclass
class FirstMoment(Matrix):
    """Takes forgetting against the first moment, which is before most tasks were learned."""

    def forgetting_of(self, test: str) -> float:
        return max(self.at(m, test) for m in self.moments) - self.at(self.moments[0], test)


def _cut(kind: type[Split]) -> Split:
    """A small data set cut by this class."""
    made = split(load("digits"), 3)
    return kind(made.data, made.tasks, made.order, made.seed)


def _permuted(kind: type[Changed]) -> Changed:
    """Digits in two orders, made by this class."""
    made = stream("permuted", load("digits"), tasks=2)
    return kind(made.data, made.kind, made.length, made.view, made.scenario, made.seed, made.about)


MUTANTS: tuple[tuple[str, Callable[[], Any]], ...] = (
    ("settings_are_plain", HasFunction),
    ("documented", Undocumented),
    ("copies", SharesMemory),
    ("state_is_complete", PlainAttribute),
    ("state_is_complete", HiddenGenerator),
    ("forgets_scratch", ScratchIsState),
    ("excuses_are_needed", Needless),
    ("settings_are_checked", Unchecked),
    ("says_the_cure", NeedsFeatures),
    ("identity_costs_nothing", NeverOff),
    ("rests", MovesBehind),
    ("masks_do_not_leak", MasksGradients),
    ("writes_what_it_says", WritesOld),
    ("writes_what_it_says", MovesInGradients),
    ("sees_this_step", KeepsGraph),
    ("skipped_steps_leave_no_trace", CountsInLoss),
    ("skips_the_unused", AsksForAll),
    ("skips_the_unused", MovesFrozen),
    ("detaches_cleanly", LeavesHooks),
    ("resumes_exactly", HiddenGenerator),
    ("resumes_exactly", ForgetsRows),
    ("seeded", GlobalDice),
    ("seeded", DrawsInLoss),
    ("seeded", DeafSeed),
    ("does_something", ZeroPenalty),
    ("remembers", WrongTask),
    ("grows", LateHead),
    ("grows", FixedWidth),
    ("grows", KeepsAnswers),
    ("odd_streams", MeanOfNothing),
    ("finite_at_extremes", NeverPlain),
    ("no_peeking", ReadsTests),
    ("no_peeking", ReadsTasks),
    ("no_peeking", ReadsLabels),
    ("no_peeking", ReadsTheBatch),
    ("comes_back", NeedsItsProcess),
    ("own_loop", ReadsInitialRate),
    ("watch_is_free", EvaluationMovesNorms),
    ("composes", ExpectsToBeAlone),
    ("fits_every_world", VectorsOnly),
    ("dtypes", LowSums),
    ("memory_is_flat", EveryTask),
    ("compiles", WrapperNames),
    ("devices", OwnDevice),
    ("ranks_agree", OneShard),
    ("admits_whole_rows_of_the_stream", ShuffledAnswers),
    ("admits_whole_rows_of_the_stream", AdmitsAgain),
    ("bounded", NeverCut),
    ("keeps_what_it_promises", FirstRows),
    ("keeps_what_it_promises", FirstClasses),
    ("rows_stay_together", TornRows),
    ("rows_stay_together", KeepsViews),
    ("independent_dice", SharedDice),
    ("pure", CountsCalls),
    ("continuous_at_joints", lambda: Phases((Phase(5, 0.0, 1.0), Phase(5, 0.5, 0.0)))),
    ("covers_once", lambda: _cut(Repeats)),
    ("covers_once", lambda: _cut(ListsAll)),
    ("covers_once", lambda: _permuted(LeavesTests)),
    ("remade_item_by_item", lambda: _cut(DrawsAtAccess)),
    ("keeps_nothing", lambda: _cut(KeepsItems)),
    ("hides_what_it_hides", lambda: _cut(TellsTasks)),
    ("hides_what_it_hides", lambda: Announces(_cut(Split), borders=False)),
    ("met_once", lambda: GivesAgain(_cut(Split))),
    ("hand_numbers", FirstMoment),
)
"""The name of a check, and what makes a part that it must reject."""
