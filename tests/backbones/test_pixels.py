"""From raw pictures to what a body reads."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from nacre.backbones import Pixels
from nacre.core.dice import dice
from nacre.core.errors import BadData, BadSetting

GREY = torch.randint(0, 256, (3, 1, 6, 8), generator=dice(0), dtype=torch.uint8)
RGB = torch.randint(0, 256, (3, 3, 6, 8), generator=dice(1), dtype=torch.uint8)


def test_bytes_and_numbers_mean_the_same() -> None:
    torch.testing.assert_close(Pixels()(GREY), GREY / 255)
    assert torch.equal(Pixels()(GREY / 255), GREY / 255)
    torch.testing.assert_close(Pixels(3, 4, 0.5, 0.5)(GREY), Pixels(3, 4, 0.5, 0.5)(GREY / 255))
    assert torch.equal(Pixels()(torch.rand(4, 7).double()).long(), torch.zeros(4, 7).long())  # vectors pass


def test_channels_are_adapted() -> None:
    assert torch.equal(Pixels(3)(GREY), (GREY / 255).repeat(1, 3, 1, 1))
    luma = 0.299 * RGB[:, 0] + 0.587 * RGB[:, 1] + 0.114 * RGB[:, 2]
    torch.testing.assert_close(Pixels(1)(RGB)[:, 0], luma / 255)
    torch.testing.assert_close(Pixels(1)(GREY.repeat(1, 3, 1, 1)), GREY / 255)  # grey stays grey


def test_size_is_bicubic_and_antialiased_where_it_shrinks() -> None:
    assert torch.equal(Pixels(size=(6, 8))(GREY), GREY / 255)
    assert Pixels(size=12)(GREY).shape == (3, 1, 12, 12)
    stripes = (torch.arange(64) % 2 * 255).to(torch.uint8).expand(1, 1, 64, 64)
    shrunk = Pixels(size=9)(stripes)[..., 1:-1, 1:-1]
    assert float((shrunk - 0.5).abs().max()) < 0.1  # without antialiasing stripes would survive as other stripes
    large = Pixels(size=40)(RGB)
    assert large.min() >= 0 and large.max() <= 1


def test_values_are_normalised_by_channel() -> None:
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    given = Pixels(3, mean=mean, std=std)(RGB)
    for k in range(3):
        torch.testing.assert_close(given[:, k], (RGB[:, k] / 255 - mean[k]) / std[k])
    torch.testing.assert_close(Pixels(1, mean=0.5, std=[0.25])(GREY), (GREY / 255 - 0.5) / 0.25)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float32])
def test_the_dtype_is_that_of_the_module(kind: torch.dtype) -> None:
    pixels = Pixels(3, 10, 0.5, 0.5).to(kind)
    assert pixels(GREY).dtype == pixels((GREY / 255).half()).dtype == kind


def test_nothing_is_added_to_a_state_dict_and_settings_make_it_again() -> None:
    pixels = Pixels(3, (4, 5), [0.485, 0.456, 0.406], 0.25)
    assert not pixels.state_dict() and not list(pixels.parameters())
    assert torch.equal(Pixels(**pixels.settings)(RGB), pixels(RGB))
    assert torch.equal(copy.deepcopy(pixels)(RGB), pixels(RGB)) and "size=[4, 5]" in repr(pixels)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 2}, "1 channel .grey. or 3 .RGB., not 2"),
        ({"size": 0}, "at least 1, .*, not 0"),
        ({"size": (3, 4, 5)}, "side in pixels or .height, width."),
        ({"channels": 3, "mean": [0.1, 0.2]}, "2 values of mean for 3 channels"),
        ({"std": 0.0}, "above 0, not 0.0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        Pixels(**settings)


@pytest.mark.parametrize(
    ("pixels", "x", "message"),
    [
        (Pixels(3), GREY.long(), "not torch.int64: convert"),
        (Pixels(3), GREY[:, 0], "not .3, 6, 8.: add what is missing"),
        (Pixels(size=4), torch.rand(3, 7), "not .3, 7."),
        (Pixels(3), RGB.permute(0, 2, 3, 1), "have 6 channels.*channels last need x.permute"),
        (Pixels(mean=[0.1, 0.2, 0.3]), GREY, "mean or std has 3 channels, the pictures 1"),
    ],
)
def test_wrong_pictures_are_refused(pixels: Pixels, x: torch.Tensor, message: str) -> None:
    with pytest.raises(BadData, match=message):
        pixels(x)
