"""Optimizers of different kinds under which a part must hold, and the copies of the weights that some keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class Settings:
    """How an optimizer is made and called.

    Attributes:
        of: The optimizer's class.
        options: What it is told.
        closure: Whether it takes steps by a closure.
        matrices: Whether it takes matrices only.
    """

    of: Callable[..., Optimizer]
    options: dict[str, Any]
    closure: bool = False
    matrices: bool = False

    def make(self, params: dict[str, nn.Parameter]) -> Optimizer:
        """The optimizer over these parameters."""
        held = [p for p in params.values() if p.ndim == 2 or not self.matrices]
        made = self.of(held, **self.options)
        if hasattr(made, "train"):
            made.train()  # pyright: ignore[reportAttributeAccessIssue]  schedule-free: the weights that are trained
        return made


class ScheduleFree(Optimizer):
    """Schedule-free SGD: trains at y, between the average x that is read and the iterate z that moves.

    z <- z - lr * grad(y), x <- (1 - 1/t) x + z / t, y = (1 - beta) z + beta x. The weights are y while training, x after
    `eval()`; z is a copy in the optimizer's state.

    Paper: The Road Less Scheduled (arXiv 2405.15682).
    """

    def __init__(self, params: Any, lr: float = 0.05, beta: float = 0.9):
        super().__init__(params, {"lr": lr, "beta": beta, "t": 0, "train": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step."""
        for group in self.param_groups:
            group["t"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                z = self.state[p].setdefault("z", p.detach().clone())
                x = (p - (1 - group["beta"]) * z) / group["beta"]
                z.sub_(group["lr"] * p.grad)
                x.lerp_(z, 1 / group["t"])
                p.copy_(torch.lerp(z, x, group["beta"]))

    def eval(self) -> None:
        """The weights become the average."""
        self._turn(lambda p, z, beta: p.lerp_(z, 1 - 1 / beta), to=False)

    def train(self) -> None:
        """The weights become those that are trained."""
        self._turn(lambda p, z, beta: p.lerp_(z, 1 - beta), to=True)

    @torch.no_grad()
    def _turn(self, change: Callable[[Tensor, Tensor, float], Any], to: bool) -> None:
        for group in self.param_groups:
            if group["train"] is not to:
                group["train"] = to
                for p in group["params"]:
                    if "z" in self.state[p]:
                        change(p, self.state[p]["z"], group["beta"])


class Masters(torch.optim.SGD):
    """SGD on fp32 copies of the weights, which are written back into the weights after each step."""

    KEY = "master"

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    master = self.state[p].setdefault(self.KEY, p.detach().float().clone())
                    master.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * p.grad.float())
                    p.copy_(master)


class UnknownMasters(Masters):
    """The same with the copies under a key that nobody knows."""

    KEY = "shadow"


class Lookahead(torch.optim.SGD):
    """SGD whose weights go back halfway to slow weights at every second step.

    Paper: Lookahead Optimizer: k steps forward, 1 step back (arXiv 1907.08610).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    own = self.state[p]
                    slow = own.setdefault("slow_buffer", p.detach().clone())
                    own["count"] = own.get("count", 0) + 1
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(group["lr"] * p.grad)
                    if own["count"] % 2 == 0:
                        slow.lerp_(p, 0.5)
                        p.copy_(slow)


DECAY = {"lr": 0.05, "weight_decay": 0.1}
HARD: dict[str, Settings] = {
    "sgd": Settings(torch.optim.SGD, {**DECAY, "momentum": 0.9}),
    "adamw": Settings(torch.optim.AdamW, {**DECAY, "foreach": False}),
    "foreach": Settings(torch.optim.AdamW, {**DECAY, "foreach": True}),
    "fused": Settings(torch.optim.AdamW, {**DECAY, "fused": True}),
    "nadam": Settings(torch.optim.NAdam, DECAY),
    "muon": Settings(torch.optim.Muon, DECAY, matrices=True),
    "lbfgs": Settings(torch.optim.LBFGS, {"lr": 0.1, "max_iter": 1}, closure=True),
    "schedule-free": Settings(ScheduleFree, {}),
    "masters": Settings(Masters, DECAY),
    "lookahead": Settings(Lookahead, DECAY),
}
"""Optimizers under which what rests must rest."""
UNKNOWN = Settings(UnknownMasters, DECAY)
"""One that keeps copies which nobody knows."""
