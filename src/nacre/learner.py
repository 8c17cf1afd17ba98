"""The loop: carries a model through a stream, and can stop and resume at any step.

It is over 300 lines because a stage, the position in it and the way back to it are one contract.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from . import checkpoint
from .core import ranks, shards
from .core.drive import Drive, MakeOptimizer, Precision
from .core.errors import BadCheckpoint, BadData, BadSetting
from .core.finite import Guard, OnNonFinite
from .core.kept_optimizer import kept_state, take_over
from .core.machine import machine, unlike
from .core.method import Method, as_met, compose, leaves, parts_of, trainable, trains
from .core.model import bare, device_of, evaluating, grow
from .core.rows import Augment, Batch
from .core.rule import Rule
from .core.state import Stateful, check_settings, moved, state
from .core.stream import Experience, Stream, Task
from .core.tree import copied
from .schedules.phases import Phases

logger = logging.getLogger(__name__)
WIDEST = 1_000_000  # classes of a head that has no weights to show for them
POSITION = ("experience", "stage", "step")


@dataclass
class Stage:
    """Training on one experience with one method and one optimizer. A method object belongs to one stage.

    Attributes:
        method: What controls the moves; several parts are composed with `nacre.compose`.
        optimizer: Makes the optimizer, anew for each experience. None: nothing is trained, the stage begins and ends.
        optimizer_state: Whether momenta and second moments begin anew with each experience ("new") or go on from the one
            before ("kept"), as in code that makes one optimizer for the whole stream.
        when: Which experiences the stage runs on: "every", "first", "later", or numbers and spans such as "0,3-5".
        epochs: How often each row is met.
        steps: Optimizer steps, instead of epochs.
        batch_size: Rows of the stream per optimizer step, on all ranks together.
        accumulate: Micro-batches that each step is cut into, on each rank.
        clip: The largest norm of the whole gradient; None = not clipped.
        schedule: Multiplies the learning rates.
        clock: What the schedule counts: the steps of this stage on one task, or those of the whole stream.
        augment: Changes batches of raw rows before the forward pass.
        frozen_norms: Whether norm layers whose weights do not move keep their statistics too.
    """

    method: Rule = field(default_factory=Method)
    optimizer: MakeOptimizer | None = None
    optimizer_state: Literal["new", "kept"] = "new"
    when: str = "every"
    epochs: int = 1
    steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    clip: float | None = None
    schedule: Phases = field(default_factory=Phases)
    clock: Literal["task", "stream"] = "task"
    augment: Augment | None = None
    frozen_norms: bool = True

    def __post_init__(self) -> None:
        check_settings(self)
        if not isinstance(self.method, Method):
            self.method = compose(self.method)
        if self.optimizer is None and trains(self.method):
            names = ", ".join(type(part).__name__ for part in leaves(self.method)) or "nothing"
            raise BadSetting(f"a stage of {names} trains only with an optimizer: give it one, such as MadeOptimizer()")
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise BadSetting(f"a stage's {name} is at least 1, not {getattr(self, name)!r}")
        if self.steps is not None and self.steps < 1:
            raise BadSetting(f"a stage's steps is at least 1 or None, not {self.steps!r}")
        if self.clip is not None and self.clip <= 0:
            raise BadSetting(f"a stage's clip is a positive norm or None, not {self.clip!r}")
        if self.clock == "stream" and self.schedule.has_shares:
            raise BadSetting(
                "a schedule over the stream's clock takes lengths in steps: its end, and so a share of it, is unknown"
            )
        self.runs_on(Task(0))  # a misspelt `when` is refused here, not in task 7

    def runs_on(self, task: Task) -> bool:
        """Whether the stage is due on this task."""
        return any(_holds(word.strip(), task.index) for word in self.when.split(","))


class Listener:
    """Hears what happens while a learner works; every method does nothing unless overridden."""

    def task_begins(self, learner: Learner, met: Experience) -> None:
        """Before the first stage of an experience, the head being grown."""

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        """Before the first step of a stage, and again where a stage is resumed; `total` counts its steps."""

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        """After each step, with the loss of its rows; may save. To predict, enter `learner.reading()`."""

    def left_out(self, learner: Learner, event: dict[str, Any]) -> None:
        """Instead of `stepped` where NaN or infinity came up and the run goes on; may save. An event: see `Learner`."""

    def stage_ends(self, learner: Learner) -> None:
        """After each stage; the position is already that of the next one, so a save here does not repeat it."""


@dataclass
class Learner(Stateful):
    """Carries a model through a stream, stage by stage.

    Each draw is a function of (seed, experience, stage, step), so a position is all the randomness there is to save.

    Attributes:
        model: Any module; its head should be able to grow.
        stages: What is done on each experience, in this order.
        seed: Seeds everything that is drawn.
        precision: `"bf16"` runs forward passes under autocast.
        deterministic: Ask torch for deterministic algorithms while training.
        on_nonfinite: What happens when a loss, a gradient or a weight is NaN or infinite. `"stop"` raises. `"skip"` lets the
            step not take effect: weights, buffers and the optimizer's state are as before, and no hook hears of it.
            `"rollback"` returns to the last mark and leaves out the batches up to and including the bad one, three times in
            a run at most. Both wait for an accelerator twice a step, and "skip" copies what a step changes.
        verify_rest: Whether the end of each stage looks at what was asked to rest throughout; see `nacre.Drive`.
        mark_every: Steps of the whole run between marks, the places that "rollback" returns to; the beginning of each stage
            is one too.
        nonfinite: What came up and what was done, an entry an event: `task`, `stage`, `step` counted from 1, the first
            `tensor`, what was `done`, and the number of steps after which the training was that it went `back_to`.

    Example:
        >>> from nacre.core.rows import TensorRows
        >>> from nacre.core.optim import MadeOptimizer
        >>> from nacre.streams import stream_of
        >>> tasks = [Task(i, TensorRows(torch.randn(8, 3), torch.tensor([0, 1] * 4)), (0, 1)) for i in range(2)]
        >>> learner = Learner(nn.Linear(3, 2), (Stage(optimizer=MadeOptimizer("sgd", 0.1), batch_size=4),))
        >>> [met.task.index for met in learner.learn(stream_of([Experience(t) for t in tasks]))]
        [0, 1]
    """

    model: nn.Module
    stages: tuple[Stage, ...]
    seed: int = 0
    precision: Precision = "fp32"
    deterministic: bool = False
    on_nonfinite: OnNonFinite = "stop"
    mark_every: int = 100
    verify_rest: bool = True
    experience: int = state(int)  # where we stand
    stage: int = state(int)
    step: int = state(int)
    begun: bool = state(bool)  # whether the present stage has begun
    clocks: list[int] = state(list)  # steps done by each stage over the whole stream
    classes: int = state(int)  # the head's width
    nonfinite: list[dict[str, Any]] = state(list)
    kept: dict[str, Any] = state(dict)  # by stage: optimizer state that waits for the next experience
    optimizer: Optimizer | None = field(init=False, repr=False, compare=False, default=None)
    drive: Drive | None = field(init=False, repr=False, compare=False, default=None)
    guard: Guard | None = field(init=False, repr=False, compare=False, default=None)
    mark: dict[str, Any] | None = field(init=False, repr=False, compare=False, default=None)

    def __post_init__(self) -> None:
        check_settings(self)
        self.stages = tuple(self.stages)
        if not self.stages:
            raise BadSetting("a learner needs at least one stage, such as Stage(optimizer=MadeOptimizer())")
        if self.mark_every < 1:
            raise BadSetting(f"a learner's mark_every is at least 1, not {self.mark_every!r}")
        owners = [id(part) for s in self.stages for part in leaves(s.method)]
        if len(set(owners)) < len(owners):
            raise BadSetting("a method object belongs to one stage: give each stage its own")
        self.clocks = [0] * len(self.stages)

    def learn(self, stream: Stream, *listeners: Listener) -> Iterator[Experience]:
        """Learn from where we stand to the end of the stream; yields each experience once it is learned.

        Raises:
            BadData: the stream was sliced, or gives another experience than the one asked for.
            NonFinite: a loss or a weight became NaN or infinite, and `on_nonfinite` is "stop" or has done what it can.
        """
        stream = as_met(stream, *(s.method for s in self.stages))
        for i in count(max(self.experience - 1, 0)):  # one back: a sliced stream is noticed
            try:
                met = stream[i]
            except IndexError:
                return
            if met.task.index != i:
                raise BadData(
                    f"stream[{i}] is experience {met.task.index}: give the whole stream; the learner finds its place"
                )
            if i < self.experience:
                continue
            if not met.task.border:
                self._refuse_borders()
            self.classes = max(self.classes, *(c + 1 for c in met.task.classes), 0)
            for classes, task_id in met.task.growth:
                grow(self.model, max(classes) + 1, task_id, classes)
            if not self.stage and not self.step and not (self.begun and met.task.border):
                for hears in listeners:
                    hears.task_begins(self, met)
                self._meet(met.task)
            while self.stage < len(self.stages):
                stage = self.stages[self.stage]
                if stage.runs_on(met.task):
                    self._run_through(stage, replace(met.task, stage=self.stage), listeners)
                self.stage, self.step, self.mark = self.stage + 1, 0, None
                if met.task.border:  # else the stage goes on with the next experience
                    self.begun, self.optimizer = False, None
                for hears in listeners:
                    hears.stage_ends(self)
            self.experience, self.stage = i + 1, 0
            yield met

    def predict(self, batch: Batch) -> Tensor:
        """Scores, (rows, classes), by the last stage whose method answers for the model; without one, by the model."""
        with self.reading():
            return self.answering().predict(bare(self.model), batch.to(device_of(self.model)))

    def answering(self) -> Method:
        """The method that answers for the model."""
        able = (s.method for s in reversed(self.stages) if s.method.overrides("predict"))
        method = next(able, Method())
        assert isinstance(method, Method)
        return method

    @contextmanager
    def reading(self) -> Iterator[None]:
        """The weights, modes and precision that predictions are made with; training goes on undisturbed after."""
        device = device_of(self.model)
        cast = torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with self.drive.reading() if self.drive else evaluating(self.model), torch.no_grad(), cast:
            yield

    def save(self, folder: str | Path) -> None:
        """Write all that is needed to go on from here; see `nacre.checkpoint`. All ranks call it, the first one writes.

        Raises:
            NonFinite: weights are NaN or infinite, and `on_nonfinite` is "stop".
            NotSaved: the disk is full, or cannot be written to.
        """
        self.check_finite()
        tree = self.state_dict()
        if ranks.first():
            checkpoint.save(folder, tree)

    def resume(self, folder: str | Path) -> None:
        """Take over a saved position; the next `learn` goes on from it, bit for bit.

        Raises:
            BadCheckpoint: it cannot be read, or is of another learner.
        """
        saved = checkpoint.load(folder)
        with checkpoint.describing("this learner"):
            self.load_state_dict(saved)
            self.warn_if_unlike(saved)

    def check_finite(self) -> None:
        """See that no checkpoint is written of what is lost already: under "stop" weights are looked at only here.

        Raises:
            NonFinite: a loss or a weight is NaN or infinite.
        """
        if self.guard is not None and (found := self.guard.read()):
            self.guard.answer(found)

    def warn_if_unlike(self, saved: dict[str, Any]) -> None:
        """Say where a saved position is not gone on from bit for bit: on another device, version or number of threads."""
        now = machine(device_of(self.model), self.deterministic)
        if why := unlike(saved["machine"], now):
            logger.warning("what is resumed here equals a run that never stopped only within about 1e-4: %s", why)

    def state_dict(self) -> dict[str, Any]:
        """Everything learned so far and the position, as references; weights that ranks hold in parts are gathered."""
        here = self.mark is not None and all(self.mark[key] == getattr(self, key) for key in POSITION)
        return {**self._state(), "mark": None if here else self.mark}  # a mark at this very place is the state itself

    def _state(self) -> dict[str, Any]:
        tree = {
            **super().state_dict(),
            "model": bare(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict() if self.optimizer else None,
            "stages": [
                {"method": s.method.state_dict(), "parts": parts_of(s.method).state_dict()} for s in self.stages
            ],
            "machine": machine(device_of(self.model), self.deterministic),
        }
        return shards.whole_tree(tree)

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Structure first (the head's width, states, modules), then weights, then the optimizer.

        Raises:
            BadCheckpoint: it comes from other stages, methods or another model.
        """
        model, kept = bare(self.model), dict(saved)
        device = device_of(model)
        try:
            weights, optimizer, stages = kept.pop("model"), kept.pop("optimizer"), kept.pop("stages")
            self.mark, _ = kept.pop("mark"), kept.pop("machine")
        except KeyError as missing:
            raise BadCheckpoint(
                f"this is no learner's checkpoint, for {missing} is missing: give one that it saved"
            ) from None
        if len(stages) != len(self.stages):
            raise BadCheckpoint(
                f"the checkpoint has {len(stages)} stages, this learner {len(self.stages)}: give it the same"
            )
        if self.classes > kept["classes"]:
            raise BadCheckpoint(
                f"this learner knows {self.classes} classes already, the checkpoint {kept['classes']}: resume it into a fresh "
                "learner and model"
            )
        if kept["classes"] > max(WIDEST, sum(t.numel() for t in weights.values())):
            raise BadCheckpoint(
                f"the checkpoint says that there are {kept['classes']} classes, of which its weights know none: was it "
                "written by hand?"
            )
        super().load_state_dict(kept)
        grow(model, self.classes)
        for s, k in zip(self.stages, stages, strict=True):
            s.method.load_state_dict(moved(k["method"], device))
        present = self.stages[min(self.stage, len(self.stages) - 1)]
        for s in (*self.stages, present):  # the present stage has the last word on requires_grad
            assert isinstance(s.method, Method)
            s.method.prepare(model)
        try:
            model.load_state_dict(shards.cut_as(weights, model.state_dict()))
        except RuntimeError as error:
            raise BadCheckpoint(f"the checkpoint is of another model: {error}; build the one that was saved") from error
        for s, k in zip(self.stages, stages, strict=True):
            parts_of(s.method).load_state_dict(k["parts"])
        self.optimizer = None
        if optimizer is not None:
            assert present.optimizer is not None
            self.optimizer = present.optimizer(trainable(model, present.method))
            self.optimizer.load_state_dict(optimizer)
            for param, own in self.optimizer.state.items():
                own.update(shards.cut_as(own, dict.fromkeys(own, param)))

    def _run_through(self, stage: Stage, task: Task, listeners: tuple[Listener, ...]) -> None:
        """Run a stage to its end, and again from its mark wherever it is rolled back."""
        while True:
            try:
                return self._run(stage, task, listeners)
            except _RolledBack as back:
                self._go_back()
                for hears in listeners:
                    hears.left_out(self, back.event)

    def _refuse_borders(self) -> None:
        """See that nothing that was asked for needs to know where a task begins or ends.

        Raises:
            BadSetting: something does.
        """
        (first, *others), cure = self.stages, 'or tell borders, with arrival = "online"'
        if others:
            raise BadSetting(
                f"{len(self.stages)} stages follow each other where a task ends, and a task-free stream does not tell: "
                f"compose their methods in one stage, {cure}"
            )
        if first.when != "every":
            raise BadSetting(
                f"when = {first.when!r} counts tasks, and a task-free stream tells none: leave it out, {cure}"
            )
        if first.steps is not None or first.schedule.has_shares:
            what = f"steps = {first.steps}" if first.steps is not None else "a schedule with shares"
            raise BadSetting(
                f"{what} of a stage needs its end, and a task-free stream has one stage without an end: leave it out, {cure}"
            )

    def _meet(self, task: Task) -> None:
        """Let the methods of all stages see a task while the model is as the tasks before have left it.

        The first stage's driver does so itself.
        """
        for number, stage in enumerate(self.stages):
            if number and stage.runs_on(task) and stage.method.overrides("meet"):
                own = replace(task, stage=number)
                Drive(stage.method, self.model, None, own, seed=self.seed, precision=self.precision).meet()

    def _run(self, stage: Stage, task: Task, listeners: tuple[Listener, ...]) -> None:
        drive = Drive(
            stage.method,
            self.model,
            self.optimizer or self._make_optimizer(stage),
            task if task.border else replace(task, index=0),
            augment=stage.augment,
            seed=self.seed,
            frozen_norms=stage.frozen_norms,
            precision=self.precision,
            step=self.step if task.border else self.clocks[self.stage],
            begun=self.begun,
            verify_rest=self.verify_rest,
        )
        cuda = [drive.device.index or 0] if drive.device.type == "cuda" else []
        with _deterministic(self.deterministic), torch.random.fork_rng(cuda):
            try:
                with drive:
                    self.begun = True
                    if stage.optimizer is not None:
                        self.drive, self.optimizer = drive, drive.optimizer
                        self._train(stage, drive, listeners)
                    self.drive = None
                if stage.optimizer_state == "kept" and stage.optimizer is not None and task.border:
                    self.kept[str(self.stage)] = kept_state(drive.site)
            finally:
                self.drive = None

    def _make_optimizer(self, stage: Stage) -> MakeOptimizer | None:
        """The stage's function that makes an optimizer, which takes over what the stage kept of the one before."""
        make = stage.optimizer
        if make is None or stage.optimizer_state == "new":
            return make

        def made(params: dict[str, nn.Parameter]) -> Optimizer:
            return take_over(make(params), params, self.kept.pop(str(self.stage), {}))

        return made

    def _train(self, stage: Stage, drive: Drive, listeners: tuple[Listener, ...]) -> None:
        optimizer, task = drive.optimizer, drive.task
        per_epoch = -(-len(drive.order(0)) // stage.batch_size)
        total = (stage.steps if stage.steps is not None else stage.epochs * per_epoch) if per_epoch else 0
        if task.once and drive.rows is task.train and total > per_epoch:
            asked = f"epochs = {stage.epochs}" if stage.steps is None else f"steps = {stage.steps}"
            raise BadSetting(
                f"the {task.rows} rows of task {self.experience} are met once, in {per_epoch} steps of {stage.batch_size}, but "
                f'{asked} asks for {total} steps: set epochs = 1, or let rows stay, with arrival = "offline"'
            )
        rate = stage.schedule.over(total)
        peaks = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
        place = {"task": self.experience, "stage": self.stage}
        self.guard = guard = Guard(self.on_nonfinite, drive.site, drive.device, place, self.nonfinite)
        if self.mark is None:
            self._set_mark()
        for hears in listeners:
            hears.stage_begins(self, stage, total)
        while self.step < total:
            epoch, start = divmod(self.step, per_epoch)
            for pieces in drive.steps(epoch, stage.batch_size, start, stage.accumulate):
                if drive.classes > self.classes:
                    self.classes = drive.classes
                    self._set_mark()  # one with a narrower head could not be gone back to
                now = self.clocks[self.stage] if stage.clock == "stream" or not task.border else self.step
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["lr"] = peak * rate(now)
                optimizer.zero_grad()
                guard.begin()
                loss = _backward(drive, pieces)
                found = guard.before_step(loss, pieces)
                if found is None:
                    if stage.clip is not None:
                        shards.clip([p for group in optimizer.param_groups for p in group["params"]], stage.clip)
                    optimizer.step()
                    found = guard.after_step()
                if found is None:
                    drive.stepped()
                self.step += 1
                self.clocks[self.stage] += 1
                if found is None:
                    if sum(self.clocks) % self.mark_every == 0:
                        self._set_mark()
                    for hears in listeners:
                        hears.stepped(self, loss)
                else:
                    event = guard.answer(found, self.mark["step"] if self.mark is not None else None)
                    if event["done"] == "rolled back":
                        raise _RolledBack(event)
                    drive.left_out(found.step)
                    for hears in listeners:
                        hears.left_out(self, event)
                if self.step >= total:
                    break
        self.check_finite()
        self.guard = None

    def _set_mark(self) -> None:
        """Remember everything as it is, if that is what a rollback may return to."""
        if self.on_nonfinite == "rollback":
            self.mark = copied(self._state() | {"mark": None})

    def _go_back(self) -> None:
        """Take over the mark; the position stays behind the step that was left out."""
        mark, kept = self.mark, {name: getattr(self, name) for name in ("nonfinite", "clocks", "step")}
        assert mark is not None
        self.load_state_dict(copied(mark))
        self.mark = mark
        for name, value in kept.items():
            setattr(self, name, value)


class _RolledBack(Exception):
    """Leaves a stage, which goes on from its mark."""

    def __init__(self, event: dict[str, Any]):
        super().__init__()
        self.event = event


def _backward(drive: Drive, pieces: list[Batch]) -> Tensor:
    """Accumulate the gradient of one step, cut into micro-batches; the step's loss, detached."""
    for piece in pieces:
        loss = drive.loss(piece)
        if loss.requires_grad:
            loss.backward()
        elif not drive.site.step:
            raise BadSetting(
                f"the stage of {type(drive.method).__name__} trains nothing: its loss depends on no weight that requires a "
                "gradient; free some weights, or leave the stage's optimizer out"
            )
    return drive.lost


def _holds(word: str, index: int) -> bool:
    match word:
        case "every":
            return True
        case "first":
            return index == 0
        case "later":
            return index > 0
    span = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
    if span is None or int(span[2] or span[1]) < int(span[1]):
        raise BadSetting(f'when = {word!r} is not "every", "first", "later", a number or a span such as "3-5"')
    return int(span[1]) <= index <= int(span[2] or span[1])


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if on:
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)
