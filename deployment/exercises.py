"""Drills on command: of a replica, of a restore, of a switchover; what a killed one has left is swept, one that runs is
ended. What will happen is told first.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable
from typing import Any

from deployment.account import Account
from deployment.operations import FOLLOW_SECONDS, WITNESSES, Operations, Started
from deployment.problem import Problem
from recovery import alarm_states, clock, drill, history, incident, observation, operation, pause, provenance, rds
from recovery.history import Entry
from stacks.names import Names

KINDS = (*drill.KINDS, "switchover", "sweep")
KEPT_OUT = "applications are kept out"
READ_BACK = "written and read back"
PROTECTION_SECONDS = 12 * 3600.0


class Exercises:
    """The drills of one environment."""

    def __init__(self, account: Account, suffix: str, announce: Callable[[str], None]) -> None:
        self._account = account
        self._names = Names(suffix)
        self._operations = Operations(account, suffix, announce)

    def preview(self, kind: str) -> str:
        """What will happen. Raises Problem with the reason when the drill would be refused, or there is no such."""
        if kind == "switchover":
            return f"{self._operations.preview_of_switchover()} It is recorded as a drill."
        if kind == "sweep":
            return "What a killed drill has left is deleted, and its record kept."
        if kind not in drill.KINDS:
            raise Problem(f"There is no drill of the kind {kind!r}: use one of {', '.join(KINDS)}.")
        known, now, client = self._operations.roles(), time.time(), self._account.client("rds")
        hindrance = drill.hindrance(
            drill.Situation(
                now=now,
                roles=known,
                lease=incident.read_lease(self._operations.table),
                operation=operation.running(self._operations.table, now),
                pause=pause.active(self._operations.table, now),
                primary=rds.status(client, known.primary).status,
            )
        )
        if hindrance is not None:
            raise Problem(f"Nothing was started: {hindrance}")
        primary = client.describe_db_instances(DBInstanceIdentifier=known.primary)["DBInstances"][0]
        made = {
            "replica": f"A replica of {known.primary} is made as {self._names.drill_copies}-…, promoted, verified",
            "restore": f"The newest backup is restored as {self._names.drill_copies}-…, rolled forward, verified",
        }[kind]
        return (
            f"{made} and deleted. Members, roles and applications are left alone. Billed until then: one "
            f"{primary['DBInstanceClass']} with {primary['AllocatedStorage']} GiB."
        )

    def start(self, kind: str) -> Started:
        """Start a drill or a sweep, without a look whether it may begin: the machine looks itself."""
        order: dict[str, Any] = {"ask": kind, "by": getpass.getuser()}
        epoch, arn = self._operations.roles().epoch, self._operations.machine(self._names.drill_machine)
        answer = self._account.client("stepfunctions").start_execution(
            stateMachineArn=arn, name=incident.new_incident(time.time()), input=json.dumps(order)
        )
        return Started(str(answer["executionArn"]), epoch)

    def run(self, kind: str) -> Entry:
        """Hold a drill and tell each step. Returns its record; raises Problem when it did not pass."""
        if kind == "switchover":
            return self._switch_over()
        started = self.start(kind)
        self._operations.follow(started)
        return self._record(started)

    def sweep(self) -> None:
        """Delete what a killed drill has left. Raises Problem when that cannot be done, or another drill runs."""
        started = self.start("sweep")
        machines = self._account.client("stepfunctions")
        while (found := machines.describe_execution(executionArn=started.execution_arn))["status"] == "RUNNING":
            time.sleep(FOLLOW_SECONDS)
        told = json.loads(found.get("output") or "{}")
        if found["status"] != "SUCCEEDED" or str(told.get("reason", "")).startswith("Another drill"):
            raise Problem(f"Not swept: {found.get('cause') or told.get('reason') or found['status']}")

    def abort(self, reason: str) -> Started:
        """Have the drill that runs give up and clean up. Raises Problem when none runs."""
        claim = drill.claimed(self._operations.table)
        why = f"Ended by {getpass.getuser()}: {reason.strip() or 'no reason given'}."
        if claim is None or not claim.kind or not drill.ask_to_end(self._operations.table, claim.execution, why):
            raise Problem("No drill runs: there is nothing to end.")
        return Started(claim.execution, claim.epoch)

    def follow(self, started: Started) -> Entry:
        """Wait for the end of a drill that runs; its record."""
        machines = self._account.client("stepfunctions")
        while machines.describe_execution(executionArn=started.execution_arn)["status"] == "RUNNING":
            time.sleep(FOLLOW_SECONDS)
        return self._record(started)

    # ----------------------------------------------------------------------------------------------------------------

    def _measured(self) -> dict[str, Any]:
        """How far the standby is behind, by the witness that looked last; empty when none has seen it."""
        known = (observation.read(self._operations.table, witness) for witness in WITNESSES)
        seen = max((each for each in known if each is not None), key=lambda each: each.at, default=None)
        if seen is None or not seen.standby.reachable:
            return {}
        return {
            "lag_seconds": seen.standby.lag_seconds,
            "lag_bytes": seen.standby.lag_bytes,
            "primary_lsn": seen.primary.lsn,
            "replayed_lsn": seen.standby.replayed_lsn,
        }

    def _record(self, started: Started) -> Entry:
        for entry in history.read(self._operations.table):
            if entry.execution == started.execution_arn and entry.kind.endswith("drill"):
                return entry
        raise Problem(f"The execution {started.execution_arn} left no record; `exercise --kind sweep` writes one.")

    def _switch_over(self) -> Entry:
        """The switchover itself, whose record is kept a second time as a drill's, with what it has shown."""
        looked = [{"check": "switchover", "verdict": "ok", "found": self._operations.preview_of_switchover()}]
        measured = self._measured()
        started = self._operations.switchover()
        self._operations.follow(started)
        (done,) = [each for each in history.read(self._operations.table) if each.execution == started.execution_arn]
        moments = {
            mark: clock.seconds(str(step["at"]))
            for mark in (KEPT_OUT, READ_BACK)
            for step in done.timeline
            if str(step["event"]).startswith(mark)
        }
        took = moments[READ_BACK] - moments[KEPT_OUT]
        # The step that keeps them out began when the one before it had ended
        stamps = (clock.seconds(str(step["at"])) for step in done.timeline)
        before_that = max((at for at in stamps if at < moments[KEPT_OUT]), default=clock.seconds(done.started_at))
        changed = alarm_states.read(self._account.client("cloudwatch"), self._names.suffix)
        fired = drill.alarms(changed, clock.seconds(done.started_at))
        drill.keep(
            self._operations.table,
            done.identity,
            {
                "kind": "switchover drill",
                "outcome": "passed",
                "reason": f"Applications were kept out for {took:.1f} s; nothing was missing.",
                "epoch": done.epoch,
                "timeline": json.dumps(list(done.timeline), ensure_ascii=False),
                "started_at": done.started_at,
                "ended_at": done.ended_at,
                "execution": done.execution,
                "rto_seconds": round(took, 3),
                "rto_resolution_seconds": round(moments[KEPT_OUT] - before_that, 3),
                "rpo_seconds": 0,
                "rpo_by": "LSN",
                "by": getpass.getuser(),
                "measured": json.dumps(measured),
                "preflight": json.dumps(looked),
                "deviations": json.dumps(drill.deviations("passed", "", done.timeline, fired), ensure_ascii=False),
                "restoration": json.dumps(
                    ["The roles stay changed; the old primary is made a standby again by the reprotect that follows."]
                ),
                "alarms": json.dumps(fired),
                **drill.made_of(self._names.suffix, provenance.read(self._operations.table)),
            },
        )
        self._operations.await_protection(started.epoch + 1, PROTECTION_SECONDS)
        return self._record(started)
