"""What `nacre check` and `nacre.checks` refuse to look at."""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch

from nacre.checks import cases_of, checks_for
from nacre.cli.checking import check_parts, found
from nacre.core.errors import BadSetting, NonFinite, UnknownName
from nacre.core.model import Outputs
from nacre.core.rows import TensorRows
from nacre.core.rule import Rule
from nacre.importance import fisher
from nacre.memory import Reservoir
from tests.errors.row import Place, Row


@dataclass
class Wants(Rule):
    """A rule that cannot be made without words."""

    much: float


@dataclass
class Shy(Rule):
    """A rule that shows no instance of itself."""

    @classmethod
    def examples(cls):
        return iter(())


def told_apart(at: Place) -> object:
    """A file that has the name of a module of Python."""
    return found(str(at.write("statistics.py", "")))


def answers_nan(at: Place) -> object:
    """Fisher information of a model whose answers are NaN."""
    rows = TensorRows(torch.ones(1, 2), torch.tensor([0]))
    logits = torch.full((1, 2), torch.nan)
    none = torch.arange(1)
    return fisher(lambda b: logits.sum(), lambda b: Outputs(logits, logits), {}, rows, none)


CHECKS = [
    Row(
        "Fisher information of answers that are NaN",
        NonFinite,
        "the model's answers are NaN or infinite where its Fisher information is taken: lower the learning rate or the "
        "strength of what pulls its weights, or set clip",
        answers_nan,
    ),
    Row(
        "a class that cannot be made without words",
        BadSetting,
        "Wants cannot be made without words (…): say by examples() how it is to be tested",
        lambda at: cases_of(Wants),
    ),
    Row(
        "a class that shows no instance",
        BadSetting,
        "Shy.examples() gives nothing: yield at least one instance to be tested",
        lambda at: cases_of(Shy),
    ),
    Row(
        "checks of which none looks at the part",
        BadSetting,
        "none of the checks bounded looks at EWC: leave --only out to run all that do",
        lambda at: check_parts(["EWC"], ["bounded"], 0, True),
    ),
    Row(
        "a file that has the name of another module",
        BadSetting,
        "PATH/statistics.py has the name of another module, …: rename one of them",
        told_apart,
    ),
    Row(
        "a check that there is not",
        UnknownName,
        "unknown check 'resume_exactly': did you mean 'resumes_exactly'? known are …",
        lambda at: checks_for(Reservoir(), ["resume_exactly"]),
    ),
    Row(
        "a module without parts",
        BadSetting,
        "the module json defines no method, rule or memory that could be checked: name the class that shall be, or the "
        "module that defines it",
        lambda at: cases_of(json),
    ),
    Row(
        "a class that is no part",
        BadSetting,
        "JSONDecoder is no method, rule or memory: derive it from nacre.Method or nacre.Rule",
        lambda at: cases_of(json.JSONDecoder),
    ),
    Row(
        "an instance of another kind",
        BadSetting,
        "no check knows what a int is: give a method, rule, memory, schedule or stream",
        lambda at: cases_of(3),
    ),
    Row(
        "a method that there is not",
        UnknownName,
        "unknown method or module 'EWD': did you mean 'EWC'? known are EWC",
        lambda at: found("EWD"),
    ),
    Row(
        "a class that a module does not have",
        UnknownName,
        "unknown part in nacre.checks.mutants 'Zero': did you mean 'ZeroPenalty'? known are …",
        lambda at: found("nacre.checks.mutants:Zero"),
    ),
    Row(
        "a file that there is not",
        BadSetting,
        "there is no file gone.py: give module:Class, path/to/file.py:Class, or the name of a method",
        lambda at: found("gone.py:Mine"),
    ),
    Row(
        "a module that cannot be imported",
        BadSetting,
        "no_such_package.mine cannot be imported (ModuleNotFoundError: No module named 'no_such_package'): see that Python can "
        "import it here",
        lambda at: found("no_such_package.mine:Mine"),
    ),
]
