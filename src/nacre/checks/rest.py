"""What rests keeps its bits, whatever the optimizer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import BadSetting
from ..core.method import Method, compose
from .check import Case, Skipped, check
from .kinds import is_off, rests_something, shapes_grads
from .optimizers import HARD, UNKNOWN, Settings
from .partners import Cap, Push
from .steps import STEPS, Watch, second_task, take_steps


@check(rests_something)
def rests(case: Case) -> None:
    """An entry asked to rest keeps its bits under every kind of optimizer, in its own copies of the weights too."""
    if is_off(case.part):
        raise Skipped("it is switched off")
    for name, kind in HARD.items():
        for order in (lambda a, b, c: (a, b, c), lambda a, b, c: (c, b, a)):
            part = case.fresh()
            whole = compose(*order(part, Push(), Cap(0.05)))
            try:
                _rests_under(case, name, kind, whole)
            except BadSetting as error:
                if "does not hold" in str(error):  # an optimizer that takes matrices only leaves trained parts out
                    break
                raise
    try:
        _rests_under(case, "an optimizer with hidden copies", UNKNOWN, compose(case.fresh()))
        figure = "nothing is said"
    except RuntimeError as error:
        figure = "" if "UnknownMasters" in str(error) else str(error)
    case.holds(
        not figure, "an optimizer that keeps unknown copies of the weights is refused", figure, "a rest of its own"
    )


@check(shapes_grads)
def masks_do_not_leak(case: Case) -> None:
    """An entry whose gradient the part sets to 0 does not move at that step: momentum and weight decay are kept away too."""
    before, after = Watch(), Watch()
    with second_task(compose(before, case.fresh(), after), HARD["sgd"].make) as drive:
        held = drive.site.params
        for _ in range(4):
            start = {n: p.detach().clone() for n, p in held.items()}
            take_steps(drive, 1)
            for n, given in before.grads[-1].items():
                masked = (given != 0) & (after.grads[-1][n] == 0)
                moved = _moved(start[n], held[n].detach(), masked)
                case.holds(
                    not moved, "an entry whose gradient is masked rests",
                    f"{moved} of {int(masked.sum())} masked entries of {n} moved at step {drive.site.step}",
                    "a mask on gradients: ask for rest with resting() instead",
                )  # fmt: skip


def _rests_under(case: Case, name: str, kind: Settings, whole: Method) -> None:
    """Take steps and look at what rested at each of them."""
    with second_task(whole, kind.make) as drive:
        site, before, asked = drive.site, {}, {}

        def look_ahead() -> None:
            before.update({n: p.detach().clone() for n, p in site.params.items()})
            asked.clear()
            asked.update({n: m.clone() for n, m in whole.resting(site).items() if n in site.params})

        def look_back() -> None:
            for n, mask in asked.items():
                moved = _moved(before[n], site.params[n].detach(), mask)
                case.holds(
                    not moved,
                    f"what rests keeps its bits under {name}",
                    f"{moved} entries of {n} moved at step {site.step}",
                    "a mask on gradients, a move behind the rest, or a resting() that is no function of the site",
                )
            look_ahead()

        look_ahead()
        case.holds(
            bool(asked) or not drive.task.index, "something rests", "nothing does", "a resting() that answers {}"
        )
        throughout = {n: m & _full(whole.still(site).get(n), m) for n, m in asked.items()}
        start = dict(before)
        take_steps(drive, STEPS, look_back, how="closure" if kind.closure else "plain")
        if hasattr(drive.optimizer, "eval"):
            drive.optimizer.eval()  # pyright: ignore[reportAttributeAccessIssue]
            for n, mask in throughout.items():
                moved = _moved(start[n], site.params[n].detach(), mask, 1e-6)
                case.holds(
                    not moved, f"what rests throughout rests after {name}'s eval()", f"{moved} entries of {n} moved",
                    "a copy of the weights in the optimizer that is not put back",
                )  # fmt: skip


def _full(still: Tensor | None, mask: Tensor) -> Tensor:
    if still is None:
        return torch.zeros_like(mask)
    if still.ndim and mask.ndim and len(still) < len(mask):
        still = torch.cat([still, still.new_zeros(len(mask) - len(still), *still.shape[1:])])
    return still.expand_as(mask) if mask.ndim or not still.ndim else still.all()


def _moved(before: Tensor, now: Tensor, mask: Tensor, within: float = 0.0) -> int:
    """How many resting entries have other bits than before."""
    if mask.ndim == 0:
        mask = mask.expand_as(now)
    before, now = before[: len(mask)] if mask.ndim else before, now[: len(mask)] if mask.ndim else now
    if within:
        return int(((before - now).abs() > within * before.abs().clamp_min(1.0))[mask].sum())
    return int((before.contiguous().view(torch.int32) != now.contiguous().view(torch.int32))[mask].sum())
