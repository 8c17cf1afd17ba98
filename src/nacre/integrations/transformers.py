"""The Hugging Face Trainer, unchanged, with a method around its steps.

A trainer learns one task; the method and the model go from one trainer to the next. Gradient accumulation, mixed precision,
clipping, schedules, evaluation, checkpoints and several processes are the Trainer's. What is ours lies in the folder `nacre` of
each of its checkpoints, without pickle. The loss is the stage's own, of the model's logits: what the model's `forward` or a
`compute_loss_func` would make of the labels is not asked for.
"""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import checkpoint
from ..core import ranks
from ..core.drive import Drive
from ..core.errors import BadSetting, MissingExtra
from ..core.method import Method, compose
from ..core.model import Outputs, bare, called, evaluating, mean_loss
from ..core.rows import Augment, Batch
from ..core.rule import Rule
from ..core.stream import Task
from . import stage
from .collated import BESIDE, CollatedRows, classes_of, to_batch
from .features import with_features
from .loading import Order, Positions, Taken
from .renamed import read_renamed

if importlib.util.find_spec("accelerate") is None:
    raise MissingExtra("the Trainer of transformers", "accelerate", "trainer")

from accelerate.utils import extract_model_from_parallel
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

__all__ = ["ContinualMixin", "ContinualTrainer", "with_features"]

FOLDER = "nacre"
"""Where a checkpoint of the Trainer holds what is ours."""

Base = Trainer if TYPE_CHECKING else object
"""What a mixin is mixed into, for those who read types."""


class ContinualMixin(Base):
    """Lets a method take part in a Trainer: `class Mine(ContinualMixin, TheirTrainer)`. Weights move as in a loop of `Drive`.

    Args:
        *args: The Trainer's own.
        method: A method, a rule, or several composed; the same object for the trainers of all tasks.
        task: A `Task` with its rows; or its number, and the rows are those of `train_dataset`.
        classes: The class ids of a task that is given by its number; None reads them off all its labels.
        augment: Changes batches of raw rows before the forward pass.
        **kwargs: The Trainer's own.

    Raises:
        BadSetting: the method trains nothing, or an argument of the Trainer would do something that is the method's.

    Example:
        >>> import tempfile
        >>> from nacre.methods import ER
        >>> from transformers import PrinterCallback, TrainingArguments
        >>> told = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        >>> told |= {"logging_strategy": "no", "dataloader_pin_memory": False, "num_train_epochs": 1}
        >>> args = TrainingArguments(tempfile.mkdtemp(), remove_unused_columns=False, **told)
        >>> rows = [{"input": torch.randn(3), "label": i % 2} for i in range(8)]
        >>> method, model = ER(), nn.Linear(3, 2)
        >>> trainer = ContinualTrainer(model, args, train_dataset=rows, method=method, task=0)
        >>> trainer.remove_callback(PrinterCallback)
        >>> trainer.train().global_step, method.memory.seen
        (1, 8)
    """

    loss_is_scaled_for_ga = True  # micro-batches are weighted by their share of the step's rows

    def __init__(
        self,
        *args: Any,
        method: Rule,
        task: Task | int = 0,
        classes: Sequence[int] | None = None,
        augment: Augment | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        assert self.model is not None
        self.method: Method = method if isinstance(method, Method) else compose(method)
        self.task = task if isinstance(task, Task) else Task(task, classes=tuple(classes or ()))
        self.named_classes = bool(self.task.classes) or classes is not None
        self.augment = augment
        self.drive: Drive | None = None
        self.classes = 0  # width of the heads that grow
        self._stage = ExitStack()
        self._from: dict[str, Any] | None = None  # where a resumed stage stands; None outside of train()
        self._folder: Path | None = None  # the checkpoint that is gone on with
        self._shares: deque[float] = deque()  # parts of the step's rows that its micro-batches hold
        self._order: Order | None = None
        self._given_optimizer = self.optimizer
        self._refuse()
        with_features(self.model)
        self.add_callback(_Steps(self))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Learn the task: the stage begins, the Trainer trains, the stage ends. Arguments are the Trainer's.

        Raises:
            BadCheckpoint: the checkpoint is of another method or task, or was written without one.
        """
        extract_model_from_parallel(
            self.model, keep_fp32_wrapper=False
        )  # a trainer before may have wrapped its forward
        self.optimizer, self._from = self._given_optimizer, {}
        folder = resume_from_checkpoint
        model: Any = self.model
        if folder is True:
            assert self.args.output_dir is not None
            folder = get_last_checkpoint(self.args.output_dir)
        self._folder = Path(folder) if folder else None
        if folder:
            self._from = stage.take_over(checkpoint.load(Path(folder) / FOLDER), self.method, model, self._with_rows())
        try:
            with ExitStack() as self._stage:
                return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            self.drive = self._from = self._order = None

    def get_train_dataloader(self) -> Any:
        """The Trainer's own loader, of the rows and in the order that the method asks for."""
        if self._from is None:
            return super().get_train_dataloader()
        drive = self._begin()
        assert drive.rows is not None
        size = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        self._order = Order(drive, size)
        theirs = self.train_dataset, self.data_collator
        self.train_dataset: Any = Positions(len(drive.rows))
        self.data_collator: Any = Taken(drive.rows, self._label)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = theirs

    def create_optimizer(self, model: Any = None) -> Any:
        """The Trainer's own, made when the stage began, with the parts of the method in it."""
        return super().create_optimizer(model) if self.drive is None else self.optimizer

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The micro-batches of the next step; what each holds of its rows is noted."""
        found, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        rows = [len(inputs[self._label]) for inputs in found]
        self._shares = deque(n / sum(rows) for n in rows)
        return found, items

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of the stage while it trains; the Trainer's own when it evaluates."""
        if self.drive is None or BESIDE not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self.drive.called = called(model)
        return self.drive.loss(to_batch(inputs, self._label).to(self.drive.device), self._shares.popleft())

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """The Trainer's own, on the weights and in the modes that predictions are made with."""
        with self.drive.reading() if self.drive is not None else nullcontext():
            return super().evaluation_loop(*args, **kwargs)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """The Trainer's own; scores of ours where the method answers instead of the model, or the model takes no labels."""
        answers = self.method.overrides("predict")
        if self.label_names and not answers:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        held = dict(self._prepare_inputs(inputs))
        y: Tensor | None = held.pop(self._label, None)
        batch = Batch(held, torch.zeros(len(next(iter(held.values())))) if y is None else y)
        inner = bare(model)
        with evaluating(inner), torch.no_grad():
            scores = self.method.predict(inner, batch)
        loss = None if answers or y is None else mean_loss(Outputs(scores, scores), batch)
        return loss, None if prediction_loss_only else scores, y

    def _clip_grad_norm(self, model: Any) -> Any:
        """One norm over all that the optimizer holds, the method's parts too."""
        if self.drive is None:
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(self.drive.site.params.values(), self.args.max_grad_norm)

    @property
    def _label(self) -> str:
        return self.label_names[0] if self.label_names else "labels"  # as collators call them

    def _with_rows(self) -> Task:
        """The task, once its rows are known as such."""
        if self.task.train is None and self.train_dataset is not None:
            collate = self._get_collator_with_removed_columns(self.data_collator, "training")
            rows = CollatedRows(self.train_dataset, collate, self._label)
            classes = self.task.classes if self.named_classes else classes_of(rows)
            self.task = replace(self.task, train=rows, classes=tuple(classes))
        return self.task

    def _begin(self) -> Drive:
        task = self._with_rows()
        assert self._from is not None and self.model is not None
        if self._folder is not None:
            read_renamed(self.model, self._folder)
        drive = Drive(
            self.method, self.model, self._make, task,
            augment=self.augment, seed=self.args.seed, precision="bf16" if self.args.bf16 else "fp32", **self._from,
        )  # fmt: skip
        self.drive = self._stage.enter_context(drive)
        self.classes = stage.width_of(drive)
        config: Any = getattr(self.model, "config", None)
        if self.classes and getattr(config, "num_labels", self.classes) != self.classes:
            config.num_labels = self.classes  # what is saved shall load again
        return drive

    def _make(self, named: dict[str, nn.Parameter]) -> Optimizer:
        optimizer = super().create_optimizer()
        if parts := [p for n, p in named.items() if n.startswith("parts.")]:
            optimizer.add_param_group({"params": parts, "weight_decay": self.args.weight_decay})
        return optimizer

    def _refuse(self) -> None:
        """See that nothing is asked for that would stay unheard.

        Raises:
            BadSetting: something is.
        """
        stage.check_method(self.method, self.task)
        args: Any = self.args
        for asked, cure in (
            (args.label_smoothing_factor and "label_smoothing_factor", "write it as the objective of a method"),
            (self.compute_loss_func and "compute_loss_func", "write it as the objective of a method"),
            (
                args.auto_find_batch_size and "auto_find_batch_size",
                "a stage begins once: set per_device_train_batch_size",
            ),
            (self.is_fsdp_enabled and "fsdp", "use nacre.Learner with a model that fully_shard cut"),
            (self.is_deepspeed_enabled and "deepspeed", "use DDP, which a launcher gives"),
            (len(self.label_names) > 1 and f"label_names={self.label_names}", "rows have one kind of label"),
        ):
            if asked:
                raise BadSetting(
                    f"the loss and the steps of a stage are the method's, so {asked} would go unheard: {cure}"
                )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self._order is None else self._order

    def _stepped(self) -> None:
        assert self.drive is not None
        self.drive.stepped()
        for name, part in self.drive.site.params.items():
            if name.startswith("parts."):
                part.grad = None  # the Trainer empties only those of the model

    def _save_beside(self, folder: Path) -> None:
        if self.drive is not None:
            tree = stage.kept(self.drive, self.classes)
            if ranks.first():
                checkpoint.save(folder / FOLDER, tree)


class ContinualTrainer(ContinualMixin, Trainer):
    """The Hugging Face Trainer with a method around its steps; see `ContinualMixin`."""


class _Steps(TrainerCallback):
    """Tells a trainer what happens in its loop."""

    def __init__(self, trainer: ContinualMixin):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer._order is not None:  # a resumed epoch; later ones are announced by the loader
            self.trainer._order.epoch = int(state.epoch or 0)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._stepped()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._save_beside(Path(args.output_dir) / f"checkpoint-{state.global_step}")
