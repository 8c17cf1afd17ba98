"""How hard is the glyph stream? Shipped and random backbones with closed forms, fine-tuning, joint training.

    python benchmarks/glyphs.py

writes `benchmarks/results/glyphs.json`. Every figure is the accuracy over all 200 classes (class-incremental, task ids
hidden) after the last of 10 tasks. Only the pictures come from the package; the learning is plain torch, so that the
package's own methods have an independent twin to be compared with.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers import ViTConfig, ViTModel

from nacre.data import glyphs
from nacre.data.glyphs import GlyphImages, stream_glyphs

ROOT = Path(__file__).resolve().parents[1]
BACKBONE = ROOT / "src" / "nacre" / "backbones" / "glyph_vit"
WIDTH, FIXED_RIDGE, RIDGES = 2000, 1e3, tuple(10.0**power for power in range(8))
RATE, DECAY, BATCH = 1e-3, 0.01, 64
ROWS = {
    "nearest_mean": "frozen shipped backbone, nearest class mean (Euclidean)",
    "ranpac_ridge_1000": "frozen shipped backbone, ridge regression on 2000 random ReLU features, ridge 1000",
    "ranpac_ridge_chosen": "the same, ridge chosen by squared error on 20 % of the training rows",
    "random_nearest_mean": "untrained backbone of the same shape, frozen, nearest class mean",
    "random_ranpac_ridge_1000": "untrained backbone, ridge regression as above, ridge 1000",
    "random_ranpac_ridge_chosen": "the same, ridge chosen",
    "fine_tuning": "all weights, task after task, AdamW 1e-3, 2 epochs a task",
    "fine_tuning_just_after": "the same, each task tested just after it was learned, against the classes seen so far",
    "joint": "all weights, all tasks at once, AdamW 1e-3",
}


def main() -> None:
    """Measure on every seed, write the result file, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--joint-epochs", type=int, default=8)
    parser.add_argument("--note", default="", help="what a reader of the seconds should know about the machine")
    parser.add_argument("--backbone", type=Path, default=BACKBONE)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "glyphs.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = [measure(seed, args.backbone, args.joint_epochs) for seed in args.seeds]
    summary = {name: spread([run["accuracy"][name] for run in runs], what) for name, what in ROWS.items()}
    result = {
        "command": "python benchmarks/glyphs.py",
        "seeds": args.seeds,
        "threads": args.threads,
        "joint_epochs": args.joint_epochs,
        "note": args.note,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            **glyphs.versions(),
        },
        "summary": summary,
        "runs": runs,
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in summary.items():
        print(f"{name:28} {row['mean']:.3f} +- {row['standard_deviation']:.3f}   {row['what']}")


def measure(seed: int, folder: Path, joint_epochs: int) -> dict:
    """All rows of the table on one stream seed, with seconds each."""
    began = time.perf_counter()
    data = stream_glyphs(seed)
    seconds, accuracy = {"data": time.perf_counter() - began}, {}

    began = time.perf_counter()
    accuracy |= closed_forms(pretrained(folder), data, seed)
    seconds["frozen"] = time.perf_counter() - began

    began = time.perf_counter()
    accuracy |= {f"random_{name}": value for name, value in closed_forms(untrained(folder, seed), data, seed).items()}
    seconds["random"] = time.perf_counter() - began

    began = time.perf_counter()
    accuracy["fine_tuning"], accuracy["fine_tuning_just_after"] = fine_tune(
        Classifier(pretrained(folder), seed), data, seed
    )
    seconds["fine_tuning"] = time.perf_counter() - began

    began = time.perf_counter()
    accuracy["joint"] = joint(Classifier(pretrained(folder), seed), data, joint_epochs, seed)
    seconds["joint"] = time.perf_counter() - began
    print(seed, {name: round(value, 3) for name, value in accuracy.items()}, flush=True)
    ridges = {"shipped": accuracy.pop("ridge"), "random": accuracy.pop("random_ridge")}
    return {
        "seed": seed,
        "pictures_sha256": data.sha256,
        "ridges_chosen": ridges,
        "accuracy": {name: round(value, 5) for name, value in accuracy.items()},
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
    }


def pretrained(folder: Path) -> ViTModel:
    """The shipped backbone, in float32."""
    return ViTModel.from_pretrained(folder, add_pooling_layer=False).float().eval()


def untrained(folder: Path, seed: int) -> ViTModel:
    """A backbone of the same shape with random weights, initialised as the shipped one was."""
    torch.manual_seed(seed)
    model = ViTModel(ViTConfig.from_pretrained(folder), add_pooling_layer=False)
    nn.init.normal_(model.embeddings.position_embeddings, std=0.3)
    return model.eval()


class Classifier(nn.Module):
    """A backbone and a linear layer on its CLS feature."""

    def __init__(self, backbone: ViTModel, seed: int, classes: int = 200):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone, self.head = backbone, nn.Linear(backbone.config.hidden_size, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits (rows, classes) of uint8 pictures (rows, 1, 32, 32)."""
        return self.head(cls_feature(self.backbone, pictures))


def cls_feature(backbone: ViTModel, pictures: Tensor) -> Tensor:
    """CLS features (rows, 128) of uint8 pictures (rows, 1, 32, 32)."""
    return backbone((pictures.float() / 255 - 0.5) / 0.3125).last_hidden_state[:, 0]


@torch.inference_mode()
def closed_forms(backbone: ViTModel, data: GlyphImages, seed: int) -> dict[str, float]:
    """Read-outs of frozen features; their statistics are sums over rows, so the order of the tasks does not matter."""
    x_train, x_test = (
        torch.cat([cls_feature(backbone, part) for part in x.split(500)]) for x in (data.x_train, data.x_test)
    )
    means = torch.stack([x_train[data.y_train == c].mean(0) for c in range(len(data.names))])
    nearest = torch.cdist(x_test, means).argmin(1)

    dice = torch.Generator().manual_seed(seed)
    projection = torch.randn(x_train.shape[1], WIDTH, generator=dice)
    wide_train, wide_test = (x_train @ projection).relu(), (x_test @ projection).relu()
    targets = F.one_hot(data.y_train).float()
    held = torch.rand(len(targets), generator=dice) < 0.2
    errors = {
        ridge: (wide_train[held] @ weights - targets[held]).square().mean().item()
        for ridge, weights in zip(RIDGES, solve(wide_train[~held], targets[~held], RIDGES), strict=True)
    }
    chosen = min(errors, key=errors.__getitem__)
    fixed_weights, chosen_weights = solve(wide_train, targets, (FIXED_RIDGE, chosen))
    return {
        "nearest_mean": share_right(nearest, data.y_test),
        "ranpac_ridge_1000": share_right((wide_test @ fixed_weights).argmax(1), data.y_test),
        "ranpac_ridge_chosen": share_right((wide_test @ chosen_weights).argmax(1), data.y_test),
        "ridge": chosen,
    }


def solve(rows: Tensor, targets: Tensor, ridges: tuple[float, ...]) -> Iterator[Tensor]:
    """Ridge regression weights (width, classes), one for each ridge."""
    rows, targets = rows.double(), targets.double()
    gram, moment = rows.T @ rows, rows.T @ targets
    for ridge in ridges:
        factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
        yield torch.cholesky_solve(moment, factor).float()


def fine_tune(model: Classifier, data: GlyphImages, seed: int, epochs: int = 2) -> tuple[float, float]:
    """Train on one task after the other; accuracy at the end, and the mean of each task's just after it was learned."""
    dice = torch.Generator().manual_seed(seed)
    just_after, seen = [], 0
    for group in data.groups:
        seen += len(group)
        rows = torch.where(torch.isin(data.y_train, torch.tensor(group)))[0]
        fit(model, data, rows, epochs, seen, dice)
        tested = torch.isin(data.y_test, torch.tensor(group))
        just_after.append(test(model, data.x_test[tested], data.y_test[tested], seen))
    return test(model, data.x_test, data.y_test, seen), statistics.mean(just_after)


def joint(model: Classifier, data: GlyphImages, epochs: int, seed: int) -> float:
    """Train on all tasks at once; accuracy at the end."""
    dice = torch.Generator().manual_seed(seed)
    fit(model, data, torch.arange(len(data.y_train)), epochs, len(data.names), dice)
    return test(model, data.x_test, data.y_test, len(data.names))


def fit(model: Classifier, data: GlyphImages, rows: Tensor, epochs: int, seen: int, dice: torch.Generator) -> None:
    """Train all weights on some rows, cross-entropy over the first `seen` classes, half a cosine from the rate to 0."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for part in rows[torch.randperm(len(rows), generator=dice)].split(BATCH):
            loss = F.cross_entropy(model(data.x_train[part])[:, :seen], data.y_train[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.inference_mode()
def test(model: Classifier, pictures: Tensor, classes: Tensor, seen: int) -> float:
    """Share of right answers among the first `seen` classes."""
    model.eval()
    return share_right(torch.cat([model(part)[:, :seen].argmax(1) for part in pictures.split(500)]), classes)


def share_right(answers: Tensor, classes: Tensor) -> float:
    """Accuracy."""
    return (answers == classes).float().mean().item()


def spread(values: list[float], what: str) -> dict[str, object]:
    """Mean and spread over the seeds."""
    return {
        "what": what,
        "mean": round(statistics.mean(values), 4),
        "standard_deviation": round(statistics.stdev(values), 4) if len(values) > 1 else 0.0,
        "lowest": round(min(values), 4),
        "highest": round(max(values), 4),
    }


if __name__ == "__main__":
    main()
