"""Project: protected directions stay still under optimizers that carry projected gradients back into them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Net, noise, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import attached
from nacre.methods.agem import harmful
from nacre.rules import Project, Rest

KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
}


def basis(rows: int, columns: int, *place) -> torch.Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=dice("basis", *place)))[0]


def matrix(dtype: torch.dtype = torch.float32) -> tuple[nn.Linear, torch.Tensor, torch.Tensor]:
    """A 48 x 32 layer with its 16 strongest directions on both sides."""
    layer = nn.Linear(32, 48, bias=False, dtype=dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(48, 32, generator=dice("w")) / 6)
        u, _, vt = torch.linalg.svd(layer.weight, full_matrices=False)
    return layer, u[:, :16].contiguous(), vt[:16].T.contiguous()


def run(kind: str, how: str, steps: int = 200) -> tuple[float, float, float]:
    """The share of the way that lies in the protected directions, left and right, and its length."""
    layer, u, v = matrix(torch.float64)
    start, made = layer.weight.detach().clone(), KINDS[kind](layer.parameters())
    rule = Project(left={"weight": u}, right={"weight": v}) if how == "moves" else Rest({})
    with attached(rule, made, layer):
        for k in range(steps):
            x, y = (torch.randn(20, n, generator=dice(p, k), dtype=torch.float64) for p, n in (("x", 32), ("y", 48)))
            made.zero_grad()
            (layer(x) - y).square().mean().backward()
            if how == "gradients":
                g = layer.weight.grad
                g.sub_(u @ (u.T @ g))
                g.sub_((g @ v) @ v.T)
            made.step()
    way = layer.weight.detach() - start
    return float((u.T @ way).norm() / way.norm()), float((way @ v).norm() / way.norm()), float(way.norm())


def test_projected_gradients_leak_under_adam_and_projected_moves_do_not():
    """The mistake of published code, and its cure."""
    left, right, _ = run("adamw", "gradients")
    assert left > 0.2 and right > 0.2, "under Adam a projected gradient moves what it promises to protect"
    for kind in KINDS:
        left, right, length = run(kind, "moves")
        assert left < 1e-13 and right < 1e-13 and length > 0.05, kind
    left, right, length = run("sgd", "gradients")
    assert left < 1e-13 and right < 1e-13 and length > 0.05, "under SGD a projected gradient is enough"
    plain, *_ = run("sgd", "nothing")
    assert plain > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_answers_in_protected_directions_stay(kind):
    """Inputs of span V are answered as before, and so is every input in span U: gradient projection memory and OSF."""
    layer, u, v = matrix()
    x, inside = torch.randn(9, 32, generator=dice("probe")), torch.randn(9, 16, generator=dice("in")) @ v.T
    before = layer(inside).detach(), (layer(x) @ u).detach(), layer(x).detach()
    made = KINDS[kind](layer.parameters())
    with attached(Project(left={"weight": u}, right={"weight": v}), made, layer):
        for k in range(30):
            made.zero_grad()
            layer(torch.randn(20, 32, generator=dice("x", k))).square().mean().backward()
            made.step()
    after = layer(inside), layer(x) @ u, layer(x)
    assert torch.allclose(before[0], after[0], atol=1e-5) and torch.allclose(before[1], after[1], atol=1e-5)
    assert (before[2] - after[2]).abs().max() > 0.05


def test_the_strongest_singular_triplets_stay_while_the_rest_is_weaker():
    layer, u, v = matrix()
    values = torch.linalg.svdvals(layer.weight.detach())[:16]
    made = torch.optim.AdamW(layer.parameters(), lr=1e-3, weight_decay=0.0)
    with attached(Project(left={"weight": u}, right={"weight": v}), made, layer):
        for k in range(20):
            made.zero_grad()
            layer(torch.randn(20, 32, generator=dice("x", k))).square().mean().backward()
            made.step()
    found, s, _ = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    assert torch.allclose(s[:16], values, atol=1e-4)
    assert torch.allclose((found[:, :16].T @ u).abs().diagonal(), torch.ones(16), atol=1e-2)


def test_with_a_whole_basis_nothing_moves():
    layer, *_ = matrix()
    start, made = layer.weight.detach().clone(), KINDS["adamw"](layer.parameters())
    with attached(Project(right={"weight": torch.eye(32)}), made, layer):
        layer(torch.ones(2, 32)).square().sum().backward()
        made.step()
    assert (layer.weight - start).abs().max() < 1e-7


@pytest.mark.parametrize("channels_last", [False, True])
def test_kernels_count_as_out_by_everything_else_and_vectors_as_columns(channels_last):
    conv = nn.Conv2d(3, 6, 2)
    if channels_last:
        conv = conv.to(memory_format=torch.channels_last)
    bases = {"right": {"weight": basis(12, 5)}, "left": {"weight": basis(6, 2, 1), "bias": basis(6, 2, 2)}}
    start, made = {n: p.detach().clone() for n, p in conv.named_parameters()}, KINDS["adamw"](conv.parameters())
    with attached(Project(**bases), made, conv):
        for k in range(5):
            made.zero_grad()
            conv(torch.randn(2, 3, 5, 5, generator=dice("image", k))).square().mean().backward()
            made.step()
    way = {n: p.detach() - start[n] for n, p in conv.named_parameters()}
    assert (way["weight"].flatten(1) @ bases["right"]["weight"]).abs().max() < 1e-6 < way["weight"].abs().max()
    assert (bases["left"]["weight"].T @ way["weight"].flatten(1)).abs().max() < 1e-6
    assert (bases["left"]["bias"].T @ way["bias"]).abs().max() < 1e-6 < way["bias"].abs().max()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_no_move_goes_against_a_gradient_and_others_keep_their_bits(sign):
    """The half-space of A-GEM, with one reference: the move is projected just as there."""
    ends = []
    for how in ("bare", "rule"):
        net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        with torch.no_grad():
            for i, p in enumerate(net.parameters()):
                p.copy_(torch.randn(p.shape, generator=dice("net", i)))
        start = [p.detach().clone() for p in net.parameters()]
        made = KINDS["adamw"](net.parameters())
        loss = net(torch.ones(1, 4)).square().sum()
        r = {
            n: sign * g
            for (n, _), g in zip(net.named_parameters(), torch.autograd.grad(loss, [*net.parameters()]), strict=True)
        }
        with attached(Project(against=r) if how == "rule" else Rest({}), made, net):
            (-net(torch.ones(1, 4)).square().sum()).backward()  # a step that raises the loss
            made.step()
        ends.append([p.detach().clone() for p in net.parameters()])
    moves = [[b - a for a, b in zip(start, end, strict=True)] for end in ends]
    harm = [sum((m * g).sum() for m, g in zip(move, r.values(), strict=True)) for move in moves]
    if sign < 0:
        assert harm[0] < 0 and all(torch.equal(a, b) for a, b in zip(*ends, strict=True))
        return
    assert harm[0] > 0.01 and abs(harm[1]) < 1e-5
    turned = torch._foreach_add([-m for m in moves[0]], [-h for h in harmful([-m for m in moves[0]], [*r.values()])])
    assert all(torch.allclose(-t, m, atol=1e-6) for t, m in zip(turned, moves[1], strict=True))


def test_rows_of_a_head_that_grew_since_are_free():
    net = Net(dropout=0.0)
    grow(net, 2)
    rule = Project(left={"head.weight": torch.eye(2)}, against={"head.bias": torch.zeros(2)})
    grow(net, 4)
    before = net.head.weight.detach().clone()
    with Drive(rule, net, MadeOptimizer("adamw", 0.02), stream()[1].task, augment=noise, seed=0) as drive:
        for batch in drive.batches(epoch=0, size=8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
    moved = (net.head.weight.detach() - before).abs().amax(1)
    assert moved[:2].max() < 1e-6 and moved[2:].min() > 0.01


def test_weights_of_16_bits_keep_their_protected_answers_up_to_rounding():
    layer, u, _ = matrix()
    layer = layer.bfloat16()
    start, made = layer.weight.detach().clone(), torch.optim.AdamW(layer.parameters(), lr=0.05)
    with attached(Project(left={"weight": u}), made, layer):
        for k in range(3):
            made.zero_grad()
            layer(torch.randn(9, 32, generator=dice("x", k)).bfloat16()).square().sum().backward()
            made.step()
    way = (layer.weight.detach() - start).float()
    assert (u.T @ way).norm() < 0.1 * way.norm() and layer.weight.dtype == torch.bfloat16


def test_bases_that_do_not_fit_are_refused():
    layer, u, v = matrix()
    made = KINDS["sgd"](layer.parameters())
    layer(torch.ones(1, 32)).sum().backward()
    for rule, said in (
        (Project(left={"w": u}), "Project names 'w', which the model does not have: it has weight"),
        (
            Project(left={"weight": v}, right={"weight": u}),
            r"Project.right of weight has the shape \(48, 16\).*\(in, k\)",
        ),
        (Project(left={"weight": 1.1 * u}), "not orthonormal.*torch.linalg.qr"),
        (Project(against={"weight": u}), r"Project.against of weight has the shape \(48, 16\)"),
    ):
        with pytest.raises(BadSetting, match=said), attached(rule, made, layer):
            made.step()


def test_the_optimizers_own_copies_keep_out_too():
    schedulefree = pytest.importorskip("schedulefree")
    layer, u, v = matrix()
    start, made = layer.weight.detach().clone(), schedulefree.SGDScheduleFree(layer.parameters(), lr=0.1, momentum=0.9)
    made.train()
    with attached(Project(left={"weight": u}, right={"weight": v}), made, layer):
        for k in range(30):
            made.zero_grad()
            layer(torch.randn(20, 32, generator=dice("x", k))).square().mean().backward()
            made.step()
    made.eval()
    way = layer.weight.detach() - start
    assert way.norm() > 0.05 and max((u.T @ way).norm(), (way @ v).norm()) < 1e-4 * way.norm()
