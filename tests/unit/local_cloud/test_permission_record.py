from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ministack.services import lambda_svc, sqs

from local_cloud import permission_record, permissions
from local_cloud.permission_record import Entry, PermissionRecord
from local_cloud.permissions import RoleSession
from tests.unit.local_cloud.emulated_account import ACCOUNT, REGION, Account, emulated_account
from tests.unit.local_cloud.running_cloud import RunningCloud

QUEUE = f"arn:aws:sqs:{REGION}:{ACCOUNT}:letters"


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulated_account(tmp_path) as emulated:
        permission_record.install()
        yield emulated


def recorded(role: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = permission_record.record.shown()["roles"].get(role, [])
    return found


def test_what_a_role_may_is_recorded_with_the_statement_that_allowed_it(account: Account) -> None:
    session = RoleSession(account.role("worker", "sqs:SendMessage", resource=f"{QUEUE}*"), "s")
    assert permissions.role_denial(session, "sqs:SendMessage", QUEUE) is None
    assert permissions.role_denial(session, "sqs:SendMessage", QUEUE) is None
    assert recorded("worker") == [
        {
            "action": "sqs:SendMessage",
            "resource": f"{QUEUE}*",
            "allowed": True,
            "policy": "inline",
            "statement": 0,
            "count": 2,
        }
    ]


def test_what_a_role_may_not_is_recorded_with_the_resource(account: Account) -> None:
    session = RoleSession(account.role("worker", "sqs:SendMessage", resource=QUEUE), "s")
    assert permissions.role_denial(session, "sqs:DeleteQueue", QUEUE) is not None
    (entry,) = recorded("worker")
    assert (entry["action"], entry["resource"], entry["allowed"], entry["statement"]) == (
        "sqs:DeleteQueue",
        QUEUE,
        False,
        permission_record.NO_STATEMENT,
    )


@pytest.mark.parametrize(("effect", "granted", "allowed"), [("Deny", "sqs:SendMessage", False), ("Allow", "x:Y", True)])
def test_a_resources_policy_that_overrules_the_role_is_recorded_once(
    account: Account, effect: str, granted: str, allowed: bool
) -> None:
    sqs._act_create_queue({"QueueName": "letters"}, "")
    role = account.role("worker", granted)
    statement = {"Effect": effect, "Principal": {"AWS": role}, "Action": "sqs:SendMessage", "Resource": QUEUE}
    sqs._queue_by_arn(QUEUE)["attributes"]["Policy"] = json.dumps({"Statement": [statement]})
    denial = permissions.role_denial(RoleSession(role, "s"), "sqs:SendMessage", QUEUE, service="sqs")
    assert (denial is None) == allowed
    (entry,) = recorded("worker")
    assert (entry["policy"], entry["allowed"], entry["count"]) == (permission_record.RESOURCE_POLICY, allowed, 1)


def test_the_record_does_not_grow_without_bounds() -> None:
    record = PermissionRecord(roles=2, entries=3)
    for number in range(10):
        record.add("first", Entry("logs:PutLogEvents", f"stream-{number}", False))
        record.add(f"role-{number}", Entry("sns:Publish", "topic", True))
    shown = record.shown()
    assert {role: len(entries) for role, entries in shown["roles"].items()} == {"first": 3, "role-0": 1}
    assert shown["dropped"] == 7 + 9


def test_nothing_is_lost_when_many_threads_record_at_once() -> None:
    record = PermissionRecord()
    entry = Entry("sns:Publish", "topic", True)

    def ask() -> None:
        for _ in range(500):
            record.add("role", entry)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert record.shown()["roles"]["role"][0]["count"] == 4000


def test_a_function_that_may_not_reach_its_dead_letter_queue_loses_the_event(account: Account) -> None:
    sqs._act_create_queue({"QueueName": "letters"}, "")
    account.function("denied", "def handler(event, context):\n    return 1\n", DeadLetterConfig={"TargetArn": QUEUE})
    lambda_svc._route_async_failure(QUEUE, "denied", {"n": 1}, {"body": {}})
    assert not sqs._queue_by_arn(QUEUE)["messages"]
    assert account.metric("AWS/Lambda", "DeadLetterErrors", FunctionName="denied") == 1
    assert [entry["action"] for entry in recorded("denied-role") if not entry["allowed"]] == ["sqs:SendMessage"]


def test_the_control_api_shows_the_record_of_requests_over_http(cloud: RunningCloud) -> None:
    status, answer = cloud.control("GET", "/permissions")
    assert status == 200
    assert answer.keys() == {"dropped", "roles"}
