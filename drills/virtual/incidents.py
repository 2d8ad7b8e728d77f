"""Seeded incidents in virtual time, with the delays that AWS documents: how long is the database away?

Real are the machine's definition (as synthesised), the arbiter's `decide`, the witness's rule for suspecting and its
rounds, and the rest after an incident. A model are RDS, EC2, the functions' and the APIs' delays and errors:

- a Multi-AZ failover takes 60-120 s (RDS user guide), and its events may be missing;
- a promotion takes 2-8 minutes and reports `available` for some seconds first; RDS refuses one while `backing-up`;
- a call takes 0.15 s in the median and up to some seconds; 2 % are throttled, 0.3 % hang; a function's first call
  brings a cold start of 1-2.5 s.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from drills.virtual.machine import Answer, Machine, Run, TaskFailed
from recovery import observation
from recovery.arbiter import Situation, decide
from recovery.clock import iso
from recovery.objectives import Detection, Objectives
from recovery.observation import Observation, PrimaryView, StandbyView
from recovery.probe import ANSWER_SECONDS
from recovery.rds import UNKNOWN, Event, MemberStatus
from recovery.roles import Roles
from recovery.suspicion import REST_SECONDS

BEGIN = 1_800_000_000.0
GIVEN_UP_SECONDS = 3600.0
EPOCH = 1

MULTI_AZ = (60.0, 120.0)
PROMOTION = (120.0, 480.0)
# What an incident is, and how many of a hundred are of its kind.
KINDS: Mapping[str, int] = {
    "crash, restarted by RDS": 10,
    "Multi-AZ failover": 25,
    "Multi-AZ failover, zone and witness lost": 10,
    "Multi-AZ failover that takes too long": 10,
    "instance lost, RDS says failed": 15,
    "instance lost, RDS says nothing": 15,
    "storage full": 5,
    "instance lost, standby backing up": 5,
    "one witness cut off": 5,
}


@dataclass(frozen=True)
class Measured:
    """One incident: seconds without service, and what of it was whose; `promotions` that RDS accepted."""

    seed: int
    kind: str
    outage: float
    outcome: str
    promotions: int
    noticing: float = 0.0
    deciding: float = 0.0
    fencing: float = 0.0
    finishing: float = 0.0
    promotion: float = 0.0
    promoted_too_early: bool = False
    alarmed: bool = False

    @property
    def own(self) -> float:
        """What the project itself took, outside of the grace and of RDS's own work, s."""
        return self.noticing + self.deciding + self.fencing + self.finishing


@dataclass
class Region:
    """RDS, EC2 and the network, as functions of time. Times are epoch seconds."""

    chance: random.Random
    kind: str
    roles: Roles
    lost_at: float = BEGIN
    back_at: float = float("inf")
    says_failed_at: float = float("inf")
    failed_status: str = "failed"
    failover_at: float = float("inf")
    events_missing: bool = False
    hangs: bool = False
    backing_up_until: float = 0.0
    witness_lost: str | None = None
    cut_off: str | None = None
    revoked_at: float = float("inf")
    promoted_at: float = float("inf")
    asked_at: float = float("inf")
    promotions: int = 0
    promoted_too_early: bool = False
    warm: set[str] = field(default_factory=set)

    @classmethod
    def drawn(cls, kind: str, roles: Roles, chance: random.Random) -> Region:
        """An incident of this kind."""
        region = cls(chance, kind, roles, hangs=chance.random() < 0.5, events_missing=chance.random() < 0.2)
        lost = region.lost_at
        if kind == "crash, restarted by RDS":
            region.back_at, region.hangs = lost + chance.uniform(5, 60), False
        elif kind.startswith("Multi-AZ failover"):
            took = chance.uniform(180, 400) if kind.endswith("too long") else chance.uniform(*MULTI_AZ)
            region.back_at, region.failover_at = lost + took, lost + chance.uniform(2, 20)
            if "witness" in kind:
                region.witness_lost = chance.choice("ac")
        elif kind == "one witness cut off":
            region.cut_off, region.lost_at = chance.choice("ac"), float("inf")
        elif kind != "instance lost, RDS says nothing":
            region.says_failed_at = lost + chance.uniform(5, 120)
            if kind == "storage full":
                region.failed_status = "storage-full"
            elif kind.endswith("backing up"):
                region.backing_up_until = lost + chance.uniform(30, 200)
        return region

    def serves(self, now: float, witness: str | None = None) -> bool:
        """Whether the primary takes writes (from where a witness is)."""
        if witness is not None and witness == self.cut_off and now >= BEGIN:
            return False
        return (now < self.lost_at or now >= self.back_at) and now < self.revoked_at

    def primary_status(self, now: float) -> MemberStatus:
        """What RDS answers about the primary; now and then nothing."""
        if self.chance.random() < 0.02:
            return MemberStatus(UNKNOWN)
        failing_over = self.failover_at <= now < self.back_at
        status = "rebooting" if failing_over and self.chance.random() < 0.3 else "available"
        return MemberStatus(self.failed_status if now >= self.says_failed_at else status, None, True)

    def standby_status(self, now: float) -> MemberStatus:
        """What RDS answers about the standby; `available` for some seconds after it was asked to promote it."""
        if self.chance.random() < 0.02:
            return MemberStatus(UNKNOWN)
        status = "available"
        if now < self.backing_up_until:
            status = "backing-up"
        elif self.asked_at + 5 <= now < self.promoted_at:
            status = "modifying"
        return MemberStatus(status, self.roles.primary if now < self.promoted_at else None, True)

    def events(self, now: float) -> tuple[Event, ...]:
        """What RDS has told about the primary; best effort."""
        primary = self.roles.primary
        told = [
            Event(self.failover_at, primary, "Multi-AZ instance failover started.", ("failover",)),
            Event(self.back_at, primary, "Multi-AZ instance failover completed.", ("failover",)),
            Event(self.says_failed_at, primary, "DB instance put into failed state.", ("failure",)),
        ]
        if self.kind == "storage full":
            del told[2]
        return () if self.events_missing else tuple(each for each in told if each.at <= now)

    def promote(self, now: float) -> None:
        """Accept the promotion, as RDS does for a replica that is available; raises TaskFailed."""
        if now < self.backing_up_until or self.asked_at + 5 <= now:
            raise TaskFailed("Rds.InvalidDbInstanceStateException", "the instance is not available", self.delay())
        if self.asked_at == float("inf"):
            self.promotions += 1
            self.asked_at = now
            self.promoted_at = now + self.chance.uniform(*PROMOTION)
            own = self.failover_at < float("inf") and now < self.back_at
            self.promoted_too_early = own and now - self.lost_at < Detection().multi_az_grace

    def delay(self, function: str | None = None, work: float = 0.0) -> float:
        """How long a call takes; a function that is not warm starts first."""
        cold = 0.0
        if function is not None and function not in self.warm:
            self.warm.add(function)
            cold = self.chance.uniform(1.0, 2.5)
        return cold + work + min(8.0, self.chance.lognormvariate(-1.9, 0.8))


class Witness:
    """A witness's rounds: their times by its detection settings, failures by the witness's own rule."""

    def __init__(self, name: str, region: Region, detection: Detection) -> None:
        self._name = name
        self._region = region
        self._detection = detection
        self._next = BEGIN - 30 + region.chance.uniform(0, detection.probe_interval)
        self._told: list[tuple[float, Observation]] = []
        self._lag = region.chance.uniform(0, 1)

    def advance(self, until: float) -> None:
        """Do every round that begins before `until`."""
        while self._next < until and not (self._region.witness_lost == self._name and self._next >= BEGIN):
            self._round(self._next)

    def _round(self, at: float) -> None:
        region, detection = self._region, self._detection
        reachable = region.serves(at, self._name)
        took = 0.05 if reachable else (detection.probe_timeout if region.hangs or at >= region.revoked_at else 0.02)
        before = self._told[-1][1] if self._told else None
        failures, first = observation.failed_rounds(before, reachable, at)
        seen = Observation(
            witness=self._name,
            at=at + took,
            epoch=EPOCH,
            primary=PrimaryView(reachable),
            standby=StandbyView(True, None, self._lag),
            failures=failures,
            first_failure_at=first,
        )
        self._told = [*self._told[-5:], (at + took + region.delay(), seen)]
        self._next = at + max(detection.probe_interval, took + region.chance.uniform(0, detection.probe_interval / 2))

    def told(self, now: float) -> Observation | None:
        """The newest observation that is in the table."""
        self.advance(now)
        return max((seen for at, seen in self._told if at <= now), key=lambda seen: seen.at, default=None)

    def suspects(self, after: float, limit: float) -> tuple[float, float] | None:
        """When its first suspicion after `after` is told, and when the first failed probe of it began."""
        self.advance(after)
        while True:
            at, seen = self._told[-1]
            if at >= after and seen.failures >= self._detection.failure_threshold:
                assert seen.first_failure_at is not None
                return at, seen.first_failure_at
            following = self._next
            if following >= limit:
                return None
            self.advance(following + 1e-6)
            if self._next == following:
                return None


class Incident:
    """One loss, from its first moment until the database is back."""

    def __init__(
        self, machine: Machine, kind: str, roles: Roles, seed: int, detection: Detection, objectives: Objectives
    ) -> None:
        self._machine = machine
        self._roles = roles
        self._seed = seed
        self._kind = kind
        self._chance = random.Random(seed)  # noqa: S311 - a seed, no secret
        self._detection = detection
        self._objectives = objectives
        self._region = Region.drawn(kind, roles, self._chance)
        self._witnesses = [Witness(name, self._region, detection) for name in "ac"]
        self._given: dict[str, Any] = {}
        self._first_start: float | None = None
        self._decided_at = self._verified_at = float("inf")

    def measured(self) -> Measured:
        """Live through it."""
        now, outcome, alarmed = BEGIN, "none", False
        while now < BEGIN + GIVEN_UP_SECONDS:
            run = self._machine_started(now)
            if run is None:
                break
            outcome, now = str(run.variables["outcome"]), run.ended + REST_SECONDS
            alarmed = alarmed or bool(run.variables["atRisk"])
            if outcome == "promoted" or self._region.serves(run.ended):
                break
        return self._told(outcome, alarmed)

    def _machine_started(self, after: float) -> Run | None:
        """The next run of the machine; None when nobody suspects anything any more."""
        found = [told for witness in self._witnesses if (told := witness.suspects(after, after + 120)) is not None]
        if not found:
            return None
        at, since = min(found)
        started = at + sum(self._region.delay() for _ in range(3))
        if self._first_start is None:
            self._first_start = started
        self._given = {
            "incident": f"seed-{self._seed}",
            "epoch": EPOCH,
            "witness": "a",
            "started_at": iso(at),
            "since": iso(since),
        }
        self._started_at = at
        return self._machine.run(self._given, self._asked, started)

    def _asked(self, state: str, arguments: dict[str, Any], now: float) -> Answer:
        region = self._region
        trouble = self._chance.random()
        if trouble < 0.003:
            return Answer({}, 30.0)
        if trouble < 0.023:
            raise TaskFailed("Lambda.TooManyRequestsException", "Rate exceeded", region.delay())
        match state:
            case "Observe":
                after = region.delay("arbiter", 0.1)
                decision = self._decision(now + after, bool(arguments["Payload"]["forced"]))
                if decision["action"] == "promote":
                    self._decided_at = min(self._decided_at, now + after)
                return Answer({"Payload": decision}, after)
            case "FindIngress":
                after = region.delay()
                rules = [] if now >= region.revoked_at else [{"SecurityGroupRuleId": "sgr-1", "IsEgress": False}]
                return Answer({"SecurityGroupRules": rules}, after)
            case "RevokeIngress":
                after = region.delay()
                for witness in self._witnesses:
                    witness.advance(now + after)
                region.revoked_at = min(region.revoked_at, now + after + self._chance.uniform(0, 1))
                return Answer({}, after)
            case "RestartOldPrimary":
                if now >= region.says_failed_at or region.failover_at <= now < region.back_at:
                    raise TaskFailed("Rds.InvalidDbInstanceStateException", "not available", region.delay())
                return Answer({}, region.delay())
            case "ConfirmFence":
                reachable = region.serves(now)
                waited = 0.05 if reachable else min(self._detection.probe_timeout, ANSWER_SECONDS)
                return Answer({"Payload": {"reachable": reachable, "error": None}}, region.delay("probe", waited))
            case "Promote":
                region.promote(now)
                return Answer({}, region.delay())
            case "AwaitPromotion":
                after = region.delay()
                found = region.standby_status(now + after)
                instance: dict[str, Any] = {"DbInstanceStatus": found.status}
                if found.replica_of or found.status == UNKNOWN:
                    instance["ReadReplicaSourceDBInstanceIdentifier"] = self._roles.primary
                return Answer({"DbInstances": [instance]}, after)
            case "ProbePromoted":
                return Answer({"Payload": {"reachable": True, "in_recovery": False}}, region.delay("probe", 0.05))
            case "OpenLog":
                return Answer({"Payload": {"begin_lsn": "0/2"}}, region.delay("open-log", 0.3))
            case "RollForward" | "RollForwardOn":
                after = region.delay("roll-forward", self._chance.uniform(0.5, 3.0))
                return Answer({"Payload": {"transactions": 7, "trouble": None}}, after)
            case "PointSecret":
                return Answer({"Payload": {"host": self._roles.standby}}, region.delay("rotation", 0.4))
            case "CutOver":
                return Answer({"Payload": {"host": self._roles.standby}}, region.delay("cutover", 0.05))
            case "Verify":
                after = region.delay("verify", 0.2)
                self._verified_at = now + after
                return Answer({"Payload": {"member": self._roles.standby}}, after)
            case _:
                # Preparation, record, message, lease: an answer whose content nobody reads
                return Answer({"Payload": {"host": self._roles.standby}}, region.delay())

    def _decision(self, now: float, forced: bool) -> dict[str, Any]:
        seen = [told for witness in self._witnesses if (told := witness.told(now)) is not None]
        return asdict(
            decide(
                Situation(
                    now=now,
                    epoch=EPOCH,
                    started_at=self._started_at,
                    roles=self._roles,
                    observations=tuple(seen),
                    primary=self._region.primary_status(now),
                    standby=self._region.standby_status(now),
                    events=self._region.events(now),
                    forced=forced,
                    detection=self._detection,
                    objectives=self._objectives,
                )
            )
        )

    def _told(self, outcome: str, alarmed: bool) -> Measured:
        region = self._region
        told = partial(
            Measured,
            seed=self._seed,
            kind=self._kind,
            outcome=outcome,
            promotions=region.promotions,
            promoted_too_early=region.promoted_too_early,
            alarmed=alarmed,
        )
        if region.promotions == 0:
            return told(outage=0.0 if region.lost_at == float("inf") else region.back_at - region.lost_at)
        # From this moment the decision could have been made: RDS's own word, or the end of the grace
        due = min(region.says_failed_at, region.lost_at + self._detection.multi_az_grace)
        due = max(due, region.backing_up_until)
        assert self._first_start is not None
        noticed = max(self._first_start, region.lost_at)
        return told(
            outage=self._verified_at - region.lost_at,
            noticing=max(0.0, noticed - due),
            deciding=max(0.0, self._decided_at - max(due, noticed)),
            fencing=region.asked_at - self._decided_at,
            promotion=region.promoted_at - region.asked_at,
            finishing=self._verified_at - region.promoted_at,
        )


def lived_through(
    definition: Mapping[str, Any], detection: Detection, objectives: Objectives, seeds: Sequence[int]
) -> list[Measured]:
    """The incidents of these seeds; a seed gives the same incident every time."""
    machine = Machine(definition)
    primary, standby = definition["States"]["Begin"]["Assign"]["groups"]
    roles = Roles(EPOCH, primary, standby, iso(BEGIN - 86400))
    kinds = [kind for kind, share in KINDS.items() for _ in range(share)]
    found = []
    for seed in seeds:
        kind = random.Random(f"kind {seed}").choice(kinds)  # noqa: S311 - a seed, no secret
        found.append(Incident(machine, kind, roles, seed, detection, objectives).measured())
    return found


def violations(found: Sequence[Measured]) -> list[str]:
    """What must not happen in any incident, in words, with its seed."""
    broken = []
    for each in found:
        recovers = each.kind in ("crash, restarted by RDS", "Multi-AZ failover", "one witness cut off")
        recovers = recovers or each.kind.endswith("witness lost")
        if each.promotions > 1:
            broken.append(f"seed {each.seed} ({each.kind}): promoted {each.promotions} times")
        if recovers and each.promotions:
            broken.append(f"seed {each.seed} ({each.kind}): promoted, though RDS recovers by itself")
        if each.promoted_too_early:
            broken.append(f"seed {each.seed} ({each.kind}): promoted while RDS was failing over within the grace")
        if not recovers and not each.promotions and not each.kind.endswith("too long"):
            broken.append(f"seed {each.seed} ({each.kind}): never recovered, outcome {each.outcome}")
        if each.promotions and each.outcome != "promoted":
            broken.append(f"seed {each.seed} ({each.kind}): promoted, but the machine ended as {each.outcome}")
    return broken


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]


def summary(found: Sequence[Measured]) -> dict[str, float]:
    """p50, p95, p99 and the longest outage, s, of the incidents that were outages."""
    outages = [each.outage for each in found if each.outage > 0] or [0.0]
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    return {name: round(quantile(outages, share), 1) for name, share in shares.items()}
