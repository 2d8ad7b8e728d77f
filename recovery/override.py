"""An operator's word that something may be lost, for one incident: who says so, why, and what exactly is accepted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAG = "lag"
"""Transactions beyond the recovery point objective, or an unknown number of them, may be missing."""
FENCE = "fence"
"""The old primary may still take writes, which will be lost: it could not be shown that it does not."""
ACCEPTABLE = (LAG, FENCE)


class OverrideMalformed(ValueError):
    """The override does not say who accepts what, and why."""


@dataclass(frozen=True)
class Override:
    """Given with the machine's input; it never replaces a second signal."""

    by: str
    reason: str
    accepts: frozenset[str]


def parse(given: Mapping[str, Any] | None) -> Override | None:
    """The override of a machine's input; None when nothing is accepted. Raises OverrideMalformed."""
    accepts = given.get("accepts") if given else None
    if not given or not accepts:
        return None
    accepted = frozenset([accepts] if isinstance(accepts, str) else map(str, accepts))
    unknown = sorted(accepted - set(ACCEPTABLE))
    by, reason = str(given.get("by") or "").strip(), str(given.get("reason") or "").strip()
    if unknown or not by or not reason:
        found = f"accepts {', '.join(unknown)}" if unknown else "does not say who accepts it and why"
        raise OverrideMalformed(
            f"The override {found}; give by, reason, and accepts with some of {', '.join(ACCEPTABLE)}."
        )
    return Override(by, reason, accepted)
