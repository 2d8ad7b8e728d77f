"""A drill on AWS: a throw-away copy of the primary is made, recovered as in an emergency, verified, and deleted.

A `replica` drill promotes a read replica that was made for it; a `restore` drill restores the newest automated backup.
Members, roles and clients are left alone. A drill has the lowest rank of all: it holds no lease, begins only when
nothing else is under way, and gives up as soon as something is.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, cast

from recovery.alarm_states import AlarmState
from recovery.clock import iso
from recovery.incident import Lease, new_incident
from recovery.objectives import Objectives
from recovery.operation import Operation
from recovery.pause import Pause
from recovery.provenance import Provenance
from recovery.roles import Roles
from recovery.table import Record, RecoveryTable

Kind = Literal["replica", "restore"]
Outcome = Literal["passed", "missed", "failed", "aborted"]

KINDS: tuple[Kind, ...] = ("replica", "restore")
PLAN = "docs/drills-on-aws.md"
"""The procedure that a drill follows."""
RECORD = "drill"
"""The claim: one drill, or one sweep, at a time."""
LEDGER = "drills"
"""When a drill of each kind was last held, and last passed."""
HELD: tuple[Outcome, ...] = ("passed", "missed", "failed")
"""A drill that was given up says nothing, and is held again the next day."""
DAY_SECONDS = 86400.0
EARLY_SECONDS = DAY_SECONDS / 2
"""The schedule is daily: a drill that is due before the next look is due now."""
BEHIND_SECONDS = 30.0
"""A copy further behind than this still catches up: a standby would not count as one either."""
_MOMENT = re.compile(r"\d{14}")
_TROUBLE = re.compile(r"(?:[a-zA-Z-]+|the [a-z ]+): [A-Z][\w.]+$")
"""An entry of the machine's timeline that tells an error: the action or what was refused, and the error's name."""
_NAME = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")


class NotADrills(Exception):
    """An instance that no drill has made."""


@dataclass(frozen=True)
class Claim:
    """Who holds a drill now: its id, kind (`""`: a sweep), the copy's identifier, the execution's ARN, when it began
    (epoch seconds), by whose word, in which epoch, and why it is to end (None: it is not)."""

    drill: str
    kind: str
    identifier: str
    execution: str
    began_at: float
    by: str
    epoch: int
    abort: str | None = None


@dataclass(frozen=True)
class Situation:
    """What a drill may begin in, and go on in. `now` in epoch seconds; `primary` is RDS's status of it."""

    now: float
    roles: Roles
    lease: Lease | None
    operation: Operation | None
    pause: Pause | None
    primary: str


@dataclass(frozen=True)
class Held:
    """When the drills of a kind were last held to an end, and last passed, epoch seconds; None is never."""

    at: float | None = None
    passed_at: float | None = None


@dataclass(frozen=True)
class Ledger:
    """Since when there are drills (epoch seconds), and the drills of each kind."""

    since: float
    kinds: Mapping[Kind, Held]


@dataclass(frozen=True)
class Findings:
    """What a drill has found. Seconds but for `log_reached`.

    `rto`: from the request to a verified copy. `rpo`: what the copy lacked by its newest heartbeat, without the log.
    `log_reached`: the log was rolled forward to the moment of the request; None when no log is kept.
    """

    rto: float
    rpo: float
    log_reached: bool | None


def prefix_of(copy: str) -> str:
    """The part of a copy's identifier that all of an environment's have; NotADrills when it is none."""
    prefix, _, moment = copy.rpartition("-")
    if not prefix or not _MOMENT.fullmatch(moment):
        raise NotADrills(f"{copy} is not the name of a drill's instance.")
    return prefix


def identifier(prefix: str, began_at: float) -> str:
    """The copy's DB instance identifier, `<prefix>-<yyyymmddhhmmss>`: at most 50 of the 63 characters RDS allows."""
    return f"{prefix}-{datetime.fromtimestamp(began_at, UTC):%Y%m%d%H%M%S}"


def named(execution_name: str, began_at: float) -> str:
    """A drill's id: its execution's name when that is of an incident's form, as a person's is, else one like it."""
    return execution_name if _NAME.fullmatch(execution_name) else new_incident(began_at)


def is_copy(prefix: str, tag: tuple[str, str], name: str, tags: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an instance is a drill's of an environment: by its name and by its tag (key, value), never by one."""
    try:
        ours = prefix_of(name) == prefix
    except NotADrills:
        return False
    return ours and any((each.get("Key"), each.get("Value")) == tag for each in tags)


# When


def interruption(situation: Situation, epoch: int) -> str | None:
    """Why a drill that runs must end, in a sentence; None when it may go on."""
    roles, lease = situation.roles, situation.lease
    if lease is not None and lease.held(situation.now):
        return f"The incident {lease.incident} holds the lease."
    if situation.operation is not None:
        return f"An operation runs: {situation.operation.kind} {situation.operation.execution}."
    if situation.pause is not None:
        return f"The system is {situation.pause}."
    if roles.epoch != epoch:
        return f"The roles have passed to epoch {roles.epoch} since the drill began in {epoch}."
    return None


def hindrance(situation: Situation) -> str | None:
    """Why no drill may begin now, in a sentence; None when it may. It says no more often than `interruption` does."""
    found = interruption(situation, situation.roles.epoch)
    if found is not None:
        return found
    if not situation.roles.protected:
        return f"{situation.roles.standby} is no standby: reprotect first."
    if situation.primary != "available":
        return f"The primary {situation.roles.primary} is {situation.primary}."
    return None


def preflight(situation: Situation, source: str | None) -> list[dict[str, str]]:
    """What was looked at before a drill begins and how it was found, as a deploy's preflight tells it: `check`,
    `verdict` (`ok` or `failed`), `found`. All of it is ok exactly when nothing hinders and there is a `source`."""
    roles, lease, paused = situation.roles, situation.lease, situation.pause
    held = lease is not None and lease.held(situation.now)
    looked = (
        ("incident", not held, f"{lease.incident} holds the lease" if lease is not None and held else "none"),
        ("operation", situation.operation is None, situation.operation.kind if situation.operation else "none"),
        ("pause", paused is None, "none" if paused is None else str(paused)),
        ("standby", roles.protected, f"{roles.standby} {'protects' if roles.protected else 'is no standby'}"),
        ("primary", situation.primary == "available", f"{roles.primary} is {situation.primary}"),
        ("source", source is not None, source or "no backup that can be restored"),
    )
    return [{"check": name, "verdict": "ok" if well else "failed", "found": found} for name, well, found in looked]


def due(ledger: Ledger, days: int, now: float) -> Kind | None:
    """The kind of drill to hold now: of those that were not held for `days`, the one that waits longest.

    None when there is none; with `days` 0 nothing is ever due.
    """
    if days <= 0:
        return None
    waiting = [(ledger.kinds.get(kind, Held()).at or ledger.since, kind) for kind in KINDS]
    oldest, kind = min(waiting, key=lambda each: each[0])
    return kind if now - oldest >= days * DAY_SECONDS - EARLY_SECONDS else None


def days_since(ledger: Ledger, now: float) -> float:
    """Days since a drill passed, of the kind for which that is longest ago."""
    passed = [ledger.kinds.get(kind, Held()).passed_at or ledger.since for kind in KINDS]
    return max(0.0, now - min(passed)) / DAY_SECONDS


# What came of it


def judged(kind: Kind, found: Findings, objectives: Objectives, promotion_seconds: float) -> tuple[Outcome, str]:
    """`passed` or `missed`, and the sentence that says so with the numbers.

    A promotion must stay within what the proof of the RTO grants it; a restore has no such limit, its time is shown.
    """
    missed = []
    if kind == "replica" and found.rto > promotion_seconds:
        missed.append(f"the promotion took {found.rto:.0f} s of the {promotion_seconds:.0f} s granted to it")
    if found.rpo > objectives.rpo_seconds:
        missed.append(f"{found.rpo:.0f} s were missing, more than the RPO of {objectives.rpo_seconds:.0f} s")
    if found.log_reached is False:
        missed.append("the log could not be rolled forward to the moment of the request")
    if missed:
        return "missed", f"{_sentence(' and '.join(missed))}."
    how = "promoted" if kind == "replica" else "restored"
    log = {True: ", nothing with the log", None: "; no log is kept", False: ""}[found.log_reached]
    return "passed", f"{how.capitalize()} and verified in {found.rto:.1f} s; {found.rpo:.1f} s were missing{log}."


def steps(marks: Mapping[str, float]) -> list[dict[str, Any]]:
    """The steps by the marks at their ends (epoch milliseconds): what each is, when it ended, how long it took (s)."""
    ordered = sorted(marks.items(), key=lambda mark: mark[1])
    return [
        {"step": name, "at": iso(at / 1000), "seconds": round((at - before) / 1000, 3)}
        for (_, before), (name, at) in itertools.pairwise(ordered)
    ]


def deviations(
    outcome: str,
    reason: str,
    timeline: Iterable[Mapping[str, Any]],
    fired: Iterable[Mapping[str, Any]] = (),
) -> list[str]:
    """What did not come as it was expected, a sentence each: the outcome, what RDS refused, what an earlier drill had
    left, and which alarms went off (`alarms`)."""
    found = [] if outcome == "passed" else [f"The outcome is {outcome!r}: {reason}"]
    events = [str(step.get("event", "")) for step in timeline]
    return [
        *found,
        *(f"The machine: {event}." for event in events if _TROUBLE.match(event) or event.endswith("has left it")),
        *(f"The alarm {each['name']} {each['state']}: {each['note']}." for each in fired if each["state"] != "cleared"),
    ]


def alarms(found: Iterable[AlarmState], began_at: float) -> list[dict[str, Any]]:
    """What alarms did meanwhile, as a report shows it (`name`, `state`, `at`, `note`): of each the newest change since
    the drill began. None has to fire, because the members are left alone."""
    return [
        {
            "name": each.name,
            "state": "fired unexpectedly" if each.state == "ALARM" else "cleared",
            "at": iso(each.changed_at),
            "note": f"{each.changed_at - began_at:.0f} s after the drill began; it is {each.state}",
        }
        for each in sorted(found, key=lambda each: (each.changed_at, each.name))
        if each.changed_at >= began_at
    ]


def restoration(identifier: str, marks: Mapping[str, float]) -> list[str]:
    """How the environment was left, by the copy and the marks (epoch milliseconds)."""
    untouched = "Members, roles and clients were left alone: there is nothing to restore."
    if not identifier:
        return ["No copy was made.", untouched]
    gone = marks.get("cleaned")
    said = "was not seen to be gone: the next sweep deletes it" if gone is None else f"was gone at {iso(gone / 1000)}"
    return [f"The copy {identifier} {said}.", untouched]


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


# What is kept


def made_of(suffix: str, deployed: Provenance) -> dict[str, str]:
    """What ties a record to its environment, commit, templates and plan: fields of the record."""
    plan = deployed.of_plan(PLAN)
    return {
        "suffix": suffix,
        "commit": deployed.commit,
        "template_sha256": deployed.template_sha256,
        "plan": json.dumps(plan) if plan else "",
    }


def claimed(table: RecoveryTable) -> Claim | None:
    """The claim, whoever's it is and whether or not they live."""
    record = table.get(RECORD)
    if record is None:
        return None
    texts = {name: str(record[name]) for name in ("drill", "kind", "identifier", "execution", "by")}
    return Claim(
        **texts, began_at=float(record["began_at"]), epoch=int(record["epoch"]), abort=record.get("abort") or None
    )


def claim(table: RecoveryTable, wanted: Claim, replaced: str | None) -> bool:
    """Take the claim when it is free, ours, or still of the execution `replaced`; False when somebody else has it."""
    return table.put_if(
        RECORD,
        wanted.__dict__,
        "attribute_not_exists(id) OR execution = :ours OR execution = :replaced",
        {":ours": wanted.execution, ":replaced": replaced or wanted.execution},
    )


def ask_to_end(table: RecoveryTable, execution: str, reason: str) -> bool:
    """Have the drill of an execution give up and clean up; False when it has ended meanwhile."""
    return table.update_if(RECORD, {"abort": reason}, "execution = :execution", {":execution": execution})


def ledger(table: RecoveryTable, now: float) -> Ledger:
    """The ledger; begun at `now` when there is none."""
    record = table.get(LEDGER)
    if record is None and table.put_if(LEDGER, {"since": now}, "attribute_not_exists(id)"):
        record = {"since": now}
    record = record or cast("Record", table.get(LEDGER))
    kinds = {kind: Held(record.get(f"{kind}_at"), record.get(f"{kind}_passed_at")) for kind in KINDS}
    return Ledger(float(record["since"]), kinds)


def enter(table: RecoveryTable, kind: Kind, outcome: str, began_at: float, now: float) -> None:
    """Write into the ledger that a drill of this kind has ended so. One that was given up changes nothing."""
    if outcome not in HELD:
        return
    ledger(table, now)
    changes = {f"{kind}_at": began_at} | ({f"{kind}_passed_at": began_at} if outcome == "passed" else {})
    table.update_if(LEDGER, changes, "attribute_exists(id)", {})


def keep(table: RecoveryTable, drill: str, record: Mapping[str, object]) -> bool:
    """Write a drill's record, once: False when there is one already, which stays."""
    return table.put_if(f"drill#{drill}", record, "attribute_not_exists(id)")
