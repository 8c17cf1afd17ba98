"""What holds for every part before it has done anything: plain settings, true texts, a silent import."""

from __future__ import annotations

import ast
import dataclasses
import doctest
import functools
import inspect
import subprocess
import sys
import types
from dataclasses import MISSING, fields
from typing import Any

from torch import Tensor

from ..core.method import Method
from ..core.state import Stateful
from .check import Case, Skipped, check
from .kinds import is_part, parts_inside

PLAIN = (bool, int, float, str, type(None))


SECONDS = 0.2


@check(is_part)
def settings_are_plain(case: Case) -> None:
    """Each setting is a number, string, bool, None, a tuple or dataclass of these, or a part; `repr` rebuilds the part."""
    for f in fields(case.part):
        value = getattr(case.part, f.name)
        if not f.init:
            continue
        case.holds(
            _plain(value),
            f"setting {f.name!r} is a number, string, bool, None, a tuple or dataclass of these, or another part",
            f"it is {_kind(value)}",
            "an object or a function given as a setting; give its name and settings, and make it inside",
        )
        case.holds(
            f.default is MISSING or not isinstance(f.default, (list, dict, set, Tensor)),
            f"the default of {f.name!r} is immutable",
            f"it is a {type(f.default).__name__} that all instances share",
            "a default value where a default factory is meant: setting(list, ...)",
        )
    try:
        again = eval(repr(case.part), _names_of(case.part))
        figure = f"it gives {again!r}"
    except Exception as error:
        again, figure = None, f"it raises {type(error).__name__}: {error}"
    case.holds(
        again == case.part, "repr() rebuilds an equal part", figure, "a setting that the repr leaves out or shortens"
    )


@check(is_part)
def documented(case: Case) -> None:
    """The class says what it does in a line, explains every setting, names its paper, and its example runs."""
    kind = type(case.part)
    doc = inspect.getdoc(kind) or ""
    own = "__doc__" in vars(kind) and not doc.startswith(f"{kind.__name__}(")  # what dataclasses write by themselves
    case.holds(own, "the docstring says what happens to the weights", "there is none", "a class without a docstring")
    case.holds(
        doc.partition("\n")[0].endswith((".", "!")),
        "the docstring begins with one sentence on one line",
        f"it begins {doc.partition(chr(10))[0]!r}",
        "a first sentence that runs over its line",
    )
    silent = [f.name for f in fields(kind) if f.init and not f.metadata.get("help") and f" {f.name}:" not in doc]
    case.holds(
        not silent,
        "every setting is explained",
        f"{', '.join(silent)} is not",
        "a field without setting(default, help) and without an entry under Attributes",
    )
    if isinstance(case.part, Method):
        case.holds(
            case.part.paper is not None, "a method says where it comes from", "paper is None",
            'a missing `paper`; of a method of your own say Paper("...", year, venue="...") or write "unpublished"',
        )  # fmt: skip
    case.holds(">>>" in doc, "the docstring has an example that runs", "there is none", "a class without an example")
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    for test in doctest.DocTestFinder(recurse=False).find(
        kind, kind.__name__, globs=vars(sys.modules[kind.__module__])
    ):
        runner.run(test, out=report.append)
    case.holds(
        not runner.summarize(False).failed, "the example runs", "".join(report)[-300:].strip(), "a stale example"
    )


@check(is_part)
def import_is_silent(case: Case) -> None:
    """Importing the part's module prints nothing, moves no seed, path or thread setting, and takes under 0.2 s beyond torch."""
    module = type(case.part).__module__
    origin = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or origin is None:
        raise Skipped(f"{module} is no module that can be imported")
    said = _import_alone(_packaged(module), tuple(sys.path))
    case.holds(not said, "importing its module is silent, fast and leaves no trace", said, "work done at import time")


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return isinstance(value, Stateful) or all(_plain(getattr(value, f.name)) for f in fields(value))
    if isinstance(value, functools.partial):
        return _named(value.func) and not value.args and all(map(_plain, value.keywords.values()))
    return isinstance(value, PLAIN) or _named(value)


def _named(value: Any) -> bool:
    """Whether it is a function that its module offers under its own name."""
    return (
        isinstance(value, types.FunctionType)
        and getattr(sys.modules.get(value.__module__), value.__name__, None) is value
    )


def _kind(value: Any) -> str:
    return "a lambda" if getattr(value, "__name__", "") == "<lambda>" else f"a {type(value).__name__}"


def _names_of(part: Any) -> dict[str, Any]:
    """The names that a part's repr may use."""
    names: dict[str, Any] = {"nan": float("nan"), "inf": float("inf")}
    for one in parts_inside(part):
        names |= {c.__name__: c for c in type(one).__mro__}
        names |= {type(v).__name__: type(v) for v in vars(one).values() if dataclasses.is_dataclass(v)}
    return names


def _packaged(module: str) -> str:
    """The package around a module, if there is one: importing the module imports it anyway."""
    package = module.rpartition(".")[0]
    return package if "." in package else module


_ALONE = """
import sys, os, time, random, threading
import torch
before = (torch.get_num_threads(), torch.initial_seed(), random.getstate(), list(sys.path), dict(os.environ), os.getcwd())
class Heard:
    text = ""
    def write(self, text): Heard.text += text
    def flush(self): pass
def queued():  # seconds that this process could run and was not let
    try:
        with open("/proc/self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0
out, err = sys.stdout, sys.stderr
sys.stdout = sys.stderr = Heard()
started = time.perf_counter() - queued()
__import__(sys.argv[1])
took = time.perf_counter() - queued() - started
sys.stdout, sys.stderr = out, err
after = (torch.get_num_threads(), torch.initial_seed(), random.getstate(), list(sys.path), dict(os.environ), os.getcwd())
words = ("the number of threads", "torch's seed", "Python's seed", "sys.path", "the environment", "the working folder")
said = [f"it changes {w}" for w, a, b in zip(words, before, after) if a != b]
print({"heard": Heard.text[:200], "changed": said, "took": took})
"""


@functools.cache
def _import_alone(module: str, path: tuple[str, ...]) -> str:
    """What is wrong with importing a module in a process of its own; empty if nothing."""
    code = f"import sys; sys.path[:] = {list(path)!r}\n{_ALONE}"
    slow = ""
    for _ in range(3):  # a busy machine is slow by chance
        done = subprocess.run([sys.executable, "-c", code, module], capture_output=True, text=True, timeout=300)
        if done.returncode:
            return f"it cannot be imported alone: {done.stderr.strip().splitlines()[-1:]}"
        found = ast.literal_eval(done.stdout.splitlines()[-1])
        if found["heard"]:
            return f"it prints {found['heard']!r}"
        if found["changed"]:
            return ", ".join(found["changed"])
        if found["took"] < SECONDS:
            return ""
        slow = f"it takes {found['took']:.2f} s"
    return slow
