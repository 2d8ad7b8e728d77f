"""Exercises of the drills on AWS: their function, their machine, its schedule, and the rule that sweeps after it."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import ClientError

from drills.scenarios import post
from privilege import operations
from privilege.site import Failed, Site, eventually, now_iso

DRILL_SECONDS = 120.0
PATIENCE_SECONDS = 20.0
MACHINE = "citizens-drill-machine"
RECORDS = "drill#"


def questions(site: Site) -> None:
    """A dead drill is buried, a sweep begins, the primary is measured against itself, and a drill's end is kept."""
    operations.stand_by(site)
    _, primary, _ = site.role_record()
    drill = f"20270115T080000Z-{secrets.token_hex(2)}"
    dead = site.outputs["DrillStateMachineArn"].replace(":stateMachine:", ":execution:") + f":{drill}"
    site.write(
        "drill", drill=drill, kind="replica", identifier="none", execution=dead, began_at=1.0, by="exercise", epoch=1
    )
    site.renew("drill")
    begin = {"step": "begin", "ask": "sweep", "drill": "sweep", "by": "exercise", "execution": "exercise"}
    order = site.invoke("drill", begin)
    if order["outcome"] != "idle" or site.record(f"{RECORDS}{drill}") is None:
        raise Failed(f"a dead drill was not buried: {order}")
    host = {site.outputs[f"Member{n}Identifier"]: site.outputs[f"Member{n}Endpoint"] for n in (1, 2)}[primary]
    measured = site.invoke("drill", {"step": "measure", "host": host, "port": 5432})
    if measured["trouble"] or measured["behind"]:
        raise Failed(f"{primary} could not be measured: {measured}")
    end: dict[str, Any] = {"marks": {}, "measured": {}, "verified": {}, "account": {}, "timeline": []}
    end |= {"step": "end", "drill": f"{drill}-end", "kind": "replica", "epoch": 1, "outcome": "failed", "reason": "x"}
    end |= {"started_at": now_iso(), "execution": "exercise", "identifier": "none", "by": "exercise"}
    end |= {"preflight": [], "resolution": 0}
    site.invoke("drill", end)
    if "alarms" not in (site.record(f"{RECORDS}{drill}-end") or {}):
        raise Failed("the end of a drill does not tell what alarms did")
    at = (site.record("drills") or {}).get("replica_at")
    if at is None:
        raise Failed("the end of a drill was not entered")
    for leftover in ("drill", "drills", f"{RECORDS}{drill}", f"{RECORDS}{drill}-end"):
        site.forget(leftover)
    operations.logged(site, "drill")


def replica(site: Site) -> None:
    """A replica of the primary is promoted, verified and deleted."""
    _hold(site, "replica")


def restore(site: Site) -> None:
    """The newest backup is restored, rolled forward and deleted."""
    _, primary, _ = site.role_record()
    began, rds = time.time(), site.client("rds")

    def restorable() -> bool:
        latest = rds.describe_db_instances(DBInstanceIdentifier=primary)["DBInstances"][0].get("LatestRestorableTime")
        return latest is not None and bool(latest.timestamp() > began)

    # An instance restored to before the functions' roles were made lets none of them in
    post(f"{site.control}/delays", {"log_upload_seconds": 0.5}, "PUT")
    try:
        with operations.watched(site):
            eventually(restorable, DRILL_SECONDS, "a time to restore to")
        _hold(site, "restore")
    finally:
        post(f"{site.control}/delays", {"log_upload_seconds": 300}, "PUT")


def scheduled(site: Site) -> None:
    """Fired now, the schedule starts an execution, which finds that no drill is due."""
    _rest(site)
    _starts(site, f"{MACHINE}-schedule", lambda: post(f"{site.control}/schedules/fire"))


def swept(site: Site) -> None:
    """An execution that is stopped is followed by another one, which sweeps."""
    _rest(site)

    def stop() -> None:
        machines = site.client("stepfunctions")
        arn = machines.start_execution(
            stateMachineArn=site.outputs["DrillStateMachineArn"], input=json.dumps({"ask": "sweep", "by": "exercise"})
        )["executionArn"]
        machines.stop_execution(executionArn=arn)

    _starts(site, "citizens-drill-killed", stop)


def _starts(site: Site, role: str, act: Callable[[], object]) -> None:
    def started() -> float:
        allowed = site.usage().allowed.items()
        return sum(count for each, count in allowed if (each.short, each.action) == (role, "states:StartExecution"))

    before, refused = started(), site.denials(role)
    act()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while started() == before:
        if site.denials(role) != refused:
            raise Failed(f"{role} was refused something")
        if time.monotonic() > deadline:
            raise Failed(f"{role} has started no execution")
        time.sleep(0.2)


def _hold(site: Site, kind: str) -> None:
    operations.stand_by(site)
    machines = site.client("stepfunctions")
    # The schedules are off: without heartbeats and archive the log never reaches the moment of the request
    with _no_sweep(site), operations.watched(site):
        _rest(site)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(2)}"
        refused = site.denials(MACHINE)
        arn = machines.start_execution(
            stateMachineArn=site.outputs["DrillStateMachineArn"],
            name=name,
            input=json.dumps({"ask": kind, "by": "exercise"}),
        )["executionArn"]

        def ended() -> bool:
            site.invoke("archive", {"seconds": 1})
            status = machines.describe_execution(executionArn=arn)["status"]
            return status != "RUNNING" or site.denials(MACHINE) != refused

        try:
            eventually(ended, DRILL_SECONDS, f"the end of the {kind} drill")
        finally:
            # What is refused once will be refused again: there is no need to see the machine try
            with contextlib.suppress(ClientError):
                machines.stop_execution(executionArn=arn)
    found = (site.record(f"drill#{name}") or {}).get("outcome", {}).get("S")
    if found != "passed" or site.denials(MACHINE) != refused:
        raise Failed(f"the {kind} drill's outcome is {found}")
    if not operations.has_log(site, MACHINE, arn):
        raise Failed("the drill machine has written no log")


@contextlib.contextmanager
def _no_sweep(site: Site) -> Iterator[None]:
    """What a mutated role cannot do, a sweep by the same role cannot do either: it would only be in the way."""
    events, rule = site.client("events"), site.function("drill-killed")
    events.disable_rule(Name=rule)
    try:
        yield
    finally:
        events.enable_rule(Name=rule)


def _rest(site: Site) -> None:
    """No drill, no claim, no copy, whatever the exercise before has left."""
    machines, rds = site.client("stepfunctions"), site.client("rds")
    machine = site.outputs["DrillStateMachineArn"]
    for execution in machines.list_executions(stateMachineArn=machine, statusFilter="RUNNING")["executions"]:
        with contextlib.suppress(ClientError):
            machines.stop_execution(executionArn=execution["executionArn"])

    def gone() -> bool:
        found = [
            each
            for each in rds.describe_db_instances()["DBInstances"]
            if each["DBInstanceIdentifier"].startswith(f"citizens-drill-{site.suffix}-")
        ]
        for each in found:
            with contextlib.suppress(ClientError):
                rds.delete_db_instance(DBInstanceIdentifier=each["DBInstanceIdentifier"], SkipFinalSnapshot=True)
        return not found

    eventually(gone, PATIENCE_SECONDS * 2, "the end of earlier copies")
    site.forget("drill")
