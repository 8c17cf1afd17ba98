"""Augmentation: each row by its own dice, raw rows untouched, the same generator the same bits."""

from __future__ import annotations

import pytest
import torch

from nacre.core.dice import dice
from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.core.rows import Augment, Batch
from nacre.data import AUGMENTS, Compose, Flip, Jitter, Shift, augmentation

ALL = [Jitter(), Shift(), Flip(), Compose((Flip(), Shift(), Jitter()))]


def batch(kind: torch.dtype = torch.uint8, rows: int = 9, channels: int = 3) -> Batch:
    x = torch.randint(0, 256, (rows, channels, 12, 10), generator=dice(0), dtype=torch.uint8)
    x = x if kind == torch.uint8 else x.to(kind) / 255
    return Batch(x, torch.arange(rows), raw=x)


@pytest.mark.parametrize("augment", ALL, ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64])
def test_pictures_change_and_nothing_else(augment: Augment, kind: torch.dtype) -> None:
    given = batch(kind)
    kept, state = given.x.clone(), torch.get_rng_state()
    one, same, other = augment(given, dice(1)), augment(given, dice(1)), augment(given, dice(2))
    assert torch.equal(one.x, same.x) and not torch.equal(one.x, other.x)
    assert one.raw is given.raw and torch.equal(given.raw, kept) and one.y is given.y
    assert one.x.shape == given.x.shape and not torch.equal(one.x.to(torch.float64), kept.to(torch.float64))
    if one.x.is_floating_point():
        assert (
            one.x.min() >= 0 and one.x.max() <= 1 and one.x.dtype == (kind if kind.is_floating_point else torch.float32)
        )
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("augment", ALL[:3], ids=lambda a: type(a).__name__)
def test_rows_are_drawn_independently(augment: Augment) -> None:
    one = batch(rows=1).x.repeat(16, 1, 1, 1)
    moved = augment(Batch(one, torch.zeros(16)), dice(3)).x.flatten(1)
    assert len({tuple(row) for row in moved.tolist()}) > (1 if isinstance(augment, Flip) else 8)


def test_without_any_strength_pictures_stay() -> None:
    given = batch()
    still = Jitter(turn=0, zoom=0, slant=0, shift=0, light=0, contrast=0)(given, dice(0))
    torch.testing.assert_close(still.x, given.x / 255, atol=1e-5, rtol=0)
    assert torch.equal(Shift(0)(given, dice(0)).x, given.x) and torch.equal(Flip(0.0)(given, dice(0)).x, given.x)
    assert torch.equal(Flip(1.0)(given, dice(0)).x, given.x.flip(-1))


def test_jitter_treats_bytes_and_numbers_alike() -> None:
    torch.testing.assert_close(
        Jitter()(batch(), dice(5)).x, Jitter()(batch(torch.float32), dice(5)).x, atol=1e-5, rtol=0
    )


def test_the_edge_goes_on_beyond_the_border() -> None:
    flat = Batch(torch.full((20, 1, 8, 8), 200, dtype=torch.uint8), torch.zeros(20))
    assert torch.equal(Shift(5)(flat, dice(0)).x, flat.x)
    moved = Jitter(light=0, contrast=0, shift=0.5)(flat, dice(0)).x
    torch.testing.assert_close(moved, flat.x / 255, atol=1e-5, rtol=0)


def test_shift_is_a_crop_of_the_padded_picture() -> None:
    given = batch(rows=30)
    padded = torch.nn.functional.pad(given.x.float(), (2, 2, 2, 2), mode="replicate")
    for old, new in zip(padded, Shift(2)(given, dice(0)).x.float(), strict=True):
        crops = [old[:, top : top + 12, left : left + 10] for top in range(5) for left in range(5)]
        assert any(torch.equal(crop, new) for crop in crops)


def test_names_make_augmentations() -> None:
    assert augmentation(None) is augmentation("none") is augmentation([]) is None
    assert augmentation("jitter") == Jitter() and augmentation(["none", "shift"]) == Shift()
    assert augmentation(["flip", "shift"]) == Compose((Flip(), Shift()))
    assert all(text.endswith(".") for text in AUGMENTS.values())
    for name in AUGMENTS:
        augmentation(name)


def test_misuse_says_what_to_do() -> None:
    with pytest.raises(UnknownName, match="unknown augmentation 'jiter': did you mean 'jitter'"):
        augmentation("jiter")
    for x in (torch.rand(3, 5), torch.zeros(2, 1, 4, 4, dtype=torch.long), {"input_ids": torch.zeros(2, 3)}):
        for augment in ALL[:3]:
            with pytest.raises(BadData, match=r"changes pictures .* use augmentation 'none'"):
                augment(Batch(x, torch.zeros(len(x))), dice(0))
    with pytest.raises(BadSetting, match=r"Jitter.turn must be in"):
        Jitter(turn=-1)
    with pytest.raises(BadSetting, match=r"Flip.share"):
        Flip(share=2)
