"""Run records as tables: for a terminal, as plain text, as markdown. Functions of the record alone."""

from .card import card
from .sheet import Sheet, show
from .tables import comparison, grid, matrix, references, settings_sheet

__all__ = ["Sheet", "card", "comparison", "grid", "matrix", "references", "settings_sheet", "show"]
