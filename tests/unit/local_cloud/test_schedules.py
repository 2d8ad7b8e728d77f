from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ministack.services import ec2, eventbridge, lambda_svc, scheduler, sns, sqs

from local_cloud import schedules
from tests.unit.local_cloud.emulated_account import ACCOUNT, REGION, Account, emulated_account, eventually

NOTING = """
import json, os
def handler(event, context):
    with open(os.environ["NOTE"], "a") as note:
        note.write(json.dumps(event) + "\\n")
"""


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulated_account(tmp_path) as emulated:
        yield emulated


@pytest.fixture
def noting(account: Account) -> str:
    """A function that notes every event it gets; its ARN."""
    variables = {"NOTE": str(account.options.state / "events")}
    return account.function("noting", NOTING, Environment={"Variables": variables})


def noted(account: Account) -> list[dict[str, Any]]:
    note = account.options.state / "events"
    return [json.loads(line) for line in note.read_text().splitlines()] if note.exists() else []


def schedule(account: Account, target: str, expression: str = "rate(1 minute)", **more: Any) -> None:
    role = more.pop("role", None) or account.role("caller", "lambda:InvokeFunction", service=schedules.SCHEDULER)
    target_of = {"Arn": target, "RoleArn": role, "Input": '{"from": "schedule"}'}
    request = {"ScheduleExpression": expression, "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": target_of, **more}
    status, _, body = scheduler._create_schedule("every", request)
    assert status == 200, body


def rule(name: str, target: str, **more: Any) -> str:
    status, _, body = eventbridge._put_rule({"Name": name, **more})
    assert status == 200, body
    eventbridge._put_targets({"Rule": name, "Targets": [{"Id": "t", "Arn": target}]})
    return str(json.loads(body)["RuleArn"])


def allow(function: str, source: str) -> None:
    permission = {"StatementId": "s", "Principal": schedules.EVENTS, "Action": "lambda:InvokeFunction"}
    assert lambda_svc._add_permission(function, {**permission, "SourceArn": source})[0] == 201


def test_a_rate_fires_as_soon_as_it_exists_and_then_after_every_interval(account: Account, noting: str) -> None:
    schedule(account, noting)
    schedules.tick_schedules()
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 1)
    schedules.advance(59)
    schedules.tick_schedules()
    assert len(noted(account)) == 1
    schedules.advance(1)
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 2)
    assert noted(account)[0] == {"from": "schedule"}


def test_a_payload_may_name_the_schedule_its_time_and_the_attempt(account: Account, noting: str) -> None:
    words = {name: f"<aws.scheduler.{name}>" for name in ("schedule-arn", "scheduled-time", "attempt-number")}
    role = account.role("caller", "lambda:InvokeFunction", service=schedules.SCHEDULER)
    schedule(account, noting, Target={"Arn": noting, "RoleArn": role, "Input": json.dumps(words)})
    day = 86_400
    schedules.advance(40 * day)
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 1)
    (event,) = noted(account)
    assert event["schedule-arn"].endswith("/every")
    assert event["attempt-number"] == "1"
    ahead = datetime.fromisoformat(event["scheduled-time"]) - datetime.now(UTC)
    assert timedelta(days=40) - timedelta(minutes=1) < ahead <= timedelta(days=40), "the moved clock's time"


def test_a_deleted_schedule_stops_and_one_made_again_begins_again(account: Account, noting: str) -> None:
    schedule(account, noting)
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 1)
    scheduler._delete_schedule("every", {})
    schedules.advance(3600)
    schedules.tick_schedules()
    assert schedules.fire_all() == []
    schedule(account, noting)
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 2)


@pytest.mark.parametrize("more", [{"State": "DISABLED"}, {"StartDate": 9e9}, {"EndDate": 1}, {"expression": "odd"}])
def test_a_schedule_that_is_not_due_does_not_fire(account: Account, noting: str, more: dict[str, Any]) -> None:
    schedule(account, noting, **more)
    schedules.tick_schedules()
    assert account.metric("AWS/Scheduler", "InvocationAttemptCount", ScheduleGroup="default") == _attempts(account)


def _attempts(account: Account) -> float:
    schedules.tick_schedules()
    return account.metric("AWS/Scheduler", "InvocationAttemptCount", ScheduleGroup="default")


def test_a_completed_schedule_is_deleted_when_it_asks_for_it(account: Account, noting: str) -> None:
    schedule(account, noting, EndDate=1, ActionAfterCompletion="DELETE")
    schedules.tick_schedules()
    assert not scheduler._schedules
    schedule(account, noting, "at(2020-01-01T00:00:00)", ActionAfterCompletion="DELETE")
    schedules.tick_schedules()
    assert not scheduler._schedules
    eventually(lambda: len(noted(account)) == 1)


def test_a_schedule_for_one_moment_fires_once(account: Account, noting: str) -> None:
    schedule(account, noting, "at(2020-01-01T00:00:00)")
    schedules.tick_schedules()
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 1)
    schedules.advance(3600)
    schedules.tick_schedules()
    assert len(noted(account)) == 1


def test_a_cron_schedule_fires_at_its_next_occurrence(account: Account, noting: str) -> None:
    schedule(account, noting, "cron(0 0 * * ? *)")
    schedules.tick_schedules()
    assert noted(account) == []
    schedules.advance(24 * 3600)
    schedules.tick_schedules()
    eventually(lambda: len(noted(account)) == 1)


@pytest.mark.parametrize(
    ("actions", "service"),
    [(["sns:Publish"], schedules.SCHEDULER), (["lambda:InvokeFunction"], "lambda.amazonaws.com")],
)
def test_the_targets_role_must_trust_the_scheduler_and_may_invoke(
    account: Account, noting: str, actions: list[str], service: str
) -> None:
    failed = account.metric("AWS/Scheduler", "TargetErrorCount", ScheduleGroup="default")
    schedule(account, noting, role=account.role("caller", *actions, service=service))
    schedules.tick_schedules()
    assert account.metric("AWS/Scheduler", "TargetErrorCount", ScheduleGroup="default") == failed + 1


def test_a_target_of_another_kind_is_not_delivered(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    schedule(account, f"arn:aws:glue:{REGION}:{ACCOUNT}:job/a")
    schedules.tick_schedules()
    assert "is not a target that the local cloud supports" in caplog.text


def test_targets_do_not_wait_for_each_other(account: Account, noting: str) -> None:
    slow = account.function("slow", "import time\ndef handler(event, context):\n    time.sleep(3)\n")
    schedule(account, slow)
    rule_arn = rule("scheduled", noting, ScheduleExpression="rate(1 minute)")
    allow("noting", rule_arn)
    assert sorted(schedules.fire_all()) == ["every", "scheduled"]
    eventually(lambda: len(noted(account)) == 1, seconds=2)


def test_a_scheduled_rule_counts_from_its_creation(account: Account, noting: str) -> None:
    allow("noting", rule("scheduled", noting, ScheduleExpression="rate(1 minute)"))
    schedules.tick_rules()
    assert noted(account) == []
    schedules.advance(60)
    schedules.tick_rules()
    (event,) = eventually(lambda: noted(account))
    assert event["detail-type"] == "Scheduled Event"


def put_event() -> None:
    entry = {"Source": "test", "DetailType": "t", "Detail": "{}"}
    eventbridge._put_events({"Entries": [entry]})


def test_a_rule_reaches_a_function_only_through_the_functions_policy(account: Account, noting: str) -> None:
    arn = rule("matching", noting, EventPattern='{"source": ["test"]}')
    put_event()
    assert account.metric("AWS/Events", "FailedInvocations", RuleName="matching") == 1
    allow("noting", arn)
    put_event()
    eventually(lambda: len(noted(account)) == 1)


def test_a_rule_reaches_a_topic_only_through_the_topics_policy(account: Account) -> None:
    topic = f"arn:aws:sns:{REGION}:{ACCOUNT}:alerts"
    sns._create_topic({"Name": ["alerts"]})
    rule("to-topic", topic, EventPattern='{"source": ["test"]}')
    put_event()
    assert account.metric("AWS/Events", "FailedInvocations", RuleName="to-topic") == 1
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": schedules.EVENTS},
        "Action": "sns:Publish",
        "Resource": topic,
    }
    sns._topics[topic]["attributes"]["Policy"] = json.dumps({"Statement": statement})
    assert schedules._rule_denial({"Arn": topic}, {"Arn": "rule"}) is None


@pytest.mark.parametrize(("trusted", "denied"), [("lambda.amazonaws.com", True), (schedules.EVENTS, False)])
def test_a_rule_starts_a_state_machine_only_with_a_role(account: Account, trusted: str, denied: bool) -> None:
    role = account.role("starter", "states:StartExecution", service=trusted)
    target = {"Arn": f"arn:aws:states:{REGION}:{ACCOUNT}:stateMachine:m", "RoleArn": role}
    assert bool(schedules._rule_denial(target, {"Arn": "rule"})) == denied


def test_what_a_queue_or_an_absent_function_says_counts(account: Account, caplog: pytest.LogCaptureFixture) -> None:
    sqs._act_create_queue({"QueueName": "events"}, "")
    assert schedules._rule_denial({"Arn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:events"}, {"Arn": "rule"})
    assert schedules._rule_denial({"Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:none"}, {"Arn": "rule"})
    assert schedules._rule_denial({"Arn": f"arn:aws:glue:{REGION}:{ACCOUNT}:job/a"}, {"Arn": "rule"}) is None
    schedules._invoke_function(f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:none", "{}")
    assert "does not exist" in caplog.text


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        (scheduler, "_to_epoch", ["value"]),
        (scheduler, "_at_time_epoch", ["expr"]),
        (scheduler, "_delete_schedule", ["name", "query"]),
        (eventbridge, "_parse_rate_seconds", ["expr"]),
        (eventbridge, "_parse_cron_fields", ["expr"]),
        (eventbridge, "_cron_next_fire", ["fields", "after_dt"]),
        (schedules, "_invoke_rule_target", ["target", "event", "rule", "view"]),
    ],
)
def test_the_emulators_hooks_for_schedules_are_as_expected(module: Any, name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(module, name)).parameters) == parameters


def test_the_emulators_loops_tick_by_the_names_that_are_replaced(account: Account) -> None:
    for module, loop, tick, pause in (
        (scheduler, "_ticker_loop", "_tick_schedules", "_SCHEDULE_TICK_INTERVAL"),
        (eventbridge, "_scheduler_loop", "_tick_scheduled_rules", "_SCHEDULER_TICK_INTERVAL"),
    ):
        assert {tick, pause} <= set(getattr(module, loop).__code__.co_names)
        assert getattr(module, pause) == schedules.TICK_SECONDS


def closing(account: Account, group_id: str, role: str) -> None:
    rule = {"IpProtocol": "-1", "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}
    target = {
        "Arn": "arn:aws:scheduler:::aws-sdk:ec2:revokeSecurityGroupEgress",
        "RoleArn": role,
        "Input": json.dumps({"GroupId": group_id, "IpPermissions": [rule]}),
    }
    request = {"ScheduleExpression": "rate(1 day)", "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": target}
    assert scheduler._create_schedule("close", request)[0] == 200


def default_group() -> dict[str, Any]:
    before = set(ec2._security_groups)
    assert ec2._create_vpc({"CidrBlock": ["10.9.0.0/16"]})[0] == 200
    (created,) = set(ec2._security_groups) - before
    group: dict[str, Any] = ec2._security_groups[created]
    assert group["IpPermissionsEgress"]
    return group


def test_a_schedule_may_call_any_service_as_its_role_may(account: Account) -> None:
    group = default_group()
    closing(
        account,
        group["GroupId"],
        account.role("closer", "ec2:RevokeSecurityGroupEgress", service=schedules.SCHEDULER),
    )
    schedules.tick_schedules()
    eventually(lambda: not group["IpPermissionsEgress"])


def test_a_schedule_whose_role_may_not_make_the_call_changes_nothing(account: Account) -> None:
    group = default_group()
    closing(account, group["GroupId"], account.role("other", "ec2:DescribeVpcs", service=schedules.SCHEDULER))
    errors = account.metric("AWS/Scheduler", "TargetErrorCount", ScheduleGroup="default")
    schedules.tick_schedules()
    eventually(lambda: account.metric("AWS/Scheduler", "TargetErrorCount", ScheduleGroup="default") == errors + 1)
    assert group["IpPermissionsEgress"]
