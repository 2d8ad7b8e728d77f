"""Calls that go wrong on purpose, as the caller sees them: a function over HTTP, a state machine in its tasks."""

from __future__ import annotations

import inspect
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ministack.services import dynamodb, stepfunctions

from local_cloud import api_faults
from local_cloud.api_faults import ApiFault, ApiFaults
from tests.unit.local_cloud.emulated_account import LOGS, Account, emulated_account
from tests.unit.local_cloud.running_cloud import RunningCloud
from tests.unit.local_cloud.test_state_machines import run, task

WRITER = """
import boto3
from botocore.config import Config
table = boto3.client("dynamodb", config=Config(retries={"total_max_attempts": ATTEMPTS, "mode": "standard"}))
def handler(event, context):
    try:
        table.update_item(TableName="counted", Key={"id": {"S": event["id"]}}, UpdateExpression="ADD n :one",
                          ExpressionAttributeValues={":one": {"N": "1"}})
    except Exception as error:
        answer = getattr(error, "response", None) or {}
        return type(error).__name__ + " " + answer.get("Error", {}).get("Code", "")
    return "written"
"""


@pytest.fixture(scope="module")
def writers(cloud: RunningCloud) -> None:
    """A table, and a function that writes to it with one attempt, another with two."""
    cloud.client("dynamodb").create_table(
        TableName="counted",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    for name, attempts in (("impatient", 1), ("patient", 2)):
        cloud.function(name, WRITER.replace("ATTEMPTS", str(attempts)), "dynamodb:UpdateItem", *LOGS)


@pytest.fixture
def faulty(cloud: RunningCloud, writers: None) -> Iterator[RunningCloud]:
    yield cloud
    assert cloud.control("DELETE", "/api-faults") == (200, {"faults": []})


def strike(cloud: RunningCloud, **fault: Any) -> None:
    status, answer = cloud.control("POST", "/api-faults", fault)
    assert status == 200, answer


def write(cloud: RunningCloud, function: str) -> tuple[Any, int]:
    """What the function says, and how often its write was executed."""
    identity = uuid.uuid4().hex
    answer = cloud.client("lambda").invoke(FunctionName=function, Payload=json.dumps({"id": identity}))
    found = cloud.client("dynamodb").get_item(TableName="counted", Key={"id": {"S": identity}}).get("Item")
    body = json.loads(answer["Payload"].read())
    return (body["errorType"] if "FunctionError" in answer else body), int(found["n"]["N"]) if found else 0


def test_a_throttled_call_is_not_executed_and_the_sdk_knows_it_for_one(faulty: RunningCloud) -> None:
    strike(faulty, kind="throttle", role="impatient-role", action="dynamodb:*")
    assert write(faulty, "impatient") == ("ThrottlingException ThrottlingException", 0)
    assert write(faulty, "impatient") == ("written", 1)
    strike(faulty, kind="throttle", role="patient-role")
    assert write(faulty, "patient") == ("written", 1), "the second attempt got through"


def test_a_lost_answer_is_one_of_an_executed_call(faulty: RunningCloud) -> None:
    strike(faulty, kind="lose_answer", role="impatient-role", action="dynamodb:UpdateItem")
    said, executed = write(faulty, "impatient")
    assert executed == 1
    assert said == "ConnectionClosedError "
    strike(faulty, kind="lose_answer", role="patient-role")
    assert write(faulty, "patient") == ("written", 2), "the attempt after the lost answer executes it again"


def test_a_function_that_is_killed_by_its_call_has_made_it_and_knows_nothing(faulty: RunningCloud) -> None:
    strike(faulty, kind="kill", role="impatient-role", resource="*table/counted")
    assert write(faulty, "impatient") == ("Runtime.ExitError", 1)
    assert write(faulty, "impatient") == ("written", 1)


def test_only_the_calls_that_were_meant_are_struck_and_they_are_counted(faulty: RunningCloud) -> None:
    strike(faulty, kind="throttle", role="impatient-role", skip=1, times=2)
    assert [write(faulty, "impatient")[1] for _ in range(4)] == [1, 0, 0, 1]
    assert write(faulty, "patient") == ("written", 1)
    (shown,) = faulty.control("GET", "/api-faults")[1]["faults"]
    assert (shown["matched"], shown["struck"]) == (4, 2)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({}, "kind is one of throttle, lose_answer, kill"),
        ({"kind": "throttle", "rolle": "x"}, "rolle is no part"),
        ({"kind": "throttle", "role": 1}, "role is a pattern"),
        ({"kind": "throttle", "times": -1}, "times is a whole number"),
        ({"kind": "throttle", "times": True}, "times is a whole number"),
        ({"kind": "throttle", "skip": "1"}, "skip is a whole number"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_with_a_sentence(
    cloud: RunningCloud, fault: dict[str, Any], said: str
) -> None:
    status, answer = cloud.control("POST", "/api-faults", fault)
    assert status == 400
    assert said in answer["error"]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with emulated_account(tmp_path) as emulated:
        api_faults.faults.clear()
        yield emulated
        api_faults.faults.clear()
        stepfunctions._state_machines.clear()
        stepfunctions._executions.clear()
        dynamodb._tables.clear()


COUNTING = """
import time
calls = 0
def handler(event, context):
    global calls
    calls += 1
    time.sleep(event.get("seconds", 0))
    return calls
"""


def invoking(function: str, seconds: float = 0) -> dict[str, Any]:
    return task("lambda:invoke", {"FunctionName": function, "Payload": {"seconds": seconds}})


@pytest.mark.parametrize(
    ("kind", "error", "calls"),
    [("throttle", "Lambda.TooManyRequestsException", 0), ("lose_answer", "Lambda.SdkClientException", 1)],
)
def test_a_task_that_invokes_a_function_sees_the_errors_of_step_functions(
    account: Account, kind: api_faults.Kind, error: str, calls: int
) -> None:
    arn = account.function("counting", COUNTING)
    role = account.role("machine", "lambda:InvokeFunction", service="states.amazonaws.com")
    api_faults.faults.begin(ApiFault(kind, role="machine", action="lambda:InvokeFunction", resource="*:counting"))
    assert run(role, invoking(arn))["error"] == error
    assert account.invoke("counting") == calls + 1
    assert run(role, invoking(arn))["status"] == "SUCCEEDED"


def test_a_function_is_killed_while_a_task_waits_for_it(account: Account) -> None:
    arn = account.function("counting", COUNTING)
    role = account.role("machine", "lambda:InvokeFunction", service="states.amazonaws.com")
    account.invoke("counting")
    api_faults.faults.begin(ApiFault("kill", role="machine", after_ms=200))
    assert run(role, invoking(arn, 3))["error"] == "Runtime.ExitError"
    assert account.invoke("counting") == 1, "a new process"


@pytest.mark.parametrize(
    ("resource", "action", "throttled", "lost"),
    [
        ("dynamodb:putItem", "dynamodb:PutItem", "DynamoDB.ProvisionedThroughputExceededException", "DynamoDB"),
        ("aws-sdk:dynamodb:putItem", "dynamodb:PutItem", "DynamoDb.DynamoDbException", "DynamoDb"),
    ],
)
def test_a_task_that_calls_a_service_sees_its_errors(
    account: Account, resource: str, action: str, throttled: str, lost: str
) -> None:
    dynamodb._create_table(
        {
            "TableName": "kept",
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "BillingMode": "PAY_PER_REQUEST",
        }
    )
    role = account.role("machine", "dynamodb:PutItem", service="states.amazonaws.com")
    put = task(resource, {"TableName": "kept", "Item": {"id": {"S": "1"}}})
    api_faults.faults.begin(ApiFault("throttle", action=action))
    api_faults.faults.begin(ApiFault("kill", action=action))
    api_faults.faults.begin(ApiFault("lose_answer", action=action))
    assert run(role, put)["error"] == throttled
    assert not dynamodb._tables["kept"]["items"]
    assert run(role, put)["error"] == f"{lost}.SdkClientException", "nothing there is killed"
    assert dynamodb._tables["kept"]["items"]
    assert run(role, put)["status"] == "SUCCEEDED"


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 12))
def test_a_fault_strikes_as_often_as_it_says_after_those_it_spares(skip: int, times: int, calls: int) -> None:
    faults = ApiFaults()
    faults.begin(ApiFault("throttle", skip=skip, times=times))
    struck = [faults.strike("r", "s:A", "*") is not None for _ in range(calls)]
    assert struck == [skip <= n < skip + times for n in range(calls)]


def test_the_emulators_hooks_for_faults_are_as_expected() -> None:
    assert list(inspect.signature(api_faults._dispatch).parameters) == [
        *("method", "path", "headers", "body", "query_params", "request_id"),
    ]
    assert inspect.iscoroutinefunction(api_faults._dispatch)
