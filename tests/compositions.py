"""Every method, alone and composed, in a learner on the toy stream; and how two of them are compared."""

from __future__ import annotations

import torch
from worlds import Net, noise, stream

from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.learner import Learner, Stage
from nacre.memory import ClassBalanced, Reservoir
from nacre.methods import ER, EWC, MIST, Joint, RanPAC, SimpleCIL
from nacre.rules import Rest
from nacre.schedules import schedule


def trained(method, **settings) -> Stage:
    made = MadeOptimizer("adamw", 0.01, [{"match": "head", "lr": 0.02}], {"weight_decay": 0.05})
    usual = {"batch_size": 8, "epochs": 2, "accumulate": 2, "clip": 1.0, "augment": noise}
    usual["schedule"] = schedule("cosine", warmup=2)
    return Stage(method, made, **{**usual, **settings})


COMPOSITIONS = {
    "fine-tuning": lambda: (trained(Method()),),
    "Joint": lambda: (trained(Joint()),),
    "EWC": lambda: (trained(EWC(rows=8)),),
    "EWC-pull": lambda: (trained(EWC(rows=8, how="pull"), clock="stream", schedule=schedule("constant", warmup=12)),),
    "ER": lambda: (trained(ER(rows=8, memory=Reservoir(capacity=20))),),
    "ER-balanced": lambda: (trained(ER(rows=8, memory=ClassBalanced(capacity=20))),),
    "SimpleCIL": lambda: (Stage(SimpleCIL()),),
    "RanPAC": lambda: (Stage(RanPAC(width=24)),),
    "MIST": lambda: (trained(MIST(width=8, batch=16)),),
    "MIST-compact": lambda: (trained(MIST(width=8, batch=16, select=0.3, form="compact")), Stage(SimpleCIL())),
    "MIST-first-RanPAC": lambda: (trained(MIST(width=8, batch=16), when="first"), Stage(RanPAC(width=24))),
    "MIST-SimpleCIL": lambda: (trained(MIST(width=8, batch=16, fade=0.5)), Stage(SimpleCIL())),
    "MIST-EWC-ER": lambda: (
        trained(compose(MIST(objective_of="stage", batch=16), EWC(rows=8, how="pull"), ER(rows=4))),
    ),
    "Rest": lambda: (trained(Rest("body.0")),),
}


def learner(name: str) -> Learner:
    return Learner(Net(), COMPOSITIONS[name](), seed=3)


def finished(who: Learner) -> Learner:
    for _ in who.learn(stream()):
        pass
    return who


def predictions(who: Learner) -> torch.Tensor:
    x = torch.cat([e.tests[f"task{i}"].x for i, e in enumerate(stream())])
    return who.predict(Batch(x, torch.zeros(len(x), dtype=torch.long)))


def bits(t: torch.Tensor) -> bytes:
    return t.detach().contiguous().numpy().tobytes()


def equal(a, b) -> bool:
    """Whether two trees of plain values and tensors are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b
