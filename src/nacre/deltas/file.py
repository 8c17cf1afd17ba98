"""A delta as a file: the entries of a tuned model whose bits differ from those of its base.

The file is of the safetensors format. For each tensor of which some entries differ it holds `index:NAME`, their places in the
flattened tensor (int32, or int64 beyond 2^31 entries), and `value:NAME`, what they became; where that is no smaller than the
tensor, and for tensors that are new or changed their type or shape, `whole:NAME`. Its header holds the SHA-256 of every tensor
of the base and of every tensor that changed, so that a delta is laid on no other base, and gives the tuned model bit for bit.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from ..core.bits import bits
from ..core.errors import BadData
from ..core.files import path_of, reading
from .weights import DTYPES, Kind, Weights, digest

FORMAT = "nacre-delta-1"
FORM = "a delta"
CURE = "give a file that `nacre delta save` or `nacre delta merge` wrote"
HELD = {"entries": ("index", "value"), "whole": ("whole",), "gone": ()}
"""What a file holds of a tensor, by the form of its change."""


@dataclass(frozen=True)
class Change:
    """What became of one tensor.

    Attributes:
        form: `"entries"` are held by place and value, `"whole"` tensors as they are, `"gone"` ones are not in the new model.
        dtype: The type that it has now, as safetensors calls it; of a tensor that is gone, the one that it had.
        shape: Its shape, likewise.
        moved: How many entries have other bits than in the base; of a tensor that is new or of another kind, all.
        distance: |new - base| in the Euclidean norm; None where there is no base of this kind, or it is not finite.
        relative: `distance` / |base|.
        sha256: Digest of the new tensor.
    """

    form: Literal["entries", "whole", "gone"]
    dtype: str
    shape: list[int]
    moved: int
    distance: float | None = None
    relative: float | None = None
    sha256: str = ""

    @property
    def kind(self) -> Kind:
        """Type and shape of the new tensor."""
        return Kind(DTYPES[self.dtype], tuple(self.shape))

    @property
    def entries(self) -> int:
        """How many entries the tensor has."""
        return math.prod(self.shape)


class Delta:
    """A delta file; its tensors are read when they are asked for.

    Attributes:
        changes: By name, each tensor that is not as in the base.
        base: By name, the digest of each tensor of the base.
        sizes: By name, how many entries each tensor of the base has.

    Raises:
        BadData: it is no such file.
    """

    def __init__(self, path: str | Path):
        self.path = path_of(path)
        with reading(self.path, FORM, CURE):
            self.file = safe_open(self.path, "pt")
            told = self.file.metadata() or {}
            names = set(self.file.keys())
        if told.get("format") != FORMAT:
            raise BadData(f"{self.path} is no delta of this version (its format is {told.get('format')!r}): {CURE}")
        with reading(self.path, FORM, CURE):
            self.base: dict[str, str] = json.loads(told["base"])
            self.sizes: dict[str, int] = json.loads(told["sizes"])
            self.changes = {name: Change(**row) for name, row in json.loads(told["changes"]).items()}
            held = {f"{kind}:{n}" for n, c in self.changes.items() for kind in HELD[c.form]}
        if names != held:
            raise BadData(f"{self.path} holds {sorted(names ^ held)[:3]} otherwise than its header says: {CURE}")

    def tensor(self, name: str, base: Tensor | None) -> Tensor:
        """A tensor of the new model, made of that of the base.

        Raises:
            BadData: the file was altered.
        """
        change = self.changes[name]
        with reading(self.path, FORM, CURE):
            if change.form == "whole":
                made = self.file.get_tensor(f"whole:{name}")
            else:
                assert base is not None
                index, value = self.entries(name)
                made = base.detach().cpu().clone(memory_format=torch.contiguous_format)
                bits(made)[index] = bits(value)
        if digest(made) != change.sha256:
            raise BadData(
                f"{self.path} was altered: {name} does not become what was saved; bring the file back from a copy"
            )
        return made

    def entries(self, name: str) -> tuple[Tensor, Tensor]:
        """Places, int64, and new values of the entries of one tensor that moved."""
        return self.file.get_tensor(f"index:{name}").long(), self.file.get_tensor(f"value:{name}")

    def rows(self) -> list[dict[str, Any]]:
        """What became of each tensor of either model, in the order of names, as plain values."""
        still = {"form": "same", "moved": 0, "distance": 0.0, "relative": 0.0}
        found: dict[str, dict[str, Any]] = {n: {"name": n, "entries": self.sizes[n], **still} for n in self.base}
        for name, change in self.changes.items():
            row = {k: v for k, v in asdict(change).items() if k != "sha256"}
            found[name] = {"name": name, "entries": change.entries, **row}
        return [found[name] for name in sorted(found)]

    def total(self) -> dict[str, Any]:
        """All tensors as one: entries of the new model, how many moved, which share, and how far."""
        rows = [row for row in self.rows() if row["form"] != "gone"]
        entries, moved = sum(r["entries"] for r in rows), sum(r["moved"] for r in rows)
        far = math.sqrt(sum((r["distance"] or 0.0) ** 2 for r in rows))
        return {
            "tensors": len(rows),
            "changed": len(self.changes),
            "entries": entries,
            "moved": moved,
            "share": moved / entries if entries else 0.0,
            "distance": far,
        }

    def refuse_other(self, base: Weights) -> None:
        """See that tensors of these names are in the base; their bits are checked when they are read.

        Raises:
            BadData: they are not.
        """
        if odd := sorted(base.keys() ^ self.base.keys()):
            whose = "lacks" if odd[0] in self.base else "has"
            raise BadData(
                f"{self.path} was made of another base: {base.where} {whose} {odd[0]}, and {len(odd)} tensors differ by "
                "name; give the model that it was made of"
            )

    def checked(self, base: Weights, name: str) -> Tensor:
        """A tensor of the base.

        Raises:
            BadData: it is not the one that the delta was made of.
        """
        held = base[name]
        if digest(held) != self.base[name]:
            raise BadData(
                f"{self.path} was made of another base: {name} in {base.where} has other bits; give the model that it was "
                "made of"
            )
        return held
