"""Claims about update magnitudes where parts of the weights differ: in distance, or in who sees them."""

from __future__ import annotations

import torch

from ..core.dice import dice
from .claim import ERRORS, Claim
from .linear_tasks import LinearTasks, Retain, Simulated, mean_and_error, simulate
from .retaining import anew, from_gradient, going_on, oracle
from .supports import Supports

HALVES = (0.05, 0.95)
"""Squared distances of targets in the two halves of the weights."""


def groups(repeats: int, seed: int) -> Claim:
    """Two halves of the weights whose targets are near in one and far apart in the other."""
    tasks = LinearTasks(far=sum(HALVES))
    halves = [LinearTasks(far=d, norm=0.5).targets(tasks.width // 2) for d in HALVES]
    targets = torch.cat(halves, 1)
    ways: dict[str, Retain] = {
        "initialised": anew,
        "frozen": going_on,
        "one oracle": oracle(),
        "oracle of each half": oracle(2),
        "gradient of each half": from_gradient(2),
    }
    runs: dict[str, Simulated] = {n: simulate(tasks, retain, repeats, seed, targets) for n, retain in ways.items()}
    risks = {n: float(run.risk.mean()) for n, run in runs.items()}
    gap, error = mean_and_error(runs["one oracle"].risk - runs["oracle of each half"].risk)
    extremes = min(risks["initialised"], risks["frozen"])
    return Claim(
        "groups",
        "where groups of weights differ in distance, an alpha for each has less risk than one for all, which has less than "
        "both extremes: this is what a hybrid gains",
        {"risk": risks},
        gap > ERRORS * error and risks["one oracle"] < extremes and risks["gradient of each half"] < extremes,
    )


def supports(repeats: int, seed: int) -> Claim:
    """Two tasks that see different coordinates, 60 of which both see."""
    world = Supports()
    old, new, first = (
        torch.randn(world.width, generator=dice(seed, "supports targets", k), dtype=torch.float64) for k in range(3)
    )
    first = (1.1 * old + 0.5 * first) / world.width**0.5
    old, new = old / world.width**0.5, (0.4 * old + 0.9 * new) / world.width**0.5
    first[world.one :] = 0.0  # the first task does not move what it does not see
    best, errors = world.best(first, old, new), {}
    for alpha in (0.0, best, 1.0):
        mean, error = mean_and_error(world.simulated(alpha, first, old, new, 5 * repeats, seed))
        errors[f"alpha {alpha:.2f}"] = (mean - world.drift(alpha, first, old, new)) / error
    drifts = {f"{a:.2f}": world.drift(a, first, old, new) for a in (best - 0.1, best, best + 0.1)}
    least = min(drifts, key=lambda a: drifts[a])
    return Claim(
        "supports",
        "where tasks see different coordinates, the drift of what both see follows its closed form, leak from the others "
        "included, and is least at the alpha that the formula gives",
        {"distance in standard errors": errors, "drift by alpha": drifts},
        max(map(abs, errors.values())) <= ERRORS and least == f"{best:.2f}",
    )
