"""Reprotect: from a primary alone back to a pair. What to do next is decided from what is there, round after round.

The old member is deleted (after a failover a final snapshot keeps its data for forensics) and created again under the
same identifier as a replica of the primary; its fence is lifted only then. No step remembers the one before it: an
execution that was killed, answered twice or never goes on from whatever the members look like now.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from botocore.exceptions import BotoCoreError, ClientError

from recovery.arbiter import CLOCK_SKEW_SECONDS, trust_seconds
from recovery.incident import Lease
from recovery.objectives import Detection
from recovery.observation import Observation
from recovery.pause import Pause
from recovery.rds import ABSENT, UNKNOWN
from recovery.roles import Roles

if TYPE_CHECKING:
    from mypy_boto3_rds import RDSClient

Action = Literal["wait", "unprotect", "delete", "create", "modify", "lift_fence", "protected", "refuse"]

LAG_SECONDS = 30.0
"""A standby that is further behind than this does not count as one yet."""
# RDS takes no snapshot of an instance in one of these (RDS user guide, "Viewing Amazon RDS DB instance status").
BEYOND_SNAPSHOTS = frozenset(
    {
        *("failed", "restore-error", "inaccessible-encryption-credentials"),
        *("incompatible-network", "incompatible-restore", "incompatible-parameters", "incompatible-option-group"),
    }
)
BROKEN_REPLICA = BEYOND_SNAPSHOTS | {"storage-full"}
SNAPSHOT_TRIES = 3
"""So often in a row RDS may refuse to keep what a full instance holds: then redundancy is worth more."""
SETTLED = frozenset({"available", "stopped", "storage-full"})
"""RDS is at work on an instance in any other status, and what is asked of it now would be refused."""


@dataclass(frozen=True)
class Instance:
    """A member as RDS describes it. `settings` holds what RDS says of each setting that was asked for."""

    status: str
    replica_of: str | None = None
    deletion_protection: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """Everything the next step is chosen from. Times are epoch seconds.

    `epoch` is the one that the order was given for; `wanted` what the template says of the standby and its creation
    cannot; `lifted`: the fence was found lifted by this execution; `automatic`: no person asked for it; `refusals`: how
    often RDS has refused a deletion with a final snapshot, for the state that the instance is in.
    """

    now: float
    epoch: int
    roles: Roles
    lease: Lease | None
    pause: Pause | None
    observations: tuple[Observation, ...]
    primary: Instance
    standby: Instance
    wanted: Mapping[str, Any]
    lifted: bool = False
    automatic: bool = False
    forensics: bool = True
    deletions: int = 0
    refusals: int = 0
    detection: Detection = field(default_factory=Detection)


@dataclass(frozen=True)
class Plan:
    """The next step, why, on whom, and what it needs: `snapshot` (None: without one) and `settings` to change."""

    action: Action
    reason: str
    primary: str
    standby: str
    snapshot: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def describe(client: RDSClient, identifier: str, wanted: Mapping[str, Any]) -> Instance:
    """The member as RDS describes it, `absent` when there is none, `unknown` without an answer; never raises."""
    try:
        found: Mapping[str, Any] = client.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
    except ClientError as error:
        gone = error.response["Error"]["Code"] in ("DBInstanceNotFound", "DBInstanceNotFoundFault")
        return Instance(ABSENT if gone else UNKNOWN)
    except (BotoCoreError, IndexError):
        return Instance(UNKNOWN)
    return Instance(
        found.get("DBInstanceStatus", UNKNOWN),
        found.get("ReadReplicaSourceDBInstanceIdentifier") or None,
        bool(found.get("DeletionProtection")),
        {name: found.get(name) for name in wanted},
    )


def plan(situation: Situation) -> Plan:
    """The next step for any situation; never raises."""
    action, reason, rest = _next(situation)
    return Plan(action, reason, situation.roles.primary, situation.roles.standby, **rest)


def _next(situation: Situation) -> tuple[Action, str, dict[str, Any]]:
    roles, standby = situation.roles, situation.standby
    if roles.epoch != situation.epoch:
        return "refuse", f"The roles have passed to epoch {roles.epoch}: this was ordered for {situation.epoch}.", {}
    if situation.lease is not None and situation.lease.held(situation.now):
        return "wait", f"The incident {situation.lease.incident} holds the lease.", {}
    if situation.automatic and situation.pause is not None:
        return "wait", f"Automatic action is {situation.pause}.", {}
    if standby.status == UNKNOWN or situation.primary.status == UNKNOWN:
        return "wait", "RDS does not say how the members are.", {}
    hindrance = _primary_hindrance(situation)
    if hindrance is not None:
        return "wait", f"{hindrance}: the old member may hold the only data, and nothing is done to it.", {}
    if standby.replica_of == roles.primary:
        return _with_replica(situation)
    if roles.protected:
        return "unprotect", f"{roles.standby} is {_state(standby)}: it counts as a standby no longer.", {}
    return _without_replica(situation)


def _with_replica(situation: Situation) -> tuple[Action, str, dict[str, Any]]:
    name, standby = situation.roles.standby, situation.standby
    if standby.status in BROKEN_REPLICA:
        if situation.roles.protected:
            return "unprotect", f"{name} is {_state(standby)}: it counts as a standby no longer.", {}
        if standby.deletion_protection:
            return _unlocked(situation)
        # A replica has no final snapshot: its data are its source's
        return "delete", f"{name} is {_state(standby)} and does not come back by itself.", {}
    if standby.status != "available":
        return "wait", f"{name} is {_state(standby)}.", {}
    differing = {key: value for key, value in situation.wanted.items() if standby.settings.get(key) != value}
    if differing:
        return "modify", f"{name} differs from the template in {', '.join(sorted(differing))}.", {"settings": differing}
    if not situation.lifted:
        return "lift_fence", f"{name} replicates {situation.roles.primary}: it may be reached again.", {}
    lag = _replicating(situation)
    if lag is None:
        return "wait", f"No fresh witness sees {name} replicate within {LAG_SECONDS:.0f} s of the primary.", {}
    return "protected", f"{name} replicates {situation.roles.primary} with a lag of {lag:.1f} s.", {}


def _without_replica(situation: Situation) -> tuple[Action, str, dict[str, Any]]:
    name, standby = situation.roles.standby, situation.standby
    if standby.status == ABSENT:
        return "create", f"There is no {name}.", {}
    if standby.status == "deleting":
        return "wait", f"{name} is being deleted.", {}
    if standby.replica_of is not None:
        return "refuse", f"{name} is {_state(standby)}: nobody told this system to make it so.", {}
    if standby.status not in SETTLED | BEYOND_SNAPSHOTS:
        return "wait", f"RDS is at work on {name}, which is {standby.status}.", {}
    if standby.deletion_protection:
        return _unlocked(situation)
    # What full storage can still give RDS does not say; it is asked, and taken at its word
    full = standby.status == "storage-full" and situation.refusals >= SNAPSHOT_TRIES
    if standby.status in BEYOND_SNAPSHOTS or full or not situation.forensics:
        why = "RDS takes no snapshot of it" if situation.forensics else "the primary has all that it had"
        return "delete", f"{name} is {_state(standby)}; {why}.", {}
    snapshot = _snapshot(situation)
    return "delete", f"{name} is {_state(standby)}; {snapshot} keeps what it holds.", {"snapshot": snapshot}


def _unlocked(situation: Situation) -> tuple[Action, str, dict[str, Any]]:
    reason = f"The deletion protection of {situation.roles.standby} is lifted, to be set again with the new one."
    return "modify", reason, {"settings": {"DeletionProtection": False}}


def _snapshot(situation: Situation) -> str:
    """A name that is the same in each round of this change of roles, and of no other: RDS refuses one that exists."""
    moment = "".join(letter for letter in situation.roles.since if letter.isdigit())[:14]
    again = f"-{situation.deletions + 1}" if situation.deletions else ""
    return f"{situation.roles.standby}-fenced-{situation.roles.epoch - 1}-{moment}{again}"


def _state(standby: Instance) -> str:
    return f"{standby.status}, a replica of {standby.replica_of}" if standby.replica_of else standby.status


def _primary_hindrance(situation: Situation) -> str | None:
    name, primary = situation.roles.primary, situation.primary
    if primary.replica_of is not None:
        return f"The primary {name} is a replica of {primary.replica_of}"
    if primary.status not in ("available", "storage-optimization", "backing-up"):
        return f"The primary {name} is {primary.status}"
    if not any(seen.primary.reachable and seen.primary.error is None for seen in _fresh(situation)):
        return f"No fresh witness writes to the primary {name}"
    return None


def _fresh(situation: Situation) -> tuple[Observation, ...]:
    oldest = situation.now - trust_seconds(situation.detection) - CLOCK_SKEW_SECONDS
    return tuple(seen for seen in situation.observations if seen.epoch == situation.roles.epoch and seen.at >= oldest)


def _replicating(situation: Situation) -> float | None:
    """The largest lag of the fresh witnesses when each of them reaches a standby in recovery, else None."""
    seen = _fresh(situation)
    lags = [
        each.standby.lag_seconds
        for each in seen
        if each.standby.reachable and each.standby.error is None and each.standby.lag_seconds is not None
    ]
    if not seen or len(lags) != len(seen) or max(lags) > LAG_SECONDS:
        return None
    return max(lags)
