"""Pixels, body and head as one model that core understands."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nacre.backbones import MLP, Body, Classifier, Pixels, backbone
from nacre.core.errors import BadSetting
from nacre.core.model import fingerprint, forward, grow, head_prefixes
from nacre.core.rows import Batch
from nacre.heads import GrowingLinear, MultiHead

X = torch.randint(0, 256, (5, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def model(head: nn.Module | None = None) -> Classifier:
    return Classifier(backbone("mlp:16-12-8"), head or GrowingLinear(8, 2))


def test_answers_carry_logits_and_features() -> None:
    made = model()
    out = forward(made, Batch(X, torch.zeros(5).long()))
    assert out.features is not None and out.features.shape == (5, 8) and out.logits.shape == (5, 2)
    assert torch.equal(out.logits, made.head(out.features)) and made.width == 8


def test_only_the_head_grows_and_the_body_keeps_its_fingerprint() -> None:
    made = model()
    before = fingerprint(made)
    assert grow(made, 6) and not hasattr(made, "grow")
    assert made(X).logits.shape == (5, 6) and fingerprint(made) == before and head_prefixes(made) == ("head",)
    assert {n.split(".")[0] for n in made.state_dict()} == {"body", "head"}


def test_task_ids_reach_heads_that_separate_tasks_and_no_others() -> None:
    plain, told = model(), model(MultiHead(8))
    grow(told, 2, 0, (0, 1))
    grow(told, 4, 1, (2, 3))
    assert told.takes_task and not plain.takes_task
    tasks = torch.tensor([0, 0, 1, 1, 1])
    assert torch.equal(plain(X, tasks).logits, plain(X).logits)
    logits = forward(told, Batch(X, tasks, task=tasks)).logits
    assert (logits[:2, 2:] == MultiHead.OTHER).all() and (logits[2:, :2] == MultiHead.OTHER).all()


def test_fp64_stays_fp64_and_copies_agree() -> None:
    made = model().double()
    assert made(X).logits.dtype == torch.float64
    twin = copy.deepcopy(made)
    assert torch.equal(twin(X).logits, made(X).logits)


def test_parts_may_be_given_one_by_one() -> None:
    made = Classifier(MLP((16, 8)), nn.Linear(8, 3), Pixels(1, 4))
    assert made(torch.zeros(2, 3, 9, 9)).logits.shape == (2, 3)
    assert Classifier(nn.Flatten(), nn.Linear(16, 3))(X.float()).features.shape == (5, 16)
    assert Classifier(nn.Flatten(), nn.Identity(), width=16).width == 16
    assert Classifier(Body(MLP((16, 8)), Pixels(), 8), nn.Identity()).width == 8


def test_unknown_or_contradicting_widths_are_refused() -> None:
    with pytest.raises(BadSetting, match=r"how wide are the features of Flatten.*width=..."):
        Classifier(nn.Flatten(), nn.Identity())
    with pytest.raises(BadSetting, match="the head reads 9 features, the body gives 8: make the head 8 wide"):
        Classifier(backbone("mlp:16-8"), GrowingLinear(9))
