"""Scale, Drop and TrustRadius: what becomes of the moves that an optimizer made."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from worlds import Net, noise, stream

from nacre.core.dice import dice, keep
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import compose
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import Site, attached
from nacre.core.stream import Task
from nacre.learner import Learner, Listener, Stage
from nacre.memory import Reservoir
from nacre.methods import CLASSP, ER, MIST, SAGE, AdaRem, Multiplicative
from nacre.rules import Anchor, Drop, Project, Rest, Scale, TrustRadius
from nacre.rules.moves import follow, scale_moves
from nacre.rules.start import Start
from nacre.schedules import schedule

KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def model(dtype=torch.float32) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.4 * torch.randn(p.shape, generator=dice("w", i)))
    return net.to(dtype)


def walk(rule, kind, steps: int = 6, net=None, each=lambda before, now: None) -> dict[str, torch.Tensor]:
    net = net or model()
    made = KINDS[kind](net.parameters()) if isinstance(kind, str) else kind(net)
    x = torch.randn(16, 6, generator=dice("x"))
    with attached(rule, made, net):
        for k in range(steps):
            before = copy.deepcopy(net.state_dict())
            made.zero_grad()
            target = torch.randn(16, 3, generator=dice("y", k)).to(net[0].weight)
            (net(x.to(net[0].weight)) - target).square().mean().backward()
            made.step()
            each(before, net.state_dict())
    return net.state_dict()


def same(a, b, within: float = 0.0) -> bool:
    return all(torch.equal(a[n], b[n]) if not within else torch.allclose(a[n], b[n], atol=within) for n in a)


OFF = [
    *(
        Scale(factor=1.0),
        Drop(0.0),
        Drop(0.0, rescale=True),
        Anchor(0.0),
        Anchor(0.0, "loss"),
        TrustRadius(),
        Project(),
    ),
    *(AdaRem(strength=0.0), SAGE(match=None), Multiplicative(match=None), CLASSP(scaling=False)),
]


@pytest.mark.parametrize("kind", KINDS)
def test_switched_off_each_leaves_the_optimizer_alone_bit_for_bit(kind):
    plain = walk(Rest({}), kind)
    for rule in OFF:
        assert same(plain, walk(rule, kind)), rule


# ----------------------------------------------------------------------------------------------------------------- Scale


@pytest.mark.parametrize("kind", KINDS)
def test_a_scaled_group_learns_as_with_a_learning_rate_of_its_own(kind):
    """The slow learner: under Adam too, which divides a factor on gradients out."""

    def slow(net: nn.Sequential) -> torch.optim.Optimizer:
        groups = [{"params": net[0].parameters()}, {"params": net[2].parameters()}]
        made = KINDS[kind](groups)
        made.param_groups[0]["lr"] *= 0.01
        return made

    assert same(walk(slow_rule := Scale(r"^0\.", 0.01), kind), walk(Rest({}), slow), 1e-6)
    assert not same(walk(slow_rule, kind), walk(Rest({}), kind), 1e-4)


def test_factors_of_one_tensor_multiply_and_heads_are_left_out_by_default():
    twice = walk(compose(Scale(r"^0\.", 0.5), Scale("weight", 0.2)), "adamw", 1)
    once, plain, start = walk(Scale("weight", 0.1), "adamw", 1), walk(Rest({}), "adamw", 1), model().state_dict()
    assert torch.allclose(twice["0.weight"], once["0.weight"], atol=1e-7)
    assert torch.allclose(
        twice["2.weight"] - start["2.weight"], 0.2 * (plain["2.weight"] - start["2.weight"]), atol=1e-7
    )
    assert torch.equal(twice["2.bias"], plain["2.bias"])
    net = nn.ModuleDict({"body": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    before = copy.deepcopy(net.state_dict())
    made = torch.optim.SGD(net.parameters(), lr=0.1)
    with attached(Scale(factor=0.0), made, net):
        net["head"](net["body"](torch.ones(1, 2))).sum().backward()
        made.step()
    now = net.state_dict()
    assert (
        torch.equal(now["body.weight"], before["body.weight"]) and (now["head.weight"] != before["head.weight"]).any()
    )


def test_a_name_that_nothing_has_is_refused_with_names_that_are_there():
    for rule in (Scale("attn", 0.5), Drop(match="attn"), Anchor(match="attn"), TrustRadius(tensor=1.0, match="attn")):
        with pytest.raises(
            BadSetting, match=rf"{type(rule).__name__}\(.*'attn'\) finds no parameter.*0\.bias, 0\.weight"
        ):
            walk(rule, "sgd", 1)
    with pytest.raises(BadSetting, match="no regular expression"):
        walk(Scale("(", 0.5), "sgd", 1)


# ------------------------------------------------------------------------------------------------------------------ Drop


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_what_the_dice_say_rests_bit_for_bit_and_is_drawn_anew(kind):
    met = []

    def look(before, now):
        step = len(met)
        for n in ("0.weight", "2.weight"):
            rests = keep(0.6, before[n].numel(), "cpu", 5, "drop", step, n).view_as(before[n])
            assert torch.equal(before[n][rests], now[n][rests]) and (before[n] != now[n])[~rests].all()
            met.append(rests) if n == "0.weight" else None
        assert (before["0.bias"] != now["0.bias"]).all()

    walk(Drop(0.6, "weight", seed=5), kind, each=look)
    assert 0.5 < torch.stack(met).float().mean() < 0.7 and not torch.equal(met[0], met[1])


def test_the_place_in_the_stream_is_part_of_the_draw_and_resuming_repeats_it():
    held = dict(model().named_parameters())
    masks = {}
    for place in ((0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 1, 0)):
        index, stage, step = place
        site = Site(nn.Identity(), None, held, None, step, task=Task(index, None, stage=stage))
        masks[place] = Drop(match="").resting(site)["0.weight"]
        assert torch.equal(masks[place], copy.deepcopy(Drop(match="")).resting(site)["0.weight"])
    kept = list(masks.values())
    assert all(not torch.equal(kept[i], kept[j]) for i in range(4) for j in range(i))


def test_rescaled_moves_have_the_mean_of_undropped_ones():
    start, full = model().state_dict(), walk(Rest({}), "sgd", 1)
    draws = [walk(Drop(0.75, "", rescale=True, seed=s), "sgd", 1) for s in range(300)]
    for n in full:
        mean = torch.stack([d[n] for d in draws]).mean(0) - start[n]
        slope = (mean * (full[n] - start[n])).sum() / (full[n] - start[n]).square().sum()
        assert slope.item() == pytest.approx(1.0, abs=0.15)
    moved = (draws[0]["0.weight"] != start["0.weight"]).float().mean()
    assert 0.05 < moved < 0.5
    with pytest.raises(BadSetting, match="nothing can be rescaled"):
        Drop(1.0, rescale=True)


def test_at_share_1_nothing_moves_and_its_modules_stay_in_eval():
    net = Net(dropout=0.5)
    grow(net, 2)
    before = copy.deepcopy(net.state_dict())
    with Drive(Drop(1.0), net, MadeOptimizer("sgd", 0.1), stream()[0].task, seed=0) as drive:
        drive.loss(next(iter(drive.batches(epoch=0, size=8)))).backward()
        assert not net.body.training and net.head.training
        drive.optimizer.step()
        drive.stepped()
    now = net.state_dict()
    assert all(torch.equal(before[n], now[n]) for n in before if n.startswith("body"))
    assert (before["head.weight"] != now["head.weight"]).any()


# ----------------------------------------------------------------------------------------------------------- TrustRadius


def far(before, now) -> dict[str, torch.Tensor]:
    return {n: now[n].double() - before[n].double() for n in now}


@pytest.mark.parametrize("kind", KINDS)
def test_no_step_is_longer_than_the_radius_and_shorter_ones_keep_their_bits(kind):
    lengths, plain = [], model()
    walk(Rest({}), kind, net=plain, each=lambda b, n: lengths.append({k: m.norm() for k, m in far(b, n).items()}))
    radius = float(sorted(m for step in lengths for m in step.values())[len(lengths) * 2])
    met = []

    def look(before, now):
        met.append({k: float(m.norm()) for k, m in far(before, now).items()})

    walk(TrustRadius(tensor=radius), kind, each=look)
    assert max(v for step in met for v in step.values()) <= radius * (1 + 1e-5)
    assert sum(v > radius * (1 - 1e-5) for step in met for v in step.values()) >= 4, "it binds"
    first, bare = walk(TrustRadius(tensor=radius), kind, 1), walk(Rest({}), kind, 1)
    inside = [n for n, m in lengths[0].items() if m < radius]
    assert inside and all(torch.equal(first[n], bare[n]) for n in inside)
    start = model().state_dict()
    for n in set(bare) - set(inside):
        a, b = (w[n].double().flatten() - start[n].double().flatten() for w in (first, bare))
        assert torch.dot(a, b) / (a.norm() * b.norm()) > 1 - 1e-6, "the direction stays"


@pytest.mark.parametrize("kind", KINDS)
def test_all_together_stay_in_one_radius_and_each_in_its_own(kind):
    def look(before, now):
        moves = far(before, now)
        assert max(m.norm() for m in moves.values()) <= 0.01 * (1 + 1e-4)
        total = torch.stack([m.norm() for m in moves.values()]).norm()
        assert total <= 0.015 * (1 + 1e-4)
        met.append(float(total))

    met: list[float] = []
    walk(TrustRadius(tensor=0.01, total=0.015), kind, each=look)
    assert max(met) > 0.0149, "it binds"


@pytest.mark.parametrize("kind", KINDS)
def test_the_way_of_a_stage_stays_in_a_ball_around_where_it_began(kind):
    start = model().state_dict()
    rule, net = TrustRadius(tensor=0.05, of="stage"), model()
    met: list[float] = []

    def look(before, now):
        met.extend(float(m.norm()) for m in far(start, now).values())

    walk(rule, kind, 20, net, look)
    assert 0.0499 < max(met) <= 0.05 * (1 + 1e-4)
    assert max(m.norm() for m in far(start, walk(Rest({}), kind, 20)).values()) > 0.1
    middle = copy.deepcopy(net.state_dict())
    walk(rule, kind, 5, net)  # another stage begins here
    assert max(m.norm() for m in far(middle, net.state_dict()).values()) <= 0.05 * (1 + 1e-4)
    assert max(m.norm() for m in far(start, net.state_dict()).values()) > 0.05


def test_relative_radii_are_multiples_of_the_weights_norms_and_zeros_can_move():
    net = model()
    nn.init.zeros_(net[2].bias)
    start = copy.deepcopy(net.state_dict())
    now = walk(TrustRadius(tensor=0.01, relative=True, least=0.5), "sgd", 1, net)
    for n, m in far(start, now).items():
        assert m.norm() <= 0.01 * max(float(start[n].norm()), 0.5) * (1 + 1e-4) and m.norm() > 0
    assert far(start, now)["2.bias"].norm() == pytest.approx(0.005, rel=1e-3)
    net = model()
    now = walk(TrustRadius(total=0.01, relative=True), "sgd", 1, net)
    whole = torch.cat([w.flatten() for w in model().state_dict().values()]).norm()
    move = torch.cat([m.flatten() for m in far(model().state_dict(), now).values()]).norm()
    assert move.item() == pytest.approx(0.01 * whole.item(), rel=1e-3)


def test_rows_that_come_within_a_stage_start_where_they_came():
    start, params = Start(), {"head": nn.Parameter(torch.ones(2, 3))}
    site = Site(nn.Identity(), None, params, None)
    assert torch.equal(start.notice(site, params)["head"], torch.ones(2, 3))
    site.step, params["head"] = 5, nn.Parameter(torch.cat([torch.full((2, 3), 7.0), torch.full((1, 3), 2.0)]))
    assert start.notice(site, params)["head"][:, 0].tolist() == [1.0, 1.0, 2.0]
    again = Start()
    again.load_state_dict(copy.deepcopy(start.state_dict()))
    assert again.notice(site, params)["head"][:, 0].tolist() == [1.0, 1.0, 2.0], "a resumed stage has not begun anew"


# --------------------------------------------------------------------------------------------------------- all together


def everything() -> list:
    basis = torch.linalg.qr(torch.randn(8, 2, generator=dice("u")))[0]
    return [
        *(Scale("weight", 0.5), Drop(0.3, "", rescale=True), Anchor(0.5), TrustRadius(tensor=0.02, total=0.05)),
        *(Project(left={"0.weight": basis}), AdaRem(), SAGE("weight"), Multiplicative()),
        *(TrustRadius(total=0.5, of="stage"), Anchor(0.1, "decoupled"), Anchor(0.1, "loss")),
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rest_has_the_last_word_over_all_of_them_in_any_order(kind, dtype):
    start = model(dtype).state_dict()
    rests = {n: keep(0.5, w.numel(), "cpu", "rest", n).view_as(w) for n, w in start.items()}
    ints = torch.int32 if dtype == torch.float32 else torch.int16
    for k in range(4):
        rules = [*everything(), CLASSP(threshold=1e-6), Rest(rests)]
        order = torch.randperm(len(rules), generator=dice("order", k)).tolist()
        end = walk(compose(*[rules[i] for i in order]), kind, 4, model(dtype))
        for n, w in end.items():
            assert torch.equal(w.view(ints)[rests[n]], start[n].view(ints)[rests[n]]), (n, order)
            assert w.isfinite().all() and (w != start[n])[~rests[n]].any()


@pytest.mark.parametrize("rule", everything(), ids=lambda r: type(r).__name__)
def test_frozen_tied_empty_and_unused_parameters_are_no_error(rule):
    net = model()
    net.frozen, net.unused, net.empty = (nn.Parameter(torch.ones(s)) for s in ((2, 2), (2, 2), (0, 3)))
    net.frozen.requires_grad_(False)
    net.tied = net[0]
    made = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01)
    with attached(rule, made, net):
        for _ in range(3):
            made.zero_grad()
            net[2](net[1](net[0](torch.ones(4, 6)))).square().sum().backward()
            net.empty.grad = torch.zeros(0, 3)
            made.step()
    assert torch.equal(net.frozen, torch.ones(2, 2)) and torch.equal(net.unused, torch.ones(2, 2))


def test_with_replay_and_a_schedule_moves_follow_the_rate_and_the_radius():
    class Looks(Listener):
        met, before = [], None

        def stepped(self, learner, loss):
            now = {n: p.detach().clone() for n, p in learner.model.named_parameters() if n.startswith("body.0")}
            if self.before is not None and learner.step > 1:
                moved = torch.cat([(now[n] - self.before[n]).flatten() for n in now]).norm()
                self.met.append(float(moved))
            self.before = now

    made = MadeOptimizer("adamw", 0.003)
    method = compose(ER(rows=4, memory=Reservoir(capacity=20)), AdaRem(), TrustRadius(total=0.02, match=r"body\.0"))
    stage = Stage(method, made, batch_size=8, augment=noise, schedule=schedule("cosine", warmup=2))
    looks = Looks()
    for _ in Learner(Net(), (stage,), seed=1).learn(stream(), looks):
        pass
    assert 0.0199 < max(looks.met) <= 0.02 * (1 + 1e-4) and min(looks.met) < 0.015


class Named(nn.Module):
    """A net whose head is called as its model says, which may be anything."""

    def __init__(self, head: str, told: bool):
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.add_module(head, nn.Linear(16, 6))
        if told:
            self.head_names = (head,)
        self.named = head

    def forward(self, x):
        return getattr(self, self.named)(self.body(x).relu())


@pytest.mark.parametrize(("head", "told"), [("score", True), ("classifier", False), ("head", False)])
@pytest.mark.parametrize("part", [Scale(factor=0.0), Drop(1.0), Anchor(1e9), MIST(select=0.0, objective_of="stage")])
def test_by_default_heads_are_those_of_the_model_whatever_they_are_called(part, head, told):
    net = Named(head, told)
    before = copy.deepcopy(net.state_dict())
    stage = Stage(compose(copy.deepcopy(part)), MadeOptimizer("sgd", 0.05), batch_size=20)
    list(Learner(net, (stage,)).learn(stream()[:1]))
    assert not torch.allclose(net.state_dict()[f"{head}.weight"], before[f"{head}.weight"], atol=1e-4)
    assert torch.allclose(net.state_dict()["body.weight"], before["body.weight"], atol=1e-4)


@pytest.mark.parametrize("of", ["step", "stage"])
@pytest.mark.parametrize(
    "kinds", [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float64)]
)
def test_a_radius_holds_over_weights_of_several_types(kinds, of):
    torch.manual_seed(0)
    net = nn.ModuleDict({str(k): nn.Linear(4, 4).to(kind) for k, kind in enumerate(kinds)})
    before, made = copy.deepcopy(net.state_dict()), torch.optim.SGD(net.parameters(), lr=1.0)
    with attached(TrustRadius(total=0.5, tensor=0.4, of=of), made, net):
        for k, kind in enumerate(kinds):
            net[str(k)](torch.ones(2, 4, dtype=kind)).sum().backward()
        made.step()
    far = torch.stack([(t.double() - before[n].double()).norm() for n, t in net.state_dict().items()])
    assert far.max() <= 0.41 and abs(float(far.norm()) - 0.5) < 0.01


def test_scaling_and_averaging_by_hand():
    w, averages = torch.tensor([1.0, 2.0]), {"w": torch.zeros(2)}
    scale_moves([w], [torch.zeros(2)], [torch.tensor([0.5, 1.0])])
    assert w.tolist() == [0.5, 2.0]
    assert follow(averages, {"w": torch.tensor([1.0, 4.0])}, 0.75)[0].tolist() == [0.25, 1.0]
