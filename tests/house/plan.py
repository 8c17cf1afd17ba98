"""The plan of the house as data: its rooms, what each may import, and what is said or done nowhere.

A room is a folder or a file of `src/nacre`, named without its ending. Adding one means editing this table, `docs/design.md`
and the code in one commit. Nobody may import the face of the package itself, `nacre/__init__.py`.
"""

from __future__ import annotations

PARTS = ("losses", "schedules", "importance", "rules", "memory", "heads", "adapters", "backbones", "data", "streams")

ROOMS: dict[str, tuple[str, ...]] = {  # room: other rooms that its files may import
    "core": (),
    "losses": ("core",),
    "schedules": ("core",),
    "importance": ("core", "losses"),
    "rules": ("core", "losses"),
    "memory": ("core",),
    "heads": ("core",),
    "adapters": ("core",),
    "backbones": ("core",),
    "data": ("core",),
    "streams": ("core",),
    "metrics": ("core",),
    "methods": ("core", *PARTS),
    "checkpoint": ("core",),
    "deltas": ("core", "checkpoint"),
    "learner": ("core", "schedules", "checkpoint"),
    "studies": ("core", *PARTS, "methods", "checkpoint", "learner"),
    "integrations": ("core", "schedules", "checkpoint"),
    "catalogue": ("core", *PARTS, "methods"),
    "report": ("core",),
    "checks": ("core", "schedules", "memory", "heads", "data", "streams", "metrics", "checkpoint", "learner"),
    "experiment": (
        "core",
        *PARTS,
        "metrics",
        "methods",
        "checkpoint",
        "learner",
        "studies",
        "integrations",
        "catalogue",
    ),
    "classifier": ("core", "schedules", "heads", "backbones", "learner", "experiment"),
    "cli": (
        *("core", *PARTS, "metrics", "methods", "checkpoint", "learner", "studies", "integrations", "catalogue"),
        *("report", "checks", "experiment", "deltas"),
    ),
    "__main__": ("cli",),
}

ANY_NAME_IMPORTED = ("__init__.py", "catalogue", "experiment", "cli", "checks")
"""Where a module may be imported by a name that is not written out: there the plan cannot read it."""

FORBIDDEN_NAMES = ("utils", "util", "helpers", "helper", "common", "misc", "tools", "shared")
"""No file or folder has a name that says nothing."""

LOADER_HOME = "core/rows.py"
"""The one file that may speak of a DataLoader."""

DRAWS_AT = {"core/dice.py": "seed_global"}
"""Functions that may seed the global generators."""

DRAWS_ON_PURPOSE = ("checks/disturb.py", "checks/mutants.py")
"""Files whose business is to disturb: checks need somebody who breaks this law."""

DRAWS_IN_FORK = ("backbones", "checks")
"""Rooms that may draw from the global generator inside `with torch.random.fork_rng(...)`, which puts it back."""

PICKLERS = (
    "pickle",
    "_pickle",
    "cPickle",
    "pickletools",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "jsonpickle",
)
"""Modules that nobody imports: what they read may run code."""

UNPICKLING = (
    "torch.load",
    "torch.save",
    "torch.jit.load",
    "torch.hub.load",
    "pandas.read_pickle",
    "numpy.save",
    "numpy.savez",
)
"""Functions that nobody calls; `numpy.load` says `allow_pickle=False`."""

NO_FACE = ("core", "cli")
"""Rooms imported file by file: `core` because it is the contract, `cli` because nobody imports it."""

PARTS_INSIDE = ("checks",)
"""Rooms whose parts are not for use: partners and mutants of the checks."""

SHOWN_IS_OFFERED = (*PARTS, "metrics", "methods", "checks")
"""Rooms in which what is shown by an example in its docstring is public, so that the face must list it."""

NAMES_METHODS = ("studies", "checks", "classifier.py")
"""Rooms and files that may name methods beside their one file and one face: claims and mutants are about named methods, and an
estimator has one by default."""

LINES = 300
REASON = "over 300 lines because"
"""Longer files say in their header why, in these words."""

FORBIDDEN_WORDS = (
    *("todo", "fixme", "pypi.org", "pythonhosted", "npmjs", "conda.anaconda", "localhost"),
    *("state-of-the-art", "cutting-edge", "blazing", "seamless", "leverag", "utiliz"),
)
"""Found nowhere in the tree: debts without an owner, hosts of machines and registries, and praise."""

TEXTS = (
    "*.py",
    "*.pyi",
    "*.md",
    "*.toml",
    "*.txt",
    "*.cfg",
    "*.json",
    "*.yaml",
    "*.yml",
    "*.html",
    "*.ipynb",
    "Makefile",
    "run",
)
NOT_OURS = (".venv", ".git", ".ruff_cache", ".pytest_cache", ".hypothesis", "runs", "build", "dist", "tests/house")
"""Folders in which words are not looked for; this one holds the list of them."""

IMPORT_SECONDS = 0.2
HELP_SECONDS = 0.5
NOT_AT_IMPORT = ("transformers", "sklearn", "matplotlib", "rich", "pydantic", "click")
"""What `import nacre` does not load."""
