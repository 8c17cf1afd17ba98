"""Parts of others: modules that somebody names by hand, and the classes in them as `module:Class`.

A config is data: it names classes of modules that are here already, and nothing that it says imports one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType

from ..core.errors import BadSetting, shown
from ..core.files import first_line
from ..core.method import Method

MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_IMPORTED: dict[str, ModuleType] = {}


def import_plugins(names: Iterable[str]) -> None:
    """Import modules whose parts a config may name; those of the present folder are found last.

    Only what a person has named by hand belongs here: importing runs the module's code.

    Raises:
        BadSetting: no module has that name, or it fails when it is imported.
    """
    for name in names:
        if not MODULE.fullmatch(name):
            raise BadSetting(f"--plugin takes the name of a Python module, such as my_methods, not {shown(name)}")
        if name not in _IMPORTED:
            _IMPORTED[name] = _imported(name)


def plugins() -> list[str]:
    """The modules that were imported as plugins, in order."""
    return list(_IMPORTED)


def refuse_missing_plugins(names: Iterable[str]) -> None:
    """See that the plugins which a config was written with are here.

    Raises:
        BadSetting: one is not; the message says how to give it.
    """
    names = list(names)
    if wrong := [name for name in names if not MODULE.fullmatch(name)]:
        raise BadSetting(f"plugins are names of Python modules, such as my_methods, not {shown(wrong[0])}")
    if missing := [name for name in names if name not in sys.modules]:
        options = " ".join(f"--plugin {name}" for name in missing)
        raise BadSetting(
            f"this config was written with the plugin {shown(missing[0])}, which was not given: add {options} if you trust "
            "it; a config does not import code"
        )


def foreign(name: str, kinds: tuple[type, ...] = (Method,)) -> type:
    """A class of somebody else's, as `module:Class`. Its module must be here: this imports nothing.

    Args:
        name: What a config calls it.
        kinds: It must be one of these, or a class under them.

    Raises:
        BadSetting: no such class is here, or it is something else.
    """
    module, _, attribute = name.partition(":")
    place = sys.modules.get(module)
    held = vars(place).get(attribute) if isinstance(place, ModuleType) else None  # getattr might run code of the module
    if held is None:
        add = f"--plugin {module}" if MODULE.fullmatch(module) else "--plugin MODULE"
        raise BadSetting(
            f"{shown(name)} is not known here: add {add} to the command, or import its module before the config is read; a "
            "config does not import code"
        )
    if not (isinstance(held, type) and issubclass(held, kinds)):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise BadSetting(f"{shown(name)} is no {wanted}: name a class that is one")
    return held


def methods_of_plugins() -> dict[str, type[Method]]:
    """The methods that plugins define, by the name that a config gives them."""
    return {
        f"{name}:{attribute}": held
        for name, module in _IMPORTED.items()
        for attribute, held in vars(module).items()
        if isinstance(held, type) and issubclass(held, Method) and held.__module__ == name
    }


def _imported(name: str) -> ModuleType:
    if "" not in sys.path:
        sys.path.append("")  # behind everything that is installed
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise BadSetting(
                f"--plugin {name}: there is no module {error.name!r} in the present folder or among what is installed"
            ) from error
        raise BadSetting(f"--plugin {name} needs a module that is not installed: {first_line(error)}") from error
    except Exception as error:
        raise BadSetting(
            f"--plugin {name} fails when it is imported: {type(error).__name__}: {first_line(error)}; repair it, or see "
            "`nacre --debug` for the place"
        ) from error
