"""Every method, alone and composed, in a learner on the toy stream; and how two of them are compared."""

from __future__ import annotations

import torch
from worlds import Net, noise, stream

from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.heads import Alignment, Linear, RandomRidge, Ridge
from nacre.learner import Learner, Stage
from nacre.memory import ClassBalanced, Reservoir
from nacre.methods import (
    CLASSP,
    ECO,
    EKPC,
    EMA,
    ER,
    EWC,
    FPF,
    L2,
    LCIA,
    LDC,
    MIST,
    OSFT,
    RLRR,
    SAGE,
    SLCA,
    AdaRem,
    ExtrapSGD,
    FastSlow,
    FeatureDistillation,
    HybridUpdate,
    Joint,
    Multiplicative,
    NaP,
    RanPAC,
    SaRA,
    SimpleCIL,
    SoTU,
)
from nacre.rules import Anchor, Drop, Rest, Scale, TrustRadius
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
    "HybridUpdate": lambda: (
        trained(HybridUpdate(old="replay", probe=2, batch=8, warmup=3, memory=Reservoir(capacity=20))),
    ),
    "FPF": lambda: (trained(FPF(iters=3, batch=8, memory=ClassBalanced(capacity=20))),),
    "L2": lambda: (trained(L2(strength=0.1, head=True, local=True)),),
    "SoTU": lambda: (trained(SoTU(drop=0.5)), Stage(SimpleCIL())),
    "RLRR": lambda: (trained(RLRR()),),
    "OSFT": lambda: (trained(OSFT()),),
    "OSFT-weights-ER": lambda: (
        trained(compose(ER(rows=4), OSFT(rank=0.8, by="importance", form="weights", others="train", batch=16))),
    ),
    "SaRA": lambda: (trained(SaRA(share=0.4, least=4, narrow=3)),),
    "ER": lambda: (trained(ER(rows=8, memory=Reservoir(capacity=20))),),
    "ER-balanced": lambda: (trained(ER(rows=8, memory=ClassBalanced(capacity=20))),),
    "SimpleCIL": lambda: (Stage(SimpleCIL()),),
    "RanPAC": lambda: (Stage(RanPAC(width=24)),),
    "LDC": lambda: (trained(LDC(head=RandomRidge(width=24, ridge=1.0, draws=25), drift=Linear(ridge=1.0), rows=12)),),
    "MIST-then-LDC": lambda: (trained(MIST(width=8, batch=16)), Stage(LDC(head=Ridge(), drift=Linear(ridge=1.0)))),
    "MIST": lambda: (trained(MIST(width=8, batch=16)),),
    "MIST-compact": lambda: (trained(MIST(width=8, batch=16, select=0.3, form="compact")), Stage(SimpleCIL())),
    "MIST-first-RanPAC": lambda: (trained(MIST(width=8, batch=16), when="first"), Stage(RanPAC(width=24))),
    "MIST-SimpleCIL": lambda: (trained(MIST(width=8, batch=16, fade=0.5)), Stage(SimpleCIL())),
    "MIST-EWC-ER": lambda: (
        trained(compose(MIST(objective_of="stage", batch=16), EWC(rows=8, how="pull"), ER(rows=4))),
    ),
    "FeatureDistillation-ER": lambda: (
        trained(compose(FeatureDistillation(strength=5.0), ER(rows=4, memory=Reservoir(capacity=20)))),
    ),
    "SLCA-ER": lambda: (trained(compose(SLCA(slow=0.5, alignment=Alignment(epochs=2, samples=8)), ER(rows=4))),),
    "EKPC-ER": lambda: (trained(compose(EKPC(rows=8, alignment=Alignment(epochs=4, samples=16, lr=0.1)), ER(rows=4))),),
    "ExtrapSGD": lambda: (trained(compose(ExtrapSGD(reach=2.0), ER(rows=4))),),
    "NaP": lambda: (trained(compose(NaP(scales="joint"), ER(rows=4))),),
    "ECO": lambda: (trained(compose(ECO(store="grid", step=0.05, form="exact"), ER(rows=4))),),
    "EMA": lambda: (trained(compose(EMA(decay=0.8), ER(rows=4))),),
    "LCIA": lambda: (trained(LCIA(first=True)),),
    "FastSlow": lambda: (trained(FastSlow(tau=0.2, rows=8, plastic=True)),),
    "Rest": lambda: (trained(Rest("body.0")),),
    "AdaRem-ER": lambda: (trained(compose(ER(rows=4, memory=Reservoir(capacity=20)), AdaRem(decay=0.9))),),
    "SAGE": lambda: (trained(SAGE("body.4", decay=0.5)),),
    "CLASSP": lambda: (trained(CLASSP(threshold=1e-6, power=2.0, eps=1.0)),),
    "Multiplicative": lambda: (trained(Multiplicative()),),
    "rules": lambda: (
        trained(compose(Scale("body.0", 0.5), Drop(0.3, rescale=True), Anchor(), TrustRadius(0.05, 0.5, of="stage"))),
    ),
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
