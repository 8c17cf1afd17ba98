"""What a check is, what it looks at, and what it may answer."""

from __future__ import annotations

import copy
import dataclasses
import functools
import shutil
import unittest
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Literal

import torch

from ..core.state import Stateful
from .worlds import seeded

Needs = Literal["cpu", "cuda", "ranks", "compile"]
Outcome = Literal["passed", "failed", "skipped", "excused"]


class Failed(AssertionError):
    """A part does not keep the contract: which part, what was expected, the figure, and the usual cause."""


class Skipped(unittest.SkipTest):
    """There is nothing here that the check could look at, or the machine lacks what it needs; pytest counts it too."""


@dataclass(eq=False)
class Case:
    """A part under test. Checks work on copies, so the part itself stays as it was given.

    Attributes:
        part: The part, never used.
        seed: Seeds worlds, streams and the choice of steps.
        origin: `module:Class` and the number in its `examples()`, by which another process finds the same part.
        known: What several checks of one part share, such as the run that never stops.
    """

    part: Any
    seed: int = 0
    origin: tuple[str, int] | None = None
    known: dict[Any, Any] = field(default_factory=dict)
    check: str = ""

    @property
    def name(self) -> str:
        """The part in short: its class, and the settings that differ from their defaults."""
        return called(self.part)

    def fresh(self) -> Any:
        """A copy that nothing has happened to."""
        return copy.deepcopy(self.part)

    def once(self, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once for all checks of this part; nobody changes it."""
        if key not in self.known:
            self.known[key] = make()
        return self.known[key]

    def holds(self, true: bool, expected: str, figure: str, cause: str) -> None:
        """Raise `Failed` unless it is true.

        Args:
            true: What is asked.
            expected: What must hold, in words.
            figure: What was found instead.
            cause: What it usually comes from, and the cure.
        """
        if not true:
            raise Failed(
                f"{self.name} breaks {self.check}: {expected}, but {shortened(figure)}. The usual cause: {cause}"
            ) from None


@dataclass(frozen=True)
class Check:
    """Something that must hold for every part of a kind; call it with a part.

    Attributes:
        name: As it is written in `excused` and after `--only`.
        look: Looks at a case; raises `Failed` or `Skipped`.
        applies: Whether a part is of the kind.
        needs: What the machine must have.
    """

    name: str
    look: Callable[[Case], None]
    applies: Callable[[Any], bool]
    needs: Needs = "cpu"

    @property
    def about(self) -> str:
        """What must hold, in a sentence."""
        return (self.look.__doc__ or "").partition("\n\n")[0].replace("\n    ", " ").strip()

    def __call__(self, part: Any, seed: int = 0) -> None:
        """Check one part, or a case.

        Raises:
            Failed: the part does not keep the contract.
            Skipped: there is nothing to look at, the machine lacks something, or the part is excused.
        """
        case = part if isinstance(part, Case) else Case(part, seed)
        reason = excuses_of(case.part).get(self.name)
        if lacking := lacks(self.needs):
            raise Skipped(lacking)
        case.check = self.name
        threads = torch.get_num_threads()
        with torch.random.fork_rng(devices=[]), seeded(case.seed):
            torch.set_num_threads(1)  # the fastest for tiny tensors
            try:
                self.look(case)
            except Failed:
                if reason is None:
                    raise
                raise Excused(reason) from None
            finally:
                torch.set_num_threads(threads)

    def verdict(self, part: Any, seed: int = 0) -> Verdict:
        """The same as a value instead of an error."""
        try:
            self(part, seed)
        except Excused as why:
            return Verdict(self, "excused", str(why))
        except Skipped as why:
            return Verdict(self, "skipped", str(why))
        except Failed as why:
            return Verdict(self, "failed", str(why))
        except Exception as error:  # a part that raises where it should work has failed as well
            name = part.name if isinstance(part, Case) else called(part)
            raised = f"it raises {type(error).__name__}: {shortened(str(error))}"
            cause = "a case that the part does not foresee, or something it holds that is gone after a resume"
            why = f"{name} breaks {self.name}: {self.about.rstrip('.')}, but {raised}. The usual cause: {cause}"
            return Verdict(self, "failed", why, error)
        return Verdict(self, "passed")


class Excused(Skipped):
    """The part says in `excused` why the check does not hold for it."""


@dataclass(frozen=True)
class Verdict:
    """What a check said of a part."""

    check: Check
    outcome: Outcome
    why: str = ""
    error: Exception | None = None


def check(applies: Callable[[Any], bool], needs: Needs = "cpu") -> Callable[[Callable[[Case], None]], Check]:
    """Make a check out of a function; its docstring says what must hold."""
    return lambda look: Check(look.__name__, look, applies, needs)


@functools.cache
def lacks(needs: Needs) -> str:
    """What this machine lacks, in words; empty where it lacks nothing."""
    if needs == "cuda" and not torch.cuda.is_available():
        return "needs a GPU (cuda)"
    if needs == "ranks" and not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        return "needs torch.distributed with gloo (ranks)"
    if needs == "compile" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "needs a C++ compiler (compile)"
    return ""


def called(part: Any) -> str:
    """A part by its class and what differs from the defaults.

    >>> from nacre.memory import Reservoir
    >>> called(Reservoir(capacity=3)), called(Reservoir())
    ('Reservoir(capacity=3)', 'Reservoir()')
    """
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        return getattr(part, "__name__", type(part).__name__)
    said = []
    for f in fields(part):
        value = getattr(part, f.name, None)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if f.init and _short(value) != _short(default):
            said.append(f"{f.name}={_short(value)}")
    return f"{type(part).__name__}({', '.join(said)})"


def _short(value: Any) -> str:
    if isinstance(value, Stateful):
        return called(value)
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else f"<{type(value).__name__}>"


def shortened(text: str, most: int = 300) -> str:
    """A text of one line, cut in the middle where it is long."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def excuses_of(part: Any) -> dict[str, str]:
    """The checks that a part says it is excused from, with its reasons."""
    return getattr(type(part), "excused", {})
