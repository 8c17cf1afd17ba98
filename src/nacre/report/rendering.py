"""A page as one file of HTML: style and script stand inside, nothing is asked of the network."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from ..core.errors import BadData
from .colours import STEPS, variables
from .pieces import Page

if TYPE_CHECKING:
    from jinja2 import Environment

LARGEST = 5 * 2**20
"""Bytes of a page at most."""


def html(page: Page) -> str:
    """The page as text.

    Raises:
        BadData: it would be larger than 5 MB, which takes names of many thousand letters.
    """
    made = _environment().get_template("page.html.j2")
    text = made.render(page=page, colours={scheme: variables(scheme) for scheme in ("light", "dark")}, steps=STEPS)
    if (size := len(text.encode("utf-8", "replace"))) > LARGEST:
        raise BadData(
            f"the page of {page.title[:40]!r} would have {size / 2**20:.1f} MiB, and 5 are the most: shorten the names of its "
            "tasks, classes or tensors, or use --csv"
        )
    return text


@cache
def _environment() -> Environment:
    from jinja2 import Environment as Made
    from jinja2 import PackageLoader, StrictUndefined

    made = Made(
        loader=PackageLoader("nacre.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["letters"] = _letters
    return made


def _letters(value: Any, most: int = 300) -> str:
    """A name without what no page can show, and no longer than anybody reads."""
    text = "".join(c if c >= " " and not 0xD800 <= ord(c) <= 0xDFFF else "\ufffd" for c in str(value))
    return text if len(text) <= most else f"{text[: most - 1]}…"
