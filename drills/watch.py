"""Watches what AWS itself says while a drill runs: RDS status and events, the incident's execution, the role record."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from deployment.account import Account
from drills.observed import Change, LagSample, Step, Watched
from drills.timeline import Timeline
from recovery import observation
from recovery.table import RecoveryTable

INTERVAL_SECONDS = 0.5
REFUSED = "decided: refuse — "


class Watch:
    """Polls a deployed system and adds each change to the timeline. It only reads: the drill touches nothing after
    the failure."""

    def __init__(self, account: Account, outputs: Mapping[str, str], timeline: Timeline) -> None:
        self._rds = account.client("rds")
        self._machines = account.client("stepfunctions")
        self._table = account.client("dynamodb")
        self._outputs = outputs
        self._timeline = timeline
        self._stop = threading.Event()
        self._seen: set[str] = set()
        self._statuses: dict[str, str] = {}
        self._epoch: str | None = None
        self._since = datetime.now(UTC)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._alarms = account.client("cloudwatch")
        self._records = RecoveryTable(self._table, outputs["RecoveryTableName"])
        self._lag: dict[tuple[str, float], LagSample] = {}
        self._steps: dict[str, list[Step]] = {}
        self._in_alarm: set[str] = set()
        self._changes: list[Change] = []
        self._needs: dict[str, float] = {}
        self.complaints: list[str] = []
        self.execution_status: str | None = None
        self.promotions = 0
        self.refusals: list[str] = []

    def start(self) -> None:
        """Begin to watch; what is there already is taken as known."""
        self._look(report=False)
        self._thread.start()

    def stop(self) -> None:
        """Look a last time and end."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=30)

    def watched(self) -> Watched:
        """What the report shows of it, once the watch has ended."""
        records = [
            {**record, "timeline": json.loads(record.get("timeline") or "[]")}
            for record in self._records.all("incident#")
        ]
        return Watched(
            lag=tuple(self._lag.values()),
            steps=tuple(step for steps in self._steps.values() for step in steps),
            changes=tuple(self._changes),
            needs=dict(self._needs),
            records=tuple(sorted(records, key=lambda record: str(record.get("started_at")))),
        )

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_SECONDS):
            self._look(report=True)
        self._look(report=True)

    def _look(self, *, report: bool) -> None:
        for look in (
            *(self._look_at_members, self._look_at_events, self._look_at_executions, self._look_at_roles),
            *(self._look_at_lag, self._look_at_alarms),
        ):
            try:
                look(report)
            except (ClientError, BotoCoreError) as error:
                self.complaints.append(f"could not look: {error}")
                self._note("watch", f"cannot look: {error}", f"error {error}", report=report)

    def _note(self, source: str, event: str, key: str, at: float | None = None, *, report: bool) -> None:
        if key in self._seen:
            return
        self._seen.add(key)
        if report:
            self._timeline.add(source, event, at)

    def _look_at_members(self, report: bool) -> None:
        for name in ("Member1Identifier", "Member2Identifier"):
            member = self._outputs[name]
            try:
                instance = self._rds.describe_db_instances(DBInstanceIdentifier=member)["DBInstances"][0]
            except ClientError as error:
                status = error.response["Error"]["Code"]
            else:
                source = instance.get("ReadReplicaSourceDBInstanceIdentifier")
                status = f"{instance['DBInstanceStatus']}" + (f", replica of {source}" if source else "")
            if self._statuses.get(member) != status:
                self._statuses[member] = status
                if report:
                    self._timeline.add("rds status", f"{member}: {status}")

    def _look_at_events(self, report: bool) -> None:
        for name in ("Member1Identifier", "Member2Identifier"):
            member = self._outputs[name]
            answer = self._rds.describe_events(SourceIdentifier=member, SourceType="db-instance", Duration=60)
            for event in answer["Events"]:
                at = event["Date"].timestamp()
                key = f"{member} {event['Message']} {at}"
                self._note("rds event", f"{member}: {event['Message']}", key, at, report=report)

    def _look_at_executions(self, report: bool) -> None:
        machine = self._outputs["FailoverStateMachineArn"]
        for execution in self._machines.list_executions(stateMachineArn=machine, maxResults=10)["executions"]:
            if execution["startDate"] < self._since:
                continue
            arn = execution["executionArn"]
            self.execution_status = execution["status"]
            history = self._machines.get_execution_history(executionArn=arn, maxResults=1000)["events"]
            self._steps[arn] = _steps(history)
            for event in history:
                text = _describe(event)
                if text and text.startswith(REFUSED) and text.removeprefix(REFUSED) not in self.refusals:
                    self.refusals.append(text.removeprefix(REFUSED))
                if text:
                    self._note(
                        "state machine", text, f"{arn} {event['id']}", event["timestamp"].timestamp(), report=report
                    )

    def _look_at_roles(self, report: bool) -> None:
        item = self._table.get_item(TableName=self._outputs["RecoveryTableName"], Key={"id": {"S": "roles"}}).get(
            "Item"
        )
        if item is None:
            return
        epoch = item["epoch"]["N"]
        if epoch != self._epoch:
            self.promotions += self._epoch is not None
            self._epoch = epoch
            if report:
                self._timeline.add("role record", f"epoch {epoch}: {item['primary']['S']} is the primary")

    def _look_at_lag(self, report: bool) -> None:  # noqa: ARG002 - it is plotted, not told
        for witness in ("a", "c"):
            seen = observation.read(self._records, witness)
            if seen is None or not seen.standby.reachable or seen.standby.lag_seconds is None:
                continue
            self._lag[witness, seen.at] = LagSample(
                at=seen.at,
                witness=witness,
                seconds=seen.standby.lag_seconds,
                bytes=seen.standby.lag_bytes,
                primary_lsn=seen.primary.lsn,
                replayed_lsn=seen.standby.replayed_lsn,
            )

    def _look_at_alarms(self, report: bool) -> None:
        in_alarm, suffix, rules = set(), self._outputs["EnvironmentSuffix"], dict[str, str]()
        for page in self._alarms.get_paginator("describe_alarms").paginate(
            AlarmTypes=["MetricAlarm", "CompositeAlarm"]
        ):
            for alarm in (*page.get("MetricAlarms", ()), *page.get("CompositeAlarms", ())):
                name = str(alarm["AlarmName"]).removeprefix("citizens-").removesuffix(f"-{suffix}")
                self._needs[name] = float(alarm.get("Period", 0) * alarm.get("EvaluationPeriods", 0))
                if "AlarmRule" in alarm:
                    rules[name] = str(alarm["AlarmRule"])
                if alarm.get("StateValue") != "ALARM":
                    continue
                in_alarm.add(name)
                if report and name not in self._in_alarm:
                    at = alarm["StateUpdatedTimestamp"].timestamp()
                    self._changes.append(Change(name, at))
                    self._timeline.add("alarm", f"{name} went off", at)
        self._in_alarm = in_alarm
        for composite, rule in rules.items():
            # It goes off with the last of its alarms
            parts = [needs for name, needs in self._needs.items() if f"citizens-{name}-{suffix}" in rule]
            self._needs[composite] = max(parts, default=0.0)


def _steps(history: Iterable[Mapping[str, Any]]) -> list[Step]:
    """The tasks of an execution with their times; one that has not ended has none yet."""
    entered: dict[str, float] = {}
    found = []
    for event in history:
        at = event["timestamp"].timestamp()
        if event["type"] == "TaskStateEntered":
            entered[event["stateEnteredEventDetails"]["name"]] = at
        elif event["type"] == "TaskStateExited":
            name = event["stateExitedEventDetails"]["name"]
            if name in entered:
                found.append(Step(str(name), entered.pop(name), at))
    return found


def _describe(event: Mapping[str, Any]) -> str | None:
    """One line for the events of an execution that a reader wants to see."""
    kind = event["type"]
    if kind == "ExecutionStarted":
        return "execution started"
    if kind == "ExecutionSucceeded":
        return "execution succeeded"
    if kind in ("ExecutionFailed", "ExecutionTimedOut", "ExecutionAborted"):
        details = event.get("executionFailedEventDetails", {})
        return f"{kind}: {details.get('error', '')} {details.get('cause', '')}".strip()
    # What it did; the choices and pauses in between are in the execution's own history.
    if kind == "TaskStateEntered":
        return str(event["stateEnteredEventDetails"]["name"])
    if kind == "TaskStateExited" and event["stateExitedEventDetails"]["name"] == "Observe":
        return _decision(event["stateExitedEventDetails"].get("output", ""))
    return None


def _decision(output: str) -> str | None:
    """What the arbiter decided, unless it was to wait: it says so every two seconds."""
    try:
        payload = json.loads(output)["Payload"]
        return None if payload["action"] == "wait" else f"decided: {payload['action']} — {payload['reason']}"
    except (ValueError, KeyError, TypeError):
        return None
