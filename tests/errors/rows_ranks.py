"""What is refused where several processes learn one model. The row's process stands for one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from worlds import Net, stream

from nacre.core import ranks, refusals, shards, spawn
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting, LostRank, RanksDiffer
from nacre.core.method import Method
from nacre.core.model import called, grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import attached
from nacre.core.snapshot import Snapshot
from nacre.experiment.trial import device_called
from tests.errors.row import Place, Row
from tests.ranks.sharded_jobs import Mixes


@contextmanager
def group() -> Iterator[None]:
    """This process alone in a group."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def first_of_two(at: Place) -> None:
    """As if this process were the first of two."""
    at.patch.setattr(ranks, "world", lambda: 2)
    at.patch.setattr(ranks, "rank", lambda: 0)


def differing(at: Place) -> None:
    """End a task with one weight of another value than on the other rank."""

    def gathered(tree: Any, device: Any = "cpu") -> list[Any]:
        other = tree["sums"].clone()
        other[0] += 1
        return [tree, {**tree, "sums": other}]

    drive = Drive(Method(), nn.Linear(8, 6), MadeOptimizer("sgd", 0.1), stream()[0].task)
    first_of_two(at)
    at.patch.setattr(ranks, "gathered", gathered)
    drive.world = 2
    drive._check_replicas()


def left_alone(at: Place) -> None:
    """Wait for a rank that has ended."""

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Connection closed by peer")

    first_of_two(at)
    at.patch.setattr(dist, "all_reduce", fails)
    ranks.total([torch.ones(2)])


def one_gpu(at: Place) -> Any:
    first_of_two(at)
    at.patch.setenv("LOCAL_RANK", "1")
    at.patch.setattr(torch.cuda, "device_count", lambda: 1)
    return ranks.own_device("cuda")


def shared_gpu(at: Place) -> Any:
    first_of_two(at)
    at.patch.setattr(torch.cuda, "device_count", lambda: 2)
    return device_called("cuda:1")


def launched(at: Place) -> None:
    at.patch.setenv("WORLD_SIZE", "2")
    at.command("run")


def answered(say: Callable[[Any], Any], seconds: float = 60.0) -> Any:
    """Hear what a process says."""
    hears, says = Pipe(duplex=False)
    say(says)
    return spawn._answers([hears], time.monotonic() + seconds)


def narrow() -> Net:
    net = Net()
    grow(net, 2)
    return net


def growth(at: Place) -> None:
    with group():
        grow(fully_shard(narrow()), 4)  # pyright: ignore[reportArgumentType]


def copied(at: Place) -> None:
    with group():
        Snapshot().take(fully_shard(narrow()))  # pyright: ignore[reportArgumentType]


def cut_otherwise(at: Place) -> None:
    with group():
        net = narrow()
        whole = net.body[4].weight.detach()
        net.body[4].weight = nn.Parameter(distribute_tensor(whole, init_device_mesh("cpu", (1,)), [Shard(1)]))
        shards.refuse_unknown_layout(net)


def mixed(at: Place) -> None:
    with group():
        net = narrow()
        fully_shard(net.body)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        with attached(Mixes(), optimizer, net):
            optimizer.step()


def ddp_inside(at: Place) -> None:
    with group():
        called(torch.compile(DistributedDataParallel(nn.Linear(2, 2))))  # pyright: ignore[reportArgumentType]


class FullyShardedDataParallel(nn.Module):
    """Keeps its model where the wrapper of that name does."""

    def __init__(self) -> None:
        super().__init__()
        self._fsdp_wrapped_module = nn.Linear(2, 2)


RANKS = [
    Row(
        "replicas that have come apart",
        RanksDiffer,
        "after task 0, stage 0, the ranks hold different model.weight: was something drawn, counted or learned from one "
        "rank's rows? What is learned in a step belongs in after_step, which hears the rows of all",
        differing,
    ),
    Row(
        "a rank that waits for one that has failed",
        LostRank,
        "rank 0 of 2 waited for the others in vain: one of them failed, ended, or did something else; its own message says "
        "why (Connection closed by peer)",
        left_alone,
    ),
    Row(
        "fewer GPUs than processes",
        BadSetting,
        'process 1 of this machine finds only 1 GPUs: start one process for each GPU, or set device = "cpu"',
        one_gpu,
    ),
    Row(
        "one GPU for several processes",
        BadSetting,
        '2 processes cannot share \'cuda:1\': set device = "cuda", one GPU for each, or "cpu"',
        shared_gpu,
    ),
    Row(
        "a comparison under a launcher",
        2,
        "a comparison runs its rows in processes of its own: start it without a launcher, or give one config",
        launched,
    ),
    Row(
        "norm layers that speak with other ranks",
        BadSetting,
        "0 is a SyncBatchNorm: leave the model's BatchNorm layers as they are; each rank normalises by its own rows, and "
        "their running statistics are kept equal",
        lambda at: refusals.check_layers(nn.Sequential(nn.SyncBatchNorm(4))),
    ),
    Row(
        "a wrapper that flattens the weights",
        BadSetting,
        "FullyShardedDataParallel keeps flat pieces of weights, which have no names: use its successor, "
        "torch.distributed.fsdp.fully_shard(model)",
        lambda at: called(FullyShardedDataParallel()),
    ),
    Row(
        "DDP inside torch.compile",
        BadSetting,
        "DDP inside torch.compile: wrap the other way, DDP(torch.compile(model)), or leave DDP out",
        ddp_inside,
    ),
    Row(
        "a head in parts that must grow",
        BadSetting,
        "the head 'head' must grow to 4 classes, but fully_shard cut it into parts: shard the body only, "
        "fully_shard(model.body), or make the head wide enough before",
        growth,
    ),
    Row(
        "a copy of a model in parts, as teachers and fresh starts are",
        BadSetting,
        "of body.0.weight each rank holds a part, and a copy of the model (a teacher, a fresh start) needs whole weights: "
        "train this method without fully_shard",
        copied,
    ),
    Row(
        "weights that are cut in another way",
        BadSetting,
        "body.4.weight lies on … as (Shard(dim=1),): weights in parts are understood where "
        "torch.distributed.fsdp.fully_shard cuts them once, over all ranks; use it alone, without tensor parallelism",
        cut_otherwise,
    ),
    Row(
        "a rule that mixes whole tensors with parts",
        BadSetting,
        "Mixes mixes whole tensors with weights of which each rank holds a part: read what is kept for each weight through "
        "nacre.core.state.grown(kept, weight), or train without fully_shard",
        mixed,
    ),
    Row(
        "a process of `in_ranks` that fails",
        LostRank,
        "rank 0 failed: mend what it said first\nTraceback …",
        lambda at: answered(lambda says: says.send((True, "Traceback (most recent call last): ..."))),
    ),
    Row(
        "a process of `in_ranks` that dies",
        LostRank,
        "rank 0 died without a word: was it killed, or out of memory?",
        lambda at: answered(lambda says: says.close()),
    ),
    Row(
        "processes of `in_ranks` that take too long",
        LostRank,
        "ranks [0] took too long and were ended: give more minutes",
        lambda at: answered(lambda says: None, 0.0),
    ),
]
