"""Loops of one's own under accelerate: `nacre.Drive` with the device, the precision and the scaler of an `Accelerator`.

Runs of `nacre run` need nothing of this: they find the processes that `accelerate launch` started by themselves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn
from torch.optim import Optimizer

from ..core import ranks
from ..core.drive import Drive, MakeOptimizer
from ..core.errors import BadSetting, MissingExtra
from ..core.rule import Rule
from ..core.stream import Task

if importlib.util.find_spec("accelerate") is None:
    raise MissingExtra("nacre.integrations.accelerate", "accelerate", "accelerate")

from accelerate import Accelerator

__all__ = ["learning"]


@contextmanager
def learning(
    accelerator: Accelerator, method: Rule, model: nn.Module, optimizer: MakeOptimizer, task: Task, **told: Any
) -> Iterator[tuple[Drive, Optimizer]]:
    """A stage under accelerate: the driver, and the optimizer that the loop steps.

    `drive.steps(epoch, size, accumulate=K)` gives each process its pieces of steps of `size` rows in all; the driver averages
    gradients over the processes, so the model need not be prepared, and may be.

    Args:
        accelerator: Whose device, mixed precision and scaler are used.
        method: A method, a rule, or several composed.
        model: The model; it is put on the accelerator's device.
        optimizer: Makes the optimizer from parameters by name.
        task: What is to be learned.
        **told: Further settings of `Drive`.

    Raises:
        BadSetting: the accelerator would accumulate gradients too, or does not know of all processes.

    Example:
        >>> import torch
        >>> from nacre import MadeOptimizer, TensorRows
        >>> from nacre.methods import ER
        >>> task = Task(0, TensorRows(torch.randn(8, 3), torch.tensor([0, 1] * 4)), classes=(0, 1))
        >>> accelerator, method = Accelerator(cpu=True), ER()
        >>> with learning(accelerator, method, nn.Linear(3, 2), MadeOptimizer("sgd", 0.1), task) as (drive, optimizer):
        ...     for (batch,) in drive.steps(epoch=0, size=4):
        ...         accelerator.backward(drive.loss(batch))
        ...         optimizer.step()
        ...         drive.stepped()
        ...         optimizer.zero_grad()
        >>> method.memory.seen
        8
    """
    if (pieces := accelerator.gradient_accumulation_steps) != 1:
        raise BadSetting(
            f"Accelerator(gradient_accumulation_steps={pieces}) divides losses and leaves steps out, which the driver does by "
            f"itself: leave it at 1 and cut steps with drive.steps(epoch, size, accumulate={pieces})"
        )
    if accelerator.num_processes != ranks.world():
        raise BadSetting(
            f"accelerate counts {accelerator.num_processes} process(es), and {ranks.world()} belong to the group: on CPUs set "
            "ACCELERATE_USE_CPU=true in the environment of accelerate launch"
        )
    told.setdefault("precision", "bf16" if accelerator.mixed_precision == "bf16" else "fp32")
    with Drive(method, model.to(accelerator.device), optimizer, task, **told) as drive:
        stepped: Any = accelerator.prepare(drive.optimizer)
        try:
            yield drive, stepped
        finally:
            with suppress(AttributeError, ValueError):
                accelerator._optimizers.remove(stepped)  # it would keep the state of each task's optimizer
