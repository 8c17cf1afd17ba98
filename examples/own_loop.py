"""Your own training loop with Nacre inside: MIST tunes a tenth of the weights on each task, then RanPAC reads the answer.

The loop, the optimizer and the model are yours. What Nacre adds is five lines: `Drive`, its `batches`, its `loss`,
`stepped()`, and the second `Drive` for the head that learns without an optimizer. Run it: `python examples/own_loop.py`
"""

from __future__ import annotations

import torch

import nacre
from nacre.data import Jitter, load
from nacre.methods import MIST, RanPAC
from nacre.metrics import Matrix, score


def run(epochs: int = 1, optimizer: str = "adamw", seed: int = 0) -> tuple[Matrix, torch.nn.Module, list[str]]:
    """Learn five tasks of two handwritten digits each; the scores, the model, and what moved though it was to rest."""
    stream = nacre.split(load("digits", seed=seed), tasks=5, seed=seed)
    body = nacre.backbone("glyph-vit")
    model = nacre.backbones.Classifier(body, nacre.GrowingLinear(body.width))
    tuner, reader = MIST(rows=128), RanPAC(width=1000)
    matrix, tests, leaks = Matrix(), {}, []

    for met in stream:
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        make = nacre.MadeOptimizer(optimizer, lr=1e-3, options={"weight_decay": 0.01})
        with nacre.Drive(tuner, model, make, met.task, augment=Jitter(), seed=seed) as drive:
            for epoch in range(epochs):
                for batch in drive.batches(epoch, size=32):
                    drive.optimizer.zero_grad()
                    drive.loss(batch).backward()
                    drive.optimizer.step()
                    drive.stepped()
        with nacre.Drive(reader, model, None, met.task):
            pass  # nothing to train: the head takes its statistics when the stage ends

        for name, p in model.named_parameters():
            if name in tuner.chosen and not torch.equal(p[~tuner.chosen[name]], before[name][~tuner.chosen[name]]):
                leaks.append(name)
        tests |= met.tests
        model.eval()
        for name, rows in tests.items():
            right = score(lambda batch: reader.predict(model, batch), rows)
            matrix.add(f"task{met.task.index}", name, right, len(rows), learned=name in met.tests)
        print(
            f"after task {met.task.index}: {matrix.curve()[-1]:.1%} on all digits so far, stale: {reader.stale(model)}"
        )
    return matrix, model, leaks


if __name__ == "__main__":
    scores, _, moved = run()
    print(f"last {scores.last():.1%}, forgetting {scores.forgetting():.1%}, moved though resting: {moved or 'nothing'}")
