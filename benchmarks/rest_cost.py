"""What resting costs: a fixed mask beside a bare `optimizer.step`, and inside a whole training step.

    python benchmarks/rest_cost.py

Claims held here, all on one thread and paired in one run:

- 200 tensors with 13 million weights under AdamW, 90 % of the entries resting: at most 1.6 times a bare `optimizer.step`;
- the same rule when nothing rests: at most 1.05 times;
- a vision transformer of the shape of the glyph backbone (1.2 million weights, batch 64), 90 % of all weights resting: at
  most 5 % of a whole step (forward, backward, `optimizer.step`).

Arms take turns, block by block, on the same weights and the same optimizer, so that other load on the machine meets all of
them alike. Times are processor time. A figure is the ratio of the medians over blocks; its spread is the quartiles of the
ratios within a round.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any

import torch
from machine import cpu
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from transformers import ViTConfig, ViTModel

from nacre.core.dice import dice, keep
from nacre.core.rule import attached
from nacre.rules import Rest

RESULT = Path(__file__).parent / "results" / "rest_cost.json"
TENSORS, SIDE = 200, 255  # 13,005,000 weights
CLASSES, BATCH = 200, 64
SHARE = 0.9  # of the entries that rest

Arm = Callable[[], AbstractContextManager[Any]]


class Weights(nn.Module):
    """Nothing but square parameters, each with a gradient."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        generator = dice(0, "weights")
        make = [torch.randn(SIDE, SIDE, generator=generator).to(dtype) for _ in range(TENSORS)]
        self.weights = nn.ParameterList([nn.Parameter(w) for w in make])
        for p in self.weights:
            p.grad = torch.randn(SIDE, SIDE, generator=generator).to(dtype)


class Vit(nn.Module):
    """A vision transformer of the shape of the glyph backbone with a linear head; weights are never read from a file."""

    def __init__(self) -> None:
        super().__init__()
        shape = {"hidden_size": 128, "num_hidden_layers": 6, "num_attention_heads": 4, "intermediate_size": 512}
        config = ViTConfig(**shape, image_size=32, patch_size=8, num_channels=1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = ViTModel(config, add_pooling_layer=False)
            self.head = nn.Linear(128, CLASSES)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (rows, classes) of pixels (rows, 1, 32, 32)."""
        return self.head(self.body(pixels).last_hidden_state[:, 0])


def masks(model: nn.Module, share: float) -> dict[str, Tensor]:
    """A mask for each parameter in which each entry rests with probability `share`."""
    return {n: keep(share, p.numel(), "cpu", 0, n).view(p.shape) for n, p in model.named_parameters()}


def arms(model: nn.Module, optimizer: Optimizer) -> dict[str, Arm]:
    """The bare optimizer, a rule that rests nothing, a rule that rests most entries."""
    nothing, most = Rest(masks(model, 0.0)), Rest(masks(model, SHARE))
    return {
        "bare": nullcontext,
        "rests_nothing": lambda: attached(nothing, optimizer, model),
        "rests_90_percent": lambda: attached(most, optimizer, model),
    }


def measure(step: Callable[[], Any], arms: dict[str, Arm], rounds: int, steps: int) -> dict[str, Any]:
    """Time `steps` steps of each arm in turn, `rounds` times; the first step of a block only warms up."""
    blocks: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for place in range(rounds + 1):
        for name in order[place % len(order) :] + order[: place % len(order)]:
            with arms[name]():
                step()
                taken = []
                for _ in range(steps):
                    start = process_time()
                    step()
                    taken.append(process_time() - start)
            if place:  # the first round warms up
                blocks[name].append(statistics.median(taken))
    told: dict[str, Any] = {"rounds": rounds, "steps_a_block": steps}
    bare = statistics.median(blocks["bare"])
    for name, times in blocks.items():
        within = [t / b for t, b in zip(times, blocks["bare"], strict=True)]
        low, _, high = statistics.quantiles(within, n=4)
        told[name] = {
            "milliseconds": round(1000 * statistics.median(times), 3),
            "times_bare": round(statistics.median(times) / bare, 3),
            "times_bare_quartiles": [round(low, 3), round(high, 3)],
        }
    return told


def whole_step(model: nn.Module, optimizer: Optimizer) -> Callable[[], Any]:
    """Forward, backward and step on one fixed batch."""
    generator = dice(0, "batch")
    pixels = torch.randn(BATCH, 1, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(pixels), labels).backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=24, help="blocks of each arm")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)

    figures: dict[str, Any] = {}
    cases: dict[str, tuple[torch.dtype, Callable[..., Optimizer]]] = {
        "AdamW": (torch.float32, AdamW),
        "AdamW fused": (torch.float32, lambda p: AdamW(p, fused=True)),
        "AdamW, bfloat16": (torch.bfloat16, AdamW),
        "SGD with momentum": (torch.float32, lambda p: SGD(p, lr=1e-3, momentum=0.9, weight_decay=1e-4)),
        "SGD": (torch.float32, lambda p: SGD(p, lr=1e-3)),
    }
    for name, (dtype, make) in cases.items():
        model = Weights(dtype)
        optimizer = make(model.parameters())
        figures[name] = measure(optimizer.step, arms(model, optimizer), args.rounds, steps=8)
        print(name, json.dumps(figures[name]), flush=True)

    vit = Vit().train()
    optimizer = AdamW(vit.parameters())
    figures["whole step"] = measure(whole_step(vit, optimizer), arms(vit, optimizer), args.rounds, steps=6)
    figures["whole step"]["weights"] = sum(p.numel() for p in vit.parameters())
    print("whole step", json.dumps(figures["whole step"]))

    claims = {
        "90 % rests, AdamW.step": (figures["AdamW"]["rests_90_percent"]["times_bare"], 1.6),
        "nothing rests, AdamW.step": (figures["AdamW"]["rests_nothing"]["times_bare"], 1.05),
        "90 % rests, whole step": (figures["whole step"]["rests_90_percent"]["times_bare"], 1.05),
    }
    result = {
        "about": f"Cost of Rest on {TENSORS} tensors of {SIDE}x{SIDE} ({TENSORS * SIDE**2:,} weights) and in a whole step.",
        "command": "python benchmarks/rest_cost.py",
        "machine": {"cpu": cpu(), "threads": torch.get_num_threads(), "system": platform.system()},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("nacre", "torch", "transformers")},
        },
        "claims": {
            c: {"times_bare": is_, "at_most": limit, "holds": is_ <= limit} for c, (is_, limit) in claims.items()
        },
        "figures": figures,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for claim, told in result["claims"].items():
        print(f"{claim}: x{told['times_bare']} (at most x{told['at_most']}): {'holds' if told['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
