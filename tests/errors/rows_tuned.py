"""What SoTU, RLRR, OSFT and the proof of rest refuse."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from worlds import Net, Past, stream

from nacre.adapters import put_in_osf, put_in_rescaling
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting, BadStep, BadUse, NonFinite
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


def beside_rescaling(at: Place) -> None:
    with Drive(compose(OSFT(form="weights"), RLRR()), Net(), SGD, stream()[0].task):
        pass


def half_frozen() -> Net:
    net = Net()
    net.body[4].requires_grad_(False)
    return net


@torch.no_grad()
def not_finite() -> Net:
    net = Net()
    net.get_parameter("body.0.weight")[0, 0] = math.nan
    return net


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
        "OSFT decomposes linear layers below the head, and 'query' in target = 'query' names none that it can (no layer has "
        'that name): name others, unfreeze them, or set target = "all-linear"',
        lambda at: OSFT(target="query").begin_stage(Net(), stream()[0].task),
    ),
    Row(
        "one of several that cannot be decomposed",
        BadSetting,
        "OSFT decomposes linear layers below the head, and 'body.4' in target = 'body.0,body.4' names none that it can (body.4 "
        'is frozen): name others, unfreeze them, or set target = "all-linear"',
        lambda at: OSFT(target="body.0,body.4").begin_stage(half_frozen(), stream()[0].task),
    ),
    Row(
        "a minimum above the target",
        BadSetting,
        "OSFT protects least = 0.5 of a layer at importance 0, and rank = 0.1 at importance 1, so that important layers would "
        "protect less: set least to at most rank",
        lambda at: OSFT(by="importance", rank=0.1, least=0.5),
    ),
    Row(
        "a weight that is not finite",
        NonFinite,
        "body.0.weight, which OSFT is to decompose, has entries that are NaN or infinite: go back to a checkpoint from before, "
        "and lower the learning rate or clip gradients",
        lambda at: OSFT().begin_stage(not_finite(), stream()[0].task),
    ),
    Row(
        "a part that takes what is decomposed",
        BadUse,
        "OSFT is to keep moves of body.0.weight out of protected directions, and the optimizer does not hold it: give a part "
        "that takes its layer, such as TaskAdapters, RLRR or MIST, a stage of its own, and the optimizer all that trains",
        beside_rescaling,
    ),
    Row(
        "layers that the model does not call",
        BadSetting,
        "RLRR rescales what linear layers answer, and the model calls none that target = 'b' names: it reads the weight of b "
        "itself; name others, or let the model call them",
        lambda at: RLRR(target="b").begin_stage(Past(), stream()[0].task),
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
        "EWC treats body.0.weight as a whole, of which OSFT trains factors, so that it would not be heard: give it a "
        'stage of its own, or set form = "weights" if it lets no entries rest',
        beside_factors,
    ),
    Row(
        "a layer that cannot be decomposed",
        BadSetting,
        "1 is a ReLU, and only linear layers that answer as torch's own are decomposed: leave it out, or give the part that "
        "put it there a stage of its own",
        lambda at: put_in_osf(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), {"1": {}}),
    ),
]
