"""What RDS itself says about a member: its status and its recent events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from mypy_boto3_rds import RDSClient

ABSENT = "absent"
UNKNOWN = "unknown"
EVENT_MINUTES = 60


@dataclass(frozen=True)
class MemberStatus:
    """RDS's view of a member: `status` in RDS's words, `absent` when there is none, `unknown` without an answer."""

    status: str
    replica_of: str | None = None
    multi_az: bool = False


@dataclass(frozen=True)
class MemberFacts:
    """A member's status and what else RDS tells of it; None for what it does not tell.

    `zone` is where its primary copy is; `restorable_until` the latest time to which it can be restored and
    `certificate_until` the end of its server certificate, both epoch seconds.
    """

    status: MemberStatus
    zone: str | None = None
    restorable_until: float | None = None
    certificate_until: float | None = None


@dataclass(frozen=True)
class Event:
    """An event of a member: epoch seconds, RDS's text, its categories. RDS gives no event id in this API."""

    at: float
    member: str
    message: str
    categories: tuple[str, ...] = ()

    @property
    def failover_started(self) -> bool:
        """A Multi-AZ failover began (RDS-EVENT-0013, 0050)."""
        return "failover" in self.categories and "started" in self.message.lower()

    @property
    def failover_ended(self) -> bool:
        """A Multi-AZ failover ended, well or given up (RDS-EVENT-0015, 0049, 0034, 0051, 0065)."""
        text = self.message.lower()
        return "failover" in self.categories and any(word in text for word in ("complet", "abandon", "recovered"))

    @property
    def failure(self) -> bool:
        """RDS says that the instance has failed (RDS-EVENT-0031 and its like)."""
        return "failure" in self.categories


def status(client: RDSClient, identifier: str) -> MemberStatus:
    """The member's status; never raises for what RDS answers or fails to answer."""
    return facts(client, identifier).status


def facts(client: RDSClient, identifier: str) -> MemberFacts:
    """All that RDS tells of the member; never raises for what RDS answers or fails to answer."""
    try:
        instance: Mapping[str, Any] = client.describe_db_instances(DBInstanceIdentifier=identifier)["DBInstances"][0]
    except ClientError as error:
        gone = error.response["Error"]["Code"] in ("DBInstanceNotFound", "DBInstanceNotFoundFault")
        return MemberFacts(MemberStatus(ABSENT if gone else UNKNOWN))
    except (BotoCoreError, IndexError):
        return MemberFacts(MemberStatus(UNKNOWN))
    restorable, certificate = (
        instance.get("LatestRestorableTime"),
        instance.get("CertificateDetails", {}).get("ValidTill"),
    )
    return MemberFacts(
        MemberStatus(
            instance.get("DBInstanceStatus", UNKNOWN),
            instance.get("ReadReplicaSourceDBInstanceIdentifier") or None,
            bool(instance.get("MultiAZ")),
        ),
        instance.get("AvailabilityZone") or None,
        restorable.timestamp() if restorable else None,
        certificate.timestamp() if certificate else None,
    )


def restorable_until(client: RDSClient, identifiers: Sequence[str]) -> float | None:
    """The latest time (epoch seconds) to which any of the members can be restored; None when RDS names none."""
    times = (facts(client, identifier).restorable_until for identifier in identifiers)
    return max((moment for moment in times if moment is not None), default=None)


def events(client: RDSClient, identifier: str) -> tuple[Event, ...]:
    """The member's events of the last hour, oldest first; none without an answer: they are best effort anyway."""
    try:
        found = client.describe_events(SourceIdentifier=identifier, SourceType="db-instance", Duration=EVENT_MINUTES)
    except (BotoCoreError, ClientError):
        return ()
    listed = [
        Event(event["Date"].timestamp(), identifier, event.get("Message", ""), tuple(event.get("EventCategories", [])))
        for event in found.get("Events", [])
    ]
    return tuple(sorted(listed, key=lambda event: event.at))
