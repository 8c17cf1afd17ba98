"""What a pair of processes does with a model that `fully_shard` cut; each job is called by every rank."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from worlds import Net, noise, stream

from nacre.core import ranks, shards
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.finite import finite
from nacre.core.method import Method, compose
from nacre.core.model import fingerprint, grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import Rule, attached
from nacre.learner import Learner, Listener, Stage
from nacre.memory import Reservoir
from nacre.methods import CLASSP, ER, EWC, MIST, SAGE, AdaRem, Multiplicative, SimpleCIL
from nacre.metrics import Motion
from nacre.rules import Anchor, Drop, Rest, Scale, TrustRadius
from tests.ranks.jobs import far

SGD = MadeOptimizer("sgd", 0.01, [{"match": "head|parts", "lr": 0.02}], {"momentum": 0.9, "weight_decay": 0.05})
HALF = torch.arange(32 * 8).view(32, 8) % 2 == 0
"""Which entries of the first layer rest."""

METHODS: dict[str, Callable[[], Rule]] = {
    "Rest": lambda: Rest({"body.0.weight": HALF, "body.4.bias": torch.tensor(True)}),
    "ER": lambda: ER(rows=8, memory=Reservoir(capacity=20)),
    "EWC": lambda: EWC(rows=8),
    "EWC-pull": lambda: EWC(rows=8, how="pull"),
    "MIST": lambda: MIST(width=8, batch=16, protect=0.05),
    "AdaRem": lambda: AdaRem(decay=0.9),
    "SAGE": lambda: SAGE("weight", decay=0.5),
    "Multiplicative": lambda: Multiplicative(),
    "CLASSP": lambda: CLASSP(power=2.0, eps=1.0, threshold=1e-6),
    "Scale-Drop-Anchor-TrustRadius": lambda: compose(
        *(
            Scale("body.0", 0.5),
            Drop(0.3, "", rescale=True),
            Anchor(),
            Anchor(0.1, "loss"),
            TrustRadius(0.05, 0.5, of="stage"),
        )
    ),
    "MIST-EWC-ER": lambda: compose(MIST(objective_of="stage", batch=16), EWC(rows=8), ER(rows=4)),
}


def sharded(net: Net, body_only: bool) -> Net:
    """The net with its first layer and the rest of it, or of its body, cut over the ranks."""
    mesh = init_device_mesh("cpu", (ranks.world(),))
    fully_shard(net.body[0], mesh=mesh)
    fully_shard(net.body if body_only else net, mesh=mesh)
    return net


def run(make: Callable[[], Rule], net: Net, size: int, accumulate: int) -> tuple[dict[str, Any], dict[str, Any], Rule]:
    """Three tasks by an own loop; all weights and all state, whole."""
    method = make()
    for met in stream():
        with Drive(method, net, SGD, met.task, augment=noise, seed=3) as drive:
            held = [p for g in drive.optimizer.param_groups for p in g["params"]]
            for pieces in drive.steps(0, size, accumulate=accumulate):
                drive.optimizer.zero_grad()
                for piece in pieces:
                    drive.loss(piece).backward()
                shards.clip(held, 1.0)
                drive.optimizer.step()
                drive.stepped()
    return shards.whole_tree(net.state_dict()), shards.whole_tree(method.state_dict()), method


def agree() -> dict[str, float]:
    """How far each method ends from one process: the whole model cut and wide enough, or its body only under a growing head."""
    cases = [*((name, False) for name in METHODS), ("EWC", True), ("MIST-EWC-ER", True)]
    ends = [run(METHODS[name], sharded(_net(body_only), body_only), 8, 2) for name, body_only in cases]
    found = {}
    with ranks.apart():
        for k in range(torch.distributed.get_rank(), len(cases), 2):  # each rank compares some with one process
            name, body_only = cases[k]
            alone = run(METHODS[name], _net(body_only), 8, 4)
            found[f"{name}, {'body' if body_only else 'whole'}"] = max(
                far(ends[k][0], alone[0]), far(ends[k][1], alone[1])
            )
    return {name: how_far for of_rank in ranks.gathered(found) for name, how_far in of_rank.items()}


def _net(grows: bool) -> Net:
    """A net whose head grows with its stream, or is wide enough."""
    net = Net()
    if not grows:
        grow(net, 6)
    return net


def uneven() -> dict[str, float]:
    """The same where the last step has one row: the second rank only keeps step."""
    found = {}
    for name in ("EWC", "MIST-EWC-ER"):
        ends = run(METHODS[name], sharded(Net(norm=False), True), 13, 1)
        with ranks.apart():
            alone = run(METHODS[name], Net(norm=False), 13, 2)
        found[name] = max(far(ends[0], alone[0]), far(ends[1], alone[1]))
        if name == "EWC":  # a mutant: a penalty counts by the rows of the rank that holds the part
            with mock.patch.object(sys.modules["nacre.losses.quadratic"], "over_parts", shards.whole):
                biased = run(METHODS[name], sharded(Net(norm=False), True), 13, 1)
            found["the mutant"] = far(biased[0], alone[0])
    return found


def rests() -> dict[str, Any]:
    """What rests keeps its bits on each rank's part under AdamW, also where another rule pushes; and others move."""
    net = sharded(Net(), True)
    before = shards.whole(net.body[0].weight.detach()).clone()
    make = MadeOptimizer("adamw", 0.05, [{"match": "head", "lr": 0.05}], {"weight_decay": 0.1})
    for met in stream():
        rule = compose(Push(), METHODS["Rest"]())
        with Drive(rule, net, make, met.task, seed=3) as drive:
            for batch in drive.batches(0, 8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
    after = shards.whole(net.body[0].weight.detach())
    part = shards.local(net.body[0].weight).shape
    return {
        "kept": torch.equal(before[HALF], after[HALF]),
        "moved": bool((before != after)[~HALF].all()),
        "part": list(part),
    }


def saved(folder: str) -> dict[str, Any]:
    """A learner's checkpoint of a cut model is whole: it goes on in one process, and on two ranks bit for bit."""

    def made(net: Net) -> Learner:
        stages = (Stage(METHODS["MIST-EWC-ER"](), SGD, batch_size=8), Stage(SimpleCIL()))
        return Learner(net, stages, seed=3)

    class Saves(Listener):
        def stage_ends(self, learner: Learner) -> None:
            if learner.experience == 1 and learner.stage == 1:
                learner.save(Path(folder) / "cut")
                ranks.wait()

    whole = made(sharded(Net(), True))
    motion = Motion()
    motion.begin(whole.model)
    list(whole.learn(stream(), Saves()))
    moved = motion.since(whole.model)["body.0.weight"]["moved"]
    again = made(sharded(Net(), True))
    again.resume(Path(folder) / "cut")
    list(again.learn(stream()))
    digest, end = fingerprint(whole.model), whole.state_dict()
    same = far(again.state_dict(), end) == 0.0
    with ranks.apart():
        alone = made(Net())
        for stage in alone.stages:
            stage.accumulate = 2
        alone.resume(Path(folder) / "cut")
        list(alone.learn(stream()))
    apart = far(alone.model.state_dict(), end["model"])
    alone.model.load_state_dict(end["model"])
    return {"same": same, "in one process": apart, "moved": moved, "digest": fingerprint(alone.model) == digest}


@dataclass
class Push(Rule):
    """An element-wise partner."""

    def shape_weights(self, new, old, site):
        return {n: w + 0.01 for n, w in new.items()}


@dataclass
class Mixes(Rule):
    """A rule that knows nothing of parts."""

    def shape_weights(self, new, old, site):
        return {n: w * torch.ones(w.shape) for n, w in new.items()}


def nan_in_a_part() -> list[bool]:
    """A weight that is NaN on the second rank only is so for both; so is one on none."""
    net = sharded(Net(), True)
    before = finite(net.parameters())
    with torch.no_grad():
        shards.local(net.body[0].weight)[0, 0] = torch.nan if ranks.rank() else 0.0
    return [before, finite(net.parameters())]


def refusals() -> dict[str, str]:
    """What cannot be done with weights in parts is refused by name, on every rank."""

    def drive(rule: Rule, net: nn.Module) -> None:
        with Drive(rule, net, SGD, stream()[0].task, seed=3) as driven:
            for batch in driven.batches(0, 20):
                driven.loss(batch).backward()
                driven.optimizer.step()

    def tensor_parallel() -> None:
        net, mesh = Net(), init_device_mesh("cpu", (ranks.world(),))
        grow(net, 2)
        net.body[4].weight = nn.Parameter(distribute_tensor(net.body[4].weight.detach(), mesh, [Shard(1)]))
        drive(Method(), net)

    def mixes_alone() -> None:
        net = sharded(Net(), True)
        grow(net, 2)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with attached(Mixes(), optimizer, net):
            optimizer.step()

    class FullyShardedDataParallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self._fsdp_wrapped_module = Net()

    cases = {
        "growth": lambda: drive(Method(), sharded(_of(2), False)) or grow(sharded(_of(2), False), 4),
        "tensor parallel": tensor_parallel,
        "mixes": lambda: drive(Mixes(), sharded(Net(), True)),
        "mixes, attached": mixes_alone,
        "flat": lambda: drive(Method(), FullyShardedDataParallel()),
    }
    return {name: _refused(case) for name, case in cases.items()}


def _of(classes: int) -> Net:
    net = Net()
    grow(net, classes)
    return net


def _refused(case: Callable[[], Any]) -> str:
    try:
        case()
    except BadSetting as error:
        return str(error)
    return "not refused"
