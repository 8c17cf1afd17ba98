"""The one order of hooks, for the learner and for anybody else's loop.

One step: take rows (raw) -> `shape_batch` -> augment -> `offset` -> forward -> `shape_logits` -> `objective` + `loss` ->
backward -> `shape_grads` -> optimizer -> `shape_weights` -> `resting` -> `after_step`. One stage: grow the head -> `prepare` ->
`meet` -> `begin_stage` -> `prepare` -> `shape_rows` -> the optimizer is made -> modes are set -> steps -> `end_stage`. The
learner asks the methods of all stages to `meet` a task before the first of them begins.

Where several ranks learn together, each calls the model on its own rows of a step; gradients, running statistics and the loss
are averaged at the end of the step's last backward pass, and `after_step` hears the rows of all.

It is over 300 lines because the one order of hooks is told in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import ranks, shards
from .ahead import ahead
from .dice import dice, seed_global
from .elsewhere import elsewhere, refuse_parts, refuse_recomputed, slopes_of
from .errors import BadSetting, RanksDiffer
from .in_use import unfuse
from .lengths import bucketed
from .method import Method, compose, parts_of, trainable
from .model import Outputs, bare, called, device_of, evaluating, forward, grow
from .once import pass_over
from .optim import inner
from .pieces import cut, exchanged, sizes
from .reduce import Reducer
from .refusals import check_labels, check_layers, check_norms, check_one_faced, check_unannounced, check_width
from .rested import Rested, refuse_broken
from .rows import Augment, Batch, Cut, lengths_of
from .rule import Rule, Site, hooked
from .state import Tensors
from .stream import Task
from .widen import go_on_with

MakeOptimizer = Callable[[dict[str, nn.Parameter]], Optimizer]
"""Makes an optimizer from parameters by name."""
WHOLE = 1 - 1e-6
"""From here on a sum of parts is the whole."""
Precision = Literal["fp32", "bf16"]


class Drive:
    """Runs a method around somebody's training loop, on one task.

    Args:
        method: A method, a rule, or several composed.
        model: The model, wrapped (DDP, compile) or not, or cut by `fully_shard`. What DDP wraps is called without it: the
            driver averages gradients itself, so a head may grow and weights may go unused.
        optimizer: A function from named parameters to an optimizer, which then also holds what the method adds; or an
            optimizer, wrapped (accelerate) or not; or None where nothing is trained.
        task: What is to be learned.
        augment: Changes batches of raw rows before the forward pass.
        seed: Seeds orders, augmentation and, before each forward pass, the global generator that dropout draws from.
            None leaves the global generator alone; orders and augmentation then use seed 0.
        frozen_norms: Whether norm layers whose weights do not move keep their statistics too.
        precision: `"bf16"` runs the forward pass under autocast.
        step: How many steps of this stage were done before.
        begun: Whether the stage has begun before, as on resume; it does not begin again then.
        verify_rest: Whether the end of the stage looks at what was asked to rest at every step of it. For that, copies are kept
            of the tensors that have such entries.

    Raises:
        BadSetting: the optimizer was made before the head grew, or before a method added parts.
        BadStep: when the stage ends, if an entry moved that was asked to rest throughout.

    Example:
        >>> from nacre.methods import ER
        >>> from nacre.core.rows import TensorRows
        >>> task = Task(0, TensorRows(torch.randn(8, 3), torch.tensor([0, 1] * 4)), classes=(0, 1))
        >>> with Drive(ER(), nn.Linear(3, 2), lambda p: torch.optim.SGD(p.values(), lr=0.1), task) as drive:
        ...     for batch in drive.batches(epoch=0, size=4):
        ...         drive.optimizer.zero_grad()
        ...         drive.loss(batch).backward()
        ...         drive.optimizer.step()
        ...         drive.stepped()
        >>> drive.site.step
        2
    """

    optimizer: Optimizer
    site: Site

    def __init__(
        self,
        method: Rule,
        model: nn.Module,
        optimizer: Optimizer | MakeOptimizer | None,
        task: Task,
        *,
        augment: Augment | None = None,
        seed: int | None = None,
        frozen_norms: bool = True,
        precision: Precision = "fp32",
        step: int = 0,
        begun: bool = False,
        verify_rest: bool = True,
    ):
        self.method: Method = method if isinstance(method, Method) else compose(method)
        self.called, self.model = called(model), bare(model)
        unfuse(self.model)
        self.in_parts = any(map(shards.is_sharded, self.model.parameters()))
        self.given = inner(optimizer) if isinstance(optimizer, Optimizer) else optimizer
        self.augment, self.seed, self.frozen_norms, self.precision = augment, seed, frozen_norms, precision
        self.start, self.begun = step, begun
        self.counted = step  # steps of this stage that `stepped` and `left_out` were told of
        self.device = device_of(self.model)
        self.task = replace(
            task, device=str(self.device), augment=self._seen_at, outputs=self._outputs, objective=self._objective
        )
        self.rows = task.train  # what is trained on, once the stage has begun
        self.place = (seed or 0, task.index, task.stage)
        self.classes = 0  # how many the rows of a task that announces none have shown so far
        self.world = ranks.world()
        self.heard = {h for h in Method.TASK_HOOKS if self.method.overrides(h)}
        self.pending: list[tuple[Batch, Outputs]] = []  # micro-batches since the last step
        self.passes = self.outside = 0  # calls of the step's closure, and micro-batches before the first of them
        self.pieces = 0  # how many of them, heard or not
        self.shared = 0.0  # which part of this rank's rows of the step they held
        self.nothing = torch.zeros((), device=self.device)
        self.lost = self.nothing  # the loss of the step so far; of all ranks after its last backward pass
        self.reducer: Reducer | None = None
        self.lent = False  # whether a micro-batch of this stage was passed away from the weights
        self.modes: list[tuple[nn.Module, bool]] = []
        self.found: list[tuple[nn.Module, bool]] = []  # modes before the stage
        self.verify_rest = verify_rest
        self.rested = Rested()
        self.resters: Tensors = {}  # what is to rest throughout
        self.stack = ExitStack()

    def __enter__(self) -> Drive:
        """Begin the stage: grow, prepare, begin, make the optimizer, set modes."""
        self.found = [(m, m.training) for m in self.model.modules()]
        with ExitStack() as stack:  # undone if anything below fails
            self._begin()
            self.rows = self.method.shape_rows(self.task.train, self.task)
            if self.given is not None:
                if self.in_parts and "offset" in self.heard:
                    refuse_parts(self.method)
                named = trainable(self.model, self.method)
                self.optimizer = self.given if isinstance(self.given, Optimizer) else inner(self.given(named))
                check_one_faced(self.task, self.optimizer)
                if self.world > 1:
                    self.reducer = Reducer([p for group in self.optimizer.param_groups for p in group["params"]])
                    stack.callback(self.optimizer.register_step_pre_hook(self.reducer.before_step).remove)
                self.site = stack.enter_context(hooked(self.method, self.optimizer, self.model, named, self.start))
                self.site.task = self.task
                if left_out := [n for n in named if n.startswith("parts.") and n not in self.site.params]:
                    raise BadSetting(
                        f"the optimizer was made before and does not hold {', '.join(left_out)}: give Drive a function from "
                        "named parameters to an optimizer"
                    )
                self._set_modes()
                if self.verify_rest:
                    self.resters = self.method.still(replace(self.site, step=0))
                    self.rested.begin(self.resters, self.site.params, {})
                if self.reducer is not None:
                    self.reducer.follow(self.model)
            self.stack = stack.pop_all()
        return self

    def _begin(self) -> None:
        check_unannounced(self.task, self.method)
        if self.seed is not None:
            seed_global(*self.place, "begin")
        for classes, task_id in self.task.growth:
            if grow(self.model, max(classes) + 1, task_id, classes) and isinstance(self.given, Optimizer):
                raise BadSetting(
                    f"the head grew to {max(classes) + 1} classes, but the optimizer was made before and does not hold the "
                    "new weights: give Drive a function from named parameters to an optimizer, or call nacre.grow first"
                )
        self.method.prepare(self.model)
        if self.world > 1:
            check_layers(self.model)
            shards.refuse_unknown_layout(self.model)
            ranks.broadcast(list(shards.replicated(self._tensors()).values()))
        if not self.begun:
            self.meet()
            with self._learning():
                self.method.begin_stage(self.model, self.task)
            self.method.prepare(self.model)

    def meet(self) -> None:
        """Let the method see the task before anything of it is learned.

        Entering does so by itself. Where other stages come before this one, call it before the first of them.
        """
        if "meet" in self.heard:
            with self._learning(), evaluating(self.model), torch.no_grad():
                self.method.meet(self.model, self.task)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the stage, unless it failed: hooks are removed, then the method learns what it will remember."""
        self.stack.close()
        for module, training in self.found:
            module.training = training
        if kind is not None:
            return
        if self.resters and all(group.get("train_mode", True) for group in self.optimizer.param_groups):
            broken = self.rested.broken(self.resters, self.site.params, {})
            refuse_broken(broken, f"task {self.task.index}, stage {self.task.stage}")
        self.rested.then = {}
        if self.given is not None and hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]  schedule-free: the weights that are read
        if self.world > 1:  # statistics that no norm layer keeps
            ranks.broadcast(list(self.model.buffers()))
        if self.seed is not None:
            seed_global(*self.place, "end")
        with self._learning():
            self.method.end_stage(self.model, self.task)
        self._check_replicas()

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """Where a method reads rows by itself. Weights in parts are gathered on all ranks: each then reads all rows."""
        with ranks.apart() if self.in_parts else nullcontext(), self.casting():
            yield
        if self.in_parts:  # gradients that were taken on the way
            self.model.zero_grad()

    def order(self, epoch: int, size: int | None = None) -> Tensor:
        """The positions of the rows that are trained on, in the order in which this epoch takes them in batches of `size`.

        Rows of like length share a batch, where they know how long they are and their order is drawn.
        """
        rows = len(self.rows) if self.rows is not None else 0
        if self.task.ordered and self.rows is self.task.train:
            order = torch.arange(rows)
        else:
            order = torch.randperm(rows, generator=dice(*self.place, epoch, "order"))
            if size is not None and (lengths := lengths_of(self.rows)) is not None:
                order = bucketed(order, lengths, size, dice(*self.place, epoch, "buckets"))
        return self.method.shape_order(order, self.task, epoch)

    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        """The rows of one epoch, shuffled, as raw batches on the model's device, from batch `start` on.

        `size` counts the rows of all ranks; each is given its own part, which may be empty in the last batch.
        """
        for pieces in self.steps(epoch, size, start):
            yield from pieces

    def steps(self, epoch: int, size: int, start: int = 0, accumulate: int = 1) -> Iterator[list[Batch]]:
        """The same, each step's rows cut into `accumulate` micro-batches (of this rank); give each to `loss`."""
        if self.rows is None:
            return
        order = self.order(epoch, size)
        pass_over(self.rows, order[: start * size])
        many = ahead(self.rows, size) if accumulate == self.world == 1 else 1
        held, at = None, 0  # rows that were read ahead, and how many of them were given out
        for low in range(start * size, len(order), size):
            step = order[low : low + size]
            if self.world > 1 and any(1 in pieces for pieces in sizes(len(step), accumulate)):
                check_norms(self.task, self.model)  # on all ranks
            if many > 1:
                if held is None or at == many * size:
                    held, at = self.rows.take(order[low : low + many * size]).to(self.device), 0
                pieces, at = [held.pick(slice(at, at + size))], at + size
            else:
                pieces = cut(self.rows, step, accumulate, self.device, self.in_parts)
            for piece in pieces if not self.task.border else ():
                self.admit(piece.y)
            yield pieces

    def admit(self, labels: Tensor) -> None:
        """Let the head answer for labels, (rows,), that no task announced: it grows, and the optimizer goes on with it.

        `steps` and `batches` do so before they give out the rows of a task without borders.
        """
        if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
            return
        highest = int(labels.max()) + 1  # read back from the device: only rows say that a class is there
        if highest <= self.classes:
            return
        self.classes = highest
        if grow(self.model, highest):
            if self.world > 1:
                raise BadSetting(
                    f"a row of class {highest - 1} came up on one of several ranks, and the head is too narrow for it: call "
                    "nacre.grow(model, classes) before, or use one process"
                )
            self.method.prepare(self.model)
            go_on_with(self.site, trainable(self.model, self.method))

    def loss(self, batch: Batch, share: float = 1.0) -> Tensor:
        """The loss of one micro-batch; call `backward()` on it.

        Args:
            batch: Raw rows of the task. Rows that another loader cut over ranks count alike on each rank.
            share: The part of this batch's rows that this micro-batch brings: 1 for all of it, and for pieces of `steps`.
        """
        for module, training in self.modes:  # loops of others call model.train() before every step
            if module.training is not training:
                module.training = training
        if self.site.passes != self.passes:  # a closure is called: of its passes the last one is heard
            if not self.passes:
                self.outside = len(self.pending)
            del self.pending[self.outside :]
            self.passes = self.site.passes
        if self.shared > WHOLE:  # a closure's next pass, or pieces that do not say their share
            self.shared, self.lost = 0.0, self.nothing
        if self.world > 1 or share != 1.0 or batch.cut is not None:
            batch, place = self._placed(batch, share)
        else:
            place = Cut(self.pieces, 1.0, (1,))
        if len(batch) or self.world == 1:
            loss = self._loss(batch, place.number)
        else:  # none of the step's rows is ours
            loss = torch.zeros((), device=self.device, requires_grad=True)
        weight = self.world * batch.share
        loss = loss if weight == 1.0 else weight * loss
        self.pieces += 1
        self.shared += place.part
        self.lost = self.lost + loss.detach().float()  # another tensor each time: loops keep it
        if self.reducer is not None:
            self.reducer.watch(loss, self.lost, place.pieces, last=self.shared > WHOLE)
        return loss

    def _placed(self, batch: Batch, share: float) -> tuple[Batch, Cut]:
        """The batch with its part of the step over all ranks, and its place among the pieces."""
        world, rank = self.world, ranks.rank()
        number, place = self.pieces if rank == 0 else f"{rank}.{self.pieces}", batch.cut
        if place is None:  # rows that somebody else cut: each rank's count alike
            batch, place = replace(batch, share=1 / world, before=rank / world), Cut(number, 1.0, (1,) * world)
        if share != 1.0:
            before = batch.before + self.shared * batch.share
            batch = replace(batch, share=share * batch.share, before=before)
            place = replace(place, number=number, part=share * place.part)
        return batch, place

    def _loss(self, batch: Batch, number: int | str) -> Tensor:
        first = not self.site.step and not self.pieces
        if first:
            check_labels(self.task, batch)
        if len(batch) == 1:
            check_norms(self.task, self.model)
        if "shape_batch" in self.heard:
            batch = self.method.shape_batch(batch)
        if self.augment is not None:
            batch = self._augmented(batch, self.site.step, number)
        spare = not batch.share  # rows that only keep the ranks in step

        def passed() -> tuple[Tensor, Outputs]:
            if self.seed is not None:
                seed_global(*self.place, self.site.step, number)
            with self.casting(), evaluating(self.model) if spare else nullcontext():
                out = forward(self.called, batch)
                if first:
                    check_width(self.task, out, batch)
                if "shape_logits" in self.heard:
                    out = replace(out, competing=self.method.shape_logits(out.logits, batch))
                loss = self.method.objective(self.model, batch, out)
                if "loss" in self.heard:
                    with shards.explained(self.method):
                        loss = loss + shards.over_parts(self.method.loss(self.model, batch, out))
            return loss, out

        far: Tensors = {}
        wrapped = self.called is not self.model
        looking = "offset" in self.heard and not self.lent and not wrapped
        run = (lambda: refuse_recomputed(self.model, passed)) if looking else passed
        if "offset" in self.heard and not spare:
            params = self.site.params
            far = self.method.offset(batch, self.site, lambda: slopes_of(self.model, params, lambda: run()[0]))
        loss, out = elsewhere(self.model, self.site.params, far, run, wrapped) if far else passed()
        self.lent = self.lent or bool(far)
        if "after_step" in self.heard and not spare:
            self.pending.append((batch, out.detach()))
        return loss

    def stepped(self) -> None:
        """Call after `optimizer.step()`. A step that did not take effect is forgotten, also one that a GradScaler left out."""
        pending = self.pending
        self._forget()
        self.site.took_effect = self.site.step > self.counted
        self.counted = self.site.step
        if self.site.took_effect and "after_step" in self.heard:
            for batch, out in exchanged(pending, self.device):
                self.method.after_step(batch, out, self.site)

    def left_out(self, step: int) -> None:
        """Call instead of `stepped` where `step`, counted from 1, was not taken or was undone: no hook hears of it.

        It is counted all the same, so that what is drawn at later steps does not depend on which were left out.
        """
        self._forget()
        self.site.step = self.counted = step
        if self.reducer is not None:
            self.reducer.follow(self.model)  # the running statistics may be those of before

    def _forget(self) -> None:
        """Forget the micro-batches of the step that is over."""
        self.pending, self.pieces, self.shared, self.lost = [], 0, 0.0, self.nothing
        self.passes = self.site.passes = 0

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The weights and modes that predictions are made with; training goes on undisturbed after."""
        optimizer: Any = self.optimizer if self.given is not None else None
        two_faced = hasattr(optimizer, "eval")
        live = list(self.site.params.values()) if two_faced else []
        held = [p.detach().clone() for p in live]  # eval() and back is not exact in floating point
        with evaluating(self.model), torch.no_grad():
            if two_faced:
                optimizer.eval()
            try:
                yield
            finally:
                if two_faced:
                    optimizer.train()
                for p, value in zip(live, held, strict=True):
                    p.copy_(value)

    def casting(self) -> Any:
        """The autocast region of this drive's precision."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()

    def _augmented(self, batch: Batch, *at: int | str) -> Batch:
        """The stage's augmentation of raw rows, by dice of this place; without one, the rows as they are."""
        if self.augment is None:
            return batch
        return self.augment(replace(batch, raw=batch.x), dice(*self.place, *at, "augment"))

    def _seen_at(self, batch: Batch, *at: int | str) -> Batch:
        """Rows as the stage sees them, dropout included, by dice of this place."""
        if self.seed is not None:
            seed_global(*self.place, *at)
        return self._augmented(batch, *at)

    def _outputs(self, batch: Batch) -> Outputs:
        """The shaped answer for rows that are read outside a step: they are no rows of the stream (source 1)."""
        if batch.source is None:
            batch = replace(batch, source=batch.y.new_ones(len(batch), dtype=torch.long))
        with self.casting():
            out = forward(self.model, batch)
            return replace(out, competing=self.method.shape_logits(out.logits, batch))

    def _objective(self, batch: Batch) -> Tensor:
        with self.casting():
            return self.method.objective(self.model, batch, self._outputs(batch))

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters and buffers of the model and of the methods' parts."""
        parts = parts_of(self.method)
        found = {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}
        return found | {f"parts.{n}": t for n, t in (*parts.named_parameters(), *parts.named_buffers())}

    def _check_replicas(self) -> None:
        """See that what was learned is the same on every rank."""
        if self.world == 1:
            return
        held = shards.replicated({"model": self._tensors(), "method": self.method.state_dict()})
        if found := ranks.differing(held):
            raise RanksDiffer(
                f"after task {self.task.index}, stage {self.task.stage}, the ranks hold different {', '.join(found[:6])}: was "
                "something drawn, counted or learned from one rank's rows? What is learned in a step belongs in after_step, "
                "which hears the rows of all"
            )

    def _set_modes(self) -> None:
        """Train what moves: a module whose parameters are all frozen, or rest throughout, stays in eval."""
        rests = self.method.still(replace(self.site, step=0))
        moving = {id(p) for n, p in self.site.params.items() if not (n in rests and _wholly(rests[n], p))}
        parts_of(self.method).train()

        def visit(module: nn.Module, inherited: bool) -> None:
            own = list(module.parameters())
            module.training = any(id(p) in moving for p in own) if own else inherited
            for child in module.children():
                visit(child, module.training)

        if self.frozen_norms:
            visit(self.model, True)
        else:
            self.model.train()
        self.modes = [(m, m.training) for m in self.model.modules()]


def _wholly(rests: Tensor, param: Tensor) -> bool:
    """Whether every entry rests; a mask shorter than its tensor leaves rows that move."""
    return (rests.ndim == 0 or len(rests) == len(param)) and bool(rests.all())
