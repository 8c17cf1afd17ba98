"""Every part by its name: what it is, where it comes from, what can be set.

`find` looks a name up, `make` builds a part from plain values as a config holds them, `about` says what `nacre show` prints.
"""

from .foreign import import_plugins, plugins, refuse_missing_plugins
from .parts import KINDS, Entry, Setting, about, entries, find, followers, make, settings_of
from .typed import NONE, build, inner_class, join, placed

__all__ = [
    "KINDS",
    "NONE",
    "Entry",
    "Setting",
    "about",
    "build",
    "entries",
    "find",
    "followers",
    "import_plugins",
    "inner_class",
    "join",
    "make",
    "placed",
    "plugins",
    "refuse_missing_plugins",
    "settings_of",
]
