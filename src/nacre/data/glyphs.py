"""Pictures of written characters, drawn when asked for: a stream of 200 classes in 10 scripts, without a download.

Every picture starts as a *mask*: one character of one font face, drawn by Pillow from the fonts that come with
matplotlib (DejaVu and STIX, 16 faces), cropped to its ink, scaled and centred. `distort` makes pictures of masks, a
batch at a time. Latin letters, digits, punctuation and letterlike signs are the *base*, on which the shipped backbone
was trained (`scripts/pretrain_glyph_vit.py`); other scripts are the *stream*. The characters, the faces that hold them
and a digest of their masks are in `glyphs.json`, made by `scripts/make_glyph_list.py`, which leaves look-alikes out.
Masks are (rows, 64, 64) uint8, 255 is ink; pictures (rows, 1, 32, 32) uint8.
"""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
import warnings
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nacre.core.dice import dice
from nacre.core.errors import BadData, BadSetting

__all__ = ["TEST_FACES", "TRAIN_FACES", "GlyphImages", "GlyphMasks", "base_glyphs", "distort", "stream_glyphs"]

TRAIN_FACES = (  # regular and oblique: training pictures of the stream come from these alone
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSansMono-Oblique"),
    *("DejaVuSerif", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralItalic"),
)
TEST_FACES = (  # bold and bold oblique: test pictures of the stream come from these alone
    *("DejaVuSans-Bold", "DejaVuSans-BoldOblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif-Bold", "DejaVuSerif-BoldItalic", "STIXGeneralBol", "STIXGeneralBolIta"),
)
FACES = TRAIN_FACES + TEST_FACES
LIST = Path(__file__).with_name("glyphs.json")
MASK, INK, DRAWN = 64, 44, 96  # pixels: side of a mask, longest side of the ink in it, font size it is drawn at
SIDE, REACH = 32, 1.6  # side of a picture in pixels; its values run from -REACH to REACH before they are stored
PER_SCRIPT = 20  # classes a script, hence a task
CHUNK = 500  # pictures distorted at once: the working set stays in the processor's cache


class GlyphImages(NamedTuple):
    """A stream of pictures: rows for training and testing, and which classes go together.

    A model reads a picture as `(x / 255 - 0.5) / 0.3125`, the scale that `distort` works in.

    Attributes:
        x_train: Training pictures, regular and oblique faces, (rows, 1, 32, 32) uint8, sorted by class.
        y_train: Their classes, (rows,) int64.
        x_test: Test pictures, bold faces, same form.
        y_test: Their classes.
        names: One name a class, such as "U+0391 GREEK CAPITAL LETTER ALPHA".
        groups: The classes of each task, one script a task, in the order that the seed drew.
        group_names: The script of each task.
        sha256: Digest of the bytes of the four tensors, in the order above.
    """

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    names: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...]
    group_names: tuple[str, ...]
    sha256: str


class GlyphMasks(NamedTuple):
    """Undistorted masks of some characters, in every face that holds them.

    Attributes:
        masks: (rows, 64, 64) uint8, 255 is ink.
        classes: Which character each mask shows, (rows,) int64.
        faces: Which face drew it, an index into `TRAIN_FACES + TEST_FACES`, (rows,) int64.
        names: One name a class, such as "U+0041 LATIN CAPITAL LETTER A".
    """

    masks: Tensor
    classes: Tensor
    faces: Tensor
    names: tuple[str, ...]


class Glyph(NamedTuple):
    """One listed character: code point, the faces that hold it (bit i: face i), the start of its masks' digest."""

    code: int
    held: int
    digest: str

    @property
    def faces(self) -> list[int]:
        """Indices of the faces that hold this character."""
        return [face for face in range(len(FACES)) if self.held >> face & 1]


def stream_glyphs(seed: int = 0, train_per_class: int = 60, test_per_class: int = 20) -> GlyphImages:
    """Draw the glyph stream: 10 tasks of 20 characters, one script a task, tested in bold faces never trained on.

    The seed draws the order of the scripts, the characters of each and every picture; 20 % of the pictures are
    inverted. The same seed gives the same bytes with the same fonts, Pillow and kind of processor; if masks differ from
    those that published numbers were measured with, a warning says so.

    Args:
        seed: Any integer.
        train_per_class: Training pictures of each class.
        test_per_class: Test pictures of each class.

    Raises:
        BadSetting: A class would have no picture.
        BadData: the fonts of matplotlib are missing.

    Example:
        >>> data = stream_glyphs(seed=0, train_per_class=3, test_per_class=1)
        >>> data.x_train.shape, len(data.groups)
        (torch.Size([600, 1, 32, 32]), 10)
    """
    if min(train_per_class, test_per_class) < 1:
        raise BadSetting(
            f"each class needs at least one training and one test picture, got train_per_class={train_per_class} and "
            f"test_per_class={test_per_class}: raise the smaller one to 1 or more"
        )
    scripts = read_list()["stream"]
    choice = dice(seed, "glyphs", "choice")
    order = shuffled(list(scripts), choice)
    glyphs = [glyph for name in order for glyph in shuffled(scripts[name], choice)[:PER_SCRIPT]]
    drawn = draw(glyphs)
    bold = drawn.faces >= len(TRAIN_FACES)
    train = pictures(drawn, ~bold, train_per_class, dice(seed, "glyphs", "train"))
    test = pictures(drawn, bold, test_per_class, dice(seed, "glyphs", "test"))
    groups = tuple(tuple(range(first, first + PER_SCRIPT)) for first in range(0, len(glyphs), PER_SCRIPT))
    return GlyphImages(*train, *test, drawn.names, groups, tuple(order), digest_of(*train, *test))


def base_glyphs() -> GlyphMasks:
    """Draw the masks of the base characters, on which backbones are pre-trained, in all 16 faces.

    No class of `stream_glyphs` is among them. Distort them with `distort(masks[rows], generator, invert=0.0)`.
    """
    return draw(read_list()["base"])


def shuffled(items: list[Any], generator: torch.Generator) -> list[Any]:
    """The items in an order drawn by the generator."""
    return [items[place] for place in torch.randperm(len(items), generator=generator).tolist()]


def pictures(drawn: GlyphMasks, usable: Tensor, per_class: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Distort `per_class` masks of each class, drawn with replacement from those that are `usable`, (masks,) bool."""
    classes = torch.arange(len(drawn.names)).repeat_interleave(per_class)  # (rows,)
    rows = torch.where(usable)[0]  # sorted by class, as `draw` leaves them
    counts = drawn.classes[rows].bincount(minlength=len(drawn.names))
    pick = (torch.rand(len(classes), generator=generator) * counts[classes]).long()
    chosen = rows[(counts.cumsum(0) - counts)[classes] + pick]
    return torch.cat([distort(drawn.masks[part], generator) for part in chosen.split(CHUNK)]), classes


def distort(masks: Tensor, generator: torch.Generator, strength: float = 1.0, invert: float = 0.2) -> Tensor:
    """Make a distorted 32x32 picture of each mask: turned, stretched, bent, thicker or thinner, paler, noisy.

    Random numbers are drawn from the CPU generator and then moved, so they are equal on every device. The picture has
    values v in [-1.6, 1.6], stored as `round((v + 1.6) / 3.2 * 255)`.

    Args:
        masks: (rows, 64, 64) uint8, on any device.
        generator: A CPU generator; `len(masks)` and nothing else decides how many numbers are taken from it.
        strength: How far everything but the inversion goes, 0 to 1.
        invert: Share of the pictures that are turned into their negative.

    Returns:
        Pictures (rows, 1, 32, 32) uint8 on the device of the masks.
    """
    if masks.dtype != torch.uint8 or masks.shape[1:] != (MASK, MASK) or not len(masks):
        raise BadData(
            f"distort takes masks of shape (rows, {MASK}, {MASK}) and type uint8, with a row at least, got "
            f"{tuple(masks.shape)} {masks.dtype}: take them from base_glyphs().masks"
        )
    count, device = len(masks), masks.device
    uniform = torch.rand(count, 10, generator=generator).mul_(2).sub_(1)  # (rows, 10), each in -1 .. 1
    field = torch.randn(count, 2, 5, 5, generator=generator)
    noise = torch.randn(count, 1, SIDE, SIDE, generator=generator)
    flip = torch.rand(count, generator=generator) < invert
    uniform, field, noise, flip = (t.to(device) for t in (uniform, field, noise, flip))

    grid = F.affine_grid(placement(uniform[:, :6] * strength), [count, 1, SIDE, SIDE], align_corners=False)
    bend = F.interpolate(field * (0.06 * strength), size=(SIDE, SIDE), mode="bicubic", align_corners=False)
    soft = F.avg_pool2d(masks.unsqueeze(1).float().div_(255), 3, stride=1, padding=1)
    ink = F.grid_sample(soft, grid + bend.permute(0, 2, 3, 1), align_corners=False)  # (rows, 1, 32, 32)

    weight, pale, shade, grain = uniform[:, 6:].reshape(count, 4, 1, 1, 1).unbind(1)
    ink = torch.sigmoid(8 * (ink - 0.45 - 0.2 * strength * weight))
    contrast = 1 - 0.3 * strength * (1 + pale)
    picture = (ink - 0.5) * contrast + 0.5 * (1 - contrast) * shade + noise * (0.075 * strength * (1 + grain))
    picture = (picture * 2).clamp_(-REACH, REACH)
    picture = torch.where(flip.view(-1, 1, 1, 1), -picture, picture)
    return ((picture + REACH) * (255 / (2 * REACH))).round().to(torch.uint8)


def placement(draws: Tensor) -> Tensor:
    """Where each picture looks at its mask, as affine matrices (rows, 2, 3); draws are (rows, 6) in -1 .. 1."""
    angle, zoom, aspect, shear, right, down = draws.unbind(1)
    turn, size = angle * math.radians(15), 1 / (1.2 * (1 + 0.2 * zoom))
    wide, high = size * (1 + 0.15 * aspect), size * (1 - 0.15 * aspect)
    cos, sin, slant = turn.cos(), turn.sin(), 0.2 * shear
    across = torch.stack([wide * cos, wide * (slant * cos - sin), 0.1 * right], 1)
    along = torch.stack([high * sin, high * (slant * sin + cos), 0.1 * down], 1)
    return torch.stack([across, along], 1)


def draw(glyphs: list[Glyph]) -> GlyphMasks:
    """Draw characters in all the faces that hold them, and warn if a mask is not what the list was made with."""
    at = [(place, face) for place, glyph in enumerate(glyphs) for face in glyph.faces]
    masks = render([(glyphs[place].code, face) for place, face in at])
    places, faces = torch.tensor(at).unbind(1)
    of_each = zip(glyphs, masks.split([len(glyph.faces) for glyph in glyphs]), strict=True)
    if not all(digest_of(own).startswith(glyph.digest) for glyph, own in of_each):
        warn_of_other_masks()
    names = tuple(f"U+{glyph.code:04X} {unicodedata.name(chr(glyph.code))}" for glyph in glyphs)
    return GlyphMasks(masks, places, faces, names)


@lru_cache(maxsize=1)
def warn_of_other_masks() -> None:
    """Say that masks differ from those that published numbers were measured with; later calls are silent."""
    warnings.warn(
        f"glyph masks are not those of the published numbers (there: {read_list()['made_with']}, here: {versions()}): "
        "the pictures can be used, but numbers are not comparable; install the versions named first to compare",
        stacklevel=4,
    )


def render(wanted: list[tuple[int, int]]) -> Tensor:
    """Draw (code point, face index) pairs: ink cropped, longest side 44 pixels, centred; (rows, 64, 64) uint8."""
    fonts = [font(face) for face in range(len(FACES))]
    from PIL import Image, ImageDraw

    masks = bytearray()
    for code, face in wanted:
        page = Image.new("L", (4 * DRAWN, 3 * DRAWN))
        ImageDraw.Draw(page).text((DRAWN, DRAWN), chr(code), fill=255, font=fonts[face])
        mask = Image.new("L", (MASK, MASK))
        box = page.getbbox()
        if box:
            ink = page.crop(box)
            width, height = (max(1, round(side * INK / max(ink.size))) for side in ink.size)
            ink = ink.resize((width, height), Image.Resampling.BILINEAR)
            mask.paste(ink, ((MASK - width) // 2, (MASK - height) // 2))
        masks += mask.tobytes()
    return torch.frombuffer(masks, dtype=torch.uint8).view(-1, MASK, MASK)


@lru_cache(maxsize=len(FACES))
def font(face: int) -> Any:
    """Open one face, at the size it is drawn at, from matplotlib's font folder (matplotlib itself is not imported)."""
    spec = find_spec("matplotlib")
    home = Path(next(iter(spec.submodule_search_locations or ()), "")) if spec else Path()
    path = home / "mpl-data" / "fonts" / "ttf" / f"{FACES[face]}.ttf"
    if not path.is_file():
        raise BadData(
            f"glyphs are drawn by Pillow from the fonts that come with matplotlib, and {path.name} is missing: "
            "pip install matplotlib (it brings Pillow), or reinstall it"
        )
    from PIL import ImageFont

    return ImageFont.truetype(str(path), DRAWN, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1)
def read_list() -> dict[str, Any]:
    """Read `glyphs.json`: "base" is a list of `Glyph`, "stream" one list a script, "made_with" names versions."""
    stored = json.loads(LIST.read_text(encoding="utf-8"))
    stored["stream"] = {name: unpack(entries) for name, entries in stored["stream"].items()}
    return {**stored, "base": unpack(stored["base"])}


def unpack(entries: str) -> list[Glyph]:
    """Read entries `code:faces:digest`, the first two in hexadecimal, with spaces between entries."""
    parts = (entry.split(":") for entry in entries.split())
    return [Glyph(int(code, 16), int(held, 16), digest) for code, held, digest in parts]


def digest_of(*tensors: Tensor) -> str:
    """SHA-256 of the bytes of tensors, one after the other, in hexadecimal."""
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides the masks: the fonts (matplotlib), Pillow, and the FreeType inside Pillow."""
    from PIL import features

    found = {"matplotlib": version("matplotlib"), "Pillow": version("Pillow")}
    return {**found, "FreeType": features.version("freetype2") or "none"}
