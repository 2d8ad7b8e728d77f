"""How many examples a property is tried on."""

from __future__ import annotations

from hypothesis import settings

FAST = "fast"
"""The profile of the inner loop, which `tests/conftest.py` loads for `--fast`."""
FAST_EXAMPLES = 20
"""Of each property there: the whole run tries more."""


def up_to(many: int) -> int:
    """So many; in the inner loop no more than it has time for."""
    return min(many, FAST_EXAMPLES) if settings.get_current_profile_name() == FAST else many
