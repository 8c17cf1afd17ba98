"""What is refused in the loops of others: trainers, accelerate, trackers."""

from __future__ import annotations

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainingArguments

from nacre import integrations
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, BadUse, MissingExtra, UnknownName
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.stream import Task
from nacre.integrations import stage
from nacre.integrations.collated import CollatedRows
from nacre.integrations.trackers import check_trackers
from nacre.methods import ER, EWC, GDumb, SimpleCIL
from tests.errors.row import ANY, Place, Row

TASK = Task(0, TensorRows(torch.ones(4, 3), torch.tensor([0, 1] * 2)), (0, 1))
SGD = MadeOptimizer("sgd", 0.1)


def without(at: Place, package: str, module: str | None = None) -> None:
    """Import a room's module where a package is not installed."""
    real = importlib.util.find_spec

    def found(name: str, *told: Any) -> ModuleSpec | None:
        return None if name == package else real(name, *told)

    at.patch.setattr(importlib.util, "find_spec", found)
    if module is not None:
        path = Path(integrations.__file__).with_name(f"{module}.py")
        spec = importlib.util.spec_from_file_location(f"nacre.integrations.{module}", path)
        assert spec is not None and spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def trainer(at: Place, method: Method, task: Task = TASK, **told: Any) -> None:
    """A trainer of transformers."""
    from nacre.integrations.transformers import ContinualTrainer

    args = TrainingArguments(str(at / "out"), report_to=[], use_cpu=True, **told)
    ContinualTrainer(nn.Linear(3, 2), args, method=method, task=task)


def fitted(task: Task | None, loader: Any = None, method: Method | None = None) -> None:
    """A fit of Lightning."""
    from lightning.pytorch import Trainer

    from nacre.integrations.lightning import ContinualModule

    module = ContinualModule(nn.Linear(3, 2), method or Method(), SGD)
    module.task = task
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    Trainer(max_steps=1, accelerator="cpu", **quiet).fit(module, loader)


def accelerated(processes: int = 1, **told: Any) -> None:
    """A stage under accelerate."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    from nacre.integrations.accelerate import learning

    try:
        accelerator = Accelerator(cpu=True, **told)
        accelerator.state.num_processes = processes
        with learning(accelerator, Method(), nn.Linear(3, 2), SGD, TASK):
            pass
    finally:
        AcceleratorState._reset_state()
        PartialState._reset_state()


def kept(**other: Any) -> dict[str, Any]:
    """A tree of a stage, with whatever shall differ."""
    return {**dict.fromkeys(stage.KEYS), "format": stage.FORMAT, "task": 1, "begun": True, **other}


LOOPS = [
    Row(
        "the Trainer of transformers without accelerate",
        MissingExtra,
        "the Trainer of transformers needs the package 'accelerate', which is not installed: pip install 'nacre[trainer]'",
        lambda at: without(at, "accelerate", "transformers"),
    ),
    Row(
        "a method that takes no steps, in a trainer",
        BadSetting,
        "SimpleCIL trains nothing, so there are no steps: enter and leave nacre.Drive(method, model, None, task) instead, "
        "after the training of each task",
        lambda at: trainer(at, SimpleCIL()),
    ),
    Row(
        "a task-free stream in a trainer",
        BadSetting,
        "a trainer is called for a task, and on a task-free stream there are none: use nacre.Learner, or a stream that tells "
        'borders (arrival = "online")',
        lambda at: trainer(at, ER(), Task(0, TASK.train, border=False)),
    ),
    Row(
        "an argument of the Trainer that the method's loss would leave unheard",
        BadSetting,
        "the loss and the steps of a stage are the method's, so auto_find_batch_size would go unheard: a stage begins "
        "once: set per_device_train_batch_size",
        lambda at: trainer(at, ER(), auto_find_batch_size=True),
    ),
    Row(
        "a data set whose items have no label",
        BadData,
        "the collator gives ['x'] and no 'labels': give each row a label, under a name that the collator knows",
        lambda at: CollatedRows([1], lambda items: {"x": torch.ones(1)}).take(torch.tensor([0])),
    ),
    Row(
        "a data set of which the Trainer leaves the labels alone",
        BadData,
        "nothing but 'labels' is left of the dataset's columns: name the inputs as the model's forward() does, or set "
        "remove_unused_columns=False",
        lambda at: CollatedRows([1], lambda items: {"labels": torch.ones(1)}).take(torch.tensor([0])),
    ),
    Row(
        "a checkpoint that was written without a method",
        BadCheckpoint,
        "what lies beside the weights is no method's state: was it written by another version?",
        lambda at: stage.take_over({"weights": 1}, ER(), nn.Linear(3, 2), TASK),
    ),
    Row(
        "a checkpoint of another task",
        BadCheckpoint,
        "the checkpoint was written while task 1 was learned, and this is task 0: give it its task",
        lambda at: stage.take_over(kept(), ER(), nn.Linear(3, 2), TASK),
    ),
    Row(
        "Lightning where it is not installed",
        MissingExtra,
        "nacre.integrations.lightning needs the package 'lightning', which is not installed: pip install 'nacre[lightning]'",
        lambda at: without(at, "lightning", "lightning"),
    ),
    Row(
        "a fit without a task",
        BadSetting,
        "there is nothing to learn: set module.task = Task(index, rows, classes) before trainer.fit(module)",
        lambda at: fitted(None),
    ),
    Row(
        "a loader of one's own, a task without rows, and a method that reads them",
        BadUse,
        "EWC reads the rows of a task (end_stage), and the task has none: give them to Task too, beside the loader",
        lambda at: fitted(
            Task(0, classes=(0, 1)),
            torch.utils.data.DataLoader([(torch.ones(4, 3), TASK.train.y)], batch_size=None),
            EWC(),
        ),
    ),
    Row(
        "a loader of one's own and a method that chooses rows",
        BadUse,
        "GDumb chooses rows or their order (shape_rows), and the loader given to fit would leave it unheard: call "
        "trainer.fit(module) without one",
        lambda at: fitted(
            TASK, torch.utils.data.DataLoader([(torch.ones(4, 3), TASK.train.y)], batch_size=None), GDumb()
        ),
    ),
    Row(
        "accelerate where it is not installed",
        MissingExtra,
        "nacre.integrations.accelerate needs the package 'accelerate', which is not installed: pip install 'nacre[accelerate]'",
        lambda at: without(at, "accelerate", "accelerate"),
    ),
    Row(
        "an Accelerator that accumulates too",
        BadSetting,
        "Accelerator(gradient_accumulation_steps=4) divides losses and leaves steps out, which the driver does by itself: "
        "leave it at 1 and cut steps with drive.steps(epoch, size, accumulate=4)",
        lambda at: accelerated(gradient_accumulation_steps=4),
    ),
    Row(
        "processes that accelerate does not know of",
        BadSetting,
        "accelerate counts 2 process(es), and 1 belong to the group: on CPUs set ACCELERATE_USE_CPU=true in the "
        "environment of accelerate launch",
        lambda at: accelerated(2),
    ),
]

TRACKERS = [
    Row(
        "a tracker of an unknown name",
        UnknownName,
        f"unknown tracker 'tensorbord': did you mean 'tensorboard'? known are {ANY}",
        lambda at: check_trackers(["tensorbord"]),
    ),
    Row(
        "a tracker twice",
        BadSetting,
        "a tracker is named twice in ['wandb', 'wandb']: name each once",
        lambda at: check_trackers(["wandb", "wandb"]),
    ),
    Row(
        "a tracker whose package is not installed",
        MissingExtra,
        "the tracker 'wandb' needs the package 'wandb', which is not installed: pip install 'nacre[wandb]'",
        lambda at: (without(at, "wandb"), check_trackers(["wandb"])),
    ),
]
