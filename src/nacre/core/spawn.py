"""Runs a function in several processes of this machine that form a group, for tests and checks of how ranks work together."""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .errors import LostRank


def in_ranks(job: Callable[..., Any], *args: Any, ranks: int = 2, minutes: float = 10.0) -> list[Any]:
    """Call `job(*args)` in every one of several new processes that form a Gloo group on the CPU; what each returned.

    Each process has one thread. All of them are ended as soon as one fails.

    Args:
        job: A function at the top of a module that a new process can import.
        *args: Plain values, and what else may travel to a new process.
        ranks: How many processes.
        minutes: How long they may take, and wait for each other.

    Returns:
        The values by rank; plain ones, and what else may travel between processes.

    Raises:
        LostRank: a process failed, or they took too long; the message holds the first failure as it was printed.
    """
    context = get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        meeting = str(Path(folder) / "meeting")
        ends = [context.Pipe(duplex=False) for _ in range(ranks)]
        crew = [
            context.Process(target=_work, args=(rank, ranks, meeting, minutes, sends, job, args), daemon=True)
            for rank, (_, sends) in enumerate(ends)
        ]
        try:
            for process in crew:
                process.start()
            for _, sends in ends:
                sends.close()
            return _answers([receives for receives, _ in ends], time.monotonic() + 60 * minutes)
        finally:
            for process in crew:
                if process.is_alive() and process.exitcode is None:
                    process.join(10.0)  # whoever waits for one that has gone, notices
                    process.kill()
                process.join()


def _answers(ends: list[Any], deadline: float) -> list[Any]:
    """What each process sends, unless one of them fails."""
    found: dict[int, Any] = {}
    while len(found) < len(ends):
        waiting: list[Any] = [end for rank, end in enumerate(ends) if rank not in found]
        ready: list[Any] = wait(waiting, timeout=max(deadline - time.monotonic(), 0.0))
        if not ready:
            raise LostRank(
                f"ranks {[r for r in range(len(ends)) if r not in found]} took too long and were ended: give more minutes"
            )
        for end in ready:
            rank = ends.index(end)
            try:
                failed, value = end.recv()
            except EOFError:
                raise LostRank(f"rank {rank} died without a word: was it killed, or out of memory?") from None
            if failed:
                raise LostRank(f"rank {rank} failed: mend what it said first\n{value}")
            found[rank] = value
    return [found[rank] for rank in range(len(ends))]


def _work(
    rank: int, ranks: int, meeting: str, minutes: float, sends: Any, job: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)
    try:
        store = dist.FileStore(meeting, ranks)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=timedelta(minutes=minutes))
        value = job(*args)
        dist.barrier()
        dist.destroy_process_group()
        sends.send((False, value))
    except BaseException:
        sends.send((True, traceback.format_exc()))
    finally:
        sends.close()
