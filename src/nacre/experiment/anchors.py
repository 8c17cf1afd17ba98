"""Rows without labels that each task brings, to look at the backbone through."""

from __future__ import annotations

from pathlib import Path

import torch

from ..backbones import Body
from ..core.errors import BadData
from ..core.files import text_of
from ..core.rows import Rows
from ..data import Source, TextRows, form_of, load, read_tables, texts_in, tokens_of
from .config import Config


def anchors_of(config: Config, body: Body, source: Source, seed: int) -> Rows | None:
    """The rows that `data.anchors` means, as the backbone reads them; None where nothing is said.

    A `.txt` file holds a text a line, a table texts, labels being left alone; anything else is read as data are, and its
    training rows are taken.

    Raises:
        BadData: they are of another kind than the data.
    """
    asked = config.data.anchors
    if asked is None:
        return None
    if (texts := _texts(Path(asked), config.data.text)) is not None:
        if body.tokenizer is None:
            raise BadData(f"anchors: {asked} holds texts, and the backbone reads none: give rows such as the data's")
        return tokens_of("anchors", TextRows(texts, torch.zeros(len(texts), dtype=torch.long)), body.tokenizer)
    rows = load(asked, seed=seed, **config.data.reading()).train
    if isinstance(rows, TextRows) and body.tokenizer is not None:
        return tokens_of("anchors", rows, body.tokenizer)
    if (mine := _form(source.train)) != (theirs := _form(rows)):
        raise BadData(
            f"anchors: a row of {asked} is {theirs}, one of the data {mine}: bring both to one shape and type"
        )
    return rows


def _form(rows: Rows) -> str:
    """What a row is, in words."""
    x = getattr(rows, "x", None)
    return f"{tuple(x.shape[1:])} {x.dtype}" if isinstance(x, torch.Tensor) else type(rows).__name__


def _texts(path: Path, column: str | None) -> list[str] | None:
    """The texts in a file, or in the training table of a folder; None where there are no texts to read."""
    if path.suffix.lower() == ".txt":
        found: list[str | None] = [line.strip() for line in text_of(path, "text").splitlines()]
    elif path.exists() and form_of(path):
        found = list(texts_in(read_tables(path)["train"], column))
    else:
        return None
    texts = [text for text in found if text and text.strip()]
    if not texts:
        raise BadData(f"anchors: {path} holds no text: give a file with a text a line, or a table of texts")
    return texts
