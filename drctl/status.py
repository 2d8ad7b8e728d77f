"""The state of an environment, from whatever its sources said: what is so, what would happen, what is at risk.

Pure: answers in, a Status out. What a source did not say is unknown here, never assumed to be well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

from drctl.asking import Answer
from drctl.sources import (
    InstanceView,
    LogView,
    MachinesView,
    SecretView,
    SettingsView,
    SqlView,
    TableView,
    promised,
)
from recovery import arbiter
from recovery.arbiter import Situation
from recovery.clock import iso
from recovery.objectives import Detection, Objectives
from recovery.prediction import data_at_risk, if_lost_now, standby_lag
from recovery.rds import UNKNOWN, MemberStatus
from stacks.names import Names

T = TypeVar("T")
DAY_SECONDS = 86_400.0
ROTATION_OVERDUE_DAYS = 31.0
"""The longest that `rotationDays` may be, and a day."""
UNKNOWN_DETECTION = Detection()
UNKNOWN_OBJECTIVES = Objectives()


class Verdict(IntEnum):
    """How the environment is, and the command's exit code."""

    WELL = 0
    AT_RISK = 3
    DOWN = 4
    UNSEEN = 5

    @property
    def words(self) -> str:
        """For people."""
        return {
            Verdict.WELL: "all is well",
            Verdict.AT_RISK: "at risk",
            Verdict.DOWN: "the database takes no writes",
            Verdict.UNSEEN: "nothing bad was seen, but not everything could be seen",
        }[self]


@dataclass(frozen=True)
class Member:
    """A member: role (`unknown` without a role record), RDS's status, zones, what its fence and its own word are."""

    identifier: str
    role: str
    status: str
    zone: str | None
    copy_zone: str | None
    fenced: bool | None
    takes_writes: bool | None
    lsn: str | None
    unreachable: str | None
    """Why it was not asked or did not answer itself; from outside its network that says nothing about it."""


@dataclass(frozen=True)
class Witness:
    """What a witness last saw; `age` in s. `fresh`: recent enough to be believed."""

    name: str
    age: float
    fresh: bool
    primary: bool
    standby: bool
    lag_seconds: float | None
    lag_bytes: int | None


@dataclass(frozen=True)
class Forecast:
    """What would come of a loss now: the arbiter's word, the bounds (s) where the standby takes over; `objective` s.

    `missing_if_lost` is what neither standby nor log has, `missing_if_both_lost` what neither backup nor log has.
    """

    action: str
    reason: str
    back_within: float | None
    rto: float
    missing_if_lost: float | None
    missing_if_both_lost: float | None
    rpo: float


@dataclass(frozen=True)
class Status:
    """Everything that is known now. Times are ISO 8601 UTC or seconds, as the names say."""

    suffix: str
    at: str
    verdict: Verdict
    epoch: int | None
    since: str | None
    protected: bool | None
    members: tuple[Member, ...]
    witnesses: tuple[Witness, ...]
    log: LogView
    password_age: float | None
    password_rotates_in: float | None
    forecast: Forecast | None
    running: tuple[str, ...]
    alarms: tuple[str, ...] | None
    risks: tuple[str, ...]
    unseen: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {**asdict(self), "verdict": self.verdict.name.lower().replace("_", " "), "exit_code": int(self.verdict)}


def status(suffix: str, answers: Mapping[str, Answer], now: float, hosts: Mapping[str, str] | None = None) -> Status:
    """What the answers come to at `now` (epoch seconds); `hosts` are the members' by identifier, where known."""
    seen = _Seen(answers)
    table = seen.of("recovery table", TableView)
    names = Names(suffix)
    roles = table.roles if table else None
    members = tuple(_member(each, seen, table) for each in names.members)
    situation = _situation(table, seen, now)
    witnesses = () if situation is None else tuple(_witness(each, situation) for each in situation.observations)
    log = seen.of("CloudWatch", LogView) or LogView()
    password = seen.of("secret", SecretView)
    forecast = None if situation is None else _forecast(situation, seen, log, now)
    alarms = seen.of("alarms", tuple)
    running = tuple(_running(table, seen, now))
    down = _down(members, witnesses, table is not None)
    risks = tuple(_risks(table, members, witnesses, log, password, forecast, alarms, hosts or {}))
    unseen = {name: each.trouble for name, each in answers.items() if each.trouble and name not in names.members}
    verdict = Verdict.WELL
    if down is not None:
        verdict, risks = Verdict.DOWN, (down, *risks)
    elif risks:
        verdict = Verdict.AT_RISK
    elif unseen:
        verdict = Verdict.UNSEEN
    return Status(
        suffix=suffix,
        at=iso(now),
        verdict=verdict,
        epoch=roles.epoch if roles else None,
        since=roles.since if roles else None,
        protected=roles.protected if roles else None,
        members=members,
        witnesses=witnesses,
        log=log,
        password_age=password.age if password else None,
        password_rotates_in=password.rotates_in if password else None,
        forecast=forecast,
        running=running,
        alarms=alarms,
        risks=risks,
        unseen=unseen,
    )


class _Seen:
    """The answers by the kind of value that is expected."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    def of(self, source: str, kind: type[T]) -> T | None:
        """What the source said, or None."""
        answer = self._answers.get(source)
        return answer.value if answer is not None and isinstance(answer.value, kind) else None

    def trouble(self, source: str) -> str | None:
        """Why it said nothing."""
        answer = self._answers.get(source)
        return None if answer is None else answer.trouble

    @property
    def instances(self) -> Mapping[str, InstanceView]:
        """Both members as RDS has them; empty when it does not say."""
        return self.of("RDS", dict) or {}


def _member(identifier: str, seen: _Seen, table: TableView | None) -> Member:
    instance = seen.instances.get(identifier, InstanceView(MemberStatus(UNKNOWN)))
    ingress = (seen.of("EC2", dict) or {}).get(identifier)
    word = seen.of(identifier, SqlView)
    roles = table.roles if table else None
    role = "unknown" if roles is None else "primary" if identifier == roles.primary else "standby"
    if role == "standby" and roles is not None and not roles.protected:
        role = "old member"
    return Member(
        identifier=identifier,
        role=role,
        status=instance.status.status,
        zone=instance.zone,
        copy_zone=instance.copy_zone,
        fenced=None if ingress is None else ingress == 0,
        takes_writes=None if word is None else word.takes_writes,
        lsn=None if word is None else word.lsn,
        unreachable=seen.trouble(identifier),
    )


def _situation(table: TableView | None, seen: _Seen, now: float) -> Situation | None:
    """The arbiter's own view of the present; None without roles."""
    if table is None or table.roles is None:
        return None
    settings = seen.of("settings", SettingsView) or SettingsView(UNKNOWN_DETECTION, UNKNOWN_OBJECTIVES)
    nothing = InstanceView(MemberStatus(UNKNOWN))
    return Situation(
        now=now,
        epoch=table.roles.epoch,
        started_at=now,
        roles=table.roles,
        observations=table.observations,
        primary=seen.instances.get(table.roles.primary, nothing).status,
        standby=seen.instances.get(table.roles.standby, nothing).status,
        events=(seen.of("RDS events", dict) or {}).get(table.roles.primary, ()),
        paused=table.pause,
        override=table.override,
        detection=settings.detection,
        objectives=settings.objectives,
    )


def situation_of(answers: Mapping[str, Answer], now: float) -> Situation | None:
    """The arbiter's view of the present from these answers; None without roles."""
    seen = _Seen(answers)
    return _situation(seen.of("recovery table", TableView), seen, now)


def _witness(seen: Any, situation: Situation) -> Witness:
    return Witness(
        name=seen.witness,
        age=max(0.0, situation.now - seen.at),
        fresh=seen in arbiter.fresh(situation),
        primary=seen.primary.reachable,
        standby=seen.standby.reachable,
        lag_seconds=seen.standby.lag_seconds,
        lag_bytes=seen.standby.lag_bytes,
    )


def _forecast(situation: Situation, seen: _Seen, log: LogView, now: float) -> Forecast:
    prediction = if_lost_now(situation)
    machines = seen.of("machines", MachinesView)
    bound = None
    if prediction.recovers and machines is not None:
        bound = promised(machines.definition, SettingsView(situation.detection, situation.objectives))
    restorable = [each.restorable_until for each in seen.instances.values() if each.restorable_until is not None]
    # A restore is rolled forward along the log, so the log alone bounds the loss where there is one
    backup = None if not restorable else max(0.0, now - max(restorable))
    return Forecast(
        action=prediction.action,
        reason=prediction.reason,
        back_within=bound,
        rto=situation.objectives.rto_seconds,
        missing_if_lost=data_at_risk((standby_lag(situation), log.lag_seconds)) if prediction.recovers else None,
        missing_if_both_lost=data_at_risk((backup, log.lag_seconds if backup is not None else None)),
        rpo=situation.objectives.rpo_seconds,
    )


def _running(table: TableView | None, seen: _Seen, now: float) -> Iterator[str]:
    if table is not None:
        if table.lease is not None and table.lease.held(now):
            yield f"incident {table.lease.execution_name} holds the lease since {iso(table.lease.taken_at)}"
        if table.operation is not None:
            yield f"{table.operation.kind} {table.operation.execution.rpartition(':')[2]}"
        if table.pause is not None:
            yield f"automatic action is {table.pause}"
        if table.override is not None:
            accepted = ", ".join(sorted(table.override.accepts))
            yield f"{table.override.by} accepts {accepted} until {iso(table.override.until)}: {table.override.reason}"
    for name in (seen.of("machines", MachinesView) or MachinesView(())).running:
        yield f"execution {name}"


def _down(members: tuple[Member, ...], witnesses: tuple[Witness, ...], has_table: bool) -> str | None:
    """Why the database is believed to take no writes; None when somebody writes, or nobody can tell."""
    if any(each.takes_writes and each.role in ("primary", "unknown") for each in members):
        return None
    fresh = [each for each in witnesses if each.fresh]
    if any(each.primary for each in fresh):
        return None
    if fresh:
        return f"No witness writes to the primary ({', '.join(each.name for each in fresh)} cannot)"
    primary = next((each for each in members if each.role == "primary"), None)
    if has_table and primary is not None and arbiter.lost(primary.status):
        return f"RDS says that the primary {primary.identifier} is {primary.status}"
    return None


def _risks(
    table: TableView | None,
    members: tuple[Member, ...],
    witnesses: tuple[Witness, ...],
    log: LogView,
    password: SecretView | None,
    forecast: Forecast | None,
    alarms: tuple[str, ...] | None,
    hosts: Mapping[str, str],
) -> Iterator[str]:
    if table is not None and table.roles is None:
        yield "There are no roles yet: no witness has seen both members"
    if table is not None and table.roles is not None:
        for silent in sorted({"a", "c"} - {each.name for each in witnesses if each.fresh}):
            yield f"Witness {silent} is silent: a loss has one signal less"
    if forecast is not None and forecast.action != "promote":
        yield f"If the primary were lost now, the standby would not take over: {forecast.action} - {forecast.reason}"
    if forecast is not None and forecast.missing_if_lost is not None and forecast.missing_if_lost > forecast.rpo / 2:
        yield f"A loss now would cost {forecast.missing_if_lost:.0f} s of data, over half the objective"
    for each in members:
        if each.status not in ("available", UNKNOWN):
            yield f"RDS says that {each.identifier} is {each.status}"
        if each.fenced and each.role != "old member":
            yield f"{each.identifier}, the {each.role}, is fenced: its security group lets nobody in"
    zones = {each.zone for each in members}
    if len(zones) == 1 and None not in zones:
        yield f"Both members are in {members[0].zone}: the loss of that zone hits both at once"
    writers = [each.identifier for each in members if each.takes_writes]
    if len(writers) == len(members):
        yield "Both members take writes: see which one the clients write to before anything else"
    if log.verdict not in (None, "OK"):
        yield f"The transaction log's verdict is {log.verdict}"
    if log.gaps:
        yield f"The transaction log has {log.gaps:.0f} gaps"
    if log.lag_seconds is not None and forecast is not None and log.lag_seconds > forecast.rpo / 2:
        yield f"The transaction log is {log.lag_seconds:.0f} s behind"
    if password is not None:
        yield from _password(password, table, hosts)
    if alarms:
        yield f"Alarms: {', '.join(alarms)}"


def _password(password: SecretView, table: TableView | None, hosts: Mapping[str, str]) -> Iterator[str]:
    if password.age > ROTATION_OVERDUE_DAYS * DAY_SECONDS:
        yield f"The password is {password.age / DAY_SECONDS:.0f} days old: its rotation is overdue"
    if table is None or table.roles is None or table.lease is not None:
        return  # an incident changes the secret and the roles one after the other
    primary = hosts.get(table.roles.primary)
    if password.host and primary and password.host != primary:
        yield f"The secret leads to {password.host}, the primary {table.roles.primary} is at {primary}"
