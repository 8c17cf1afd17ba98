"""Scores of weights against closed forms and figures by hand, choices by them, and the sensitivity of modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nacre.core.dice import dice
from nacre.core.errors import BadData, BadSetting, NonFinite
from nacre.core.model import Outputs
from nacre.core.rows import Batch, TensorRows
from nacre.importance import (
    batched_fisher,
    first_order,
    fisher,
    magnitude,
    module_sensitivity,
    most_sensitive,
    named,
    random_scores,
    top_share,
    top_share_of_all,
)


def regression() -> tuple[nn.Linear, TensorRows]:
    layer = nn.Linear(4, 3, bias=False).double()
    with torch.no_grad():
        layer.weight.copy_(torch.randn(3, 4, generator=dice("w")))
    x = torch.randn(96, 4, generator=dice("x"), dtype=torch.float64)
    return layer, TensorRows(x, torch.randint(3, (96,), generator=dice("y")))


def test_the_batched_fisher_is_the_mean_square_of_batch_means_and_with_batches_of_one_the_empirical_one():
    layer, rows = regression()

    def objective(batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(layer(batch.x), batch.y)

    params, index = dict(layer.named_parameters()), torch.arange(96)
    row = layer(rows.x).softmax(1).detach() - nn.functional.one_hot(rows.y, 3)
    each = row[:, :, None] * rows.x[:, None]  # (rows, classes, width)
    for size in (1, 16, 40):
        expected = torch.stack([piece.mean(0) ** 2 for piece in each.split(size)]).mean(0)
        found = batched_fisher(objective, params, rows, index, batch=size)["weight"]
        assert (found - expected).abs().max() < 1e-14
    alone = fisher(objective, lambda b: Outputs(layer(b.x), layer(b.x)), params, rows, index, labels="empirical")
    assert torch.allclose(batched_fisher(objective, params, rows, index, batch=1)["weight"], alone["weight"])
    ratio = batched_fisher(objective, params, rows, index, batch=16)["weight"].sum() / alone["weight"].sum()
    assert ratio < 0.3, "a literature's strength does not carry over: the scale goes with the batch"
    with pytest.raises(BadSetting, match="at least one row"):
        batched_fisher(objective, params, rows, index, batch=0)


def test_first_order_is_the_loss_change_of_setting_a_weight_to_zero():
    w = torch.tensor([0.01, -0.02, 0.03], dtype=torch.float64, requires_grad=True)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return (v * torch.tensor([3.0, 1.0, -2.0])).sum().exp()

    (g,) = torch.autograd.grad(loss(w), [w])
    scores = first_order({"w": w, "v": w}, {"w": g})
    assert list(scores) == ["w"]
    for k in range(3):
        without = w.detach().clone()
        without[k] = 0
        assert scores["w"][k].item() == pytest.approx(abs((loss(without) - loss(w)).item()), rel=0.05)
    assert first_order({"w": w}, {}) == {}


def test_magnitude_large_and_small():
    w = {"w": torch.tensor([1.0, -5.0, 0.1])}
    assert top_share(magnitude(w)["w"], 1 / 3).tolist() == [False, True, False]
    assert top_share(magnitude(w, "small")["w"], 1 / 3).tolist() == [False, False, True]


def test_random_scores_are_counted_and_uniform():
    weights = {"a": torch.empty(5000), "b": torch.empty(50, 100)}
    before = torch.get_rng_state()
    one, two, other = (random_scores(weights, s, "t") for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[n], two[n]) and not torch.equal(one[n], other[n]) for n in weights)
    assert not torch.equal(one["a"], one["b"].flatten())
    assert abs(one["a"].mean().item() - 0.5) < 0.02 and one["b"].shape == (50, 100)


def test_a_global_choice_takes_the_exact_number_over_all_tensors_and_the_earlier_of_equal_scores():
    scores = {"a": torch.tensor([1.0, 3.0, 3.0]), "b": torch.tensor([[3.0, 3.0], [0.0, 9.0]])}
    chosen = top_share_of_all(scores, 3 / 7)
    assert chosen["a"].tolist() == [False, True, True] and chosen["b"].tolist() == [[False, False], [False, True]]
    draws = {n: torch.randn(s, generator=dice(n)) for n, s in {"x": (40, 7), "y": (333,), "z": (2, 3, 4)}.items()}
    for share in (0.0, 0.1, 0.5, 1.0):
        chosen = top_share_of_all(draws, share, least=0)
        flat = torch.cat([d.flatten() for d in draws.values()])
        mask = torch.cat([c.flatten() for c in chosen.values()])
        assert mask.sum() == round(share * len(flat)) and all(chosen[n].shape == d.shape for n, d in draws.items())
        if 0 < share < 1:
            assert flat[mask].min() > flat[~mask].max()
    assert top_share_of_all({}, 0.5) == {}
    with pytest.raises(NonFinite, match="a score of y is NaN"):
        top_share_of_all({**draws, "y": torch.full((3,), float("nan"))}, 0.5)


def test_more_entries_than_a_quantile_takes():
    scores = {"a": torch.zeros(9_000_000), "b": torch.zeros(9_000_000)}
    scores["b"][5] = 1.0
    with pytest.raises(RuntimeError):
        torch.cat([*scores.values()]).quantile(0.5)
    chosen = top_share_of_all(scores, 2 / 18_000_000)
    assert chosen["b"].nonzero().tolist() == [[5]] and chosen["a"].nonzero().tolist() == [[0]]


def test_an_expression_names_weights_or_is_refused():
    params = dict(nn.Linear(2, 2).named_parameters())
    assert list(named(params, None, "X")) == ["weight", "bias"] and list(named(params, "^b", "X")) == ["bias"]
    with pytest.raises(BadSetting, match=r"X: select = 'qkv' finds none .* name some of weight, bias"):
        named(params, "qkv", "X")
    with pytest.raises(BadSetting, match="is no regular expression"):
        named(params, "(", "X")


def walk(jump: dict[str, float], tasks: int = 30, epochs: int = 4) -> list[list[dict[str, torch.Tensor]]]:
    """Weights that move by steps of size 1 at random, and by `jump` times as much in the first epoch of a task."""
    now, record = {n: torch.zeros(400) for n in jump}, []
    for t in range(tasks):
        record.append([])
        for e in range(epochs):
            for n in now:
                far = jump[n] if t and not e else 1.0
                now[n] = now[n] + far * torch.randn(400, generator=dice("walk", n, t, e))
            record[-1].append({f"{n}.weight": w for n, w in now.items()})
    return record


def test_modules_that_jump_where_a_task_begins_are_sensitive_and_on_a_stream_of_equal_tasks_none_is():
    found = module_sensitivity(walk({"head": 8.0, "norm": 3.0, "body": 1.0}))
    assert found == {k: pytest.approx(v, rel=0.05) for k, v in {"head": 8.0, "norm": 3.0, "body": 1.0}.items()}
    sizes = {"head": 100, "norm": 10, "body": 890}
    assert most_sensitive(found, sizes, 0.11) == ["head", "norm"] and most_sensitive(found, sizes, 0.05) == ["norm"]


def test_module_sensitivity_by_hand_with_a_head_that_grew_and_a_counter():
    first = [{"head.weight": torch.zeros(2), "n.m": torch.zeros(1), "n.count": torch.tensor(1)}] * 2
    later = [
        {"head.weight": torch.tensor([4.0, 2.0, 50.0]), "n.m": torch.ones(1), "n.count": torch.tensor(9)},
        {"head.weight": torch.tensor([4.0, 2.0, 53.0]), "n.m": torch.ones(1), "n.count": torch.tensor(9)},
    ]
    assert module_sensitivity([first, later]) == {"head": 3.0 / 0.5, "n": float("inf")}
    assert module_sensitivity([first, first])["head"] == 0.0
    for record in ([first], [first[:1], later[:1]], []):
        with pytest.raises(BadData, match="needs two tasks"):
            module_sensitivity(record)


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_scores_that_are_nan_have_no_rank(share):
    with pytest.raises(NonFinite, match="NaN, which has no rank"):
        top_share(torch.tensor([1.0, float("nan"), 3.0, 2.0]), share)
    assert top_share(torch.tensor([1.0, float("inf"), 3.0, 2.0]), share).sum() == 4 * share
