"""A config file -> parts -> a run."""

from .compare import Comparison, compared_in, default_comparison
from .config import Config, differences
from .experiment import Experiment
from .export import Predictor, export, load
from .fit import fit
from .folder import Finished, slug
from .hub import Exported, to_hub
from .named import PREFIX, Recipe, config_of, recipe, recipe_of, recipes
from .recorder import Observer
from .stopping import Stopped, Stopping
from .sweep import Sweep, swept_in
from .tables import TABLES, StreamTable
from .trial import Trial, device_of

__all__ = [
    "PREFIX",
    "TABLES",
    "Comparison",
    "Config",
    "Experiment",
    "Exported",
    "Finished",
    "Observer",
    "Predictor",
    "Recipe",
    "Stopped",
    "Stopping",
    "StreamTable",
    "Sweep",
    "Trial",
    "compared_in",
    "config_of",
    "default_comparison",
    "device_of",
    "differences",
    "export",
    "fit",
    "load",
    "recipe",
    "recipe_of",
    "recipes",
    "slug",
    "swept_in",
    "to_hub",
]
