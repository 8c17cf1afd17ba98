"""A loop of one's own under accelerate: MIST, EWC and ER together on five tasks of two handwritten digits.

Run it: `python examples/accelerate_loop.py`, or on two processes:
`accelerate launch --multi_gpu --num_processes 2 examples/accelerate_loop.py`, on CPUs with ACCELERATE_USE_CPU=true before it.
"""

from __future__ import annotations

import torch
from accelerate import Accelerator

import nacre
from nacre.core import ranks
from nacre.data import load
from nacre.integrations.accelerate import learning
from nacre.methods import ER, EWC, MIST
from nacre.metrics import Matrix, score


def run(epochs: int = 2, accumulate: int = 1, seed: int = 0) -> tuple[Matrix, torch.nn.Module, list[str]]:
    """Learn the stream; the scores, the model, and what moved though it was to rest."""
    accelerator = Accelerator()
    stream = nacre.split(load("digits", seed=seed), tasks=5, seed=seed)
    body = nacre.backbone("mlp:64-128-64", seed=seed)
    model = nacre.backbones.Classifier(body, nacre.GrowingLinear(body.width))
    mist = MIST(objective_of="stage", select=0.5, drop=0.5, fade=1.0, rows=128)
    method = nacre.compose(mist, EWC(strength=0.1, how="pull", rows=64), ER(rows=64))
    make = nacre.MadeOptimizer("adamw", lr=3e-3, options={"weight_decay": 0.01})
    matrix, tests, leaks = Matrix(), {}, []

    for met in stream:
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        with learning(accelerator, method, model, make, met.task, seed=seed) as (drive, optimizer):
            for epoch in range(epochs):
                for pieces in drive.steps(epoch, size=8, accumulate=accumulate):
                    for piece in pieces:
                        accelerator.backward(drive.loss(piece))
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                    optimizer.step()
                    drive.stepped()
                    optimizer.zero_grad()
        for name, p in model.named_parameters():
            if name in mist.chosen and not torch.equal(p[~mist.chosen[name]], before[name][~mist.chosen[name]]):
                leaks.append(name)
        tests |= met.tests
        model.eval()
        for name, rows in tests.items():
            right = score(lambda batch: method.predict(model, batch), rows, device=accelerator.device)
            matrix.add(f"task{met.task.index}", name, right, len(rows), learned=name in met.tests)
        accelerator.print(f"after task {met.task.index}: {matrix.curve()[-1]:.1%} on all digits so far")
    accelerator.print(f"last {matrix.last():.1%}, forgetting {matrix.forgetting():.1%} on {ranks.world()} process(es)")
    accelerator.print(f"moved though resting: {leaks or 'nothing'}")
    return matrix, model, leaks


if __name__ == "__main__":
    run()
