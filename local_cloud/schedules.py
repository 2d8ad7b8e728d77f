"""Schedules and rules: EventBridge Scheduler and EventBridge on a clock that can be moved, with AWS's permissions.

Replaces the emulator's ticks, which look every ten seconds and fire in line.
"""

from __future__ import annotations

import contextvars
import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ministack.core.responses import get_account_id, get_region, request_scope
from ministack.services import cloudwatch, eventbridge, lambda_svc, scheduler, sns, sqs, stepfunctions

from local_cloud import functions_runtime, permissions, state_machines
from local_cloud.permissions import RoleSession

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

SCHEDULER = "scheduler.amazonaws.com"
EVENTS = "events.amazonaws.com"
TICK_SECONDS = 0.25
# What a target's service calls its action; anything else is not supported as a target.
_ACTIONS = {
    "lambda": "lambda:InvokeFunction",
    "states": "states:StartExecution",
    "sns": "sns:Publish",
    "sqs": "sqs:SendMessage",
    "events": "events:PutEvents",
}
# A universal target, `arn:aws:scheduler:::aws-sdk:<service>:<action>`: any call of the SDK with the schedule's input.
_UNIVERSAL = "arn:aws:scheduler:::aws-sdk:"

_logger = logging.getLogger(__name__)
_invoke_rule_target = eventbridge._invoke_target


@dataclass(frozen=True)
class _Key:
    """A schedule or rule, of this creation: one made again under the same name begins again."""

    kind: str
    account: str
    region: str
    name: str
    created: float
    expression: str


class _Clock:
    """The time that schedules see: the machine's, moved by `advance`."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.last_fired: dict[_Key, float] = {}
        self.lock = threading.Lock()

    def now(self) -> float:
        return time.time() + self.ahead


_clock = _Clock()


def install(_options: LocalCloudOptions) -> None:
    """Make schedules and rules run as described above."""
    permissions.install()
    _clock.ahead = 0.0
    _clock.last_fired.clear()
    scheduler._SCHEDULE_TICK_INTERVAL = TICK_SECONDS
    scheduler._tick_schedules = tick_schedules
    eventbridge._SCHEDULER_TICK_INTERVAL = TICK_SECONDS
    eventbridge._tick_scheduled_rules = tick_rules
    eventbridge._invoke_target = _invoke_allowed_target
    eventbridge._dispatch_to_lambda = _invoke_function


def advance(seconds: float) -> float:
    """Move the clock of schedules and rotations forward; what became due happens at the next tick, once. Returns its
    time."""
    with _clock.lock:
        _clock.ahead += seconds
    return _clock.now()


def now() -> float:
    """The time that schedules and rotations see, s since the epoch."""
    return _clock.now()


def fire_all() -> list[str]:
    """Fire every enabled schedule and scheduled rule now; return their names. Their intervals begin again."""
    fired = []
    for key, record in _enabled("schedule", scheduler._schedules):
        _begin_again(key)
        _fire_schedule(key, record)
        fired.append(str(record["Name"]))
    for key, record in _enabled("rule", eventbridge._rules):
        if record.get("ScheduleExpression"):
            _begin_again(key)
            _fire_rule(key, record)
            fired.append(str(record["Name"]))
    return fired


def tick_schedules() -> None:
    """Fire the schedules of EventBridge Scheduler that are due."""
    now = _clock.now()
    for key, record in _enabled("schedule", scheduler._schedules):
        end = scheduler._to_epoch(record.get("EndDate"))
        start = scheduler._to_epoch(record.get("StartDate"))
        if end is not None and now > end:
            if record.get("ActionAfterCompletion") == "DELETE":
                _remove(key, record)
            continue
        if start is not None and now < start:
            continue
        once = scheduler._at_time_epoch(key.expression)
        # A rate without a start date fires as soon as it exists (Scheduler user guide, "Schedule types").
        due = now >= once if once is not None else _due(key, now, anchor=None)
        if due and (once is None or key not in _clock.last_fired):
            _begin_again(key)
            _fire_schedule(key, record)
            if once is not None and record.get("ActionAfterCompletion") == "DELETE":
                _remove(key, record)


def tick_rules() -> None:
    """Fire the scheduled rules of EventBridge that are due; a rate's countdown begins when the rule is created."""
    now = _clock.now()
    for key, record in _enabled("rule", eventbridge._rules):
        if key.expression and _due(key, now, anchor=key.created):
            _begin_again(key)
            _fire_rule(key, record)


def _enabled(kind: str, store: Any) -> list[tuple[_Key, dict[str, Any]]]:
    found = []
    for (account, region, name), record in list(store._data.items()):
        if record.get("State") != "ENABLED":
            continue
        created = float(record.get("CreationDate" if kind == "schedule" else "CreationTime") or 0)
        expression = str(record.get("ScheduleExpression") or "")
        found.append((_Key(kind, account, region, name, created, expression), record))
    return found


def _due(key: _Key, now: float, anchor: float | None) -> bool:
    """Whether a rate or cron expression is due; a rate fires at once when it has no anchor."""
    with _clock.lock:
        last = _clock.last_fired.get(key, anchor)
    interval = eventbridge._parse_rate_seconds(key.expression)
    if interval is not None:
        return last is None or now - last >= interval
    fields = eventbridge._parse_cron_fields(key.expression)
    if fields is None:
        return False
    following = eventbridge._cron_next_fire(fields, datetime.fromtimestamp(key.created if last is None else last, UTC))
    return following is not None and datetime.fromtimestamp(now, UTC) >= following


def _begin_again(key: _Key) -> None:
    with _clock.lock:
        _clock.last_fired[key] = _clock.now()


def _remove(key: _Key, record: Mapping[str, Any]) -> None:
    with request_scope(key.account, key.region):
        scheduler._delete_schedule(record["Name"], {"groupName": record["GroupName"]})


def _event(kind: str, arn: str, **more: Any) -> dict[str, Any]:
    return {
        "EventId": str(uuid.uuid4()),
        "Source": f"aws.{kind}",
        "DetailType": "Scheduled Event",
        "Detail": "{}",
        "Time": time.time(),
        "Resources": [arn],
        "Account": get_account_id(),
        "Region": get_region(),
        **more,
    }


def _fire_schedule(key: _Key, record: Mapping[str, Any]) -> None:
    target = record.get("Target") or {}
    with request_scope(key.account, key.region):
        cloudwatch.record_metric(
            "AWS/Scheduler", "InvocationAttemptCount", 1, "Count", {"ScheduleGroup": record["GroupName"]}
        )
        if denial := _schedule_denial(record, target):
            _logger.warning("The schedule %s was not delivered: %s", record["Name"], denial)
            cloudwatch.record_metric(
                "AWS/Scheduler", "TargetErrorCount", 1, "Count", {"ScheduleGroup": record["GroupName"]}
            )
            return
        target = {**target, "Input": _with_context(str(target.get("Input") or ""), record)}
        if str(target["Arn"]).startswith(_UNIVERSAL):
            _apart(_call_sdk, record, target)
            return
        arguments = (target, _event("scheduler", str(record["Arn"])), dict(record))
        _apart(_invoke_rule_target, *arguments)


def _with_context(text: str, record: Mapping[str, Any]) -> str:
    """A payload with Scheduler's context attributes replaced; the time is when the schedule fires, to the second."""
    for name, value in (
        ("schedule-arn", str(record["Arn"])),
        ("scheduled-time", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(_clock.now()))),
        ("execution-id", uuid.uuid4().hex[:16]),
        ("attempt-number", "1"),
    ):
        text = text.replace(f"<aws.scheduler.{name}>", value)
    return text


def _call_sdk(record: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    service, action = str(target["Arn"]).removeprefix(_UNIVERSAL).split(":")
    try:
        state_machines.call_sdk(_session(record, target), service, action, json.loads(target.get("Input") or "{}"))
    except stepfunctions._ExecutionError as error:
        _logger.warning("The schedule %s was not delivered: %s", record["Name"], error.cause)
        cloudwatch.record_metric(
            "AWS/Scheduler", "TargetErrorCount", 1, "Count", {"ScheduleGroup": record["GroupName"]}
        )


def _session(record: Mapping[str, Any], target: Mapping[str, Any]) -> RoleSession:
    return RoleSession(str(target.get("RoleArn", "")), str(record["Name"])[:64])


def _schedule_denial(record: Mapping[str, Any], target: Mapping[str, Any]) -> str | None:
    arn, role = str(target.get("Arn", "")), str(target.get("RoleArn", ""))
    service = arn.split(":")[2] if arn.count(":") >= 5 else ""
    universal = arn.startswith(_UNIVERSAL)
    if service not in _ACTIONS and not universal:
        return f"{arn} is not a target that the local cloud supports."
    group = str(record["Arn"]).replace(":schedule/", ":schedule-group/").rpartition("/")[0]
    # Confused-deputy conditions name the schedule's group or the schedule.
    if not any(permissions.role_trusts(role, SCHEDULER, source) for source in (group, str(record["Arn"]))):
        return f"{SCHEDULER} is not authorized to assume {role}."
    # A universal target's call is authorised as the request that it becomes.
    return (
        None
        if universal
        else permissions.role_denial(_session(record, target), _ACTIONS[service], arn, service=service)
    )


def _fire_rule(key: _Key, record: Mapping[str, Any]) -> None:
    with request_scope(key.account, key.region):
        event = _event("events", str(record["Arn"]), EventBusName=record.get("EventBusName", "default"))
        for target in eventbridge._targets._data.get((key.account, key.region, key.name), []):
            _invoke_allowed_target(target, event, record)


def _invoke_allowed_target(
    target: Mapping[str, Any], event: dict[str, Any], rule: Mapping[str, Any], view: Any = None
) -> None:
    """Deliver a rule's event to a target, if the target lets EventBridge (or the target's role) do so."""
    if denial := _rule_denial(target, rule):
        _logger.warning("The rule %s was not delivered: %s", rule.get("Name"), denial)
        cloudwatch.record_metric("AWS/Events", "FailedInvocations", 1, "Count", {"RuleName": str(rule.get("Name"))})
        return
    _apart(_invoke_rule_target, target, event, rule, view)


def _rule_denial(target: Mapping[str, Any], rule: Mapping[str, Any]) -> str | None:
    arn, role = str(target.get("Arn", "")), str(target.get("RoleArn", ""))
    service = arn.split(":")[2] if arn.count(":") >= 5 else ""
    action, source = _ACTIONS.get(service), str(rule.get("Arn", ""))
    if action is None:
        return None
    if service in ("states", "events"):
        if not permissions.role_trusts(role, EVENTS, source):
            return f"{EVENTS} is not authorized to assume {role or 'no role'}."
        return permissions.role_denial(RoleSession(role, "events"), action, arn, service=service)
    lookup = {
        "lambda": lambda_svc.function_policy_for_arn,
        "sns": sns.topic_policy_for_arn,
        "sqs": sqs.queue_policy_for_arn,
    }[service]
    found = lookup(arn)
    return permissions.service_denial(EVENTS, action, arn, found[0] if found else None, source)


def _invoke_function(arn: str, payload: str) -> None:
    """Invoke a function as an event source does, with AWS's attempts and dead letters."""
    if not functions_runtime.invoke_asynchronously(arn, json.loads(payload)):
        _logger.warning("The function %s does not exist", arn)


def _apart(call: Any, *arguments: Any) -> None:
    """Run it in a thread of its own, in this account and region: targets do not wait for each other."""
    context = contextvars.copy_context()
    threading.Thread(target=context.run, args=(call, *arguments), daemon=True).start()
