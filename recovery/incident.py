"""An incident is one run of the failover machine. Its lease lets one run at a time; its name lets it start once."""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

from recovery.table import Record, RecoveryTable

LEASE = "lease"
SWITCHOVER = "switchover"
"""In a witness's place in the lease of a switchover, whose execution is another machine's."""
OPERATOR = "operator"
"""In a witness's place in the lease of an incident that a person has started."""
LEASE_SECONDS = 3600.0
"""A lease older than this belongs to no living incident: four times the RTO."""


@dataclass(frozen=True)
class Lease:
    """Who may act on an epoch: the incident, when it was taken (epoch seconds) and by which witness.

    `since` is the first failed probe that this witness knew of, epoch seconds: the grace counts from it.
    """

    epoch: int
    incident: str
    taken_at: float
    witness: str
    since: float | None = None

    @property
    def execution_name(self) -> str:
        """Name of the machine's execution: Step Functions starts a name once."""
        return f"{self.epoch}-{self.incident}"

    def held(self, now: float) -> bool:
        """Whether it still keeps others off."""
        return now - self.taken_at < LEASE_SECONDS


def new_incident(now: float) -> str:
    """`<UTC yyyymmddThhmmssZ>-<4 hex>`; the hex tells apart two witnesses that suspect in the same second."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def read_lease(table: RecoveryTable) -> Lease | None:
    """The lease, or None when nobody holds one."""
    record = table.get(LEASE)
    return _lease(record) if record else None


def take_lease(table: RecoveryTable, epoch: int, witness: str, now: float, since: float | None = None) -> Lease | None:
    """Take the free lease (none, or over an hour old); None when somebody else has it."""
    lease = Lease(epoch, new_incident(now), now, witness, since)
    taken = table.put_if(
        LEASE, lease.__dict__, "attribute_not_exists(id) OR taken_at < :expired", {":expired": now - LEASE_SECONDS}
    )
    return lease if taken else None


def take_lease_for(table: RecoveryTable, epoch: int, incident: str, now: float) -> Lease | None:
    """Take the free lease for a switchover, or find it taken by the same one; None when somebody else has it."""
    lease = Lease(epoch, incident, now, SWITCHOVER)
    taken = table.put_if(
        LEASE,
        lease.__dict__,
        "attribute_not_exists(id) OR taken_at < :expired OR incident = :incident",
        {":expired": now - LEASE_SECONDS, ":incident": incident},
    )
    return lease if taken else None


def take_over_lease(
    table: RecoveryTable, left: Lease, epoch: int, witness: str, now: float, since: float | None = None
) -> Lease | None:
    """Take the lease of an incident whose execution ended without releasing it; None when another was faster."""
    lease = Lease(epoch, new_incident(now), now, witness, since)
    taken = table.put_if(LEASE, lease.__dict__, "incident = :left", {":left": left.incident})
    return lease if taken else None


def _lease(record: Record) -> Lease:
    since = record.get("since")
    return Lease(
        int(record["epoch"]),
        str(record["incident"]),
        float(record["taken_at"]),
        str(record["witness"]),
        None if since is None else float(since),
    )
