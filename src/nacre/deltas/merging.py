"""Several deltas of one base as one: sums, means, the larger move, task arithmetic, TIES."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from ..core.bits import bits
from ..core.errors import BadData, BadSetting
from .file import Delta
from .saving import Model, write_delta
from .weights import Kind, Weights, weights_of

How = Literal["sum", "mean", "max", "arithmetic", "ties"]
HOWS: tuple[How, ...] = get_args(How)


def merge(
    base: Model,
    deltas: Sequence[str | Path | Delta],
    out: str | Path,
    how: How = "sum",
    weights: Sequence[float] | None = None,
    scale: float = 1.0,
    share: float = 0.2,
) -> Delta:
    """Write one delta that moves each entry of the base by what the moves of several deltas make together.

    With m_t the move that delta t makes at an entry, 0 where it holds none, and T deltas:

    | how | the move |
    |---|---|
    | `sum` | sum m_t |
    | `mean` | sum m_t / T, which is the mean of the T models |
    | `max` | the one of largest absolute value |
    | `arithmetic` | sum weight_t m_t: a negative weight takes a task away |
    | `ties` | each delta keeps the `share` of its moves that are largest; the mean of those whose sign wins by sum |

    The move is taken times `scale`, in float64, and rounded once. Where one move alone counts at its full size, the entry has
    the bits of that delta, so that deltas that share no entry merge exactly. Their order does not matter. Entries of
    whole numbers and booleans are not averaged: the larger move counts, whatever `how` says. A tensor that is new, or of
    another type or shape than in the base, is taken where one delta holds it or all agree.

    Paper: Editing models with task arithmetic (arXiv 2212.04089); TIES-Merging (arXiv 2306.01708). There TIES counts the
    share of all entries; here of those that moved, which is the same where all did.

    Args:
        base: The model that all were made of; see `weights_of`.
        deltas: What `save` wrote, or `merge`.
        out: A `.safetensors` file, which is replaced as a whole.
        how: See above.
        weights: One for each delta, with `how = "arithmetic"` only; by default 1.
        scale: A factor on the merged move.
        share: What TIES keeps of each delta, in (0, 1].

    Raises:
        BadSetting: a setting is out of its range, or does not belong to `how`.
        BadData: the deltas are of different bases, or hold a new tensor differently.
        NotSaved: the file could not be written.

    >>> import tempfile
    >>> from nacre.deltas import applied, save
    >>> place, base = Path(tempfile.mkdtemp()), {"w": torch.zeros(3)}
    >>> one = save(base, {"w": torch.tensor([1.0, 0.0, 2.0])}, place / "1.safetensors")
    >>> two = save(base, {"w": torch.tensor([0.0, 3.0, -1.0])}, place / "2.safetensors")
    >>> applied(base, merge(base, [one, two], place / "m.safetensors", "max"))["w"]
    tensor([1., 3., 2.])
    """
    held = [d if isinstance(d, Delta) else Delta(d) for d in deltas]
    factors = _factors(how, len(held), weights, scale, share)
    old = weights_of(base)
    for delta in held:
        delta.refuse_other(old)
        if odd := next((n for n in delta.base if delta.base[n] != held[0].base[n]), None):
            raise BadData(
                f"{held[0].path} and {delta.path} were made of different bases, which differ at {odd}: {SAME}"
            )
    merged = _Merged(old, held, how, factors, scale, share)
    return write_delta(old, merged, out, lambda name: held[0].checked(old, name))


SAME = "only deltas of one base can be merged"


class _Merged(Weights):
    """The base with the merged move, tensor by tensor."""

    def __init__(self, old: Weights, deltas: list[Delta], how: How, factors: list[float], scale: float, share: float):
        self.old, self.deltas, self.how, self.factors, self.scale = old, deltas, how, factors, scale
        kinds = dict(old.kinds)
        self.taken: dict[str, Delta] = {}  # new tensors, and those of another kind: whose they are
        for name in sorted({n for d in deltas for n in d.changes}):
            self._know(name, kinds)
        super().__init__("the merged model", kinds, self._made)
        self.least = [self._least(d, share) if how == "ties" else 0.0 for d in deltas]

    def _know(self, name: str, kinds: dict[str, Kind]) -> None:
        """Say of which kind a tensor is that some deltas change."""
        told = {d: d.changes[name] for d in self.deltas if name in d.changes}
        gone = [d for d, change in told.items() if change.form == "gone"]
        other = [d for d, change in told.items() if d not in gone and change.kind != self.old.kinds.get(name)]
        if not gone and not other:
            return
        if len({(change.form == "gone", change.sha256) for change in told.values()}) > 1:
            raise BadData(
                f"{name} is new, gone or of another shape in {(gone + other)[0].path}, and otherwise in another delta: merge "
                "the deltas of backbones alone, or of heads that have the same classes"
            )
        if gone:
            del kinds[name]
        else:
            kinds[name], self.taken[name] = told[other[0]].kind, other[0]

    def _made(self, name: str) -> Tensor:
        if name in self.taken:
            return self.taken[name].tensor(name, None)
        base = self.old[name]
        here = [t for t, delta in enumerate(self.deltas) if name in delta.changes]
        if not here:
            return base
        flat = base.contiguous().reshape(-1)
        found = [_entries(self.deltas[t], name, base) for t in here]
        places = torch.unique(torch.cat([index for index, _ in found]))
        then = flat[places]
        wide = torch.float64 if not base.is_complex() else torch.complex128
        moves = then.new_zeros((len(found), len(places)), dtype=wide)
        values = then.expand(len(found), -1).clone()
        for row, (index, value) in enumerate(found):
            at = torch.searchsorted(places, index)
            values[row, at] = value
            moves[row, at] = value.to(wide) - then[at].to(wide)
        made = flat.clone()
        made[places] = self._merged(then, moves, values, here)
        return made.view(base.shape)

    def _merged(self, then: Tensor, moves: Tensor, values: Tensor, here: list[int]) -> Tensor:
        """New values of the entries that some delta moves, (entries,)."""
        if not then.is_floating_point():
            return _largest(moves, values)
        factors = torch.tensor([self.factors[t] for t in here], dtype=moves.dtype)[:, None]
        counted = torch.stack([bits(v) != bits(then) for v in values])
        match self.how:
            case "max":
                winner = _largest(moves, values)
                if self.scale == 1:
                    return winner
                total, exact = winner.double() - then.double(), torch.zeros_like(counted)
            case "ties":
                least = torch.tensor([self.least[t] for t in here], dtype=moves.dtype)[:, None]
                kept = torch.where(counted & (moves.abs() >= least), moves, 0.0)
                agree = (kept.sign() == _sum(kept).sign()) & (kept != 0)
                total = _sum(torch.where(agree, moves, 0.0)) / agree.sum(0).clamp_min(1)
                exact = agree & (agree.sum(0) == 1) & (self.scale == 1)
            case _:
                total, exact = _sum(moves * factors), counted & (counted.sum(0) == 1) & (factors * self.scale == 1)
        made = (then.double() + self.scale * total).to(then.dtype)
        kept = torch.where(total == 0, bits(then), bits(made))  # by bits: small types cannot be chosen from otherwise
        return torch.where(exact.any(0), bits(_chosen(values, exact.int().argmax(0))), kept).view(then.dtype)

    def _least(self, delta: Delta, share: float) -> float:
        """The smallest absolute move of a delta that is not trimmed."""
        sizes = [torch.zeros(0)]
        for name, change in delta.changes.items():
            if change.form != "gone" and name not in self.taken and change.kind.dtype.is_floating_point:
                base = self.old[name]
                index, value = _entries(delta, name, base)
                sizes.append((value.double() - base.contiguous().reshape(-1)[index].double()).abs())
        every = torch.cat(sizes).double()
        keep = math.ceil(share * len(every))
        return every.kthvalue(len(every) - keep + 1).values.item() if keep else 0.0


def _factors(how: How, count: int, weights: Sequence[float] | None, scale: float, share: float) -> list[float]:
    """What each delta's moves are taken times.

    Raises:
        BadSetting: a setting is out of its range.
    """
    if how not in HOWS:
        raise BadSetting(f"how is one of {', '.join(HOWS)}, not {how!r}")
    if not count:
        raise BadSetting("merge needs at least one delta, not none")
    if weights is not None and how != "arithmetic":
        raise BadSetting(f'weights belong to how = "arithmetic", not to {how!r}: leave them out, or change how')
    if weights is not None and (len(weights) != count or not all(map(math.isfinite, weights))):
        raise BadSetting(f"weights are {count} finite numbers, one for each delta, not {list(weights)}")
    if not math.isfinite(scale):
        raise BadSetting(f"scale is a finite number, not {scale}")
    if not 0 < share <= 1:
        raise BadSetting(f"share is in (0, 1], not {share}")
    factors = [1.0] * count if weights is None else [float(w) for w in weights]
    return [w / count for w in factors] if how == "mean" else factors


def _entries(delta: Delta, name: str, base: Tensor) -> tuple[Tensor, Tensor]:
    """Places and new values of the entries that a delta moves; whole tensors are compared with the base."""
    if delta.changes[name].form == "entries":
        made = delta.tensor(name, base)  # which is checked
        index, _ = delta.entries(name)
    else:
        made = delta.tensor(name, None)
        index = (bits(made) != bits(base)).nonzero().view(-1)
    return index, made.contiguous().reshape(-1)[index]


def _sum(moves: Tensor) -> Tensor:
    """The sum over deltas, the same in whichever order they come."""
    return moves.sort(0).values.sum(0)


def _largest(moves: Tensor, values: Tensor) -> Tensor:
    """Of each entry the value whose move is largest; of two as large, the one upwards."""
    far = moves.abs()
    among = torch.where(far == far.max(0).values, moves.real if moves.is_complex() else moves, -torch.inf)
    return _chosen(values, among.argmax(0))


def _chosen(values: Tensor, row: Tensor) -> Tensor:
    """Of each column the value in its row."""
    return bits(values).view(values.shape).gather(0, row[None])[0].view(values.dtype)
