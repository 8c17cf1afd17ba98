"""Which backbone reads the rows of a run, and how it reads them: texts as its own tokens."""

from __future__ import annotations

import copy
import math

from ..backbones import Body, backbone
from ..catalogue import NONE
from ..core.errors import BadData, BadSetting
from ..core.rows import TensorRows
from ..data import Source, TextRows, TokenRows, digest
from .cache import key_of
from .config import Config

GIVEN = "given in Python"
"""The name of a source or a backbone that no config can say."""


def body_of(config: Config, seed: int, source: Source, shape: tuple[int, ...], given: Body | None) -> Body:
    """The backbone that a config means.

    Args:
        config: The config.
        seed: Draws weights that are drawn.
        source: The data.
        shape: Of a row of numbers as tasks bring it; empty where rows are none.
        given: The backbone itself, where it was given in Python; it is copied.

    Raises:
        BadData: it does not read such rows.
    """
    if given is not None:
        return copy.deepcopy(given)
    name, texts = config.backbone.source, isinstance(source.train, (TextRows, TokenRows))
    if name == GIVEN:
        raise BadData("the backbone of this run was given in Python: give it again, as Experiment(config, body=...)")
    grey_or_colour = shape[0] if len(shape) == 3 and shape[0] in (1, 3) and name.startswith("convnet") else None
    table = config.backbone
    body = backbone(name, seed=seed, pretrained=table.pretrained, channels=grey_or_colour, **table.of_its_kind())
    if texts and body.tokenizer is None:
        raise BadData(
            f"{source.name} has text rows, which need a text backbone, and {name!r} reads pictures or numbers: give the folder "
            "or the hub id of a text model, such as sentence-transformers/all-MiniLM-L6-v2"
        )
    if body.tokenizer is not None and shape:
        raise BadData(
            f"{name} reads texts, the rows of {source.name} are {'x'.join(map(str, shape))} numbers: give another"
        )
    if len(shape) == 1 and body.spec.get("kind") != "mlp":
        raise BadData(
            f"{name} reads pictures, the rows of {source.name} are {shape[0]} numbers: write mlp:{shape[0]}-..."
        )
    if (
        body.spec.get("kind") == "mlp"
        and body.spec["pixels"]["size"] is None
        and math.prod(shape) != body.spec["widths"][0]
    ):
        raise BadData(
            f"{name} reads {body.spec['widths'][0]} numbers a row, the rows of {source.name} are "
            f"{'x'.join(map(str, shape))}: write mlp:{math.prod(shape)}-..."
        )
    return body


def read_by(body: Body, source: Source, config: Config) -> Source:
    """The data as this backbone reads them: texts as its tokens.

    Raises:
        BadSetting: texts shall be augmented.
        BadData: tokens were made by another tokenizer.
    """
    tokenizer = body.tokenizer
    if isinstance(source.train, TextRows) and tokenizer is not None:
        source = source.tokenized(tokenizer)
    made_by = source.train.made_by if isinstance(source.train, TokenRows) else ""
    if made_by and tokenizer is not None and made_by != tokenizer.sha256:
        raise BadData(
            f"the tokens of {source.name} were made by another tokenizer than the backbone's, or cut to another length: make "
            "them again with source.tokenized(body.tokenizer), or take the backbone that they were made for"
        )
    told = config.backbone.augment
    if not isinstance(source.train, TensorRows) and (names := [n for n in _listed(told) if n != NONE]):
        raise BadSetting(
            f"augment = {names[0]!r} changes pictures, and the rows of {source.name} are texts: leave it out"
        )
    return source


def read_as(body: Body, source: Source) -> str:
    """See `Trial`; a configuration is left out, since other versions of its package write it down otherwise."""
    told = {key: value for key, value in body.spec.items() if key not in ("source", "config", "tokenizer")}
    rows = [r for r in (source.train, source.test) if isinstance(r, TokenRows)]
    return key_of({**told, "tokens": digest(*({**r.tokens.fields, "ends": r.tokens.ends} for r in rows))})


def _listed(told: str | list[str]) -> list[str]:
    return [told] if isinstance(told, str) else told
