"""Scores by moment and test set, and the summaries of continual learning that are read off them.

Notation: R[i, j] is the score on task j's test set after task i was learned; moments are rows, tests are columns.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch

NAN = math.nan
START = "start"  # the moment before the first task


@dataclass
class Matrix:
    """What was measured, when, on which test set; what was not measured is NaN.

    Attributes:
        moments: Names of the moments of measurement, in order; `"start"` is the untrained model where it was measured.
        tests: Names of the test sets, in order.
        scores: For each moment the scores by test, as far as any was taken: eight bytes each.
        rows: test -> number of its rows.
        learned: test -> the moment at which its task had been learned, for the first time.
        better: Whether a higher or a lower score is better.

    >>> m = Matrix()
    >>> for moment, scores in {"task0": [1.0], "task1": [0.5, 0.75]}.items():
    ...     for i, score in enumerate(scores):
    ...         m.add(moment, f"task{i}", score, rows=10, learned=(moment == f"task{i}"))
    >>> m.last(), m.average(), m.forgetting(), m.backward_transfer(), m.learning()
    (0.625, 0.8125, 0.5, -0.5, 0.875)
    """

    moments: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)
    scores: list[array[float]] = field(default_factory=list)
    rows: dict[str, int] = field(default_factory=dict)
    learned: dict[str, str] = field(default_factory=dict)
    better: str = "higher"
    moment_at: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)
    test_at: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def add(self, moment: str, test: str, score: float, rows: int = 0, learned: bool = False) -> None:
        """Note one score; `learned` says that the test's task has just been learned."""
        if moment not in self.moment_at:
            self.moment_at[moment] = len(self.moments)
            self.moments.append(moment)
            self.scores.append(array("d"))
        if test not in self.test_at:
            self.test_at[test] = len(self.tests)
            self.tests.append(test)
        row, place = self.scores[self.moment_at[moment]], self.test_at[test]
        row.extend([NAN] * (place + 1 - len(row)))
        row[place] = score
        self.rows[test] = rows
        if learned:
            self.learned.setdefault(test, moment)

    def at(self, moment: str, test: str) -> float:
        """One score, NaN where none was taken."""
        if moment not in self.moment_at or test not in self.test_at:
            return NAN
        row, place = self.scores[self.moment_at[moment]], self.test_at[test]
        return row[place] if place < len(row) else NAN

    def table(self) -> list[list[float]]:
        """R as rows of moments and columns of tests."""
        return [[self.at(m, t) for t in self.tests] for m in self.moments]

    def known(self, moment: str) -> list[str]:
        """The tests whose tasks were learned at or before a moment."""
        place, now = self.moment_at, self.moment_at[moment]
        return [t for t in self.tests if t in self.learned and place[self.learned[t]] <= now]

    def after(self, moment: str) -> float:
        """ACC: the mean score over what is learned at a moment."""
        return mean(self.at(moment, t) for t in self.known(moment))

    def curve(self) -> list[float]:
        """ACC at each moment after a task, be its test set new or not."""
        return [self.after(m) for m in self._learning_moments()]

    def last(self) -> float:
        """ACC at the last moment: mean over all learned tasks of R[T, j]."""
        return self.after(self.moments[-1]) if self.moments else NAN

    def average(self) -> float:
        """Average incremental score: the mean of ACC over the moments."""
        return mean(self.curve())

    def union(self) -> float:
        """The last scores weighted by their test rows: the score on the union of the test sets."""
        if not self.moments:
            return NAN
        tests = [t for t in self.known(self.moments[-1]) if not math.isnan(self.at(self.moments[-1], t))]
        total = sum(self.rows[t] for t in tests)
        return sum(self.at(self.moments[-1], t) * self.rows[t] for t in tests) / total if total else NAN

    def forgetting(self) -> float:
        """Mean over tasks learned before the last moment of (best earlier score - last score); may be negative.

        The maximum goes over the moments from when the task was learned to the last but one. (Chaudhry et al. 2018, arXiv
        1801.10112, take it over l < T; what a task scored before it was learned cannot be forgotten, and is left out.)
        """
        return mean(self.forgetting_of(t) for t in self._earlier())

    def forgetting_of(self, test: str) -> float:
        """Best earlier score minus the last one, of a test."""
        seen = [self.at(m, test) for m in self.moments[self.moment_at[self.learned[test]] :]]
        earlier = [self._sign * v for v in seen[:-1] if not math.isnan(v)]
        return max(earlier) - self._sign * seen[-1] if earlier and not math.isnan(seen[-1]) else NAN

    def backward_transfer(self) -> float:
        """BWT: mean over earlier tasks of R[T, j] - R[j, j]; the other way round where lower is better."""
        last = self.moments[-1] if self.moments else ""
        return mean(self._sign * (self.at(last, t) - self.at(self.learned[t], t)) for t in self._earlier())

    def forward_transfer(self) -> float:
        """FWT: mean over tasks j > 1 of R[j-1, j] - R[0, j]; NaN unless future tasks and the start were measured.

        The other way round where lower is better.
        """
        moments = self._learning_moments()
        gains = []
        for before, now in pairwise(moments):
            gains += [
                self._sign * (self.at(before, t) - self.at("start", t)) for t, m in self.learned.items() if m == now
            ]
        return mean(gains)

    def learning(self) -> float:
        """Learning accuracy: mean of R[j, j], the score of each task just after it was learned."""
        return mean(self.at(m, t) for t, m in self.learned.items())

    def summary(self) -> dict[str, float]:
        """All summaries by name."""
        return {
            "last": self.last(),
            "average": self.average(),
            "union": self.union(),
            "forgetting": self.forgetting(),
            "backward_transfer": self.backward_transfer(),
            "forward_transfer": self.forward_transfer(),
            "learning": self.learning(),
        }

    def state_dict(self) -> dict[str, Any]:
        """All that was noted; the scores as one tensor, (moments, tests)."""
        table = torch.full((len(self.moments), len(self.tests)), NAN, dtype=torch.float64)
        for place, row in enumerate(self.scores):
            if row:
                table[place, : len(row)] = torch.frombuffer(row, dtype=torch.float64)
        kept = {name: getattr(self, name) for name in ("moments", "tests", "rows", "learned", "better")}
        return {**kept, "scores": table}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for name in ("moments", "tests", "rows", "learned", "better"):
            setattr(self, name, saved[name])
        self.scores = [array("d", row) for row in saved["scores"].tolist()]
        self.moment_at, self.test_at = (_places(names) for names in (self.moments, self.tests))

    @property
    def _sign(self) -> int:
        return 1 if self.better == "higher" else -1

    def _learning_moments(self) -> list[str]:
        return [m for m in self.moments if m != START]

    def _earlier(self) -> list[str]:
        return [t for t, m in self.learned.items() if m != self.moments[-1]]


def mean(values: Iterable[float]) -> float:
    """The mean of what was measured; NaN of nothing."""
    known = [v for v in values if not math.isnan(v)]
    return sum(known) / len(known) if known else NAN


def _places(names: Sequence[str]) -> dict[str, int]:
    return {name: place for place, name in enumerate(names)}
