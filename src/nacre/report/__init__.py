"""Run records as tables, as a page, as a model card and as a live view. Functions of the record alone."""

from .card import card
from .files import as_csv, as_latex, as_markdown, level, mean_matrix, write_comparison, write_report
from .live import view
from .sheet import Sheet, show
from .tables import comparison, grid, matrix, references, settings_sheet

__all__ = [
    "Sheet",
    "as_csv",
    "as_latex",
    "as_markdown",
    "card",
    "comparison",
    "grid",
    "level",
    "matrix",
    "mean_matrix",
    "references",
    "settings_sheet",
    "show",
    "view",
    "write_comparison",
    "write_report",
]
