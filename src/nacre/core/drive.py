"""The one order of hooks, for the learner and for anybody else's loop.

One step: take rows (raw) -> `shape_batch` -> augment -> forward -> `shape_logits` -> `objective` + `loss` -> backward ->
`shape_grads` -> optimizer -> `shape_weights` -> `resting` -> `after_step`. One stage: grow the head -> `prepare` ->
`begin_stage` -> `prepare` -> the optimizer is made -> modes are set -> steps -> `end_stage`.
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

from .dice import dice, seed_global
from .errors import BadData, BadSetting, TooFewRows
from .method import Method, compose, parts_of, trainable
from .model import Outputs, bare, device_of, evaluating, forward, grow
from .rows import Augment, Batch, batches
from .rule import Rule, Site, hooked
from .stream import Task

MakeOptimizer = Callable[[dict[str, nn.Parameter]], Optimizer]
"""Makes an optimizer from parameters by name."""
Precision = Literal["fp32", "bf16"]


class Drive:
    """Runs a method around somebody's training loop, on one task.

    Args:
        method: A method, a rule, or several composed.
        model: The model, wrapped (DDP, compile) or not.
        optimizer: A function from named parameters to an optimizer, which then also holds what the method adds; or an
            optimizer; or None where nothing is trained.
        task: What is to be learned.
        augment: Changes batches of raw rows before the forward pass.
        seed: Seeds orders, augmentation and, before each forward pass, the global generator that dropout draws from.
            None leaves the global generator alone; orders and augmentation then use seed 0.
        frozen_norms: Whether norm layers whose weights do not move keep their statistics too.
        precision: `"bf16"` runs the forward pass under autocast.
        step: How many steps of this stage were done before.
        begun: Whether the stage has begun before, as on resume; it does not begin again then.

    Raises:
        BadSetting: the optimizer was made before the head grew, or before a method added parts.

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
    ):
        self.method: Method = method if isinstance(method, Method) else compose(method)
        self.called, self.model = model, bare(model)
        self.given = optimizer
        self.augment, self.seed, self.frozen_norms, self.precision = augment, seed, frozen_norms, precision
        self.start, self.begun = step, begun
        self.device = device_of(self.model)
        self.task = replace(
            task, device=str(self.device), augment=self._augmented, outputs=self._outputs, objective=self._objective
        )
        self.place = (seed or 0, task.index, task.stage)
        self.heard = {h for h in Method.TASK_HOOKS if self.method.overrides(h)}
        self.pending: list[tuple[Batch, Outputs]] = []  # micro-batches since the last step
        self.pieces = 0  # how many of them, heard or not
        self.shared = 0.0  # which part of the step's rows they held
        self.modes: list[tuple[nn.Module, bool]] = []
        self.found: list[tuple[nn.Module, bool]] = []  # modes before the stage
        self.stack = ExitStack()

    def __enter__(self) -> Drive:
        """Begin the stage: grow, prepare, begin, make the optimizer, set modes."""
        self.found = [(m, m.training) for m in self.model.modules()]
        with ExitStack() as stack:  # undone if anything below fails
            self._begin()
            if self.given is not None:
                named = trainable(self.model, self.method)
                self.optimizer = self.given if isinstance(self.given, Optimizer) else self.given(named)
                self.site = stack.enter_context(hooked(self.method, self.optimizer, self.model, named, self.start))
                if left_out := [n for n in named if n.startswith("parts.") and n not in self.site.params]:
                    raise BadSetting(
                        f"the optimizer was made before and does not hold {', '.join(left_out)}: give Drive a function from "
                        "named parameters to an optimizer"
                    )
                self._set_modes()
            self.stack = stack.pop_all()
        return self

    def _begin(self) -> None:
        if self.seed is not None:
            seed_global(*self.place, "begin")
        for classes, task_id in self.task.growth:
            if grow(self.model, max(classes) + 1, task_id, classes) and isinstance(self.given, Optimizer):
                raise BadSetting(
                    f"the head grew to {max(classes) + 1} classes, but the optimizer was made before and does not hold the "
                    "new weights: give Drive a function from named parameters to an optimizer, or call nacre.grow first"
                )
        self.method.prepare(self.model)
        if not self.begun:
            with self.casting():
                self.method.begin_stage(self.model, self.task)
            self.method.prepare(self.model)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the stage, unless it failed: hooks are removed, then the method learns what it will remember."""
        self.stack.close()
        for module, training in self.found:
            module.training = training
        if kind is not None:
            return
        if self.given is not None and hasattr(self.optimizer, "eval"):
            self.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]  schedule-free: the weights that are read
        if self.seed is not None:
            seed_global(*self.place, "end")
        with self.casting():
            self.method.end_stage(self.model, self.task)

    def order(self, epoch: int) -> Tensor:
        """The positions of the task's rows in the order in which this epoch takes them."""
        shuffled = torch.randperm(self.task.rows, generator=dice(*self.place, epoch, "order"))
        return self.method.shape_order(shuffled, self.task, epoch)

    def batches(self, epoch: int, size: int, start: int = 0) -> Iterator[Batch]:
        """The task's rows of one epoch, shuffled, as raw batches on the model's device, from batch `start` on."""
        return batches(self.task.train, size, self.order(epoch), start, self.device)

    def loss(self, batch: Batch, share: float = 1.0) -> Tensor:
        """The loss of one micro-batch; call `backward()` on it.

        Args:
            batch: Raw rows of the task.
            share: The part of this step's rows that this micro-batch brings: 1 without accumulation.
        """
        for module, training in self.modes:  # loops of others call model.train() before every step
            if module.training is not training:
                module.training = training
        if share != 1.0:
            batch = replace(batch, share=share, before=self.shared)
            self.shared += share
        first = not self.site.step and not self.pieces
        if first:
            self._check_labels(batch)
        if len(batch) == 1:
            self._check_norms()
        if "shape_batch" in self.heard:
            batch = self.method.shape_batch(batch)
        if self.augment is not None:
            batch = self._augmented(batch, self.site.step, self.pieces)
        if self.seed is not None:
            seed_global(*self.place, self.site.step, self.pieces)
        with self.casting():
            out = forward(self.called, batch)
            if first:
                self._check_width(out, batch)
            if "shape_logits" in self.heard:
                out = replace(out, competing=self.method.shape_logits(out.logits, batch))
            loss = self.method.objective(self.model, batch, out)
            if "loss" in self.heard:
                loss = loss + self.method.loss(self.model, batch, out)
        self.pieces += 1
        if "after_step" in self.heard:
            self.pending.append((batch, out.detach()))
        return loss if share == 1.0 else share * loss

    def stepped(self) -> None:
        """Call after `optimizer.step()`. A step that did not take effect is forgotten."""
        pending, self.pending, self.pieces, self.shared = self.pending, [], 0, 0.0
        if self.site.took_effect:
            for batch, out in pending:
                self.method.after_step(batch, out, self.site)

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

    def _outputs(self, batch: Batch) -> Outputs:
        with self.casting():
            out = forward(self.model, batch)
            return replace(out, competing=self.method.shape_logits(out.logits, batch))

    def _objective(self, batch: Batch) -> Tensor:
        with self.casting():
            return self.method.objective(self.model, batch, self._outputs(batch))

    def _check_labels(self, batch: Batch) -> None:
        """Once a stage: the first labels are among the task's classes."""
        known = self.task.classes
        if known and batch.y.ndim == 1 and not batch.y.is_floating_point() and len(batch):
            strange = sorted(set(batch.y.tolist()) - set(known))
            if strange:
                raise BadData(
                    f"task {self.task.index} has classes {list(known)[:9]}, but its rows carry {strange[:9]}: name them all"
                )

    def _check_width(self, out: Outputs, batch: Batch) -> None:
        """Once a stage: the model answers for all classes of the task."""
        if batch.y.ndim != 1 or batch.y.is_floating_point() or not len(batch):
            return
        highest = max((*self.task.classes, int(batch.y.max())))
        if highest >= out.logits.shape[-1]:
            raise BadSetting(
                f"the task has class {highest}, but the model answers for {out.logits.shape[-1]} classes: give it a head with "
                "a method grow(classes), such as nacre.heads.GrowingLinear, or one that is wide enough; and name the classes "
                "in Task(index, rows, classes)"
            )

    def _check_norms(self) -> None:
        if any(isinstance(m, nn.BatchNorm1d) and m.training for m in self.model.modules()):
            raise TooFewRows(
                "a batch of one row cannot be normalised by BatchNorm1d: choose a batch_size (and accumulate) that leaves no "
                f"single row of the {self.task.rows} of task {self.task.index}"
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
