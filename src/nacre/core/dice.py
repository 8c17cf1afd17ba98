"""Counted dice: every draw is a pure function of a seed and a position.

Nothing in the package draws from a global generator, so a position in the stream is all the randomness that a checkpoint
has to hold, and reading (watch sets, predictions) disturbs nothing. Dropout and module initialisation are the only users of
the global generator; who runs them seeds it first, through `seed_global`.
"""

from __future__ import annotations

import hashlib
from functools import cache

import torch
from torch import Tensor

from .errors import BadSetting

_WEYL = -7046029254386353131  # odd constant 2^64 / golden ratio, as a signed 64-bit number
_ROUNDS = ((30, -4658895280553007687), (27, -7723592293110705685))  # shifts and factors of splitmix64


def mix(*parts: int | str) -> int:
    """One non-negative 56-bit seed out of several numbers or words, the same on every machine.

    >>> mix(0, "order") == mix(0, "order"), mix(0, "order") == mix(1, "order")
    (True, False)
    """
    plain = tuple(part if isinstance(part, str) else int(part) for part in parts)  # numpy's integers print otherwise
    return int.from_bytes(hashlib.blake2b(repr(plain).encode(), digest_size=7).digest(), "big")


def dice(*position: int | str) -> torch.Generator:
    """A fresh CPU generator for small draws (orders, rows, projections); made, used, dropped, never stored.

    >>> torch.randperm(4, generator=dice(0, "order")).tolist() == torch.randperm(4, generator=dice(0, "order")).tolist()
    True
    """
    return torch.Generator().manual_seed(mix(*position))


def keep(share: float, count: int, device: torch.device | str, *position: int | str) -> Tensor:
    """Choose each of `count` places with probability `share`, by an integer hash of the place.

    Four places share one 64-bit splitmix64 word, so `share` counts in steps of 1/65536. Integer arithmetic only: CPU and
    CUDA agree bit for bit.

    Args:
        share: Probability of True, in [0, 1].
        count: Number of places.
        device: Where the answer shall be.
        *position: Seed and place of the whole draw.

    Returns:
        A bool tensor of shape (count,).

    >>> keep(0.25, 40_000, "cpu", 0, "demo").sum().item()
    9886
    """
    if not 0.0 <= share <= 1.0:
        raise BadSetting(f"share is a probability in [0, 1], not {share}")
    lane = _lanes(count, device, *position)
    threshold = round(share * 65536) - 32768
    return lane < threshold if threshold < 32768 else torch.ones_like(lane, dtype=torch.bool)


def uniform(count: int, device: torch.device | str, *position: int | str) -> Tensor:
    """A draw from (0, 1) for each of `count` places, by the same hash of the place, in steps of 1/65536; float32, (count,).

    >>> round(uniform(40_000, "cpu", 0, "demo").mean().item(), 3)
    0.502
    """
    return _lanes(count, device, *position).float().add_(32768.5).div_(65536)


def _lanes(count: int, device: torch.device | str, *position: int | str) -> Tensor:
    """A number uniform in -32768 .. 32767 for each place; four places share a word."""
    word = torch.arange(-(-count // 4), device=device).mul_(_WEYL).add_(mix(*position))
    for shift, factor in _ROUNDS:
        word.bitwise_xor_(_logical_shift(word, shift)).mul_(factor)
    word.bitwise_xor_(_logical_shift(word, 31))
    return word.view(torch.int16)[:count]


def seed_global(*position: int | str) -> None:
    """Seed the global generators that dropout and module initialisation draw from.

    Of accelerators only those that are in use: `torch.manual_seed` notes the stack for each of the others, which takes longer
    than a step of a small model, and keeps the notes.
    """
    seed = mix(*position)
    torch.default_generator.manual_seed(seed)
    for kind in ("cuda", "xpu"):
        device = getattr(torch, kind)
        if device.is_initialized():
            device.manual_seed_all(seed)
    if _mps():
        torch.mps.manual_seed(seed)


@cache
def _mps() -> bool:
    return torch.backends.mps.is_available()


def _logical_shift(word: Tensor, by: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift of signed numbers fills with the sign."""
    return (word >> by).bitwise_and_((1 << (64 - by)) - 1)
