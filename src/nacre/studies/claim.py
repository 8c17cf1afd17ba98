"""A claim, the figures that it was held against, and whether it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ERRORS = 3.0
"""Standard errors within which a closed form must agree with a simulation."""


@dataclass(frozen=True)
class Claim:
    """One sentence that can be wrong.

    Attributes:
        name: A word or two.
        says: The sentence.
        figures: What was found, by name.
        holds: Whether the figures agree with it.
    """

    name: str
    says: str
    figures: Mapping[str, Any]
    holds: bool


@dataclass(frozen=True)
class Study:
    """What an experiment found.

    Attributes:
        name: What it is called.
        about: What was done, in a sentence or two.
        claims: Each with its verdict.
        curves: Figures over something, for the plot.
        draw: Writes the plot of the curves to a file.
    """

    name: str
    about: str
    claims: Sequence[Claim]
    curves: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[Study, Path], None] | None = field(default=None, repr=False)

    @property
    def holds(self) -> bool:
        """Whether every claim does."""
        return all(claim.holds for claim in self.claims)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the plot, as plain values for a file."""
        claims = [{"name": c.name, "says": c.says, "holds": c.holds, **c.figures} for c in self.claims]
        return {"study": self.name, "about": self.about, "holds": self.holds, "claims": claims, "curves": self.curves}

    def text(self) -> str:
        """The verdicts, a paragraph each.

        >>> print(Study("demo", "Nothing was done.", [Claim("one", "1 is 1", {"found": 1}, True)]).text())
        demo: Nothing was done.
        <BLANKLINE>
        holds  one: 1 is 1
               found 1
        """
        lines = [f"{self.name}: {self.about}", ""]
        for claim in self.claims:
            lines.append(f"{'holds ' if claim.holds else 'FAILS '} {claim.name}: {claim.says}")
            lines += [f"       {name} {_shown(value)}" for name, value in claim.figures.items()]
        return "\n".join(lines)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return " ".join(map(_shown, value)) if isinstance(value, (list, tuple)) else str(value)
