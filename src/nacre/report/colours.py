"""The colours of a page: CSS variables for both schemes, and scales for heat maps that can be read without telling hues apart.

A scale goes from near the background to far from it in even steps of perceived lightness, in OKLab; the ink on each step is
black or white, whichever contrasts more, which is never below 4.5 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

STEPS = 20
INK = ("#000000", "#ffffff")
LIGHT = {
    "page": "#ffffff",
    "panel": "#f6f7f9",
    "line": "#d9dee5",
    "ink": "#16202c",
    "muted": "#556171",
    "accent": "#1f5fa8",
    "good": "#00694e",
    "bad": "#b3261e",
    "grid": "#e4e8ee",
    "c0": "#1f5fa8",
    "c1": "#c4500a",
    "c2": "#00795a",
    "c3": "#93357a",
    "c4": "#806500",
    "c5": "#2280ad",
    "c6": "#5f6b78",
    "c7": "#7a4a2b",
}
DARK = {
    "page": "#10151c",
    "panel": "#182029",
    "line": "#313c4a",
    "ink": "#e7ecf3",
    "muted": "#a3afbe",
    "accent": "#82bcf0",
    "good": "#4fd0a5",
    "bad": "#ff9d94",
    "grid": "#28323e",
    "c0": "#82bcf0",
    "c1": "#ff9d61",
    "c2": "#43cca3",
    "c3": "#ea9fcc",
    "c4": "#e3c24e",
    "c5": "#9adcf5",
    "c6": "#a7b3c1",
    "c7": "#d3ad90",
}
SERIES = 8
TASKS = 10  # colours of tasks, from the first to the last
TASK_HUES = {
    "light": ("#43308a", "#2c6f9f", "#188a74", "#5f8a12", "#a87400"),
    "dark": ("#a596f5", "#6cb6e8", "#4fd6b4", "#b6dd5a", "#ffd45e"),
}
SCALES = {
    "score": {
        "light": ("#f1f6fb", "#b5d3ec", "#5d9cd1", "#205fa8", "#0a2c66"),
        "dark": ("#17202c", "#1d3a5e", "#2d6cab", "#74b5e5", "#dcf0ff"),
    },
    "motion": {
        "light": ("#fcf7f0", "#f7d8aa", "#e69a4c", "#b5581a", "#642609"),
        "dark": ("#221c17", "#4d2e15", "#a3571e", "#eaa05a", "#ffebd0"),
    },
}
"""Blue for scores and orange for motion: told apart by everybody, each read by its lightness."""


def mixed(stops: Sequence[str], count: int) -> list[str]:
    """So many colours between the stops, even in OKLab."""
    known = [_oklab(stop) for stop in stops]
    found = []
    for k in range(count):
        place = k / max(count - 1, 1) * (len(known) - 1)
        low = min(int(place), len(known) - 2)
        part = place - low
        found.append(_hex([a + (b - a) * part for a, b in zip(known[low], known[low + 1], strict=True)]))
    return found


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG defines it, 1 to 21.

    >>> round(contrast("#000000", "#ffffff"))
    21
    """
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def ink_on(colour: str) -> str:
    """Black or white, whichever is read more easily there."""
    return max(INK, key=lambda ink: contrast(ink, colour))


def variables(scheme: str) -> dict[str, str]:
    """The variables of a scheme, `light` or `dark`: colours of the page, of lines, and of both scales with their inks."""
    found = dict(LIGHT if scheme == "light" else DARK)
    found |= {f"t{k}": colour for k, colour in enumerate(mixed(TASK_HUES[scheme], TASKS))}
    for name, ends in SCALES.items():
        for k, colour in enumerate(mixed(ends[scheme], STEPS + 1)):
            found |= {f"{name}-{k}": colour, f"{name}-{k}-ink": ink_on(colour)}
    return found


def step(share: float) -> int:
    """The step of a scale for a share of its length.

    >>> step(0.0), step(0.5), step(7.0)
    (0, 10, 20)
    """
    return round(min(max(share, 0.0), 1.0) * STEPS)


def of_task(place: int, count: int) -> str:
    """The variable of a task's colour by its place in the stream."""
    return f"t{round(place / max(count - 1, 1) * (TASKS - 1))}"


def _channels(colour: str) -> list[float]:
    """Linear red, green, blue."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def _luminance(colour: str) -> float:
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), _channels(colour), strict=True))


def _oklab(colour: str) -> list[float]:
    r, g, b = _channels(colour)
    cones = (
        0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b,
        0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b,
        0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b,
    )
    x, y, z = (c ** (1 / 3) for c in cones)
    return [
        0.2104542553 * x + 0.7936177850 * y - 0.0040720468 * z,
        1.9779984951 * x - 2.4285922050 * y + 0.4505937099 * z,
        0.0259040371 * x + 0.7827717662 * y - 0.8086757660 * z,
    ]


def _hex(lab: Sequence[float]) -> str:
    lightness, a, b = lab
    x = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    y = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    z = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
        -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z,
        -0.0041960863 * x - 0.7034186147 * y + 1.7076147010 * z,
    )
    inside = [min(max(c, 0.0), 1.0) for c in linear]
    parts = [12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055 for c in inside]
    return "#" + "".join(f"{round(255 * p):02x}" for p in parts)
