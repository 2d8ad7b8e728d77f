"""A failover that an operator orders takes the lease as a witness does, and starts one execution."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import boto3
import pytest
from moto import mock_aws

from deployment.account import Account
from deployment.operations import Operations
from deployment.problem import Problem
from recovery import incident, pause, roles
from recovery.table import RecoveryTable
from stacks.names import Names

NAMES = Names("unit")
ENDS = json.dumps({"StartAt": "End", "States": {"End": {"Type": "Succeed"}}})


@pytest.fixture(autouse=True)
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    with mock_aws():
        yield


def deployed(*machines: str) -> RecoveryTable:
    """The recovery table with roles, and these state machines."""
    states = boto3.client("stepfunctions", region_name="eu-central-2")
    for name in machines:
        states.create_state_machine(name=name, definition=ENDS, roleArn="arn:aws:iam::123456789012:role/machine")
    table = Operations(Account({}), NAMES.suffix, print).table
    boto3.client("dynamodb", region_name="eu-central-2").create_table(
        TableName=NAMES.recovery_table,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    roles.create(table, *NAMES.members, time.time())
    return table


def operations() -> Operations:
    return Operations(Account({}), NAMES.suffix, print)


def started() -> list[str]:
    states = boto3.client("stepfunctions", region_name="eu-central-2")
    arn = operations().machine(NAMES.state_machine)
    return [each["name"] for each in states.list_executions(stateMachineArn=arn)["executions"]]


BOTH = (NAMES.state_machine, NAMES.switchover_machine)


def test_it_takes_the_lease_in_the_operators_name_and_counts_the_grace_from_the_first_failure() -> None:
    table = deployed(*BOTH)
    since = time.time() - 12
    answer = operations().failover(since)
    lease = incident.read_lease(table)
    assert lease is not None
    assert (lease.witness, lease.epoch, answer.epoch) == (incident.OPERATOR, 1, 1)
    assert answer.execution_arn.endswith(f":{lease.execution_name}")
    states = boto3.client("stepfunctions", region_name="eu-central-2")
    given = json.loads(states.describe_execution(executionArn=answer.execution_arn)["input"])
    assert given["since"].startswith(time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since)))


def test_ordered_twice_it_is_one_execution() -> None:
    deployed(*BOTH)
    first = operations().failover(None)
    assert operations().failover(None) == first
    assert len(started()) == 1


def test_killed_between_lease_and_start_the_same_command_goes_on() -> None:
    table = deployed(*BOTH)
    left = incident.take_lease(table, 1, incident.OPERATOR, time.time())
    assert left is not None
    assert operations().failover(None).execution_arn.endswith(left.execution_name)
    assert started() == [left.execution_name]


def test_in_a_pause_nothing_is_started_and_nothing_is_taken() -> None:
    table = deployed(*BOTH)
    pause.begin(table, "patching", 60, "kim", time.time())
    with pytest.raises(Problem, match=r"Nothing was started: the system is paused .*patching.*; resume first"):
        operations().failover(None)
    assert incident.read_lease(table) is None
    assert started() == []


def test_while_a_switchover_runs_nothing_is_started() -> None:
    table = deployed(*BOTH)
    lease = incident.take_lease_for(table, 1, "planned", time.time())
    assert lease is not None
    states = boto3.client("stepfunctions", region_name="eu-central-2")
    states.start_execution(stateMachineArn=operations().machine(NAMES.switchover_machine), name=lease.execution_name)
    with pytest.raises(Problem, match="the switchover planned is under way"):
        operations().failover(None)
    assert started() == []


def test_without_an_environment_or_its_machine_it_says_so_and_takes_nothing() -> None:
    with pytest.raises(Problem, match="There is no environment unit: deploy it first"):
        operations().failover(None)
    table = deployed()
    with pytest.raises(Problem, match="There is no state machine citizens-failover-unit"):
        operations().failover(None)
    assert incident.read_lease(table) is None
