"""The fence around an old primary, and when a person may lift it.

A failover fences before it promotes, so one that ends in between leaves the primary of record fenced though nobody
took its place. It may be let in again as long as nobody else takes writes, or is about to.
"""

from __future__ import annotations

from collections.abc import Collection

from recovery.rds import ABSENT, MemberStatus
from recovery.reprotection import BROKEN_REPLICA
from recovery.roles import Roles


def hindrance(roles: Roles, primary: MemberStatus, standby: MemberStatus, running: Collection[str]) -> str | None:
    """Why the primary of record must not be let in now, in a sentence; None when it may. `running` names executions
    that may fence or promote."""
    if running:
        return (
            f"{', '.join(sorted(running))} runs and may promote {roles.standby} yet; let it end, and stop what starts "
            "it by `drctl pause`."
        )
    if primary.status != "available":
        return f"{roles.primary} is {primary.status}; only a primary that is available can be let in."
    if standby.status == ABSENT:
        return None
    if standby.replica_of != roles.primary:
        return (
            f"RDS does not say that {roles.standby} is the replica of {roles.primary}: it may take writes, or "
            "have taken some, and two members that took writes part for good. `drctl failover` goes on from here."
        )
    if standby.status != "available" and standby.status not in BROKEN_REPLICA:
        return f"{roles.standby} is {standby.status}: wait until RDS has finished, lest it is being promoted."
    return None
