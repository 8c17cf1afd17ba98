"""The house stands as it was planned, and every law that says so catches a house that does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import pytest

from tests.house import laws, plan

TREE = Path(__file__).parents[2]
PACKAGE = TREE / "src" / "nacre"

SOUND = {  # a tiny package that breaks no law
    "__init__.py": '"""A package."""\n',
    "core/__init__.py": "",
    "core/rule.py": "class Rule: ...\n",
    "core/method.py": "from .rule import Rule\nclass Method(Rule): ...\n",
    "core/dice.py": "import torch\ndef seed_global(n):\n    torch.manual_seed(n)\n",
    "losses/__init__.py": "",
    "methods/__init__.py": "from .er import ER\n__all__ = ['ER']\n",
    "methods/er.py": "from ..core.method import Method\nclass ER(Method): ...\n",
    "backbones/net.py": "import torch\nwith torch.random.fork_rng():\n    torch.manual_seed(0)\n    torch.randn(3)\n",
    "backbones/__init__.py": "__all__ = []\n",
}
SOUND["losses/__init__.py"] = "from .mean import mean\n__all__ = ['mean']\n"
SOUND["losses/mean.py"] = 'def mean(x):\n    """The mean.\n\n    >>> mean(1)\n    1\n    """\n    return x\n'

MUTANTS: dict[Callable[[Path], list[str]], list[tuple[str, str, str]]] = {  # law: (file, source, word of the complaint)
    laws.directions: [
        ("core/late.py", "def f():\n    from ..methods.er import ER\n    return ER\n", "core imports t.methods.er"),
        (
            "core/typed.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from t.losses import mean\n",
            "t.losses",
        ),
        ("rules/mask.py", "from .. import memory\n", "rules imports t"),
        ("rules/mask.py", "from ..memory import ring\n", "rules imports t.memory"),
        ("rules/mask.py", "import t.methods.er\n", "rules imports t.methods.er"),
        ("rules/mask.py", "import importlib\nimportlib.import_module('..heads.lda', __package__)\n", "t.heads.lda"),
        ("rules/mask.py", "import importlib\nimportlib.import_module(NAME)\n", "not written out"),
        ("losses/face.py", "from t import ER\n", "losses imports t"),
        ("attic/things.py", "", "not in the plan"),
        ("metrics/motion.py", "from ..learner import Learner\n", "metrics imports t.learner"),
    ],
    laws.circles: [
        (
            "core/rule.py",
            "def f():\n    from .method import Method\n    return Method\nclass Rule: ...\n",
            "t.core.rule",
        ),
        ("core/rule.py", "from . import method\nclass Rule: ...\n", "circle"),
    ],
    laws.names: [
        ("core/utils.py", "", "utils"),
        ("rules/helpers/mask.py", "", "helpers"),
        ("losses/_common.py", "", "common"),
        ("misc.py", "", "misc"),
    ],
    laws.loaders: [
        ("memory/ring.py", "from torch.utils.data import DataLoader\n", "DataLoader"),
        ("memory/ring.py", "import torch\ndef f(d):\n    return torch.utils.data.DataLoader(d)\n", "ring.py:3"),
    ],
    laws.draws: [
        ("rules/a.py", "import torch\ntorch.rand(3)\n", "rand"),
        ("rules/a.py", "import torch as th\nth.randperm(3)\n", "randperm"),
        ("rules/a.py", "from torch import randn as r\nr(3)\n", "r without generator="),
        ("rules/a.py", "import torch\ntorch.empty(3).uniform_(0, 1)\n", "uniform_"),
        ("rules/a.py", "from torch import nn\nnn.init.normal_(w)\n", "normal_"),
        ("rules/a.py", "import torch\ntorch.manual_seed(0)\n", "manual_seed"),
        ("rules/a.py", "import torch\ntorch.cuda.manual_seed_all(0)\n", "manual_seed_all"),
        ("rules/a.py", "import random\nrandom.shuffle([])\n", "random.shuffle"),
        ("rules/a.py", "from random import choice\nchoice([1])\n", "random.choice"),
        ("rules/a.py", "import random\nrandom.Random()\n", "without a seed"),
        ("rules/a.py", "import numpy as np\nnp.random.rand(3)\n", "numpy.random.rand"),
        ("rules/a.py", "import numpy as np\nnp.random.default_rng()\n", "without a seed"),
        ("rules/a.py", "import torch\nwith torch.random.fork_rng():\n    torch.randn(3)\n", "randn"),
        ("core/dice.py", "import torch\ndef other(n):\n    torch.manual_seed(n)\n", "manual_seed"),
        ("backbones/net.py", "import torch\ntorch.randn(3)\n", "randn"),
    ],
    laws.pickles: [
        ("core/a.py", "import pickle\n", "imports pickle"),
        ("core/a.py", "def f():\n    from dill import loads\n    return loads\n", "a.py:2: imports dill"),
        ("core/a.py", "import importlib\nimportlib.import_module('joblib')\n", "imports joblib"),
        ("core/a.py", "import torch\ntorch.save({}, 'a.pt')\n", "torch.save"),
        ("core/a.py", "from torch import load as l\nl('a.pt', weights_only=True)\n", "torch.load"),
        ("core/a.py", "import numpy as np\nnp.load('a.npy')\n", "allow_pickle"),
        ("core/a.py", "import numpy as np\nnp.load('a.npy', allow_pickle=True)\n", "allow_pickle"),
        ("core/a.py", "frame.to_pickle('a')\n", "to_pickle"),
        ("core/a.py", "def f(c):\n    return c.from_pretrained('a', trust_remote_code=c.trust)\n", "trust_remote_code"),
    ],
    laws.faces: [
        ("methods/der.py", "from ..core.method import Method\nclass DER(Method): ...\n", "DER is not in the face"),
        ("methods/der.py", "from .er import ER\nclass DER(ER): ...\n", "DER is not in the face"),
        ("methods/__init__.py", "from .er import ER\n", "no __all__"),
        ("methods/__init__.py", "from .er import ER\n__all__ = ['ER', 'EWC']\n", "lists EWC"),
        ("methods/__init__.py", "__all__ = ['ER']\n", "does not import"),
        ("methods/__init__.py", "from .er import ER\n__all__ = ['ER', 'ER']\n", "twice"),
        ("losses/__init__.py", "from .mean import mean\n__all__ = []\n", "imports mean"),
        (
            "losses/mean.py",
            SOUND["losses/mean.py"] + 'def top(x):\n    """Top.\n\n    >>> top(1)\n    """\n',
            "top is shown",
        ),
    ],
    laws.one_home: [
        ("losses/table.py", "KNOWN = ['ER', 'other']\n", "names ER"),
        ("learner.py", "from .methods import ER\n", "names ER"),
        ("methods/der.py", "from .er import ER\nclass DER(ER): ...\n", "names ER"),
    ],
    laws.lengths: [("core/long.py", '"""Long."""\n' + "x = 1\n" * plan.LINES, "301 lines")],
    laws.words: [
        ("core/a.py", "PATH = '/home/somebody/data'\n", "path"),
        ("core/a.py", "PATH = 'C:\\\\data'\n", "path"),
        ("core/a.py", "x = 1  # TODO: later\n", "todo"),
        ("notes.md", "A seamless experience.\n", "seamless"),
    ],
}


def written(folder: Path, files: dict[str, str]) -> Path:
    """A package `t` of these files."""
    package = folder / "t"
    for name, source in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return package


@pytest.mark.parametrize("law", laws.PACKAGE_LAWS, ids=lambda law: law.__name__)
def test_package_obeys(law: Callable[[Path], list[str]]) -> None:
    complaints = law(PACKAGE)
    assert not complaints, "\n".join([law.__doc__ or "", *complaints])


def test_tree_has_no_machine_paths_and_no_forbidden_words() -> None:
    complaints = laws.words(TREE)
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("law", [*laws.PACKAGE_LAWS, laws.words], ids=lambda law: law.__name__)
def test_sound_package_obeys(law: Callable[[Path], list[str]], tmp_path: Path) -> None:
    assert law(written(tmp_path, SOUND)) == []


@pytest.mark.parametrize(
    ("law", "file", "source", "word"),
    [(law, *mutant) for law, mutants in MUTANTS.items() for mutant in mutants],
    ids=[f"{law.__name__}-{i}" for law, mutants in MUTANTS.items() for i in range(len(mutants))],
)
def test_mutant_is_caught(law: Callable[[Path], list[str]], file: str, source: str, word: str, tmp_path: Path) -> None:
    complaints = law(written(tmp_path, {**SOUND, file: source}))
    assert any(word in c for c in complaints), complaints


def test_every_law_has_a_mutant() -> None:
    assert set(MUTANTS) == {*laws.PACKAGE_LAWS, laws.words}


def test_a_long_file_may_say_why(tmp_path: Path) -> None:
    reason = f'"""Long.\n\nIt is {plan.REASON} it holds\na table.\n"""\n'
    assert laws.lengths(written(tmp_path, {"core/long.py": reason + "x = 1\n" * plan.LINES})) == []


def test_plan_has_no_circle() -> None:
    done: set[str] = set()
    while ready := {r for r, others in plan.ROOMS.items() if r not in done and done.issuperset(others)}:
        done |= ready
    assert done == set(plan.ROOMS)


# ------------------------------------------------------------------------------------------- what importing does, and takes

IMPORT = """
import contextlib, hashlib, io, json, logging, os, random, sys, time, warnings
import numpy, torch

def state():
    seeds = hashlib.sha256(
        repr((random.getstate(), numpy.random.get_state())).encode() + torch.get_rng_state().numpy().tobytes()
    ).hexdigest()
    threads = torch.get_num_threads(), torch.get_num_interop_threads()
    return {
        "the global seeds": seeds, "the threads": threads, "the environment": dict(os.environ), "sys.path": list(sys.path),
        "the folder": os.getcwd(), "warning filters": len(warnings.filters), "log handlers": len(logging.root.handlers),
        "the default type": str(torch.get_default_dtype()), "gradients": torch.is_grad_enabled(),
        "determinism": torch.are_deterministic_algorithms_enabled(), "open files": sorted(os.listdir(".")),
    }

before, told = state(), io.StringIO()
with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
    start = time.perf_counter()
    import NAME
    seconds = time.perf_counter() - start
after = state()
print(json.dumps({
    "seconds": seconds, "said": told.getvalue(), "loaded": sorted(m for m in sys.modules if "." not in m),
    "touched": [k for k in before if before[k] != after[k]],
}))
"""


def run(code: str, path: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, with `path` importable."""
    told = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": ""}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=told, cwd=cwd, timeout=120)


def import_complaints(name: str, path: Path, cwd: Path, runs: int = 1) -> list[str]:
    """What is wrong with importing a package, a few times over; the quickest counts."""
    found: list[str] = []
    seconds: list[float] = []
    for _ in range(runs):
        done = run(IMPORT.replace("NAME", name), path, cwd)
        assert done.returncode == 0, done.stderr
        outside, _, last = done.stdout.rstrip("\n").rpartition("\n")
        report = json.loads(last)
        if said := outside + done.stderr + report["said"]:
            found.append(f"says {said!r}")
        found += [f"touches {what}" for what in report["touched"]]
        found += [f"loads {module}" for module in plan.NOT_AT_IMPORT if module in report["loaded"]]
        seconds.append(report["seconds"])
    if min(seconds) >= plan.IMPORT_SECONDS:
        found.append(f"takes {min(seconds):.2f} s beyond torch, the limit is {plan.IMPORT_SECONDS} s")
    return found


def test_import_is_silent_quick_and_touches_nothing(tmp_path: Path) -> None:
    assert import_complaints("nacre", PACKAGE.parent, tmp_path, runs=3) == []


LOUD = {  # what an import may do wrong: the complaint
    "print('hello')": "says 'hello",
    "import torch; torch.manual_seed(1)": "touches the global seeds",
    "torch.set_num_threads(torch.get_num_threads() + 1)": "touches the threads",
    "import os; os.environ['A_NEW_ONE'] = '1'": "touches the environment",
    "import sys; sys.path.append('here')": "touches sys.path",
    "import warnings; warnings.simplefilter('ignore')": "touches warning filters",
    "import logging; logging.basicConfig()": "touches log handlers",
    "torch.set_default_dtype(torch.float64)": "touches the default type",
    "torch.set_grad_enabled(False)": "touches gradients",
    "open('left.txt', 'w').close()": "touches open files",
    "import click": "loads click",
    "import time; time.sleep(0.2)": "takes",
}


def test_a_loud_import_is_caught(tmp_path: Path) -> None:
    package = written(tmp_path, {"__init__.py": "\n".join(LOUD)})
    folder = tmp_path / "cwd"
    folder.mkdir()
    complaints = import_complaints(package.name, tmp_path, folder)
    assert [w for w in LOUD.values() if not any(c.startswith(w) for c in complaints)] == [], complaints


@pytest.mark.parametrize("source", ["import random; random.seed(1)", "import os; os.write(2, b'noise')"])
def test_a_slightly_loud_import_is_caught(source: str, tmp_path: Path) -> None:
    assert len(import_complaints(written(tmp_path, {"__init__.py": source}).name, tmp_path, tmp_path)) == 1


HELP = """
import sys, time
start = time.perf_counter()
sys.argv = ["nacre", "--help"]
from NAME.cli.main import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
seconds = time.perf_counter() - start
print("torch" in sys.modules, file=sys.stderr)
"""


def help_complaints(name: str, path: Path, cwd: Path, runs: int = 1) -> list[str]:
    """What is wrong with `nacre --help`; the quickest counts, the start of Python included."""
    seconds, found = [], []
    for _ in range(runs):
        start = perf_counter()
        done = run(HELP.replace("NAME", name), path, cwd)
        seconds.append(perf_counter() - start)
        assert done.returncode == 0, done.stderr
        found = [] if done.stderr.strip() == "False" else [f"loads torch, or says {done.stderr!r}"]
        found += [] if "Usage" in done.stdout else [f"shows no usage: {done.stdout!r}"]
    return found + ([f"takes {min(seconds):.2f} s"] if min(seconds) >= plan.HELP_SECONDS else [])


@pytest.mark.skipif(not (PACKAGE / "cli" / "main.py").exists(), reason="there is no command line yet")
def test_help_is_quick_and_needs_no_torch(tmp_path: Path) -> None:
    assert help_complaints("nacre", PACKAGE.parent, tmp_path, runs=8) == []


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("import torch\ndef main(): print('Usage')\n", "loads torch"),
        ("import time\ntime.sleep(0.6)\ndef main(): print('Usage')\n", "takes"),
        ("def main(): pass\n", "shows no usage"),
    ],
)
def test_a_slow_help_is_caught(source: str, word: str, tmp_path: Path) -> None:
    written(tmp_path, {"__init__.py": "", "cli/__init__.py": "", "cli/main.py": source})
    assert any(word in c for c in help_complaints("t", tmp_path, tmp_path))
