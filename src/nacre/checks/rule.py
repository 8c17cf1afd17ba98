"""What holds for every part that acts around the optimizer's step, alone or as one hook of a method."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.drive import Drive
from ..core.method import Method, compose
from ..core.rule import Site
from ..core.state import Tensors
from .check import Case, Skipped, check
from .kinds import grads_or_weights, shapes, trains_something
from .optimizers import HARD
from .runs import as_met, copied, gap
from .steps import STEPS, Watch, second_task, take_steps
from .worlds import SHORT, VECTORS, shaken


@check(shapes)
def identity_costs_nothing(case: Case) -> None:
    """Attached at its `off` settings, the weights are those of the plain optimizer for 10 steps, bit for bit."""
    if not case.part.off:
        raise Skipped("it declares no `off` settings")
    ends = []
    for part in (switched_off(case.fresh()), Method()):
        with second_task(part, HARD["adamw"].make) as drive:
            take_steps(drive, STEPS)
            ends.append(copied(drive.model.state_dict()))
    figure = gap(ends[0], ends[1])
    case.holds(
        not figure, f"with {case.part.off} the optimizer is left alone", figure, "arithmetic that is never skipped"
    )


@check(grads_or_weights)
def writes_what_it_says(case: Case) -> None:
    """`shape_grads` changes no weight, `shape_weights` no old value, and both return the keys and shapes they were given."""
    spy = _Spy(case)
    with second_task(compose(case.fresh()), HARD["sgd"].make) as drive:
        spy.put_on(drive.method)
        take_steps(drive, 3)


@check(shapes)
def sees_this_step(case: Case) -> None:
    """Gradients are those of this step, with and without a closure; a step without effect advances nothing."""
    for how in ("plain", "closure", "pieces", "scaler"):
        watch, wanted = Watch(), list[Tensors]()
        with second_task(compose(watch, case.fresh()), HARD["sgd"].make) as drive:
            watch.grads.clear()
            take_steps(drive, 3, how=how, noted=wanted)
        figure = gap(wanted, watch.grads)
        case.holds(not figure, f"gradients are this step's ({how})", figure, "a gradient kept from another step")


@check(trains_something)
def skipped_steps_leave_no_trace(case: Case) -> None:
    """A step that takes no effect advances nothing; gradients that are still scaled are refused."""
    with second_task(case.fresh(), HARD["fused"].make) as drive:
        take_steps(drive, 2)
        before = _standing(drive)
        drive.optimizer.found_inf = torch.tensor(1.0)  # pyright: ignore[reportAttributeAccessIssue]  as GradScaler sets it
        take_steps(drive, 1)
        figure = gap(before, _standing(drive))
        case.holds(
            not figure, "a step that takes no effect advances nothing", figure, "state changed outside after_step"
        )
        drive.optimizer.found_inf = torch.tensor(0.0)  # pyright: ignore[reportAttributeAccessIssue]
        drive.optimizer.grad_scale = torch.tensor(4.0)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            take_steps(drive, 1)
            figure = "nothing is said"
        except RuntimeError as error:
            figure = "" if "unscale_" in str(error) else str(error)
        case.holds(not figure, "gradients that are still scaled are refused", figure, "a driver of its own")


@check(shapes)
def skips_the_unused(case: Case) -> None:
    """Parameters that are frozen, tied, of size zero, or without a gradient raise nothing; what is frozen does not move."""
    model, stream = _Odd(), as_met(case.part, VECTORS.stream(SHORT))
    part = case.fresh()
    frozen = model.net.body[4].bias.detach().clone()
    for met in stream:
        with Drive(part, model, HARD["sgd"].make, met.task, augment=shaken, seed=0) as drive:
            take_steps(drive, 2)
    figure = gap(frozen, model.net.body[4].bias.detach())
    case.holds(
        not figure, "a frozen parameter does not move", figure, "weights taken from the model, not from the site"
    )


@check(shapes)
def detaches_cleanly(case: Case) -> None:
    """After a stage, even one that raised, the optimizer has the hooks it had before."""
    for fails in (False, True):
        kept: list[Optimizer] = []
        try:
            with second_task(case.fresh(), HARD["sgd"].make) as drive:
                kept.append(drive.optimizer)
                take_steps(drive, 1)
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        hooks = len(kept[0]._optimizer_step_pre_hooks) + len(kept[0]._optimizer_step_post_hooks)
        case.holds(
            not hooks, "no hook is left on the optimizer", f"{hooks} are left", "hooks that a part adds by itself"
        )


def switched_off(part: Any) -> Any:
    """The part at the settings that it declares as `off`."""
    for name, value in part.off.items():
        setattr(part, name, value)
    return part


def _standing(drive: Drive) -> dict[str, Any]:
    """Weights, the part's state and the step count."""
    return copied(
        {
            "model": {n: p for n, p in drive.model.named_parameters()},
            "state": drive.method.state_dict(),
            "step": drive.site.step,
        }
    )


class _Spy:
    """Looks over the shoulder of a part's two pipes."""

    def __init__(self, case: Case):
        self.case = case

    def put_on(self, method: Method) -> None:
        grads_of, weights_of = method.shape_grads, method.shape_weights

        def shape_grads(grads: Tensors, site: Site) -> Tensors:
            before = copied(dict(site.params))
            given = {n: g.shape for n, g in grads.items()}
            made = grads_of(grads, site)
            self._same(given, made, "shape_grads")
            figure = gap(before, copied(dict(site.params)))
            self.case.holds(not figure, "shape_grads changes no weight", figure, "a move written into the weights")
            return made

        def shape_weights(new: Tensors, old: Tensors, site: Site) -> Tensors:
            kept, given = copied(old), {n: w.shape for n, w in new.items()}
            made = weights_of(new, old, site)
            self._same(given, made, "shape_weights")
            figure = gap(kept, copied(old))
            self.case.holds(
                not figure, "shape_weights changes no old value", figure, "old values used as a scratch pad"
            )
            return made

        method.shape_grads, method.shape_weights = shape_grads, shape_weights

    def _same(self, given: dict[str, Any], made: Tensors, hook: str) -> None:
        figure = gap({n: str(s) for n, s in given.items()}, {n: str(w.shape) for n, w in made.items()})
        self.case.holds(
            not figure, f"{hook} returns the keys and shapes it was given", figure, "a dict of its own choice"
        )


class _Odd(nn.Module):
    """The vector model with a tied, an unused, an empty and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = VECTORS.model()
        self.body_again = self.net.body[0]  # tied
        self.body_unused = nn.Parameter(torch.ones(3))
        self.body_empty = nn.Parameter(torch.ones(0, 4))
        self.net.body[4].bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Any:
        return self.net(x)
