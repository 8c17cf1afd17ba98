"""What averages, stores, offsets and inserted norms are refused."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from worlds import stream

from nacre.adapters import insert_norms
from nacre.core.drive import Drive
from nacre.core.errors import BadModel, BadSetting
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.methods import ECO, EMA, ExtrapSGD
from tests.errors.row import Place, Row
from tests.errors.rows_ranks import group, narrow


def one_step(made: MadeOptimizer) -> None:
    with Drive(ECO(), narrow(), made, stream()[0].task) as drive:
        drive.loss(next(drive.batches(0, 8))).backward()
        drive.optimizer.step()


def in_parts(method: Method) -> None:
    with group():
        net = narrow()
        fully_shard(net.body)
        with Drive(method, net, MadeOptimizer("sgd", 0.1), stream()[0].task):
            pass


def recomputed() -> None:
    net = narrow()
    net.gradient_checkpointing = True  # pyright: ignore[reportArgumentType]  as models of transformers say it
    with Drive(ExtrapSGD(form="noise"), net, MadeOptimizer("sgd", 0.1), stream()[0].task) as drive:
        drive.loss(next(drive.batches(0, 8)))


def used_twice(at: Place) -> None:
    act = nn.Sequential(nn.ReLU())
    insert_norms(nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 4), act), learned=torch.zeros(1, 2))


MOVES = [
    Row(
        "rounding errors for an optimizer that ECO does not know",
        BadSetting,
        "ECO gives rounding errors to the momentum of torch's SGD, Adam and AdamW, and does not know where that of RMSprop is: "
        "take one of these, or the rule Quantise, which gives nothing back",
        lambda at: one_step(MadeOptimizer("rmsprop", 0.1)),
    ),
    Row(
        "rounding errors for an optimizer without momentum",
        BadSetting,
        "ECO gives rounding errors to the optimizer's momentum, and SGD has momentum = 0 for body.0.weight: set it, such as to "
        '0.9, or form = "exact", which stores the errors',
        lambda at: one_step(MadeOptimizer("sgd", 0.1)),
    ),
    Row(
        "an average of weights in parts",
        BadSetting,
        "of body.0.weight each rank holds a part, and an average of weights needs whole ones: train without fully_shard",
        lambda at: in_parts(EMA()),
    ),
    Row(
        "gradients away from weights in parts",
        BadSetting,
        "ExtrapSGD takes gradients away from the weights, and of these each rank holds a part: train without fully_shard",
        lambda at: in_parts(ExtrapSGD()),
    ),
    Row(
        "gradients away from weights with which activations are computed again",
        BadSetting,
        "gradients are taken away from the weights, and the backward pass of the model computes activations again, at the "
        "weights (Net.gradient_checkpointing): switch gradient checkpointing off, such as by gradient_checkpointing_disable()",
        lambda at: recomputed(),
    ),
    Row(
        "norms for a model whose nonlinearities are functions",
        BadModel,
        "insert_norms finds no nonlinearity in this Linear: one that is called as a function, such as F.relu, is not seen; "
        "make it a module, nn.ReLU()",
        lambda at: insert_norms(nn.Linear(2, 2)),
    ),
    Row(
        "a norm that learns at places of different widths",
        BadModel,
        "the nonlinearity '1.0' is used at 2 widths by these rows, so its norm cannot learn a scale: give each place a module "
        "of its own, or leave `learned` out",
        used_twice,
    ),
]
