"""How many examples a property is tried on."""

from __future__ import annotations

from hypothesis import settings

FAST = "fast"
"""The profile of the inner loop, which `tests/conftest.py` loads for `--fast`."""


def up_to(many: int) -> int:
    """So many; in the inner loop no more than its profile has time for."""
    return min(many, settings.default.max_examples) if settings.get_current_profile_name() == FAST else many
