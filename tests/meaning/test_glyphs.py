"""The glyph stream is what it says: disjoint, reproducible, honest about its fonts, hard without pre-training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTModel

from nacre.core.errors import BadData, BadSetting
from nacre.data import glyphs
from nacre.data.glyphs import GlyphImages, base_glyphs, distort, stream_glyphs

BACKBONE = Path(glyphs.__file__).parents[1] / "backbones" / "glyph_vit"


@pytest.fixture(scope="module")
def stream() -> GlyphImages:
    """A third of the usual number of training pictures a class, a quarter of the test pictures."""
    return stream_glyphs(seed=0, train_per_class=20, test_per_class=5)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small models are faster so, and the figures do not depend on the machine's number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_shapes_and_types(stream: GlyphImages) -> None:
    assert stream.x_train.shape == (4000, 1, 32, 32) and stream.x_train.dtype == torch.uint8
    assert stream.x_test.shape == (1000, 1, 32, 32) and stream.x_test.dtype == torch.uint8
    assert stream.y_train.dtype == stream.y_test.dtype == torch.int64
    assert (stream.y_train.bincount() == 20).all() and (stream.y_test.bincount() == 5).all()


def test_ten_tasks_of_one_script_and_twenty_classes(stream: GlyphImages) -> None:
    assert len(stream.groups) == len(set(stream.group_names)) == 10
    assert [len(group) for group in stream.groups] == [20] * 10
    assert sorted(c for group in stream.groups for c in group) == list(range(200))
    greek = stream.groups[stream.group_names.index("Greek")]
    assert all(" GREEK " in stream.names[c] for c in greek)


def test_no_stream_character_is_in_the_base() -> None:
    listed = glyphs.read_list()
    base = {glyph.code for glyph in listed["base"]}
    pools = [{glyph.code for glyph in pool} for pool in listed["stream"].values()]
    assert 850 < len(base) < 950
    assert all(len(pool) >= glyphs.PER_SCRIPT for pool in pools)
    assert len(base.union(*pools)) == len(base) + sum(map(len, pools))


def test_training_and_test_faces_are_disjoint() -> None:
    assert len(set(glyphs.TRAIN_FACES) | set(glyphs.TEST_FACES)) == 16
    assert all("Bol" in face for face in glyphs.TEST_FACES) and not any("Bol" in face for face in glyphs.TRAIN_FACES)


def test_test_pictures_come_from_bold_faces_only() -> None:
    """Bold strokes hold more ink; without distortion the two halves of a class never share a mask."""
    drawn = glyphs.draw(glyphs.read_list()["stream"]["Greek"][:20])
    bold = drawn.faces >= len(glyphs.TRAIN_FACES)
    seen = []

    def remember(masks: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(masks)
        return masks[:, :32, :32].unsqueeze(1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glyphs, "distort", remember)
        _, classes = glyphs.pictures(drawn, bold, 10, torch.Generator().manual_seed(0))
    used = torch.cat(seen).flatten(1)
    rows = [torch.where((drawn.masks.flatten(1) == mask).all(1))[0] for mask in used]
    assert all(bool(bold[row].all()) for row in rows)
    assert all(bool((drawn.classes[row] == c).all()) for row, c in zip(rows, classes.tolist(), strict=True))


def test_same_seed_same_bytes(stream: GlyphImages) -> None:
    again, other = stream_glyphs(0, 20, 5), stream_glyphs(1, 1, 1)
    assert again.sha256 == stream.sha256 and again.names == stream.names
    assert torch.equal(again.x_train, stream.x_train) and torch.equal(again.x_test, stream.x_test)
    assert other.names != stream.names and other.group_names != stream.group_names


def test_global_random_state_is_untouched() -> None:
    before = torch.random.get_rng_state()
    stream_glyphs(0, 1, 1)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_fifth_is_inverted() -> None:
    masks = glyphs.render([(0x41, face) for face in range(16)]).repeat(100, 1, 1)
    plain, mixed = (distort(masks, torch.Generator().manual_seed(0), invert=share) for share in (0.0, 0.2))
    inverted = (mixed != plain).flatten(1).any(1)
    assert 0.17 < inverted.float().mean() < 0.23
    assert (mixed[inverted].int() + plain[inverted].int() - 255).abs().max() <= 1  # a half rounds either way


def test_weak_distortion_stays_near_the_mask() -> None:
    masks = glyphs.render([(0x41, face) for face in range(16)])
    still = distort(masks, torch.Generator().manual_seed(0), strength=0.0, invert=0.0)
    assert torch.equal(still, distort(masks, torch.Generator().manual_seed(1), strength=0.0, invert=0.0))
    wild = distort(masks, torch.Generator().manual_seed(0), strength=1.0, invert=0.0)
    mild = distort(masks, torch.Generator().manual_seed(0), strength=0.1, invert=0.0)
    assert (mild.float() - still).abs().mean() < 0.4 * (wild.float() - still).abs().mean()


def test_shipped_fonts_give_the_listed_masks_or_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = glyphs.read_list()
    forged = {**listed, "base": [listed["base"][0]._replace(digest="000000")]}
    monkeypatch.setattr(glyphs, "read_list", lambda: forged)
    glyphs.warn_of_other_masks.cache_clear()
    with pytest.warns(UserWarning, match="numbers are not comparable"):
        base_glyphs()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        base_glyphs()  # once is enough
    glyphs.warn_of_other_masks.cache_clear()


def test_base_is_complete() -> None:
    base = base_glyphs()
    assert base.masks.shape[1:] == (64, 64) and base.masks.dtype == torch.uint8
    assert base.faces.unique().tolist() == list(range(16))
    assert (base.classes.bincount() >= 4).all() and len(base.names) == len(base.classes.unique())
    assert base.masks.flatten(1).any(1).all()


def test_errors_say_the_cure() -> None:
    with pytest.raises(BadSetting, match="test_per_class=0"):
        stream_glyphs(0, 1, 0)
    with pytest.raises(BadData, match=r"base_glyphs\(\)\.masks"):
        distort(torch.zeros(2, 32, 32), torch.Generator())


def test_pretraining_is_what_makes_the_stream_learnable(stream: GlyphImages, one_thread: None) -> None:
    shipped = ViTModel.from_pretrained(BACKBONE, add_pooling_layer=False).float().eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = ViTModel(shipped.config, add_pooling_layer=False).eval()
    assert nearest_mean(shipped, stream) > 0.6
    assert nearest_mean(untrained, stream) < 0.1


@torch.inference_mode()
def nearest_mean(model: nn.Module, stream: GlyphImages) -> float:
    """Accuracy of the nearest class mean on CLS features."""
    train, test = (
        torch.cat([model(part.div(255).sub(0.5).div(0.3125)).last_hidden_state[:, 0] for part in x.split(500)])
        for x in (stream.x_train, stream.x_test)
    )
    means = train.view(200, -1, train.shape[1]).mean(1)
    return (torch.cdist(test, means).argmin(1) == stream.y_test).float().mean().item()
