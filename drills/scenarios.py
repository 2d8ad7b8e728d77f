"""The failures that a drill can cause, and what must come of each."""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import psycopg
from botocore.exceptions import ClientError

from deployment.account import Account
from deployment.operations import Operations
from deployment.problem import Problem
from drills.client import Application

End = Literal["promoted", "untouched", "refused"]
"""What must come of a failure: the standby takes over; nothing is promoted and service is (or comes) back; the arbiter
refuses, because taking over would lose too much or cannot be done."""


@dataclass(frozen=True)
class Site:
    """Where a failure is caused: the local cloud's control API, an operator's account, and the stack's outputs."""

    control: str
    account: Account
    outputs: Mapping[str, str]

    @property
    def primary(self) -> str:
        """The member that was the primary at the start."""
        return self.outputs["Member1Identifier"]

    @property
    def standby(self) -> str:
        """The member that was the standby at the start."""
        return self.outputs["Member2Identifier"]

    def ask(self, path: str, body: Mapping[str, object] | None = None, method: str = "POST") -> None:
        """Ask the control API for something."""
        post(f"{self.control}/{path}", body, method)


Cause = Callable[[Site], str]
"""Causes a failure; says what it did."""


@dataclass(frozen=True)
class Scenario:
    """A failure on purpose.

    `ends`: what must come of it, which is checked; a promotion that was not needed is a failure too. `outage`: whether
    clients must notice (True), must not (False), or may (None). `settings`: environment variables of the settings that
    the system is deployed with. `beforehand` sets the scene under load, before the failure. `loses_at_most`: seconds of
    acknowledged transactions that may be missing, when that is less than the RPO.
    `healed` ends the failure while clients still work, where without them it would be another one.
    `cause` is None where a client does the harm, which the drill then is. `alarms`: those that tell of this failure
    when it lasts long enough. `possible`: others that may.
    """

    name: str
    description: str
    cause: Cause | None
    ends: End
    outage: bool | None = True
    settings: Mapping[str, str] = field(default_factory=dict)
    beforehand: Cause | None = None
    loses_at_most: float | None = None
    healed: Cause | None = None
    alarms: tuple[str, ...] = ()
    possible: tuple[str, ...] = ()

    @property
    def telling_alarms(self) -> tuple[str, ...]:
        """`alarms`, and where the primary is lost those that say so, and that something is done about it."""
        return (*((*PRIMARY_ALARMS, *INCIDENT_ALARMS) if self.ends != "untouched" else ()), *self.alarms)

    @property
    def possible_alarms(self) -> tuple[str, ...]:
        """`possible`, and where the primary is struck: the archive's run, which is always at work on it, ends and is
        given up."""
        return (*(("dead-letters",) if self.outage else ()), *self.possible)


PRIMARY_ALARMS = ("primary-unreachable-from-a", "primary-unreachable-from-c", "primary-lost")
INCIDENT_ALARMS = ("incident-begun", "incident")
"""They tell that the failover machine has begun, and that it is not done."""
STANDBY_ALARMS = ("standby-unreachable-from-a", "standby-unreachable-from-c")


def _primary(path: str, what: str, body: Mapping[str, object] | None = None) -> Cause:
    def cause(site: Site) -> str:
        site.ask(f"rds/{site.primary}/{path}", body)
        return what.format(member=site.primary)

    return cause


def _standby(path: str, what: str, body: Mapping[str, object] | None = None) -> Cause:
    def cause(site: Site) -> str:
        site.ask(f"rds/{site.standby}/{path}", body)
        return what.format(member=site.standby)

    return cause


_LOSE = _primary("lose", "{member} and its Multi-AZ copy were killed, their storage is gone")


def _both(first: Cause, second: Cause) -> Cause:
    return lambda site: f"{first(site)}; {second(site)}"


def _zone(letter: str) -> Cause:
    def cause(site: Site) -> str:
        zone = f"{site.outputs['Region']}{letter}"
        site.ask(f"zones/{zone}/lose")
        return f"everything in {zone} is gone: instances, Multi-AZ copies, the witness"

    return cause


def _force_failover(site: Site) -> str:
    site.account.client("rds").reboot_db_instance(DBInstanceIdentifier=site.primary, ForceFailover=True)
    return f"somebody rebooted {site.primary} with a failover to its Multi-AZ copy"


def _move_standby(site: Site) -> str:
    """To its copy, and until that has a copy of its own."""
    rds = site.account.client("rds")

    def standby() -> Mapping[str, Any]:
        described: Mapping[str, Any] = rds.describe_db_instances(DBInstanceIdentifier=site.standby)["DBInstances"][0]
        return described

    before = standby()["AvailabilityZone"]
    rds.reboot_db_instance(DBInstanceIdentifier=site.standby, ForceFailover=True)
    deadline = time.monotonic() + MOVE_SECONDS
    while (now := standby())["AvailabilityZone"] == before or now["DBInstanceStatus"] != "available":
        if time.monotonic() > deadline:
            raise Problem(f"{site.standby} is {now['DBInstanceStatus']} in {now['AvailabilityZone']} after a failover")
        time.sleep(0.2)
    time.sleep(COPY_SECONDS)
    return f"{site.standby} was moved to {now['AvailabilityZone']}, where the primary works too"


def _fall_behind(site: Site) -> str:
    site.ask(f"rds/{site.standby}/replay", {"paused": True})
    behind = int(SHORT_RPO["RPO_SECONDS"]) + 5
    time.sleep(behind)
    return f"{site.standby} receives but replays nothing for {behind} s"


def _cut_replication(site: Site) -> str:
    """The standby gets nothing any more: its slot is gone, so it cannot come back. The Multi-AZ copy goes on."""
    with Application(site.account, site.outputs).connect() as primary:
        ((slot,),) = primary.execute(
            "SELECT slot_name FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid "
            "WHERE slot_type = 'physical' AND sync_state = 'async'"
        ).fetchall()
        deadline = time.monotonic() + 10
        while True:
            primary.execute(
                "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = %s", (slot,)
            )
            with contextlib.suppress(psycopg.errors.ObjectInUse):
                primary.execute("SELECT pg_drop_replication_slot(%s)", (slot,))
                break
            if time.monotonic() > deadline:
                raise Problem(f"the replication slot {slot} of {site.standby} stays in use")
            time.sleep(0.05)
    time.sleep(LAG_SECONDS)
    return f"{site.standby} received nothing for {LAG_SECONDS:.0f} s"


def _begin_backup(site: Site) -> str:
    site.ask("delays", {"backing_up_seconds": 15}, "PUT")
    site.ask(f"rds/{site.standby}/back_up")
    return f"RDS backs {site.standby} up for 15 s, and would refuse to promote it"


def _stop_archive(site: Site) -> str:
    name = site.outputs["ArchiveFunctionName"]
    site.account.client("lambda").put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    site.ask(f"functions/{name}/kill")
    time.sleep(5)
    return f"{name} was stopped, the log falls behind"


def _lose_during_rotation(site: Site) -> str:
    site.account.client("secretsmanager").rotate_secret(SecretId=site.outputs["SecretArn"], RotateImmediately=True)
    time.sleep(0.3)  # createSecret is done, and the password is being changed
    return f"a rotation began, and {_LOSE(site)}"


def _lose_in_a_storm(site: Site) -> str:
    """Every trigger many times, late and false ones among them, for as long as a failover takes."""
    what = _LOSE(site)
    threading.Thread(target=_storm, args=(site,), daemon=True).start()
    return f"{what}; both witnesses are invoked and machines started ten times a second for {STORM_SECONDS:.0f} s"


def _break_the_failover(site: Site) -> str:
    """Every step from the fence on fails once: a function is killed in it, or an answer gets lost."""
    suffix = site.outputs["EnvironmentSuffix"]
    machine = {"role": f"citizens-failover-{suffix}"}
    for function in BROKEN_STEPS:
        address = {"action": "lambda:InvokeFunction", "resource": f"*:citizens-{function}-{suffix}"}
        site.ask("api-faults", {"kind": "kill", "after_ms": 20, **machine, **address})
    for action in ("ec2:RevokeSecurityGroupIngress", "rds:PromoteReadReplica", "rds:DescribeDBInstances"):
        site.ask("api-faults", {"kind": "lose_answer", "action": action, **machine})
    return f"of each step of the next failover a function will die or an answer get lost; {_LOSE(site)}"


def _switch_over(site: Site) -> str:
    operations = Operations(site.account, site.outputs["EnvironmentSuffix"], lambda _: None)
    told = operations.preview_of_switchover()
    operations.switchover()
    return f"an operator orders a switchover: {told}"


def _await_a_pair(site: Site) -> str:
    Operations(site.account, site.outputs["EnvironmentSuffix"], lambda _: None).await_protection(2, PAIR_SECONDS)
    return "there is a standby again"


BROKEN_STEPS = ("probe", "rotation", "cutover", "verify")
PAIR_SECONDS = 180.0
MOVE_SECONDS = 60.0
COPY_SECONDS = 5.0
"""RDS does not say when a Multi-AZ copy is complete."""
STORM_SECONDS = 20.0


def _storm(site: Site) -> None:
    functions, machines = site.account.client("lambda"), site.account.client("stepfunctions")
    table = site.account.client("dynamodb")
    arn = site.outputs["FailoverStateMachineArn"]
    until = time.monotonic() + STORM_SECONDS
    for number in itertools.count():
        if time.monotonic() > until:
            return
        letter = "AC"[number % 2]
        key = {"id": {"S": "lease"}}
        # Refused is what most of these should be, each in its own way.
        with contextlib.suppress(ClientError, KeyError):
            functions.invoke(FunctionName=site.outputs[f"Witness{letter}FunctionName"], InvocationType="Event")
        with contextlib.suppress(ClientError, KeyError):
            lease = table.get_item(TableName=site.outputs["RecoveryTableName"], Key=key).get("Item", {})
            incident = f"storm-{number}" if number % 3 else lease["incident"]["S"]
            name = f"1-{incident}"
            started = {"incident": incident, "epoch": 1, "witness": letter.lower(), "started_at": _now()}
            machines.start_execution(stateMachineArn=arn, name=name, input=json.dumps(started))
        time.sleep(0.1)


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


SHORT_GRACE = {"MULTI_AZ_GRACE_SECONDS": "10"}
"""For losses that RDS does not notice, which cost the grace: not the 150 s that AWS's own failover needs."""
SHORT_RPO = {"RPO_SECONDS": "60"}
"""The shortest that can be set: the standby must really be so far behind."""

LAG_SECONDS = 60.0
LOG_LAG_SECONDS = 10.0
"""What the log may be behind the primary: what is younger cannot be rolled forward."""

SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "primary-lost",
            "The primary and its Multi-AZ copy are lost for good; RDS reports it as failed. The standby takes over.",
            _LOSE,
            "promoted",
        ),
        Scenario(
            "process-crashed",
            "A process of the primary's server dies. PostgreSQL restarts by itself, and nothing is promoted.",
            _primary("crash", "a process of {member} was killed"),
            "untouched",
        ),
        Scenario(
            "primary-crashed",
            "The primary's host dies. RDS fails over to its Multi-AZ copy, and nothing is promoted.",
            _primary("kill", "the server of {member} was killed"),
            "untouched",
        ),
        Scenario(
            "multi-az-failover",
            "Somebody reboots the primary with failover. RDS moves it to its Multi-AZ copy, and nothing is promoted.",
            _force_failover,
            "untouched",
        ),
        Scenario(
            "zone-a-lost",
            "Zone a is lost with the primary and a witness. RDS moves it to its copy, and nothing is promoted.",
            _zone("a"),
            "untouched",
        ),
        Scenario(
            "zone-c-lost",
            "Zone c is lost with the standby, the primary's copy and a witness. Nothing is promoted.",
            _zone("c"),
            "untouched",
            outage=None,
            possible=("dead-letters",),
        ),
        Scenario(
            "shared-zone-lost",
            "Both members work in the zone that is lost. RDS moves them to their copies, and nothing is promoted.",
            _zone("a"),
            "untouched",
            beforehand=_move_standby,
        ),
        Scenario(
            "primary-frozen",
            "Every process of the primary stands still. RDS does not notice. After the grace the standby takes over.",
            _primary("freeze", "every process of {member} was stopped (SIGSTOP)"),
            "promoted",
            settings=SHORT_GRACE,
        ),
        Scenario(
            "witnesses-cut-off",
            "The witnesses cannot reach the primary, clients can. Nothing is promoted, and nobody notices.",
            _primary("endpoint", "{member} was cut off from every function", {"fault": "cut", "from": "functions"}),
            "untouched",
            outage=False,
            settings=SHORT_GRACE,
            # Nobody writing to it and no witness reaching it is what a lost primary looks like, too
            healed=_primary("endpoint", "the functions reach {member} again", {"fault": "none"}),
            alarms=(*PRIMARY_ALARMS, *INCIDENT_ALARMS),
            # The archive is cut off too
            possible=("dead-letters",),
        ),
        Scenario(
            "primary-cut-off",
            "Nobody reaches the primary, and RDS does not notice. After the grace the standby takes over.",
            _primary("endpoint", "{member} was cut off from everyone", {"fault": "cut"}),
            "promoted",
            settings=SHORT_GRACE,
        ),
        Scenario(
            "primary-hung",
            "The primary keeps its connections and answers nobody. After the grace the standby takes over.",
            _primary("endpoint", "{member} hangs for everyone", {"fault": "hang"}),
            "promoted",
            settings=SHORT_GRACE,
        ),
        Scenario(
            "network-slow",
            "Every answer of the primary takes 300 ms longer. Nothing is promoted.",
            _primary("endpoint", "{member} is slow for everyone", {"fault": "slow", "delay_ms": 300}),
            "untouched",
            outage=None,
            settings=SHORT_GRACE,
        ),
        Scenario(
            "standby-lost",
            "The standby and its Multi-AZ copy are lost. Clients notice nothing, and nothing is promoted.",
            _standby("lose", "{member} and its Multi-AZ copy were killed, their storage is gone"),
            "untouched",
            outage=False,
            alarms=STANDBY_ALARMS,
        ),
        Scenario(
            "standby-behind",
            "The primary is lost while the standby is further behind than the RPO allows. The arbiter refuses.",
            _LOSE,
            "refused",
            settings=SHORT_RPO,
            beforehand=_fall_behind,
        ),
        Scenario(
            "standby-lags",
            "The primary is lost while the standby is 60 s behind. What it lacks is rolled forward from the log.",
            _LOSE,
            "promoted",
            beforehand=_cut_replication,
            loses_at_most=LOG_LAG_SECONDS,
        ),
        Scenario(
            "standby-backing-up",
            "The primary is lost while RDS backs the standby up. The standby takes over when that is done.",
            _LOSE,
            "promoted",
            beforehand=_begin_backup,
        ),
        Scenario(
            "storage-full",
            "The primary's storage is full, and RDS shuts it down. The standby takes over.",
            _primary("fill", "the storage of {member} is full"),
            "promoted",
        ),
        Scenario(
            "both-lost",
            "Both members are lost for good. The arbiter refuses: a point-in-time restore is an operator's decision.",
            _both(_standby("lose", "{member} was lost"), _LOSE),
            "refused",
            alarms=STANDBY_ALARMS,
        ),
        Scenario(
            "trigger-storm",
            "The primary is lost while every trigger comes many times, false ones too. There is one failover.",
            _lose_in_a_storm,
            "promoted",
            possible=("arbiter-throttles",),
        ),
        Scenario(
            "lost-in-rotation",
            "The primary is lost in the middle of a rotation. The standby takes over with one working password.",
            _lose_during_rotation,
            "promoted",
            possible=("rotation-errors", "rotation-failed", "superseded-password"),
        ),
        Scenario(
            "log-behind",
            "The primary is lost while the transaction log is behind. The standby takes over all the same.",
            _LOSE,
            "promoted",
            beforehand=_stop_archive,
        ),
        Scenario(
            "failover-of-the-failover",
            "The primary is lost, and each step of the failover fails once. The standby takes over all the same.",
            _break_the_failover,
            "promoted",
            possible=tuple(f"{function}-errors" for function in BROKEN_STEPS),
        ),
        Scenario(
            "switchover",
            "An operator changes the roles under load, as planned. Nothing is lost.",
            _switch_over,
            "promoted",
            loses_at_most=0.0,
            healed=_await_a_pair,
        ),
        Scenario(
            "table-dropped",
            "Someone drops a table, and clients go on. A restore to just before it, beside the members, has the table.",
            None,
            "untouched",
            outage=False,
        ),
    )
}


def post(url: str, body: Mapping[str, object] | None = None, method: str = "POST") -> dict[str, Any]:
    """Ask the local cloud's control API for something; raises urllib's HTTPError with its answer when it refuses."""
    request = urllib.request.Request(  # noqa: S310  (the local cloud's own address)
        url, data=json.dumps(body or {}).encode(), method=method, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        value: dict[str, Any] = json.load(answer)
        return value
