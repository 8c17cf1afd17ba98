"""Where a part comes from, and how sure we are that it is what was published."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Fidelity = Literal["reproduced", "faithful", "inspired"]
"""`reproduced`: agrees with a trusted table or with reference code that was run. `faithful`: the published formulas,
tested. `inspired`: rebuilt from the published idea, the exact rule was not available."""


@dataclass(frozen=True)
class Paper:
    """A reference: enough to find the source again.

    Attributes:
        title: Title of the paper.
        year: Year of the first version.
        arxiv: arXiv id, such as `"1612.00796"`; empty where there is none.
        venue: Where it was published, if elsewhere.
    """

    title: str
    year: int
    arxiv: str = ""
    venue: str = ""

    def __str__(self) -> str:
        where = f"arXiv {self.arxiv}" if self.arxiv else self.venue
        return f"{self.title} ({self.year}{', ' + where if where else ''})"

    @property
    def place(self) -> str:
        """Where it is found, in a word or two.

        >>> Paper("On naming", 2020, "2001.00001").place, Paper("On naming", 1989, venue="Letters").place
        ('arXiv 2001.00001', 'Letters 1989')
        """
        if self.arxiv:
            return f"arXiv {self.arxiv}"
        return self.venue if str(self.year) in self.venue else f"{self.venue} {self.year}".strip()
