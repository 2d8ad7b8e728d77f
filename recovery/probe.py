"""One look at one member over a new connection: is it there, and does it take writes?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from recovery import heartbeat
from recovery.access import Access
from recovery.connection import Refused, Unreachable
from recovery.members import Endpoint


@dataclass(frozen=True)
class Look:
    """`reachable`: a PostgreSQL answered at all, be it with an error; a fence is shown by nothing answering."""

    reachable: bool
    in_recovery: bool | None = None
    lsn: str | None = None
    error: str | None = None


def look(access: Access, endpoint: Endpoint, seconds: float) -> Look:
    """Look within `seconds`; every outcome is a Look."""
    deadline = time.monotonic() + seconds
    try:
        with access.open(endpoint, seconds, "citizens-probe") as session:
            state = heartbeat.state(session, deadline - time.monotonic())
    except Refused as refused:
        return Look(reachable=True, error=str(refused))
    except Unreachable as unreachable:
        return Look(reachable=False, error=str(unreachable))
    return Look(reachable=True, in_recovery=state.in_recovery, lsn=state.lsn)
