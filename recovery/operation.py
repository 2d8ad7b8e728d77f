"""An operation is what an operator or a failover has the system do to its members: a reprotect or a switchover.

One at a time: its execution claims the record `operation` and renews the claim in every round, so that one that died
keeps nobody off for long.
"""

from dataclasses import dataclass

from recovery.table import RecoveryTable

RECORD = "operation"
CLAIM_SECONDS = 300.0
"""A claim that was not renewed for so long is nobody's: a round takes seconds, with every retry two minutes."""


@dataclass(frozen=True)
class Operation:
    """The operation that runs: its kind (`reprotect`, `switchover`), its execution's ARN, when it last renewed
    (epoch seconds)."""

    kind: str
    execution: str
    renewed_at: float

    def alive(self, now: float) -> bool:
        """Whether it still keeps others off."""
        return now - self.renewed_at < CLAIM_SECONDS


def running(table: RecoveryTable, now: float) -> Operation | None:
    """The operation that runs, if one does."""
    record = table.get(RECORD)
    if record is None:
        return None
    found = Operation(str(record["kind"]), str(record["execution"]), float(record["renewed_at"]))
    return found if found.alive(now) else None


def claim(table: RecoveryTable, kind: str, execution: str, now: float) -> bool:
    """Claim the record for an execution, or renew its claim; False when another one runs."""
    return table.put_if(
        RECORD,
        Operation(kind, execution, now).__dict__,
        "attribute_not_exists(id) OR execution = :execution OR renewed_at < :expired",
        {":execution": execution, ":expired": now - CLAIM_SECONDS},
    )
