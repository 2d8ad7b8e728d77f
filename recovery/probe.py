"""One look at one member over new connections: is it there, and does it take writes?"""

from __future__ import annotations

import time
from dataclasses import dataclass

from recovery import heartbeat
from recovery.access import Access
from recovery.connection import Refused, Unreachable, answers
from recovery.members import Endpoint

ANSWER_SECONDS = 1.0
"""Inside a VPC an answer takes milliseconds; packets that a security group drops are not answered in any time."""


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
    if not answers(endpoint, min(seconds, ANSWER_SECONDS)):
        return Look(reachable=False, error=f"{endpoint} answered none of several attempts.")
    try:
        with access.open(endpoint, seconds, "citizens-probe") as session:
            state = heartbeat.state(session, deadline - time.monotonic())
    except Refused as refused:
        return Look(reachable=True, error=str(refused))
    except Unreachable as unreachable:
        # Too slow to sign in to, but there: clients with more patience may reach it
        return Look(reachable=True, error=str(unreachable))
    return Look(reachable=True, in_recovery=state.in_recovery, lsn=state.lsn)
