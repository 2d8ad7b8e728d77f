"""An operator's word that something may be lost: who says so, why, what exactly is accepted, and until when.

It is ordered once and read by every incident until it ends, so nobody has to be faster than the witnesses. An incident
may also bring its own, in the machine's input.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recovery.table import RecoveryTable

OVERRIDE = "override"
LAG = "lag"
"""Transactions beyond the recovery point objective, or an unknown number of them, may be missing."""
FENCE = "fence"
"""The old primary may still take writes, which will be lost: it could not be shown that it does not."""
ACCEPTABLE = (LAG, FENCE)
LONGEST_SECONDS = 24 * 3600.0
"""What was accepted in one night must not decide another one's loss."""


class OverrideMalformed(ValueError):
    """The override does not say who accepts what, why, and for how long."""


@dataclass(frozen=True)
class Override:
    """What is accepted until `until` (epoch seconds); it never replaces a second signal."""

    by: str
    reason: str
    accepts: frozenset[str]
    until: float = math.inf
    epoch: int | None = None
    """The epoch whose loss it was said of; None in a machine's input, which is of one incident anyway."""


def parse(given: Mapping[str, Any] | None) -> Override | None:
    """The override of a machine's input or of a record; None when nothing is accepted. Raises OverrideMalformed."""
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
    epoch = given.get("epoch")
    return Override(
        by, reason, accepted, float(given.get("until", math.inf)), None if epoch is None else int(str(epoch))
    )


def active(table: RecoveryTable, now: float, epoch: int | None = None) -> Override | None:
    """The override that was ordered and holds at `now`, in `epoch` if that is given, if one does."""
    found = parse(table.get(OVERRIDE))
    if found is None or found.until <= now or (None not in (epoch, found.epoch) and found.epoch != epoch):
        return None
    return found


def proposed(
    accepts: Iterable[str], reason: str, by: str, seconds: float, now: float, epoch: int | None = None
) -> Override:
    """What an order would accept from now on. Raises OverrideMalformed when it does not say what, why and how long."""
    if not 0 < seconds <= LONGEST_SECONDS:
        raise OverrideMalformed(
            f"An override of {seconds:g} s is refused: give more than 0 and at most {LONGEST_SECONDS:.0f} s."
        )
    given = {"accepts": sorted(accepts), "reason": reason, "by": by, "until": now + seconds, "epoch": epoch}
    found = parse(given)
    if found is None:
        raise OverrideMalformed(f"The override accepts nothing; give some of {', '.join(ACCEPTABLE)}.")
    return found


def order(
    table: RecoveryTable,
    accepts: Iterable[str],
    reason: str,
    by: str,
    seconds: float,
    now: float,
    epoch: int | None = None,
) -> Override:
    """Accept it for `seconds` from now on, in place of any other override, and only while the roles are of `epoch`: the
    promotion that it allowed uses it up. Raises OverrideMalformed."""
    found = proposed(accepts, reason, by, seconds, now, epoch)
    table.put(OVERRIDE, asdict(found) | {"accepts": sorted(found.accepts)})
    return found


def withdraw(table: RecoveryTable, now: float) -> bool:
    """Accept nothing any more; whether anything was accepted."""
    if active(table, now) is None:
        return False
    table.put(OVERRIDE, {"accepts": [], "until": now})
    return True
