"""Normalize and project."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..core.method import Method
from ..core.model import bare
from ..core.paper import Fidelity, Paper
from ..core.stream import Task
from ..rules import KeepNorm

logger = logging.getLogger(__name__)


@dataclass
class NaP(KeepNorm, Method):
    """Scale each weight matrix back, after the step, to the norm it began with, so that late steps turn it as far as the first.

    Behind a norm layer only the direction of a weight counts, so a weight that grows learns ever more slowly: a step of length
    lr turns it by lr / |w|. NaP is two things: norms before the nonlinearities, which `nacre.adapters.insert_norms(model,
    drop_biases=True)` puts in when it is called, and the scaling after every step, which is this method:
    w <- w * rho / |w| with rho = |w| before its first step, on all tasks. The output layer is never scaled, nor are biases and
    the 1-D weights of norm layers (`scales = "joint"` scales each of those with its offset). What the growing norm did by
    itself, a falling learning rate, is now left to the stage's schedule.

    A model without norm layers is trained all the same, with a warning: there a weight's length means something.

    Differences from a known other implementation: that one scales output heads too, and weights of norm layers that are not
    called one.

    Paper: Normalization and effective learning rates in reinforcement learning (arXiv 2407.01800).

    >>> NaP(every=1000, scales="joint").scales
    'joint'
    """

    paper: ClassVar[Paper | None] = Paper(
        "Normalization and effective learning rates in reinforcement learning (NaP)", 2024, "2407.01800"
    )
    fidelity: ClassVar[Fidelity] = "faithful"

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        if not task.index and not any("norm" in type(m).__name__.lower() for m in bare(model).modules()):
            logger.warning(
                "NaP keeps the length of weights, but the model has no norm layer, so their length matters: call "
                "nacre.adapters.insert_norms(model) before"
            )
