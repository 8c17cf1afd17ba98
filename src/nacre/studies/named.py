"""Every study by name."""

from __future__ import annotations

from .update_magnitude import update_magnitude

STUDIES = {"update-magnitude": update_magnitude}
"""As the command line knows them."""
