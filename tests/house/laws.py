"""The laws of the house as functions of a folder: each reads source, imports nothing, and returns complaints.

`package` is the folder of the package (`src/nacre`), `tree` the root of the repository. A complaint reads
`file:line: what is wrong`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.house import plan

# ---------------------------------------------------------------------------------------------------------- reading source


@cache
def parsed(path: Path, changed: int) -> ast.Module:
    """One file as a tree; `changed` is its time of change, so that a file written anew is read anew."""
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def sources(package: Path) -> dict[Path, ast.Module]:
    """Every Python file of the package by its path inside it."""
    return {p.relative_to(package): parsed(p, p.stat().st_mtime_ns) for p in sorted(package.rglob("*.py"))}


def module_name(package: Path, file: Path) -> str:
    """`nacre.core.rule` for `core/rule.py`."""
    parts = file.with_suffix("").parts
    return ".".join((package.name, *(parts[:-1] if parts[-1] == "__init__" else parts)))


def room_of(package: Path, module: str) -> str:
    """The first name below the package; "" for the face of the package itself."""
    return module.split(".")[1] if "." in module else ""


def imports(package: Path, file: Path, tree: ast.Module, modules: set[str]) -> Iterator[tuple[int, str]]:
    """(line, module of this package) for every import, late and type-only ones and `import_module("...")` too."""
    here = module_name(package, file).split(".")
    base = here if file.name == "__init__.py" else here[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = base[: len(base) - node.level + 1] if node.level else []
            origin = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            inner = [f"{origin}.{alias.name}" for alias in node.names]
            found = [i if i in modules else origin for i in inner]
        elif isinstance(node, ast.Call) and called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            found = [of_string(str(first.value), base)] if isinstance(first, ast.Constant) else []
        else:
            continue
        for name in found:
            if name.split(".")[0] == package.name:
                yield node.lineno, name


def of_string(name: str, base: list[str]) -> str:
    """The module that `import_module` means by a name, perhaps a relative one."""
    level = len(name) - len(name.lstrip("."))
    return ".".join([*base[: len(base) - level + 1], name[level:]]) if level else name


def is_string(node: ast.AST) -> bool:
    """Whether a node is a text that is written out."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def dotted(node: ast.AST) -> str:
    """`torch.random.fork_rng` of such an expression; "" of anything that is not names and dots."""
    if isinstance(node, ast.Attribute):
        front = dotted(node.value)
        return f"{front}.{node.attr}" if front else ""
    return node.id if isinstance(node, ast.Name) else ""


def is_private(name: str) -> bool:
    """Whether a name is nobody else's business."""
    return name.startswith("_")


# ------------------------------------------------------------------------------------------------------ who imports whom


def directions(package: Path) -> list[str]:
    """Rooms import only the rooms that the plan allows, and there is no room beside the plan."""
    files = sources(package)
    modules = {module_name(package, f) for f in files}
    found: list[str] = []
    for file, tree in files.items():
        room = room_of(package, module_name(package, file))
        if not room:
            continue  # the face of the package may offer anything
        if room not in plan.ROOMS:
            found.append(f"{file}:1: the room {room!r} is not in the plan: add it to tests/house/plan.py")
            continue
        for line, module in imports(package, file, tree, modules):
            other = room_of(package, module)
            if other != room and other not in plan.ROOMS[room]:
                found.append(
                    f"{file}:{line}: {room} imports {module}; it may import {', '.join(plan.ROOMS[room]) or 'nothing'}"
                )
        if file.name not in plan.ANY_NAME_IMPORTED and room not in plan.ANY_NAME_IMPORTED:
            found += [
                f"{file}:{line}: imports a module by a name that is not written out" for line in unread_imports(tree)
            ]
    return found


def unread_imports(tree: ast.Module) -> Iterator[int]:
    """Lines that import a module by a name which only a run can tell."""
    for node in ast.walk(tree):
        by_name = isinstance(node, ast.Call) and called(node) in ("import_module", "__import__")
        if by_name and not (node.args and is_string(node.args[0])):  # pyright: ignore[reportAttributeAccessIssue]
            yield node.lineno  # pyright: ignore[reportAttributeAccessIssue]


def circles(package: Path) -> list[str]:
    """No module reaches itself along imports, late and type-only ones counted."""
    files = sources(package)
    modules = {module_name(package, f): f for f in files}
    edges = {
        m: sorted({n for _, n in imports(package, f, files[f], set(modules)) if n in modules} - {m})
        for m, f in modules.items()
    }
    found: list[str] = []
    state: dict[str, int] = {}  # 1 = on the way, 2 = done
    way: list[str] = []

    def visit(module: str) -> None:
        state[module] = 1
        way.append(module)
        for other in edges[module]:
            if state.get(other) == 1:
                ring = [*way[way.index(other) :], other]
                found.append(f"{modules[module]}:1: a circle of imports: {' -> '.join(ring)}")
            elif other not in state:
                visit(other)
        way.pop()
        state[module] = 2

    for module in edges:
        if module not in state:
            visit(module)
    return found


def names(package: Path) -> list[str]:
    """No file or folder is named utils, helpers, common, misc or the like."""
    return [
        f"{file}:1: {part!r} says nothing about what is inside"
        for file in sources(package)
        for part in file.with_suffix("").parts
        if part.strip("_").lower() in plan.FORBIDDEN_NAMES
    ]


# ----------------------------------------------------------------------------------------------------- what is done nowhere


def loaders(package: Path) -> list[str]:
    """Data pass through `core/rows.py`: nobody else speaks of a DataLoader."""
    found: list[str] = []
    for file, tree in sources(package).items():
        if file.as_posix() == plan.LOADER_HOME:
            continue
        for node in ast.walk(tree):
            spoken = {getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", "")}
            if "DataLoader" in spoken:
                found.append(f"{file}:{getattr(node, 'lineno', 1)}: a DataLoader; take rows through core/rows.py")
    return found


TORCH_DRAWS = {
    *("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "poisson", "binomial"),
    *("rand_like", "randn_like", "randint_like"),
}
TENSOR_DRAWS = {
    *(
        "uniform_",
        "normal_",
        "bernoulli_",
        "exponential_",
        "random_",
        "cauchy_",
        "log_normal_",
        "geometric_",
        "trunc_normal_",
    ),
    *("xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_", "orthogonal_", "sparse_"),
    *("bernoulli", "multinomial"),
}
GLOBAL_SEEDS = {"seed", "manual_seed", "manual_seed_all", "set_rng_state", "set_rng_state_all"}
OWN_GENERATORS = {"random.Random", "numpy.random.default_rng", "numpy.random.Generator", "numpy.random.RandomState"}
SAFE = {*OWN_GENERATORS, "numpy.random.SeedSequence", "numpy.random.PCG64", "torch.random.fork_rng"}
DRAWING = ("random.", "numpy.random.", "torch.random.", "torch.cuda.random.")


def draws(package: Path) -> list[str]:
    """Nobody draws from a global generator, or seeds one."""
    found: list[str] = []
    for file, tree in sources(package).items():
        if file.as_posix() in plan.DRAWS_ON_PURPOSE:
            continue
        forks = room_of(package, module_name(package, file)) in plan.DRAWS_IN_FORK
        origin = dict(bindings(tree))
        for call in unguarded(tree, plan.DRAWS_AT.get(file.as_posix()), forks):
            if what := drawn(call, origin):
                found.append(f"{file}:{call.lineno}: {what}; draw by nacre.core.dice, with generator=")
    return found


def unguarded(node: ast.AST, may: str | None, forks: bool) -> Iterator[ast.Call]:
    """Calls outside the function named `may` and, where `forks`, outside `with fork_rng(...)` blocks."""
    if isinstance(node, ast.FunctionDef) and node.name == may:
        return
    if isinstance(node, ast.With) and forks:
        opened = [i.context_expr for i in node.items]
        if any(isinstance(o, ast.Call) and called(o) == "fork_rng" for o in opened):
            return
    if isinstance(node, ast.Call):
        yield node
    for child in ast.iter_child_nodes(node):
        yield from unguarded(child, may, forks)


def bindings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """(name here, what it is) for names that are imported from outside the package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def drawn(call: ast.Call, origin: dict[str, str]) -> str:
    """What a call draws from or does to a global generator; "" if nothing."""
    given = {k.arg for k in call.keywords}
    head, _, rest = dotted(call.func).partition(".")
    known = head in origin
    full = f"{origin[head]}.{rest}".rstrip(".") if known else ""
    if full in SAFE:
        unseeded = full in OWN_GENERATORS and not call.args and not call.keywords
        return f"{full} without a seed" if unseeded else ""
    if full.startswith("torch.") and full.rpartition(".")[2] in GLOBAL_SEEDS:
        return f"{full} changes the global generator"
    if full.startswith(DRAWING):
        return f"{full} uses the global generator"
    short = called(call)
    if full.startswith("torch.nn.init."):
        draws_here = short in TENSOR_DRAWS
    elif known:
        draws_here = full.removeprefix("torch.") in TORCH_DRAWS
    else:  # a method of some tensor
        draws_here = short in TENSOR_DRAWS and isinstance(call.func, ast.Attribute)
    return f"{short} without generator= uses the global generator" if draws_here and "generator" not in given else ""


def pickles(package: Path) -> list[str]:
    """No pickle is written or read, and no code that comes with weights is run."""
    found: list[str] = []
    for file, tree in sources(package).items():
        origin = dict(bindings(tree))
        for node in ast.walk(tree):
            line = getattr(node, "lineno", 1)
            found += [
                f"{file}:{line}: imports {name}" for name in imported(node) if name.split(".")[0] in plan.PICKLERS
            ]
            if isinstance(node, ast.Call):
                found += [f"{file}:{line}: {what}" for what in unpickled(node, origin)]
    return found


def imported(node: ast.AST) -> list[str]:
    """Modules from outside the package that a node imports, also by a name that is written out."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if not node.level else []
    named = isinstance(node, ast.Call) and called(node) in ("import_module", "__import__") and node.args
    return [str(node.args[0].value)] if named and isinstance(node.args[0], ast.Constant) else []


def unpickled(call: ast.Call, origin: dict[str, str]) -> Iterator[str]:
    """What a call does with pickles, or with code that comes with weights."""
    head, _, rest = dotted(call.func).partition(".")
    full = f"{origin.get(head, head)}.{rest}".rstrip(".")
    given = {k.arg: k.value for k in call.keywords}
    if full in plan.UNPICKLING or called(call) in ("to_pickle", "read_pickle"):
        yield f"{full or called(call)} writes or reads pickles; use nacre.checkpoint"
    for name, always in (("allow_pickle", full == "numpy.load"), ("trust_remote_code", False)):
        asked = given.get(name)
        if (always or asked is not None) and not (isinstance(asked, ast.Constant) and asked.value is False):
            yield f"{name} is not False"


# --------------------------------------------------------------------------------------------------------- faces and names


def faces(package: Path) -> list[str]:
    """The face of a room lists what exists, all of what it binds, every part, and every function shown by an example."""
    files = sources(package)
    parts = subclasses(files, {"Rule", "Method"})
    found: list[str] = []
    for file, tree in files.items():
        room = file.parts[0]
        if file.name != "__init__.py" or len(file.parts) != 2 or room in plan.NO_FACE:
            continue
        listed = listed_in(tree)
        if listed is None:
            found.append(f"{file}:1: no __all__ that is a written-out list of names")
            continue
        if len(set(listed)) < len(listed):
            found.append(f"{file}:1: __all__ lists a name twice")
        offered = offered_by(tree)
        mine = {f: t for f, t in files.items() if f.parts[0] == room}
        defined = {
            n.name: (f, n) for f, t in mine.items() for n in t.body if isinstance(n, (ast.ClassDef, ast.FunctionDef))
        }
        constants = {n for t in mine.values() for n in assigned(t)}
        for name in sorted(set(listed) - set(defined) - constants):
            found.append(f"{file}:1: __all__ lists {name}, which no module of {room} defines")
        for name in sorted(set(listed) - offered):
            found.append(f"{file}:1: __all__ lists {name}, which the face does not import")
        for name in sorted(n for n in offered - set(listed) if not is_private(n)):
            found.append(f"{file}:1: the face imports {name}, and __all__ does not list it")
        for name, (home, node) in sorted(defined.items()):
            part = name in parts and bool(getattr(node, "bases", ()))  # a class of the same name may stand alone
            inside = part and room in plan.PARTS_INSIDE
            if is_private(name) or name in listed or home.name == "__init__.py" or inside:
                continue
            if part:
                found.append(f"{home}:{node.lineno}: the part {name} is not in the face of {room}")
            elif room in plan.SHOWN_IS_OFFERED and ">>>" in (ast.get_docstring(node) or ""):
                found.append(f"{home}:{node.lineno}: {name} is shown by an example, but is not in the face of {room}")
    return found


def subclasses(files: dict[Path, ast.Module], roots: set[str]) -> set[str]:
    """Names of classes that descend from `roots`, followed by name through all files; `roots` themselves are left out."""
    bases = {
        n.name: {dotted(b).rpartition(".")[2] for b in n.bases}
        for t in files.values()
        for n in ast.walk(t)
        if isinstance(n, ast.ClassDef)
    }
    found = set(roots)
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found - roots


def listed_in(tree: ast.Module) -> list[str] | None:
    """The names in `__all__`; None where it is missing or not written out."""
    for node in tree.body:
        here = isinstance(node, ast.Assign) and [dotted(t) for t in node.targets] == ["__all__"]
        names = node.value if here else None  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(names, (ast.List, ast.Tuple)) and all(is_string(e) for e in names.elts):
            return [str(e.value) for e in names.elts if isinstance(e, ast.Constant)]
    return None


def assigned(tree: ast.Module) -> set[str]:
    """Names that a module gives to values at its top level."""
    targets = [t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]
    targets += [n.target for n in tree.body if isinstance(n, ast.AnnAssign)]
    return {t.id for t in targets if isinstance(t, ast.Name)}


def offered_by(tree: ast.Module) -> set[str]:
    """Names that a face binds: imported (under TYPE_CHECKING too), defined, or the keys of a table of late imports."""
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            bound |= {a.asname or a.name for a in node.names}
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not is_private(node.name):
            bound.add(node.name)
        value = getattr(node, "value", None) if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        if isinstance(value, ast.Dict):
            bound |= {str(k.value) for k in value.keys if isinstance(k, ast.Constant)}
    return bound


def one_home(package: Path) -> list[str]:
    """A method is named in one file and one face, and nowhere else: there is no second list of methods."""
    files = sources(package)
    rooms = {f: t for f, t in files.items() if f.parts[0] == "methods"}
    methods = subclasses(files, {"Method"})
    homes = {n.name: f for f, t in rooms.items() for n in t.body if isinstance(n, ast.ClassDef) and n.name in methods}
    found: list[str] = []
    for file, tree in files.items():
        if file == Path("methods/__init__.py") or file.parts[0] in plan.NAMES_METHODS:
            continue
        told: dict[str, int] = {}
        for node in ast.walk(tree):
            spoken = [getattr(node, key, None) for key in ("id", "attr", "name", "asname")]
            if is_string(node):
                spoken.append(node.value)  # pyright: ignore[reportAttributeAccessIssue]
            for name in spoken:
                if isinstance(name, str) and name in homes and homes[name] != file and not is_private(name):
                    told.setdefault(name, getattr(node, "lineno", 1))
        found += [f"{file}:{line}: names {name}, whose home is {homes[name]}" for name, line in sorted(told.items())]
    return found


# ------------------------------------------------------------------------------------------------------- lengths and words


def lengths(package: Path) -> list[str]:
    """A long file says in its header why."""
    found: list[str] = []
    for file, tree in sources(package).items():
        lines = len((package / file).read_text(encoding="utf-8").splitlines())
        if lines > plan.LINES and plan.REASON not in " ".join((ast.get_docstring(tree) or "").split()):
            found.append(f'{file}:1: {lines} lines; split it, or say in its header "{plan.REASON} ..."')
    return found


MACHINE_PATH = re.compile(
    r"(?<![\w.~/-])/(?:home|root|work|tmp|Users|mnt|opt|usr|var|etc|srv)/[\w.]|\b[A-Z]:\\\\?[A-Za-z]"
)


def words(tree: Path) -> list[str]:
    """No paths of a machine and none of the plan's forbidden words, in any text of the repository."""
    found: list[str] = []
    for path in sorted({p for pattern in plan.TEXTS for p in tree.rglob(pattern)}):
        file = path.relative_to(tree)
        ours = not any(
            file.as_posix() == n or file.as_posix().startswith(f"{n}/") or n in file.parts[:-1] for n in plan.NOT_OURS
        )
        if not ours or not path.is_file() or path.is_symlink():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            if MACHINE_PATH.search(line) and not (number == 1 and line.startswith("#!")):
                found.append(f"{file}:{number}: a path of some machine")
            found += [f"{file}:{number}: the word {w!r}" for w in plan.FORBIDDEN_WORDS if w in line.lower()]
    return found


PACKAGE_LAWS = (directions, circles, names, loaders, draws, pickles, faces, one_home, lengths)
"""Laws about `src/nacre`; `words` is about the whole tree."""
