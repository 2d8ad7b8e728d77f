"""How ready the system is for a loss that has not happened, in numbers that no service publishes. Pure.

Silence means something: what is not known is not measured, and the alarm of that metric says what missing means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from recovery import prediction
from recovery.arbiter import Situation, lost
from recovery.incident import SWITCHOVER, Lease
from recovery.prediction import Prediction
from recovery.rds import UNKNOWN, MemberFacts

DAY_SECONDS = 86_400.0
PRIMARY, STANDBY, NEITHER = 2, 1, 0
"""The values of the metric `MemberRole`."""


@dataclass(frozen=True)
class Measurement:
    """A point of a metric; `dimensions` beside the suffix."""

    name: str
    value: float
    unit: str = "None"
    dimensions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Posture:
    """What it is told from: the arbiter's own situation, RDS's facts by member, the lease, the bound that was proved
    of the deployed machine (s), and when the first authority of the shipped bundle ends (epoch seconds)."""

    situation: Situation
    facts: Mapping[str, MemberFacts]
    lease: Lease | None
    promised_rto: float
    authority_until: float | None

    @property
    def prediction(self) -> Prediction:
        """What the arbiter would do if the primary were lost now."""
        return prediction.if_lost_now(self.situation)

    @property
    def protected(self) -> bool | None:
        """Whether there is a standby, by the role record and by RDS; None while RDS does not answer."""
        standby, roles = self.situation.standby, self.situation.roles
        if not roles.protected:
            return False
        if standby.status == UNKNOWN:
            return None
        return standby.replica_of == roles.primary and not lost(standby.status)

    @property
    def incident_running(self) -> bool:
        """Whether an incident holds the lease; a switchover, which was planned, holds it too."""
        return self.lease is not None and self.lease.held(self.situation.now) and self.lease.witness != SWITCHOVER

    def measurements(self) -> tuple[Measurement, ...]:
        """All that is known."""
        return tuple(self._measured())

    def _measured(self) -> Iterator[Measurement]:
        situation = self.situation
        recovers = self.prediction.recovers
        yield Measurement("TakeoverPossible", float(recovers))
        if recovers:
            yield Measurement("PredictedRtoSeconds", self.promised_rto, "Seconds")
        if (at_risk := self._data_at_risk(recovers)) is not None:
            yield Measurement("PredictedRpoSeconds", at_risk, "Seconds")
        if self.protected is not None:
            yield Measurement("Protected", float(self.protected))
        yield Measurement("IncidentRunning", float(self.incident_running))
        zones = [each.zone for each in self.facts.values()]
        if None not in zones:
            yield Measurement("SameZone", float(len(set(zones)) == 1))
        if (age := self._restorable_age()) is not None:
            yield Measurement("RestorableAgeSeconds", age, "Seconds")
        certificates = [each.certificate_until for each in self.facts.values() if each.certificate_until is not None]
        if certificates:
            yield Measurement("CertificateDays", (min(certificates) - situation.now) / DAY_SECONDS)
        if self.authority_until is not None:
            yield Measurement("AuthorityDays", (self.authority_until - situation.now) / DAY_SECONDS)
        for member in self.facts:
            yield Measurement("MemberRole", self._role(member), dimensions={"Member": member})

    def _role(self, member: str) -> float:
        if member == self.situation.roles.primary:
            return PRIMARY
        return STANDBY if self.protected else NEITHER

    def _restorable_age(self) -> float | None:
        """Of the newest moment to which any member can be restored: after a change of roles the old primary's backups
        are all there is until RDS has made the new one's first."""
        moments = [each.restorable_until for each in self.facts.values() if each.restorable_until is not None]
        return max(0.0, self.situation.now - max(moments)) if moments else None

    def _data_at_risk(self, recovers: bool) -> float | None:
        """Behind the primary is the standby when it can take over; else the newest backup, which a restore brings."""
        return prediction.standby_lag(self.situation) if recovers else self._restorable_age()
