"""Lightning with a method around its steps: one module for the stream, one `Trainer.fit` for each task.

Gradient accumulation, mixed precision, clipping, callbacks, validation and checkpoints are Lightning's. What is ours goes
into its checkpoint files under `nacre`. Rows come from the task, in the order and in the pieces that the plain loop would
meet; a loader of one's own may be given to `fit` instead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ..core import ranks
from ..core.drive import Drive, MakeOptimizer
from ..core.errors import BadSetting, BadUse, MissingExtra
from ..core.method import Method, compose
from ..core.model import evaluating
from ..core.pieces import sizes
from ..core.rows import Augment, Batch
from ..core.rule import Rule
from ..core.stream import Task
from . import stage
from .collated import to_batch
from .features import with_features

if importlib.util.find_spec("lightning") is None:
    raise MissingExtra("nacre.integrations.lightning", "lightning", "lightning")

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn

__all__ = ["ContinualModule", "with_features"]

KEY = "nacre"
"""What a checkpoint of Lightning calls our part of it."""
NEED_OUR_ORDER = ("shape_order", "shape_rows")
"""Hooks that a loader of somebody else leaves silent."""
NEED_ROWS = ("begin_stage", "end_stage")
"""Hooks that read a task's rows by themselves."""


class ContinualModule(LightningModule):
    """A model that learns a stream, task by task, by a method. Set `task`, then call `Trainer.fit`.

    Args:
        model: The model. It stays what it was; weights are named `model....` in checkpoints.
        method: A method, a rule, or several composed.
        optimizer: Makes the optimizer from parameters by name; it then holds the method's parts too.
        batch_size: Rows of a micro-batch of one process; a step has `accumulate_grad_batches` times as many.
        augment: Changes batches of raw rows before the forward pass.
        seed: Seeds everything that is drawn.

    Attributes:
        task: What is learned by the next `fit`.

    Example:
        >>> import torch
        >>> from lightning.pytorch import Trainer
        >>> from nacre import MadeOptimizer, TensorRows
        >>> from nacre.methods import ER
        >>> module = ContinualModule(nn.Linear(3, 2), ER(), MadeOptimizer("sgd", 0.1), batch_size=4)
        >>> module.task = Task(0, TensorRows(torch.randn(8, 3), torch.tensor([0, 1] * 4)), classes=(0, 1))
        >>> quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        >>> Trainer(max_epochs=1, enable_model_summary=False, **quiet).fit(module)
        >>> module.method.memory.seen
        8
    """

    def __init__(
        self,
        model: nn.Module,
        method: Rule,
        optimizer: MakeOptimizer,
        *,
        batch_size: int = 32,
        augment: Augment | None = None,
        seed: int = 0,
    ):
        super().__init__()
        self.model = with_features(model)
        self.method: Method = method if isinstance(method, Method) else compose(method)
        self.make, self.batch_size, self.augment, self.seed = optimizer, batch_size, augment, seed
        self.task: Task | None = None
        self.drive: Drive | None = None
        self.classes = 0  # width of the heads that grow
        self._stage, self._reading = ExitStack(), ExitStack()
        self._begun = False
        self._from: dict[str, Any] = {}  # where a resumed stage stands

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own answer."""
        return self.model(*args, **kwargs)

    def configure_callbacks(self) -> list[Callback]:
        """One that hears of errors."""
        return [_Failed()]

    def configure_optimizers(self) -> Any:
        """Begin the stage; the optimizer is made once heads have grown. Extend it to add a schedule."""
        task = self.task
        if task is None:
            raise BadSetting(
                "there is nothing to learn: set module.task = Task(index, rows, classes) before trainer.fit(module)"
            )
        stage.check_method(self.method, task)
        told: dict[str, Any] = {"augment": self.augment, "seed": self.seed, **self._from}
        mixed = "bf16" if str(self.trainer.precision).startswith("bf16") else "fp32"
        self._stage = ExitStack()
        self.drive = self._stage.enter_context(Drive(self.method, self.model, self.make, task, precision=mixed, **told))
        self._begun, self.classes = True, stage.width_of(self.drive)
        return self.drive.optimizer

    def on_fit_start(self) -> None:
        """Modes are those of the stage at each loss; Lightning would warn of modules that do not train."""
        self.model.train()

    def train_dataloader(self) -> Any:
        """The task's rows, piece by piece."""
        assert self.drive is not None
        return _Pieces(self.drive, self)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of the stage for a piece of a step, or for a batch of another loader: a dict with `labels`, or a pair."""
        assert self.drive is not None
        pieces = self.trainer.accumulate_grad_batches
        if isinstance(batch, Batch):
            return pieces * self.drive.loss(batch)  # Lightning divides
        if not self._rows_known() and (unread := [h for h in NEED_ROWS if self.method.overrides(h)]):
            raise BadUse(
                f"{type(self.method).__name__} reads the rows of a task ({', '.join(unread)}), and the task has none: give "
                "them to Task too, beside the loader"
            )
        if silent := [hook for hook in NEED_OUR_ORDER if self.method.overrides(hook)]:
            raise BadUse(
                f"{type(self.method).__name__} chooses rows or their order ({', '.join(silent)}), and the loader given to fit "
                "would leave it unheard: call trainer.fit(module) without one"
            )
        met = to_batch(batch, "labels") if isinstance(batch, Mapping) else Batch(*batch)
        return pieces * self.drive.loss(met, 1 / pieces)

    def _rows_known(self) -> bool:
        return self.task is not None and bool(self.task.rows)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Lightning's own; then the method hears of the step."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        assert self.drive is not None
        self.drive.stepped()

    def on_validation_model_eval(self) -> None:
        """The weights and modes that predictions are made with."""
        if self.drive is not None and self._begun:  # behind its end an optimizer holds what is answered with
            self._reading.enter_context(self.drive.reading())
        super().on_validation_model_eval()

    def on_validation_model_train(self) -> None:
        """Training goes on undisturbed."""
        super().on_validation_model_train()
        self._reading.close()

    def scores(self, batch: Batch) -> Tensor:
        """Scores, (rows, classes), by the method where it answers for the model."""
        with evaluating(self.model):
            return self.method.predict(self.model, batch.to(self.device))

    def on_train_end(self) -> None:
        """The stage ends: the method learns what it will remember."""
        self._leave(None)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the method knows."""
        if self.drive is not None:
            checkpoint[KEY] = stage.kept(self.drive, self.classes, begun=self._begun)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it over, before weights are loaded.

        Raises:
            BadCheckpoint: it is of another method or task, or was written without one.
        """
        if self.trainer.state.fn == TrainerFn.FITTING:  # an evaluation rolls nothing back
            self._from = stage.take_over(checkpoint.get(KEY), self.method, self.model, self.task)

    def _leave(self, error: BaseException | None) -> None:
        held, self._stage, self._from, self._begun = self._stage, ExitStack(), {}, False
        held.__exit__(type(error) if error is not None else None, error, None)


class _Failed(Callback):
    """A stage that failed ends without learning what it would remember."""

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        pl_module._leave(exception)


class _Pieces:
    """The pieces of the steps of an epoch, from the step on that the trainer has come to."""

    def __init__(self, drive: Drive, module: ContinualModule):
        self.drive, self.module = drive, module
        self.accumulate = module.trainer.accumulate_grad_batches
        self.size = module.batch_size * self.accumulate * drive.world
        self.rows = len(drive.order(0, self.size))

    def __len__(self) -> int:
        steps, left = divmod(self.rows, self.size)
        last = len(sizes(left, self.accumulate)[ranks.rank()]) if left else 0
        return steps * self.accumulate + max(last, int(left > 0))

    def __iter__(self) -> Iterator[Batch]:
        epoch, start = divmod(self.module.trainer.global_step, max(-(-self.rows // self.size), 1))
        for pieces in self.drive.steps(epoch, self.size, start, self.accumulate):
            yield from pieces

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the trainer's own count of steps says where it stands."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""
