"""The plain loop that the loops of others are compared with, and what is trained in them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from worlds import Net, stream

from nacre.catalogue import entries
from nacre.core.drive import Drive
from nacre.core.method import Method, as_met, compose, leaves, trains
from nacre.core.model import grow
from nacre.core.rows import Batch, TensorRows
from nacre.core.rule import Rule
from nacre.core.stream import Task, experiences
from nacre.methods import ER, EWC, MIST
from nacre.rules import Rest

SEED, RATE, DECAY, CLIP, EPOCHS, SIZE = 7, 0.01, 0.05, 1.0, 2, 8
Learned = tuple[Net, Rule, list[str]]
"""A model, its method, and the tensors that moved though they were to rest."""


def _methods() -> Iterator[tuple[str, Rule]]:
    """Every instance that a method of the catalogue gives of itself, and some compositions; none is listed by hand."""
    yield "fine-tuning", Method()
    yield "Rest", Rest("body.0")
    yield "MIST-EWC-ER", compose(MIST(objective_of="stage", batch=16), EWC(rows=8, how="pull"), ER(rows=4))
    for entry in entries("method"):
        for number, made in enumerate(entry.made_by.examples()):
            yield f"{entry.name}-{number}", made


METHODS = {name: made for name, made in _methods() if trains(made)}
"""A method that trains nothing (RanPAC and the like) takes no steps: there is nothing to compare, and trainers refuse it."""


def method_of(name: str) -> Rule:
    return copy.deepcopy(METHODS[name])


def tasks(method: Rule, rows: int = 12, splits=((0, 1), (2, 3))) -> list[Task]:
    """Two tasks whose rows are mappings, as those of datasets are."""
    given = [
        replace(met, task=replace(met.task, train=TensorRows({"x": met.task.train.x}, met.task.train.y)))
        for met in stream(rows, splits=splits)
    ]
    return [met.task for met in experiences(as_met(given, method))]


def noise(batch: Batch, generator: torch.Generator) -> Batch:
    shaken = batch.x["x"] + 0.1 * torch.randn(batch.x["x"].shape, generator=generator)
    return replace(batch, x={**batch.x, "x": shaken})


def adamw(named: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    """AdamW as the Trainer of transformers groups it: biases do not decay, and parts of methods come last.

    The order matters where a gradient is rounding noise, as that of a bias before BatchNorm, for AdamW makes it large.
    """
    parts = [p for n, p in named.items() if n.startswith("parts.")]
    model = {n: p for n, p in named.items() if not n.startswith("parts.")}
    groups = [
        {"params": [p for n, p in model.items() if "bias" not in n], "weight_decay": DECAY},
        {"params": [p for n, p in model.items() if "bias" in n], "weight_decay": 0.0},
        *([{"params": parts, "weight_decay": DECAY}] if parts else []),
    ]
    return torch.optim.AdamW(groups, lr=RATE)


def leaks(method: Rule, model: nn.Module, before: dict[str, Tensor]) -> list[str]:
    """Tensors of which an entry moved though a part of the method asked it to rest throughout the task."""
    found = []
    for name, p in model.named_parameters():
        for part in leaves(method):
            if isinstance(part, MIST) and name in part.chosen:
                still = ~part.chosen[name]
            elif isinstance(part, Rest) and name.startswith("body.0"):
                still = torch.ones_like(p, dtype=torch.bool)
            else:
                continue
            if not torch.equal(p.detach()[still], before[name][still]):
                found.append(name)
    return found


def learned(name: str, learn: Callable[[Task, Net, Rule], None], net: Callable[[], Net] = Net, **told) -> Learned:
    """What a loop makes of a method: `learn` carries the model through one task."""
    method, model, moved = method_of(name), net(), []
    for task in tasks(method, **told):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        learn(task, model, method)
        moved += leaks(method, model, before)
    return model, method, moved


def plain(accumulate: int = 1, precision="fp32", make=adamw, augment=noise) -> Callable[[Task, Net, Rule], None]:
    """The loop of one's own, as the README has it, with clipping and a rate that falls to 0."""

    def learn(task: Task, model: Net, method: Rule) -> None:
        with Drive(method, model, make, task, augment=augment, seed=SEED, precision=precision) as drive:
            held = [p for group in drive.optimizer.param_groups for p in group["params"]]
            total = EPOCHS * -(-len(drive.order(0)) // SIZE)
            for epoch in range(EPOCHS):
                for pieces in drive.steps(epoch, SIZE, accumulate=accumulate):
                    for group in drive.optimizer.param_groups:
                        group["lr"] = RATE * (1 - drive.site.step / total)
                    drive.optimizer.zero_grad()
                    for piece in pieces:
                        drive.loss(piece).backward()
                    nn.utils.clip_grad_norm_(held, CLIP)
                    drive.optimizer.step()
                    drive.stepped()

    return learn


def far(one: Net, other: Net) -> float:
    """The largest difference of any two weights or buffers."""
    here, there = one.state_dict(), other.state_dict()
    assert here.keys() == there.keys()
    return max((here[n].double() - there[n].double()).abs().max().item() for n in here if here[n].numel())


def grown(model: nn.Module, tree: dict) -> dict:
    """What a loop does that takes over the place and the width, and forgets what the method knows."""
    grow(model, tree["classes"])
    return {"step": tree["step"], "begun": tree["begun"]}
