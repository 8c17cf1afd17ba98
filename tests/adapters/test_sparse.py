"""The compact form of sparse tuning: equal to the dense form with the other entries resting, and an ordinary model outside."""

from __future__ import annotations

import copy
import logging
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.utils.checkpoint import checkpoint

from nacre.adapters import entries, entries_in, holding, put_in_entries, take_out_entries, unfit, write_entries
from nacre.core.dice import dice, keep
from nacre.core.errors import BadSetting, UnknownName
from nacre.core.model import fingerprint
from nacre.core.optim import OPTIMIZERS, MadeOptimizer
from nacre.core.rule import attached
from nacre.metrics import Motion
from nacre.rules import Rest


class Layers(nn.Module):
    """One of each kind of layer: a table, patches, overlapping and grouped convolutions, norms, linear layers, a bare row."""

    def __init__(self, dtype: torch.dtype = torch.float32):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.table = nn.Embedding(11, 8, padding_idx=0)
            self.patch = nn.Conv2d(1, 8, kernel_size=4, stride=4)
            self.conv = nn.Conv1d(8, 8, kernel_size=3, padding=1)
            self.strips = nn.Conv1d(8, 8, kernel_size=2, stride=2)
            self.grouped = nn.Conv2d(8, 8, kernel_size=3, padding="same", groups=4, padding_mode="circular")
            self.norm = nn.LayerNorm(8)
            self.inner = nn.Linear(8, 40)
            self.outer = nn.Linear(40, 8, bias=False)
            self.row = nn.Parameter(torch.randn(8))
            self.head = nn.Linear(8, 3)
            nn.init.normal_(self.norm.bias)
            self.to(dtype)

    def forward(self, ids: Tensor, pixels: Tensor) -> Tensor:
        """Scores (rows, 3) of ids (rows, 6) and pixels (rows, 1, 8, 8)."""
        words = self.strips(self.conv(self.table(ids).transpose(1, 2))).transpose(1, 2)
        seen = self.grouped(self.patch(pixels)).flatten(2).transpose(1, 2)
        x = torch.cat([words, seen], 1) + self.row
        x = x + self.outer(F.gelu(self.inner(self.norm(x))))
        return self.head(x.mean(1))


def batch(step: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    g = dice("batch", step)
    ids = torch.randint(0, 11, (5, 6), generator=g)
    return ids, torch.randn(5, 1, 8, 8, generator=g).to(dtype), torch.randint(0, 3, (5,), generator=g)


def masks(model: nn.Module, share: float = 0.1, seed: int = 0) -> dict[str, Tensor]:
    """A share of each tensor below the head, and at least one entry."""
    found = {}
    for n, p in model.named_parameters():
        if not n.startswith("head"):
            mask = keep(share, p.numel(), "cpu", "masks", seed, n)
            mask[-1] = True
            found[n] = mask.view_as(p)
    return found


def step(model: nn.Module, optimizer: torch.optim.Optimizer, place: int, dtype: torch.dtype = torch.float32) -> None:
    ids, pixels, y = batch(place, dtype)
    optimizer.zero_grad()
    F.cross_entropy(model(ids, pixels), y).backward()
    optimizer.step()


def free(model: nn.Module) -> dict[str, nn.Parameter]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def both(make, share: float, dtype: torch.dtype, steps: int = 20) -> tuple[Layers, Layers, Layers]:
    """A model before, after steps with the others resting, and after the same steps in compact form."""
    before, dense, compact = Layers(dtype), Layers(dtype), Layers(dtype)
    chosen = masks(before, share)
    optimizer = make(dict(dense.named_parameters()))
    with attached(Rest({n: ~m for n, m in chosen.items()}), optimizer, dense):
        for k in range(steps):
            step(dense, optimizer, k, dtype)
    put_in_entries(compact, chosen)
    optimizer = make(free(compact))
    for k in range(steps):
        step(compact, optimizer, k, dtype)
    take_out_entries(compact)
    return before, dense, compact


SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})


@pytest.mark.parametrize("share", [0.02, 0.1, 0.6])
@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_it_equals_the_dense_form_with_the_other_entries_resting(share, dtype, within):
    before, dense, compact = both(SGD, share, dtype)
    chosen = masks(before, share)
    for (n, then), one, other in zip(before.named_parameters(), dense.parameters(), compact.parameters(), strict=True):
        mask = chosen.get(n, torch.ones_like(then, dtype=torch.bool))
        assert torch.equal(other[~mask], then[~mask]), "what rests keeps its bits"
        assert torch.equal(other != then, one != then), "the same entries moved"
        assert (other != then).any(), f"{n} learned nothing"
        assert (one - other).norm() <= within * one.norm(), n


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"muon", "adafactor"}))
def test_it_equals_the_dense_form_under_every_optimizer_that_works_entry_by_entry(name):
    before, dense, compact = both(MadeOptimizer(name, 0.01), 0.1, torch.float64, steps=4)
    chosen = masks(before)
    for (n, then), one, other in zip(before.named_parameters(), dense.parameters(), compact.parameters(), strict=True):
        mask = chosen.get(n, torch.ones_like(then, dtype=torch.bool))
        assert torch.equal(other[~mask], then[~mask])
        assert (one - other).norm() <= 1e-9 * one.norm(), n


def test_an_optimizer_sees_the_values_only_and_its_state_is_as_small():
    model = Layers()
    chosen = masks(model)
    values = put_in_entries(model, chosen)
    assert {n: p.numel() for n, p in values.items()} == {n: int(m.sum()) for n, m in chosen.items()}
    optimizer = torch.optim.AdamW(free(model).values())
    step(model, optimizer, 0)
    kept = sum(t.numel() for own in optimizer.state.values() for t in own.values() if t.ndim)
    assert kept == 2 * (sum(int(m.sum()) for m in chosen.values()) + 27)
    assert all(p.grad is None for _, p in model.named_parameters() if not p.requires_grad), "no dense gradient is left"


def test_outside_it_is_the_ordinary_model():
    model, calls = Layers(), []
    keys, kinds = list(model.state_dict()), [type(m).__name__ for m in model.modules()]
    model.inner.register_forward_hook(lambda *_: calls.append(1))
    values = put_in_entries(model, masks(model))
    assert list(model.state_dict()) == keys and [type(m).__name__ for m in model.modules()] == kinds
    assert (
        isinstance(model.inner, nn.Linear) and isinstance(model.table, nn.Embedding) and "entries" in repr(model.inner)
    )
    before, motion = fingerprint(model), Motion()
    motion.begin(model)
    step(model, torch.optim.SGD(values.values(), 0.1), 0)
    moved = motion.since(model)
    assert calls and fingerprint(model) != before
    assert sorted(moved) == sorted(keys) and moved["inner.weight"]["moved"] == masks(model)["inner.weight"].sum() / 320
    other = Layers()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(*batch()[:2]), model(*batch()[:2]))


@pytest.mark.parametrize("assign", [False, True])
def test_an_ordinary_checkpoint_loads_into_it(assign):
    model, other = Layers(), Layers()
    put_in_entries(model, masks(model))
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    model.load_state_dict({n: t.clone() for n, t in other.state_dict().items()}, assign=assign)
    assert torch.equal(model(*batch()[:2]), other(*batch()[:2]))
    step(model, torch.optim.SGD(entries_in(model).values(), 0.1), 0)
    take_out_entries(model)
    chosen = masks(model)
    for n, p in model.named_parameters():
        if n in chosen:
            assert torch.equal(p[~chosen[n]], dict(other.named_parameters())[n][~chosen[n]])


def test_taken_out_it_is_an_ordinary_model_with_the_tuned_values_and_other_masks_may_come():
    model = Layers()
    model.row.requires_grad_(False)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    classes, names = [type(m) for m in model.modules()], [n for n, _ in model.named_parameters()]
    first, second = masks(model), masks(model, seed=1)
    for chosen in (first, second):
        values = put_in_entries(model, chosen)
        assert values["outer.weight"] is put_in_entries(model, chosen)["outer.weight"], "what is in already stays"
        step(model, torch.optim.SGD(values.values(), 0.1), 0)
        told = {n: v.detach().clone() for n, v in values.items()}
    take_out_entries(model)
    take_out_entries(model)
    assert [type(m) for m in model.modules()] == classes and [n for n, _ in model.named_parameters()] == names
    assert not entries_in(model) and [n for n, p in model.named_parameters() if not p.requires_grad] == ["row"]
    for n, p in model.named_parameters():
        if n in second:
            assert torch.equal(p.detach()[second[n]], told[n])
            assert torch.equal(p[~(first[n] | second[n])], start[n][~(first[n] | second[n])])


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(reentrant):
    grads = []
    for saves in (False, True):
        model = Layers()
        values = put_in_entries(model, masks(model))
        ids, pixels, y = batch()
        pixels.requires_grad_()
        whole = checkpoint(model, ids, pixels, use_reentrant=reentrant) if saves else model(ids, pixels)
        F.cross_entropy(whole, y).backward()
        grads.append([v.grad for v in values.values()] + [pixels.grad])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_autocast_is_followed():
    model, dense = Layers(), Layers()
    chosen = masks(model)
    ids, pixels, y = batch()
    values = put_in_entries(model, chosen)
    with torch.autocast("cpu", torch.bfloat16):
        out, whole = model(ids, pixels), dense(ids, pixels)
    assert out.dtype == torch.bfloat16 and torch.equal(out, whole)
    F.cross_entropy(out.float(), y).backward()
    F.cross_entropy(whole.float(), y).backward()
    for n, p in dense.named_parameters():
        if n in chosen:
            assert values[n].grad.dtype == torch.float32
            assert torch.allclose(values[n].grad, p.grad[chosen[n]], atol=2e-2 * float(p.grad.abs().max())), n


def test_weights_of_low_precision_are_held():
    model = Layers(torch.bfloat16)
    values = put_in_entries(model, masks(model))
    step(model, torch.optim.SGD(values.values(), 0.1), 0, torch.bfloat16)
    assert all(v.dtype == torch.bfloat16 and v.grad.dtype == torch.bfloat16 for v in values.values())


def test_it_follows_the_model_to_another_precision():
    model = Layers()
    values = put_in_entries(model, masks(model))
    step(model, torch.optim.SGD(values.values(), 0.1), 0)
    model.double()
    step(model, torch.optim.SGD(values.values(), 0.1), 1, torch.float64)
    assert entries_in(model)["inner.weight"] is values["inner.weight"] and values["inner.weight"].dtype == torch.float64
    answer = model(*batch(2, torch.float64)[:2])
    take_out_entries(model)
    assert torch.allclose(model(*batch(2, torch.float64)[:2]), answer)


def test_a_deep_copy_goes_on_by_itself_and_in_the_same_way():
    model = Layers()
    put_in_entries(model, masks(model))
    step(model, SGD(free(model)), 0)
    twin = copy.deepcopy(model)
    ends = []
    for one in (model, twin):
        optimizer = SGD(free(one))
        for k in range(3):
            step(one, optimizer, k)
        ends.append({n: t.clone() for n, t in one.state_dict().items()})
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])
    kept = copy.deepcopy(ends[1])
    step(model, SGD(free(model)), 9)
    assert all(torch.equal(kept[n], t) for n, t in twin.state_dict().items()), "they share no memory"


def test_lent_weights_answer_and_are_not_written_to():
    model, other = Layers(), Layers()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1.5)
    put_in_entries(model, masks(model))
    lent = {n: t.clone() for n, t in other.state_dict().items()}
    assert torch.equal(functional_call(model, lent, batch()[:2]), other(*batch()[:2]))
    assert all(torch.equal(lent[n], t) for n, t in other.state_dict().items())
    assert torch.equal(model(*batch()[:2]), Layers()(*batch()[:2]))


def test_transforms_of_torch_func_see_the_values():
    model = Layers()
    ids, pixels, y = batch()
    values = put_in_entries(model, masks(model))
    named = {n: p.detach() for n, p in free(model).items()}
    found = grad(lambda held: F.cross_entropy(functional_call(model, held, (ids, pixels)), y))(named)
    F.cross_entropy(model(ids, pixels), y).backward()
    for n, v in values.items():
        assert torch.allclose(found[n + entries.VALUES], v.grad, atol=1e-6), n


@pytest.mark.slow
@pytest.mark.compile
def test_a_compiled_model_learns_the_same():
    ends = []
    for compiles in (False, True):
        model = Layers()
        put_in_entries(model, masks(model))
        optimizer = SGD(free(model))
        for k in range(3):
            step(torch.compile(model, backend="aot_eager") if compiles else model, optimizer, k)
        ends.append({n: t.clone() for n, t in model.state_dict().items()})
    assert all(torch.allclose(ends[0][n], ends[1][n], atol=1e-6) for n in ends[0])


def test_a_graph_stays_valid_while_values_stay_and_not_when_they_change():
    model = Layers()
    values = put_in_entries(model, masks(model))
    ids, pixels, y = batch()
    loss = F.cross_entropy(model(ids, pixels), y)
    with torch.no_grad():
        model(ids, pixels)
    model.state_dict()
    loss.backward()
    loss = F.cross_entropy(model(ids, pixels), y)
    with torch.no_grad():
        values["inner.weight"].add_(1.0)
    model(ids, pixels)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_fused_layers_of_torch_answer_with_the_tuned_values():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    fit = {n: p for n, p in layer.named_parameters() if not unfit(layer, [n])}
    assert set(dict(layer.named_parameters())) - set(fit) == {"self_attn.out_proj.weight", "self_attn.out_proj.bias"}
    values = put_in_entries(layer, {n: keep(0.3, p.numel(), "cpu", n).view_as(p) for n, p in fit.items()})
    x = torch.randn(2, 3, 8)
    layer.train()(x).square().mean().backward()
    assert all(v.grad is not None and v.grad.any() for v in values.values())
    torch.optim.SGD(values.values(), 1.0).step()
    layer.eval()
    with torch.no_grad():
        fused = layer(x)
    take_out_entries(layer)
    assert torch.allclose(fused, layer(x), atol=1e-5)


def test_in_inference_mode_and_without_gradients_it_answers_with_the_values():
    model = Layers()
    values = put_in_entries(model, masks(model))
    step(model, torch.optim.SGD(values.values(), 0.1), 0)
    with torch.inference_mode():
        one = model(*batch()[:2])
    answer = model(*batch()[:2])
    assert torch.equal(one, answer)
    values["outer.weight"].data.mul_(2.0)  # unseen by torch's count of changes
    write_entries(model)
    assert torch.equal(model.outer.weight[masks(model)["outer.weight"]], values["outer.weight"])
    assert not torch.equal(model(*batch()[:2]), answer)


def test_weights_follow_after_each_step_of_any_optimizer_and_of_copies_too():
    model = Layers()
    put_in_entries(model, masks(model))
    for one in (model, copy.deepcopy(model)):
        optimizer = SGD(free(one))
        for k in range(2):
            step(one, optimizer, k)
            for n, v in entries_in(one).items():
                assert torch.equal(one.get_parameter(n)[masks(one)[n]], v), n
    take_out_entries(model)
    assert model.inner not in holding.FOLLOWERS.layers and one.inner in holding.FOLLOWERS.layers
    mine = holding.Followers()
    mine.add(one.inner)
    assert mine.handle is not None
    mine.discard(one.inner)
    assert mine.handle is None, "without layers there is no hook"


def test_where_torch_refuses_whole_gradients_are_taken_and_that_is_said_once(monkeypatch, caplog):
    def refuses(*_: object, **__: object) -> Tensor:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(torch.sparse, "sampled_addmm", refuses)
    entries.samples.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            _, dense, compact = both(SGD, 0.1, torch.float64, steps=3)
    finally:
        entries.samples.cache_clear()
    assert caplog.text.count("no such kernel") == 1
    for one, other in zip(dense.parameters(), compact.parameters(), strict=True):
        assert (one - other).norm() <= 1e-12 * one.norm()


def test_a_batch_without_rows_and_a_weight_without_choice():
    model = Layers()
    chosen = masks(model)
    chosen["outer.weight"] = torch.zeros_like(chosen["outer.weight"])
    values = put_in_entries(model, chosen)
    assert "outer.weight" not in values and not model.outer.weight.requires_grad
    model(torch.empty(0, 6, dtype=torch.long), torch.empty(0, 1, 8, 8)).sum().backward()
    assert all(not v.grad.any() for v in values.values())
    before = model.outer.weight.detach().clone()
    step(model, torch.optim.SGD(values.values(), 0.1, weight_decay=0.1), 0)
    take_out_entries(model)
    assert torch.equal(model.outer.weight, before) and model.outer.weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows,width", [(1, 1), (1, 5), (7, 1), (33, 65), (0, 3), (3, 0)])
def test_a_transpose_is_that_of_torch_whatever_the_strides(rows, width, dtype):
    for matrix in (torch.randn(rows, width, dtype=dtype), torch.randn(width, 2 * rows, dtype=dtype).t()[::2]):
        found = entries.transposed(matrix)
        assert torch.equal(found, matrix.t()) and found.is_contiguous()


def test_the_product_has_the_bits_of_torch_s_own_copies():
    left, right = torch.randn(300, 70), torch.randn(300, 50)
    layer = nn.Linear(50, 70)
    put_in_entries(layer, {"weight": torch.rand(70, 50) < 0.1})
    held = layer.held["weight"]
    pattern = torch.zeros(70, 50)
    pattern.view(-1)[held.index] = 1.0
    told = torch.sparse.sampled_addmm(pattern.to_sparse_csr(), left.t(), right, beta=0.0)
    assert torch.equal(held.of_product(left, right), told.values())


@pytest.mark.parametrize("way", ["in place", "data", "set to"])
def test_values_that_are_changed_by_hand_are_answered_with(way):
    layer = nn.Linear(3, 2, bias=False)
    values = put_in_entries(layer, {"weight": torch.tensor([[True, False, False], [False, False, True]])})["weight"]
    x = torch.ones(1, 3)
    layer(x)
    told = torch.tensor([5.0, 7.0])
    with torch.no_grad():
        if way == "in place":
            values.copy_(told)
        elif way == "data":
            values.data.copy_(told)  # which leaves the version as it is
        else:
            values.data = told
    assert torch.equal(layer(x), x @ layer.weight.t())
    assert layer.weight[0, 0] == 5.0 and layer.weight[1, 2] == 7.0
    for over in (lambda: layer.weight.fill_(1.0), lambda: layer.weight.data.fill_(1.0)):
        with torch.no_grad():
            over()
        layer(x)  # chosen entries follow their values nevertheless
        assert layer.weight.flatten().tolist() == [5.0, 1.0, 1.0, 1.0, 1.0, 7.0]


class Padded(nn.Module):
    """Two layers token by token, and the mean over the tokens that are real."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.inner, self.outer = nn.Linear(6, 9).double(), nn.Linear(9, 4).double()

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Scores (rows, 4) of x (rows, tokens, 6) and real (rows, tokens)."""
        return (self.outer(F.gelu(self.inner(x))) * real[..., None]).sum(1)


@pytest.mark.parametrize("padded", [0, 1, 9, 15, 16])
def test_rows_without_a_gradient_are_left_out_and_nothing_changes(padded, monkeypatch):
    x = torch.randn(2, 8, 6, generator=dice("padded"), dtype=torch.float64)
    real = (torch.arange(16) >= padded).view(2, 8).double()
    dense, compact, found, rows = Padded(), Padded(), {}, []
    chosen = masks(dense, 0.2)
    values = put_in_entries(compact, chosen)
    product = entries.Entries.of_product
    monkeypatch.setattr(entries.Entries, "of_product", lambda s, a, b: rows.append(len(a)) or product(s, a, b))
    for model in (dense, compact):
        seen = x.clone().requires_grad_()
        model(seen, real).square().sum().backward()
        found[model] = seen.grad
    assert rows == [16 if padded <= 1 else 16 - padded] * 2
    assert (found[dense] - found[compact]).abs().max() <= 1e-12
    for name, value in values.items():
        expected = dict(dense.named_parameters())[name].grad[chosen[name]]
        assert (value.grad - expected).abs().max() <= 1e-12 * max(1, expected.abs().max()), name


def test_a_row_whose_gradient_is_small_or_not_a_number_is_no_padding():
    layer = nn.Linear(3, 4)
    values = put_in_entries(layer, {"weight": torch.ones(4, 3, dtype=torch.bool)})
    grad = torch.zeros(10, 4)
    grad[0, 3], grad[1, 2] = 1e-42, float("nan")
    layer(torch.ones(10, 3)).backward(grad)
    (of_weight,) = (v.grad.view(4, 3) for n, v in values.items())
    assert (of_weight[3] > 0).all() and of_weight[2].isnan().all() and not of_weight[:2].any()


@pytest.mark.parametrize("options", [{"sparse": True}, {"scale_grad_by_freq": True}, {"padding_idx": 3}])
def test_tables_with_settings_of_their_own_learn_as_dense_ones(options):
    table, ids = nn.Embedding(6, 4, **options), torch.tensor([[0, 1, 1], [3, 5, 1]])
    dense, mask = copy.deepcopy(table), keep(0.4, 24, "cpu", 2).view(6, 4)
    values = put_in_entries(table, {"weight": mask})
    table(ids).cos().sum().backward()
    dense(ids).cos().sum().backward()
    whole = dense.weight.grad.to_dense() if options.get("sparse") else dense.weight.grad
    assert torch.allclose(values["weight"].grad, whole[mask], atol=1e-6)


def test_a_convolution_in_another_layout_goes_on():
    model, x = nn.Conv2d(3, 4, 3), torch.randn(2, 3, 6, 6)
    values = put_in_entries(model, {"weight": keep(0.3, 108, "cpu", 3).view(4, 3, 3, 3)})
    model.to(memory_format=torch.channels_last)
    model(x).square().sum().backward()
    torch.optim.SGD(values.values(), 0.1).step()
    answer = model(x)
    take_out_entries(model)
    assert torch.allclose(model(x), answer, atol=1e-6)


def test_a_layer_that_is_used_twice_learns_from_both_uses():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(4, 4)
            self.also = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.also(self.one(x).tanh())

    torch.manual_seed(0)
    model, x = Twice(), torch.randn(3, 4)
    dense = copy.deepcopy(model)
    mask = keep(0.2, 16, "cpu", 1).view(4, 4)
    values = put_in_entries(model, {"one.weight": mask})
    model(x).square().sum().backward()
    dense(x).square().sum().backward()
    assert torch.allclose(values["one.weight"].grad, dense.one.weight.grad[mask], atol=1e-6)


def test_what_cannot_be_held_is_refused_by_name():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    full = torch.ones(4, 4, dtype=torch.bool)
    with pytest.raises(
        BadSetting, match=r"0\.weight cannot be tuned in compact form, for it is tied: it is 0\.weight and 1\.weight"
    ):
        put_in_entries(tied, {"0.weight": full})
    assert not entries_in(tied) and type(tied[0]) is nn.Linear, "nothing was begun"
    assert "list" in unfit(nn.LSTM(3, 3), ["weight_ih_l0"])["weight_ih_l0"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = nn.utils.spectral_norm(nn.Linear(4, 4))
    assert unfit(normed, ["weight_orig"])
    assert "max_norm" in unfit(nn.Embedding(4, 4, max_norm=1.0), ["weight"])["weight"]
    assert unfit(nn.Linear(2, 2), ["other"]) == {"other": "the model has no such weight"}
    layer = nn.Linear(4, 4)
    with pytest.raises(UnknownName, match="weights"):
        put_in_entries(layer, {"weights": full})
    for wrong in (full.float(), full[:2]):
        with pytest.raises(BadSetting, match="give a bool mask of the weight's shape, \\(4, 4\\)"):
            put_in_entries(layer, {"weight": wrong})


def test_a_tuned_model_of_transformers_saves_as_an_ordinary_one(tmp_path):
    from transformers import BertConfig, BertModel

    small = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    with torch.random.fork_rng():
        model = BertModel(small, add_pooling_layer=False).eval()
    put_in_entries(model, {n: keep(0.2, p.numel(), "cpu", n).view_as(p) for n, p in model.named_parameters()})
    ids = torch.tensor([[1, 2, 3]])
    optimizer = torch.optim.AdamW(free(model).values(), lr=0.1)
    model(ids).last_hidden_state.square().mean().backward()
    optimizer.step()
    model.save_pretrained(tmp_path)
    other = BertModel.from_pretrained(tmp_path, add_pooling_layer=False).eval()
    assert torch.equal(other(ids).last_hidden_state, model(ids).last_hidden_state)
