"""Plots as SVG that stands in a page: text stays text, colours are the page's variables, equal figures give equal bytes."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

from .colours import SERIES, TASKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = ("ink", "muted", "line", "grid", "page", *(f"c{k}" for k in range(SERIES)), *(f"t{k}" for k in range(TASKS)))
SENTINELS = {name: f"#fe{k:02x}fd" for k, name in enumerate(NAMES, 1)}
"""matplotlib knows no variables: each is drawn in a colour that nothing else has, which is then replaced."""
PER_INCH = 72
MARGINS = (50, 14, 46, 14)  # left, right, below, above, in CSS pixels
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "nacre",
    "text.parse_math": False,
    "font.size": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "legend.fontsize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.linewidth": 1,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "axes.unicode_minus": True,
    "legend.frameon": False,
    "path.simplify": True,
}


def colour(name: str) -> str:
    """What is drawn with so that the page shows its variable of that name."""
    return SENTINELS[name]


class Drawn:
    """A plot under way.

    Attributes:
        axes: To draw on.
        svg: The text, once the block of `drawing` has ended.
    """

    def __init__(self, axes: Axes):
        self.axes, self.svg = axes, ""


@contextmanager
def drawing(name: str, width: float = 520, height: float = 280) -> Iterator[Drawn]:
    """A plot that is drawn inside the block.

    Args:
        name: Begins the ids inside, so that several plots can stand in one page.
        width: In CSS pixels, at its natural size.
        height: Likewise.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    given: dict[Any, Any] = STYLE | {
        "text.color": colour("ink"),
        "axes.labelcolor": colour("muted"),
        "xtick.color": colour("muted"),
        "ytick.color": colour("muted"),
        "axes.edgecolor": colour("line"),
        "grid.color": colour("grid"),
        "legend.labelcolor": colour("ink"),
    }
    with mpl.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that the font of the layout lacks: the page brings its own
        mpl.rcParams.update(mpl.rcParamsDefault)  # pictures do not depend on somebody's matplotlibrc
        mpl.rcParams.update(given)
        figure = Figure(figsize=(width / PER_INCH, height / PER_INCH))
        figure.patch.set_alpha(0)
        left, right, bottom, top = MARGINS
        figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
        drawn = Drawn(axes)
        yield drawn
        text = StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    drawn.svg = _inline(text.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    """The picture as it stands in a page: no header, no metadata, no fonts, ids of its own, variables for colours."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s*<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    box = re.search(r'viewBox="([^"]+)"', svg)
    head = f'<svg viewBox="{box[1] if box else ""}" aria-hidden="true" focusable="false">'
    svg = re.sub(r"<svg[^>]*>", head, svg, count=1)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", svg)
    svg = re.sub(r"font: ((?:\w+ )*)([\d.]+)px [^;\"]+", r"font-size: \2px", svg)
    svg = re.sub(r"font-family: [^;\"]+;? ?", "", svg)
    for variable, sentinel in SENTINELS.items():
        svg = svg.replace(sentinel, f"var(--{variable})")
    return re.sub(r">\s+<", ">\n<", svg).strip()
