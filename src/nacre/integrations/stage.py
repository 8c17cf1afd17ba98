"""What is kept of a method in the middle of a stage beside the weights, which the loop of somebody else keeps by itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..checkpoint import describing
from ..core.drive import Drive
from ..core.errors import BadCheckpoint, BadSetting
from ..core.method import Method, parts_of, trains
from ..core.model import device_of, evaluating, grow
from ..core.state import moved
from ..core.stream import Task

FORMAT = "nacre-stage-1"
KEYS = {"format", "task", "step", "begun", "classes", "method", "parts"}


def check_method(method: Method, task: Task) -> None:
    """See that there is something to train, and that a loop which meets borders is enough.

    Raises:
        BadSetting: it is not.
    """
    if not trains(method):
        before = ", and call its meet() before that training" if method.overrides("meet") else ""
        raise BadSetting(
            f"{type(method).__name__} trains nothing, so there are no steps: enter and leave nacre.Drive(method, model, "
            f"None, task) instead, after the training of each task{before}"
        )
    if not task.border:
        raise BadSetting(
            "a trainer is called for a task, and on a task-free stream there are none: use nacre.Learner, or a stream that "
            'tells borders (arrival = "online")'
        )


def width_of(drive: Drive) -> int:
    """How many classes the heads that grow answer for, as one row shows; 0 where none grows."""
    grows = any(callable(getattr(m, "grow", None)) for m in drive.model.modules())
    if not grows or drive.task.train is None or drive.task.outputs is None:
        return 0
    one = drive.task.train.take(torch.zeros(1, dtype=torch.long)).to(drive.device)
    with evaluating(drive.model), torch.no_grad():
        return drive.task.outputs(one).logits.shape[-1]


def kept(drive: Drive, classes: int, begun: bool = True) -> dict[str, Any]:
    """A tree of what the method knows and where it stands, as references: write it down before the next step."""
    return {
        "format": FORMAT,
        "task": drive.task.index,
        "step": drive.site.step,
        "begun": begun,
        "classes": classes,
        "method": drive.method.state_dict(),
        "parts": parts_of(drive.method).state_dict(),
    }


def take_over(tree: Any, method: Method, model: nn.Module, task: Task | None) -> dict[str, Any]:
    """Make method and model what a tree says, before weights are loaded; tells Drive its `step` and `begun`.

    Raises:
        BadCheckpoint: it is of another method, another task, or no such tree.
    """
    if not isinstance(tree, dict) or tree.get("format") != FORMAT or set(tree) != KEYS:
        raise BadCheckpoint("what lies beside the weights is no method's state: was it written by another version?")
    if tree["begun"] and task is not None and tree["task"] != task.index:
        raise BadCheckpoint(
            f"the checkpoint was written while task {tree['task']} was learned, and this is task {task.index}: give it its task"
        )
    with describing("this method"):
        grow(model, tree["classes"])
        method.load_state_dict(moved(tree["method"], device_of(model)))
        method.prepare(model)
        parts_of(method).load_state_dict(tree["parts"])
    return {"step": tree["step"], "begun": tree["begun"]} if tree["begun"] else {}
