"""What holds for every learning-rate schedule."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ..core.dice import dice
from .check import Case, check
from .kinds import is_schedule

TOTAL = 50


@check(is_schedule)
def pure(case: Case) -> None:
    """The same step gives the same finite, non-negative number in any order of calls; `LambdaLR` agrees for 100 steps."""
    rate = case.fresh().over(TOTAL)
    rates = [rate(step) for step in range(2 * TOTAL)]
    bad = [(step, r) for step, r in enumerate(rates) if not (math.isfinite(r) and r >= 0)]
    case.holds(not bad, "every rate is finite and not negative", f"step {bad[:1]} is not", "a shape that overshoots")
    order = torch.randperm(2 * TOTAL, generator=dice(case.seed, "steps")).tolist()
    other = [step for step in order if rate(step) != rates[step]]
    case.holds(not other, "a rate depends on its step alone", f"step {other[:1]} differs when asked again", "a counter")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = LambdaLR(optimizer, rate)
    for step in range(2 * TOTAL):
        found = optimizer.param_groups[0]["lr"]
        case.holds(
            found == 0.5 * rates[step], "LambdaLR agrees", f"at step {step} it has {found}", "state between calls"
        )
        optimizer.step()
        scheduler.step()


@check(is_schedule)
def continuous_at_joints(case: Case) -> None:
    """Phases meet unless they are declared as a jump, no first step is 0 by accident, and the last value is held."""
    schedule = case.fresh()
    rate = schedule.over(TOTAL)
    for first, second in pairwise(schedule.phases):
        gap = abs(first.end - second.start)
        case.holds(
            gap < 1e-9 or second.jump, "each phase begins where the one before ended",
            f"one ends at {first.end:g} and the next begins at {second.start:g}", "a jump that is meant: Phase(jump=True)",
        )  # fmt: skip
    begins = rate(0)
    case.holds(
        begins > 0, "the first step trains", "its rate is 0", "a warm-up counted from 0: use (step + 1) / length"
    )
    ends = rate.phases[-1].end if rate.phases else 1.0
    late = {rate(10 * TOTAL), rate(1000 * TOTAL)}
    case.holds(
        late == {ends}, "the last value is held for ever", f"it goes on to {sorted(late)}", "a shape without an end"
    )
