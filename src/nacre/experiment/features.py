"""Features of a frozen backbone, taken once: every head that reads them runs in seconds.

Where no stage of a run moves the backbone and no row is augmented, features of a row are always the same. They are computed
once for all rows of the data, in large batches of rows of like length, and the model is given them in place of rows: it
remains the whole model, whose fingerprint, checkpoints and export are those of a run without. Between two batchings rounding
differs, so features agree with those of such a run within 1e-6 of their norm, not bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from ..backbones import Body, Classifier
from ..core import ranks
from ..core.errors import BadUse
from ..core.machine import machine
from ..core.model import device_of, fingerprint
from ..core.rows import Chain, Picked, Rows, TensorRows, lengths_of
from ..core.stream import Experience
from ..data import BlockRows, Source, TokenRows, digest
from ..heads import features_of
from ..learner import Stage
from ..streams import FromData
from . import cache

WORTH = 1.0  # seconds: features that are made faster are not written to disk
PACKAGES = ("nacre", "transformers", "tokenizers", "timm")  # whose code features depend on, beside torch


def always_the_same(stages: Sequence[Stage], frozen: bool) -> bool:
    """Whether no stage can change the features of a row: none augments rows, adds to the model or trains the backbone.

    Args:
        stages: What is done on each task.
        frozen: Whether the backbone's weights do not train.
    """
    return all(
        s.augment is None and not s.method.overrides("prepare") and (frozen or s.optimizer is None) for s in stages
    )


@dataclass(frozen=True)
class FeatureRows(TensorRows):
    """Features in place of rows, which a run meets in the order in which it would meet the rows.

    Attributes:
        lengths: How long the rows are, where they know it.
    """

    lengths: Tensor | None = None


@dataclass
class Features:
    """The features of all rows of some data.

    Attributes:
        model: What reads them; its body stays as it is.
        body: The backbone and its description.
        source: The data.
        precision: Of forward passes.
        deterministic: Whether torch is asked for deterministic algorithms.
        known: Whether the backbone is the one that its description says: not one that was given in Python, where anybody may
            have changed it. Features of others are not written to disk.
        taken: Features by the rows that they are of.
    """

    model: Classifier
    body: Body
    source: Source
    precision: str = "fp32"
    deterministic: bool = False
    known: bool = True
    taken: dict[int, FeatureRows] = field(default_factory=dict)

    def take(self) -> None:
        """Compute the features of all rows, or read them from disk; once. All ranks ask together."""
        if self.taken:
            return
        for part in ("train", "test"):
            rows = getattr(self.source, part)
            z = self._features(rows, part)
            self.taken[id(rows)] = FeatureRows({"features": z}, rows.y, getattr(rows, "task", None), lengths_of(rows))

    def of(self, rows: Rows | None) -> Any:
        """The same rows as features, where they are picked from the data; others as they are."""
        self.take()
        match rows:
            case Picked():
                return replace(rows, rows=self.of(rows.rows))
            case Chain():
                return replace(rows, parts=tuple(self.of(part) for part in rows.parts))
        return self.taken.get(id(rows), rows)

    def refuse_motion(self, moved: Mapping[str, Mapping[str, Any]]) -> None:
        """See that the backbone is the one that features were taken with.

        Args:
            moved: What `Motion.since` says of a task.

        Raises:
            BadUse: it is not.
        """
        names = [name for name, row in moved.items() if name.startswith("body.") and row["moved"]]
        if names:
            raise BadUse(
                f"{len(names)} tensors of the backbone moved, such as {names[0]}, though no stage has an optimizer for it, and "
                'its features were taken before: set backbone.cache = "off"'
            )

    def _features(self, rows: Any, part: str) -> Tensor:
        key = cache.key_of({**self._made_of, "rows": _written(rows)}) if self._nameable(rows) else None
        found = cache.find(key) if key is not None and ranks.first() else None
        if ranks.told(found is not None):
            return ranks.told(found)
        began = time.perf_counter()
        z = self._computed(rows)
        if key is not None and ranks.first() and time.perf_counter() - began >= WORTH:
            about = {"data": self.source.name, "part": part, "backbone": str(self.body.spec.get("source", ""))}
            cache.keep(key, z, {**about, "rows": len(z), "width": z.shape[1]})
        return z

    def _computed(self, rows: Rows) -> Tensor:
        device = device_of(self.model)
        cast = torch.autocast(device.type, torch.bfloat16) if self.precision == "bf16" else nullcontext()
        with torch.inference_mode(), cast:
            z, _ = features_of(self.model, rows, "the cache of features", str(device))
        return z.clone().cpu()  # a plain tensor: heads train on it

    def _nameable(self, rows: Any) -> bool:
        """Whether all that features depend on can be written down."""
        return self.known and isinstance(rows, (TensorRows, TokenRows))

    @cached_property
    def _made_of(self) -> dict[str, Any]:
        """All that features depend on beside the rows."""
        structure = {k: v for k, v in self.body.spec.items() if k not in ("source", "tokenizer")}
        return {
            "format": cache.FORMAT,
            "weights": fingerprint(self.model),
            "structure": structure,
            "precision": self.precision,
            "machine": machine(device_of(self.model), self.deterministic),
            "packages": {name: _version(name) for name in PACKAGES},
        }


@dataclass(frozen=True)
class Read:
    """A stream whose rows are features where they can be; its experiences are otherwise the same."""

    stream: FromData
    features: Features

    def __len__(self) -> int:
        return len(self.stream)

    @property
    def told(self) -> bool:
        """Whether rows carry their task id."""
        return self.stream.told

    @property
    def in_order(self) -> bool:
        """Whether rows lie in the order in which they arrived."""
        return self.stream.in_order

    def __getitem__(self, index: int) -> Experience:
        met = self.stream[index]
        task = replace(met.task, train=self.features.of(met.task.train))
        return Experience(task, {name: self.features.of(rows) for name, rows in met.tests.items()})


def _written(rows: TensorRows | TokenRows) -> list[Any]:
    """Inputs of rows by their shapes, types and digest."""
    if isinstance(rows, BlockRows):  # which lie on disk, with digests of their own
        return [["block", list(rows.x.shape), str(rows.x.dtype)], rows.written()]
    x = {**rows.tokens.fields, "ends": rows.tokens.ends} if isinstance(rows, TokenRows) else rows.x
    held = dict(x) if isinstance(x, Mapping) else {"x": x}
    return [[[name, list(t.shape), str(t.dtype)] for name, t in sorted(held.items())], digest(held)]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
