"""What `nacre check` and `nacre.checks` refuse to look at."""

from __future__ import annotations

import json

from nacre.checks import cases_of, checks_for
from nacre.cli.checking import found
from nacre.core.errors import BadSetting, UnknownName
from nacre.memory import Reservoir
from tests.errors.row import Row

CHECKS = [
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
