"""Several processes that learn one model together: what they sum, gather and agree on.

Each process (rank) holds the whole model and all that the methods have learned, and works on its own part of the rows; what
is summed or gathered here reads the same on every rank, bit for bit. In one process, and inside `apart()`, every function
answers at once and for one rank.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from hashlib import blake2b
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .errors import BadSetting, LostRank
from .packed import packed, unpacked

_BUCKET = 1 << 22  # entries that travel at once
_INTS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # integers as wide as an entry, by its bytes
_apart = 0  # how many `apart()` blocks we are inside


def world() -> int:
    """How many ranks work together; 1 without an initialised process group."""
    return dist.get_world_size() if not _apart and grouped() else 1


def grouped() -> bool:
    """Whether this process belongs to a group at all, inside `apart()` too."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Which of them this process is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def first() -> bool:
    """Whether this process is the one that writes, prints and decides what must be decided once."""
    return rank() == 0


@contextmanager
def apart() -> Iterator[None]:
    """Inside, this process works alone: for runs of their own in a group that was made for something else."""
    global _apart
    _apart += 1
    try:
        yield
    finally:
        _apart -= 1


@contextmanager
def joined(minutes: float = 30.0) -> Iterator[None]:
    """Inside, the processes that a launcher started (`torchrun` and others) work together.

    Does nothing where the launcher's variables RANK and WORLD_SIZE are not set, or a group is there already. The group
    speaks Gloo, and NCCL among GPUs where there is one for each process of the machine.

    Args:
        minutes: How long a rank waits for the others before it gives up.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ
    if alone or not dist.is_available() or grouped():
        yield
        return
    here = int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    each = 0 < int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"])) <= gpus
    if each:
        torch.cuda.set_device(here)
    dist.init_process_group("cpu:gloo,cuda:nccl" if each else "gloo", timeout=timedelta(minutes=minutes))
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_device(kind: str) -> torch.device:
    """The device of this rank among those of a kind: one GPU for each process of a machine.

    Raises:
        BadSetting: the machine has fewer GPUs than processes.
    """
    if kind != "cuda" or world() == 1:
        return torch.device(kind)
    here = int(os.environ.get("LOCAL_RANK", rank()))
    if here >= torch.cuda.device_count():
        raise BadSetting(
            f"process {here} of this machine finds only {torch.cuda.device_count()} GPUs: start one process for each GPU, or "
            'set device = "cpu"'
        )
    return torch.device("cuda", here)


def share_of(order: Tensor) -> Tensor:
    """This rank's part of some positions, (rows,); the ranks' parts together are all of them."""
    return order[rank() :: world()]


def total(tensors: Sequence[Tensor]) -> None:
    """Sum each tensor over the ranks, in place; every rank gives the same shapes in the same order."""
    if world() > 1:
        _in_buckets(tensors, lambda flat: dist.all_reduce(flat, async_op=True))


def broadcast(tensors: Sequence[Tensor]) -> None:
    """Make each tensor what it is on rank 0, in place."""
    if world() > 1:
        _in_buckets(tensors, lambda flat: dist.broadcast(flat.view(torch.uint8), src=0, async_op=True))


@torch.no_grad()
def gathered(tree: Any, device: torch.device | str = "cpu") -> list[Any]:
    """Every rank's tree, in the order of the ranks; they may differ in structure, shapes and types.

    Args:
        tree: Tensors, numbers, strings, None, and lists, tuples or dicts of these.
        device: Where it had best travel, the same kind on all ranks.
    """
    if world() == 1:
        return [tree]
    payload, text = packed(tree, _road(device))
    sizes: list[list[int]] = [
        t.tolist() for t in _from_all(payload.new_tensor([text, len(payload)], dtype=torch.int64))
    ]
    room = max(size for _, size in sizes)
    everything = _from_all(torch.nn.functional.pad(payload, (0, room - len(payload))))
    return [unpacked(held, text) for held, (text, _) in zip(everything, sizes, strict=True)]


def in_turn(pieces: list[Any], device: torch.device | str = "cpu") -> list[Any]:
    """What the ranks made of their `share_of` something, in the order of the whole."""
    turns = zip_longest(*gathered([[piece] for piece in pieces], device))
    return [piece[0] for turn in turns for piece in turn if piece is not None]


def told(value: Any) -> Any:
    """What rank 0 says, on every rank."""
    return gathered(value if first() else None)[0]


def wait() -> None:
    """Go on when all ranks are here."""
    gathered(None)


def differing(tree: Any) -> list[str]:
    """The paths of a tree at which the ranks do not hold the same bits; empty in one process."""
    if world() == 1:
        return []
    leaves = dict(_leaves(tree, ""))
    sums = [_digest(value) for value in leaves.values()]
    held = gathered({"paths": "\n".join(leaves), "sums": torch.stack([s.cpu() for s in sums]) if sums else None})
    mine = held[rank()]
    if any(other["paths"] != mine["paths"] for other in held):
        known = [set(other["paths"].split("\n")) for other in held]
        return sorted(set.union(*known) - set.intersection(*known)) or ["the order of what is kept"]
    if not sums:
        return []
    together = torch.stack([other["sums"] for other in held])
    return [path for path, same in zip(leaves, (together == together[0]).all(0).tolist(), strict=True) if not same]


def _from_all(t: Tensor) -> list[Tensor]:
    """A tensor of every rank, all of one shape."""
    found = [torch.empty_like(t) for _ in range(world())]
    with _waiting():
        dist.all_gather(found, t)
    return found


def _road(asked: torch.device | str) -> torch.device:
    """Where what travels lies: as asked, as far as the group speaks it."""
    spoken = dist.get_backend_config()  # such as "cpu:gloo,cuda:nccl"
    if "nccl" in spoken and (torch.device(asked).type == "cuda" or "gloo" not in spoken):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


@contextmanager
def _waiting() -> Iterator[None]:
    """A rank that another one left waiting says so."""
    try:
        yield
    except RuntimeError as error:
        raise LostRank(
            f"rank {rank()} of {world()} waited for the others in vain: one of them failed, ended, or did something else; its "
            f"own message says why ({str(error).splitlines()[0][:200]})"
        ) from error


def _in_buckets(tensors: Sequence[Tensor], send: Any) -> None:
    """Let tensors travel, small ones together; large ones travel as they lie."""
    going: list[tuple[list[Tensor], Tensor, Any]] = []
    with _waiting(), torch.no_grad():
        for held in _buckets(tensors):
            whole = len(held) == 1 and held[0].is_contiguous()
            flat = held[0].detach().view(-1) if whole else torch.cat([t.detach().reshape(-1) for t in held])
            going.append(([] if whole else held, flat, send(flat)))
        for held, flat, work in going:
            work.wait()
            for t, piece in zip(held, flat.split([t.numel() for t in held]) if held else (), strict=True):
                t.detach().copy_(piece.view(t.shape))


def _buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Tensors of one dtype and device together, up to a size; in an order that only depends on what is given."""
    found: list[list[Tensor]] = []
    last: dict[tuple[torch.dtype, torch.device], tuple[list[Tensor], int]] = {}
    for t in tensors:
        if not t.numel():
            continue
        held, size = last.get((t.dtype, t.device), ([], _BUCKET))
        if size + t.numel() > _BUCKET:
            held, size = [], 0
            found.append(held)
        held.append(t)
        last[t.dtype, t.device] = held, size + t.numel()
    return found


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for k, v in value.items():
            yield from _leaves(v, f"{path}.{k}" if path else str(k))
    elif isinstance(value, (list, tuple)) and any(isinstance(v, (Tensor, dict)) for v in value):
        for i, v in enumerate(value):
            yield from _leaves(v, f"{path}[{i}]")
    else:
        yield path, value


def _digest(value: Any) -> Tensor:
    """A number that almost surely differs where the bits do: the wrapped sum of the bits, read as integers."""
    if isinstance(value, Tensor):
        flat = value.detach().reshape(-1).contiguous()
        if flat.is_complex():
            flat = torch.view_as_real(flat).reshape(-1)
        return flat.view(_INTS[flat.element_size()]).sum(dtype=torch.int64) + 31 * len(flat)
    return torch.tensor(int.from_bytes(blake2b(repr(value).encode(), digest_size=7).digest(), "big"))
