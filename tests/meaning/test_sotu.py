"""SoTU: thinned ways from the first weights add up; the laws of their cosine, order and partition."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from worlds import Net, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.methods import SimpleCIL, SoTU
from nacre.metrics import Motion

SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9})
SIZE = 200


def wide() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential()
    net.add_module("body", nn.Linear(SIZE, SIZE, bias=False))
    net.add_module("head", nn.Linear(SIZE, 2))
    return net


def tuned_by_hand(method: SoTU, ways: dict[int, torch.Tensor]) -> nn.Module:
    """The method on a model whose stages move the weights by these ways."""
    net = wide()
    for task, way in ways.items():
        method.begin_stage(net, Task(task))
        with torch.no_grad():
            net.body.weight += way
            net.head.weight += 1.0
        method.end_stage(net, Task(task))
    return net


def ways(count: int, alike: float = 0.0) -> dict[int, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    common = torch.randn(SIZE, SIZE, generator=draw)
    return {t: alike * common + torch.randn(SIZE, SIZE, generator=draw) for t in range(count)}


def learned(method: Method, tasks: int) -> nn.Module:
    net = Net(dropout=0.0)
    for met in stream()[:tasks]:
        with Drive(method, net, SGD, met.task, seed=0) as drive:
            for batch in drive.batches(0, 8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
    return net


def test_nothing_dropped_one_task_is_fine_tuning_bit_for_bit():
    plain, ours = learned(Method(), 1), learned(SoTU(drop=0.0), 1)
    for name, p in plain.named_parameters():
        assert torch.equal(p, dict(ours.named_parameters())[name]), name


def test_all_dropped_is_the_first_model_below_the_head_buffers_too():
    first, ours = Net(dropout=0.0), learned(SoTU(drop=1.0), 3)
    body = {n: t for n, t in ours.state_dict().items() if n.startswith("body") and t.is_floating_point()}
    assert any("running_mean" in n for n in body)
    assert all(torch.equal(t, first.state_dict()[n]) for n, t in body.items())
    assert ours.head.weight.abs().sum() > 0


def test_a_host_behind_it_answers_then_as_on_a_frozen_backbone():
    answers, batch = [], stream()[2].tests["task2"].take(torch.arange(100))
    for before in ((), (Stage(SoTU(drop=1.0), SGD, batch_size=8),)):
        learner = Learner(Net(dropout=0.0), (*before, Stage(SimpleCIL())))
        list(learner.learn(stream()))
        answers.append(learner.predict(batch))
    assert torch.equal(*answers) and answers[0].shape == (100, 6)


def test_each_task_is_tuned_from_the_first_weights_and_the_sum_is_the_formula():
    method, moves = SoTU(drop=0.6), ways(3)
    net, first = tuned_by_hand(method, moves), wide()
    expected = first.body.weight.detach().double()
    for task, way in moves.items():
        tuned = (first.body.weight.detach() + way).double() - first.body.weight.detach().double()
        expected += method.kept("body.weight", task, way) * tuned
    torch.testing.assert_close(net.body.weight.detach().double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(net.head.weight, first.head.weight + 1 + 1 + 1), "heads go on and are not merged"


def test_dice_keep_the_share_anew_for_each_task_and_again_the_same():
    method, like = SoTU(drop=0.9), torch.empty(SIZE, SIZE)
    masks = [method.kept("body.weight", t, like) for t in range(2)]
    assert all(abs(m.float().mean() - 0.1) < 0.006 for m in masks)
    assert abs((masks[0] & masks[1]).float().mean() - 0.01) < 0.002, "apart"
    assert torch.equal(masks[0], SoTU(drop=0.9).kept("body.weight", 0, like))
    assert not torch.equal(masks[0], method.kept("other.weight", 0, like))


@pytest.mark.parametrize("drop", [0.1, 0.7, 0.9])
def test_cosine_law_and_collisions(drop):
    method, moves = SoTU(drop=drop), ways(5, alike=1.2)
    masks = {t: method.kept("body.weight", t, w) for t, w in moves.items()}
    one, two = (moves[t] * masks[t] for t in (0, 1))

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item()

    assert cosine(one, two) == pytest.approx((1 - drop) * cosine(moves[0], moves[1]), abs=3 / SIZE)
    shared = (sum(m.int() for m in masks.values()) >= 2).double().mean().item()
    expected = 1 - drop**5 - 5 * (1 - drop) * drop**4
    assert shared == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected)) / SIZE + 1e-4)


def test_the_order_does_not_matter_but_for_rounding():
    moves = ways(3)
    one = tuned_by_hand(SoTU(drop=0.3), moves)
    other = tuned_by_hand(SoTU(drop=0.3), dict(reversed(moves.items())))
    torch.testing.assert_close(one.body.weight, other.body.weight, rtol=1e-5, atol=1e-5)


def test_shared_out_entries_are_orthogonal_and_a_task_is_taken_out_bit_for_bit():
    moves = ways(4)
    method = SoTU(how="partition", tasks=4)
    net = tuned_by_hand(method, moves)
    masks = torch.stack([method.kept("body.weight", t, w) for t, w in moves.items()])
    assert torch.equal(masks.int().sum(0), torch.ones(SIZE, SIZE, dtype=torch.int)), "each entry has one task"
    assert all(abs(m.float().mean() - 0.25) < 0.01 for m in masks)
    backwards = tuned_by_hand(SoTU(how="partition", tasks=4), dict(reversed(moves.items())))
    assert torch.equal(net.body.weight, backwards.body.weight)
    method.unmerge(net, 2)
    without = tuned_by_hand(SoTU(how="partition", tasks=4), {t: w for t, w in moves.items() if t != 2})
    assert torch.equal(net.body.weight, without.body.weight)
    with pytest.raises(BadSetting, match="taken out again"):
        SoTU().unmerge(net, 0)


def test_rescaled_ways_have_the_mean_of_whole_ones():
    way = torch.ones(SIZE, SIZE)
    net = tuned_by_hand(SoTU(drop=0.75, rescale=True), {0: way})
    far = net.body.weight.detach() - wide().body.weight.detach()
    assert far.mean().item() == pytest.approx(1.0, abs=0.05) and far.max().item() == pytest.approx(4.0, abs=1e-4)


def test_a_host_reads_the_merged_model_and_a_record_sees_few_entries_moved():
    motion, net = Motion(), Net(dropout=0.0)
    stages = (Stage(SoTU(drop=0.9), SGD, batch_size=8), Stage(SimpleCIL()))
    learner = Learner(net, stages)
    motion.begin(net)
    list(learner.learn(stream()[:1]))
    moved = motion.since(net)["body.0.weight"]["moved"]
    assert 0.03 < moved < 0.2
