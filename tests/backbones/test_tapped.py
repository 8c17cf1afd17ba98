"""A layer of any module as features."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from nacre.backbones import Classifier, Tapped, tapped
from nacre.core.errors import BadData, BadSetting, UnknownName


class Net(nn.Module):
    """Maps, tokens and a row on the way; batch norm and dropout to notice unwanted passes."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
        self.tokens = nn.Linear(4, 6)
        self.row = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5))
        self.answer = nn.Linear(5, 2)
        self.never = nn.Linear(1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.tokens(self.maps(x).flatten(2).mT)
        return self.answer(self.row(tokens.mean(1)))


X = torch.rand(3, 1, 6, 6)


@pytest.mark.parametrize(("layer", "width"), [("maps", 4), ("maps.1", 4), ("tokens", 6), ("row.0", 5), ("", 2)])
def test_features_are_the_output_of_the_layer(layer: str, width: int) -> None:
    net = Net().eval()
    body = tapped(net, layer, example=X[:1])
    features = body(X)
    assert body.width == width and features.shape == (3, width)
    maps = net.maps(X)
    tokens = net.tokens(maps.flatten(2).mT)
    want = {"maps": maps.mean((2, 3)), "maps.1": maps.mean((2, 3)), "tokens": tokens.mean(1), "": net(X)}
    torch.testing.assert_close(features, want.get(layer, net.row[0](tokens.mean(1))))


def test_tokens_are_pooled_as_asked() -> None:
    net = Net().eval()
    first = tapped(net, "tokens", width=6, pool="first")(X)
    torch.testing.assert_close(first, net.tokens(net.maps(X).flatten(2).mT)[:, 0])


def test_the_module_is_left_as_it_was() -> None:
    net = Net()
    before, state = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    body = tapped(net, "row.0", example=X)
    assert torch.equal(state, torch.get_rng_state()) and net.training and body.training  # the example ran in eval mode
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    net(X)
    assert body.ear.heard == "unheard"  # nothing is kept alive
    assert [f"net.{n}" for n in net.state_dict()] == list(body.state_dict())


def test_copies_and_state_dicts_work() -> None:
    body = tapped(Net().eval(), "row.0", width=5)
    twin = copy.deepcopy(body)
    with torch.no_grad():
        twin.net.get_parameter("row.0.bias").add_(1)
    torch.testing.assert_close(twin(X), body(X) + 1)
    assert twin.ear is not body.ear
    twin.load_state_dict(body.state_dict())
    assert torch.equal(twin(X), body(X))


def test_gradients_flow_and_a_classifier_reads_it() -> None:
    model = Classifier(tapped(Net(), "row", width=5), nn.Linear(5, 3))
    model(X).logits.sum().backward()
    assert model.get_parameter("body.net.maps.0.weight").grad is not None
    assert model.get_parameter("body.net.answer.weight").grad is None


def test_compiled_answers_agree() -> None:
    body = tapped(Net().eval(), "tokens", width=6)
    torch.testing.assert_close(torch.compile(body, backend="eager")(X), body(X))


class Odd(nn.Module):
    def __init__(self, out: object) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.out = out

    def forward(self, x: torch.Tensor) -> object:
        return self.out


def test_objects_and_tuples_are_read() -> None:
    tokens = torch.rand(2, 5, 4)
    for out in (SimpleNamespace(last_hidden_state=tokens), (tokens, 1), {"first": tokens}):
        torch.testing.assert_close(Tapped(Odd(out), "")(X), tokens.mean(1))


def test_misuse_says_what_to_do() -> None:
    with pytest.raises(UnknownName, match="unknown layer of Net 'tokns': did you mean 'tokens'"):
        tapped(Net(), "tokns", width=4)
    with pytest.raises(BadSetting, match="'auto', 'mean' or 'first', not 'max'"):
        tapped(Net(), "maps", width=4, pool="max")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadSetting, match="how wide is layer 'maps' of Net"):
        tapped(Net(), "maps")
    with pytest.raises(BadData, match="layer 'never' did not run"):
        tapped(Net(), "never", width=4)(X)
    with pytest.raises(BadData, match="features of width 4, but width=7 was said"):
        tapped(Net(), "maps", width=7)(X)
    for out in (torch.rand(3), 5, None):
        with pytest.raises(BadData, match="tap another layer"):
            Tapped(Odd(out), "")(X)
