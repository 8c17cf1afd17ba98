"""MIST: its loss, its scores, its choice, and that nothing else moves."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from worlds import Net, noise, stream

from nacre.core.dice import dice, keep
from nacre.core.drive import Drive
from nacre.core.method import Method
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.importance import top_share
from nacre.learner import Learner, Stage
from nacre.losses import supervised_info_nce
from nacre.methods import MIST

SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})


def reference(z, y, pair, temperature, eps):
    """The published form: exponentials shifted by the row's maximum, eps inside, the diagonal counted as a positive."""
    z = F.normalize(z, dim=1)
    s = z @ z.T
    e = torch.exp((s - s.max(1, keepdim=True).values) / temperature) * (1 - torch.eye(len(z), dtype=z.dtype))
    loss = -torch.log(e / (e.sum(1, keepdim=True) + eps) + eps)
    same = (y[:, None] == y).double()
    views = loss[torch.arange(len(z)), pair]
    return (views + 2 * (loss * same).sum(1) / same.sum(1)).mean()


def test_the_loss_is_the_published_one_without_its_epsilons():
    z = torch.randn(12, 5, generator=dice("z"), dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 2, 0, 1, 2] * 2)
    pair = (torch.arange(12) + 6) % 12
    ours = supervised_info_nce(z, y, pair, 0.5)
    eps = 1e-30
    theirs = reference(z, y, pair, 0.5, eps)
    diagonal = 2 * -torch.log(torch.tensor(eps)) / 4  # a constant: of four positives one is the row itself
    assert abs(ours - (theirs - diagonal)) < 1e-5
    (a,), (b,) = torch.autograd.grad(ours, z), torch.autograd.grad(theirs, z)
    assert (a - b).abs().max() < 1e-9


def test_the_loss_of_two_rows_and_their_views_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    value = supervised_info_nce(z, torch.tensor([0, 1, 0, 1]), torch.tensor([2, 3, 0, 1]), 1.0)
    own = -torch.log(torch.tensor(2.718281828) / (2.718281828 + 2))  # one row at cosine 1, two at 0
    assert value.item() == pytest.approx((own + 2 * own / 2).item(), rel=1e-6)
    longer = supervised_info_nce(z * 7, torch.tensor([0, 1, 0, 1]), torch.tensor([2, 3, 0, 1]), 1.0)
    assert longer == pytest.approx(value.item())


def steps(method, net: Net, count: int = 5, make=SGD, task: int = 0):
    """A few steps on a task; the weights before and after."""
    grow(net, 2 * task + 2)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    with Drive(method, net, make, stream()[task].task, augment=noise, seed=0) as drive:
        for batch in list(drive.batches(epoch=0, size=8))[:count]:
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
    return before, {n: p.detach().clone() for n, p in net.named_parameters()}


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_exactly_the_chosen_share_of_each_tensor_may_move(drop):
    mist = MIST(width=8, select=0.1, drop=drop, batch=16)
    before, after = steps(mist, Net(dropout=0.0), count=1)
    assert set(mist.chosen) == {"body.0.weight", "body.4.weight"}, "biases, norms and the head are free"
    for n, chosen in mist.chosen.items():
        assert chosen.sum() == round(0.1 * chosen.numel())
        moved = before[n] != after[n]
        places = chosen.flatten().nonzero().flatten()
        expected = chosen
        if drop:
            expected = torch.zeros_like(chosen)
            expected.view(-1)[places[keep(0.5, len(places), "cpu", 0, 1, 0, n)]] = True
        assert torch.equal(moved, expected & moved) and moved.sum() >= 0.9 * expected.sum()


def test_the_choice_is_the_highest_squared_gradients_of_the_stages_own_loss():
    net, mist = Net(dropout=0.0), MIST(objective_of="stage", select=0.25, batch=10, seed=4)
    grow(net, 2)
    task = stream()[0].task
    with Drive(mist, net, SGD, task, seed=0):
        pass
    total = torch.zeros_like(net.body[0].weight)
    order = torch.randperm(len(task.train), generator=dice(4, 0, "scores"))
    net = Net(dropout=0.0).eval()
    grow(net, 2)
    for index in order.split(10):
        batch = task.train.take(index)
        loss = F.cross_entropy(net(batch.x).logits, batch.y)
        total += torch.autograd.grad(loss, net.body[0].weight)[0] ** 2
    assert torch.equal(mist.chosen["body.0.weight"], top_share(total, 0.25))


def test_the_choice_does_not_depend_on_the_scale_of_the_loss():
    class Scaled(MIST):
        def objective(self, model, batch, out):
            return 1024 * super().objective(model, batch, out)

    picks = []
    for kind in (MIST, Scaled):
        mist = kind(width=8, batch=16)
        steps(mist, Net(dropout=0.0), count=0)
        picks.append(mist.chosen)
    assert all(torch.equal(picks[0][n], picks[1][n]) for n in picks[0])


def test_all_selected_and_nothing_dropped_is_plain_training_on_the_same_loss_bit_for_bit():
    class Plain(MIST):
        """The same loss, without any control of the moves."""

        def resting(self, site):
            return {}

        def shape_weights(self, new, old, site):
            return new

    ends = [
        steps(kind(width=8, batch=16, select=1.0, drop=0.0, fade=1.0, protect=0.0), Net())[1] for kind in (MIST, Plain)
    ]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_off_is_fine_tuning_bit_for_bit():
    def end(method):
        learner = Learner(Net(), (Stage(method, SGD, batch_size=8, augment=noise),))
        list(learner.learn(stream()))
        return learner.model.state_dict()

    plain, off = end(Method()), end(MIST(**MIST.off))
    assert all(torch.equal(plain[n], off[n]) for n in plain)


def test_at_drop_one_the_backbone_rests_wholly():
    mist = MIST(width=8, drop=1.0, batch=16)
    before, after = steps(mist, Net())
    assert all(torch.equal(before[n], after[n]) for n in mist.chosen)


def test_protected_entries_rest_for_ever():
    mist, net = MIST(width=8, select=0.5, drop=0.0, protect=0.05, batch=16), Net()
    steps(mist, net)
    held = {n: (m.clone(), dict(net.named_parameters())[n].detach().clone()) for n, m in mist.spared.items()}
    for task in (1, 2):
        _, after = steps(mist, net, task=task)
        for n, (mask, then) in held.items():
            assert mask.any() and torch.equal(after[n][mask], then[mask]) and not torch.equal(after[n], then)


def test_moves_fade_with_each_earlier_task_that_chose_the_entry():
    """One plain SGD step from the same place: the move is fade^uses of the full one."""
    moves = {}
    for fade in (1.0, 0.5):
        mist, net = MIST(width=8, select=1.0, drop=0.0, protect=0.0, fade=fade, batch=16), Net(dropout=0.0)
        grow(net, 2)
        for task in (0, 1):
            with Drive(mist, net, None, stream()[task].task, augment=noise, seed=0):
                pass
        assert all((uses == 2).all() for uses in mist.uses.values())
        before, after = steps(mist, net, count=1, make=MadeOptimizer("sgd", 0.1), task=2)
        moves[fade] = {n: after[n] - before[n] for n in mist.chosen}
    for n in moves[1.0]:
        assert torch.allclose(moves[0.5][n], 0.25 * moves[1.0][n], atol=1e-6) and moves[1.0][n].norm() > 0


def test_each_tasks_choice_is_counted_entry_by_entry_and_spares_what_is_protected():
    mist, net = MIST(width=8, select=0.25, drop=0.0, protect=0.1, batch=16), Net(dropout=0.0)
    counts = {}
    for task in (0, 1, 2):
        held = {n: m.clone() for n, m in mist.spared.items()}
        steps(mist, net, task=task)
        for n, chosen in mist.chosen.items():
            counts[n] = counts.get(n, 0) + chosen.int()
            assert torch.equal(mist.uses[n].int(), counts[n]) and chosen.sum() == round(0.25 * chosen.numel())
            assert not (chosen & held[n]).any() if task else not held
    assert all(sorted(set(c.flatten().tolist()))[:2] == [0, 1] for c in counts.values())


def test_rescaled_moves_have_the_mean_of_undropped_ones():
    def move(drop: float, seed: int) -> torch.Tensor:
        all_of_it = {"select": 1.0, "fade": 1.0, "protect": 0.0, "objective_of": "stage"}
        mist = MIST(drop=drop, rescale=True, batch=40, seed=seed, **all_of_it)
        before, after = steps(mist, Net(dropout=0.0), count=1, make=MadeOptimizer("sgd", 0.1))
        return after["body.0.weight"] - before["body.0.weight"]

    full = move(0.0, 0)
    mean = torch.stack([move(0.5, seed) for seed in range(60)]).mean(0)
    slope = (mean * full).sum() / full.square().sum()
    assert slope.item() == pytest.approx(1.0, abs=0.05)


def test_the_projection_is_a_part_that_learns_and_never_the_models():
    mist, net = MIST(width=8, batch=16), Net()
    keys = set(net.state_dict())
    grow(net, 2)
    drive = Drive(mist, net, SGD, stream()[0].task, augment=noise, seed=0)
    with drive:
        assert "parts.MIST.projection.weight" in drive.site.params
        before = mist.parts["projection"].weight.detach().clone()
        for batch in drive.batches(epoch=0, size=8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
    assert not torch.equal(mist.parts["projection"].weight, before) and set(net.state_dict()) == keys


def test_equal_views_are_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        learner = Learner(Net(dropout=0.0), (Stage(MIST(width=8, batch=16), SGD, batch_size=8),))
        next(learner.learn(stream()))
    assert "both are equal" in caplog.text


def test_top_share_is_exact_with_ties_and_on_large_tensors():
    scores = torch.zeros(1000)
    scores[100:110] = 1.0
    assert top_share(scores, 0.05).nonzero().flatten().tolist() == [*range(40), *range(100, 110)]
    large = torch.rand(5000, 4000, generator=dice("large"))  # torch.quantile refuses more than 16 million
    assert top_share(large, 0.1).sum() == 2_000_000
    assert top_share(torch.ones(3), 0.0, least=0).sum() == 0


def test_the_control_by_chance_chooses_as_many_and_others_on_each_task():
    net, scored = Net(), Net()
    chance, by_gradients = (MIST(select=0.25, drop=0.0, batch=16, width=8, by=by) for by in ("chance", "gradients"))
    steps(chance, net)
    steps(by_gradients, scored)
    first = {n: m.clone() for n, m in chance.chosen.items()}
    assert first.keys() == by_gradients.chosen.keys()
    for n, mask in first.items():
        assert mask.sum() == by_gradients.chosen[n].sum() == round(0.25 * mask.numel())
    assert any(not torch.equal(m, by_gradients.chosen[n]) for n, m in first.items())
    steps(chance, net, task=1)
    assert any(not torch.equal(m, chance.chosen[n][: len(m)]) for n, m in first.items())
