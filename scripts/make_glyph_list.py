"""Make `src/nacre/data/glyphs.json`: which characters the base and the stream hold, and digests of their masks.

    python scripts/make_glyph_list.py

A character is a candidate if at least 4 of the 16 faces hold it, regular and bold ones among them. Candidates are
walked in order, the base first and then one script after the other; one whose masks look like those of a character
already kept (mean cosine of the blurred masks over the faces that hold both, above 0.95) is left out. Size is no
difference: masks are scaled to their ink. Characters that are another one's mirror image or rotation stay.
"""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from fontTools.ttLib import TTFont  # a requirement of matplotlib
from torch import Tensor

from nacre.data import glyphs
from nacre.data.glyphs import FACES, LIST, TRAIN_FACES, Glyph

ALIKE = 0.95  # mean cosine above which two characters count as look-alikes
LEAST = 4  # faces that must hold a character
BLOCKS = {  # groups told by code point; the others are told by name or category
    "arrows": [(0x2190, 0x21FF), (0x27F0, 0x27FF), (0x2900, 0x297F)],
    "mathematical operators": [(0x2200, 0x22FF), (0x27C0, 0x27EF), (0x2980, 0x29FF), (0x2A00, 0x2AFF)],
    "symbols": [(0x2300, 0x23FF), (0x25A0, 0x25FF), (0x2600, 0x26FF), (0x2700, 0x27BF)],
    "letterlike": [(0x2100, 0x218F)],
    "left out": [(0x2460, 0x24FF), (0x2500, 0x259F), (0x2800, 0x28FF)],  # enclosed, boxes and blocks, Braille
}
WORDS = {  # first word of the Unicode name -> group
    "LATIN": "Latin",
    "GREEK": "Greek",
    "CYRILLIC": "Cyrillic",
    "ARMENIAN": "Armenian",
    "GEORGIAN": "Georgian",
    "HEBREW": "Hebrew",
    "ARABIC": "Arabic",
    "CANADIAN": "Canadian syllabics",
}
BASE = ("Latin", "digits", "punctuation", "currency", "letterlike")
STREAM = (
    "Greek",
    "Cyrillic",
    "Armenian",
    "Georgian",
    "Hebrew",
    "Arabic",
    "Canadian syllabics",
    "arrows",
    "mathematical operators",
    "symbols",
)
OTHER_SCRIPTS = ("LAO", "THAI", "NKO", "OGHAM", "RUNIC", "TIFINAGH", "CHEROKEE", "COPTIC", "TIBETAN", "DEVANAGARI")


def main() -> None:
    """Write the list and say how many characters it holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=LIST)
    out = parser.parse_args().out
    found = candidates()
    kept = without_look_alikes([glyph for group in (*BASE, *STREAM) for glyph in found[group]])
    chosen = {group: [kept[glyph.code] for glyph in found[group] if glyph.code in kept] for group in (*BASE, *STREAM)}
    stored = {
        "about": "made by scripts/make_glyph_list.py; each entry is code point:faces that hold it:digest of its masks",
        "made_with": glyphs.versions(),
        "faces": FACES,
        "base": packed(glyph for group in BASE for glyph in chosen[group]),
        "stream": {group: packed(chosen[group]) for group in STREAM},
    }
    out.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    for group in (*BASE, *STREAM):
        print(f"{group:24} {len(found[group]):4} candidates {len(chosen[group]):4} kept")


def candidates() -> dict[str, list[Glyph]]:
    """Characters of each group that enough faces hold, by code point; digests are still empty."""
    held: dict[int, int] = {}
    for face in range(len(FACES)):
        for code in TTFont(glyphs.font(face).path).getBestCmap() or ():
            held[code] = held.get(code, 0) | 1 << face
    regular = (1 << len(TRAIN_FACES)) - 1
    found: dict[str, list[Glyph]] = {group: [] for group in (*BASE, *STREAM)}
    for code, faces in sorted(held.items()):
        group = group_of(code)
        if group in found and faces.bit_count() >= LEAST and faces & regular and faces & ~regular:
            found[group].append(Glyph(code, faces, ""))
    return found


def group_of(code: int) -> str | None:
    """The group of a character; None for what cannot be told apart, has no ink, or belongs to no group."""
    char = chr(code)
    category, name = unicodedata.category(char), unicodedata.name(char, "")
    if not name or category[0] in "CZM":
        return None
    for group, ranges in BLOCKS.items():
        if any(first <= code <= last for first, last in ranges):
            return group
    if category == "Nd" and code < 0x10000:
        return "digits"
    if category == "Sc":
        return "currency"
    word = name.split()[0]
    if word in WORDS:
        return WORDS[word]
    return "punctuation" if code < 0x2E80 and word not in OTHER_SCRIPTS else None


def without_look_alikes(found: list[Glyph]) -> dict[int, Glyph]:
    """Keep the first of each family of look-alikes; what is kept gets its digest."""
    kept: dict[int, Glyph] = {}
    looks = torch.zeros(len(found), len(FACES), 256)  # what each kept character looks like; zero where no face has it
    for glyph in found:
        masks = glyphs.render([(glyph.code, face) for face in glyph.faces])
        if not masks.flatten(1).any(1).all():
            continue  # a face holds it without ink
        look = torch.zeros(len(FACES), 256)
        look[glyph.faces] = coarse(masks)
        earlier = looks[: len(kept)]
        shared = (earlier.any(2) & look.any(1)).sum(1)
        likeness = torch.einsum("nfd,fd->n", earlier, look) / shared.clamp(min=1)
        if not (likeness > ALIKE).any():
            looks[len(kept)] = look
            kept[glyph.code] = glyph._replace(digest=glyphs.digest_of(masks)[:6])
    return kept


def coarse(masks: Tensor) -> Tensor:
    """Blur masks (rows, 64, 64), pool them to 16x16 and scale each to length 1: (rows, 256)."""
    soft = F.avg_pool2d(masks.unsqueeze(1).float(), 5, stride=1, padding=2)
    return F.normalize(F.avg_pool2d(soft, 4).flatten(1))


def packed(chosen: Iterable[Glyph]) -> str:
    """Glyphs as one string of entries that `glyphs.unpack` reads."""
    return " ".join(f"{glyph.code:x}:{glyph.held:x}:{glyph.digest}" for glyph in chosen)


if __name__ == "__main__":
    main()
