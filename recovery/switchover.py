"""Switchover: the planned change of roles, which loses nothing.

Applications are kept out by the security group and their sessions ended by the main user: on RDS nobody can make an
instance read-only for good, and what a session may set it may set back. The functions stay let in, so that the position
can be read that the standby has to reach before it is promoted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from recovery import heartbeat
from recovery.access import Access
from recovery.arbiter import CLOCK_SKEW_SECONDS, trust_seconds
from recovery.connection import Refused, Session, Unreachable
from recovery.heartbeat import lsn_number
from recovery.incident import Lease
from recovery.members import Endpoint
from recovery.objectives import Detection
from recovery.observation import Observation
from recovery.operation import Operation
from recovery.pause import Pause
from recovery.preparation import ROLES
from recovery.rds import MemberStatus
from recovery.roles import Roles

LAG_SECONDS = 10.0
"""A standby further behind than this would keep the applications waiting too long."""
LOOK_SECONDS = 0.1
STATEMENT_SECONDS = 3.0

# RDS's own roles, whose sessions nobody else may end, write no data of the agency's. All others are ended, whatever
# they may do: one that cannot be is an error, and the switchover is abandoned.
_RDS_ROLES = ("rdsadmin", "rdsrepladmin", "rdstopmgr")
_END_SESSIONS = """
SELECT count(*) FILTER (WHERE pg_terminate_backend(session.pid)), count(*)
FROM pg_catalog.pg_stat_activity AS session JOIN pg_catalog.pg_roles AS who ON who.oid = session.usesysid
WHERE session.backend_type = 'client backend' AND session.pid <> pg_backend_pid()
  AND who.rolname <> ALL (string_to_array(:ours, ','))"""

# A commit of our own: what was committed before, be it asynchronously, is written and sent before its record is.
_MARK = "SELECT pg_logical_emit_message(true, 'citizens-switchover', 'writes are stopped')"


@dataclass(frozen=True)
class Situation:
    """Everything that a switchover is allowed or refused from. `now` is in epoch seconds; `epoch` as ordered."""

    now: float
    epoch: int
    roles: Roles
    lease: Lease | None
    pause: Pause | None
    operation: Operation | None
    observations: tuple[Observation, ...]
    primary: MemberStatus
    standby: MemberStatus
    detection: Detection = field(default_factory=Detection)


def hindrance(situation: Situation) -> str | None:
    """Why there can be no switchover now, in a sentence; None when there can."""
    roles, primary, standby = situation.roles, situation.primary, situation.standby
    if roles.epoch != situation.epoch:
        return f"The roles have passed to epoch {roles.epoch}: this was ordered for epoch {situation.epoch}."
    if not roles.protected:
        return f"{roles.standby} is no standby: reprotect first."
    if situation.lease is not None and situation.lease.held(situation.now):
        return f"The incident {situation.lease.incident} holds the lease."
    if situation.operation is not None:
        return f"Another operation runs: {situation.operation.kind} {situation.operation.execution}."
    if situation.pause is not None:
        return f"The system is {situation.pause}; resume first."
    for name, status in ((roles.primary, primary.status), (roles.standby, standby.status)):
        if status != "available":
            return f"{name} is {status}; both members must be available."
    if primary.replica_of is not None or standby.replica_of != roles.primary:
        return f"RDS does not say that {roles.standby} is the replica of {roles.primary}."
    oldest = situation.now - trust_seconds(situation.detection) - CLOCK_SKEW_SECONDS
    seen = [each for each in situation.observations if each.epoch == roles.epoch and each.at >= oldest]
    if {each.witness for each in seen} != {"a", "c"}:
        return "A witness is silent; both must see both members."
    for each in seen:
        if not each.primary.reachable or each.primary.error is not None:
            return f"Witness {each.witness} does not write to {roles.primary}."
        if not each.standby.reachable or each.standby.error is not None or each.standby.lag_seconds is None:
            return f"Witness {each.witness} does not see {roles.standby} replicate."
        if each.standby.lag_seconds > LAG_SECONDS:
            return (
                f"{roles.standby} is {each.standby.lag_seconds:.0f} s behind, more than the {LAG_SECONDS:.0f} s that "
                "applications can be kept waiting."
            )
    return None


@dataclass(frozen=True)
class Stopped:
    """How many sessions of applications are left, and the WAL position (text) that holds all that was committed."""

    sessions: int
    lsn: str


def stop_writes(
    session: Session,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Stopped:
    """End sessions of applications until two looks in a row find none, `seconds` long at most. For the main user."""
    deadline, quiet, left = clock() + seconds, 0, 0
    while quiet < 2 and clock() < deadline:
        ((_, left),) = session.run(_END_SESSIONS, STATEMENT_SECONDS, ours=",".join((*ROLES, *_RDS_ROLES)))
        quiet = quiet + 1 if left == 0 else 0
        if quiet < 2:
            sleep(LOOK_SECONDS)
    session.run(_MARK, STATEMENT_SECONDS)
    ((lsn,),) = session.run("SELECT pg_current_wal_flush_lsn()::text", STATEMENT_SECONDS)
    return Stopped(int(left), str(lsn))


def caught_up(
    access: Access,
    standby: Endpoint,
    lsn: str,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Whether the standby has replayed up to `lsn` within `seconds`."""
    deadline = clock() + seconds
    try:
        with access.open(standby, min(seconds, STATEMENT_SECONDS), "citizens-switchover") as session:
            while True:
                state = heartbeat.state(session, STATEMENT_SECONDS)
                if state.lsn is not None and lsn_number(state.lsn) >= lsn_number(lsn):
                    return True
                if clock() >= deadline:
                    return False
                sleep(LOOK_SECONDS)
    except (Refused, Unreachable):
        return False
