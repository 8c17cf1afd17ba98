"""What a driver refuses once a stage: rows and models that do not fit each other."""

from __future__ import annotations

from torch import nn
from torch.optim import Optimizer

from .errors import BadData, BadSetting, TooFewRows
from .method import Method, leaves
from .model import Outputs
from .rows import Batch
from .stream import Task


def check_labels(task: Task, batch: Batch) -> None:
    """The first labels of the task's own rows are among its classes.

    Raises:
        BadData: they are not.
    """
    known = task.classes
    if known and batch.y.ndim == 1 and not batch.y.is_floating_point() and len(batch):
        strange = sorted(set(batch.y[batch.own()].tolist()) - set(known))
        if strange:
            raise BadData(
                f"task {task.index} has classes {list(known)[:9]}, but its rows carry {strange[:9]}: name them all"
            )


def check_width(task: Task, out: Outputs, batch: Batch) -> None:
    """The model answers for all classes of the task.

    Raises:
        BadSetting: it does not.
    """
    if batch.y.ndim != 1 or batch.y.is_floating_point() or not len(batch):
        return
    highest = max((*task.classes, int(batch.y.max())))
    if highest >= out.logits.shape[-1]:
        raise BadSetting(
            f"the task has class {highest}, but the model answers for {out.logits.shape[-1]} classes: give it a head with "
            "a method grow(classes), such as nacre.heads.GrowingLinear, or one that is wide enough; and name the classes "
            "in Task(index, rows, classes)"
        )


def check_norms(task: Task, model: nn.Module) -> None:
    """A batch of one row meets no layer that normalises over rows.

    Raises:
        TooFewRows: it does.
    """
    if any(isinstance(m, nn.BatchNorm1d) and m.training for m in model.modules()):
        raise TooFewRows(
            "a batch of one row cannot be normalised by BatchNorm1d: choose a batch_size (and accumulate) that leaves no "
            f"single row of the {task.rows} of task {task.index}"
        )


def check_layers(model: nn.Module) -> None:
    """No layer speaks with other ranks while the model answers: a rank without rows of a step would keep them waiting.

    Raises:
        BadSetting: one does.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise BadSetting(
                f"{name} is a SyncBatchNorm: leave the model's BatchNorm layers as they are; each rank normalises by its own "
                "rows, and their running statistics are kept equal"
            )


BORDERS = ("meet", "begin_stage", "end_stage", "shape_order")
"""What a method can only do where it is told that a task begins or ends."""


def check_unannounced(task: Task, method: Method) -> None:
    """Where no borders are told, no method needs them.

    Raises:
        BadSetting: one does.
    """
    for part in leaves(method) if not task.border else ():
        needs = [hook for hook in BORDERS if isinstance(part, Method) and part.overrides(hook)]
        if needs:
            raise BadSetting(
                f"{type(part).__name__} learns when a task begins or ends ({', '.join(needs)}), and a task-free stream tells "
                "neither: use methods that learn at each step, such as replay from a memory, or tell borders with arrival = "
                '"online"'
            )


def check_one_faced(task: Task, optimizer: Optimizer) -> None:
    """Where no borders are told, an optimizer trains the weights that are read.

    Raises:
        BadSetting: it has others beside them.
    """
    if not task.border and hasattr(optimizer, "eval"):
        raise BadSetting(
            f"{type(optimizer).__name__} is read through other weights than it trains, and changes between them are not exact: "
            "on a task-free stream use an optimizer with one set of weights, such as AdamW or SGD"
        )
