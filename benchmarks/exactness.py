"""How many entries that were asked to rest move all the same, under six optimizers, and how much moves in protected directions.

    python benchmarks/exactness.py

A small network takes 60 steps of regression. In each of its tensors a tenth of the entries may move, and of these half are
dropped at each step, drawn anew; all others are asked to rest at that step, as sparse tuning does. Three ways to ask: a mask on
the gradients, as in published code; `Rest`, which puts back after the step what rests; and the compact form, in which the
optimizer holds the chosen entries alone and dropped ones are put back. Counted are (entry, step) pairs in which an entry was
asked to rest and has other bits after the step.

Claim: none moves under the last two, with any of the optimizers. Muon takes matrices only, so that the compact form, whose
parameters are vectors, is not for it; biases are then left out.

Then the two lower layers of such a network are tuned for 300 steps with the upper half of their singular directions
protected: by PEFT's OSF alone, which projects gradients, and by OSFT, which projects moves, as factors and on the weights.
With D the change of a weight over all steps, told are |U_h U_h' D| / |D| and |D V_h' V_h| / |D| over both layers, and the loss
after: means of three seeds.

Claim: OSFT moves at most 1e-4 there, and its loss is no more than 5 % above that of PEFT alone after as many steps.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import torch
from machine import cpu
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adafactor, AdamW, Muon, NAdam, Optimizer

from nacre.adapters import decomposed, put_in_entries
from nacre.adapters.sparse import VALUES
from nacre.core.dice import dice, keep
from nacre.core.drive import Drive
from nacre.core.rule import Rule, Site, attached
from nacre.core.state import Tensors
from nacre.core.stream import Task
from nacre.methods import OSFT

RESULT = Path(__file__).parent / "results" / "exactness.json"
STEPS, SHARE, DROP = 60, 0.1, 0.5
WAYS = ("mask on gradients", "rest", "compact")
OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD, momentum 0.9, decay 5e-4": lambda p: SGD(p, lr=0.01, momentum=0.9, weight_decay=5e-4),
    "AdamW, decay 0.01": lambda p: AdamW(p, lr=1e-3, weight_decay=0.01),
    "NAdam": lambda p: NAdam(p, lr=1e-3),
    "Muon, decay 0.1": lambda p: Muon(p, lr=1e-3, weight_decay=0.1),
    "Adafactor, decay 0.01": lambda p: Adafactor(p, lr=1e-3, weight_decay=0.01),
    "Adafactor": lambda p: Adafactor(p, lr=1e-3),
    "LBFGS": lambda p: LBFGS(p, lr=0.05, max_iter=1),
}
TUNED, SEEDS = 300, 3  # steps of tuning outside protected directions
TUNERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "AdamW, decay 0.01": lambda p: AdamW(p, lr=1e-3, weight_decay=0.01),
    "SGD, momentum 0.9, decay 5e-4": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
}
PROTECTING = {
    "PEFT alone": None,
    "OSFT, factors": OSFT(form="factors"),
    "OSFT, weights": OSFT(form="weights"),
}
LAYERS = ("0", "2")


@dataclass
class Drops(Rule):
    """What is not chosen rests, and of what is chosen a share drawn anew at each step."""

    chosen: Tensors

    def moves(self, name: str, step: int) -> Tensor:
        """Which of the chosen entries of a tensor move, (chosen,)."""
        return keep(1 - DROP, int(self.chosen[name].sum()), "cpu", "drops", step, name)

    def mask(self, name: str, step: int) -> Tensor:
        """Which entries of a tensor move."""
        mask = torch.zeros_like(self.chosen[name])
        mask[self.chosen[name]] = self.moves(name, step)
        return mask

    def resting(self, site: Site) -> Tensors:
        return {
            n: ~(self.mask(n, site.step) if n in self.chosen else self.moves(n.removesuffix(VALUES), site.step))
            for n in site.params
        }


def network(seed: int = 0) -> nn.Sequential:
    """The weights before."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))


def counted(make: Callable[[list[nn.Parameter]], Optimizer], way: str, matrices: bool) -> dict[str, Any]:
    """How many were asked to rest, and how many of these moved."""
    net, draw = network(), dice(0, "rows")
    held = {n: p for n, p in net.named_parameters() if p.ndim > 1 or not matrices}
    for n, p in net.named_parameters():
        p.requires_grad_(n in held)
    rule = Drops({n: keep(SHARE, p.numel(), "cpu", "chosen", n).view(p.shape) for n, p in held.items()})
    if way == "compact":
        put_in_entries(net, rule.chosen)
    optimizer = make([p for p in net.parameters() if p.requires_grad])
    x = torch.randn(256, 32, generator=draw)
    y = torch.randn(256, 4, generator=draw)
    asked = moved = 0
    with nullcontext() if way == "mask on gradients" else attached(rule, optimizer, net):
        for step in range(STEPS):
            rows = torch.randint(256, (32,), generator=draw)

            def closure(step: int = step, rows: Tensor = rows) -> Tensor:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(net(x[rows]), y[rows])
                loss.backward()
                for n, p in held.items() if way == "mask on gradients" else ():
                    assert p.grad is not None
                    p.grad.mul_(rule.mask(n, step))
                return loss

            before = {n: p.detach().clone() for n, p in held.items()}
            optimizer.step(closure)  # pyright: ignore[reportArgumentType, reportCallIssue]  typed for floats
            for n, p in held.items():
                rests = ~rule.mask(n, step)
                asked += int(rests.sum())
                moved += int((before[n].view(torch.int32) != p.detach().view(torch.int32))[rests].sum())
    with torch.no_grad():
        loss = [round(float(nn.functional.mse_loss(of(x), y)), 4) for of in (network(), net)]
    return {"asked": asked, "moved": moved, "percent": round(100 * moved / asked, 2), "loss": loss}


def protected(make: Callable[[list[nn.Parameter]], Optimizer], method: OSFT | None, seed: int) -> dict[str, float]:
    """What of the change lies in protected directions, and the loss after."""
    net, draw = network(seed), dice(seed, "tuned")
    net.head_names = ("4",)  # pyright: ignore[reportArgumentType]
    before = {n: net.get_parameter(f"{n}.weight").detach().clone() for n in LAYERS}
    x = torch.randn(256, 32, generator=draw)
    y = torch.randn(256, 4, generator=draw)

    def train(optimizer: Optimizer) -> None:
        for _ in range(TUNED):
            rows = torch.randint(256, (32,), generator=draw)
            optimizer.zero_grad()
            nn.functional.mse_loss(net(x[rows]), y[rows]).backward()
            optimizer.step()

    if method is None:
        head = list(net[-1].parameters())
        for p in net.parameters():
            p.requires_grad_(any(p is other for other in head))
        peft.inject_adapter_in_model(peft.OSFConfig(target_modules=[*LAYERS]), net)
        for p in head:  # PEFT freezes all else
            p.requires_grad_(True)
        train(make([p for p in net.parameters() if p.requires_grad]))
        for name in LAYERS:
            layer: Any = net.get_submodule(name)
            layer.merge()
            setattr(net, name, layer.get_base_layer())
    else:
        with Drive(method, net, lambda named: make(list(named.values())), Task(0)) as drive:
            train(drive.optimizer)
    parts = []
    for name, was in before.items():
        cut, move = decomposed(was, min(was.shape) // 2), (net.get_parameter(f"{name}.weight") - was).detach()
        parts.append(torch.stack([move.norm(), (cut["U_high"].mT @ move).norm(), (move @ cut["V_high"].mT).norm()]))
    size, left, right = torch.stack(parts).norm(dim=0).tolist()
    with torch.no_grad():
        return {"left": left / size, "right": right / size, "loss": float(nn.functional.mse_loss(net(x), y))}


def tuned() -> dict[str, dict[str, dict[str, float]]]:
    """The same by optimizer and way: the mean over seeds of each figure."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, make in TUNERS.items():
        for way, method in PROTECTING.items():
            runs = [protected(make, method, seed) for seed in range(SEEDS)]
            told = {key: float(f"{sum(run[key] for run in runs) / SEEDS:.4g}") for key in runs[0]}
            found.setdefault(name, {})[way] = told
            print(name, way, told, flush=True)
    return found


def main() -> None:
    """Count, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures: dict[str, dict[str, Any]] = {}
    for name, make in OPTIMIZERS.items():
        matrices = name.startswith("Muon")
        figures[name] = {way: counted(make, way, matrices) for way in WAYS if not (matrices and way == "compact")}
        print(name, {way: f"{told['moved']} of {told['asked']}" for way, told in figures[name].items()}, flush=True)
    exact = {way: max(f[way]["moved"] for f in figures.values() if way in f) for way in WAYS[1:]}
    directions = tuned()
    adamw = directions[next(iter(TUNERS))]
    claims: dict[str, Any] = {
        f"{way}: none moves": {"moved": n, "at_most": 0, "holds": n == 0} for way, n in exact.items()
    }
    for way in [*PROTECTING][1:]:
        share = max(told[way][side] for told in directions.values() for side in ("left", "right"))
        claims[f"{way}: share of the change in protected directions"] = {
            "share": share, "at_most": 1e-4, "holds": share <= 1e-4
        }  # fmt: skip
        ratio = round(adamw[way]["loss"] / adamw["PEFT alone"]["loss"], 4)
        claims[f"{way}: loss under AdamW over that of PEFT alone"] = {
            "ratio": ratio, "at_most": 1.05, "holds": ratio <= 1.05
        }  # fmt: skip
    result = {
        "about": "(entry, step) pairs in which an entry was asked to rest, and in which it moved; the loss before and after. "
        "directions: the share of the change that lies in protected ones, left and right, and the loss after.",
        "command": "python benchmarks/exactness.py",
        "machine": {"cpu": cpu(), "threads": torch.get_num_threads(), "system": platform.system()},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch", "peft")}},
        "claims": claims,
        "figures": figures,
        "directions": directions,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
