"""Lightning on five tasks of two handwritten digits each: MIST, EWC and ER around its steps.

The trainer, its callbacks and the model are the user's; what Nacre adds is `ContinualModule`, whose `task` is set before each
`fit`. Run it: `python examples/lightning_loop.py`
"""

from __future__ import annotations

import torch
from lightning.pytorch import Trainer

import nacre
from nacre.data import load
from nacre.integrations.lightning import ContinualModule
from nacre.methods import ER, EWC, MIST
from nacre.metrics import Matrix, score


def run(epochs: int = 2, seed: int = 0) -> tuple[Matrix, torch.nn.Module, list[str]]:
    """Learn the stream; the scores, the model, and what moved though it was to rest."""
    stream = nacre.split(load("digits", seed=seed), tasks=5, seed=seed)
    body = nacre.backbone("mlp:64-128-64", seed=seed)
    model = nacre.backbones.Classifier(body, nacre.GrowingLinear(body.width))
    mist = MIST(objective_of="stage", select=0.5, drop=0.5, fade=1.0, rows=128)
    method = nacre.compose(mist, EWC(strength=0.1, how="pull", rows=64), ER(rows=64))
    make = nacre.MadeOptimizer("adamw", lr=3e-3, options={"weight_decay": 0.01})
    module = ContinualModule(model, method, make, batch_size=8, seed=seed)
    matrix, tests, leaks = Matrix(), {}, []

    for met in stream:
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        module.task = met.task
        trainer = Trainer(
            max_epochs=epochs, gradient_clip_val=1.0, accelerator="cpu", logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module)
        for name, p in model.named_parameters():
            if name in mist.chosen and not torch.equal(p[~mist.chosen[name]], before[name][~mist.chosen[name]]):
                leaks.append(name)
        tests |= met.tests
        for name, rows in tests.items():
            right = score(module.scores, rows)
            matrix.add(f"task{met.task.index}", name, right, len(rows), learned=name in met.tests)
        print(f"after task {met.task.index}: {matrix.curve()[-1]:.1%} on all digits so far")
    print(f"last {matrix.last():.1%}, forgetting {matrix.forgetting():.1%}, moved though resting: {leaks or 'nothing'}")
    return matrix, model, leaks


if __name__ == "__main__":
    run()
