"""The drill machine's questions: may a drill begin, how far is the copy, what does it hold, what came of it?"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from functions import clients, journal
from functions.environment import Environment, drill_settings, environment, objectives
from recovery import alarm_states, clock, drill, heartbeat, incident, operation, pause, provenance, rds, roles
from recovery.alarm_states import AlarmState
from recovery.connection import Refused, Unreachable
from recovery.drill import Claim, Findings, Kind, Ledger, Situation
from recovery.heartbeat import State, lsn_number
from recovery.members import Endpoint
from recovery.table import RecoveryTable

SIGN_IN_SECONDS = 5.0
STATEMENT_SECONDS = 5.0
RUNNING = "RUNNING"


class RequestUnclear(Exception):
    """The event is not one that this function knows."""


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """{"step": "begin" | "look" | "measure" | "verify" | "end", …} → what it finds, see the functions below."""
    settings = environment()
    match event["step"]:
        case "begin":
            return _begin(settings, event)
        case "look":
            return _look(settings, event)
        case "measure":
            return _measure(settings, event)
        case "verify":
            return _verify(settings, event)
        case "end":
            return _end(settings, event)
        case unknown:
            raise RequestUnclear(f"The step {unknown!r} is none of begin, look, measure, verify, end.")


def _begin(settings: Environment, event: Mapping[str, Any]) -> dict[str, Any]:
    """{"ask": "due" | "sweep" | "replica" | "restore", "drill", "by", "execution"} → an order for the machine.

    {"outcome": null (go on), "idle", "postponed" or "refused", "reason", "kind", "drill", "identifier", "epoch",
    "primary", "source" (whose backup), "orphans", "preflight"}. Asked again by the same execution, it gives the same
    order.
    """
    table, now, execution = clients.table(settings), time.time(), str(event["execution"])
    order: dict[str, Any] = {
        "outcome": None,
        "reason": "",
        "kind": "",
        "drill": drill.named(str(event["drill"]), now),
        "identifier": "",
        "epoch": 0,
        "primary": "",
        "source": "",
        "orphans": [],
        "preflight": [],
    }
    old = drill.claimed(table)
    if old is not None and old.execution != execution:
        status, cause = _execution(old.execution)
        if status == RUNNING:
            reason = f"Another drill runs: {old.execution}."
            return {**order, "outcome": "refused" if event["ask"] in drill.KINDS else "idle", "reason": reason}
        _bury(settings, table, old, status, cause, now)
    mine = old if old is not None and old.execution == execution else None
    if mine is None:
        mine = Claim(order["drill"], "", "", execution, now, str(event["by"]), 0)
        if not drill.claim(table, mine, None if old is None else old.execution):
            return {**order, "outcome": "refused", "reason": "Another drill has begun in this moment."}
    order["drill"] = mine.drill
    order["orphans"] = [each for each in _copies(settings) if each != mine.identifier]
    ledger = drill.ledger(table, now)
    _show_days(settings, ledger, now)
    kind = _kind(str(event["ask"]), ledger, now)
    if kind is None:
        return {**order, "outcome": "idle", "reason": "No drill is due."}
    order["kind"] = kind
    hindrance = mine.abort or _allowed(settings, table, kind, order, now)
    if hindrance is not None:
        asked = event["ask"] in drill.KINDS
        order |= {"outcome": "refused" if asked else "postponed", "reason": hindrance}
    else:
        order["identifier"] = drill.identifier(drill_settings().prefix, mine.began_at)
        begun = replace(mine, kind=kind, identifier=order["identifier"], epoch=order["epoch"])
        drill.claim(table, begun, execution)
    journal.note("drill asked for", order)
    return order


def _allowed(settings: Environment, table: RecoveryTable, kind: Kind, order: dict[str, Any], now: float) -> str | None:
    """Why there can be no drill now, or None; the order is told of whom it would be."""
    known = roles.read(table)
    if known is None:
        return "Nobody knows the roles yet: no witness has seen both members."
    source = _source(settings) if kind == "restore" else known.primary
    situation = _situation(table, known, now)
    looked = drill.preflight(situation, source)
    order |= {"epoch": known.epoch, "primary": known.primary, "source": source or "", "preflight": looked}
    hindrance = drill.hindrance(situation)
    if hindrance is None and source is None:
        return "RDS names no time to which a member's backups can be restored yet."
    return hindrance


def _kind(ask: str, ledger: Ledger, now: float) -> Kind | None:
    for kind in drill.KINDS:
        if ask == kind:
            return kind
    return drill.due(ledger, drill_settings().days, now) if ask == "due" else None


def _look(settings: Environment, event: Mapping[str, Any]) -> dict[str, Any]:
    """{"identifier", "epoch", "execution"} → {"status", "replica_of", "host", "port", "interruption" (or null)}."""
    table, now = clients.table(settings), time.time()
    claim = drill.claimed(table)
    if claim is None or claim.execution != event["execution"]:
        interruption: str | None = "Another execution has taken this drill's place."
    else:
        situation = _situation(table, roles.known(table), now, primary="available")
        interruption = claim.abort or drill.interruption(situation, int(event["epoch"]))
    found = _described(str(event["identifier"]))
    return {
        "status": found.get("DBInstanceStatus", rds.UNKNOWN),
        "replica_of": found.get("ReadReplicaSourceDBInstanceIdentifier") or "",
        "host": (found.get("Endpoint") or {}).get("Address", ""),
        "port": (found.get("Endpoint") or {}).get("Port", 0),
        "interruption": interruption,
    }


def _measure(settings: Environment, event: Mapping[str, Any]) -> dict[str, Any]:
    """{"host", "port"} of a replica → {"behind": whether it still catches up, "lag_seconds", "lag_bytes",
    "primary_lsn", "replayed_lsn", "trouble"}."""
    known = roles.known(clients.table(settings))
    try:
        # The primary first: what is written in between makes the lag larger, never smaller
        primary, written = _newest(settings, settings.member(known.primary).endpoint)
        copy, replayed = _newest(settings, Endpoint(str(event["host"]), int(event["port"])))
    except (Refused, Unreachable) as trouble:
        return {"behind": True, "lag_seconds": -1.0, "trouble": str(trouble)}
    if written is None or replayed is None or primary.lsn is None or copy.lsn is None:
        return {"behind": True, "lag_seconds": -1.0, "trouble": "There is no heartbeat to measure by yet."}
    lag = max(0.0, written - replayed)
    found = {
        "behind": lag > drill.BEHIND_SECONDS,
        "lag_seconds": round(lag, 3),
        "lag_bytes": max(0, lsn_number(primary.lsn) - lsn_number(copy.lsn)),
        "primary_lsn": primary.lsn,
        "replayed_lsn": copy.lsn,
        "trouble": "",
    }
    journal.note("measured", found)
    return found


def _verify(settings: Environment, event: Mapping[str, Any]) -> dict[str, Any]:
    """{"host", "port", "asked_at" (ISO 8601)} → {"verified", "heartbeat_at", "missing_seconds", "lsn", "trouble"}."""
    try:
        copy, newest = _newest(settings, Endpoint(str(event["host"]), int(event["port"])))
    except (Refused, Unreachable) as trouble:
        return {"verified": False, "trouble": str(trouble)}
    if copy.in_recovery or newest is None:
        why = "It is in recovery still." if copy.in_recovery else "It holds no heartbeat."
        return {"verified": False, "trouble": why}
    found = {
        "verified": True,
        "heartbeat_at": clock.iso(newest),
        "missing_seconds": round(max(0.0, clock.seconds(str(event["asked_at"])) - newest), 3),
        "lsn": copy.lsn,
        "trouble": "",
    }
    journal.note("verified", found)
    return found


def _end(settings: Environment, event: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the machine knows → {"outcome", "reason"}; kept as the drill's record, once."""
    table, now, kind = clients.table(settings), time.time(), str(event["kind"])
    marks, verified, account = dict(event["marks"]), dict(event["verified"]), dict(event["account"])
    outcome, reason = str(event["outcome"]), str(event["reason"])
    figures: dict[str, Any] = {}
    if verified.get("verified"):
        asked = marks["promote"] if kind == "replica" else marks["asked"]
        reached = account.get("target_reached", False) if drill_settings().transaction_log else None
        found = Findings((marks["verified"] - asked) / 1000, float(verified["missing_seconds"]), reached)
        granted = drill_settings().promotion_seconds
        figures = {
            "rto_seconds": round(found.rto, 3),
            "rto_resolution_seconds": round(float(event["resolution"]), 3),
            "rpo_seconds": found.rpo,
            "rpo_limit_seconds": objectives().rpo_seconds,
            "rpo_by": "heartbeat",
            **({"rto_limit_seconds": granted} if kind == "replica" else {}),
        }
        if not outcome:
            outcome, reason = drill.judged(_known(kind), found, objectives(), granted)
    began_at = clock.seconds(str(event["started_at"]))
    changed = _alarms(settings)
    fired = None if changed is None else drill.alarms(changed, began_at)
    record = {
        "kind": f"{kind} drill" if kind else "drill",
        "outcome": outcome,
        "reason": reason,
        "epoch": int(event["epoch"]),
        "timeline": json.dumps(
            [*event["timeline"], {"at": clock.iso(now), "event": f"outcome: {outcome}"}], ensure_ascii=False
        ),
        "started_at": str(event["started_at"]),
        "ended_at": clock.iso(now),
        "execution": str(event["execution"]),
        "identifier": str(event["identifier"]),
        "steps": json.dumps(drill.steps(marks)),
        "measured": json.dumps(event["measured"]),
        "verified": json.dumps(verified),
        "log": json.dumps(account),
        "by": str(event["by"]),
        "preflight": json.dumps(event["preflight"]),
        "deviations": json.dumps(drill.deviations(outcome, reason, event["timeline"], fired or ()), ensure_ascii=False),
        "restoration": json.dumps(drill.restoration(str(event["identifier"]), marks)),
        **({} if fired is None else {"alarms": json.dumps(fired)}),
        **figures,
        **_deployed(settings, table),
    }
    if drill.keep(table, str(event["drill"]), record) and kind:
        drill.enter(table, _known(kind), outcome, began_at, now)
        _show_days(settings, drill.ledger(table, now), now)
    journal.note("drill ended", {"drill": event["drill"], "outcome": outcome, "reason": reason, **figures})
    return {"outcome": outcome, "reason": reason}


def _deployed(settings: Environment, table: RecoveryTable) -> dict[str, str]:
    """Of which environment, commit, templates and plan a record is."""
    return drill.made_of(settings.suffix, provenance.read(table))


def _known(kind: str) -> Kind:
    for each in drill.KINDS:
        if each == kind:
            return each
    raise RequestUnclear(f"The kind {kind!r} is none of {', '.join(drill.KINDS)}.")


def _bury(settings: Environment, table: RecoveryTable, dead: Claim, status: str, cause: str, now: float) -> None:
    """The record of a drill whose execution has ended without one: it was stopped, or its last answers were lost."""
    if not dead.kind:
        return
    reason = dead.abort or cause
    told = f"The execution ended as {status}{f': {reason}' if reason else ''}; {dead.identifier} is swept."
    steps = [
        {"at": clock.iso(dead.began_at), "event": f"started by {dead.by}"},
        {"at": clock.iso(now), "event": "found ended without a record"},
    ]
    drill.keep(
        table,
        dead.drill,
        {
            "kind": f"{dead.kind} drill",
            "outcome": "aborted",
            "reason": told,
            "epoch": dead.epoch,
            "timeline": json.dumps(steps),
            "started_at": clock.iso(dead.began_at),
            "ended_at": clock.iso(now),
            "execution": dead.execution,
            "identifier": dead.identifier,
            "by": dead.by,
            "deviations": json.dumps(drill.deviations("aborted", told, ()), ensure_ascii=False),
            "restoration": json.dumps(drill.restoration(dead.identifier, {})),
            **_deployed(settings, table),
        },
    )
    journal.note("drill buried", asdict(dead))


def _situation(table: RecoveryTable, known: roles.Roles, now: float, primary: str | None = None) -> Situation:
    return Situation(
        now=now,
        roles=known,
        lease=incident.read_lease(table),
        operation=operation.running(table, now),
        pause=pause.active(table, now),
        primary=rds.status(clients.rds(), known.primary).status if primary is None else primary,
    )


def _source(settings: Environment) -> str | None:
    """The member whose backups reach furthest: usually the primary, after a change of roles the other one for a while;
    None when RDS names no time."""
    latest = {name: rds.restorable_until(clients.rds(), (name,)) for name in settings.members}
    known = {name: moment for name, moment in latest.items() if moment is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _copies(settings: Environment) -> list[str]:
    """Every instance that is a drill's, by name and tag, and is not on its way out."""
    own = drill_settings()
    pages = clients.rds().get_paginator("describe_db_instances").paginate()
    return [
        instance["DBInstanceIdentifier"]
        for page in pages
        for instance in page["DBInstances"]
        if instance.get("DBInstanceStatus") != "deleting"
        and drill.is_copy(
            own.prefix,
            (own.tag, settings.suffix),
            instance["DBInstanceIdentifier"],
            instance.get("TagList", []),
        )
    ]


def _described(identifier: str) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = clients.rds().describe_db_instances(DBInstanceIdentifier=identifier)
    except ClientError as error:
        gone = error.response["Error"]["Code"] in ("DBInstanceNotFound", "DBInstanceNotFoundFault")
        return {"DBInstanceStatus": rds.ABSENT if gone else rds.UNKNOWN}
    except BotoCoreError:
        return {}
    return dict(found["DBInstances"][0])


def _execution(arn: str) -> tuple[str, str]:
    """Status and cause of an execution; one that nobody knows any more has ended. Raises what AWS raises."""
    try:
        found = clients.stepfunctions().describe_execution(executionArn=arn)
    except clients.stepfunctions().exceptions.ExecutionDoesNotExist:
        return "GONE", ""
    return str(found["status"]), str(found.get("cause") or "")


def _newest(settings: Environment, endpoint: Endpoint) -> tuple[State, float | None]:
    with clients.access(settings).open(endpoint, SIGN_IN_SECONDS, "citizens-drill") as session:
        return heartbeat.newest(session, STATEMENT_SECONDS)


def _alarms(settings: Environment) -> list[AlarmState] | None:
    """Every alarm of this environment; None when CloudWatch does not tell, which no record waits for."""
    try:
        return alarm_states.read(clients.cloudwatch(), settings.suffix)
    except (BotoCoreError, ClientError) as error:
        journal.note("trouble", {"with": "alarms", "error": str(error)})
        return None


def _show_days(settings: Environment, ledger: Ledger, now: float) -> None:
    """Tell CloudWatch how long ago a drill has passed; silence there is an alarm of its own."""
    data: list[Any] = [
        {
            "MetricName": "DaysSinceDrill",
            "Value": drill.days_since(ledger, now),
            "Unit": "None",
            "Dimensions": [{"Name": "Suffix", "Value": settings.suffix}],
        }
    ]
    try:
        clients.cloudwatch().put_metric_data(Namespace=settings.namespace, MetricData=data)
    except (BotoCoreError, ClientError) as error:
        journal.note("trouble", {"with": "metrics", "error": str(error)})
