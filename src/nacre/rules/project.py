"""Project: moves lose what they have in protected directions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import BadSetting
from ..core.rule import COPIES, Rule, Site
from ..core.shards import is_sharded
from ..core.state import Tensors, grown, scratch, setting
from .align import agreement
from .moves import differences, some, wide

SKEW = 1e-3  # how far columns may be from orthonormal


@dataclass
class Project(Rule):
    """Take out of each move what it has in protected directions, after the optimizer made it.

    With D = new - old of a weight (out, in): D <- D - U U' D (`left`), then D <- D - D V V' (`right`), and the weight is
    old + D. What the layer answers in span U, and how it answers inputs of span V, does not change. A weight of more than two
    dimensions counts as (out, everything else), a vector as (out, 1). Last, with all tensors of `against` as one vector r,
    D <- D - max(D'r, 0) / |r|^2 r: a move that would raise the loss whose gradient r is loses the part that does so.

    Projected gradients do not promise this: Adam's rescaling, momentum from before and weight decay enter the subspace again.
    So may what is composed behind this rule: compose it last, and let no part of such a weight rest. The optimizer's own copies
    of a weight (schedule-free's `z`, fp32 masters) lose it too; `against` turns the weight alone. In weights of 16 bits their
    rounding is left in the subspace.

    It is the protected subspace of OSF (arXiv 2504.07097), the input space of earlier tasks of GPM (arXiv 2103.09762), and the
    half-space of A-GEM (arXiv 1812.00420).

    Attributes:
        left: U, by parameter name: (out, k) with orthonormal columns. Rows that a head gained since are free.
        right: V, by parameter name: (in, k) with orthonormal columns.
        against: r, by parameter name, of the parameter's shape: a gradient that no move may go against.

    Raises:
        BadSetting: at the first step, if a name is unknown, a shape does not fit, or columns are not orthonormal.

    >>> rule = Project(left={"weight": torch.eye(4)[:, :2]})  # the first two outputs keep their weights
    """

    excused: ClassVar[dict[str, str]] = {
        "settings_are_plain": "bases are tensors that the caller made; a config has no words for them"
    }
    off: ClassVar[dict[str, Any]] = {"left": {}, "right": {}, "against": {}}

    left: Tensors = setting(dict, "what is protected of the outputs, as orthonormal columns")
    right: Tensors = setting(dict, "what is protected of the inputs, as orthonormal columns")
    against: Tensors = setting(dict, "a gradient that no move may go against")
    # parameters and their shapes; U, V and r for them
    ready: tuple[Any, list[Any], Tensors, Tensors, Tensors] | None = scratch()
    room: Tensors = scratch(dict)  # memory for moves

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls()

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if not (self.left or self.right or self.against):
            return new
        left, right, against = self._ready(site)
        project_moves(new, old, left, right, self.room, site)
        if against:
            self._turn({n: new[n] for n in against}, {n: old[n] for n in against}, against)
        return new

    def needs_old(self, name: str) -> bool:
        return name in self.left or name in self.right or name in self.against

    def _turn(self, new: Tensors, old: Tensors, against: Tensors) -> None:
        """Take out what goes against a gradient; where nothing does, no bit changes."""
        moves = differences(new, old, self.room)
        harm = agreement(moves, list(against.values()), "list", "share")[0].clamp_min(0)
        for r, w in zip(against.values(), new.values(), strict=True):
            if w.dtype == r.dtype:
                w.addcmul_(r, harm.to(r.dtype), value=-1)
            else:
                w.copy_(torch.addcmul(w.to(r.dtype), r, harm.to(r.dtype), value=-1))

    def _ready(self, site: Site) -> tuple[Tensors, Tensors, Tensors]:
        """What was given, for what the optimizer holds; looked at once, and again where a head grew."""
        shapes = [p.shape for p in site.params.values()]
        if self.ready is None or self.ready[0] is not site.params or self.ready[1] != shapes:
            known = {n for n, _ in site.model.named_parameters()} | site.params.keys()
            if strange := sorted((self.left.keys() | self.right.keys() | self.against.keys()) - known):
                raise BadSetting(f"Project names {strange[0]!r}, which the model does not have: it has {some(site)}")
            held = site.params
            if cut := [n for n in (*self.left, *self.right, *self.against) if n in held and is_sharded(held[n])]:
                raise BadSetting(
                    f"Project multiplies whole weights by bases, and each rank holds a part of {cut[0]}: train without "
                    "fully_shard"
                )
            left = {n: _basis("left", n, u, held[n], 0) for n, u in self.left.items() if n in held}
            right = {n: _basis("right", n, v, held[n], 1) for n, v in self.right.items() if n in held}
            against = {n: _gradient(n, r, held[n]) for n, r in self.against.items() if n in held}
            self.ready = (held, shapes, left, right, against)
        return self.ready[2:]


def project_moves(new: Tensors, old: Tensors, left: Tensors, right: Tensors, room: Tensors, site: Site) -> None:
    """Let moves by name lose what they have in protected directions; the new weights are changed in place.

    So do the optimizer's own copies of these weights, which differ from the old ones in free directions only.

    Args:
        new: Weights after a step.
        old: Weights before it, of those that have a basis.
        left: U by name, as `project_out` takes it.
        right: V by name.
        room: Memory for moves, which is used again.
        site: Where the step happened.
    """
    based = {n: old[n] for n in new if n in left or n in right}
    for (n, was), move in zip(based.items(), differences(new, based, room), strict=True):
        project_out(move, left.get(n), right.get(n))
        torch.add(was, move, out=new[n])
        own = site.optimizer.state.get(site.params[n], {})
        for key in sorted(COPIES & own.keys()):
            move = own[key].to(move.dtype) - was
            project_out(move, left.get(n), right.get(n))
            own[key].copy_(was + move)


def project_out(move: Tensor, left: Tensor | None, right: Tensor | None) -> None:
    """D <- D - U U' D, then D <- D - D V V', in place.

    Args:
        move: D, (out, ...), of which all but the first dimension count as one; a vector is (out, 1).
        left: U, (out, k), with orthonormal columns.
        right: V, (in, k), with orthonormal columns.

    >>> move = torch.ones(2, 3)
    >>> project_out(move, torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [0.0], [1.0]]))
    >>> move
    tensor([[0., 0., 0.],
            [1., 1., 0.]])
    """
    flat = move.view(-1, 1) if move.ndim < 2 else move.flatten(1)  # a view, unless strides forbid it
    if left is not None:
        flat.addmm_(left, left.mT @ flat, alpha=-1)
    if right is not None:
        flat.addmm_(flat @ right, right.mT, alpha=-1)
    if flat.data_ptr() != move.data_ptr():
        move.copy_(flat.view(move.shape))


def _basis(which: str, name: str, basis: Tensor, param: Tensor, side: int) -> Tensor:
    """A basis where the weight is, in fp32 or better; rows of the weight that it does not know are free."""
    size = (len(param), prod(param.shape[1:])) if param.ndim else (1, 1)
    if basis.ndim != 2 or not (len(basis) == size[side] or (side == 0 and len(basis) < size[0])):
        raise BadSetting(
            f"Project.{which} of {name} has the shape {tuple(basis.shape)}, the weight counts as {size}: give "
            f"({'out' if side == 0 else 'in'}, k)"
        )
    basis = basis.to(param.device, wide(param))
    skew = float((basis.mT @ basis - torch.eye(basis.shape[1], device=basis.device)).abs().sum())
    if not skew <= SKEW * max(basis.shape[1], 1):
        raise BadSetting(
            f"Project.{which} of {name} has columns that are not orthonormal: off by {skew:.2g} in all; take the Q of "
            "torch.linalg.qr of it"
        )
    return grown(basis, basis.new_empty(size[side], basis.shape[1]))


def _gradient(name: str, gradient: Tensor, param: Tensor) -> Tensor:
    rows = gradient.ndim and gradient.shape[1:] == param.shape[1:] and len(gradient) < len(param)
    if gradient.shape != param.shape and not rows:
        raise BadSetting(
            f"Project.against of {name} has the shape {tuple(gradient.shape)}, the parameter {tuple(param.shape)}: give a "
            "gradient of it"
        )
    return grown(gradient.to(param.device, wide(param)), param)
