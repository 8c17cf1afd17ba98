"""Which columns of a dataset in Hugging Face form are pictures, texts, numbers and labels, and the rows that they make."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..core.errors import BadData, BadSetting, UnknownName, shown
from .columns import LABELS, from_tables, label_of
from .images import picture_of, sides_of
from .labels import numbered
from .source import Source
from .tables import Table, doubled, listed, part_of
from .unread import Unread

IMAGES = ("image", "img", "picture", "pixels")


@dataclass(frozen=True)
class Rows:
    """One part of a dataset.

    Attributes:
        table: All columns but those of pictures.
        pictures: Columns of pictures: Arrow columns of their files.
    """

    table: Table
    pictures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextsOrNumbers:
    """A dataset without pictures, and which of its columns are meant.

    Attributes:
        tables: By part.
        name: What it is called.
        text: The column of the texts; None guesses.
        label: The column of the labels; None guesses.
    """

    tables: Mapping[str, Table]
    name: str
    text: str | None
    label: str | None

    def source(self, seed: int, test_share: float) -> Source:
        """See `from_tables`."""
        return from_tables(self.tables, self.name, seed, test_share, text=self.text, label=self.label)


def meant(
    held: Mapping[str, Rows],
    name: str,
    where: str,
    text: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | Sequence[int] | None = None,
) -> Unread | TextsOrNumbers:
    """What the parts of a dataset hold, by the names that they have there."""
    named = {part: part_of(part) for part in held}
    if (twice := doubled(part for part in named.values() if part)) is not None:
        raise BadData(f"{where} has {twice} rows under two names: keep one of them")
    if "train" not in named.values():
        raise BadData(f"{where} has the parts {listed(held)}, and none of them is called train: name one so")
    parts = {named[part]: rows for part, rows in held.items() if named[part]}
    left = [part for part in held if not named[part]]
    done = [f"parts of the data that were left out: {listed(left)}"] if left else []
    train = parts["train"]
    if text is not None and image is not None:
        raise BadSetting(f"text = {text!r} and image = {image!r} are both said to be what is learned from: say one")
    if image is not None and image not in train.pictures:
        raise UnknownName(f"column of pictures in {where}", image, train.pictures)
    image = image if image is not None or text is not None else _named_image(where, train)
    labels = label if label is not None else label_of(train.table, text)
    if labels is not None:
        parts, unlabelled = _labelled(parts, labels)
        done += [f"rows of these parts have no labels and were left out: {listed(unlabelled)}"] if unlabelled else []
        done += _without_rows(train.table, labels)
    tables = {part: rows.table for part, rows in parts.items()}
    if image is None:
        if size is not None:
            raise BadSetting(f"size = {shown(size)} is said of pictures, and {where} holds none: leave it out")
        tables["train"] = replace(tables["train"], note="; ".join(done))
        return TextsOrNumbers(tables, name, text, label)
    if labels is None:
        raise BadData(
            f"{where} has the columns {listed(train.table.columns)} beside pictures in {image!r}, and none of them is called "
            f'{", ".join(LABELS[:-1])} or {LABELS[-1]}: say which one holds the labels, as label = "..."'
        )
    if labels not in train.table.columns:
        raise UnknownName(f"column of {where}", labels, train.table.columns)
    done += [f"labels are in {labels!r}; pictures are in {image!r}"]
    return _pictures(parts, tables, name, image, labels, sides_of(size), done)


def _named_image(where: str, rows: Rows) -> str | None:
    """The column of the pictures, where there are any."""
    lowered = {name.lower(): name for name in rows.pictures}
    found = next((lowered[word] for word in IMAGES if word in lowered), None)
    if found is None and len(rows.pictures) > 1:
        raise BadData(f'{where} has pictures in {listed(rows.pictures)}: say which ones are meant, as image = "..."')
    return found or next(iter(rows.pictures), None)


def _labelled(parts: Mapping[str, Rows], label: str) -> tuple[dict[str, Rows], list[str]]:
    """The parts that have labels, and the names of those of which the hub keeps them back, as -1 in all rows."""
    kept_back = []
    for part, rows in parts.items():
        cells = rows.table.columns.get(label, ())
        if part != "train" and label in rows.table.names and len(cells) and all(cell == -1 for cell in cells):
            kept_back.append(part)
    return {part: rows for part, rows in parts.items() if part not in kept_back}, kept_back


def _without_rows(table: Table, label: str) -> list[str]:
    """A sentence on the classes that have a name but no training row, if there are any."""
    present = set(table.columns.get(label, ()))
    left = [name for k, name in enumerate(table.names.get(label, ())) if k not in present]
    return [f"classes without a training row were left out: {listed(left)}"] if left else []


def _pictures(
    parts: Mapping[str, Rows],
    tables: Mapping[str, Table],
    name: str,
    image: str,
    label: str,
    size: tuple[int, int] | None,
    done: list[str],
) -> Unread:
    """Pictures in Arrow columns, before any of them is read."""
    labels, classes = numbered(tables, label)
    for part, rows in parts.items():
        if image not in rows.pictures:
            raise BadData(
                f"{tables[part].source} has no pictures in {image!r}, which the training rows have: save them with it"
            )
    where = [(part, row) for part, y in labels.items() for row in range(len(y))]

    def called(place: int) -> str:
        part, row = where[place]
        return f"{tables[part].source}: the picture of row {row + 1}"

    def read(place: int) -> Any:
        part, row = where[place]
        cell = parts[part].pictures[image][row].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not content:
            raise BadData(
                f"{called(place)} is not in the dataset, but {shown(cell)}: pictures elsewhere are not looked for; save the "
                "dataset with them in it"
            )
        return picture_of(called(place), io.BytesIO(content), size)

    done = [*done, *([f"pictures were stretched to {size[0]}x{size[1]}"] if size else [])]
    return Unread(name, labels, classes, read, called, done)
