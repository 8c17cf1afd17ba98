"""The contract: checks that every part must pass, ours and those that users write.

    nacre check my_module:MyMethod

or, in a test, `@nacre.checks.parametrize_with_checks([MyMethod])`. A check takes an instance, works on copies of it in small
seeded worlds, and fails with a sentence that names the part, the expectation, the figure and the usual cause.
"""

from .check import Case, Check, Failed, Skipped, Verdict, called
from .chosen import EVERY, cases_of, checks_for, parametrize_with_checks, prove

__all__ = [
    "EVERY",
    "Case",
    "Check",
    "Failed",
    "Skipped",
    "Verdict",
    "called",
    "cases_of",
    "checks_for",
    "parametrize_with_checks",
    "prove",
]
