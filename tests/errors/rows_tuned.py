"""What SoTU, RLRR, OSFT and the proof of rest refuse."""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from worlds import Net, stream

from nacre.adapters import put_in_osf, put_in_rescaling
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting, BadStep, BadUse
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.methods import EWC, OSFT, RLRR, SoTU
from nacre.rules import Rest
from tests.errors.row import Place, Row
from tests.errors.rows_moves import in_parts
from tests.errors.rows_ranks import group, narrow

SGD = MadeOptimizer("sgd", 0.1)


def behind_the_rule(at: Place) -> None:
    net = Net()
    with Drive(Rest("head"), net, SGD, stream()[0].task), torch.no_grad():
        net.head.weight[0, 0] += 1.0
        net.head.bias += 1.0


def begun_in_parts(method: Method) -> None:
    with group():
        net = narrow()
        fully_shard(net.body)
        method.begin_stage(net, stream()[0].task)


def beside_factors(at: Place) -> None:
    with Drive(compose(EWC(), OSFT()), Net(), SGD, stream()[0].task):
        pass


TUNED = [
    Row(
        "rest that something breaks behind the rule",
        BadStep,
        "1 entries of head.weight moved that were asked to rest at every step of task 0, stage 0, and so did some of 1 more "
        "tensors: something writes to weights behind the rule, such as another optimizer, a hook of a module or the loop "
        "itself; take it out, or set verify_rest to false if it is meant to",
        behind_the_rule,
    ),
    Row(
        "a merge of weights in parts",
        BadSetting,
        "SoTU merges whole weights, and each rank holds a part of …: train without fully_shard",
        lambda at: in_parts(SoTU()),
    ),
    Row(
        "a task that is to be taken out of a sum",
        BadSetting,
        'SoTU with how = "random" adds up ways that share entries, and keeps their sum alone: only with how = "partition" can '
        "a task be taken out again",
        lambda at: SoTU().unmerge(nn.Linear(2, 2), 0),
    ),
    Row(
        "nothing to rescale",
        BadSetting,
        "RLRR rescales linear layers below the head, and target = 'query' names none that is one of torch's own: name others, "
        'or set target = "all-linear"',
        lambda at: RLRR(target="query").begin_stage(Net(), stream()[0].task),
    ),
    Row(
        "weights in parts that are to be rescaled",
        BadSetting,
        "of … each rank holds a part, and RLRR rescales whole weights: train without fully_shard",
        lambda at: begun_in_parts(RLRR()),
    ),
    Row(
        "a layer that vectors cannot rescale",
        BadSetting,
        "1 is a ReLU, and only plain linear layers can be rescaled by vectors: leave it out",
        lambda at: put_in_rescaling(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ["1"]),
    ),
    Row(
        "nothing to decompose",
        BadSetting,
        "OSFT decomposes linear layers below the head, and target = 'query' names none that is one of torch's own and trains: "
        'name others, unfreeze them, or set target = "all-linear"',
        lambda at: OSFT(target="query").begin_stage(Net(), stream()[0].task),
    ),
    Row(
        "weights in parts that are to be decomposed",
        BadSetting,
        "of … each rank holds a part, and OSFT decomposes whole weights: train without fully_shard",
        lambda at: begun_in_parts(OSFT()),
    ),
    Row(
        "a part that remembers weights beside factors of them",
        BadUse,
        "EWC treats body.0.weight as a whole, of which OSFT trains factors, so that it would not be heard: set form = "
        '"weights"',
        beside_factors,
    ),
    Row(
        "a layer that cannot be decomposed",
        BadSetting,
        "1 is a ReLU, and only the weights of plain linear layers are decomposed: leave it out",
        lambda at: put_in_osf(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"1": {}}),
    ),
]
