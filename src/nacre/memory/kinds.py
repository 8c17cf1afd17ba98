"""Which memories there are."""

from .balanced import ClassBalanced, Greedy, TaskBalanced
from .herding import Herding
from .reservoir import Reservoir
from .ring import Ring

AnyMemory = Reservoir | ClassBalanced | TaskBalanced | Greedy | Ring | Herding
"""A memory of any kind, as a setting."""
