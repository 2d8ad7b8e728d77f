"""What a witness saw in one round, and its form in the recovery table."""

from dataclasses import asdict, dataclass
from typing import Any

from recovery.table import RecoveryTable

KEPT_SECONDS = 24 * 3600
"""DynamoDB may remove an observation after this: far beyond any trust put in it."""


@dataclass(frozen=True)
class PrimaryView:
    """The primary as seen: reachable means that the heartbeat was written. `lsn` is its WAL position, text."""

    reachable: bool
    error: str | None = None
    lsn: str | None = None


@dataclass(frozen=True)
class StandbyView:
    """The standby as seen: lag by the heartbeat in seconds and by WAL position in bytes; None is unknown.

    `committed_at` is when the newest transaction that it has replayed was committed (epoch seconds, primary's clock).
    """

    reachable: bool
    error: str | None = None
    lag_seconds: float | None = None
    lag_bytes: int | None = None
    replayed_lsn: str | None = None
    committed_at: float | None = None


@dataclass(frozen=True)
class Observation:
    """One round of a witness.

    `at` and `first_failure_at` are epoch seconds of the witness's own clock; `failures` counts the consecutive rounds
    in which the primary failed. `sequence` is the newest heartbeat this witness knows the primary to have acknowledged;
    `run` tells one invocation from the next; `incident_at` is when this witness last knew of a running incident.
    """

    witness: str
    at: float
    epoch: int
    primary: PrimaryView
    standby: StandbyView
    failures: int = 0
    first_failure_at: float | None = None
    sequence: int | None = None
    run: str = ""
    incident_at: float | None = None


def failed_rounds(before: Observation | None, reachable: bool, at: float) -> tuple[int, float | None]:
    """Consecutive rounds in which the primary failed, and when the first began, after one more that began at `at`."""
    if reachable:
        return 0, None
    failures = (before.failures if before else 0) + 1
    return failures, before.first_failure_at if before and before.first_failure_at is not None else at


def put(table: RecoveryTable, observation: Observation) -> None:
    """Replace this witness's observation."""
    table.put(
        f"observation#{observation.witness}",
        asdict(observation) | {"expires_at": int(observation.at) + KEPT_SECONDS},
    )


def read(table: RecoveryTable, witness: str) -> Observation | None:
    """The last observation of a witness, or None."""
    record = table.get(f"observation#{witness}")
    return from_record(record) if record else None


def from_record(record: dict[str, Any]) -> Observation:
    """An observation from its record; fields it does not know are left aside."""
    primary, standby = record["primary"], record["standby"]
    return Observation(
        witness=str(record["witness"]),
        at=float(record["at"]),
        epoch=int(record["epoch"]),
        primary=PrimaryView(bool(primary["reachable"]), primary.get("error"), primary.get("lsn")),
        standby=StandbyView(
            bool(standby["reachable"]),
            standby.get("error"),
            standby.get("lag_seconds"),
            standby.get("lag_bytes"),
            standby.get("replayed_lsn"),
            standby.get("committed_at"),
        ),
        failures=int(record.get("failures", 0)),
        first_failure_at=record.get("first_failure_at"),
        sequence=record.get("sequence"),
        run=str(record.get("run", "")),
        incident_at=record.get("incident_at"),
    )
